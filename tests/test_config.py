"""Configs: every entry of the zoo, overrides, and what is refused."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from conftest import one_per_shape

from vaezoo import zoo
from vaezoo.models.resnet_vae import ResNetVAE
from vaezoo.objectives import alpha
from vaezoo.zoo import config, loading

ENTRY = "vae_digits"
TRAINING_IMAGES = {
    "digits": 1297,
    "moons": 10_000,
    "mnist": 55_000,
    "frey_face": 1600,
    "cifar10": 45_000,
    "svhn_cropped": 603_388,
    "smallnorb": 21_870,
    "20newsgroups": 10_258,  # of the file that the recipe was made with; scikit-learn's loader leaves another number
}


@pytest.mark.parametrize("name", one_per_shape(lambda name: config.read(name).model.name, config.names()))
def test_every_entry_builds_and_has_the_parameters_it_states(name):
    model = zoo.load(name, weights=None)
    settings = zoo.info(name)
    assert model.count_params() == settings.num_params
    assert model.compiled
    assert model.example_shape == tuple(settings.model.args["image_shape"])


# The durations of learning rates and of the KL's warm-up, in steps, that the shipped weights were made with.
SCHEDULES = {
    "adgm_mnist100": ({"decay_steps": 44000}, 22000),
    "adgm_moons": ({"decay_steps": 3900, "warmup_steps": 100}, 2000),
    "as_vae_g_mnist": ({"decay_steps": 2577}, None),
    "as_vae_mnist": ({"decay_steps": 2577}, None),
    "as_vae_r_mnist": ({"decay_steps": 2577}, None),
    "avae_mnist": ({"decay_steps": 88000}, 22000),
    "avae_mnist_l1": ({"decay_steps": 88000}, 22000),
    "iaf_cifar10": ({"decay_steps": 75824, "warmup_steps": 100}, None),
    "iaf_mnist": ({"decay_steps": 27000, "warmup_steps": 500}, None),
    "iaf_mnist_8x1920": ({"decay_steps": 27000, "warmup_steps": 500}, None),
    "iaf_mnist_diagonal": ({"decay_steps": 27000, "warmup_steps": 500}, None),
    "iwae_mnist": ({"decay_steps": 110000}, None),
    "m1_mnist": ({"boundaries": [16500]}, None),
    "m1_norb": ({"decay_steps": 43600}, None),
    "m1_svhn": ({"decay_steps": 60330}, None),
    "m1m2_mnist100": ({"decay_steps": 68750}, None),
    "m1m2_svhn1000": ({"decay_steps": 24120}, None),
    "m2_mnist100": ({"decay_steps": 33000}, 24750),
    "planar_mnist": ({"decay_steps": 27000, "warmup_steps": 500}, None),
    "sdgm_mnist100": ({"decay_steps": 38500}, None),
    "sdgm_norb1000": ({"decay_steps": 21800}, 2180),
    "sdgm_svhn1000": ({"decay_steps": 60300}, 6030),
    "stein_poisson_20news": ({"decay_steps": 6120}, None),
    "stein_vae_mnist": ({"decay_steps": 16500}, None),
    "stein_vae_mnist100": ({"decay_steps": 5500}, None),
    "stein_viwae_mnist": ({"decay_steps": 8250}, None),
    "vae_digits": ({"decay_steps": 6000}, None),
    "vae_frey": ({"decay_steps": 20000}, None),
    "vae_mnist": ({"decay_steps": 110000}, None),
    "vae_mnist_2d": ({"decay_steps": 55000}, None),
    "vae_mnist_fullcov": ({"decay_steps": 110000}, None),
    "vae_poisson_20news": ({"decay_steps": 6120}, 2040),
}


def durations(settings):
    """A config's durations in steps, by Keras' names; and the KL's warm-up, None if it has none."""
    settings = config.with_steps(settings)
    rate = settings.train.optimizer.args["learning_rate"]
    rate = rate if isinstance(rate, dict) else {}
    found = {key: rate[key] for key in ("decay_steps", "warmup_steps", "boundaries") if key in rate}
    return found, settings.objective.args.get("warmup_steps")


