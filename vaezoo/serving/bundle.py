"""A bundle that TensorFlow Serving takes as it is: versions with warm-up requests, and the server's own configuration.

    bundle/
        models.config       models, the versions that are loaded, and which of them is `stable` and which `canary`
        batching.config     how requests are batched
        monitoring.config   Prometheus metrics
        compose.yaml        a container of the server
        NAME/<version>/     SavedModels

The server polls `models.config` and reads the other three when it starts. The last three are written once and are then
the operator's, but for the image's version in `compose.yaml`.
"""

import importlib.metadata
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

from vaezoo import files

ROOT = "/models"  # the bundle's folder, as the server in the container sees it
STABLE, CANARY = LABELS = "stable", "canary"
WARMUP = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")  # elsewhere it is silently ignored
MOST_WARMUP_RECORDS = 1000  # the server refuses a version with more
POLL_SECONDS = 10

BATCHING = """\
# Requests that arrive together are run together, padded to one of the allowed sizes; each of these is warmed up.
# One thread per CPU works on batches unless num_batch_threads says otherwise.
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
allowed_batch_sizes: [1, 2, 4, 8, 16, 32]
"""
MONITORING_PATH = "/monitoring/prometheus/metrics"
MONITORING = f"""\
prometheus_config {{ enable: true path: "{MONITORING_PATH}" }}
"""
COMPOSE = """\
# docker compose up: REST on port 8501, gRPC on port 8500.
services:
  serving:
    image: tensorflow/serving:{version}
    command:
{flags}
    ports:
      - "8500:8500"
      - "8501:8501"
    volumes:
      - type: bind
        source: .
        target: {root}
        read_only: true
    healthcheck:
      # The image has no curl. The server opens this port once the models are loaded.
      test:
        - CMD
        - bash
        - -c
        - >-
          exec 3<>/dev/tcp/127.0.0.1/8501 &&
          printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3 &&
          head -n 1 <&3 | grep -q ' 200 '
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 120s
    restart: unless-stopped
"""


def export(model, directory, name, card=None):
    """Adds a version of a model, with warm-up requests, to a bundle, which is made if need be.

    The new version gets the label `canary`, and the first one `stable` too. No other version is touched. Two processes
    that export into one bundle wait for each other; a process that is killed leaves a bundle that can be served.

    Args:
        model: a `vaezoo.base.LatentVariableModel`, compiled or not.
        directory: path of the bundle.
        name: what the model is served as, as for `exporting.export`.
        card: dict of JSON values for the version's model card.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: `name` is no name for a model; the bundle's `models.config` or `batching.config` can't be read.
        OSError: the folder cannot be written to.
        ImportError: tensorflow-serving-api is not installed.
    """
    from vaezoo.base.endpoints import in_float32  # here: `vaezoo serve` needs no TensorFlow
    from vaezoo.serving import exporting, saved_model

    _server_config_pb2()  # now, rather than after the export
    model, directory = in_float32(model), pathlib.Path(directory)
    with exporting.new_version(directory, name) as version:
        config = _read_models(directory)
        _write_once(directory / "batching.config", BATCHING)
        batch_sizes = _allowed_batch_sizes(directory / "batching.config")
        with files.atomic(version) as aside:
            functions = saved_model.save(model, aside, name, card)
            _write_warmup(aside / WARMUP, functions, name, batch_sizes, model.example_shape)
        _write_once(directory / "monitoring.config", MONITORING)
        _write_compose(directory / "compose.yaml")
        _set_labels(directory, config, name, {CANARY: int(version.name)})
    return version


def label(directory, name, label, version):
    """Moves a label of a bundle's model to another version: `stable` onto a canary that has proved itself, or back.

    The server loads the versions that have a label now or lost it by the last change, so that a request which asks for
    the label is answered at all times, and a roll-back needs no loading.

    Args:
        directory: path of the bundle.
        name: of the model.
        label: "stable" or "canary".
        version: int, of a version that is there.

    Raises:
        ValueError: no such bundle, model, label or version.
    """
    directory = _bundle(directory)
    if label not in LABELS:
        raise ValueError(f"`label` must be one of {LABELS}. Received: {label!r}")
    with files.locked(directory):
        config = _read_models(directory)
        names = [model.name for model in config.model_config_list.config]
        if name not in names:
            raise ValueError(f"`name` must be a model of the bundle: {', '.join(names)}. Received: {name!r}")
        versions = _versions(directory / name)
        if version not in versions:
            raise ValueError(f"`version` must be one of {versions}. Received: {version!r}")
        _set_labels(directory, config, name, {label: version})


def labels(directory):
    """Returns what a bundle serves: a dict, model -> dict, label -> version.

    Raises:
        ValueError: no such bundle.
    """
    config = _read_models(_bundle(directory))
    return {model.name: dict(sorted(model.version_labels.items())) for model in config.model_config_list.config}


def serve(directory):
    """Runs a TensorFlow model server on a bundle until it ends or the process is told to: gRPC on 8500, REST on 8501.

    It is `tensorflow_model_server` where that is on the path, and else the bundle's container, by docker compose.

    Args:
        directory: path of the bundle.

    Returns:
        The server's exit status.

    Raises:
        ValueError: no such bundle.
        OSError: neither server is there.
    """
    directory = _bundle(directory)
    server, docker = shutil.which("tensorflow_model_server"), shutil.which("docker")
    if server:
        return _serve_locally(server, directory)
    compose = [docker, "compose"]
    if docker and not subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        return subprocess.run([*compose, "--file", directory / "compose.yaml", "up"], check=False).returncode
    found = "docker without compose" if docker else "neither"
    raise OSError(f"serving needs tensorflow_model_server on the path, or docker with compose. Found: {found}")


