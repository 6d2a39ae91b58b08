"""Exports, run where vaezoo cannot be imported, from C and in LiteRT, against Keras."""

import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import conftest
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import vaezoo
from vaezoo import files
from vaezoo.base.endpoints import in_float32
from vaezoo.base.labelled import LabelledModel
from vaezoo.base.semi_supervised import SemiSupervisedModel
from vaezoo.models import MODELS
from vaezoo.serving import exporting, lite

# Of as many channels as PNG files can have.
ARGS = {system: {**case.args, "image_shape": (6, 5, 3)} for system, case in conftest.CASES.items()}
# What is exported: name -> system, constructor arguments, and whether it is trained a step with XLA before.
EXPORTED = {
    **{system: (system, args, False) for system, args in ARGS.items()},
    "vae, the other posterior and likelihood": (
        "vae",
        {
            **ARGS["vae"],
            "posterior": "diagonal_gaussian",
            "posterior_args": None,
            "likelihood": "bernoulli",
            "principal_components": 0,
        },
        True,
    ),
    "conv_vae, planar flow": ("conv_vae", {**ARGS["conv_vae"], "posterior": "planar", "posterior_args": None}, False),
    "resnet_vae, bidirectional": (
        "resnet_vae",
        {**ARGS["resnet_vae"], "inference": "bidirectional", "flow_form": "location_scale", "edges": True},
        False,
    ),
    "vae, half precision, two channels": (
        "vae",
        {**ARGS["vae"], "image_shape": (6, 5, 2), "dtype": "mixed_bfloat16"},
        False,
    ),
}
# Parameters: of the systems and of the other cases, what `make test` does not leave out.
BY_SIGNATURES = conftest.one_per_shape(conftest.which_signatures_it_has)
OTHERS = [
    "vae, the other posterior and likelihood",
    "vae, half precision, two channels",
    pytest.param("conv_vae, planar flow", marks=pytest.mark.rest),
    pytest.param("resnet_vae, bidirectional", marks=pytest.mark.rest),
]
BATCH_SIZES = (1, 9)
MAX_DIFFERENCE = 1e-5

# Runs the calls of a file per line of its input, in a process in which vaezoo cannot be imported.
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

for line in sys.stdin:
    export, calls = json.load(open(line.strip()))
    signatures = tf.saved_model.load(export).signatures
    for signature, inputs, outputs in calls:
        arrays = {name: np.load(path, allow_pickle=True) for name, path in inputs.items()}
        result = signatures[signature](**{name: tf.constant(array) for name, array in arrays.items()})
        np.savez(outputs, **{name: value.numpy() for name, value in result.items()})
    print("done", flush=True)
