"""Pictures of a model, as matplotlib figures. No global state: the figures belong to the caller.

TensorFlow is imported where a model is asked for draws: the picture of a log must not wait for it.
"""

import csv
import math
import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.stats import norm

from vaezoo import checks

__all__ = [
    "analogies",
    "auxiliary_space",
    "grid_figure",
    "information",
    "kl_per_layer",
    "latents",
    "manifold",
    "posterior_draws",
    "reconstructions",
    "samples",
    "save",
    "tile_images",
]


def tile_images(images, columns=None, gap=1):
    """Lays images out in a grid, white between them: [N, H, W, C] in [0, 1] -> [rows*(H+gap)-gap, ..., C].

    Args:
        images: floats [N, H, W, C]; channels that are no colours (C is neither 1, 3 nor 4) stand side by side.
        columns: images per row; default: as square as can be.
        gap: pixels between images.
    """
    if images.shape[-1] not in (1, 3, 4):
        images = np.concatenate(np.split(images, images.shape[-1], axis=-1), axis=2)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    padded = np.ones((rows * columns, height + gap, width + gap, channels), np.float32)
    padded[:count, :height, :width] = images
    grid = padded.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + gap), columns * (width + gap), channels)
    return grid[: grid.shape[0] - gap, : grid.shape[1] - gap]


