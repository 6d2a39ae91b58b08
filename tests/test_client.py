"""The client of TensorFlow Serving, against recorded REST answers and a gRPC service with a small SavedModel."""

import base64
import contextlib
import http.server
import importlib.util
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

PATH = pathlib.Path(__file__).parents[1] / "export" / "serving" / "client.py"
HEIGHT, WIDTH = 4, 3


def load():
    spec = importlib.util.spec_from_file_location("vaezoo_serving_client", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


client = load()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "_WAITS", (0.01, 0.02, 0.04))


def png(value=0, height=HEIGHT, width=WIDTH):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


# REST: answers as the server's documentation and source have them.


def tensor(dtype, *shape):
    dims = [{"size": str(size), "name": ""} for size in (-1, *shape)]  # int64 is a string in protobuf's JSON
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "some_tensor:0"}


IMAGES, UINT8, PNG = tensor("DT_FLOAT", HEIGHT, WIDTH, 1), tensor("DT_UINT8", HEIGHT, WIDTH, 1), tensor("DT_STRING")
Z, SEED, ELBO = tensor("DT_FLOAT", 2), tensor("DT_INT32"), tensor("DT_FLOAT")
SIGNATURES = {
    "encode": ({"images": IMAGES}, {"z": Z}),
    "encode_uint8": ({"images": UINT8}, {"z": Z}),
    "encode_png": ({"png_bytes": PNG}, {"z": Z}),
    "decode": ({"z": Z}, {"images": IMAGES}),
    "sample": ({"seed": SEED}, {"images": IMAGES}),
    "sample_png": ({"seed": SEED}, {"png_bytes": PNG}),
    "score": ({"images": IMAGES, "seed": SEED}, {"elbo": ELBO}),
    "score_uint8": ({"images": UINT8, "seed": SEED}, {"elbo": ELBO}),
    "score_png": ({"png_bytes": PNG, "seed": SEED}, {"elbo": ELBO}),
    "classify": ({"images": IMAGES}, {"label": tensor("DT_INT64"), "probabilities": tensor("DT_FLOAT", 3)}),
}
METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "1"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                name: {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
                for name, (inputs, outputs) in SIGNATURES.items()
            }
            | {
                "__saved_model_init_op": {
                    "inputs": {},
                    "outputs": {
                        "__saved_model_init_op": {
                            "dtype": "DT_INVALID",
                            "tensor_shape": {"dim": [], "unknown_rank": True},
                            "name": "NoOp",
                        }
                    },
                    "method_name": "",
                }
            }
        }
    },
}
STATUS = {
    "model_version_status": [
        {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        {"version": "1", "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "no\nfiles"}},
    ]
}


class Recorded(http.server.ThreadingHTTPServer):
    """Answers a GET by METADATA or STATUS and each POST by the next of `answers`; keeps the requests.

    An answer is (status, body) or (status, body, seconds to wait); the body is JSON, or text. None hangs up.
    """

    def __init__(self):
        self.answers, self.requests = [], []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def posts(self):
        return [(path, body) for method, path, body in self.requests if method == "POST"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(("GET", self.path, None))
        self.reply(200, METADATA if self.path.endswith("/metadata") else STATUS)

    def do_POST(self):
        assert self.headers["Content-Type"] == "application/json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path, body))
        answer = self.server.answers.pop(0)
        if answer is None:
            self.close_connection = True
        else:
            self.reply(*answer)

    def reply(self, status, body, seconds=0.0):
        time.sleep(seconds)
        content = (body if isinstance(body, str) else json.dumps(body, indent=4)).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Recorded() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def rest(server):
    """Returns a function that makes a client of the recorded server, whose POSTs get these answers."""
    with contextlib.ExitStack() as stack:

        def make(*answers, timeout=5.0, **arguments):
            server.answers += answers
            transport = client.Rest(server.url, timeout=timeout)
            return stack.enter_context(client.Client(transport, "m", **arguments))

        yield make


FLOATS = np.linspace(0, 1, 2 * HEIGHT * WIDTH, dtype=np.float32).reshape(2, HEIGHT, WIDTH, 1)
CODES = [[0.5, -1.0], [2.0, 3.25]]


def test_rest_encodes_floats(rest, server):
    z = rest((200, {"outputs": CODES})).encode(FLOATS)
    assert server.requests == [
        ("GET", "/v1/models/m/labels/stable/metadata", None),
        (
            "POST",
            "/v1/models/m/labels/stable:predict",
            {"signature_name": "encode", "inputs": {"images": FLOATS.tolist()}},
        ),
    ]
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, CODES)


def test_rest_sends_every_float_exactly(rest, server):
    images = np.random.default_rng(0).random((2, HEIGHT, WIDTH, 1), np.float32)
    rest((200, {"outputs": CODES})).encode(images)
    (_, body), *_ = server.posts()
    np.testing.assert_array_equal(np.array(body["inputs"]["images"], np.float32), images)


@pytest.mark.parametrize(
    ("call", "signature", "inputs", "outputs"),
    [
        (lambda c: c.encode(FLOATS.astype(np.float64)), "encode", {"images": FLOATS.tolist()}, CODES),
        (
            lambda c: c.encode(np.full((2, HEIGHT, WIDTH, 1), 255, np.uint8)),
            "encode_uint8",
            {"images": [[[[255]] * WIDTH] * HEIGHT] * 2},
            CODES,
        ),
        (lambda c: c.encode([png(1), png(2)]), "encode_png", {"png_bytes": [b64(png(1)), b64(png(2))]}, CODES),
        (
            lambda c: c.encode(np.array([png(1), png(2)], object)),
            "encode_png",
            {"png_bytes": [b64(png(1)), b64(png(2))]},
            CODES,
        ),
        (lambda c: c.decode([[1, -2], [3, 0.5]]), "decode", {"z": [[1, -2], [3, 0.5]]}, FLOATS.tolist()),
        (lambda c: c.sample([7, -(2**31)]), "sample", {"seed": [7, -(2**31)]}, FLOATS.tolist()),
        (lambda c: c.score(FLOATS, [1, 2]), "score", {"images": FLOATS.tolist(), "seed": [1, 2]}, [-1.5, -2.0]),
        (
            lambda c: c.score(np.zeros((1, HEIGHT, WIDTH, 1), np.uint8), np.int64([3])),
            "score_uint8",
            {"images": [[[[0]] * WIDTH] * HEIGHT], "seed": [3]},
            [-3.0],
        ),
        (lambda c: c.score((png(),), [3]), "score_png", {"png_bytes": [b64(png())], "seed": [3]}, [-3.0]),
    ],
)  # fmt: skip
def test_rest_signatures(rest, server, call, signature, inputs, outputs):
    answer = call(rest((200, {"outputs": outputs})))
    (_, body), *_ = server.posts()
    assert body == {"signature_name": signature, "inputs": inputs}
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, np.float32(outputs))


def test_rest_strings_come_back_as_bytes(rest):
    files = [png(1), png(2) + b"\0\0"]
    answer = rest((200, {"outputs": [b64(file) for file in files]})).predict("sample_png", seed=[1, 2])
    assert answer.keys() == {"png_bytes"}
    assert answer["png_bytes"].tolist() == files


LABELS, PROBABILITIES = [2**40, 0], [[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": {"label": LABELS, "probabilities": PROBABILITIES}},
        {"predictions": [{"label": i, "probabilities": p} for i, p in zip(LABELS, PROBABILITIES, strict=True)]},
    ],
)
def test_rest_several_outputs_by_columns_and_by_rows(rest, answer):
    outputs = rest((200, answer)).predict("classify", images=FLOATS)
    assert outputs["label"].dtype == np.int64
    assert outputs["label"].tolist() == LABELS
    assert outputs["probabilities"].dtype == np.float32
    assert outputs["probabilities"].tolist() == PROBABILITIES


def test_rest_an_only_output_by_rows(rest):
    np.testing.assert_array_equal(rest((200, {"predictions": CODES})).encode(FLOATS), CODES)


def test_rest_not_a_number_is_answered_as_it_is(rest):
    elbo = rest((200, '{"outputs": [NaN, -Infinity]}')).score(FLOATS, [0, 0])
    np.testing.assert_array_equal(elbo, [np.nan, -np.inf])


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ({}, "/v1/models/m/labels/stable"),
        ({"label": "canary"}, "/v1/models/m/labels/canary"),
        ({"version": 12}, "/v1/models/m/versions/12"),
        ({"label": None, "version": 0}, "/v1/models/m/versions/0"),
        ({"label": None}, "/v1/models/m"),
        ({"label": "a b/c:d"}, "/v1/models/m/labels/a%20b%2Fc%3Ad"),
    ],
)
def test_rest_version_or_label_in_the_path(rest, server, which, path):
    rest((200, {"outputs": CODES}), **which).encode(FLOATS)
    requests = [(method, at) for method, at, _ in server.requests]
    assert requests == [("GET", f"{path}/metadata"), ("POST", f"{path}:predict")]


