"""Configs: every entry of the zoo, overrides, and what is refused."""

import dataclasses
import json
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


@pytest.mark.parametrize("name", config.names())
def test_every_decay_ends_with_the_training(name):
    """The schedules count steps: epochs * (training images // batch size); those of a warm-up come before the decay."""
    settings = config.read(name)
    schedule = settings.train.optimizer.args["learning_rate"]
    if isinstance(schedule, float) or schedule["schedule"] == "PiecewiseConstantDecay":
        pytest.skip("constant rates")
    steps = settings.train.epochs * (TRAINING_IMAGES[settings.data.name] // settings.train.batch_size)
    assert schedule["decay_steps"] + schedule.get("warmup_steps", 0) == steps


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