def grid_figure(images, columns=None, title=None):
    """Returns a figure of images [N, H, W, C] with values in [0, 1] in a grid."""
    grid = tile_images(np.asarray(images), columns)
    scale = 8 / max(grid.shape[:2])
    figure = Figure(
        figsize=(grid.shape[1] * scale, grid.shape[0] * scale + (0.4 if title else 0)), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    return figure


def samples(model, num_images=64, *, seed=0, temperature=1.0, label=None):
    """Returns a figure of E[x | z] for draws of z from the prior.

    Args:
        model: a `LatentVariableModel`.
        num_images: int.
        seed: int.
        temperature: as for the model's `sample`.
        label: a class, or one for each image, of a model with classes; None draws them.

    Raises:
        ValueError: there is a label, but the model has no classes, or not this one; the model is not one of images
            [H, W, C], or has no prior to draw from.
    """
    _require(model, "generate", *(["class_codes"] if label is not None else []), pictures=True)
    options = {} if label is None else {"label": label}
    return grid_figure(model.sample(num_images, seed=seed, temperature=temperature, **options))


def reconstructions(model, images):
    """Returns a figure of images (upper rows) above their reconstructions (lower rows), ten pairs a row."""
    _require(model, "encode", "decode", pictures=True)
    images = np.asarray(images)
    rebuilt = np.asarray(model.predict(images, verbose=0))
    images = images / 255.0 if images.dtype == np.uint8 else images
    columns = min(10, len(images))
    rows = []
    for first in range(0, len(images), columns):
        for part in (images, rebuilt):
            row = part[first : first + columns]
            rows.append(np.concatenate([row, np.ones((columns - len(row), *row.shape[1:]), row.dtype)]))
    return grid_figure(np.concatenate(rows), columns)


def analogies(model, images):
    """Returns a figure of images (left), and beside each E[x | z, y] for its own style z and every class y.

    Figure 3.1 of Kingma (2017), 3(a) of Maaloe et al. (2016): each class in the handwriting of the image on the left.

    Args:
        model: a model with `class_codes`, such as a `SemiSupervisedModel`.
        images: [N, H, W, C], a few.

    Raises:
        ValueError: the model has no classes, or is not one of images, or the images are not the model's.
    """
    _require(model, "class_codes", "encode", "decode", pictures=True)
    model.domain.check("images", images, model.example_shape)
    classes = np.arange(model.num_classes)
    z = np.asarray(model.encode(images))[:, : model.style_dim]  # [N, D]
    codes = model.class_codes(np.repeat(z, len(classes), axis=0), np.tile(classes, len(z)))  # [N*K, D + K]
    analogues = np.reshape(model.decode(codes), [len(z), len(classes), *model.example_shape])
    values = np.asarray(model.domain.values(images))
    rows = np.concatenate([values[:, np.newaxis], analogues], axis=1)  # [N, 1 + K, ...]
    figure = grid_figure(rows.reshape(-1, *model.example_shape), rows.shape[1])
    axes, width = figure.axes[0], model.example_shape[1]
    axes.set_axis_on()
    axes.set_frame_on(False)
    axes.tick_params(length=0, labelleft=False, labelbottom=False, labeltop=True)
    axes.set_xticks(np.arange(rows.shape[1]) * (width + 1) + (width - 1) / 2, ["x", *map(str, classes)])
    return figure


def manifold(model, size=20, label=None):
    """Returns a figure of E[x | z] over the plane, at z = Phi^-1 of a regular grid on the unit square.

    Figures 2.7 and 3.2 of Kingma (2017): equally likely steps of the prior, through the inverse Gaussian CDF.

    Args:
        model: a `LatentVariableModel` with 2 latent dimensions; of one with classes, those of the style count.
        size: int, images along each side.
        label: int, the class to show, of a model with classes; None for others.

    Raises:
        ValueError: the latent space is not 2-dimensional; the label is none of the model's classes; the model is not
            one of images.
    """
    _require(model, "decode", *(["class_codes"] if label is not None else []), pictures=True)
    size = checks.positive_int("size", size)
    if label is None and model.class_codes is not None:
        raise ValueError("`label` must be one of the model's classes. Received: None")
    _require_plane(model.latent_dim if label is None else model.style_dim)
    quantiles = norm.ppf((np.arange(size) + 0.5) / size).astype(np.float32)
    columns, rows = np.meshgrid(quantiles, quantiles[::-1])  # z_1 grows to the right, z_2 upwards
    z = np.stack([columns.ravel(), rows.ravel()], axis=-1)  # [size^2, 2]
    return grid_figure(model.decode(z if label is None else model.class_codes(z, label)), size)


def _require(model, *names, pictures=False):
    """Raises `ValueError` unless a model has what a picture shows; see `vaezoo.base.contracts`."""
    from vaezoo.base import contracts

    if pictures:
        contracts.require_pictures(model)
    contracts.require(model, *names)


def _require_plane(latent_dim):
    if latent_dim != 2:
        raise ValueError(f"`model` must have 2 latent dimensions. Received: {latent_dim}")


def posterior_draws(model, images, *, num_samples=1000, seed=0):
    """Returns a scatter plot of draws of z from q(z | x), a colour for each image x, over circles of the prior.

    Figure 5.2 of Kingma (2017): how well the posteriors of a few images fill the prior, N(0, I), whose circles are
    drawn at 1, 2 and 3 standard deviations.

    Args:
        model: a `LatentVariableModel` with 2 latent dimensions.
        images: [N, H, W, C], a few.
        num_samples: int, draws for each image.
        seed: int.

    Raises:
        ValueError: the model's latent space is not 2-dimensional, or the images are not the model's.
    """
    from vaezoo.layers.posteriors import reparameterize
    from vaezoo.noise import Stream, noise_seed

    _require(model, "approximate_posterior")
    _require_plane(model.latent_dim)
    num_samples = checks.positive_int("num_samples", num_samples)
    model.domain.check("images", images, model.example_shape)
    noise = model.noise(num_samples, len(images), seed=noise_seed(seed, Stream.IMPORTANCE))
    z, _ = reparameterize(model.approximate_posterior(model.domain.values(images)), noise)  # [S, N, 2]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="z 1", ylabel="z 2", aspect="equal")
    for radius in (1, 2, 3):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="gray", linewidth=0.8))
    colours = matplotlib.colormaps["turbo"](np.linspace(0.1, 0.9, len(images)))
    for index, colour in enumerate(colours):
        axes.scatter(*np.asarray(z[:, index]).T, s=2, color=colour, label=str(index))
    axes.legend(title="image", markerscale=5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def kl_per_layer(history, image_shape):
    """Returns a stack plot of the nats that each layer of latents takes, over the epochs; log p(x | z) below, white.

    Figure 5.B.4 of Kingma (2017): - E_q[log p(x | z)], then the KL of layer 1, next to the image, of layer 2, ...; the
    upper rim is minus the ELBO. Validation images where the run measured them, training images otherwise.

    Args:
        history: the path of a run's log.csv, or `fit(...).history`, a dict of names to values per epoch.
        image_shape: (H, W, C), for the scale in bits/dim.

    Raises:
        ValueError: the history is not of a model with layers of latents, or holds no epoch.
    """
    columns = history if isinstance(history, dict) else _read_log(history)
    part = "val_" if "val_kl_layer_01" in columns else ""
    names = sorted(name for name in columns if name.startswith(f"{part}kl_layer_"))
    if not names or not len(columns[names[0]]) or f"{part}log_likelihood" not in columns:
        raise ValueError(
            "`history` must hold epochs of a model with layers of latents: log_likelihood, kl_layer_01, ... "
            f"Received: {', '.join(columns) or 'no columns'}"
        )
    layers = np.array([columns[name] for name in names], np.float64)  # [L, epochs], nats
    rims = np.cumsum([-np.array(columns[f"{part}log_likelihood"], np.float64), *layers], axis=0)
    nats_per_bit = math.prod(image_shape) * math.log(2)  # that is, for 1 bit/dim
    edges = np.arange(layers.shape[1] + 1) + 0.5  # of epochs, which count from 1: a single one has its area, too
    figure = Figure(figsize=(8, 5), layout="constrained")
    images = "validation" if part else "training"
    axes = figure.add_subplot(xlabel="epoch", ylabel=f"nats per {images} image")
    axes.stairs(rims[0], edges, color="gray", label="- log p(x | z)")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(layers)))
    for number, (below, above, colour) in enumerate(zip(rims, rims[1:], colours, strict=False), start=1):
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, label=f"KL, layer {number}")
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_ylim(bottom=0)
    bits = axes.secondary_yaxis("right", functions=(lambda nats: nats / nats_per_bit, lambda bits: bits * nats_per_bit))
    bits.set_ylabel("bits/dim")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper")  # in the order of the areas
    return figure


