"""Client of a TensorFlow Serving server that serves exports of vaezoo, over REST or gRPC.

    python client.py sample --model vae_mnist -n 16 --seed 0 -o samples
    python client.py encode --model vae_mnist a.png b.png -o codes.npz
    python client.py score --model vae_mnist --grpc localhost:8500 a.png b.png
    python client.py status --model vae_mnist

    with Client(Grpc("localhost:8500"), "vae_mnist") as client:
        z = client.encode(images)
        images = client.decode(z)

This file needs numpy, requests, pillow and typer, and for gRPC also tensorflow-serving-api; it does not need vaezoo.
REST writes images as decimal numbers, several bytes for each one of a float: for many images prefer gRPC or PNG files.
"""

import base64
import contextlib
import functools
import io
import json
import os
import pathlib
import random
import reprlib
import sys
import time
import urllib.parse
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import requests
import typer
from PIL import Image

REST_URL, GRPC_TARGET = "http://localhost:8501", "localhost:8500"
Images = npt.ArrayLike | Sequence[bytes]
_DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_INT64": "int64", "DT_UINT8": "uint8", "DT_STRING": "object"}
_WAITS = (0.1, 0.2, 0.4)  # seconds before the second, third and fourth try


class ServingError(Exception):
    """A request failed, though its arguments were right.

    Attributes:
        code: HTTP status (int) or name of the gRPC status (str) that was answered, None without an answer.
    """

    def __init__(self, message: str, code: int | str | None = None):
        super().__init__(message)
        self.code = code


class ServingUnavailable(ServingError):
    """The server is not reached, or cannot answer now (gRPC UNAVAILABLE, HTTP 502 and 503), after several tries."""


class ServingTimeout(ServingError):
    """There was no answer in time; it was the client (code None) or the server that gave up."""


class TensorSpec(NamedTuple):
    """Dtype and shape of an input or output; None stands for any size. The first dimension is the batch's."""

    dtype: np.dtype
    shape: tuple[int | None, ...]


