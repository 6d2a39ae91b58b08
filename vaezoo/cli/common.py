"""What the commands share: the app, arguments, and the ways to a model and its data."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Annotated

import typer

from vaezoo.zoo import config

app = typer.Typer(
    name="vaezoo",
    help="Published variational autoencoders, of images and of documents: train, measure, look at, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Name = Annotated[str, typer.Argument(help="A zoo entry (see `vaezoo list`), a TOML config, or the folder of a run.")]
Weights = Annotated[str | None, typer.Option(help="A .weights.h5 file instead of the entry's own weights.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the config.")
]
DataPath = Annotated[
    pathlib.Path | None,
    typer.Option("--data", metavar="PATH.npz", help="Arrays instead of the entry's data: see vaezoo.data.read_npz."),
]
Output = Annotated[
    pathlib.Path | None, typer.Option("--output", "-o", help="Where the picture goes; default NAME-COMMAND.png.")
]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.")]
Label = Annotated[int | None, typer.Option(help="Only this class, of a model with classes.")]


def load_model(name, weights, overrides, data_path=None):
    """Returns the model that a command is about, and its config."""
    entry = config.read(name, overrides_of(overrides, data_path))  # first: a mistyped name need not wait for TensorFlow
    import_tensorflow()
    from vaezoo.zoo import loading

    model = loading.load_config(entry, weights or loading.pretrained(name, entry))
    entry = dataclasses.replace(entry, num_params=model.count_params())  # --set may have changed it
    return model, dataclasses.replace(entry, weights=None) if weights else entry  # its figures are of its own weights


def splits_of(name, entry):
    """Returns the `Splits` of an entry's data; documents of other words than its weights' are refused."""
    from vaezoo import data
    from vaezoo.zoo import loading

    splits = data.load(entry.data.name)
    loading.check_words(name, entry, splits.words)
    return splits


def test_images(name, entry, num_images):
    """Returns the first test images of an entry's data, transformed, and their labels, or None."""
    from vaezoo import data

    test = splits_of(name, entry).test.rows(slice(num_images))
    return data.transform_once(test.images, entry.data.transform), test.labels


def import_tensorflow():
    """Imports TensorFlow without the lines that its C++ side writes to stderr whatever TF_CPP_MIN_LOG_LEVEL says."""
    import vaezoo.backend  # noqa: F401  before TensorFlow, which takes seconds

    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def overrides_of(texts, data_path=None):
    """Returns the dict of `--set` options, and of `--data`."""
    overrides = dict(config.override(text) for text in texts or ())
    if data_path is None:
        return overrides
    if data_path.suffix != ".npz":
        raise ValueError(f"`--data` must be a file that ends in .npz. Received: {data_path}")
    if "data.name" in overrides:
        raise ValueError(f"`--data` must be left out with --set data.name. Received: {data_path}")
    return {**overrides, "data.name": str(data_path.resolve())}  # a run's folder is read from elsewhere, too


def report(figures, output):
    """Prints a dict of figures, and writes it as JSON to a path that is not None."""
    from rich.console import Console
    from rich.table import Column, Table

    from vaezoo import files

    table = Table("figure", Column("value", overflow="fold"), box=None)
    for key, value in figures.items():
        value = " ".join(f"{nats:.2f}" for nats in value) if isinstance(value, tuple) else value
        table.add_row(key, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if output:
        with files.atomic(output) as path:
            # JSON has no NaN, nor infinities.
            unknown = {key for key, value in figures.items() if isinstance(value, float) and not math.isfinite(value)}
            figures = {key: None if key in unknown else value for key, value in figures.items()}
            path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", "utf-8")