def _read_log(path):
    """Returns the columns of a run's log.csv, names to floats per epoch; NaN where a cell is empty."""
    with pathlib.Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names, rows = reader.fieldnames or (), list(reader)
    return {name: [float(row[name] or "nan") for row in rows] for name in names}


def information(model, images):
    """Returns bars of the nats that each latent unit takes, the most informative first; a beside z, if there is an a.

    Figure 4(a) of Maaloe et al. (2016): the mean over the images of each unit's KL from its prior. Units near 0 are not
    used.

    Args:
        model: a `LatentVariableModel` with Gaussian posteriors.
        images: [N, H, W, C].

    Raises:
        ValueError: the posteriors are not Gaussian, or the images are not the model's.
    """
    _require(model, "kl_per_dimension")
    model.domain.check("images", images, model.example_shape)
    if model.kl_per_dimension(images[:1]) is None:
        raise ValueError(
            f"`model` must have Gaussian posteriors, of one layer of latents. Received: {type(model).__name__} without"
        )
    kl = _rows(model.kl_per_dimension, images).mean(axis=0)  # [A + D]
    first = model.auxiliary_dim
    parts = [part for part in (("a", "tab:orange", kl[:first]), ("z", "tab:blue", kl[first:])) if len(part[-1])]
    figure = Figure(figsize=(5 * len(parts), 4), layout="constrained")
    panels = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, (name, colour, nats) in zip(panels, parts, strict=True):
        axes.bar(np.arange(len(nats)) + 1, np.sort(nats)[::-1], color=colour)
        axes.set(title=f"{name}: {nats.sum():.1f} nats", xlabel="rank of the unit")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("KL, nats per image")
    return figure


def latents(model, images, labels=None):
    """Returns a scatter plot of the codes of images, coloured by label; beyond two dimensions, their first two PCs.

    Args:
        model: a `LatentVariableModel`.
        images: [N, H, W, C].
        labels: ints [N], or None.
    """
    _require(model, "encode")
    codes = _rows(model.encode, images)
    return _scatter(codes.reshape(len(codes), -1), labels, "z")


def auxiliary_space(model, images, labels=None):
    """Returns a scatter plot of the means of q(a | x), coloured by label; beyond two dimensions, their first two PCs.

    Figures 2(d) and 4(b) of Maaloe et al. (2016): what the auxiliary variable tells the classifier.

    Args:
        model: a model with an `auxiliary_posterior`, such as an `ADGM`.
        images: [N, H, W, C].
        labels: ints [N], or None.

    Raises:
        ValueError: the model has no auxiliary variable, or the images are not the model's.
    """
    _require(model, "auxiliary_posterior")
    model.domain.check("images", images, model.example_shape)
    means = _rows(lambda x: model.auxiliary_posterior(model.domain.values(x)).mean(), images)  # [N, A]
    return _scatter(means, labels, "a")


def _rows(function, images):
    """Returns a function's rows of images, a numpy array [N, ...]."""
    from vaezoo.numerics import batched

    return batched(function, images, 1000)


def _scatter(points, labels, name):
    """Returns a scatter plot of points [N, D] named e.g. z, coloured by label; beyond two dimensions, of two PCs."""
    names = (f"{name} 1", f"{name} 2")
    if points.shape[1] > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2).fit(points)
        points = pca.transform(points)
        names = [f"principal component {i + 1} ({share:.0%})" for i, share in enumerate(pca.explained_variance_ratio_)]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xlabel=names[0], ylabel=names[-1], aspect="equal")
    second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    dots = axes.scatter(points[:, 0], second, c=labels, s=4, cmap="tab10" if labels is not None else None)
    if labels is not None:
        axes.legend(*dots.legend_elements(num=None), title="label", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def save(figure, path):
    """Writes a figure to a file, atomically; the suffix decides the format."""
    from vaezoo import files

    if not pathlib.Path(path).suffix:
        raise ValueError(f"`output` must end in a format, such as .png. Received: {path}")
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