@pytest.mark.parametrize("name", config.names())
def test_schedules_of_shipped_recipes_on_their_own_data_are_those_of_the_weights(name):
    settings = config.read(name)
    assert durations(settings) == SCHEDULES.get(name, ({}, None))
    assert settings.data.train_size == TRAINING_IMAGES.get(settings.data.name, 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_grow_with_the_data(name):
    """On ten times the data all durations are ten times as long, and the decay still ends with the training."""
    settings = config.read(name)
    per_epoch = settings.data.train_size // settings.train.batch_size
    larger = 10 * per_epoch * settings.train.batch_size
    rate, warmup = durations(config.read(name, {"data.train_size": larger}))
    old_rate, old_warmup = durations(settings)
    if "decay_steps" in rate:
        assert rate["decay_steps"] + rate.get("warmup_steps", 0) == 10 * settings.train.epochs * per_epoch
    if "warmup_steps" in rate:
        assert rate["warmup_steps"] == pytest.approx(10 * old_rate["warmup_steps"], rel=2e-3)
    if "boundaries" in rate:
        assert rate["boundaries"] == [10 * boundary for boundary in old_rate["boundaries"]]
    assert warmup == (None if old_warmup is None else 10 * old_warmup)


def test_a_duration_in_steps_takes_the_place_of_one_in_epochs():
    settings = config.read("adgm_moons", {"objective.args.warmup_steps": 7, "train.epochs": 3})
    assert "warmup_epochs" not in settings.objective.args
    assert durations(settings)[1] == 7
    again = config.parse(config.as_dict(settings), {"objective.args.warmup_epochs": 2})
    assert durations(again)[1] == 2 * 400


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.train_size": 0}, "`data.train_size` must be at least `train.batch_size`, because"),
        ({"data.train_size": 63}, "`data.train_size` must be at least `train.batch_size`, because"),
        (
            {"train.optimizer.args.learning_rate.warmup_epochs": 300},
            "learning_rate.decay_epochs` must end after the warm-up",
        ),
        (
            {"train.optimizer.args.learning_rate.decay_epochs": -1},
            "learning_rate.decay_epochs` must be a finite number of at least 0. Received: -1",
        ),
        (
            {"objective.args": {"warmup_epochs": 3, "warmup_steps": 3}},
            "`objective.args.warmup_epochs` must be left out",
        ),
    ],
)
def test_durations_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError) as error:
        config.with_steps(config.read(ENTRY, overrides))
    assert message in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in config.names() if config.read(name).data.labels])
def test_labels_are_those_of_the_paper(name):
    settings = config.read(name)
    published = {"mnist": 100, "svhn_cropped": 1000, "smallnorb": 1000, "moons": 6}
    assert settings.data.labels == published[settings.data.name]
    assert settings.objective.name in ("semi_supervised_elbo", "stein")


@pytest.mark.parametrize("name", ["adgm_mnist100", "sdgm_mnist100", "sdgm_svhn1000", "sdgm_norb1000", "m1m2_svhn1000"])
def test_alpha_is_that_of_the_paper(name):
    """beta = 0.1 times (N_l + N_u) / N_l, section 2.3 of Maaloe et al.; all training images count."""
    settings = config.read(name)
    labels = settings.data.labels
    expected = alpha(labels, TRAINING_IMAGES[settings.data.name] - labels)
    assert settings.objective.args["alpha"] == pytest.approx(expected, rel=1e-4)


THESIS_TABLE_5_1 = {
    "diagonal": ("iaf_mnist_diagonal", {}),
    **{
        f"IAF {depth}x{width}": ("iaf_mnist", {"posterior_args": {"num_steps": depth, "hidden_units": [width]}})
        for depth, width in [(2, 320), (2, 1920), (4, 1920), (8, 1920)]
    },
}
THESIS_TABLES_5_B = {
    f"{inference}, {steps} steps, {hidden} hidden, {form}, depth {depth}": (
        "iaf_cifar10_thesis",
        dict(num_blocks=depth, inference=inference, flow_steps=steps, flow_hidden_layers=hidden, flow_form=form),
    )
    for depth in (4, 8, 12)
    for inference in ("bottom_up", "bidirectional")
    for steps, hidden in [(0, 0), (1, 0), (1, 1), (1, 2), (2, 1)]
    for form in ("location", "location_scale")
}


DEEPER = [pytest.param(row, marks=pytest.mark.rest) for row in THESIS_TABLES_5_B if not row.endswith("depth 4")]


