"""What the tests share: quiet TensorFlow, a case of each system, the marker `rest`, and why real data is missing."""

import contextlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from vaezoo.base import signatures
from vaezoo.cli import main
from vaezoo.models import MODELS
from vaezoo.objectives import Stein

CONSUMER = pathlib.Path(__file__).parents[1] / "export" / "consumer"
IMAGE_SHAPE = (6, 5, 2)


class Case(NamedTuple):
    """What the tests know of a system.

    Attributes:
        args: constructor arguments at a size that trains in a moment, every one of them off its default.
        objective: what the tests train it with. None: the system's own default.
        frozen_parts: names of the parts that training leaves as they are, and with them part of the loss.
    """

    args: dict
    objective: object = None
    frozen_parts: tuple = ()


STEIN = Stein(3, num_examples=40)  # the default objective has too many particles for these sizes
# Every system.
CASES = {
    "vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "hidden_units": (7, 8),
            "activation": "relu",
            "posterior": "iaf",
            "posterior_args": {"num_steps": 1, "hidden_units": (4,)},
            "likelihood": "principal_components_gaussian",
            "principal_components": 6,
        },
    ),
    "conv_vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "filters": (4, 5),
            "hidden_units": 8,
            "posterior": "iaf",
            "posterior_args": {"num_steps": 1, "hidden_units": (6, 7), "form": "location_scale"},
        },
    ),
    "resnet_vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "num_blocks": 2,
            "filters": 4,
            "latent_filters": 3,
            "inference": "bottom_up",
            "flow_steps": 2,
            "flow_hidden_layers": 1,
            "flow_form": "gated",
            "edges": False,
        },
    ),
    "m1": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "hidden_units": (7, 8),
            "activation": "relu",
            "likelihood": "principal_components_gaussian",
            "principal_components": 5,
        },
    ),
    "m2": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "num_classes": 4,
            "hidden_units": (7, 8),
            "activation": "relu",
            "likelihood": "principal_components_gaussian",
            "principal_components": 5,
            "init_stddev": 0.02,
        },
    ),
    "m1m2": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "auxiliary_dim": 2,
            "num_classes": 4,
            "hidden_units": (7, 8),
            "m1_hidden_units": (8, 9),
            "activation": "relu",
            "likelihood": "principal_components_gaussian",
            "principal_components": 5,
        },
        frozen_parts=("m1",),
    ),
    "adgm": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "auxiliary_dim": 2,
            "num_classes": 4,
            "hidden_units": (7, 8),
            "activation": "softplus",
            "batch_normalization": True,
            "likelihood": "principal_components_gaussian",
            "principal_components": 5,
            "init_stddev": 0.02,
        },
    ),
    "sdgm": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "auxiliary_dim": 2,
            "num_classes": 4,
            "hidden_units": (7, 8),
            "activation": "softplus",
            "batch_normalization": True,
            "likelihood": "principal_components_gaussian",
            "principal_components": 5,
            "init_stddev": 0.02,
        },
    ),
    "stein_vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "hidden_units": (7, 8),
            "activation": "softplus",
            "likelihood": "bounded_mean_gaussian",
            "weight_particles": 2,
        },
        objective=STEIN,
    ),
    "semi_supervised_stein_vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "num_classes": 4,
            "hidden_units": (7, 8),
            "activation": "elu",
            "likelihood": "bounded_mean_gaussian",
            "weight_particles": 2,
        },
        objective=STEIN,
    ),
    "avae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dims": (3, 2),
            "auxiliary_dims": (4, 3),
            "hidden_units": (7, 8),
            "activation": "softplus",
            "batch_normalization": True,
            "likelihood": "bounded_mean_gaussian",
        },
    ),
    "as_vae": Case(
        {
            "image_shape": IMAGE_SHAPE,
            "latent_dim": 3,
            "filters": (4, 5),
            "convs_per_stage": 2,
            "hidden_units": 8,
            "posterior": "coupling",
            "posterior_args": {"num_steps": 2, "hidden_units": (6,)},
            "noise_stddev": 0.05,
            "discriminator": "joint",
        },
    ),
}


# A system's shape is where its methods come from: systems that share them run the same code of ours, on other layers.


def how_it_trains(system):
    return methods(system, "compile", "fit", "train_step", "training_gradients", "training_loss")


def what_it_infers(system):
    names = ["terms", "noise", "noise_shape", "prior", "domain", "approximate_posterior", "likelihood_distribution"]
    names += ["generated", "generate", "encode", "decode", "call", "sample", "log_prob_given_noise"]
    return methods(system, *names, "importance_estimate", "initialize", "kl_per_dimension", "measure")


