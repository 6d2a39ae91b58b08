"""The C program that runs an export, on a small SavedModel whose signatures reach each of its paths."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

PNG_SHAPE = (4, 5, 3)
# Around the small-string optimisation's limit, with zeros where C would end a text, and longer than one read.
STRINGS = {
    "empty": b"",
    "zero": b"\0",
    "short": b"a\0b\0\0",
    "longest small": bytes(range(22)),
    "shortest large": bytes(range(23)),
    "zeros": b"\0" * 100,
    "one read": np.random.default_rng(0).bytes(1 << 16),
    "long": np.random.default_rng(1).bytes((1 << 20) + 12345) + b"\0\0",
}


def strings(*shape, name="png_bytes"):
    return tf.TensorSpec(shape, tf.string, name)


def floats(*shape, name="z"):
    return tf.TensorSpec(shape, tf.float32, name)


def decode_png(png_bytes):
    return tf.ensure_shape(tf.io.decode_png(png_bytes, channels=PNG_SHAPE[-1]), PNG_SHAPE)


# Signatures: name -> function, specs of its arguments.
SIGNATURES = {
    "double": (lambda z: {"doubled": 2 * z}, [floats(None, 3)]),
    "identity": (lambda png_bytes: {"png_bytes": tf.identity(png_bytes)}, [strings(None)]),
    "two": (lambda a, b: {"b": b, "a": a}, [strings(None, name="a"), strings(None, name="b")]),
    "images_of": (
        lambda png_bytes: {"images": tf.map_fn(decode_png, png_bytes, fn_output_signature=tf.uint8)},
        [strings(None)],
    ),
    "pngs_of": (
        lambda images: {"png_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)},
        [tf.TensorSpec((None, *PNG_SHAPE), tf.uint8, "images")],
    ),
    "number": (
        lambda png_bytes, seed: {"png_bytes": png_bytes + tf.strings.as_string(seed), "next_seed": seed + 1},
        [strings(None), tf.TensorSpec((None,), tf.int32, "seed")],
    ),
    "two_of_each": (lambda png_bytes: {"png_bytes": png_bytes}, [strings(2)]),
    "table": (lambda png_bytes: {"png_bytes": png_bytes}, [strings(None, 2)]),
    "as_table": (lambda png_bytes: {"a": tf.size(png_bytes), "png_bytes": png_bytes[:, None]}, [strings(None)]),
    "join": (
        lambda png_bytes: {"a": tf.size(png_bytes), "png_bytes": tf.strings.reduce_join(png_bytes)},
        [strings(None)],
    ),
    "nothing": (lambda png_bytes: {"png_bytes": png_bytes[:0]}, [strings(None)]),
    "float64": (lambda z: {"a": z, "wide": tf.cast(z, tf.float64)}, [floats(None, 3)]),
}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """The folder of a SavedModel with SIGNATURES."""
    folder, module = tmp_path_factory.mktemp("saved_model"), tf.Module()
    functions = {name: tf.function(function, input_signature=specs) for name, (function, specs) in SIGNATURES.items()}
    tf.saved_model.save(
        module, folder, {name: function.get_concrete_function() for name, function in functions.items()}
    )
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what the tests give the program."""
    folder = tmp_path_factory.mktemp("files")
    z = np.zeros((2, 3), np.float32)
    arrays = {"z": z, "float64": z.astype(float), "fortran": np.asfortranarray(z), "int64": z.astype(np.int64)}
    arrays |= {"wide": np.zeros((2, 4), np.float32), "seed": np.array([7, -8], np.int32)}
    images = np.random.default_rng(0).integers(256, size=(3, *PNG_SHAPE), dtype=np.uint8)
    for name, value in {**arrays, "images": images}.items():
        np.save(folder / f"{name}.npy", value)
    for row, image in enumerate(images):
        (folder / f"{row}.png").write_bytes(tf.io.encode_png(image).numpy())
    (folder / "cut.npy").write_bytes((folder / "z.npy").read_bytes()[:-4])
    (folder / "text.npy").write_text("not an array")
    for name, content in STRINGS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def run(saved_model, files, consumer, tmp_path, monkeypatch):
    """Returns a function that runs a signature from within the folder of files, and returns the outputs' paths."""
    monkeypatch.chdir(files)

    def run(*args):
        finished = consumer(saved_model, *args, "-o", tmp_path / "out")
        assert finished.returncode == 0, finished.stderr
        assert "consumer: " not in finished.stderr  # where TensorFlow may log
        paths = [pathlib.Path(line) for line in finished.stdout.splitlines()]
        assert sorted(paths) == sorted((tmp_path / "out").iterdir())
        return {path.name: path for path in paths}

    return run


@pytest.fixture
def run_badly(saved_model, files, consumer, tmp_path, monkeypatch):
    """Returns a function that runs what must fail before anything is written, and returns the line that says why."""
    monkeypatch.chdir(files)

    def run_badly(*args):
        finished = consumer(saved_model, *args, "-o", tmp_path / "out")
        assert finished.returncode == 1
        assert finished.stdout == ""
        (line,) = (line for line in finished.stderr.splitlines() if line.startswith("consumer: "))
        assert finished.stderr.endswith(f"{line}\n")
        assert not (tmp_path / "out").exists()
        return line.removeprefix("consumer: ")

    return run_badly


def test_floats(run):
    paths = run("double", "z=z.npy")
    assert list(paths) == ["doubled.npy"]
    np.testing.assert_array_equal(np.load(paths["doubled.npy"]), np.zeros((2, 3), np.float32))