"""


class Call(NamedTuple):
    signature: str
    inputs: dict  # of arrays; of objects where they are bytes
    expected: dict  # of arrays, what Keras computes in float32; `png_bytes` stands for the images in the files


class Export(NamedTuple):
    model: keras.Model
    version: pathlib.Path
    lite: dict  # precision -> path
    report: pathlib.Path
    calls: list  # of the SavedModel's signatures
    lite_calls: list  # of the LiteRT files' signatures without noise


def input_array(model, spec, num_rows):
    rng = np.random.default_rng(num_rows)
    shape = [num_rows, *spec.shape[1:]]
    if spec.name == "counts":
        return rng.poisson(0.5, shape).astype(np.float32)
    if spec.dtype.is_floating:
        return rng.random(shape, np.float32)
    return rng.integers(model.num_classes if spec.name == "label" else 1000, size=shape, dtype=np.int32)


def png_files(images):
    """An array of objects, the PNG files of uint8 images [n, H, W, C], written by Pillow."""
    contents = []
    for image in images:
        contents.append(io.BytesIO())
        PIL.Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(contents[-1], "png")
    return np.array([content.getvalue() for content in contents], object)


def calls_of(model):
    """Every signature of the SavedModel, with every form of it, and what Keras computes."""
    calls = []
    for signature in model.export_signatures():
        if not signature.saved_model:
            continue

        def add(name, inputs, images=None, function=signature.function):
            arguments = [images if key in ("images", "png_bytes") else value for key, value in inputs.items()]
            arguments = inputs.values() if images is None else arguments
            expected = {key: value.numpy() for key, value in function(*map(tf.constant, arguments)).items()}
            if images is None and name.endswith("_png"):
                expected["png_bytes"] = expected.pop("images")
            calls.append(Call(name, inputs, expected))

        for num_rows in BATCH_SIZES:
            inputs = {spec.name: input_array(model, spec, num_rows) for spec in signature.inputs}
            add(signature.name, inputs)
        as_png = model.example_shape[-1] != 2
        if "images" in inputs:
            images = np.random.default_rng(0).integers(256, size=inputs["images"].shape, dtype=np.uint8)
            add(f"{signature.name}_uint8", {**inputs, "images": images}, images)
            if as_png:
                inputs = {"png_bytes" if key == "images" else key: value for key, value in inputs.items()}
                add(f"{signature.name}_png", {**inputs, "png_bytes": png_files(images)}, images)
        elif "images" in calls[-1].expected and as_png:
            add(f"{signature.name}_png", inputs)
    return [*calls, calls[0]._replace(signature="serving_default")]


def lite_calls_of(model):
    """The signatures of the LiteRT files that draw nothing."""
    for signature in model.export_signatures():
        if signature.lite and signature.name != "sample":
            for num_rows in BATCH_SIZES:
                inputs = {spec.name: input_array(model, spec, num_rows) for spec in signature.inputs}
                expected = signature.function(*map(tf.constant, inputs.values()))
                yield Call(signature.name, inputs, {key: value.numpy() for key, value in expected.items()})


def make_model(case):
    """Returns a model whose every weight is off its initial value, and the one that computes the same in float32."""
    system, args, train_with_xla = EXPORTED[case]
    keras.utils.set_random_seed(0)
    model = MODELS[system](**args)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = rng.normal(0.0, 0.1, weight.shape)  # small: densities of what a flow blows up overflow
        weight.assign(np.abs(value) if weight.name in ("variance", "scale") else value)
    if train_with_xla:
        model.compile(jit_compile=True)
        model.fit(rng.random((4, *model.example_shape), np.float32), verbose=0)
    oracle = MODELS[system](**{**args, "dtype": "float32"})
    oracle.set_weights(model.get_weights())
    return model, oracle


@pytest.fixture(scope="module")
def export_of(tmp_path_factory):
    """Returns a function that exports a case, once."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def export_of(case):
        model, oracle = make_model(case)
        paths = exporting.export(model, folder, f"case-{list(EXPORTED).index(case)}", {"case": case})
        return Export(model, *paths, calls_of(oracle), list(lite_calls_of(oracle)))

    return export_of


@pytest.fixture(scope="module", params=[*BY_SIGNATURES, *OTHERS])
def case(request):
    """The name of each case in turn; the tests of one follow each other."""
    return request.param


@pytest.fixture(scope="module")
def exported(case, export_of):
    return export_of(case)


@pytest.fixture(scope="module")
def without_vaezoo(tmp_path_factory):
    """Returns a function that lets another process run the calls of an export, and returns their outputs."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(export):
        folder, calls = tmp_path_factory.mktemp("without_vaezoo"), []
        for index, call in enumerate(export.calls):
            inputs = {name: str(folder / f"{index}.{name}.npy") for name in call.inputs}
            for name, path in inputs.items():
                np.save(path, call.inputs[name])
            calls.append([call.signature, inputs, str(folder / f"{index}.out.npz")])
        (folder / "calls.json").write_text(json.dumps([str(export.version), calls]))
        process.stdin.write(f"{folder / 'calls.json'}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        return [dict(np.load(outputs, allow_pickle=True)) for _, _, outputs in calls]

    yield run
    process.stdin.close()
    assert process.wait() == 0


@pytest.fixture(scope="module")
def signatures_of():
    """Returns a function from an export to its SavedModel's signatures, which loads each but once."""
    return functools.cache(lambda version: tf.saved_model.load(version).signatures)


@pytest.fixture
def tiny():
    return make_model("vae")[0]