def test_rest_behind_a_prefix_and_with_blanks_in_the_name(server):
    server.answers.append((200, {"outputs": CODES}))
    with client.Client(client.Rest(f"{server.url}/prefix/"), "my model") as served:
        served.encode(FLOATS)
    assert server.posts()[0][0] == "/prefix/v1/models/my%20model/labels/stable:predict"


def test_rest_status_of_all_versions(rest, server):
    assert rest(version=2).status() == [(2, "AVAILABLE", ""), (1, "END", "NOT_FOUND: no files")]
    assert server.requests == [("GET", "/v1/models/m", None)]


def test_rest_metadata(rest):
    signatures = rest().signatures
    assert signatures.keys() == SIGNATURES.keys()
    assert signatures["score_png"].inputs == {"png_bytes": (np.dtype(object), (None,)), "seed": (np.int32, (None,))}
    assert signatures["encode"].inputs == {"images": (np.float32, (None, HEIGHT, WIDTH, 1))}
    assert signatures["encode"].outputs == {"z": (np.float32, (None, 2))}


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((400, {"error": "JSON Value: \n1 is bad"}), client.ServingError, "HTTP 400: JSON Value: 1 is bad"),
        ((404, {"error": "Servable not found"}), client.ServingError, "HTTP 404: Servable not found"),
        ((429, {"error": "too many"}), client.ServingError, "HTTP 429: too many"),
        ((413, "<html>\ntoo large</html>"), client.ServingError, "HTTP 413: <html> too large</html>"),
        ((400, '["error"]'), client.ServingError, 'HTTP 400: ["error"]'),
        ((500, ""), client.ServingError, "HTTP 500: Internal Server Error"),
        ((302, ""), client.ServingError, "HTTP 302: Found"),
    ],
)
def test_rest_errors_of_the_server_are_not_retried(rest, server, answer, kind, message):
    with pytest.raises(client.ServingError) as caught:
        rest(answer, label="canary").encode(FLOATS)
    assert type(caught.value) is kind
    assert caught.value.code == answer[0]
    assert str(caught.value) == f"{server.url}, model 'm', label 'canary', signature 'encode': {message}"
    assert len(server.posts()) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((502, "Bad gateway"), client.ServingUnavailable, "HTTP 502: Bad gateway"),
        ((503, {"error": "The batch queue is full"}), client.ServingUnavailable, "HTTP 503: The batch queue is full"),
        ((504, {"error": "deadline"}), client.ServingTimeout, "HTTP 504: deadline"),
    ],
)
def test_rest_busy_servers_are_asked_again(rest, server, answer, kind, message):
    np.testing.assert_array_equal(rest(answer, answer, (200, {"outputs": CODES})).encode(FLOATS), CODES)
    (first, *others) = server.posts()
    assert others == [first, first]
    with pytest.raises(kind) as caught:
        rest(*[answer] * 4).encode(FLOATS)
    assert caught.value.code == answer[0]
    assert str(caught.value).endswith(message)
    assert not server.answers


