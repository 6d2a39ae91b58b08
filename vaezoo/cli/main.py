"""The `vaezoo` command: thin, the logic is in the library. TensorFlow is imported by the commands that need it."""

import contextlib
import os
import pathlib
import sys
from typing import Annotated

import typer

from vaezoo.cli import draw, export, measure  # noqa: F401  they add their commands to the app
from vaezoo.cli.common import DataPath, Name, Overrides, app, import_tensorflow, overrides_of
from vaezoo.zoo import config


@app.command("list")
def list_entries():
    """List the zoo's entries."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "what it is", "data", "weights", box=None)
    for name in config.names():
        entry = config.read(name)
        table.add_row(name, entry.card.summary, entry.data.name, entry.weights.measured if entry.weights else "none")
    Console().print(table)


@app.command()
def info(name: Name):
    """Show an entry's card: recipe, paper, figures, licence, citation."""
    from rich.console import Console
    from rich.markup import escape

    entry = config.read(name)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(entry.name)}[/bold]  {escape(entry.card.summary)}\n")
    for section, table in config.as_dict(entry).items():
        if isinstance(table, dict):
            console.print(f"[bold]{section}[/bold]")
            for key, value in table.items():
                console.print(f"  {key}: {escape(str(value))}", soft_wrap=True)
        elif section != "name":
            console.print(f"[bold]{section}[/bold]: {table}")


@app.command()
def train(
    name: Name,
    directory: Annotated[
        pathlib.Path | None, typer.Option("--dir", help="The run's folder; default runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    data_path: DataPath = None,
    overrides: Overrides = None,
):
    """Train an entry; with several devices on all of them, with TF_CONFIG on all workers.

    With other data than the entry's, and of documents, the model takes the shape of the images, or the number of words,
    that it is given.
    """
    replaced = overrides_of(overrides, data_path)
    entry = config.read(name, replaced)  # first: a mistyped name need not wait for TensorFlow
    import_tensorflow()
    from vaezoo.zoo import callbacks, loading, run_folder, training

    directory = directory or run_folder.default_directory(name, entry)
    settings = {"directory": directory, "resume": resume, "overrides": replaced}
    if sys.stderr.isatty():
        with callbacks.ProgressBar(entry.train.epochs) as bar:
            training.train(name, **settings, verbose=0, callbacks=[bar])
    else:
        training.train(name, **settings, verbose=2)  # a line per epoch
    parts = ("best.weights.h5", "last.weights.h5", "log.csv", "images", loading.RUN_WORDS, "tensorboard")
    typer.echo(f"{directory}: " + ", ".join(part for part in parts if (directory / part).exists()))


def main():
    """Runs the command. What a user can get wrong is one line on stderr and exit status 1, not a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with contextlib.suppress(BrokenPipeError):
            app()
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        if os.environ.get("VAEZOO_TRACEBACK"):
            raise
        print("vaezoo: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
