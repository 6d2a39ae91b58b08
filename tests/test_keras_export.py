"""`model.export` in Keras' formats: of models as they are constructed, and of a user's own, against Keras."""

import importlib.util
import pathlib
import subprocess
import sys

import conftest
import keras
import numpy as np
import pytest
import tensorflow as tf
from test_keras_contracts import MyVAE

import vaezoo
from vaezoo.base import LatentVariableModel
from vaezoo.models import MODELS, VAE

SHAPE = (6, 5, 2)
MAX_DIFFERENCE = 1e-5


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run_saved_model(path, x):
    loaded = tf.saved_model.load(str(path))
    return loaded.serve(x)


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def run_openvino(path, x):
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(x)[model.outputs[0]]


def run_lite(path, x, **kwargs):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), **kwargs).get_signature_runner()
    (output,) = runner(**{next(iter(runner.get_input_details())): x}).values()
    return output


# Format -> the file's name, and what runs it.
FORMATS = {
    "tf_saved_model": ("folder", run_saved_model),
    "onnx": ("model.onnx", run_onnx),
    "openvino": ("model.xml", run_openvino),
    "litert": ("model.tflite", run_lite),
}
formats = pytest.mark.parametrize(
    "format",
    [
        "tf_saved_model",
        pytest.param("onnx", marks=needs("tf2onnx", "onnx", "onnxruntime")),
        pytest.param("openvino", marks=needs("openvino")),
        "litert",
    ],
)


def assert_exports(model, format, folder, x):
    """Exports the model and runs it on batches of two sizes."""
    name, run = FORMATS[format]
    model.export(folder / name, format=format, verbose=False)
    for rows in (x[:1], x[:7]):
        np.testing.assert_allclose(run(folder / name, rows), model.decode(model.encode(rows)), atol=MAX_DIFFERENCE)


@formats
@pytest.mark.parametrize("trained", [False, True])
def test_a_model_is_exported_compiled_or_not(images, format, trained, tmp_path):
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    if trained:
        model.compile("adam")
        model.fit(images, verbose=0)
    assert_exports(model, format, tmp_path, images)


@formats
def test_a_model_of_ones_own_is_exported(images, format, tmp_path):
    assert_exports(MyVAE(layer=keras.layers.Dropout(0.9)), format, tmp_path, images)


@needs("tf2onnx", "onnx", "onnxruntime")
def test_onnx_takes_every_system(system, images, tmp_path):
    """TFP's shape arithmetic and gated flows have ops that tf2onnx does not know."""
    assert_exports(MODELS[system](**conftest.CASES[system].args), "onnx", tmp_path, images)


def test_litert_takes_transposed_convolutions_before_any_training(images, tmp_path):
    """All biases of the last layer are equal then, and LiteRT would cut them down to one number."""
    assert_exports(MODELS["resnet_vae"](**conftest.CASES["resnet_vae"].args), "litert", tmp_path, images)


def test_half_precision_is_exported_in_float32(images, tmp_path):
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,), dtype="mixed_bfloat16")
    twin = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    twin.set_weights(model.get_weights())
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    np.testing.assert_allclose(run_lite(tmp_path / "model.tflite", images), twin(images), atol=MAX_DIFFERENCE)


def test_tensorflows_own_lite_converter_takes_a_model(images, tmp_path):
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (tmp_path / "model.tflite").write_bytes(content)
    np.testing.assert_allclose(run_lite(tmp_path / "model.tflite", images), model(images), atol=MAX_DIFFERENCE)


def test_a_saved_model_has_the_signatures_of_vaezoos_export_too(images, tmp_path):
    model = VAE((6, 5, 1), latent_dim=3, hidden_units=(8,))
    model.export(tmp_path / "keras", verbose=False)
    version = vaezoo.export(model, tmp_path / "own", "vae").version
    ours, kerass = (tf.saved_model.load(str(path)).signatures for path in (version, tmp_path / "keras"))
    assert set(kerass) == {*ours, "serve"}
    x, seed = tf.constant(images[..., :1]), tf.range(len(images))
    np.testing.assert_allclose(kerass["encode"](images=x)["z"], model.encode(x), atol=1e-6)
    np.testing.assert_allclose(kerass["score"](images=x, seed=seed)["elbo"], ours["score"](images=x, seed=seed)["elbo"])
    np.testing.assert_array_equal(kerass["sample"](seed=seed)["images"], ours["sample"](seed=seed)["images"])
    (served,) = kerass["serving_default"](x).values()
    np.testing.assert_allclose(served, model(x), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0, 1\]"):
        kerass["encode"](images=x + 1.0)


