"""Exports, run where vaezoo cannot be imported, from C and in LiteRT, against Keras."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY

from vaezoo import exporting, files
from vaezoo.models import MODELS

# What is exported: name -> system, constructor arguments, and whether it is trained a step with XLA before.
CASES = {
    **{system: (system, args, False) for system, args in TINY.items()},
    "vae, the other posterior and likelihood": (
        "vae",
        {**TINY["vae"], "posterior": "diagonal_gaussian", "posterior_args": None, "likelihood": "bernoulli"},
        True,
    ),
    "conv_vae, planar flow": ("conv_vae", {**TINY["conv_vae"], "posterior": "planar", "posterior_args": None}, False),
    "resnet_vae, bidirectional": (
        "resnet_vae",
        {**TINY["resnet_vae"], "inference": "bidirectional", "flow_form": "location_scale", "edges": True},
        False,
    ),
    "vae, half precision": ("vae", {**TINY["vae"], "dtype": "mixed_bfloat16"}, False),
}
BATCH_SIZES = (1, 9)
MAX_DIFFERENCE = 1e-5
CONSUMER = pathlib.Path(__file__).parents[1] / "export" / "consumer"

# Runs each call of calls.json, in a process in which vaezoo cannot be imported.
CHILD = """
import json, sys
sys.modules["vaezoo"] = None
try:
    import vaezoo
except ImportError:
    pass
else:
    sys.exit("vaezoo could be imported")
import numpy as np
import tensorflow as tf

exports = {}
for folder, signature, inputs, outputs in json.load(open("calls.json")):
    if folder not in exports:
        exports[folder] = tf.saved_model.load(folder).signatures
    result = exports[folder][signature](**{name: tf.constant(np.load(path)) for name, path in inputs.items()})
    np.savez(outputs, **{name: value.numpy() for name, value in result.items()})
"""


class Call(NamedTuple):
    signature: str
    inputs: dict  # of arrays
    expected: dict  # of arrays, what Keras computes in float32


class Export(NamedTuple):
    model: keras.Model
    version: pathlib.Path
    lite: pathlib.Path
    calls: list  # of the SavedModel's signatures
    lite_calls: list  # of the LiteRT file's signatures without noise


def input_array(spec, num_rows):
    rng = np.random.default_rng(num_rows)
    shape = [num_rows, *spec.shape[1:]]
    return rng.random(shape, np.float32) if spec.dtype.is_floating else rng.integers(1000, size=shape, dtype=np.int32)


def calls_of(signatures):
    for signature in signatures:
        for num_rows in BATCH_SIZES:
            inputs = {spec.name: input_array(spec, num_rows) for spec in signature.inputs}
            expected = signature.function(*map(tf.constant, inputs.values()))
            yield Call(signature.name, inputs, {name: value.numpy() for name, value in expected.items()})


def make_model(case):
    """Returns a model whose every weight is off its initial value, and the one that computes the same in float32."""
    system, args, train_with_xla = CASES[case]
    keras.utils.set_random_seed(0)
    model = MODELS[system](**args)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0.0, 0.2, weight.shape) for weight in model.get_weights()])
    if train_with_xla:
        model.compile(jit_compile=True)
        model.fit(rng.random((4, *model.image_shape), np.float32), verbose=0)
    oracle = MODELS[system](**{**args, "dtype": "float32"})
    oracle.set_weights(model.get_weights())
    return model, oracle


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Every case, exported once."""
    folder, exports = tmp_path_factory.mktemp("exports"), {}
    for index, case in enumerate(CASES):
        model, oracle = make_model(case)
        version, lite = exporting.export(model, folder, f"case-{index}")
        signatures = oracle.export_signatures()
        lite_signatures = [signature for signature in signatures if signature.lite and signature.name != "sample"]
        calls = list(calls_of([signature for signature in signatures if signature.saved_model]))
        default = calls[0]._replace(signature="serving_default")
        exports[case] = Export(model, version, lite, [*calls, default], list(calls_of(lite_signatures)))
    return exports


@pytest.fixture(params=CASES)
def exported(request, exports):
    return exports[request.param]