def test_rest_a_connection_that_breaks_is_made_again(rest, server):
    np.testing.assert_array_equal(rest(None, (200, {"outputs": CODES})).encode(FLOATS), CODES)
    assert len(server.posts()) == 2


def test_rest_slow_answers_end_in_time(rest, server):
    start = time.monotonic()
    with pytest.raises(client.ServingTimeout, match="no answer within 0.3 s") as caught:
        rest((200, {"outputs": CODES}, 1.0), timeout=0.3).encode(FLOATS)
    assert time.monotonic() - start < 0.9
    assert caught.value.code is None
    assert len(server.posts()) == 1


def test_rest_retries_share_one_time_out(rest, server, monkeypatch):
    monkeypatch.setattr(client, "_WAITS", (0.01,) * 1000)
    start = time.monotonic()
    with pytest.raises((client.ServingUnavailable, client.ServingTimeout)):  # as the time ends in a wait or in a try
        rest(*[(503, {"error": "busy"}, 0.01)] * 1000, timeout=0.4).encode(FLOATS)
    assert 0.2 < time.monotonic() - start < 2
    assert 2 < len(server.posts()) < 100


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_rest_without_a_server():
    url = f"http://127.0.0.1:{free_port()}"
    with client.Client(client.Rest(url), "m") as served, pytest.raises(client.ServingUnavailable) as caught:
        served.sample([0])
    assert str(caught.value) == f"{url}, model 'm', label 'stable': no answer: [Errno 111] Connection refused"
    assert caught.value.code is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"outputs": [[1.0', "JSONDecodeError"),
        ("<html>Sign in</html>", "JSONDecodeError"),
        ({"results": []}, "KeyError('outputs')"),
        ([1, 2], "TypeError"),
        ({"outputs": [[1.0, 2.0]]}, "2 rows were sent, 'z' has shape (1, 2)"),
        ({"outputs": [[1.0], [2.0]]}, "2 rows were sent, 'z' has shape (2, 1)"),
        ({"outputs": [[1.0, 2.0], [3.0]]}, "ValueError"),
        ({"outputs": [["a", "b"], ["c", "d"]]}, "ValueError"),
    ],
)
def test_rest_answers_that_are_not_the_servers(rest, body, message):
    with pytest.raises(client.ServingError, match="not an answer of TensorFlow Serving") as caught:
        rest((200, body)).encode(FLOATS)
    assert message in str(caught.value)


@pytest.mark.parametrize("outputs", [[{"b64": "%"}], [{"bytes": "AA=="}], [[b64(b"a")]], [3]])
def test_rest_strings_that_are_not_the_servers(rest, outputs):
    with pytest.raises(client.ServingError, match="not an answer of TensorFlow Serving"):
        rest((200, {"outputs": outputs})).predict("sample_png", seed=[0])