class Signature(NamedTuple):
    """Inputs and outputs of one function of the model, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class VersionStatus(NamedTuple):
    """State of one version: START, LOADING, AVAILABLE, UNLOADING or END; `error` is empty if there is none."""

    version: int
    state: str
    error: str


class Model(NamedTuple):
    """What a request is for: the version with that number or label, or with neither the newest one."""

    name: str
    label: str | None = None
    version: int | None = None


class Rest:
    """Transport over HTTP and JSON, to the server's `--rest_api_port`.

    Args:
        url: of the server, a proxy's prefix included, without /v1.
        connect_timeout: seconds to wait for a connection.
        timeout: seconds that a request may take in all, its retries included.
    """

    def __init__(self, url: str = REST_URL, *, connect_timeout: float = 5.0, timeout: float = 30.0):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"`url` must be http://HOST:PORT or https://HOST:PORT. Received: {url!r}")
        _check_timeouts(connect_timeout, timeout)
        self.server, self._connect_timeout, self._timeout = url.rstrip("/"), connect_timeout, timeout
        self._session = requests.Session()

    def predict(self, model, signature, inputs, outputs):
        # By columns ("inputs", "outputs"), not by rows ("instances", "predictions"): the names are sent once.
        columns = {name: _to_json(array) for name, array in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}, allow_nan=False).encode()
        answer = self._call("POST", f"{_path(model)}:predict", body)
        if "predictions" in answer and len(outputs) > 1:  # of a gateway that answers by rows
            answer = {"outputs": {name: [row[name] for row in answer["predictions"]] for name in outputs}}
        columns = answer["predictions"] if "predictions" in answer else answer["outputs"]
        if len(outputs) == 1:  # an only output comes without its name
            columns = dict.fromkeys(outputs, columns)
        return {name: _from_json(columns[name], spec.dtype) for name, spec in outputs.items()}

    def metadata(self, model):
        return self._call("GET", f"{_path(model)}/metadata")["metadata"]["signature_def"]

    def status(self, model):
        return self._call("GET", _path(Model(model.name)))

    def close(self):
        self._session.close()

    def _call(self, method, path, body=None):
        """Returns the JSON of an answer, after retries if need be: no request changes anything on the server.

        Not by urllib3's `Retry`, which gives every try the whole time-out. Here a try gets what is left of it, for
        connecting, for the start of the answer and for each further read.
        """
        headers = {"Content-Type": "application/json"} if body else {}
        failure = timed_out = ServingTimeout(f"no answer within {self._timeout} s")
        deadline = time.monotonic() + self._timeout
        for wait in (0, *_WAITS):
            time.sleep(wait * random.uniform(0.5, 1))  # so that clients refused together do not return together
            left = deadline - time.monotonic()
            if left <= 0:
                break
            timeouts = (min(self._connect_timeout, left), left)
            try:
                response = self._session.request(
                    method, self.server + path, data=body, headers=headers, timeout=timeouts, allow_redirects=False
                )
            except requests.RequestException as error:
                if time.monotonic() >= deadline:
                    raise timed_out from error
                failure = ServingUnavailable(f"no answer: {_root(error)}")
                continue
            if response.status_code == 200:
                return json.loads(response.content)  # unlike strict parsers this one knows NaN, which the server writes
            failure = _http_failure(response)
            if response.status_code not in (502, 503, 504):
                break
        raise failure


class Grpc:
    """Transport over gRPC, to the server's `--port`, without encryption.

    Args:
        target: HOST:PORT.
        connect_timeout: seconds to wait for a connection.
        timeout: seconds that a request may take in all, its retries included.
    """

    def __init__(self, target: str = GRPC_TARGET, *, connect_timeout: float = 5.0, timeout: float = 30.0):
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        _check_timeouts(connect_timeout, timeout)
        self.server, self._timeout = target, timeout
        retry = {
            "maxAttempts": len(_WAITS) + 1,
            "initialBackoff": f"{_WAITS[0]}s",
            "maxBackoff": f"{_WAITS[-1]}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        options = {
            "grpc.service_config": json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]}),
            "grpc.per_rpc_retry_buffer_size": 2**30,  # by default a request above 256 KiB is not repeated
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,
            "grpc.initial_reconnect_backoff_ms": int(1000 * _WAITS[0]),  # by default later than the last try
            "grpc.min_reconnect_backoff_ms": int(1000 * connect_timeout),  # in spite of its name: time to connect
        }
        self._channel = grpc.insecure_channel(target, options=list(options.items()))
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(self, model, signature, inputs, outputs):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(
            model_spec=_model_spec(model, signature),
            inputs={name: tf.make_tensor_proto(array) for name, array in inputs.items()},
        )
        answer = self._call(self._predictions.Predict, request).outputs
        # As a dict: asked for a name that is not there, a protobuf map makes an empty tensor.
        answer = {name: tf.make_ndarray(tensor) for name, tensor in answer.items()}
        return {name: answer[name] for name in outputs}

    def metadata(self, model):
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=_model_spec(model), metadata_field=["signature_def"]
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        self._call(self._predictions.GetModelMetadata, request).metadata["signature_def"].Unpack(signatures)
        return json_format.MessageToDict(signatures, preserving_proto_field_name=True)

    def status(self, model):
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest(model_spec=_model_spec(Model(model.name)))
        answer = self._call(self._models.GetModelStatus, request)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def close(self):
        self._channel.close()

    def _call(self, method, request):
        import grpc

        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code = error.code().name
            kinds = {"UNAVAILABLE": ServingUnavailable, "DEADLINE_EXCEEDED": ServingTimeout}
            raise kinds.get(code, ServingError)(f"{code}: {_shortened(error.details())}", code) from error


class Client:
    """A served model: checks arguments, splits big batches, computes on the server.

    The server may put rows of several clients into one batch, where a row that cannot be computed fails all of them.
    So a row that the signature, the range of images or a PNG decoder would not take raises ValueError here and is not
    sent. The signatures are asked for once, at first use. All methods raise `ServingError` where the server does not
    answer or refuses. To be closed, or used in a `with` statement.

    Args:
        transport: a `Rest` or `Grpc`, which `close` closes.
        model: name that the model is served under.
        label: label of the version to use, None for no label. A `version` replaces the default.
        version: number of the version to use; without it and without a label the newest is used.
        max_batch: rows in a request at most, the greatest of the server's `allowed_batch_sizes`.
    """

    def __init__(
        self,
        transport: Rest | Grpc,
        model: str,
        *,
        label: str | None = "stable",
        version: int | None = None,
        max_batch: int = 32,
    ):
        if not model:
            raise ValueError(f"`model` must be a name. Received: {model!r}")
        if version is not None and label not in ("stable", None):
            raise ValueError(f"`label` must be None if there is a `version`. Received: {label!r}, {version}")
        if max_batch < 1:
            raise ValueError(f"`max_batch` must be at least 1. Received: {max_batch}")
        self._transport, self._max_batch = transport, max_batch
        self._model = Model(model, label if version is None else None, version)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Closes the transport."""
        self._transport.close()

    def encode(self, images: Images) -> np.ndarray:
        """Returns the codes of images.

        Args:
            images: float [n, H, W, C] in [0, 1], uint8 [n, H, W, C], or a list of n PNG files' bytes.

        Returns:
            z, float32 [n, *D]: the code at zero noise.
        """
        suffix, inputs = _images(images)
        return self.predict(f"encode{suffix}", **inputs)["z"]

    def decode(self, z: npt.ArrayLike) -> np.ndarray:
        """Returns E[x given z], float32 [n, H, W, C] in [0, 1], of codes, float [n, *D]."""
        return self.predict("decode", z=z)["images"]

    def sample(self, seeds: npt.ArrayLike) -> np.ndarray:
        """Returns E[x given z], float32 [n, H, W, C] in [0, 1], for z drawn from the prior by seeds, int32 [n]."""
        return self.predict("sample", seed=seeds)["images"]

    def score(self, images: Images, seeds: npt.ArrayLike) -> np.ndarray:
        """Returns the evidence lower bound of images.

        Args:
            images: as for `encode`.
            seeds: int32 [n], a seed for the one draw of z of each image.

        Returns:
            float32 [n], nats.
        """
        suffix, inputs = _images(images)
        return self.predict(f"score{suffix}", **inputs, seed=seeds)["elbo"]

    def classify(self, images: Images) -> np.ndarray:
        """Returns the class probabilities of images, float32 [n, K], of a model with classes.

        Args:
            images: as for `encode`.
        """
        suffix, inputs = _images(images)
        return self.predict(f"classify{suffix}", **inputs)["probabilities"]

    def sample_class(self, seeds: npt.ArrayLike, classes: npt.ArrayLike) -> np.ndarray:
        """Returns E[x given y, z], float32 [n, H, W, C] in [0, 1], for classes, int32 [n], and z drawn by seeds."""
        return self.predict("sample_class", seed=seeds, label=classes)["images"]

    def predict(self, signature: str, /, **inputs: npt.ArrayLike | Sequence[bytes]) -> dict[str, np.ndarray]:
        """Computes any signature.

        Args:
            signature: one of `signatures`.
            **inputs: all of its inputs by name, with equally many rows; strings as a list of bytes.

        Returns:
            Its outputs by name; strings as an array of bytes objects.
        """
        if signature not in self.signatures:
            raise ValueError(
                f"`signature` must be one of: {', '.join(sorted(self.signatures))}. Received: {signature!r}"
            )
        specs = self.signatures[signature]
        if inputs.keys() != specs.inputs.keys():
            raise ValueError(f"Inputs of {signature!r} must be: {', '.join(specs.inputs)}. Received: {[*inputs]}")
        arrays = {name: _checked(name, value, specs.inputs[name]) for name, value in inputs.items()}
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) != 1:
            raise ValueError(f"Inputs must have equally many rows. Received: {rows}")
        if "encode" in self.signatures:
            size = self.signatures["encode"].inputs["images"].shape[1:3]
            for index, data in enumerate(arrays.get("png_bytes", ())):
                _check_png(f"png_bytes[{index}]", data, size)
        starts = range(0, min(rows.values()), self._max_batch)
        batches = [{name: array[i : i + self._max_batch] for name, array in arrays.items()} for i in starts]
        parts = [self._predict_batch(signature, batch) for batch in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in specs.outputs}

    @functools.cached_property
    def signatures(self) -> dict[str, Signature]:
        """The model's signatures by name."""
        with self._explained():
            signatures = self._transport.metadata(self._model)["signature_def"]
            return {
                name: Signature(_specs(entry.get("inputs", {})), _specs(entry.get("outputs", {})))
                for name, entry in signatures.items()
                if not name.startswith("__")  # TensorFlow's own, to initialise the model
            }

    def status(self) -> list[VersionStatus]:
        """Returns the states of all versions that the server has, or has had."""
        with self._explained():
            entries = self._transport.status(self._model)["model_version_status"]
            return [VersionStatus(int(entry["version"]), entry["state"], _error(entry)) for entry in entries]

    def _predict_batch(self, signature, inputs):
        outputs, rows = self.signatures[signature].outputs, len(next(iter(inputs.values())))
        with self._explained(signature):
            arrays = self._transport.predict(self._model, signature, inputs, outputs)
            for name, array in arrays.items():
                if not (_fits(array.shape, outputs[name].shape) and len(array) == rows):
                    raise ValueError(f"{rows} rows were sent, {name!r} has shape {array.shape}")
            return arrays

    @contextlib.contextmanager
    def _explained(self, signature=None):
        """Says in an error where it happened; what cannot be read as an answer of the server becomes one."""
        model = self._model
        which = ("version", model.version) if model.version is not None else ("label", model.label)
        places = {"model": model.name, which[0]: which[1], "signature": signature}
        where = ", ".join([self._transport.server, *(f"{key} {it!r}" for key, it in places.items() if it is not None)])
        try:
            yield
        except ServingError as error:
            raise type(error)(f"{where}: {error}", error.code) from error
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ServingError(f"{where}: not an answer of TensorFlow Serving: {error!r}") from error