def assert_same_outputs(outputs, expected):
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        if name == "png_bytes":
            images = np.stack([tf.io.decode_png(png).numpy() for png in outputs[name]])
            assert images.shape == value.shape
            assert np.abs(images - 255 * value).max() <= 0.5 + 255 * MAX_DIFFERENCE
            continue
        assert outputs[name].shape == value.shape
        assert outputs[name].dtype == value.dtype
        np.testing.assert_allclose(outputs[name], value, rtol=MAX_DIFFERENCE, atol=MAX_DIFFERENCE)


def run_consumer(consumer, version, call, folder):
    """Returns the outputs of a call, from the C program."""
    arguments = []
    for name, value in call.inputs.items():
        if value.dtype == object:
            paths = [folder / f"{name}.{row}" for row in range(len(value))]
            for path, content in zip(paths, value, strict=True):
                path.write_bytes(content)
            arguments.append(f"{name}={','.join(map(str, paths))}")
        else:
            np.save(folder / f"{name}.npy", value)
            arguments.append(f"{name}={folder / name}.npy")
    finished = consumer(version, call.signature, *arguments, "-o", folder / "out")
    assert finished.returncode == 0, finished.stderr
    outputs = {}
    for path in map(pathlib.Path, finished.stdout.splitlines()):
        if path.suffix == ".npy":
            outputs[path.stem] = np.load(path)
        else:
            outputs.setdefault(path.stem, []).append(path.read_bytes())
    return outputs