def test_rest_messages_stay_short(rest):
    with pytest.raises(client.ServingError) as caught:
        rest((400, {"error": "x" * 100_000})).encode(FLOATS)
    assert len(str(caught.value)) < 700


# Arguments.

NUMBERS = np.zeros((2, HEIGHT, WIDTH, 1))


def replaced(value):
    images = NUMBERS.copy()
    images[1, 2, 1, 0] = value
    return images


def corrupted(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode(replaced(np.nan)), r"`images` must be in \[0, 1\]. Received: values in \[nan, nan\]"),
        (lambda c: c.encode(replaced(np.inf)), r"`images` must be in \[0, 1\]"),
        (lambda c: c.encode(replaced(-1e-6)), r"`images` must be in \[0, 1\]"),
        (lambda c: c.encode(replaced(1.001)), r"`images` must be in \[0, 1\]"),
        (lambda c: c.encode(NUMBERS.astype(int) + 255), r"`images` must be in \[0, 1\]"),
        (lambda c: c.encode(NUMBERS > 0), "`images` must be numbers that fit float32. Received: dtype bool"),
        (lambda c: c.encode(NUMBERS + 0j), "`images` must be numbers that fit float32"),
        (lambda c: c.encode("abc"), "`images` must be numbers that fit float32"),
        (lambda c: c.encode(png()), "`images` must be numbers that fit float32"),
        (lambda c: c.encode(None), "`images` must be numbers that fit float32. Received: dtype object"),
        (lambda c: c.encode(NUMBERS[:0]), r"`images` must have the shape \[n, 4, 3, 1\] with n > 0. Received: \[0, 4,"),
        (lambda c: c.encode(NUMBERS[0]), r"Received: \[4, 3, 1\]"),
        (lambda c: c.encode(NUMBERS[..., 0]), r"Received: \[2, 4, 3\]"),
        (lambda c: c.encode(NUMBERS.transpose(0, 2, 1, 3).astype(np.uint8)), r"Received: \[2, 3, 4, 1\]"),
        (lambda c: c.encode([NUMBERS[0], NUMBERS[0, 1:]]), "`images` must be an array. Received: "),
        (lambda c: c.encode([]), r"`images` must have the shape .* Received: \[0\]"),
        (lambda c: c.encode(3.0), r"Received: \[\]"),
        (lambda c: c.encode([png(), NUMBERS[0]]), "`png_bytes` must be a list of bytes"),
        (lambda c: c.encode([png(), b""]), r"`png_bytes\[1\]` must be a PNG file of 4x3 pixels. Received: cannot"),
        (lambda c: c.encode([png(height=WIDTH, width=HEIGHT)]), r"`png_bytes\[0\]` .* Received: 3x4 pixels"),
        (lambda c: c.score([png()[:-30]], [0]), r"`png_bytes\[0\]` must be a PNG file"),
        (lambda c: c.score([png()[:-12]], [0]), r"`png_bytes\[0\]` must be a PNG file"),
        (lambda c: c.score([png()[:-1]], [0]), r"`png_bytes\[0\]` must be a PNG file"),
        (lambda c: c.score([corrupted(png(), 45)], [0]), r"`png_bytes\[0\]` must be a PNG file"),
        (lambda c: c.predict("encode_png", png_bytes=png()), r"`png_bytes` must have the shape \[n\] with n > 0"),
        (lambda c: c.predict("encode_png", png_bytes=None), "`png_bytes` must be a list of bytes. Received: None"),
        (lambda c: c.predict("encode_png", png_bytes=["a"]), "`png_bytes` must be a list of bytes"),
        (lambda c: c.predict("encode_png", png_bytes=[]), r"`png_bytes` must have the shape \[n\] with n > 0"),
        (lambda c: c.decode([[0.0, np.nan]]), "`z` must be in .* Received: values in .nan, nan"),
        (lambda c: c.decode([[0.0, 1e39]]), "`z` must be in "),
        (lambda c: c.decode([0.0, 1.0]), r"`z` must have the shape \[n, 2\]"),
        (lambda c: c.sample([1.0]), "`seed` must be numbers that fit int32. Received: dtype float64"),
        (lambda c: c.sample([True]), "`seed` must be numbers that fit int32. Received: dtype bool"),
        (lambda c: c.sample(["1"]), "`seed` must be numbers that fit int32"),
        (lambda c: c.sample([0, 2**31]), r"`seed` must be in \[-2147483648, 2147483647\]"),
        (lambda c: c.sample([-(2**31) - 1]), "`seed` must be in"),
        (lambda c: c.sample([2**70]), "`seed` must be numbers that fit int32"),
        (lambda c: c.sample(3), r"`seed` must have the shape \[n\] with n > 0. Received: \[\]"),
        (lambda c: c.sample([[3]]), r"`seed` must have the shape \[n\]"),
        (lambda c: c.score(NUMBERS, [0]), "Inputs must have equally many rows. Received: {'images': 2, 'seed': 1}"),
        (lambda c: c.predict("encodes", images=NUMBERS), "`signature` must be one of: classify, .* 'encodes'"),
        (lambda c: c.predict("__saved_model_init_op"), "`signature` must be one of"),
        (lambda c: c.predict("encode", x=NUMBERS), r"Inputs of 'encode' must be: images. Received: \['x'\]"),
        (lambda c: c.predict("score", images=NUMBERS), "Inputs of 'score' must be: images, seed"),
        (lambda c: c.predict("encode_uint8", images=NUMBERS), "`images` must be numbers that fit uint8"),
        (lambda c: c.predict("encode_uint8", images=NUMBERS.astype(int) - 1), r"`images` must be in \[0, 255\]"),
        (lambda c: c.predict("classify", images=NUMBERS + 2), r"`images` must be in \[0, 1\]"),
    ],
)  # fmt: skip
def test_bad_arguments_are_not_sent(rest, server, call, message):
    with pytest.raises(ValueError, match=message):
        call(rest())
    assert server.posts() == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: client.Rest("localhost:8501"), "`url` must be http://HOST:PORT"),
        (lambda: client.Rest("http://"), "`url` must be http://HOST:PORT"),
        (lambda: client.Rest(timeout=0), "`connect_timeout` and `timeout` must be > 0 s. Received: 5.0, 0"),
        (lambda: client.Rest(connect_timeout=float("nan")), "`connect_timeout` and `timeout`"),
        (lambda: client.Client(client.Rest(), ""), "`model` must be a name"),
        (lambda: client.Client(client.Rest(), "m", label="canary", version=1), "`label` must be None if there is a `v"),
        (lambda: client.Client(client.Rest(), "m", max_batch=0), "`max_batch` must be at least 1"),
    ],
)  # fmt: skip
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_big_batches_are_split(rest, server):
    sizes, seeds = (3, 3, 2), np.arange(8)
    answers = [(200, {"outputs": (-seeds[start : start + 3]).tolist()}) for start in (0, 3, 6)]
    images = np.arange(8 * HEIGHT * WIDTH, dtype=np.float32).reshape(8, HEIGHT, WIDTH, 1) / 1000
    elbo = rest(*answers, max_batch=3).score(images, seeds)
    assert elbo.tolist() == (-seeds).tolist()
    bodies = [body["inputs"] for _, body in server.posts()]
    assert tuple(len(body["images"]) for body in bodies) == sizes
    np.testing.assert_array_equal(np.concatenate([body["images"] for body in bodies]).astype(np.float32), images)
    assert [seed for body in bodies for seed in body["seed"]] == seeds.tolist()