def _check_timeouts(connect_timeout, timeout):
    if not (connect_timeout > 0 and timeout > 0):
        raise ValueError(f"`connect_timeout` and `timeout` must be > 0 s. Received: {connect_timeout}, {timeout}")


def _images(images):
    """Returns a signature's suffix and its input, by what the images are."""
    if isinstance(images, (list, tuple)) and any(isinstance(image, bytes) for image in images):
        return "_png", {"png_bytes": images}
    array = _array("images", images)
    if array.dtype == object and array.ndim == 1:
        return "_png", {"png_bytes": array}
    return ("_uint8" if array.dtype == np.uint8 else ""), {"images": array}


def _array(name, value, dtype=None):
    try:
        return np.asarray(value, dtype)
    except ValueError as error:  # rows of different shapes
        raise ValueError(f"`{name}` must be an array. Received: {error}") from None


def _checked(name, value, spec):
    """Returns an input as an array of the signature's dtype, or raises ValueError if the server would not take it."""
    array = _array(name, value, object if spec.dtype == object else None)  # numpy's own bytes lose zeros at their end
    if spec.dtype == object:
        if not all(isinstance(item, bytes) for item in array.flat):
            raise ValueError(f"`{name}` must be a list of bytes. Received: {reprlib.repr(value)}")
    elif array.dtype.kind not in ("iuf" if spec.dtype.kind == "f" else "iu"):
        raise ValueError(f"`{name}` must be numbers that fit {spec.dtype}. Received: dtype {array.dtype}")
    if not _fits(array.shape, spec.shape) or not len(array):
        shape = ", ".join(["n", *("any" if size is None else str(size) for size in spec.shape[1:])])
        raise ValueError(f"`{name}` must have the shape [{shape}] with n > 0. Received: {list(array.shape)}")
    if spec.dtype == object:
        return array
    low, high = array.min(), array.max()
    limits = np.finfo(spec.dtype) if spec.dtype.kind == "f" else np.iinfo(spec.dtype)
    least, most = (0, 1) if name == "images" and spec.dtype.kind == "f" else (limits.min, limits.max)
    if not (least <= low and high <= most):  # with NaN neither holds
        raise ValueError(f"`{name}` must be in [{least}, {most}]. Received: values in [{low}, {high}]")
    return array.astype(spec.dtype)


