"""The bundle for TensorFlow Serving: its files against the server's protos, its versions, labels, and requests to it.

The server itself is tested where there is one: see `test_real_server`.
"""

import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from test_exporting import assert_same_outputs, calls_of, hashes, make_model, run_consumer

import vaezoo
from vaezoo import files, zoo
from vaezoo.serving import bundle as serving
from vaezoo.serving import saved_model
from vaezoo.zoo import config

apis = pytest.importorskip("tensorflow_serving.apis", reason="tensorflow-serving-api is not installed")
from tensorflow_serving.apis import prediction_log_pb2  # noqa: E402
from tensorflow_serving.config import model_server_config_pb2  # noqa: E402

EXPORT = pathlib.Path(__file__).parents[1] / "export"
CHILD = pathlib.Path(__file__).parent / "children" / "exporter.py"
ALLOWED_BATCH_SIZES = [1, 2, 4, 8, 16, 32]


class Served:
    """A SavedModel in a session that is fed tensors as they come, by TensorFlow's C++ loader and C API, as in a server.

    Python's own checks of shapes and types are left out, for a server has none.
    """

    def __init__(self, path):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.meta_graph = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(path))

    def __call__(self, signature, inputs):
        definition, tensor = self.meta_graph.signature_def[signature], self.session.graph.get_tensor_by_name
        self.session._extend_graph()
        feeds = {tensor(definition.inputs[key].name)._as_tf_output(): value for key, value in inputs.items()}
        fetches = [tensor(info.name)._as_tf_output() for info in definition.outputs.values()]
        values = self.session._call_tf_sessionrun(None, feeds, fetches, [], None)
        return dict(zip(definition.outputs, values, strict=True))


@pytest.fixture(scope="module")
def model():
    return make_model("conv_vae")[0]


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "new"
    assert serving.export(model, folder, "tiny", {"what": "a card"}) == folder / "tiny" / "1"
    return folder


@pytest.fixture(scope="module")
def served(bundle):
    return Served(bundle / "tiny" / "1")


@pytest.fixture
def quick(monkeypatch):
    """Exports without a model in them."""

    def save(model, path, name, card):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"")
        return {}

    monkeypatch.setattr(saved_model, "save", save)
    monkeypatch.setattr(serving, "_write_warmup", lambda *args: None)
    return lambda folder, name="m": serving.export(make_model("vae")[0], folder, name)


