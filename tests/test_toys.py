"""The house carries: four systems that are no VAE, each a file and a config in `toys/`, with all that the zoo does."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import vaezoo as command

import vaezoo
from vaezoo import data
from vaezoo.serving import exporting
from vaezoo.zoo import callbacks, loading, training

HERE = pathlib.Path(__file__).parent
TOYS = {  # the signatures that each exports
    "bayesian_classifier": {"classify"},
    "autoencoder": {"encode", "decode"},
    "wake_sleep": {"encode", "decode", "sample", "score"},
    "hmc_decoder": {"decode", "sample"},
}
FIGURES = {  # some of what `vaezoo evaluate` measures of each
    "bayesian_classifier": {"error_rate"},
    "autoencoder": {"rmse", "active_units"},
    "wake_sleep": {"elbo", "log_likelihood", "rmse"},
    "hmc_decoder": {"log_likelihood"},
}


@pytest.fixture(scope="module", params=TOYS)
def toy(request, tmp_path_factory):
    """A toy's name, the folder of its run of four epochs by the command line, and the test part of its data."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    result = command("train", f"toys/{request.param}.toml", "--dir", folder, cwd=HERE)
    assert result.returncode == 0, result.stderr
    images = data.transform_once(data.load("digits").test.images, "unit_interval")
    return request.param, folder, images


def state_of(folder):
    with np.load(folder / "state.npz") as state:
        return dict(state)


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_one_short_file(name):
    assert len((HERE / "toys" / f"{name}.py").read_text().splitlines()) <= 60


def test_a_toy_learns_and_its_best_epoch_is_kept(toy):
    _, folder, _ = toy
    rows = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    assert len(rows) == 4
    model = loading.load(folder)
    better = rows[model.monitor] if model.monitor_mode == "max" else -rows[model.monitor]
    assert better[-1] > better[0]
    assert (folder / "images").exists() == (model.generate is not None)


def test_a_toy_resumes_bit_for_bit(toy, tmp_path):
    name, folder, _ = toy
    training.train(HERE / f"toys/{name}.toml", directory=tmp_path, overrides={"train.epochs": 2}, verbose=0)
    result = command("train", f"toys/{name}.toml", "--dir", tmp_path, "--resume", cwd=HERE)
    assert result.returncode == 0, result.stderr
    whole, parts = state_of(folder), state_of(tmp_path)
    assert whole.keys() == parts.keys()
    for key in whole:
        np.testing.assert_array_equal(whole[key], parts[key], err_msg=key)


def figures(model, images):
    """What a toy makes of images, whatever it has."""
    labels = (np.zeros(len(images), int),) if model.supervised else ()
    found = [np.asarray(model.evaluate(images, *labels, verbose=0))]
    found += [np.asarray(function(images)) for function in (model.encode, model.class_probabilities) if function]
    if model.decode is not None:
        found.append(np.asarray(model.decode(np.ones((2, *model.latent_shape), np.float32))))
    return found


def test_a_toy_is_saved_and_loaded(toy, tmp_path):
    _, folder, images = toy
    model = vaezoo.load(folder)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(figures(model, images), figures(again, images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_toy_is_exported_with_the_signatures_that_it_has(toy, tmp_path):
    name, folder, images = toy
    model = vaezoo.load(folder)
    exported = exporting.export(model, tmp_path, name)
    served = tf.saved_model.load(str(exported.version)).signatures
    plain = {key for key in served if not key.endswith(("_uint8", "_png", "serving_default"))}
    assert plain == TOYS[name]
    inputs = {"images": images[:3], "z": np.ones((3, *(model.latent_shape or [1])), np.float32), "seed": np.arange(3)}
    for signature in model.export_signatures():
        if signature.saved_model:
            values = [tf.cast(inputs[spec.name], spec.dtype) for spec in signature.inputs]
            expected = signature.function(*values)
            found = served[signature.name](**{spec.name: v for spec, v in zip(signature.inputs, values, strict=True)})
            for key in expected:
                np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_a_toy_is_measured_by_the_command_line(toy, tmp_path):
    name, folder, _ = toy
    options = ["--limit", 20, "--json", tmp_path / "figures.json"]
    if name == "hmc_decoder":  # which has no posterior
        options += ["--estimator", "ais", "--num-temperatures", 3, "--num-chains", 2]
    else:
        options += ["--num-samples", 2]
    result = command("evaluate", folder, *options, cwd=HERE)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert FIGURES[name] <= {key for key, value in figures.items() if value is not None}


@pytest.mark.parametrize("toy", ["bayesian_classifier"], indirect=True)
def test_a_classifier_knows_the_size_of_its_data_and_its_classes(toy):
    _, folder, images = toy
    model = vaezoo.load(folder)
    assert model.num_examples.numpy() == len(data.load("digits").train.images)
    wrong = np.argmax(model.class_probabilities(images), axis=-1) != data.load("digits").test.labels
    assert wrong.mean() < 0.3  # 0.9 by chance


def test_a_step_of_two_phases_moves_the_variables_of_both(images):
    from toys.wake_sleep import WakeSleep

    model = WakeSleep(images.shape[1:])
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    assert {id(v) for v in model.bound_variables}.isdisjoint(id(v) for v in model.sleeping_variables)
    before = [np.array(v) for v in model.trainable_variables]
    model.fit(images, batch_size=20, verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert not np.array_equal(old, new), new.path
    assert [int(optimizer.iterations) for optimizer in model.optimizers] == [2, 2]


def test_a_step_of_two_phases_refuses_averaged_weights(images):
    """Keras' `fit` would write the first optimizer's averages into all trainable variables, in another order."""
    from toys.wake_sleep import WakeSleep

    with pytest.raises(ValueError, match="`optimizer` must not average weights, .* Received: use_ema"):
        WakeSleep(images.shape[1:]).compile(keras.optimizers.SGD(0.1, use_ema=True))


def test_a_model_that_does_not_tell_which_term_broke_is_stopped_too(images):
    from toys.autoencoder import Autoencoder

    model = Autoencoder(images.shape[1:])
    model.compile(keras.optimizers.SGD(np.inf), run_eagerly=True)
    with pytest.raises(FloatingPointError, match="^`loss` must be finite. Received: NaN or infinity in some step of"):
        model.fit(images, batch_size=20, verbose=0, callbacks=[callbacks.StopOnNaN()])


@pytest.mark.parametrize("toy", ["autoencoder"], indirect=True)
def test_a_run_of_a_users_own_class_needs_its_module(toy, tmp_path):
    """Its folder names the class; where that cannot be imported, the message says so in one line."""
    name, folder, _ = toy
    shutil.copytree(folder, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(f"toys.{name}:", "nowhere.toys:"))
    result = command("evaluate", tmp_path / "run")
    assert result.returncode == 1
    assert "`model.name` must name a module that can be imported. Received: 'nowhere.toys:" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
