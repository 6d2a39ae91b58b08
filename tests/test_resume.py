"""A run that is killed and resumed ends with the weights of one that never was, bit for bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from vaezoo import data, files, zoo
from vaezoo.zoo import config, training

KILLS = 20
CHILD = pathlib.Path(__file__).parent / "children" / "killed.py"
SMALL = {"model.args.hidden_units": [8], "train.jit_compile": False}


def weights_of(path):
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def state_of(folder):
    with np.load(folder / "state.npz") as state:
        return dict(state)


def train(directory, epochs, **settings):
    return training.train(
        "vae_digits", directory=directory, overrides={**SMALL, "train.epochs": epochs}, verbose=0, **settings
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs. Tests that do not refuse it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    train(folder, 2)
    return folder


@pytest.mark.slow
@pytest.mark.rest
def test_killed_at_20_random_moments_and_resumed_each_time(tmp_path):
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}  # where TensorFlow leaves files when it is killed
    subprocess.run([sys.executable, CHILD, tmp_path, str(KILLS)], check=True, timeout=600, env=temporary)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    struck = json.loads((tmp_path / "struck.json").read_text())
    assert len(struck) == KILLS
    assert len({kill["epochs"] for kill in struck}) > 5, "the kills must fall into different epochs"
    assert any(kill["writing"] for kill in struck), "some kills must fall into a write"
    assert_same(state_of(whole), state_of(killed))
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same(weights_of(whole / name), weights_of(killed / name))
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()
    assert not list(tmp_path.rglob(".writing-*"))
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    for picture in (whole / "images").iterdir():
        assert picture.read_bytes() == (killed / "images" / picture.name).read_bytes()


@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        ("iaf_mnist", {"filters": [3, 4], "hidden_units": 6}),
        ("iaf_cifar10", {"num_blocks": 2, "filters": 4, "latent_filters": 3}),
        ("stein_vae_mnist", {"latent_dim": 3, "hidden_units": [8]}),
        ("as_vae_mnist", {"filters": [3, 4], "hidden_units": 6, "latent_dim": 3}),
    ],
)
def test_flows_games_particles_and_averaged_weights_go_on_bit_for_bit(tmp_path, entry, settings):
    """Layers are set from data once, before the first step and never again; the averages of the weights come back."""
    overrides = {f"model.args.{key}": value for key, value in {**settings, "image_shape": [8, 8, 1]}.items()}
    overrides |= {"data.name": "digits", "train.batch_size": 300, "train.jit_compile": False}  # with XLA: below
    for directory, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        model = training.train(
            entry,
            directory=tmp_path / directory,
            resume=True,
            overrides={**overrides, "train.epochs": epochs},
            verbose=0,
        )
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert_same(whole, parts)
    # What is measured and kept are the averages, if the optimizer has them; what goes on are the weights.
    kept = weights_of(tmp_path / "parts" / "last.weights.h5")
    averages = sorted(value.sum() for value in kept.values() if value.dtype != bool)
    raw = sorted(whole[f"variable_{i}"].sum() for i, w in enumerate(model.weights) if w.dtype != "bool")
    assert (averages != raw) == model.optimizer.use_ema
    returned = sorted(np.asarray(weight).sum() for weight in model.weights if weight.dtype != "bool")
    assert returned == averages


def test_more_epochs_go_on_where_a_run_ended(tmp_path):
    """Compiled by XLA, as the entry is. The rates of the schedule and the order of the data go on, too."""
    settings = {"model.args.hidden_units": [8], "train.jit_compile": True}
    for directory, epochs in (("whole", 3), ("parts", 2), ("parts", 3)):
        overrides = {**settings, "train.epochs": epochs}
        training.train("vae_digits", directory=tmp_path / directory, resume=True, overrides=overrides, verbose=0)
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["train"]["epochs"] == 3


def test_a_finished_run_resumes_to_itself(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    model = train(tmp_path / "run", 2, resume=True)
    assert_same(state_of(finished), state_of(tmp_path / "run"))
    assert model.optimizer.iterations == 2 * (1297 // 64)
    for index, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, state_of(finished)[f"variable_{index}"])


def test_what_was_lost_after_the_state_was_written_is_mended(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("last.weights.h5", "best.weights.h5", "log.csv"):
        (run / name).unlink()
    for folder in (run, run / "images"):
        (folder / ".writing-abc").mkdir()
    train(run, 2, resume=True)
    assert (run / "log.csv").read_text() == (finished / "log.csv").read_text()
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same(weights_of(finished / name), weights_of(run / name))
    assert not list(run.rglob(".writing-*"))


def test_a_used_folder_is_refused(finished):
    before = (finished / "state.npz").read_bytes()
    with pytest.raises(FileExistsError, match=r"`directory` must not hold a run, unless it is to be resumed") as error:
        train(finished, 1)
    assert "\n" not in str(error.value)
    assert (finished / "state.npz").read_bytes() == before


def test_a_used_folder_called_like_an_entry_is_refused(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "vae_digits")
    monkeypatch.chdir(tmp_path)
    for directory in ("vae_digits", "./vae_digits", pathlib.Path("vae_digits")):
        with pytest.raises(FileExistsError, match="`directory` must not hold a run"):
            train(directory, 1)
    with pytest.raises(FileExistsError, match="`directory` must not hold a run"):
        training.train("./vae_digits", overrides={"train.epochs": 1})
    with pytest.raises(ValueError, match="`directory` must hold a run of the same config"):
        training.train("vae_digits", directory="vae_digits", resume=True, overrides={"train.seed": 7})
    assert_same(state_of(finished), state_of(tmp_path / "vae_digits"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, resume):
    """A second lock of one process is as good as one of another."""
    with files.locked(tmp_path / "run"):
        (tmp_path / "run" / f"{files.PREFIX}x").mkdir()  # what the other one is writing
        with pytest.raises(
            BlockingIOError, match="`directory` must not be one that another process writes to"
        ) as error:
            train(tmp_path / "run", 1, resume=resume)
        assert "\n" not in str(error.value)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [f"{files.PREFIX}x"]


def test_another_config_is_refused_with_what_differs(finished):
    overrides = {**SMALL, "train.epochs": 3, "train.batch_size": 32, "objective.args.analytic_kl": False}
    differences = r"objective\.args\.analytic_kl \(was True, is False\), train\.batch_size \(was 64, is 32\)$"
    with pytest.raises(ValueError, match=r"`directory` must hold a run of the same config.*" + differences) as error:
        training.train("vae_digits", directory=finished, resume=True, overrides=overrides)
    assert "\n" not in str(error.value)
    assert json.loads((finished / "config.json").read_text())["train"]["epochs"] == 2


def test_a_config_that_cannot_be_built_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match="latent_dim"):
        training.train("vae_digits", directory=tmp_path / "run", overrides={"model.args.latent_dim": 0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_state_is_one_line(finished, tmp_path, damage):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "state.npz"
    content = {"truncated": path.read_bytes()[:1000], "empty": b"", "text": b"not a state"}[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be the state of a run") as error:
        train(tmp_path / "run", 3, resume=True)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_another_seed_is_another_run(finished, tmp_path):
    overrides = {**SMALL, "train.epochs": 1, "train.seed": 1}
    training.train("vae_digits", directory=tmp_path, overrides=overrides, verbose=0)
    assert not np.array_equal(state_of(tmp_path)["variable_0"], state_of(finished)["variable_0"])


def test_a_config_takes_overrides_and_its_run_claims_no_figures(tmp_path):
    entry = config.read("vae_digits", SMALL)
    training.train(entry, directory=tmp_path, overrides={"train.epochs": 1}, verbose=0)
    run = config.read(tmp_path)
    assert run.train.epochs == 1
    assert run.weights is None
    assert run.num_params == zoo.load(tmp_path).count_params() < config.read("vae_digits").num_params
    assert training.default_directory(tmp_path, run) == tmp_path


def test_a_run_on_arrays_says_so(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype="uint8")
    splits = data.Splits.from_arrays(images[:64], images[64:])
    train(tmp_path, 1, splits=splits)
    assert config.read(tmp_path).data.name == "arrays"
    train(tmp_path, 2, splits=splits, resume=True)
    with pytest.raises(ValueError, match="Received: 'arrays', which the caller had"):
        data.load("arrays")
    with pytest.raises(ValueError, match="`splits` must be a vaezoo.data.Splits"):
        train(tmp_path, 2, splits=(images, images))
