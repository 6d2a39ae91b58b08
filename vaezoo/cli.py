"""The `vaezoo` command: thin, the logic is in the library. TensorFlow is imported by the commands that need it."""

import contextlib
import dataclasses
import enum
import json
import math
import os
import pathlib
import sys
from typing import Annotated

import typer

from vaezoo import config

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


class Estimator(enum.StrEnum):
    """How log p(x) is estimated."""

    importance = enum.auto()
    ais = enum.auto()


Label = Annotated[int | None, typer.Option(help="Only this class, of a model with classes.")]


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
    replaced = _overrides(overrides, data_path)
    entry = config.read(name, replaced)  # first: a mistyped name need not wait for TensorFlow
    _import_tensorflow()
    from vaezoo import callbacks, training, zoo

    directory = directory or training.default_directory(name, entry)
    settings = {"directory": directory, "resume": resume, "overrides": replaced}
    if sys.stderr.isatty():
        with callbacks.ProgressBar(entry.train.epochs) as bar:
            training.train(name, **settings, verbose=0, callbacks=[bar])
    else:
        training.train(name, **settings, verbose=2)  # a line per epoch
    parts = ("best.weights.h5", "last.weights.h5", "log.csv", "images", zoo.RUN_WORDS, "tensorboard")
    typer.echo(f"{directory}: " + ", ".join(part for part in parts if (directory / part).exists()))