def test_batches_are_of_32_by_default(rest, server):
    rest((200, {"outputs": CODES * 16}), (200, {"outputs": CODES[:1]})).encode([png()] * 33)
    assert [len(body["inputs"]["png_bytes"]) for _, body in server.posts()] == [32, 1]


# gRPC: the service runs the signatures of a SavedModel, as the server does.

OTHER_WIDTH = 300_000


def save_small_model(path):
    import tensorflow as tf

    shape = [HEIGHT, WIDTH, 1]

    def spec(name, dtype, *dims):
        return tf.TensorSpec([None, *dims], dtype, name)

    images, uint8 = spec("images", tf.float32, *shape), spec("images", tf.uint8, *shape)
    png_bytes, seed, z = spec("png_bytes", tf.string), spec("seed", tf.int32), spec("z", tf.float32, 2)

    def decoded(png_bytes):
        files = tf.map_fn(lambda file: tf.io.decode_png(file, 1), png_bytes, fn_output_signature=tf.uint8)
        return floats(tf.ensure_shape(files, [None, *shape]))

    def floats(images):
        return tf.cast(images, tf.float32) / 255

    def code(images):
        return {"z": tf.stack([tf.reduce_mean(images, [1, 2, 3]), tf.reduce_max(images, [1, 2, 3])], 1)}

    def drawn(value):
        return tf.ones([1, *shape]) * tf.reshape(tf.cast(value, tf.float32), [-1, 1, 1, 1]) / 255

    def bound(images, seed):
        return {"elbo": -tf.reduce_sum(images, [1, 2, 3]) - tf.cast(seed, tf.float32)}

    def files(seed):
        pictures = tf.cast(tf.round(255 * drawn(seed)), tf.uint8)
        return {"png_bytes": tf.map_fn(tf.io.encode_png, pictures, fn_output_signature=tf.string)}

    functions = {
        "encode": (code, images),
        "encode_uint8": (lambda images: code(floats(images)), uint8),
        "encode_png": (lambda png_bytes: code(decoded(png_bytes)), png_bytes),
        "decode": (lambda z: {"images": drawn(255 * z[:, 0])}, z),
        "sample": (lambda seed: {"images": drawn(seed)}, seed),
        "sample_png": (files, seed),
        "score": (bound, images, seed),
        "score_uint8": (lambda images, seed: bound(floats(images), seed), uint8, seed),
        "score_png": (lambda png_bytes, seed: bound(decoded(png_bytes), seed), png_bytes, seed),
        "wide": (lambda z: {"wide": tf.repeat(z[:, :1], OTHER_WIDTH, 1)}, z),
        "echo": (lambda wide: {"z": wide[:, :2]}, spec("wide", tf.float32, OTHER_WIDTH)),
    }
    signatures = {
        name: tf.function(function, input_signature=specs, autograph=False)
        for name, (function, *specs) in functions.items()
    }
    tf.saved_model.save(tf.Module(), path, signatures=signatures)  # fmt: skip


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    import tensorflow as tf

    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
    path = str(tmp_path_factory.mktemp("small") / "1")
    save_small_model(path)
    return path, tf.saved_model.load(path)