def _check_png(name, data, size):
    """Raises ValueError unless the bytes are a whole PNG file of that height and width."""
    try:
        for check in ("verify", "load"):  # checksums and headers; the pixels
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if not _fits((image.height, image.width), size):
                    raise ValueError(f"{image.height}x{image.width} pixels")
                getattr(image, check)()
        if b"\0\0\0\0IEND\xaeB`\x82" not in data:  # pillow does without the last chunk, the server does not
            raise ValueError("a file without its end")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        height, width = size
        raise ValueError(f"`{name}` must be a PNG file of {height}x{width} pixels. Received: {error}") from error


def _fits(shape, expected):
    return len(shape) == len(expected) and all(want in (None, got) for got, want in zip(shape, expected, strict=True))


def _specs(tensors):
    """Reads the inputs or outputs of a signature; their sizes are int64, which JSON has as strings."""
    return {
        name: TensorSpec(
            np.dtype(_DTYPES[tensor["dtype"]]),
            tuple(
                None if int(dim["size"]) < 0 else int(dim["size"])
                for dim in tensor.get("tensor_shape", {}).get("dim", [])
            ),
        )
        for name, tensor in tensors.items()
    }


def _error(entry):
    status = entry.get("status", {})
    code, message = status.get("error_code", "OK"), status.get("error_message", "")
    return "" if code == "OK" else f"{code}: {_shortened(message)}"


