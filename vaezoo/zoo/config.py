"""Zoo entries as plain data: TOML -> frozen dataclasses. Unknown keys fail with a suggestion. Imports no TensorFlow."""

import dataclasses
import json
import pathlib
import tomllib
import types
import typing

from vaezoo import checks

RUN_CONFIG = "config.json"  # a run's folder holds its config under this name
# The arguments of schedules that may count epochs, and the names that they have in steps.
STEPS_OF = {"decay_epochs": "decay_steps", "warmup_epochs": "warmup_steps", "boundary_epochs": "boundaries"}
OTHER_UNIT = STEPS_OF | {steps: epochs for epochs, steps in STEPS_OF.items()}


@dataclasses.dataclass(frozen=True)
class Card:
    """What an entry is: shown by `vaezoo info`."""

    summary: str
    licence: str  # of the weights
    citation: str


@dataclasses.dataclass(frozen=True)
class Model:
    """A name in `vaezoo.models.MODELS`, or "package.module:Class", and its constructor's arguments."""

    name: str
    args: dict


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set's name, or the path of a .npz file, and a name in `vaezoo.data.TRANSFORMS`; see `vaezoo.data.load`.

    `train_size` is the number of training examples; 0 where nothing depends on it. A training run takes the number from
    its data instead; without data, schedules that count epochs are resolved with this one.

    With `labels` a semi-supervised model learns from so many of them, drawn by `label_seed`; see
    `vaezoo.data.semi_supervised`.
    """

    name: str
    transform: str
    train_size: int = 0
    labels: int = 0
    label_seed: int = 0

    def __post_init__(self):
        checks.non_negative_int("data.train_size", self.train_size)
        checks.non_negative_int("data.labels", self.labels)
        checks.non_negative_int("data.label_seed", self.label_seed)


@dataclasses.dataclass(frozen=True)
class Objective:
    """A name in `vaezoo.models.OBJECTIVES`, or "package.module:Class", and its arguments.

    `warmup_epochs` among them stands for `warmup_steps`; see `with_steps`.
    """

    name: str
    args: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A class of `keras.optimizers` and its arguments.

    `learning_rate` may be a table: `schedule`, a class of `keras.optimizers.schedules`, and its arguments, among which
    `decay_epochs`, `warmup_epochs` and `boundary_epochs` count epochs; see `with_steps`.
    """

    name: str
    args: dict


@dataclasses.dataclass(frozen=True)
class Train:
    """How to train: `seed` decides the initial weights, the order of the data and all noise.

    `start_from` is the entry with weights, or the folder of the run, whose model this one is built on; see the model's
    `start_from`.
    """

    optimizer: Optimizer
    epochs: int
    batch_size: int
    seed: int = 0
    jit_compile: bool = False
    start_from: str = ""

    def __post_init__(self):
        checks.positive_int("train.epochs", self.epochs)
        checks.positive_int("train.batch_size", self.batch_size)


@dataclasses.dataclass(frozen=True)
class Eval:
    """How the entry's figures are measured: importance samples per test image."""

    num_samples: int = 1000

    def __post_init__(self):
        checks.positive_int("eval.num_samples", self.num_samples)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What was published: where, the figure, and how this entry departs from it."""

    paper: str
    where: str
    reported: str
    departures: str


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained weights: a file beside the configs, or a url; what made them and the figures they reach.

    `words`, of a model of documents, is a file beside the configs: the words that it counts, one to a line.
    """

    sha256: str
    command: str
    duration: str
    measured: str
    file: str = ""
    url: str = ""
    words: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """One zoo entry. A config of a user's own may leave out what has a default: the model's own objective is one."""

    name: str
    card: Card
    model: Model
    data: Data
    train: Train
    objective: Objective | None = None
    eval: Eval = Eval()
    reference: Reference | None = None
    num_params: int = 0
    weights: Weights | None = None


def config_dir():
    """Returns the folder of the zoo's configs: inside the wheel, or beside the package in a checkout."""
    package = pathlib.Path(__file__).parents[1]
    packaged = package / "zoo_configs"
    return packaged if packaged.is_dir() else package.parent / "zoo_configs"


def names():
    """Returns the names of all zoo entries, sorted."""
    return sorted(path.stem for path in config_dir().glob("*.toml"))


def is_run(name):
    """Tells whether `name` is the folder of a training run.

    A string that is an entry's name is the entry: a folder called like one is reached as "./<name>", or as a `Path`.
    """
    if isinstance(name, Config) or name in names():
        return False
    return (pathlib.Path(name) / RUN_CONFIG).is_file()


