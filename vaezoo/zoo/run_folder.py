"""The folder of a run, which its chief locks, checks, and writes to only when all else has been found good."""

import json
import pathlib

from vaezoo import files
from vaezoo.zoo import config, loading


def default_directory(name, settings):
    """Returns where a run goes that is given no folder: the folder that `name` is, or `runs/<entry>`."""
    return pathlib.Path(name) if config.is_run(name) else pathlib.Path("runs") / settings.name


def keep_durations(directory, settings):
    """Returns a config with the steps of the folder's run where the config counts epochs: runs of old count steps."""
    if not config.is_run(directory):
        return settings
    kept = {}
    for where in ("train.optimizer.args.learning_rate", "objective.args"):
        before, now = (_table(config.as_dict(each), where.split(".")) for each in (config.read(directory), settings))
        for epochs, steps in config.STEPS_OF.items():
            if epochs in now and steps in before:
                kept[f"{where}.{steps}"] = before[steps]
    return config.parse(config.as_dict(settings), kept)


def _table(table, keys):
    """Returns the table at some keys; an empty one where a key is missing or names none."""
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def check_same_run(directory, settings, words):
    """Raises if the folder holds a run of another recipe (epochs may be added), or one that counts other words."""
    if not config.is_run(directory):
        return
    before, now = _decisive(config.read(directory)), _decisive(settings)
    if not before["data"]["train_size"]:  # a run made before sizes were kept
        now["data"]["train_size"] = 0
    different = _differences(before, now)
    if different:
        raise ValueError(
            f"`directory` must hold a run of the same config. Received: {directory}, which differs in: "
            + ", ".join(different)
        )
    loading.check_words(directory, settings, words)


def claim(directory, settings, words):
    """Makes the folder, clears it of what a killed run was writing, and writes the words, if any, and the config."""
    for folder in (directory, directory / "images"):
        files.sweep(folder)
    if not config.is_run(directory):
        (directory / loading.RUN_WORDS).unlink(missing_ok=True)  # of a run that was killed before it had a config
    if words is not None:
        with files.atomic(directory / loading.RUN_WORDS) as path:
            path.write_text("".join(f"{word}\n" for word in words), "utf-8")
    with files.atomic(directory / config.RUN_CONFIG) as path:
        path.write_text(json.dumps(config.as_dict(settings), indent=2), "utf-8")


def _decisive(settings):
    """Returns what decides a run's weights after any number of epochs, as JSON would give it back."""
    table = json.loads(json.dumps(config.as_dict(settings)))
    table["train"].pop("epochs")
    return {part: table.get(part) for part in ("model", "data", "objective", "train")}


def _differences(before, now, where=""):
    """Returns one text, "dotted.key (before, now)", per value that differs between two nested dicts."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{where}{key}.")
        elif old != new:
            found.append(f"{where}{key} (was {old!r}, is {new!r})")
    return found