@pytest.mark.parametrize("row", [*THESIS_TABLE_5_1, *(row for row in THESIS_TABLES_5_B if row.endswith("4")), *DEEPER])
def test_every_row_of_the_thesis_tables_is_a_config(row):
    """Tables 5.1, 5.B.1 and 5.B.2, by `vaezoo train ENTRY --set model.args.KEY=VALUE`; the nets here are narrow."""
    entry, args = {**THESIS_TABLE_5_1, **THESIS_TABLES_5_B}[row]
    settings = config.read(entry, {f"model.args.{key}": value for key, value in args.items()})
    assert {key: settings.model.args[key] for key in args} == args
    if entry == "iaf_cifar10_thesis":
        narrow = {"filters": 2, "latent_filters": 1}
        model = ResNetVAE(**{**settings.model.args, **narrow})
        assert [len(model.blocks), len(model.blocks[0].posterior.nets)] == [args["num_blocks"], args["flow_steps"]]


def test_a_config_survives_json():
    settings = config.read(ENTRY)
    assert config.parse(json.loads(json.dumps(config.as_dict(settings)))) == settings


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.read(ENTRY).name = "other"


def test_overrides_reach_nested_keys():
    settings = config.read(ENTRY, {"train.epochs": 3, "model.args.latent_dim": 2, "train.optimizer.name": "SGD"})
    assert (settings.train.epochs, settings.model.args["latent_dim"], settings.train.optimizer.name) == (3, 2, "SGD")
    assert settings.model.args["hidden_units"] == config.read(ENTRY).model.args["hidden_units"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("model.args.hidden_units=[7, 8]", "model.args.hidden_units", [7, 8]),
        ("train.jit_compile=false", "train.jit_compile", False),
        ("data.name=mnist", "data.name", "mnist"),
        ("objective.args={nats = 0.5}", "objective.args", {"nats": 0.5}),
    ],
)
def test_command_line_values_are_toml_or_strings(text, key, value):
    assert config.override(text) == (key, value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"train.epoch": 3},
            "`train.epoch` must be a known key: optimizer, epochs, batch_size, seed, jit_compile, start_from.",
        ),
        ({"train.epoch": 3}, "Did you mean 'epochs'?"),
        ({"trian.epochs": 3}, "Did you mean 'train'?"),
        ({"train.epochs": "3"}, "`train.epochs` must be of type int. Received: '3'"),
        ({"train.epochs": True}, "`train.epochs` must be of type int. Received: True"),
        ({"train": 3}, "`train` must be a table. Received: 3"),
        ({"train.epochs": 0}, "`train.epochs` must be an integer of at least 1. Received: 0"),
        ({"eval.num_samples": -1}, "`eval.num_samples` must be an integer of at least 1. Received: -1"),
        ({"train.epochs.more": 3}, "`train.epochs` must be a table to set `more` in it. Received: 300"),
        (
            {"model.name": "vea"},
            "`model.name` must be one of: adgm, as_vae, avae, conv_vae, m1, m1m2, m2, resnet_vae, sdgm, "
            "semi_supervised_stein_vae, stein_vae, vae. "
            "Received: 'vea'. Did you mean 'vae'?",
        ),
        ({"model.args.latentdim": 3}, "latentdim"),
        ({"objective.name": "free_bits", "objective.args": {}}, "must be arguments of FreeBits"),
        ({"objective.name": "elb"}, "Did you mean 'elbo'?"),
        (
            {"objective.args": {"samples": 3}},
            "`objective.args of ELBO` must be one of: analytic_kl, beta",
        ),
        ({"train.optimizer.name": "Adm"}, "Did you mean 'Adam'?"),
        ({"train.optimizer.args": {"lr": 0.1}}, "`train.optimizer.args of Adam` must be one of: amsgrad"),
        ({"train.optimizer.args.learning_rate.schedule": "Cosine"}, "Did you mean 'CosineDecay'?"),
        ({"train.optimizer.args.learning_rate.decay": 3}, "learning_rate of CosineDecay` must be one of: alpha"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        loading.build(config.read(ENTRY, overrides))
    assert message in str(error.value), error.value
    assert "\n" not in str(error.value)


# Models and objectives of a user's own.

OWN = """
import keras
from vaezoo.base import StochasticModel
from vaezoo.models import VAE
from vaezoo.objectives import ELBO


@keras.saving.register_keras_serializable(package="tests")
class Mine(VAE):
    def __init__(self, *args, width, **kwargs):
        super().__init__(*args, hidden_units=(width, width), **kwargs)


@keras.saving.register_keras_serializable(package="tests")
class Halved(ELBO):
    def __call__(self, terms, step):
        return 0.5 * super().__call__(terms, step)


class Other:
    pass
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """The name of a module in the working directory, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n")
    return name


def test_a_config_names_classes_of_the_users_own(own_module):
    overrides = {"model.name": f"{own_module}:Mine", "model.args.width": 7, "objective.name": f"{own_module}:Halved"}
    settings = config.read(ENTRY, overrides)
    args = {key: value for key, value in settings.model.args.items() if key != "hidden_units"}
    model = loading.build(dataclasses.replace(settings, model=config.Model(settings.model.name, args)))
    assert (type(model).__name__, type(model.objective).__name__) == ("Mine", "Halved")
    assert model.get_config()["width"] == 7
    assert [layer.units for layer in model.encoder.layers[1:]] == [7, 7]
    assert model.latent_dim == settings.model.args["latent_dim"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Mine", "must name a module that can be imported. Received: 'nowhere:Mine': ModuleNotFoundError"),
        ("{}_broken:Mine", "ZeroDivisionError: division by zero"),
        (":Mine", "must name a module that can be imported"),
        ("{}:Other", "must name a StochasticModel in {}. Received: 'Other'"),
        ("{}:Halved", "must name a StochasticModel in {}. Received: 'Halved'"),
        ("{}:Mien", "must name a StochasticModel in {}. Received: 'Mien'. Did you mean 'Mine'?"),
        ("{}:Mine", "likelihood, name, posterior, posterior_args, principal_components, width. Received: 'wdth'"),
    ],
)
def test_classes_that_cannot_be_are_one_line(own_module, name, message):
    settings = config.read(ENTRY, {"model.name": name.format(own_module), "model.args": {"wdth": 3}})
    with pytest.raises(ValueError) as error:
        loading.build(settings)
    assert message.format(own_module) in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_a_registered_name_is_one_that_configs_may_use(monkeypatch):
    from vaezoo import models

    for names in ("MODELS", "OBJECTIVES"):
        monkeypatch.setattr(models, names, dict(getattr(models, names)))

    class Registered(models.VAE):
        pass

    zoo.register("mine", Registered)
    zoo.register("mine", Registered)  # a module may be read again
    assert type(loading.build(config.read(ENTRY, {"model.name": "mine"}))) is Registered
    with pytest.raises(ValueError, match="Did you mean 'mine'"):
        loading.build(config.read(ENTRY, {"model.name": "mien"}))
    for name, cls, message in [
        ("vae", Registered, "`name` must not be in use. Received: 'vae'"),
        ("a:b", Registered, "`name` must be a string without ':'. Received: 'a:b'"),
        ("other", dict, "`cls` must be a StochasticModel or an Objective. Received: <class 'dict'>"),
    ]:
        with pytest.raises(ValueError, match=message):
            zoo.register(name, cls)