def read(name, overrides=None):
    """Reads a zoo entry, a TOML file, or the config of a run.

    Args:
        name: a name in `names()`, a path that ends in .toml, or the folder of a run.
        overrides: dict from dotted keys to values, e.g. {"train.epochs": 3}.

    Raises:
        ValueError: the name or a key is unknown, a value is of the wrong type, or the file is not TOML.
        FileNotFoundError: the path does not exist.
    """
    if is_run(name):
        path = pathlib.Path(name) / RUN_CONFIG
        try:
            return parse(json.loads(path.read_text("utf-8")), overrides)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"`{path}` must be JSON. Received: {error}") from None
    if str(name).endswith(".toml"):
        path = pathlib.Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"`name` must be a file, if it ends in .toml. Received: {path}, which is none")
    elif len(pathlib.Path(name).parts) > 1:
        raise FileNotFoundError(f"`name` must be an entry, a .toml file or the folder of a run. Received: {name}")
    else:
        path = config_dir() / f"{checks.one_of('name', name, names())}.toml"
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` must be TOML. Received: {error}") from None
    return parse({"name": path.stem, **table}, overrides)


def parse(table, overrides=None):
    """Makes a `Config` of nested dicts; see `read`."""
    for key, value in (overrides or {}).items():
        table = _replace(table, key.split("."), value)
    return _build(Config, table, "")


def as_dict(config):
    """Returns a config as nested dicts that `parse` takes back."""
    return {key: value for key, value in dataclasses.asdict(config).items() if value is not None}


def with_steps(config):
    """Returns a config whose schedules count steps, as Keras' and the objectives' arguments do.

    An epoch is `data.train_size // train.batch_size` steps. `decay_epochs` says when the decay ends, a warm-up before
    it included: `decay_steps` is what the warm-up leaves.

    Raises:
        ValueError: a schedule counts epochs and the size is not known; it is in both units; or the warm-up takes all.
    """
    table = as_dict(config)
    optimizer, objective = table["train"]["optimizer"]["args"], table.get("objective", {"args": {}})
    per_epoch = config.data.train_size // config.train.batch_size
    if isinstance(optimizer.get("learning_rate"), dict):
        where = "train.optimizer.args.learning_rate"
        rate = _in_steps(optimizer["learning_rate"], where, per_epoch)
        if "decay_epochs" in optimizer["learning_rate"]:
            rate["decay_steps"] -= rate.get("warmup_steps", 0)
            if rate["decay_steps"] < 1:
                raise ValueError(
                    f"`{where}.decay_epochs` must end after the warm-up. Received: {config.train.optimizer}"
                )
        optimizer["learning_rate"] = rate
    objective["args"] = _in_steps(objective["args"], "objective.args", per_epoch)
    return parse(table)


def _in_steps(args, where, per_epoch):
    found = {}
    for key, value in args.items():
        if key in STEPS_OF:
            if STEPS_OF[key] in args:
                raise ValueError(f"`{where}.{key}` must be left out with `{STEPS_OF[key]}`. Received: {value}")
            if not per_epoch:
                raise ValueError(
                    f"`data.train_size` must be at least `train.batch_size`, because `{where}.{key}` counts epochs; "
                    "`vaezoo train` takes it from the data. Received: a smaller number, or none"
                )
            key, value = STEPS_OF[key], _times(f"{where}.{key}", value, per_epoch)
        found[key] = value
    return found


def _times(where, epochs, per_epoch):
    """Returns the steps of a number of epochs, or of a list of them, rounded."""
    if isinstance(epochs, list):
        return [_times(where, each, per_epoch) for each in epochs]
    return round(checks.non_negative(where, epochs) * per_epoch)


def override(text):
    """Parses "train.epochs=3": the dotted key, and the value as TOML, or as a string where it is none."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"`--set` must be KEY=VALUE, e.g. train.epochs=3. Received: {text!r}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _replace(table, keys, value, where=""):
    if len(keys) > 1:
        inner = table.get(keys[0], {})
        if not isinstance(inner, dict):
            raise ValueError(f"`{where}{keys[0]}` must be a table to set `{keys[1]}` in it. Received: {inner!r}")
        value = _replace(inner, keys[1:], value, f"{where}{keys[0]}.")
    # A duration in steps takes the place of one in epochs, and the other way round.
    table = {key: kept for key, kept in table.items() if key != OTHER_UNIT.get(keys[0])}
    return {**table, keys[0]: value}


def _build(cls, table, where):
    if not isinstance(table, dict):
        raise ValueError(f"`{where}` must be a table. Received: {table!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{where}." if where else ""
    for key in table.keys() - fields.keys():
        hint = checks.did_you_mean(key, fields)
        raise ValueError(f"`{prefix}{key}` must be a known key: {', '.join(fields)}. Received: {key!r}.{hint}")
    types_of = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(types_of[name], table[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"`{prefix}{name}` must be given. Received a config without it")
    return cls(**values)


def _value(kind, value, where):
    if isinstance(kind, types.UnionType):  # `Weights | None`
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"`{where}` must be of type {kind.__name__}. Received: {value!r}")
    return value