# String tensors.


def test_strings_come_back_byte_for_byte(run):
    names = [*STRINGS, "long", "short"]  # two of them twice
    paths = run("identity", f"png_bytes={','.join(names)}")
    assert list(paths) == [f"png_bytes.{row}" for row in range(len(names))]
    assert [path.read_bytes() for path in paths.values()] == [STRINGS[name] for name in names]


def test_one_string(run):
    paths = run("identity", "png_bytes=long")
    assert {name: path.read_bytes() for name, path in paths.items()} == {"png_bytes.0": STRINGS["long"]}


def test_the_signature_says_what_is_string_and_not_the_name_of_the_file(run, files):
    paths = run("identity", "png_bytes=z.npy")
    assert paths["png_bytes.0"].read_bytes() == (files / "z.npy").read_bytes()


def test_string_inputs_are_given_by_name(run):
    paths = run("two", "b=long,zero", "a=short")
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        "a.0": STRINGS["short"],
        "b.0": STRINGS["long"],
        "b.1": STRINGS["zero"],
    }


def test_decodes_png_files(run, files):
    paths = run("images_of", "png_bytes=2.png,0.png,1.png")
    np.testing.assert_array_equal(np.load(paths["images.npy"]), np.load(files / "images.npy")[[2, 0, 1]])


def test_encodes_png_files(run, files):
    paths = run("pngs_of", "images=images.npy")
    assert list(paths) == ["png_bytes.0", "png_bytes.1", "png_bytes.2"]
    for path, image in zip(paths.values(), np.load(files / "images.npy"), strict=True):
        assert path.read_bytes().startswith(b"\x89PNG")
        np.testing.assert_array_equal(decode_png(path.read_bytes()), image)


def test_strings_and_integers_together(run):
    paths = run("number", "png_bytes=short,long", "seed=seed.npy")
    assert paths["png_bytes.0"].read_bytes() == STRINGS["short"] + b"7"
    assert paths["png_bytes.1"].read_bytes() == STRINGS["long"] + b"-8"
    np.testing.assert_array_equal(np.load(paths["next_seed.npy"]), np.array([8, -7], np.int32))
    assert len(paths) == 3


def test_no_rows_are_no_files(run):
    assert run("nothing", "png_bytes=short") == {}


# What is wrong is said in one line.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nosuch", "z=z.npy"), "`SIGNATURE` must be one of: "),
        (("double",), "double must be given `z`: add z=FILE.npy"),
        (("double", "images=z.npy"), "the inputs of double must be: z. Received: images"),
        (("double", "z"), "an input must be given as NAME=FILE.npy or NAME=FILE,FILE,... Received: z"),
        (("double", "z=z.npy", "z=z.npy"), "`z` must be given once"),
        (("double", "z=nosuch.npy"), "nosuch.npy cannot be read: No such file or directory"),
        (("double", "z=float64.npy"), "float64.npy must be float32, int32, uint8 or int64. Received: '<f8'"),
        (("double", "z=fortran.npy"), "fortran.npy must be in C order"),
        (("double", "z=cut.npy"), "cut.npy must hold 24 bytes of data. Received: 20"),
        (("double", "z=text.npy"), "text.npy must be a .npy file of format version 1.0"),
        (("double", "z=0.png"), "0.png must be a .npy file of format version 1.0"),
        (("double", "z=int64.npy"), "`z` must be float32. Received: int64"),
        (("double", "z=wide.npy"), "`z` must have shape [any, 3]. Received: [2, 4]"),
        (("float64", "z=z.npy"), "the output `wide` cannot be written: it is of a type this program does not know"),
        (("identity",), "identity must be given `png_bytes`: add png_bytes=FILE,FILE,..."),
        (("identity", "png_bytes=0.png,nosuch.png"), "nosuch.png cannot be read: No such file or directory"),
        (("identity", "png_bytes=0.png,."), ". cannot be read: Is a directory"),
        *(
            (
                ("identity", f"png_bytes={paths}"),
                f"`png_bytes` must be given as FILE,FILE,... with no name empty. Received: {paths}",
            )
            for paths in ("", ",", "0.png,", ",0.png", "0.png,,1.png")
        ),
        (("two_of_each", "png_bytes=0.png"), "`png_bytes` must have shape [2]. Received: [1]"),
        (("table", "png_bytes=0.png"), "`png_bytes` must have shape [any, 2]. Received: [1]"),
        (("as_table", "png_bytes=0.png"), "the output `png_bytes` must have rank 1, being string. Received: rank 2"),
        (("join", "png_bytes=0.png"), "the output `png_bytes` must have rank 1, being string. Received: rank 0"),
    ],
)
def test_says_what_is_wrong(run_badly, args, message):
    line = run_badly(*args)
    if message.startswith("`SIGNATURE`"):
        known, received = line.removeprefix(message).split(". Received: ")
        assert sorted(known.split(", ")) == sorted(SIGNATURES)
        assert received == "nosuch"
    else:
        assert line == message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("number", "png_bytes=0.png,1.png,2.png", "seed=seed.npy"), "Incompatible shapes"),
        (("images_of", "png_bytes=0.png,text.npy"), "Unknown image file format|Expected image"),
    ],
)
def test_says_in_one_line_what_tensorflow_finds_wrong(run_badly, args, message):
    line = run_badly(*args)
    assert line.startswith(f"{args[0]}: ")
    assert any(part in line for part in message.split("|"))
