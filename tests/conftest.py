"""What the tests share: quiet TensorFlow, tiny models, and the reason why real data is missing."""

import contextlib
import io
import os
import pathlib
import shutil
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from vaezoo.cli import main
from vaezoo.models import MODELS
from vaezoo.objectives import Stein

CONSUMER = pathlib.Path(__file__).parents[1] / "export" / "consumer"
IMAGE_SHAPE = (6, 5, 2)
# Every system at a size that trains in a moment: name -> constructor arguments, every one of them off its default.
TINY = {
    "vae": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "hidden_units": (7, 8),
        "activation": "relu",
        "posterior": "iaf",
        "posterior_args": {"num_steps": 1, "hidden_units": (4,)},
        "likelihood": "principal_components_gaussian",
        "principal_components": 6,
    },
    "conv_vae": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "filters": (4, 5),
        "hidden_units": 8,
        "posterior": "iaf",
        "posterior_args": {"num_steps": 1, "hidden_units": (6, 7), "form": "location_scale"},
    },
    "resnet_vae": {
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
    "m1": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "hidden_units": (7, 8),
        "activation": "relu",
        "likelihood": "principal_components_gaussian",
        "principal_components": 5,
    },
    "m2": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "num_classes": 4,
        "hidden_units": (7, 8),
        "activation": "relu",
        "likelihood": "principal_components_gaussian",
        "principal_components": 5,
        "init_stddev": 0.02,
    },
    "m1m2": {
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
    "adgm": {
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
    "sdgm": {
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
    "stein_vae": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "hidden_units": (7, 8),
        "activation": "softplus",
        "likelihood": "bounded_mean_gaussian",
        "weight_particles": 2,
    },
    "semi_supervised_stein_vae": {
        "image_shape": IMAGE_SHAPE,
        "latent_dim": 3,
        "num_classes": 4,
        "hidden_units": (7, 8),
        "activation": "elu",
        "likelihood": "bounded_mean_gaussian",
        "weight_particles": 2,
    },
    "avae": {
        "image_shape": IMAGE_SHAPE,
        "latent_dims": (3, 2),
        "auxiliary_dims": (4, 3),
        "hidden_units": (7, 8),
        "activation": "softplus",
        "batch_normalization": True,
        "likelihood": "bounded_mean_gaussian",
    },
    "as_vae": {
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
}


# What systems train on that can't do with their own default objective at these sizes.
DEFAULT_OBJECTIVES = dict.fromkeys(["stein_vae", "semi_supervised_stein_vae"], Stein(3, num_examples=40))


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


@pytest.fixture(params=sorted(MODELS))
def system(request):
    """The name of each system in turn."""
    return request.param


@pytest.fixture
def make_tiny():
    """Returns a function that builds a tiny model of a system, compiled."""

    def make(system, optimizer=None, objective=None, **settings):
        model = MODELS[system](**TINY[system])
        objective = objective or DEFAULT_OBJECTIVES.get(system)
        model.compile(optimizer or keras.optimizers.Adam(1e-2), objective, **settings)
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