@app.command()
def evaluate(
    name: Name,
    weights: Weights = None,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Importance samples; default as in the config.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many test images.")] = None,
    estimator: Annotated[
        Estimator, typer.Option(help="Of log p(x): samples of q(z | x), or annealed importance sampling without it.")
    ] = Estimator.importance,
    num_chains: Annotated[int | None, typer.Option(min=1, help="Of --estimator ais, per image; default 6.")] = None,
    num_temperatures: Annotated[int | None, typer.Option(min=1, help="Of --estimator ais; default 500.")] = None,
    output: Annotated[pathlib.Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    seed: Seed = 0,
    data_path: DataPath = None,
    overrides: Overrides = None,
):
    """Measure the ELBO, log p(x), bits/dim and the latents on the test images; with --estimator ais log p(x) alone."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    annealed = estimator == Estimator.ais
    chains = {"num_chains": num_chains, "num_temperatures": num_temperatures}
    chains = {key: value for key, value in chains.items() if value is not None}
    for key, value in ({"num_samples": num_samples} if annealed else chains).items():
        if value is not None:
            option = key.replace("_", "-")
            raise ValueError(f"`--{option}` must be left out with --estimator {estimator.value}. Received: {value}")
    model, entry = _load(name, weights, overrides, data_path)
    from vaezoo import data, evaluation

    test = _splits(name, entry).test
    images = data.transform_once(test.images[:limit], entry.data.transform)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images", total=len(images))
        options = {
            "transform": entry.data.transform,
            "seed": seed,
            "progress": lambda done, total: progress.update(task, completed=done),
        }
        if annealed:
            figures = evaluation.evaluate_annealed(model, images, **chains, **options)
        else:
            samples = num_samples or entry.eval.num_samples
            figures = evaluation.evaluate(model, images, num_samples=samples, **options)
    if not annealed and hasattr(model, "predict_proba") and test.labels is not None:
        wrong = evaluation.error_rate(model, test.images[:limit], test.labels[:limit])
        figures = dataclasses.replace(figures, error_rate=wrong)
    _report({"name": entry.name, **dataclasses.asdict(figures)}, output)


@app.command()
def score(
    name: Name,
    classifier: Annotated[pathlib.Path, typer.Option(help="A .keras file: images in [0, 1] -> probabilities.")],
    num_samples: Annotated[int, typer.Option(min=10, help="Images to draw from the model.")] = 10_000,
    weights: Weights = None,
    output: Annotated[pathlib.Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    seed: Seed = 0,
    overrides: Overrides = None,
):
    """Measure samples by a classifier: classifier score, and Frechet distance from the grey test images."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import data, files, image_classifier, sample_scores

    loaded, splits = image_classifier.load(classifier), data.load(entry.data.name)
    figures = sample_scores.score_samples(model, loaded, splits, num_samples=num_samples, seed=seed)
    used = {"classifier": str(classifier), "classifier_sha256": files.sha256(classifier)}
    _report({"name": entry.name, **used, **dataclasses.asdict(figures)}, output)


@app.command("train-classifier")
def train_classifier(
    data_name: Annotated[str, typer.Argument(metavar="DATA", help="A data set with labels, such as mnist.")],
    output: Annotated[pathlib.Path, typer.Argument(help="Receives the classifier; ends in .keras.")],
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the order of the images.")] = 0,
):
    """Train a small classifier of a data set's grey images, for `vaezoo score`."""
    if output.suffix != ".keras":
        raise ValueError(f"`output` must end in .keras. Received: {output}")
    _import_tensorflow()
    from vaezoo import data, files, image_classifier

    splits = data.load(data_name)
    if splits.train.labels is None:
        raise ValueError(f"`data` must be a data set with labels. Received: {data_name!r}, which has none")
    with files.atomic(output) as path:  # first: a folder that can't be written need not wait for the training
        verbose = 1 if sys.stderr.isatty() else 2  # a bar, or a line per epoch
        model = image_classifier.train(*splits.train, epochs=epochs, seed=seed, verbose=verbose)
        model.save(path)
    wrong = image_classifier.ImageClassifier(model).error_rate(*splits.test)
    typer.echo(f"{output}: {wrong:.2f} % of {len(splits.test.images)} test images wrong")


@app.command()
def classify(
    name: Name,
    classifier: Annotated[str, typer.Option(help="knn, logistic_regression or tsvm.")] = "tsvm",
    labels: Annotated[int, typer.Option(min=2, help="Labelled images, as many of each class.")] = 100,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the labels, with seeds from 0.")] = 3,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Classify test images by a model's codes, with few labels: M1 with a classifier."""
    import numpy as np

    model, entry = _load(name, weights, overrides)
    from vaezoo import data, evaluation
    from vaezoo.models import M1

    if not isinstance(model, M1):
        raise ValueError(f"`name` must be an M1, a model of features. Received: {entry.name}, a {entry.model.name}")
    splits, errors = data.load(entry.data.name), []
    for seed in range(draws):
        drawn = data.draw_labels(splits, labels, seed)
        errors.append(evaluation.feature_error_rate(model, drawn, classifier))
        typer.echo(f"label seed {seed}: {errors[-1]:.2f} % of {len(splits.test.images)} test images wrong")
    spread = f", standard deviation {np.std(errors, ddof=1):.2f}" if draws > 1 else ""
    typer.echo(f"{classifier} on {labels} labels: mean {np.mean(errors):.2f} %{spread}")


@app.command()
def sample(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Scales the prior's standard deviation.")] = 1.0,
    label: Label = None,
    seed: Seed = 0,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Draw images from the model."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    _save(plots.samples(model, num_images, seed=seed, temperature=temperature, label=label), output, entry, "sample")


@app.command()
def reconstruct(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 40,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Show test images above their reconstructions."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    images, _ = _test_images(name, entry, num_images)
    _save(plots.reconstructions(model, images), output, entry, "reconstruct")


@app.command()
def analogies(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 10,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Show test images, and beside each every class in its style."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    images, _ = _test_images(name, entry, num_images)
    _save(plots.analogies(model, images), output, entry, "analogies")


@app.command()
def manifold(
    name: Name,
    output: Output = None,
    size: Annotated[int, typer.Option(min=1, help="Images along each side.")] = 20,
    label: Label = None,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Show the images of a 2-D latent space, through the inverse Gaussian CDF."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    _save(plots.manifold(model, size, label), output, entry, "manifold")


@app.command()
def latents(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 5000,
    weights: Weights = None,
    data_path: DataPath = None,
    overrides: Overrides = None,
):
    """Scatter the codes of test images, or documents, coloured by label."""
    model, entry = _load(name, weights, overrides, data_path)
    from vaezoo import plots

    _save(plots.latents(model, *_test_images(name, entry, num_images)), output, entry, "latents")


@app.command()
def auxiliary(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 5000,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Scatter the auxiliary variable of test images, coloured by label."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    _save(plots.auxiliary_space(model, *_test_images(name, entry, num_images)), output, entry, "auxiliary")


@app.command()
def information(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 5000,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Rank the latent units by the nats that they take, on test images."""
    model, entry = _load(name, weights, overrides)
    from vaezoo import plots

    images, _ = _test_images(name, entry, num_images)
    _save(plots.information(model, images), output, entry, "information")


@app.command()
def topics(
    name: Name,
    num_words: Annotated[int, typer.Option(min=1, help="Words for each latent unit.")] = 10,
    weights: Weights = None,
    data_path: DataPath = None,
    overrides: Overrides = None,
):
    """Print the words that each latent unit makes more frequent, of a model of documents."""
    from rich.console import Console
    from rich.table import Table

    model, entry = _load(name, weights, overrides, data_path)
    from vaezoo import evaluation, zoo

    words = (None if data_path else zoo.words(name, entry)) or _splits(name, entry).words
    if words is None:
        raise ValueError(f"`data name` must be of documents whose words are known. Received: {entry.data.name}")
    table = Table("unit", "words", box=None)
    for unit, of_unit in enumerate(evaluation.topics(model, words, num_words), start=1):
        table.add_row(str(unit), " ".join(of_unit))
    Console().print(table)


@app.command()
def layers(
    folder: Annotated[pathlib.Path, typer.Argument(help="The folder of a run, of a model with layers of latents.")],
    output: Output = None,
):
    """Stack the KL of a run's layers of latents over its epochs."""
    if not config.is_run(folder):
        raise ValueError(f"`folder` must be the folder of a run. Received: {folder}")
    entry = config.read(folder)
    from vaezoo import plots

    _save(plots.kl_per_layer(folder / "log.csv", entry.model.args["image_shape"]), output, entry, "layers")


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
    model, entry = _load(name, weights, overrides)
    from vaezoo import zoo

    card = config.as_dict(entry)
    if words := zoo.words(name, entry):
        card["words"] = words  # the columns of what is sent
    if serving:
        from vaezoo import serving

        typer.echo(serving.export(model, directory, entry.name, card))
        _print_labels(serving.labels(directory))
        return
    from vaezoo import exporting

    exported = exporting.export(model, directory, entry.name, card)
    for path in (exported.version, *exported.lite.values(), exported.report):
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
    from vaezoo import serving

    serving.label(directory, name, label, version)
    _print_labels(serving.labels(directory))


@app.command()
def serve(directory: Annotated[pathlib.Path, typer.Argument(help="A folder that `vaezoo export --serving` wrote.")]):
    """Start TensorFlow Serving on exports: tensorflow_model_server if it is there, else docker compose."""
    from vaezoo import serving

    raise typer.Exit(serving.serve(directory))


def _load(name, weights, overrides, data_path=None):
    entry = config.read(name, _overrides(overrides, data_path))  # first: a mistyped name need not wait for TensorFlow
    _import_tensorflow()
    from vaezoo import zoo

    model = zoo.load_config(entry, weights or zoo.pretrained(name, entry))
    entry = dataclasses.replace(entry, num_params=model.count_params())  # --set may have changed it
    return model, dataclasses.replace(entry, weights=None) if weights else entry  # its figures are of its own weights


def _splits(name, entry):
    """Returns the `Splits` of an entry's data; documents of other words than its weights' are refused."""
    from vaezoo import data, zoo

    splits = data.load(entry.data.name)
    zoo.check_words(name, entry, splits.words)
    return splits


def _test_images(name, entry, num_images):
    """Returns the first test images of an entry's data, transformed, and their labels, or None."""
    from vaezoo import data

    test = _splits(name, entry).test
    images = data.transform_once(test.images[:num_images], entry.data.transform)
    return images, None if test.labels is None else test.labels[:num_images]


def _import_tensorflow():
    """Imports TensorFlow without the lines that its C++ side writes to stderr whatever TF_CPP_MIN_LOG_LEVEL says."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _overrides(texts, data_path=None):
    overrides = dict(config.override(text) for text in texts or ())
    if data_path is None:
        return overrides
    if data_path.suffix != ".npz":
        raise ValueError(f"`--data` must be a file that ends in .npz. Received: {data_path}")
    if "data.name" in overrides:
        raise ValueError(f"`--data` must be left out with --set data.name. Received: {data_path}")
    return {**overrides, "data.name": str(data_path.resolve())}  # a run's folder is read from elsewhere, too


def _report(figures, output):
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


def _print_labels(labels):
    for name, versions in labels.items():
        typer.echo(f"{name}: " + ", ".join(f"{label} is version {version}" for label, version in versions.items()))


def _print_lite_report(report):
    from rich.console import Console
    from rich.table import Table

    table = Table("LiteRT", "size, kB", "signature", "largest difference", "relative", "ms per row", box=None)
    for precision, figures in report.items():
        for signature in ("encode", "decode"):
            measured = figures[signature]
            differences = f"{measured['max_difference']:.1e}", f"{measured['relative_difference']:.1e}"
            size, latency = f"{figures['bytes'] / 1000:.0f}", f"{measured['milliseconds']:.3f}"
            table.add_row(precision, size, signature, *differences, latency)
    Console().print(table)


def _save(figure, output, entry, command):
    from vaezoo import plots

    path = output or pathlib.Path(f"{entry.name}-{command}.png")
    plots.save(figure, path)
    typer.echo(path)


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
