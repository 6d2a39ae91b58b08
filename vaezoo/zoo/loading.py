"""Models by name: built, compiled, with weights that are checked before they are read."""

import fnmatch
import os
import pathlib
import shutil
import urllib.request
import warnings

from vaezoo import checks, files
from vaezoo.zoo import config, registry

# TensorFlow is imported where a model is built: names and cards must not wait for it.

RUN_WORDS = "words.txt"  # in the folder of a run on documents: the words that they count, one to a line


def list_models(pattern="*"):
    """Returns the names of the zoo's entries that match a pattern such as "*mnist*"; see `fnmatch`."""
    if not isinstance(pattern, str):
        raise ValueError(f"`pattern` must be a string such as '*mnist*'. Received: {pattern!r}")
    return fnmatch.filter(config.names(), pattern)


def info(name):
    """Returns the entry's `vaezoo.zoo.config.Config`: card, recipe, references and figures."""
    return config.read(name)


def load(name, weights="pretrained", **overrides):
    """Returns a built, compiled model of the zoo.

    It is compiled with the entry's optimizer, whose learning rate follows a schedule made for the entry's own data and
    epochs: most schedules end at a rate of 0, and `fit` beyond their end moves nothing. To train on other data or for
    longer, use `vaezoo.train`, which takes the steps of an epoch from the data, or compile again with a rate of your
    own: `model.compile(keras.optimizers.Adam(1e-3))` keeps the objective.

    Args:
        name: an entry of `list_models()`, the path of a config in TOML, or the folder of a training run.
        weights: "pretrained" for the zoo's own (a run's best), None for freshly initialised ones, or the path of a
            `.weights.h5` file.
        **overrides: arguments of the model's constructor, e.g. latent_dim=5 (with `weights=None`, or weights to match).

    Raises:
        ValueError: the name or an override is unknown; the entry has no weights; the weights do not fit or are damaged.
        FileNotFoundError: the path of the weights does not exist.
    """
    settings = config.read(name, {f"model.args.{key}": value for key, value in overrides.items()})
    return load_config(settings, pretrained(name, settings) if weights == "pretrained" else weights)


def load_config(settings, weights):
    """Returns the compiled model of a `config.Config`, with the weights of a path, or fresh ones for None."""
    model = build(settings)
    if weights is None:
        return model
    try:
        load_weights(model, weights)
    except ValueError:
        if model.count_params() != settings.num_params:
            raise ValueError(
                f"`weights` must be of a model with these arguments: it has {model.count_params()} parameters, "
                f"{settings.name} as it is {settings.num_params}; add weights=None. Received: {weights}"
            ) from None
        raise
    return model


def pretrained(name, settings):
    """Returns the path of an entry's weights, verified and fetched if need be; of a run's folder, its best ones."""
    if config.is_run(name):
        return pathlib.Path(name) / "best.weights.h5"
    if settings.weights is None:
        raise ValueError(f"`weights` must be None or a path: {settings.name!r} ships none. Received: 'pretrained'")
    return _verified(settings.weights)


def words(name, settings):
    """Returns the V words that an entry's weights, or a run's, count, as far as these are known; else None.

    Args:
        name: as for `load`.
        settings: its `vaezoo.zoo.config.Config`; without `weights`, no words of an entry are known.
    """
    path = _words_path(name, settings)
    return None if path is None else tuple(path.read_text("utf-8").splitlines())


def _words_path(name, settings):
    if config.is_run(name):
        path = pathlib.Path(name) / RUN_WORDS
        return path if path.is_file() else None
    return config.config_dir() / settings.weights.words if settings.weights and settings.weights.words else None


def check_words(name, settings, given):
    """Raises `ValueError` if documents of given words, or None, are not counts of the words of `words`."""
    known = words(name, settings)
    if known is None or given is None or tuple(given) == known:
        return
    if len(given) == len(known):
        at = next(index for index, pair in enumerate(zip(given, known, strict=True)) if pair[0] != pair[1])
        received = f"{given[at]!r} for {known[at]!r} at {at}"
    else:
        received = f"{len(given)} words for {len(known)}"
    path = _words_path(name, settings)
    raise ValueError(f"`data` must count the words of {settings.name}, in the order of {path}. Received: {received}")


