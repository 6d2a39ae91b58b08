"""Files made by the code of a6f206f, before the rooms: `tests/files`, by `tests/files/make.py`. They load and go on."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from vaezoo import data, zoo
from vaezoo.models import MODELS
from vaezoo.zoo import config, training

FILES = pathlib.Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text())
CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # other processors round otherwise


def test_a_saved_model_is_the_same_and_trains_on():
    images = np.random.default_rng(0).random((12, 4, 4, 1), dtype="float32")
    model = keras.models.load_model(FILES / "model.keras")
    np.testing.assert_allclose(model.encode(images), EXPECTED["codes"], **CLOSE)
    assert model.evaluate(images, verbose=0, return_dict=True)["elbo"] == pytest.approx(EXPECTED["elbo"], rel=1e-4)
    model.fit(images, batch_size=4, shuffle=False, verbose=0)  # on the optimizer's state, with the same noise
    np.testing.assert_allclose(model.encode(images), EXPECTED["codes_after_one_more_epoch"], **CLOSE)


def test_a_run_is_loaded():
    images = data.load("digits").test.images[:5] / np.float32(255)
    np.testing.assert_allclose(zoo.load(FILES / "run").encode(images), EXPECTED["codes_of_the_run"], **CLOSE)


@pytest.mark.parametrize("name", ["vae_digits", "the run"])
def test_a_run_resumes_to_the_state_that_its_own_code_reached(tmp_path, name):
    """By the entry, whose schedule counts epochs now; and by the run's own config, which counts steps."""
    run = tmp_path / "run"
    shutil.copytree(FILES / "run", run)
    before = config.read(run)
    assert before.train.optimizer.args["learning_rate"]["decay_steps"] == 300 * (1297 // 64)
    overrides = {"train.epochs": 2}
    if name == "vae_digits":
        overrides |= {"model.args.hidden_units": [3], "model.args.latent_dim": 2, "train.batch_size": 400}
        overrides |= {"train.jit_compile": False}
    training.train(run if name == "the run" else name, directory=run, resume=True, overrides=overrides, verbose=0)
    with np.load(run / "state.npz") as found, np.load(FILES / "resumed.npz") as expected:
        assert found.files == expected.files
        for key in expected.files[1:]:
            np.testing.assert_allclose(found[key], expected[key], **CLOSE, err_msg=key)


@pytest.mark.parametrize("name", EXPECTED["systems"])
def test_weights_of_a_system_have_the_shapes_and_the_order_that_they_had(name):
    system = EXPECTED["systems"][name]
    assert [list(weight.shape) for weight in MODELS[name](**system["args"]).weights] == system["shapes"]