def _serve_locally(server, directory):
    """Runs the server on a copy of `models.config` whose paths are this machine's, and keeps the copy up to date."""

    def copy():
        text = (directory / "models.config").read_text("utf-8")
        with files.atomic(models) as aside:
            aside.write_text(text.replace(f'base_path: "{ROOT}/', f'base_path: "{directory.as_posix()}/'), "utf-8")

    with tempfile.TemporaryDirectory() as folder:
        models = pathlib.Path(folder) / "models.config"
        copy()
        command = [server, "--port=8500", "--rest_api_port=8501", *_flags(directory, models)]
        with subprocess.Popen(command) as process:
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            signal.signal(signal.SIGINT, lambda *_: process.terminate())
            while True:
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    copy()


def _flags(root, models):
    return [
        f"--model_config_file={models}",
        f"--model_config_file_poll_wait_seconds={POLL_SECONDS}",
        "--allow_version_labels_for_unavailable_models=true",  # or a server could not start with labels
        "--enable_batching=true",
        f"--batching_parameters_file={root}/batching.config",
        f"--monitoring_config_file={root}/monitoring.config",
    ]


# Files of the bundle.


def _bundle(directory):
    directory = pathlib.Path(directory).resolve()
    if not (directory / "models.config").is_file():
        raise ValueError(
            "`directory` must be a bundle that `vaezoo export NAME DIR --serving` wrote. "
            f"Received: {directory}, which has no models.config"
        )
    return directory


def _versions(folder):
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _server_config_pb2():
    try:
        from tensorflow_serving.config import model_server_config_pb2
    except ImportError as error:
        raise ImportError(
            "serving needs tensorflow-serving-api, of TensorFlow's minor version: pip install 'vaezoo[serving]'"
        ) from error
    return model_server_config_pb2


def _read_models(directory):
    from google.protobuf import text_format

    config = _server_config_pb2().ModelServerConfig()
    path = directory / "models.config"
    if path.exists():
        try:
            text_format.Parse(path.read_text("utf-8"), config)
        except text_format.ParseError as error:
            raise ValueError(f"{path} must be a ModelServerConfig in text form. Received: {error}") from error
    return config


def _set_labels(directory, config, name, labels):
    """Writes `models.config` with labels of one model moved.

    A running server refuses to move a label to a version that it has not loaded, and tries again at the next poll: so
    the version that had the label until now stays in the list until the next change, and answers until then.
    """
    from google.protobuf import text_format

    models = config.model_config_list.config
    model = next((model for model in models if model.name == name), None) or models.add(
        name=name, base_path=f"{ROOT}/{name}", model_platform="tensorflow"
    )
    there = _versions(directory / name)
    before = {label: version for label, version in model.version_labels.items() if version in there}
    now = {label: max(there) for label in LABELS} | before | labels
    model.version_labels.clear()
    model.version_labels.update(now)
    model.model_version_policy.specific.versions[:] = sorted({*before.values(), *now.values()})
    with files.atomic(directory / "models.config") as aside:
        aside.write_text(text_format.MessageToString(config), "utf-8")


def _write_once(path, text):
    if not path.exists():
        with files.atomic(path) as aside:
            aside.write_text(text, "utf-8")


def _write_compose(path):
    """Writes `compose.yaml`, or raises the image's version in it: a server must not be older than what it loads."""
    major, minor = map(int, importlib.metadata.version("tensorflow").split(".")[:2])
    version = f"{major}.{minor}.0"
    flags = "\n".join(f"      - {flag}" for flag in _flags(ROOT, f"{ROOT}/models.config"))
    _write_once(path, COMPOSE.format(version=version, flags=flags, root=ROOT, path=MONITORING_PATH))
    text = path.read_text("utf-8")
    image = re.search(r"(tensorflow/serving:)(\d+)\.(\d+)\.\d+", text)
    if image and (int(image[2]), int(image[3])) < (major, minor):
        with files.atomic(path) as aside:
            aside.write_text(text.replace(image[0], f"{image[1]}{version}"), "utf-8")


def _allowed_batch_sizes(path):
    """Returns the sizes that a `batching.config` allows. Its proto is not in tensorflow-serving-api."""
    text = re.sub("#.*", "", path.read_text("utf-8"))
    found = re.findall(r"allowed_batch_sizes\s*:\s*(\[[^]]*\]|\d+)", text)
    sizes = [int(size) for group in found for size in re.findall(r"\d+", group)]
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{path} must have allowed_batch_sizes, for which requests are warmed up. Received: {sizes}")
    return sizes


def _write_warmup(path, functions, name, batch_sizes, image_shape):
    """Writes the requests that the server replays before it takes others: each signature at each allowed batch size."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    def rows(spec, size):
        if spec.dtype == tf.string:
            return np.full(size, tf.io.encode_png(tf.zeros(image_shape, tf.uint8)).numpy(), object)
        return np.zeros([size, *spec.shape[1:]], spec.dtype.as_numpy_dtype)

    functions = {"serving_default": next(iter(functions.values())), **functions}
    num_records = len(functions) * len(batch_sizes)
    if num_records > MOST_WARMUP_RECORDS:
        raise ValueError(
            f"there must be at most {MOST_WARMUP_RECORDS} warm-up requests: signatures times allowed batch sizes. "
            f"Received: {num_records}"
        )
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for key, function in functions.items():
            for size in batch_sizes:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name, request.model_spec.signature_name = name, key
                for spec in function.structured_input_signature[0]:
                    request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(rows(spec, size)))
                writer.write(log.SerializeToString())