def models_config(folder):
    return text_format.Parse((folder / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())


def message(name, fields):
    """A message class of a proto that tensorflow-serving-api does not have, from name -> (number, type, repeated)."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    proto = file.message_type.add(name=name)
    for field, (number, kind, repeated) in fields.items():
        described = proto.field.add(name=field, number=number, label=3 if repeated else 1)
        if isinstance(kind, str):
            described.type, described.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
        else:
            described.type = kind
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName("google/protobuf/wrappers.proto").CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


# Configuration.


def test_models_config(bundle):
    (entry,) = models_config(bundle).model_config_list.config
    assert (entry.name, entry.base_path, entry.model_platform) == ("tiny", "/models/tiny", "tensorflow")
    assert list(entry.model_version_policy.specific.versions) == [1]
    assert dict(entry.version_labels) == {"stable": 1, "canary": 1}
    assert serving.labels(bundle) == {"tiny": {"stable": 1, "canary": 1}}


def test_batching_config(bundle):
    # Fields of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, in no Python package.
    number, integer = ".google.protobuf.Int64Value", descriptor_pb2.FieldDescriptorProto.TYPE_INT64
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    fields = {name: (index, number, False) for index, name in enumerate(names, start=1)}
    batching = message("BatchingParameters", {**fields, "allowed_batch_sizes": (6, integer, True)})()
    text_format.Parse((bundle / "batching.config").read_text(), batching)
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(sizes) == ALLOWED_BATCH_SIZES
    assert sizes[-1] == batching.max_batch_size.value
    assert batching.batch_timeout_micros.value > 0
    assert batching.max_enqueued_batches.value > 0


def test_monitoring_config(bundle):
    # tensorflow_serving/config/monitoring_config.proto: a message of one message, which is parsed by itself here.
    kinds = descriptor_pb2.FieldDescriptorProto
    prometheus = message(
        "PrometheusConfig", {"enable": (1, kinds.TYPE_BOOL, False), "path": (2, kinds.TYPE_STRING, False)}
    )
    outer, inner = (bundle / "monitoring.config").read_text().strip().removesuffix("}").split("{")
    assert outer.strip() == "prometheus_config"
    parsed = text_format.Parse(inner, prometheus())
    assert parsed.enable
    assert parsed.path == "/monitoring/prometheus/metrics"


def test_compose_file(bundle):
    compose = yaml.safe_load((bundle / "compose.yaml").read_text())
    assert set(compose) == {"services"}
    service = compose["services"]["serving"]
    assert set(service) == {"image", "command", "ports", "volumes", "healthcheck", "restart"}
    major, minor = tf.__version__.split(".")[:2]
    assert service["image"] == f"tensorflow/serving:{major}.{minor}.0"
    assert service["volumes"] == [{"type": "bind", "source": ".", "target": "/models", "read_only": True}]
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        assert (bundle / pathlib.PurePath(flags[flag]).relative_to("/models")).is_file()
    assert flags["enable_batching"] == flags["allow_version_labels_for_unavailable_models"] == "true"
    assert int(flags["model_config_file_poll_wait_seconds"]) > 0
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        subprocess.run([docker, "compose", "--file", bundle / "compose.yaml", "config", "--quiet"], check=True)


@pytest.mark.parametrize(("answer", "healthy"), [(200, True), (503, False), (None, False)])
def test_health_check(bundle, answer, healthy):
    test = yaml.safe_load((bundle / "compose.yaml").read_text())["services"]["serving"]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "bash", "-c"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer if self.path == serving.MONITORING_PATH else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    if answer is None:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    command = test[3].replace("/8501", f"/{server.server_port}")
    try:
        finished = subprocess.run(["bash", "-c", command], capture_output=True, timeout=10)
    finally:
        if answer is not None:
            server.shutdown()
            server.server_close()
    assert (finished.returncode == 0) == healthy


# Versions and labels.


def labels_and_versions(folder):
    (entry,) = models_config(folder).model_config_list.config
    return dict(entry.version_labels), list(entry.model_version_policy.specific.versions)


def test_exporting_again_moves_canary_and_touches_nothing_else(quick, tmp_path):
    quick(tmp_path)
    assert labels_and_versions(tmp_path) == ({"stable": 1, "canary": 1}, [1])
    before = hashes(tmp_path)
    assert quick(tmp_path) == tmp_path / "m" / "2"
    assert labels_and_versions(tmp_path) == ({"stable": 1, "canary": 2}, [1, 2])
    changed = {path for path, content in hashes(tmp_path).items() if before.get(path, content) != content}
    assert changed == {tmp_path / "models.config"}
    # The canary of until now stays loaded until the next change: a server moves a label only to a loaded version.
    quick(tmp_path)
    assert labels_and_versions(tmp_path) == ({"stable": 1, "canary": 3}, [1, 2, 3])
    quick(tmp_path)
    assert labels_and_versions(tmp_path) == ({"stable": 1, "canary": 4}, [1, 3, 4])


def test_promotion_and_roll_back(quick, tmp_path):
    quick(tmp_path)
    quick(tmp_path)
    serving.label(tmp_path, "m", "stable", 2)
    assert labels_and_versions(tmp_path) == ({"stable": 2, "canary": 2}, [1, 2])  # 1 is still loaded
    serving.label(tmp_path, "m", "stable", 1)
    assert labels_and_versions(tmp_path) == ({"stable": 1, "canary": 2}, [1, 2])


def test_models_in_one_bundle_leave_each_other_alone(quick, tmp_path):
    quick(tmp_path, "a")
    quick(tmp_path, "b")
    quick(tmp_path, "b")
    assert serving.labels(tmp_path) == {"a": {"stable": 1, "canary": 1}, "b": {"stable": 1, "canary": 2}}


def test_label_of_a_version_that_was_deleted_moves_to_the_newest(quick, tmp_path):
    quick(tmp_path)
    quick(tmp_path)
    shutil.rmtree(tmp_path / "m" / "1")
    quick(tmp_path)
    assert labels_and_versions(tmp_path) == ({"stable": 3, "canary": 3}, [2, 3])


def test_what_the_operator_changed_stays(quick, tmp_path):
    quick(tmp_path)
    for name in ("batching.config", "monitoring.config", "compose.yaml"):
        with (tmp_path / name).open("a") as file:
            file.write("# mine\n")
    text = (tmp_path / "models.config").read_text()
    (tmp_path / "models.config").write_text(text.replace('"/models/m"', '"/elsewhere/m"'))
    quick(tmp_path)
    for name in ("batching.config", "monitoring.config", "compose.yaml"):
        assert (tmp_path / name).read_text().endswith("# mine\n")
    (entry,) = models_config(tmp_path).model_config_list.config
    assert entry.base_path == "/elsewhere/m"


@pytest.mark.parametrize(("before", "raised"), [("1.15.0", True), ("2.3.1", True), ("99.0.0", False)])
def test_the_image_is_never_older_than_the_exporter(quick, tmp_path, before, raised):
    quick(tmp_path)
    path = tmp_path / "compose.yaml"
    text = path.read_text()
    (image,) = (line.split("image: ")[1] for line in text.splitlines() if "image:" in line)
    path.write_text(text.replace(image, f"tensorflow/serving:{before}"))
    quick(tmp_path)
    assert path.read_text() == (text if raised else text.replace(image, f"tensorflow/serving:{before}"))


def test_a_failure_leaves_a_bundle_as_it_was_and_a_new_one_not_there(quick, tmp_path, monkeypatch):
    quick(tmp_path / "old")
    before = hashes(tmp_path)

    def fail(model, path, name, card):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"half")
        raise RuntimeError("broken midway")

    monkeypatch.setattr(saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="broken midway"):
        quick(tmp_path / "old")
    assert hashes(tmp_path) == before
    with pytest.raises(RuntimeError, match="broken midway"):
        quick(tmp_path / "new")
    assert not (tmp_path / "new" / "m").exists()
    assert not (tmp_path / "new" / "models.config").exists()


def test_two_exports_into_one_bundle_wait_for_each_other(quick, tmp_path):
    quick(tmp_path)
    with files.locked(tmp_path):
        thread = threading.Thread(target=quick, args=[tmp_path])
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert serving.labels(tmp_path)["m"]["canary"] == 1
    thread.join(60)
    assert serving.labels(tmp_path)["m"]["canary"] == 2


def test_errors(quick, tmp_path):
    with pytest.raises(ValueError, match="`directory` must be a bundle .* which has no models.config"):
        serving.label(tmp_path, "m", "stable", 1)
    quick(tmp_path)
    with pytest.raises(ValueError, match="`label` must be one of .* Received: 'best'"):
        serving.label(tmp_path, "m", "best", 1)
    with pytest.raises(ValueError, match="`name` must be a model of the bundle: m. Received: 'n'"):
        serving.label(tmp_path, "n", "stable", 1)
    with pytest.raises(ValueError, match=r"`version` must be one of \[1\]. Received: 2"):
        serving.label(tmp_path, "m", "stable", 2)
    (tmp_path / "batching.config").write_text("# allowed_batch_sizes: 3\n")
    with pytest.raises(ValueError, match=r"batching.config must have allowed_batch_sizes.* Received: \[\]"):
        quick(tmp_path)
    (tmp_path / "models.config").write_text("model_config_list { konfig {} }")
    with pytest.raises(ValueError, match="models.config must be a ModelServerConfig in text form"):
        quick(tmp_path)
    assert not (tmp_path / "m" / "2").exists()


def test_without_the_protos_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.config", None)
    with pytest.raises(ImportError, match=r"pip install 'vaezoo\[serving\]'"):
        serving.export(None, tmp_path / "new", "m")
    assert not (tmp_path / "new").exists()


# Warm-up.


def test_warm_up_requests_are_answered_and_cover_everything(bundle, served):
    (path,) = (bundle / "tiny" / "1" / "assets.extra").iterdir()
    assert path.name == "tf_serving_warmup_requests"
    warmed = []
    for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        (size,) = {len(value) for value in inputs.values()}
        outputs = served(request.model_spec.signature_name, inputs)
        assert {len(value) for value in outputs.values()} == {size}
        warmed.append((request.model_spec.signature_name, size))
    signatures = {name for name in served.meta_graph.signature_def if not name.startswith("__")}
    assert len(warmed) <= 1000
    assert sorted(warmed) == sorted((name, size) for name in signatures for size in ALLOWED_BATCH_SIZES)


def test_warm_up_follows_the_operators_batch_sizes(tmp_path):
    for text, sizes in [
        ("max_batch_size { value: 6 }\nallowed_batch_sizes: 3 # 4\nallowed_batch_sizes: 6", [3, 6]),
        ("allowed_batch_sizes : [ 5,7 ]", [5, 7]),
    ]:
        (tmp_path / "batching.config").write_text(text)
        assert serving._allowed_batch_sizes(tmp_path / "batching.config") == sizes


# Requests.


def test_a_bad_request_gets_an_error_that_says_so_and_the_next_one_an_answer(served, model):
    height, width, channels = model.example_shape
    images = np.random.default_rng(0).random((4, *model.example_shape), np.float32)
    png = tf.io.encode_png(np.zeros(model.example_shape, np.uint8)).numpy()
    other_png = tf.io.encode_png(np.zeros((width, height, channels), np.uint8)).numpy()
    seed = np.arange(4, dtype=np.int32)
    nan, big = images.copy(), images.copy()
    nan[2, 0, 0, 0], big[1, 0, 0, 0] = np.nan, 1.5
    shape = r"Shape of tensor .* is not compatible with expected shape \[\?"
    bad = [
        ("encode", {"images": images[0]}, shape),
        ("encode", {"images": images[..., :1]}, shape),
        ("encode", {"images": images.transpose(0, 2, 1, 3)}, shape),  # as many values, which would pass for others
        ("encode", {"images": nan}, "`images` must be finite"),
        ("encode", {"images": big}, r"`images` must be in \[0, 1\]. Received: from\] \[.*\] \[to\] \[1.5\]"),
        ("encode", {"images": images - 0.5}, r"`images` must be in \[0, 1\]"),
        ("encode", {"images": images[:0]}, "`images` must have at least one row"),
        ("encode", {"images": images.astype(np.float64)}, "to be float but double is provided"),
        ("encode", {"images": (255 * images).astype(np.uint8)}, "to be float but uint8 is provided"),
        ("encode_uint8", {"images": images}, "to be uint8 but float is provided"),
        ("encode_uint8", {"images": np.zeros((2, width, height, channels), np.uint8)}, shape),
        (
            "encode_uint8",
            {"images": np.zeros((0, *model.example_shape), np.uint8)},
            "`images` must have at least one row",
        ),
        ("encode_png", {"png_bytes": np.array([b"no image"], object)}, "Unknown image file format"),
        ("encode_png", {"png_bytes": np.array([png[:20]], object)}, "(?i)png"),
        (
            "encode_png",
            {"png_bytes": np.array([png, other_png], object)},
            rf"\[{width},{height},{channels}\] is not compatible with expected shape \[{height},{width},{channels}\]",
        ),
        ("encode_png", {"png_bytes": np.array([], object)}, "`png_bytes` must have at least one row"),
        ("decode", {"z": np.full((2, *model.latent_shape), np.inf, np.float32)}, "`z` must be finite"),
        ("sample", {"seed": seed.astype(np.float32)}, "to be int32 but float is provided"),
        ("sample", {"seed": seed.astype(np.int64)}, "to be int32 but int64 is provided"),
        ("sample", {"seed": np.int32(3)}, shape),
        ("sample_png", {"seed": seed[:0]}, "`seed` must have at least one row"),
        ("score", {"images": images, "seed": seed[:3]}, "(?i)incompatible|must be equal|dimension"),
    ]
    expected = served("encode", {"images": images})["z"]
    for signature, inputs, what in bad:
        with pytest.raises(tf.errors.InvalidArgumentError, match=what):
            served(signature, {key: np.asarray(value) for key, value in inputs.items()})
        np.testing.assert_array_equal(served("encode", {"images": images})["z"], expected)


@pytest.mark.slow
def test_c_consumer_runs_an_entry_with_its_weights(consumer, tmp_path):
    """Every system is run by it in test_exporting.py."""
    model = zoo.load("vae_digits")
    version = serving.export(model, tmp_path / "bundle", "vae_digits", config.as_dict(config.read("vae_digits")))
    for call in calls_of(model):
        if len(next(iter(call.inputs.values()))) > 1:
            assert_same_outputs(run_consumer(consumer, version, call, tmp_path), call.expected)


# Killed.


@pytest.mark.slow
@pytest.mark.rest
def test_a_killed_export_never_leaves_anything_broken(tmp_path):
    finished = subprocess.run(
        [sys.executable, CHILD, tmp_path, "50"], capture_output=True, text=True, timeout=1500, check=False
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["broken"] == []
    assert result["hits"] == 50
    assert result["looks"] >= 50
    assert not list(tmp_path.rglob(f"{files.PREFIX}*"))  # the last export swept what the killed ones left


# Serving.


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Returns a function that puts a program on the path, and nothing else but the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def vaezoo_serve(folder, **kwargs):
    return subprocess.Popen([sys.executable, "-m", "vaezoo", "serve", str(folder)], text=True, **kwargs)


def test_serve_runs_the_local_server_on_paths_of_this_machine_and_follows_changes(quick, tmp_path, fake):
    bundle = tmp_path / "bundle"
    quick(bundle)
    fake("tensorflow_model_server", f'echo "$@" > {tmp_path}/arguments; exec sleep 60')
    process = vaezoo_serve(bundle)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "arguments").exists() or not (tmp_path / "arguments").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        flags = dict(flag.removeprefix("--").split("=") for flag in (tmp_path / "arguments").read_text().split())
        assert (flags["port"], flags["rest_api_port"]) == ("8500", "8501")
        assert flags["batching_parameters_file"] == str(bundle / "batching.config")
        copy = pathlib.Path(flags["model_config_file"])
        (entry,) = text_format.Parse(copy.read_text(), models_config(bundle).__class__()).model_config_list.config
        assert entry.base_path == str(bundle / "m")
        assert dict(entry.version_labels) == {"stable": 1, "canary": 1}
        quick(bundle)
        deadline = time.monotonic() + 3 * serving.POLL_SECONDS
        while "value: 2" not in copy.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert process.returncode != 0  # the server's own status: it was told to end
    assert not copy.exists()


def test_serve_falls_back_to_docker_compose(quick, tmp_path, fake, monkeypatch):
    quick(tmp_path / "bundle")
    fake("docker", f'echo "$@" >> {tmp_path}/arguments; [ "$2" = version ] || exit 7')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert vaezoo_serve(tmp_path / "bundle").wait(60) == 7
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "compose version",
        f"compose --file {tmp_path}/bundle/compose.yaml up",
    ]


def test_serve_says_what_is_missing(quick, tmp_path, fake, monkeypatch):
    quick(tmp_path / "bundle")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for found in ("neither", "docker without compose"):
        process = vaezoo_serve(tmp_path / "bundle", stderr=subprocess.PIPE)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert stderr == (
            f"vaezoo: serving needs tensorflow_model_server on the path, or docker with compose. Found: {found}\n"
        )
        fake("docker", "exit 1")


# A real server.


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """REST address and gRPC target of a server of vae_digits: the one given by the environment, or one started here."""
    rest, grpc = os.environ.get("TF_SERVING_REST"), os.environ.get("TF_SERVING_GRPC")
    if rest or grpc:
        yield rest, grpc
        return
    program = shutil.which("tensorflow_model_server")
    if not program:
        pytest.skip(
            "no tensorflow_model_server on the path, and neither TF_SERVING_REST nor TF_SERVING_GRPC names a server "
            "of a bundle with vae_digits"
        )
    bundle = tmp_path_factory.mktemp("served")
    serving.export(zoo.load("vae_digits"), bundle, "vae_digits")
    process = subprocess.Popen([sys.executable, "-m", "vaezoo", "serve", str(bundle)])
    yield "http://localhost:8501", "localhost:8500"
    process.terminate()
    process.wait(30)


@pytest.fixture(params=["rest", "grpc"])
def client(request, server):
    sys.path.insert(0, str(EXPORT / "serving"))
    import client as module

    address = server[request.param == "grpc"]
    if address is None:
        pytest.skip(f"TF_SERVING_{request.param.upper()} is not set")
    transport = module.Rest if request.param == "rest" else module.Grpc
    with module.Client(transport(address), "vae_digits") as client:
        deadline = time.monotonic() + 120
        while True:
            try:
                client.status()
                break
            except module.ServingError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        yield client


def test_real_server(client):
    model = vaezoo.load("vae_digits")
    seeds = np.arange(40)
    images = client.sample(seeds)
    signatures = {signature.name: signature for signature in model.export_signatures() if signature.saved_model}
    expected = signatures["sample"].function(tf.constant(seeds, tf.int32))["images"]
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_allclose(client.encode(images), model.encode(images), atol=1e-5)
    codes = client.encode(images)
    np.testing.assert_allclose(client.decode(codes), model.decode(codes), atol=1e-5)
    expected = signatures["score"].function(images, tf.constant(seeds, tf.int32))["elbo"]
    np.testing.assert_allclose(client.score(images, seeds), expected, rtol=1e-5, atol=1e-4)