@pytest.fixture(scope="module")
def outputs_without_vaezoo(exports, tmp_path_factory):
    """A dict from (version's folder, index of the call) to the outputs, from one process for all of them."""
    folder = tmp_path_factory.mktemp("without_vaezoo")
    calls, paths = [], {}
    for export in exports.values():
        for index, call in enumerate(export.calls):
            stem = f"{export.version.parent.name}-{index}"
            paths[export.version, index] = folder / f"{stem}.out.npz"
            inputs = {name: str(folder / f"{stem}.{name}.npy") for name in call.inputs}
            for name, path in inputs.items():
                np.save(path, call.inputs[name])
            calls.append([str(export.version), call.signature, inputs, str(paths[export.version, index])])
    (folder / "calls.json").write_text(json.dumps(calls))
    subprocess.run([sys.executable, "-c", CHILD], cwd=folder, check=True, timeout=400)
    return {key: dict(np.load(path)) for key, path in paths.items()}


@pytest.fixture(scope="session")
def consumer(tmp_path_factory):
    """The C program, compiled with warnings as errors."""
    missing = [tool for tool in ("make", "gcc") if not shutil.which(tool)]
    if missing or sys.platform != "linux":
        pytest.skip(f"the C consumer needs Linux, make and gcc; missing: {missing or 'Linux'}")
    build = tmp_path_factory.mktemp("consumer")
    settings = [f"PYTHON={sys.executable}", f"BUILD={build}", "CC=gcc", "CFLAGS=-O1 -Werror"]
    subprocess.run(["make", "-s", "-C", CONSUMER, *settings], check=True, timeout=120)

    def run(*args):
        command = [build / "consumer", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"TF_CPP_MIN_LOG_LEVEL": "3"})

    return run


@pytest.fixture
def tiny():
    return make_model("vae")[0]


def assert_same_outputs(outputs, expected):
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        assert outputs[name].shape == value.shape
        assert outputs[name].dtype == value.dtype
        np.testing.assert_allclose(outputs[name], value, rtol=MAX_DIFFERENCE, atol=MAX_DIFFERENCE)