class Service:
    """PredictionService and ModelService of the SavedModel; `faults` are (code, details), one for each next request."""

    def __init__(self, path, model):
        self.path, self.model, self.faults, self.requests, self.seconds = path, model, [], [], 0.0

    def Predict(self, request, context):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        self.requests.append(request)
        time.sleep(self.seconds)
        if self.faults:
            context.abort(*self.faults.pop(0))
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = self.model.signatures[request.model_spec.signature_name](**inputs)
        return predict_pb2.PredictResponse(
            outputs={name: tf.make_tensor_proto(value.numpy()) for name, value in outputs.items()}
        )

    def GetModelMetadata(self, request, context):
        from tensorflow.core.protobuf import saved_model_pb2
        from tensorflow_serving.apis import get_model_metadata_pb2

        assert request.metadata_field == ["signature_def"]
        self.requests.append(request)
        saved = saved_model_pb2.SavedModel.FromString((pathlib.Path(self.path) / "saved_model.pb").read_bytes())
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=saved.meta_graphs[0].signature_def)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request, context):
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_status_pb2

        self.requests.append(request)
        return json_format.ParseDict(STATUS, get_model_status_pb2.GetModelStatusResponse())

    Classify = Regress = MultiInference = HandleReloadConfigRequest = None


@pytest.fixture
def service(small_model):
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    service = Service(*small_model)
    service.codes = grpc.StatusCode
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture
def grpc_client(service):
    with client.Client(client.Grpc(service.target, timeout=5.0), "m") as served:
        yield served


def test_grpc_computes_what_the_saved_model_computes(grpc_client, service):
    images = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 1), np.uint8)
    floats, seeds = images / np.float32(255), np.arange(5, dtype=np.int32)
    files = [client.Image.fromarray(image[..., 0]) for image in images]
    png_bytes = []
    for file in files:
        content = io.BytesIO()
        file.save(content, "PNG")
        png_bytes.append(content.getvalue())
    z = np.stack([floats.mean((1, 2, 3)), floats.max((1, 2, 3))], 1)
    for form in (floats, images, png_bytes):
        np.testing.assert_allclose(grpc_client.encode(form), z, rtol=1e-6)
        np.testing.assert_allclose(grpc_client.score(form, seeds), -floats.sum((1, 2, 3)) - seeds, rtol=1e-6)
    names = [request.model_spec.signature_name for request in service.requests[1:]]
    assert names == ["encode", "score", "encode_uint8", "score_uint8", "encode_png", "score_png"]
    np.testing.assert_allclose(grpc_client.decode(z), np.broadcast_to(z[:, :1, None, None], images.shape), rtol=1e-6)
    np.testing.assert_allclose(grpc_client.sample([51, 255])[:, 0, 0, 0], [0.2, 1.0], rtol=1e-6)
    drawn = grpc_client.predict("sample_png", seed=[7, 8])["png_bytes"]
    assert [np.unique(Image.open(io.BytesIO(file))).tolist() for file in drawn] == [[7], [8]]


def test_grpc_metadata(grpc_client):
    signature = grpc_client.signatures["score_png"]
    assert signature.inputs == {"png_bytes": (np.dtype(object), (None,)), "seed": (np.int32, (None,))}
    assert signature.outputs == {"elbo": (np.float32, (None,))}


@pytest.mark.parametrize(
    ("which", "label", "version"),
    [
        ({}, "stable", None),
        ({"label": "canary"}, "canary", None),
        ({"version": 3}, "", 3),
        ({"label": None}, "", None),
    ],
)
def test_grpc_version_or_label_in_the_request(service, which, label, version):
    with client.Client(client.Grpc(service.target), "m", **which) as served:
        served.sample([0])
    assert len(service.requests) == 2
    for request in service.requests:
        spec = request.model_spec
        assert (spec.name, spec.version_label) == ("m", label)
        assert (spec.version.value if spec.HasField("version") else None) == version


def test_grpc_status_of_all_versions(grpc_client, service):
    assert grpc_client.status() == [(2, "AVAILABLE", ""), (1, "END", "NOT_FOUND: no files")]
    assert not service.requests[0].model_spec.WhichOneof("version_choice")


