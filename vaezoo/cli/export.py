"""Commands that export models, and that serve exports."""

import json
import pathlib
from typing import Annotated

import typer

from vaezoo.cli.common import (
    Name,
    Overrides,
    Weights,
    app,
    load_model,
)
from vaezoo.zoo import config


@app.command()
def export(
    name: Name,
    directory: Annotated[pathlib.Path, typer.Argument(help="Receives NAME/<version>/, and what goes with it.")],
    serving: Annotated[
        bool, typer.Option("--serving", help="For TensorFlow Serving: warm-up requests, labels, configuration.")
    ] = False,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Export a SavedModel that runs without vaezoo, with LiteRT files or for TensorFlow Serving."""
    model, entry = load_model(name, weights, overrides)
    from vaezoo.zoo import loading

    card = config.as_dict(entry)
    if words := loading.words(name, entry):
        card["words"] = words  # the columns of what is sent
    if serving:
        from vaezoo.serving import bundle

        typer.echo(bundle.export(model, directory, entry.name, card))
        _print_labels(bundle.labels(directory))
        return
    from vaezoo.serving import exporting

    exported = exporting.export(model, directory, entry.name, card)
    typer.echo(exported.version)
    if exported.report is not None:
        for path in (*exported.lite.values(), exported.report):
            typer.echo(path)
        _print_lite_report(json.loads(exported.report.read_text("utf-8")))


@app.command()
def label(
    directory: Annotated[pathlib.Path, typer.Argument(help="A folder that `vaezoo export --serving` wrote.")],
    name: Annotated[str, typer.Argument(help="A model in it.")],
    label: Annotated[str, typer.Argument(help="stable or canary")],
    version: Annotated[int, typer.Argument(help="The version that the label is to name.")],
):
    """Move a label of a served model: stable onto a canary that has proved itself, or back."""
    from vaezoo.serving import bundle

    bundle.label(directory, name, label, version)
    _print_labels(bundle.labels(directory))


@app.command()
def serve(directory: Annotated[pathlib.Path, typer.Argument(help="A folder that `vaezoo export --serving` wrote.")]):
    """Start TensorFlow Serving on exports: tensorflow_model_server if it is there, else docker compose."""
    from vaezoo.serving import bundle

    raise typer.Exit(bundle.serve(directory))


def _print_labels(labels):
    for name, versions in labels.items():
        typer.echo(f"{name}: " + ", ".join(f"{label} is version {version}" for label, version in versions.items()))


def _print_lite_report(report):
    from rich.console import Console
    from rich.table import Table

    table = Table("LiteRT", "size, kB", "signature", "largest difference", "relative", "ms per row", box=None)
    for precision, figures in report.items():
        for signature, measured in figures.items():
            if signature == "bytes":
                continue
            differences = f"{measured['max_difference']:.1e}", f"{measured['relative_difference']:.1e}"
            size, latency = f"{figures['bytes'] / 1000:.0f}", f"{measured['milliseconds']:.3f}"
            table.add_row(precision, size, signature, *differences, latency)
    Console().print(table)