def _path(model):
    path = "/v1/models/" + urllib.parse.quote(model.name, safe="")
    if model.version is not None:
        return f"{path}/versions/{model.version}"
    return path if model.label is None else f"{path}/labels/{urllib.parse.quote(model.label, safe='')}"


def _model_spec(model, signature=None):
    from tensorflow_serving.apis import model_pb2

    spec = model_pb2.ModelSpec(name=model.name, version_label=model.label, signature_name=signature)
    if model.version is not None:
        spec.version.value = model.version
    return spec


def _to_json(array):
    if array.dtype == object:
        return [{"b64": base64.b64encode(data).decode()} for data in array]
    return array.tolist()  # a float32 as the float64 of the same value, which the server reads back without loss


def _from_json(values, dtype):
    array = np.array(values, dtype)
    return np.frompyfunc(_to_bytes, 1, 1)(array) if array.dtype.kind == "O" else array


def _to_bytes(item):
    return base64.b64decode(item["b64"], validate=True) if isinstance(item, dict) else item.encode()


def _http_failure(response):
    try:
        said = json.loads(response.content)["error"]
    except (ValueError, KeyError, TypeError):  # of a proxy
        said = response.text
    code = response.status_code
    kind = {502: ServingUnavailable, 503: ServingUnavailable, 504: ServingTimeout}.get(code, ServingError)
    return kind(f"HTTP {code}: {_shortened(said) or response.reason}", code)