def test_grpc_big_batches_are_split(grpc_client, service):
    images = grpc_client.sample(np.arange(70))
    np.testing.assert_allclose(images[:, 0, 0, 0], np.arange(70) / 255, rtol=1e-6)
    shapes = [request.inputs["seed"].tensor_shape.dim[0].size for request in service.requests[1:]]
    assert shapes == [32, 32, 6]


def test_grpc_messages_above_4_mb(grpc_client):
    z = np.arange(20.0).reshape(10, 2)
    wide = grpc_client.predict("wide", z=z)["wide"]
    assert wide.nbytes > 4 * 2**20
    np.testing.assert_array_equal(grpc_client.predict("echo", wide=wide)["z"][:, 0], z[:, 0])


def test_grpc_busy_servers_are_asked_again(grpc_client, service):
    busy = (service.codes.UNAVAILABLE, "The batch queue is full")
    service.faults = [busy, busy]
    assert grpc_client.sample([255]).max() == 1
    service.faults = [busy, busy]  # as big as this gRPC does not repeat a request by default
    assert grpc_client.predict("echo", wide=np.ones((10, OTHER_WIDTH)))["z"].max() == 1
    service.faults = [busy] * 4
    with pytest.raises(client.ServingUnavailable) as caught:
        grpc_client.sample([255])
    message = "UNAVAILABLE: The batch queue is full"
    assert str(caught.value) == f"{service.target}, model 'm', label 'stable', signature 'sample': {message}"
    assert caught.value.code == "UNAVAILABLE"
    assert not service.faults


def test_grpc_errors_of_the_server_are_not_retried(grpc_client, service):
    service.faults = [(service.codes.INVALID_ARGUMENT, "`images`\nmust be")]
    with pytest.raises(client.ServingError, match="INVALID_ARGUMENT: `images` must be$") as caught:
        grpc_client.sample([1])
    assert type(caught.value) is client.ServingError
    assert caught.value.code == "INVALID_ARGUMENT"
    service.faults = [(service.codes.DEADLINE_EXCEEDED, "too slow")]
    with pytest.raises(client.ServingTimeout, match="DEADLINE_EXCEEDED: too slow"):
        grpc_client.sample([1])
    assert len(service.requests) == 3


def test_grpc_slow_answers_end_in_time(service):
    with client.Client(client.Grpc(service.target, timeout=0.3), "m") as served:
        assert served.signatures
        service.seconds = 1.0
        start = time.monotonic()
        with pytest.raises(client.ServingTimeout, match="DEADLINE_EXCEEDED"):
            served.sample([0])
        assert time.monotonic() - start < 0.9


def test_grpc_without_a_server(small_model):
    target = f"127.0.0.1:{free_port()}"
    with client.Client(client.Grpc(target), "m") as served, pytest.raises(client.ServingUnavailable) as caught:
        served.sample([0])
    assert str(caught.value).startswith(f"{target}, model 'm', label 'stable': UNAVAILABLE: ")


def test_grpc_gives_up_connecting_in_time(small_model):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        transport = client.Grpc(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.3, timeout=60.0)
        start = time.monotonic()
        with client.Client(transport, "m") as served, pytest.raises(client.ServingUnavailable):
            served.sample([0])
        assert time.monotonic() - start < 10


def test_grpc_bad_arguments_are_not_sent(grpc_client, service):
    for call in (lambda: grpc_client.encode(replaced(2.0)), lambda: grpc_client.encode([png()[:-1]])):
        with pytest.raises(ValueError):
            call()
    assert len(service.requests) == 1  # for the metadata
    with pytest.raises(ValueError, match="`connect_timeout` and `timeout` must be > 0 s"):
        client.Grpc(timeout=-1)


# The command line.