def build(settings, *, jit_compile=None, steps_per_execution=1):
    """Returns the model of a `vaezoo.zoo.config.Config`, compiled, its weights drawn from the config's seed.

    Schedules that count epochs count those of `data.train_size` examples, which is also a model's `num_examples`.

    Args:
        settings: the config.
        jit_compile: instead of the config's.
        steps_per_execution: as in `keras.Model.compile`.
    """
    from vaezoo.noise import keras_seed

    settings = config.with_steps(settings)
    model_class, optimizer, objective = registry.model(settings.model.name), _optimizer(settings.train.optimizer), None
    if settings.objective is not None:
        objective_class = registry.objective(settings.objective.name)
        objective = _call("objective.args", objective_class, settings.objective.args)
    with keras_seed(settings.train.seed):
        model = _call("model.args", model_class, settings.model.args)
    if model.num_examples is not None:
        model.num_examples.assign(settings.data.train_size)
    model.compile(
        optimizer,
        objective,
        seed=settings.train.seed,
        jit_compile=settings.train.jit_compile if jit_compile is None else jit_compile,
        steps_per_execution=steps_per_execution,
    )
    return model


def load_weights(model, path):
    """Reads a `.weights.h5` file into a model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of another model.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file. Received: {path}, which does not exist")
    try:
        with warnings.catch_warnings():  # weights' files hold no optimizer; Keras says so each time
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a damaged or foreign file
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"`weights` must be a whole `.weights.h5` file of this model. Received: {path}: {reason}"
        ) from None


def _optimizer(settings):
    import keras

    def known(module, base):
        found = {name: getattr(module, name) for name in dir(module)}
        return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, base)}

    args = dict(settings.args)
    if isinstance(args.get("learning_rate"), dict):
        table = dict(args["learning_rate"])
        schedules = known(keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule)
        where = "train.optimizer.args.learning_rate"
        schedule = schedules[checks.one_of(f"{where}.schedule", table.pop("schedule", None), schedules)]
        args["learning_rate"] = _call(where, schedule, table)
    optimizers = known(keras.optimizers, keras.optimizers.Optimizer)
    return _call(
        "train.optimizer.args", optimizers[checks.one_of("train.optimizer.name", settings.name, optimizers)], args
    )


def _call(where, function, args):
    """Calls with a config's arguments; an unknown or a missing one fails with the config's key."""
    known = registry.arguments(function) if where == "model.args" else checks.parameters(function)
    if where == "model.args":
        known += ["dtype", "name"]  # which every Keras model takes
    for key in args:
        checks.one_of(f"{where} of {function.__name__}", key, known)
    try:
        return function(**args)
    except TypeError as error:
        raise ValueError(f"`{where}` must be arguments of {function.__name__}. Received: {args}: {error}") from None


def cache_dir():
    """Returns the folder of fetched weights: $VAEZOO_CACHE, else ~/.cache/vaezoo."""
    return pathlib.Path(os.environ.get("VAEZOO_CACHE", pathlib.Path.home() / ".cache" / "vaezoo"))


def _verified(weights):
    """Returns the path of an entry's weights, fetched if need be, whose SHA-256 sum is the config's."""
    path = config.config_dir() / weights.file if weights.file else _fetched(weights.url, weights.sha256)
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be installed with the package. Received: no file {path}")
    if (actual := files.sha256(path)) != weights.sha256:
        raise ValueError(f"`{path}` must have SHA-256 {weights.sha256}. Received: {actual}; the file is damaged")
    return path


def _fetched(url, sha256):
    """Returns the cached copy of a url, which is downloaded once; a copy with a wrong sum never enters the cache."""
    path = cache_dir() / f"{sha256}.weights.h5"
    if path.exists() and files.sha256(path) == sha256:  # or else it is damaged, and fetched again
        return path
    with files.atomic(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise OSError(
                f"`weights` must be reachable or cached. Received: {url}: {error}; use weights=None"
            ) from None
        if (actual := files.sha256(temporary)) != sha256:
            raise ValueError(f"`{url}` must have SHA-256 {sha256}. Received: {actual}; the download is damaged")
    return path