def _root(error):
    """Returns what was first: requests' own messages wrap the reason several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error


def _shortened(text):
    """Returns a text on one line; the server repeats the values of a request that it does not understand."""
    text = " ".join(str(text).split())
    return text if len(text) <= 500 else text[:500] + "..."


app = typer.Typer(
    name="client.py",
    help="Client of a TensorFlow Serving server that serves exports of vaezoo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Files = Annotated[list[pathlib.Path], typer.Argument(metavar="PNG...", help="PNG files of the model's size.")]
ModelName = Annotated[str, typer.Option("--model", help="Name that the model is served under.")]
RestUrl = Annotated[str | None, typer.Option("--rest", metavar="URL", help=f"REST server; default {REST_URL}.")]
GrpcTarget = Annotated[str | None, typer.Option("--grpc", metavar="HOST:PORT", help="gRPC server, in place of REST.")]
Label = Annotated[str, typer.Option(help="Label of the version to use.")]
Version = Annotated[int | None, typer.Option(help="Number of the version to use, in place of the label.")]
Timeout = Annotated[float, typer.Option(help="Seconds that a request may take, its retries included.")]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.")]


@app.command()
def sample(
    model: ModelName,
    output: Annotated[pathlib.Path, typer.Option("--output", "-o", help="Folder for the files; made if need be.")],
    num_images: Annotated[int, typer.Option("-n", min=1)] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image; the next one has the next seed.")] = 0,
    rest: RestUrl = None,
    grpc: GrpcTarget = None,
    label: Label = "stable",
    version: Version = None,
    timeout: Timeout = 30.0,
):
    """Draw images from the model, each into a PNG file named by its seed."""
    seeds = range(seed, seed + num_images)
    with _connect(model, rest, grpc, label, version, timeout) as client:
        images = client.predict("sample_png", seed=list(seeds))["png_bytes"]
    output.mkdir(parents=True, exist_ok=True)
    for number, data in zip(seeds, images, strict=True):
        path = output / f"{number:06d}.png"
        path.write_bytes(data)
        typer.echo(path)


@app.command()
def encode(
    files: Files,
    model: ModelName,
    output: Annotated[
        pathlib.Path | None, typer.Option("--output", "-o", help="An .npz file with `files` and `z`.")
    ] = None,
    rest: RestUrl = None,
    grpc: GrpcTarget = None,
    label: Label = "stable",
    version: Version = None,
    timeout: Timeout = 30.0,
):
    """Print the codes of PNG files as lines of JSON, or write them to an .npz file."""
    with _connect(model, rest, grpc, label, version, timeout) as client:
        z = client.encode([file.read_bytes() for file in files])
    if output:
        with output.open("wb") as opened:  # opened here: numpy would add an .npz to the name
            np.savez(opened, files=[str(file) for file in files], z=z)
        typer.echo(output)
    else:
        for file, row in zip(files, z, strict=True):
            typer.echo(json.dumps({"file": str(file), "z": row.tolist()}, allow_nan=False))


@app.command()
def score(
    files: Files,
    model: ModelName,
    seed: Seed = 0,
    rest: RestUrl = None,
    grpc: GrpcTarget = None,
    label: Label = "stable",
    version: Version = None,
    timeout: Timeout = 30.0,
):
    """Print a line per PNG file: its name, a tab, its evidence lower bound in nats."""
    with _connect(model, rest, grpc, label, version, timeout) as client:
        elbos = client.score([file.read_bytes() for file in files], [seed] * len(files))
    for file, elbo in zip(files, elbos, strict=True):
        typer.echo(f"{file}\t{elbo:.4f}")


@app.command()
def classify(
    files: Files,
    model: ModelName,
    rest: RestUrl = None,
    grpc: GrpcTarget = None,
    label: Label = "stable",
    version: Version = None,
    timeout: Timeout = 30.0,
):
    """Print a line per PNG file: its name, a tab, its most probable class, a tab, the probability of that."""
    with _connect(model, rest, grpc, label, version, timeout) as client:
        probabilities = client.classify([file.read_bytes() for file in files])
    for file, row in zip(files, probabilities, strict=True):
        typer.echo(f"{file}\t{row.argmax()}\t{row.max():.4f}")


@app.command()
def status(model: ModelName, rest: RestUrl = None, grpc: GrpcTarget = None, timeout: Timeout = 30.0):
    """Print a line per version of the model: its number, its state and, where there is one, the error."""
    with _connect(model, rest, grpc, None, None, timeout) as client:
        for it in client.status():
            typer.echo("\t".join(filter(None, (str(it.version), it.state, it.error))))


def _connect(model, rest, grpc, label, version, timeout):
    if rest and grpc:
        raise ValueError(f"`--rest` and `--grpc` must not both be given. Received: {rest} and {grpc}")
    if grpc:
        with _without_stderr():
            transport = Grpc(grpc, timeout=timeout)
    else:
        transport = Rest(rest or REST_URL, timeout=timeout)
    return Client(transport, model, label=label, version=version)


@contextlib.contextmanager
def _without_stderr():
    """Hides what TensorFlow's C++ side writes while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def main():
    """Runs the command. What goes wrong is one line on stderr and exit status 1, not a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with contextlib.suppress(BrokenPipeError):
            app()
    except (ServingError, ValueError, OSError, ImportError) as error:
        print("client.py: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