def run(monkeypatch, capsys, *arguments):
    """Returns the exit status, the lines on stdout and those on stderr."""
    monkeypatch.setattr(sys, "argv", ["client.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        client.main()
    out, err = capsys.readouterr()
    return exit.value.code, out.splitlines(), err.splitlines()


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a.png").write_bytes(png(1))
    pathlib.Path("b.png").write_bytes(png(2))
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


def test_shell_sample(shell, server):
    server.answers += [(200, {"outputs": [b64(png(7)), b64(png(8))]})]
    common = ["--model", "m", "--rest", server.url, "--label", "canary"]
    result = shell("sample", *common, "-n", 2, "--seed", 7, "-o", "some/samples")
    assert result == (0, ["some/samples/000007.png", "some/samples/000008.png"], [])
    assert [pathlib.Path(path).read_bytes() for path in result[1]] == [png(7), png(8)]
    body = {"signature_name": "sample_png", "inputs": {"seed": [7, 8]}}
    assert server.posts() == [("/v1/models/m/labels/canary:predict", body)]


def test_shell_encode(shell, server):
    server.answers += [(200, {"outputs": CODES})] * 2
    common = ["encode", "a.png", "b.png", "--model", "m", "--rest", server.url, "--version", 3]
    status, lines, errors = shell(*common)
    assert (status, errors) == (0, [])
    assert [json.loads(line) for line in lines] == [{"file": "a.png", "z": CODES[0]}, {"file": "b.png", "z": CODES[1]}]
    assert shell(*common, "-o", "codes") == (0, ["codes"], [])
    with np.load("codes") as codes:
        assert codes["files"].tolist() == ["a.png", "b.png"]
        assert codes["z"].tolist() == CODES
    body = {"signature_name": "encode_png", "inputs": {"png_bytes": [b64(png(1)), b64(png(2))]}}
    assert server.posts() == [("/v1/models/m/versions/3:predict", body)] * 2


def test_shell_score_and_status(shell, server):
    server.answers += [(200, {"outputs": [-1.5, -2.25]})]
    common = ["--model", "m", "--rest", server.url]
    assert shell("score", "a.png", "b.png", *common, "--seed", 5) == (0, ["a.png\t-1.5000", "b.png\t-2.2500"], [])
    assert server.posts()[0][1]["inputs"]["seed"] == [5, 5]
    assert shell("status", *common) == (0, ["2\tAVAILABLE", "1\tEND\tNOT_FOUND: no files"], [])


def test_shell_over_grpc(shell, service):
    common = ["--model", "m", "--grpc", service.target]
    assert shell("score", "a.png", *common) == (0, [f"a.png\t{-12 / 255:.4f}"], [])
    assert shell("status", *common)[1][0] == "2\tAVAILABLE"
    assert shell("sample", *common, "-n", 40, "-o", "samples")[0] == 0
    assert pathlib.Path("samples/000039.png").read_bytes() == max(pathlib.Path("samples").iterdir()).read_bytes()


@pytest.mark.slow
def test_shell_over_grpc_hides_what_tensorflow_logs(service):
    command = [sys.executable, PATH, "sample", "--model", "m", "--grpc", service.target, "-o", "a/b"]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    service.faults = [(service.codes.INVALID_ARGUMENT, "bad")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    place = f"{service.target}, model 'm', label 'stable', signature 'sample_png'"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"client.py: {place}: INVALID_ARGUMENT: bad\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "c.png"], "c.png"),
        (["encode", "empty.png"], "`png_bytes[0]` must be a PNG file of 4x3 pixels. Received: cannot identify"),
        (["score", "a.png", "--seed", 2**31], "`seed` must be in [-2147483648, 2147483647]"),
        (["score", "a.png", "--grpc", "localhost:1"], "`--rest` and `--grpc` must not both be given"),
        (["score", "a.png", "--label", "canary", "--version", "1"], "`label` must be None if there is a `version`"),
        (["score", "a.png", "--timeout", "0"], "`connect_timeout` and `timeout` must be > 0 s"),
        (["score", "a.png"], "model 'm', label 'stable', signature 'score_png': HTTP 404: Servable not found"),
        (["sample", "-o", "a.png/b"], "HTTP 404"),
    ],
)
def test_shell_errors_are_one_line(shell, server, arguments, message):
    pathlib.Path("empty.png").touch()
    server.answers += [(404, {"error": "Servable\nnot found"})]
    status, out, errors = shell(*arguments, "--model", "m", "--rest", server.url)
    assert (status, out, len(errors)) == (1, [], 1)
    assert errors[0].startswith("client.py: ")
    assert message in errors[0]


def test_shell_folder_that_cannot_be_made(shell, server):
    server.answers += [(200, {"outputs": [b64(png())]})]
    status, _, errors = shell("sample", "--model", "m", "--rest", server.url, "-n", 1, "-o", "a.png/b")
    assert (status, len(errors)) == (1, 1)
    assert "a.png/b" in errors[0]


def test_as_a_script_without_tensorflow(server, tmp_path):
    """REST needs neither TensorFlow nor vaezoo, and gRPC without its packages is one line on stderr."""
    (tmp_path / "a.png").write_bytes(png())
    server.answers += [(200, {"outputs": [-1.0]})]
    script = (
        "import runpy, sys\n"
        "for name in ('tensorflow', 'tensorflow_serving', 'grpc', 'keras', 'vaezoo'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", script, PATH, "score", "a.png", "--model", "m"]
    result = subprocess.run([*command, "--rest", server.url], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "a.png\t-1.0000\n", "")
    result = subprocess.run([*command, "--grpc", "localhost:1"], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "grpc" in result.stderr


def test_import_and_rest_do_not_import_tensorflow(server):
    server.answers += [(200, {"outputs": CODES[:1]})]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import client, numpy\n"
        "with client.Client(client.Rest(sys.argv[2]), 'm') as served:\n"
        f"    served.encode(numpy.zeros((1, {HEIGHT}, {WIDTH}, 1)))\n"
        "assert not {'tensorflow', 'tensorflow_serving', 'grpc', 'keras', 'vaezoo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, PATH.parent, server.url], check=True)