def which_signatures_it_has(system):
    has = tuple(getattr(MODELS[system], method) is not None for method in signatures.MAKERS)
    return *methods(system, "export_signatures"), *has


def methods(system, *names):
    return tuple(getattr(MODELS[system], name) for name in names)


def one_per_shape(shape_of, names=tuple(MODELS)):
    """Parameters of a test: all names. A name whose shape an earlier one has is marked `rest`."""
    seen, parameters = set(), []
    for name in names:
        parameters.append(pytest.param(name, marks=[pytest.mark.rest] if shape_of(name) in seen else []))
        seen.add(shape_of(name))
    return parameters


def pytest_addoption(parser):
    parser.addoption("--share", metavar="I/N", help="of the tests marked `rest`, run the I-th of N shares: 0 <= I < N")


def group_of(nodeid):
    """What runs in one process, because it shares fixtures: the tests of a system, or of a case of it, in a file."""
    file, _, test = nodeid.partition("::")
    parameters = test.partition("[")[2].removesuffix("]").split("-")
    return "::".join([file, *(value for value in parameters if value.partition(",")[0] in MODELS)][:2])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """xdist's own `--dist loadgroup` does nothing from pytest 9.2 on, and leaves every test to either process."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Keeps a share of the rest: whole groups, where they are of a system, or else single tests."""
    if not config.getoption("--share"):
        return
    index, number = map(int, config.getoption("--share").split("/"))
    units = {}
    for item in items:
        if item.get_closest_marker("rest"):
            group = group_of(item.nodeid)
            units.setdefault(group if "::" in group else item.nodeid, []).append(item)
    left_out = {item for i, unit in enumerate(units.values()) if i % number != index for item in unit}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Fixtures that several tests share start from the same seed, whichever tests ran before."""
    if fixturedef.scope != "function":
        keras.utils.set_random_seed(0)
    return (yield)


def vaezoo(*arguments, cwd="."):
    """Runs the command as a user types it, in this process: to import TensorFlow takes longer than most commands."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv, status = ["vaezoo", *map(str, arguments)], 0
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main.main()
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _same_start():
    keras.utils.set_random_seed(0)


@pytest.fixture(params=one_per_shape(what_it_infers))
def system(request):
    """The name of each system in turn; one of each shape is not left to `rest`."""
    return request.param


@pytest.fixture
def make_tiny():
    """Returns a function that builds a tiny model of a system, compiled."""

    def make(system, optimizer=None, objective=None, **settings):
        case = CASES[system]
        model = MODELS[system](**case.args)
        model.compile(optimizer or keras.optimizers.Adam(1e-2), objective or case.objective, **settings)
        return model

    return make


@pytest.fixture
def images():
    """Forty tiny images with structure: two random templates and noise, floats in [0, 1]."""
    rng = np.random.default_rng(0)
    templates = rng.random((2, *IMAGE_SHAPE))
    return (0.8 * templates[rng.integers(2, size=40)] + 0.2 * rng.random((40, *IMAGE_SHAPE))).astype("float32")


@pytest.fixture(scope="session")
def consumer(tmp_path_factory):
    """The C program, compiled with warnings as errors."""
    missing = [tool for tool in ("make", "gcc") if not shutil.which(tool)]
    if missing or sys.platform != "linux":
        pytest.skip(f"the C consumer needs Linux, make and gcc; missing: {missing or 'Linux'}")
    build = tmp_path_factory.mktemp("consumer")
    settings = [f"PYTHON={sys.executable}", f"BUILD={build}", "CC=gcc", "CFLAGS=-O1 -Werror"]
    subprocess.run(["make", "-s", "-C", CONSUMER, *settings], check=True, timeout=600)

    def run(*args):
        command = [build / "consumer", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"TF_CPP_MIN_LOG_LEVEL": "3"})

    return run


@pytest.fixture(scope="session")
def real_data():
    """Returns a function that loads a real set, or skips the test with the reason."""

    def load(name):
        import tensorflow_datasets as tfds

        import vaezoo.data.frey_face
        from vaezoo import data

        builder = tfds.builder(name)
        placed = pathlib.Path(builder.data_dir).parents[1] / "downloads" / "manual" / vaezoo.data.frey_face.FILE_NAME
        if not (builder.data_path.exists() or (name == "frey_face" and placed.exists())):
            pytest.skip(
                f"{name} is not prepared in {builder.data_path} (set TFDS_DATA_DIR, or run `tfds build {name}`)"
            )
        return data.load(name)

    return load
