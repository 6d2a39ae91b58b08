"""Commands that train nothing and print figures."""

import dataclasses
import enum
import pathlib
import sys
from typing import Annotated

import typer

from vaezoo.cli.common import (
    DataPath,
    Name,
    Overrides,
    Seed,
    Weights,
    app,
    import_tensorflow,
    load_model,
    report,
    splits_of,
)


class Estimator(enum.StrEnum):
    """How log p(x) is estimated."""

    importance = enum.auto()
    ais = enum.auto()


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
    model, entry = load_model(name, weights, overrides, data_path)
    from vaezoo import data, evaluation

    test = splits_of(name, entry).test
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
    if not annealed and model.class_probabilities is not None and test.labels is not None:
        wrong = evaluation.error_rate(model, test.images[:limit], test.labels[:limit])
        figures = dataclasses.replace(figures, error_rate=wrong)
    report({"name": entry.name, **dataclasses.asdict(figures)}, output)


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
    model, entry = load_model(name, weights, overrides)
    from vaezoo import data, files
    from vaezoo.evaluation import image_classifier, samples

    loaded, splits = image_classifier.load(classifier), data.load(entry.data.name)
    figures = samples.score_samples(model, loaded, splits, num_samples=num_samples, seed=seed)
    used = {"classifier": str(classifier), "classifier_sha256": files.sha256(classifier)}
    report({"name": entry.name, **used, **dataclasses.asdict(figures)}, output)


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
    import_tensorflow()
    from vaezoo import data, files
    from vaezoo.evaluation import image_classifier

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

    model, entry = load_model(name, weights, overrides)
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

    model, entry = load_model(name, weights, overrides, data_path)
    from vaezoo import evaluation
    from vaezoo.zoo import loading

    words = (None if data_path else loading.words(name, entry)) or splits_of(name, entry).words
    if words is None:
        raise ValueError(f"`data name` must be of documents whose words are known. Received: {entry.data.name}")
    table = Table("unit", "words", box=None)
    for unit, of_unit in enumerate(evaluation.topics(model, words, num_words), start=1):
        table.add_row(str(unit), " ".join(of_unit))
    Console().print(table)