# What a model lacks.


class Generator(VAE):
    encode = None


class Critic(VAE):
    decode = generate = None


class Silent(VAE):
    """A model whose one signature LiteRT can't have."""

    encode = decode = generate = None


@pytest.mark.parametrize(
    ("cls", "signatures", "lite"),
    [
        (Generator, {"decode", "decode_png", "sample", "sample_png", "score", "score_uint8", "score_png"}, ["decode"]),
        (Critic, {"encode", "encode_uint8", "encode_png", "score", "score_uint8", "score_png"}, ["encode"]),
        (Silent, {"score", "score_uint8", "score_png"}, []),
    ],
)
def test_a_model_without_a_method_is_exported_without_its_signature(cls, signatures, lite, tmp_path):
    import json

    model = cls((6, 5, 1), latent_dim=3, hidden_units=(8,))
    exported = vaezoo.export(model, tmp_path / "own", "model")
    assert set(tf.saved_model.load(str(exported.version)).signatures) == {*signatures, "serving_default"}
    if lite:
        report = json.loads(exported.report.read_text())
        assert {precision: sorted(set(figures) - {"bytes"}) for precision, figures in report.items()} == dict.fromkeys(
            exported.lite, lite
        )
        assert report["float32"][lite[0]]["max_difference"] < MAX_DIFFERENCE
    else:
        assert (exported.lite, exported.report) == ({}, None)
        assert [path.name for path in (tmp_path / "own").iterdir()] == ["model"]
    model.export(tmp_path / "keras", verbose=False)
    assert set(tf.saved_model.load(str(tmp_path / "keras")).signatures) == {*signatures, "serving_default"}
    with pytest.raises(ValueError, match="`format` must be 'tf_saved_model' for a model without a call") as error:
        model.export(tmp_path / "model.onnx", format="litert")
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    for format, packages in (("onnx", "tf2onnx onnx"), ("openvino", "openvino")):
        with pytest.raises(ImportError, match=f"`format='{format}'` needs .*: pip install {packages}") as error:
            model.export(tmp_path / "model.xml", format=format)
        assert "\n" not in str(error.value)


# Examples that are no images, and determinism.


@pytest.mark.parametrize(
    "shape", [(3,), *(pytest.param(s, marks=pytest.mark.rest) for s in [(1,), (4,), (30,), (5, 3)])]
)
def test_examples_of_any_rank_are_exported_without_png_files(shape, tmp_path):
    model = VAE(shape, latent_dim=2, hidden_units=(8,))
    signatures = tf.saved_model.load(str(vaezoo.export(model, tmp_path, "vae").version)).signatures
    assert not any(name.endswith("_png") for name in signatures)
    x = tf.random.uniform((4, *shape), seed=1)
    np.testing.assert_allclose(signatures["encode"](images=x)["z"], model.encode(x), atol=1e-6)


DETERMINISTIC = """
import sys
import keras, numpy as np, tensorflow as tf
import vaezoo
from vaezoo.models import M2, VAE

keras.utils.set_random_seed(0)
tf.config.experimental.enable_op_determinism()
for model in (VAE((4, 3, 1), 2, (5,)), M2((4, 3, 1), 2, 3, hidden_units=(5,))):
    exported = vaezoo.export(model, sys.argv[1], model.name)
    model.export(f"{sys.argv[1]}/keras_{model.name}", verbose=False)
"""


@pytest.mark.rest
def test_exports_work_with_op_determinism_and_still_sample_anew(tmp_path):
    subprocess.run([sys.executable, "-c", DETERMINISTIC, tmp_path], check=True, timeout=300)
    from ai_edge_litert.interpreter import Interpreter

    for path in map(str, pathlib.Path(tmp_path).glob("*.float32.tflite")):
        runners = [Interpreter(path).get_signature_runner("sample") for _ in range(2)]
        first, second = (runner(num_samples=np.int32(3))["images"] for runner in runners)
        assert not np.array_equal(first, second)


def test_a_base_class_says_that_it_has_a_call():
    class Own(LatentVariableModel):
        encode = None

        def call(self, x):
            return x

    assert Own((3,), (2,)).has_call
    assert not Generator((3,), 2).has_call