def hashes(folder):
    """A dict from the paths of all files below a folder to what is in them."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def test_every_system_is_exported():
    assert {system for system, _, _ in CASES.values()} == set(MODELS)


# SavedModel.


def test_saved_model_without_vaezoo_equals_keras(exported, outputs_without_vaezoo):
    for index, call in enumerate(exported.calls):
        assert_same_outputs(outputs_without_vaezoo[exported.version, index], call.expected)


def test_saved_model_has_the_signatures_and_the_first_is_the_default(exported):
    signatures = tf.saved_model.load(exported.version).signatures
    expected = [signature for signature in exported.model.export_signatures() if signature.saved_model]
    assert set(signatures) == {"serving_default", *(signature.name for signature in expected)}
    assert expected[0].name == "encode"
    for signature in expected:
        _, specs = signatures[signature.name].structured_input_signature
        assert {spec.name: (spec.shape, spec.dtype) for spec in specs.values()} == {
            spec.name: (spec.shape, spec.dtype) for spec in signature.inputs
        }


def test_half_precision_is_exported_in_float32_near_what_the_model_computes(exports):
    export = exports["vae, half precision"]
    call = export.calls[0]
    half = export.model.encode(call.inputs["images"])
    np.testing.assert_allclose(half, call.expected["z"], atol=0.05)  # bfloat16 has 8 bits
    assert abs(half - call.expected["z"]).numpy().max() > MAX_DIFFERENCE


@pytest.mark.parametrize("name", ["sample", "score"])
def test_a_row_depends_on_its_own_inputs_only(exported, name):
    function = tf.saved_model.load(exported.version).signatures[name]
    (call,) = (
        call for call in exported.calls if call.signature == name and len(call.inputs["seed"]) == BATCH_SIZES[-1]
    )
    order = np.random.default_rng(0).permutation(BATCH_SIZES[-1])

    def outputs(rows):
        (value,) = function(**{key: tf.constant(value[rows]) for key, value in call.inputs.items()}).values()
        return value.numpy()

    together = outputs(np.arange(BATCH_SIZES[-1]))
    np.testing.assert_allclose(outputs(order), together[order], rtol=1e-6, atol=1e-6)
    for row in range(BATCH_SIZES[-1]):
        np.testing.assert_allclose(outputs([row]), together[[row]], rtol=1e-6, atol=1e-6)


def test_other_seeds_give_other_samples(exported):
    sample = tf.saved_model.load(exported.version).signatures["sample"]
    images = sample(seed=tf.range(4))["images"].numpy().reshape(4, -1)
    assert len(np.unique(images, axis=0)) == 4


# The C program.


def test_c_consumer_equals_keras(exported, consumer, tmp_path):
    for call in exported.calls:
        inputs = []
        for name, value in call.inputs.items():
            np.save(tmp_path / f"{name}.npy", value)
            inputs.append(f"{name}={tmp_path / name}.npy")
        finished = consumer(exported.version, call.signature, *inputs, "-o", tmp_path / "out")
        assert finished.returncode == 0, finished.stderr
        written = [pathlib.Path(line) for line in finished.stdout.splitlines()]
        assert_same_outputs({path.stem: np.load(path) for path in written}, call.expected)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nosuch", "z=z.npy"), "`SIGNATURE` must be one of: "),
        (("decode",), "decode must be given `z`: add z=FILE.npy"),
        (("decode", "images=z.npy"), "the inputs of decode must be: z. Received: images"),
        (("decode", "z=nosuch.npy"), "nosuch.npy cannot be read: No such file or directory"),
        (("decode", "z=float64.npy"), "float64.npy must be float32, int32, uint8 or int64. Received: '<f8'"),
        (("decode", "z=fortran.npy"), "fortran.npy must be in C order"),
        (("decode", "z=cut.npy"), "cut.npy must hold 24 bytes of data. Received: 20"),
        (("decode", "z=text.npy"), "text.npy must be a .npy file of format version 1.0"),
        (("decode", "z=int64.npy"), "`z` must be float32. Received: int64"),
        (("decode", "z=wide.npy"), "`z` must have shape [any, 3]. Received: [2, 4]"),
    ],
)
def test_c_consumer_says_in_one_line_what_is_wrong(exports, consumer, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    z = np.zeros((2, 3), np.float32)
    arrays = {"z": z, "float64": z.astype(float), "fortran": np.asfortranarray(z), "int64": z.astype(np.int64)}
    for name, value in {**arrays, "wide": np.zeros((2, 4), np.float32)}.items():
        np.save(f"{name}.npy", value)
    pathlib.Path("cut.npy").write_bytes(pathlib.Path("z.npy").read_bytes()[:-4])
    pathlib.Path("text.npy").write_text("not an array")
    finished = consumer(exports["vae"].version, *args, "-o", "out")
    assert finished.returncode == 1
    (line,) = (line for line in finished.stderr.splitlines() if line.startswith("consumer: "))
    assert line.startswith(f"consumer: {message}")
    assert finished.stderr.endswith(f"{line}\n")
    assert not pathlib.Path("out").exists()
    if "SIGNATURE" in message:
        for known in ("encode", "decode", "sample", "score", "serving_default"):
            assert known in line.partition("Received")[0]


# LiteRT.


def interpreter(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path))


def test_lite_equals_keras(exported):
    lite = interpreter(exported.lite)
    assert {name: sorted(io["inputs"]) for name, io in lite.get_signature_list().items()} == {
        signature.name: sorted(spec.name for spec in signature.inputs)
        for signature in exported.model.export_signatures()
        if signature.lite
    }
    assert exported.lite_calls
    for call in exported.lite_calls:
        assert_same_outputs(lite.get_signature_runner(call.signature)(**call.inputs), call.expected)


def test_lite_uses_builtin_ops_only(exported):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(exported.lite.read_bytes())
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert codes
    for code in codes:
        assert code.BuiltinCode() != schema.BuiltinOperator.CUSTOM
        assert code.CustomCode() is None


def test_lite_samples_are_images_and_never_the_same(exported):
    # A second interpreter stands for a second process: a seed in the file would make both draw the same.
    runners = [interpreter(exported.lite).get_signature_runner("sample") for _ in range(2)]
    for num_samples in (1, 5):
        draws = [runner(num_samples=np.int32(num_samples))["images"] for runner in runners for _ in range(2)]
        for images in draws:
            assert images.shape == (num_samples, *exported.model.image_shape)
            assert images.min() >= 0
            assert images.max() <= 1
        rows = np.concatenate(draws).reshape(4 * num_samples, -1)
        assert len(np.unique(rows, axis=0)) == 4 * num_samples


# The files.


def test_second_export_adds_a_version_and_leaves_the_first_alone(tiny, tmp_path):
    first, lite = exporting.export(tiny, tmp_path, "vae")
    assert (first, lite) == (tmp_path / "vae" / "1", tmp_path / "vae.tflite")
    before = hashes(first)
    tiny.set_weights([2.0 * weight for weight in tiny.get_weights()])
    second, lite = exporting.export(tiny, tmp_path, "vae")
    assert (second, lite) == (tmp_path / "vae" / "2", tmp_path / "vae.tflite")
    assert hashes(first) == before
    images = np.full((2, *tiny.image_shape), 0.5, np.float32)
    expected = {"z": tiny.encode(images).numpy()}
    assert_same_outputs(interpreter(lite).get_signature_runner("encode")(images=images), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae", "vae.tflite"]
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["1", "2"]


def test_version_is_one_above_the_highest_number(tmp_path, monkeypatch):
    for name in ("3", "10", "v99", "0.5", f"{files.PREFIX}x"):
        (tmp_path / "vae" / name).mkdir(parents=True)
    monkeypatch.setattr(exporting, "_save", lambda signatures, path: path.mkdir())
    monkeypatch.setattr(exporting, "_converted", lambda signatures: b"")
    version, _ = exporting.export(make_model("vae")[0], tmp_path, "vae")
    assert version == tmp_path / "vae" / "11"


@pytest.mark.parametrize("broken", ["saved_model.save", "lite.TFLiteConverter.from_saved_model"])
def test_until_both_are_complete_neither_is_there_and_a_failure_leaves_nothing(tiny, tmp_path, monkeypatch, broken):
    folder = tmp_path / "new" / "models"

    def fail(*args, **kwargs):
        # A process that is killed here leaves what there is now.
        assert not [path for path in hashes(folder) if not any(p.startswith(files.PREFIX) for p in path.parts)]
        if broken == "saved_model.save":
            pathlib.Path(args[1], "saved_model.pb").parent.mkdir(parents=True)
            pathlib.Path(args[1], "saved_model.pb").write_bytes(b"half")
        raise RuntimeError("broken midway")

    monkeypatch.setattr(f"tensorflow.{broken}", fail)
    with pytest.raises(RuntimeError, match="broken midway"):
        exporting.export(tiny, folder, "vae")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_earlier_exports_alone(tiny, tmp_path, monkeypatch):
    (tmp_path / "vae" / "1").mkdir(parents=True)
    (tmp_path / "vae" / "1" / "saved_model.pb").write_bytes(b"earlier")
    (tmp_path / "vae.tflite").write_bytes(b"earlier")
    before = sorted(tmp_path.rglob("*")), hashes(tmp_path)
    monkeypatch.setattr(exporting, "_converted", lambda signatures: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        exporting.export(tiny, tmp_path, "vae")
    assert (sorted(tmp_path.rglob("*")), hashes(tmp_path)) == before


def test_unwritable_folder_is_a_one_line_error_that_names_it(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as error:
        exporting.export(tiny, tmp_path / "file" / "models", "vae")
    assert str(tmp_path / "file") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", ".hidden", "a\n", "a:b"])
def test_name_that_is_no_file_name_is_refused(tiny, tmp_path, name):
    with pytest.raises(ValueError, match="`name` must be letters, digits"):
        exporting.export(tiny, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_exporting_prints_nothing(tiny, tmp_path, capfd):
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"  # TensorFlow's own switch, as the command line sets it
    exporting.export(tiny, tmp_path, "vae")
    printed = capfd.readouterr()
    # TensorFlow 2.18's converter writes two of its warnings whatever the switch says.
    lines = [line for line in printed.err.splitlines() if "tf_tfl_flatbuffer_helpers.cc" not in line]
    assert (printed.out, lines) == ("", [])
