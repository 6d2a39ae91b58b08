"""Commands that draw pictures."""

import pathlib
from typing import Annotated

import typer

from vaezoo.cli.common import (
    DataPath,
    Label,
    Name,
    Output,
    Overrides,
    Seed,
    Weights,
    app,
    load_model,
    test_images,
)
from vaezoo.zoo import config


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
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

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
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

    images, _ = test_images(name, entry, num_images)
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
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

    images, _ = test_images(name, entry, num_images)
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
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

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
    model, entry = load_model(name, weights, overrides, data_path)
    from vaezoo.evaluation import plots

    _save(plots.latents(model, *test_images(name, entry, num_images)), output, entry, "latents")


@app.command()
def auxiliary(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 5000,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Scatter the auxiliary variable of test images, coloured by label."""
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

    _save(plots.auxiliary_space(model, *test_images(name, entry, num_images)), output, entry, "auxiliary")


@app.command()
def information(
    name: Name,
    output: Output = None,
    num_images: Annotated[int, typer.Option(min=1)] = 5000,
    weights: Weights = None,
    overrides: Overrides = None,
):
    """Rank the latent units by the nats that they take, on test images."""
    model, entry = load_model(name, weights, overrides)
    from vaezoo.evaluation import plots

    images, _ = test_images(name, entry, num_images)
    _save(plots.information(model, images), output, entry, "information")


@app.command()
def layers(
    folder: Annotated[pathlib.Path, typer.Argument(help="The folder of a run, of a model with layers of latents.")],
    output: Output = None,
):
    """Stack the KL of a run's layers of latents over its epochs."""
    if not config.is_run(folder):
        raise ValueError(f"`folder` must be the folder of a run. Received: {folder}")
    entry = config.read(folder)
    from vaezoo.evaluation import plots

    _save(plots.kl_per_layer(folder / "log.csv", entry.model.args["image_shape"]), output, entry, "layers")


def _save(figure, output, entry, command):
    from vaezoo.evaluation import plots

    path = output or pathlib.Path(f"{entry.name}-{command}.png")
    plots.save(figure, path)
    typer.echo(path)