def hashes(folder):
    """A dict from the paths of all files below a folder to what is in them."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def test_every_system_is_exported():
    assert {system for system, _, _ in EXPORTED.values()} == set(MODELS)


# SavedModel.


def test_saved_model_without_vaezoo_equals_keras(exported, without_vaezoo):
    for call, outputs in zip(exported.calls, without_vaezoo(exported), strict=True):
        assert_same_outputs(outputs, call.expected)


def test_saved_model_has_every_form_of_the_signatures_and_the_first_is_the_default(exported, signatures_of):
    signatures = signatures_of(exported.version)
    expected = {"encode", "encode_uint8", "decode", "sample", "score", "score_uint8", "serving_default"}
    if exported.model.example_shape[-1] != 2:
        expected |= {"encode_png", "decode_png", "sample_png", "score_png"}
    if isinstance(exported.model, LabelledModel):
        expected |= {"classify", "classify_uint8", "classify_png"}
    if isinstance(exported.model, SemiSupervisedModel):
        expected |= {"sample_class", "sample_class_png"}
    assert set(signatures) == expected == {call.signature for call in exported.calls}


def test_every_input_and_output_has_the_leading_dimension_of_the_rows(exported, signatures_of):
    # Or the server could not batch requests.
    for function in signatures_of(exported.version).values():
        _, inputs = function.structured_input_signature
        for spec in [*inputs.values(), *function.structured_outputs.values()]:
            assert spec.shape.rank >= 1
            assert spec.shape[0] is None
            assert None not in spec.shape[1:]


def test_model_card_says_what_goes_in_and_what_comes_out(exported, signatures_of):
    card = json.loads((exported.version / "assets" / "model_card.json").read_text())
    assert card["vaezoo"] == vaezoo.__version__
    assert card["tensorflow"] == tf.__version__
    assert card["image_shape"] == list(exported.model.example_shape)
    assert card["image_range"] == {"float32": [0, 1], "uint8": [0, 255]}
    assert card["card"]["case"] in EXPORTED
    signatures = signatures_of(exported.version)
    assert set(card["signatures"]) == set(signatures) - {"serving_default"}
    for name, described in card["signatures"].items():
        specs = {"inputs": signatures[name].structured_input_signature[1]}
        specs["outputs"] = signatures[name].structured_outputs
        for side, expected in specs.items():
            assert described[side] == {
                key: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for key, spec in expected.items()
            }


@pytest.mark.parametrize("case", ["vae, half precision, two channels"], indirect=True)
def test_half_precision_is_exported_in_float32_near_what_the_model_computes(exported):
    call = exported.calls[0]
    half = exported.model.encode(call.inputs["images"])
    np.testing.assert_allclose(half, call.expected["z"], atol=0.05)  # bfloat16 has 8 bits
    assert abs(half - call.expected["z"]).numpy().max() > MAX_DIFFERENCE


def test_a_row_depends_on_its_own_inputs_only(exported, signatures_of):
    """Batches of another size, in another order and padded with other rows have the same rows."""
    signatures = signatures_of(exported.version)
    for call in exported.calls:
        num_rows = BATCH_SIZES[-1]
        if len(next(iter(call.inputs.values()))) != num_rows:
            continue
        together = signatures[call.signature](**{key: tf.constant(value) for key, value in call.inputs.items()})
        for size in (1, 7, 64):
            rows = np.random.default_rng(size).integers(num_rows, size=size)
            apart = signatures[call.signature](**{key: tf.constant(value[rows]) for key, value in call.inputs.items()})
            for name, value in apart.items():
                if name == "png_bytes":
                    np.testing.assert_array_equal(value.numpy(), together[name].numpy()[rows])
                else:
                    np.testing.assert_allclose(value, together[name].numpy()[rows], rtol=1e-6, atol=1e-6)


def test_other_seeds_give_other_samples(exported, signatures_of):
    sample = signatures_of(exported.version)["sample"]
    images = sample(seed=tf.range(4))["images"].numpy().reshape(4, -1)
    assert len(np.unique(images, axis=0)) == 4


# The C program.


@pytest.mark.parametrize("case", BY_SIGNATURES, indirect=True)
def test_c_consumer_equals_keras(exported, consumer, tmp_path):
    for call in exported.calls:
        if len(next(iter(call.inputs.values()))) == BATCH_SIZES[-1]:
            assert_same_outputs(run_consumer(consumer, exported.version, call, tmp_path), call.expected)


# LiteRT.


def interpreter(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path))


@pytest.mark.parametrize("precision", lite.PRECISIONS)
def test_lite_equals_keras(exported, precision):
    lite = interpreter(exported.lite[precision])
    assert {name: sorted(io["inputs"]) for name, io in lite.get_signature_list().items()} == {
        signature.name: sorted(spec.name for spec in signature.inputs)
        for signature in exported.model.export_signatures()
        if signature.lite
    }
    assert exported.lite_calls
    for call in exported.lite_calls:
        outputs = lite.get_signature_runner(call.signature)(**call.inputs)
        if precision == "float32":
            assert_same_outputs(outputs, call.expected)
        elif precision == "float16":
            for name, value in call.expected.items():
                np.testing.assert_allclose(outputs[name], value, rtol=1e-2, atol=1e-2)


def test_lite_report_is_what_the_files_do(exported):
    report = json.loads(exported.report.read_text())
    assert set(report) == set(lite.PRECISIONS) == set(exported.lite)
    oracle = in_float32(exported.model)
    z = oracle.encode(oracle.sample(lite.REPORT_ROWS, seed=0)).numpy()
    for precision, path in exported.lite.items():
        assert report[precision]["bytes"] == path.stat().st_size
        measured = report[precision]["decode"]
        (images,) = interpreter(path).get_signature_runner("decode")(z=z).values()
        difference = images - oracle.decode(z).numpy()
        assert measured["max_difference"] == pytest.approx(np.abs(difference).max(), abs=1e-6)
        assert measured["milliseconds"] > 0
    for signature in ("encode", "decode"):
        assert report["float32"][signature]["max_difference"] < MAX_DIFFERENCE
        assert report["float16"][signature]["relative_difference"] < 1e-2
        assert report["int8"][signature]["relative_difference"] < 0.1


def test_lower_precisions_make_smaller_files(tmp_path):
    model = MODELS["vae"](image_shape=(28, 28, 1), latent_dim=20, hidden_units=(100, 100))
    lite = exporting.export(model, tmp_path, "vae").lite
    sizes = {precision: path.stat().st_size / lite["float32"].stat().st_size for precision, path in lite.items()}
    assert 0.45 < sizes["float16"] < 0.55
    assert 0.2 < sizes["int8"] < 0.3


@pytest.mark.parametrize("precision", lite.PRECISIONS)
def test_lite_uses_builtin_ops_only(exported, precision):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(exported.lite[precision].read_bytes())
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert codes
    for code in codes:
        assert code.BuiltinCode() != schema.BuiltinOperator.CUSTOM
        assert code.CustomCode() is None


@pytest.mark.parametrize("case", ["vae"], indirect=True)
def test_lite_runs_where_tensorflow_is_not(exported, tmp_path):
    call = exported.lite_calls[-1]
    np.savez(tmp_path / "inputs.npz", **call.inputs)
    script = f"""