@pytest.mark.parametrize("code", ["vaezoo.load('vae_digits', weights=None)", "from vaezoo.models import VAE"])
def test_another_backend_is_refused_in_one_line(code):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", f"import vaezoo; print(len(vaezoo.list_models())); {code}"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert int(result.stdout) > 30  # names and cards need no Keras
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: vaezoo needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: 'jax'"
    )


def test_another_backend_in_keras_own_file_is_refused_too(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND", None)
    command = [sys.executable, "-m", "vaezoo", "evaluate", ENTRY]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "vaezoo: vaezoo needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: 'torch'\n"
    )


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "mine.toml").write_text('[card]\nsummary = "x"\nlicence = "y"\n')
    with pytest.raises(ValueError, match="`card.citation` must be given"):
        config.read(tmp_path / "mine.toml")


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text("[card\n")
    with pytest.raises(ValueError, match="must be TOML"):
        config.read(tmp_path / "mine.toml")


def test_a_config_of_the_users_own_is_read_from_its_path(tmp_path):
    source = (config.config_dir() / f"{ENTRY}.toml").read_text()
    (tmp_path / "mine.toml").write_text(source)
    settings = config.read(tmp_path / "mine.toml")
    assert settings == dataclasses.replace(config.read(ENTRY), name="mine")


def test_names_and_cards_need_no_tensorflow():
    script = "import sys, vaezoo; vaezoo.info(vaezoo.list_models()[0]); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