import sys
sys.modules["tensorflow"] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter
run = Interpreter({str(exported.lite["float32"])!r}).get_signature_runner({call.signature!r})
np.savez("outputs.npz", **run(**np.load("inputs.npz")))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert_same_outputs(dict(np.load(tmp_path / "outputs.npz")), call.expected)


def test_lite_samples_are_images_and_never_the_same(exported):
    # A second interpreter stands for a second process: a seed in the file would make both draw the same.
    runners = [interpreter(exported.lite["float32"]).get_signature_runner("sample") for _ in range(2)]
    for num_samples in (1, 5):
        draws = [runner(num_samples=np.int32(num_samples))["images"] for runner in runners for _ in range(2)]
        for images in draws:
            assert images.shape == (num_samples, *exported.model.example_shape)
            assert images.min() >= 0
            assert images.max() <= 1
    # Of the draws of five: two single images may be equal, where all units of a small net are off.
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(draws, 2))


# The files.


LITE_FILES = ["vae.float16.tflite", "vae.float32.tflite", "vae.int8.tflite", "vae.lite.json"]


def test_second_export_adds_a_version_leaves_the_first_alone_and_prints_nothing(tiny, tmp_path, capfd):
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"  # TensorFlow's own switch, as the command line sets it
    first = exporting.export(tiny, tmp_path, "vae").version
    assert first == tmp_path / "vae" / "1"
    before = hashes(first)
    tiny.set_weights([2.0 * weight for weight in tiny.get_weights()])
    (tmp_path / f"{files.PREFIX}x").mkdir()  # what a killed export left
    second, lite, report = exporting.export(tiny, tmp_path, "vae")
    printed = capfd.readouterr()
    # TensorFlow 2.18's converter writes two of its warnings whatever the switch says.
    lines = [line for line in printed.err.splitlines() if "tf_tfl_flatbuffer_helpers.cc" not in line]
    assert (printed.out, lines) == ("", [])
    assert second == tmp_path / "vae" / "2"
    assert hashes(first) == before
    images = np.full((2, *tiny.example_shape), 0.5, np.float32)
    expected = {"z": tiny.encode(images).numpy()}
    assert_same_outputs(interpreter(lite["float32"]).get_signature_runner("encode")(images=images), expected)
    assert sorted(path.name for path in (report, *lite.values())) == LITE_FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae", *LITE_FILES]
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["1", "2"]


def test_version_is_one_above_the_highest_number(tmp_path):
    for name in ("3", "10", "v99", "0.5"):
        (tmp_path / "vae" / name).mkdir(parents=True)
    with exporting.new_version(tmp_path, "vae") as version:
        assert version == tmp_path / "vae" / "11"


@pytest.mark.parametrize("broken", ["saved_model.save", "lite.TFLiteConverter.from_saved_model"])
def test_until_all_are_complete_none_is_there_and_a_failure_leaves_nothing(tiny, tmp_path, monkeypatch, broken):
    folder = tmp_path / "new" / "models"

    def fail(*args, **kwargs):
        # A process that is killed here leaves what there is now.
        aside = files.PREFIX, files.LOCK
        assert not [path for path in hashes(folder) if not any(p.startswith(aside) for p in path.parts)]
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
    for path in ("vae/1/saved_model.pb", *LITE_FILES):
        (tmp_path / path).write_bytes(b"earlier")
    before = sorted(tmp_path.rglob("*")), hashes(tmp_path)
    monkeypatch.setattr(lite, "converted", lambda model: (_ for _ in ()).throw(RuntimeError("broken")))
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
