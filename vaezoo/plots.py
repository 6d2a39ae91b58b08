"""Pictures of a model, as matplotlib figures. No global state: the figures belong to the caller."""

import math
import pathlib

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from vaezoo import checks


def tile_images(images, columns=None, gap=1):
    """Lays images out in a grid, white between them: [N, H, W, C] in [0, 1] -> [rows*(H+gap)-gap, ..., C].

    Args:
        images: floats [N, H, W, C].
        columns: images per row; default: as square as can be.
        gap: pixels between images.
    """
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


def samples(model, num_images=64, *, seed=0, temperature=1.0):
    """Returns a figure of E[x | z] for draws of z from the prior."""
    return grid_figure(model.sample(num_images, seed=seed, temperature=temperature))


def reconstructions(model, images):
    """Returns a figure of images (upper rows) above their reconstructions (lower rows), ten pairs a row."""
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


def manifold(model, size=20):
    """Returns a figure of E[x | z] over the plane, at z = Phi^-1 of a regular grid on the unit square.

    Figure 2.7 of Kingma (2017): equally likely steps of the prior, through the inverse Gaussian CDF.

    Raises:
        ValueError: the model's latent space is not 2-dimensional.
    """
    if model.latent_dim != 2:
        raise ValueError(f"`model` must have 2 latent dimensions. Received: {model.latent_dim}")
    size = checks.positive_int("size", size)
    quantiles = norm.ppf((np.arange(size) + 0.5) / size).astype(np.float32)
    columns, rows = np.meshgrid(quantiles, quantiles[::-1])  # z_1 grows to the right, z_2 upwards
    return grid_figure(model.decode(np.stack([columns.ravel(), rows.ravel()], axis=-1)), size)


def latents(model, images, labels=None):
    """Returns a scatter plot of the codes of images, coloured by label; beyond two dimensions, their first two PCs.

    Args:
        model: a `LatentVariableModel`.
        images: [N, H, W, C].
        labels: ints [N], or None.
    """
    codes = np.concatenate([np.asarray(model.encode(images[i : i + 1000])) for i in range(0, len(images), 1000)])
    names = ("z 1", "z 2")
    if codes.shape[1] > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2).fit(codes)
        codes = pca.transform(codes)
        names = [f"principal component {i + 1} ({share:.0%})" for i, share in enumerate(pca.explained_variance_ratio_)]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xlabel=names[0], ylabel=names[-1], aspect="equal")
    second = codes[:, 1] if codes.shape[1] > 1 else np.zeros(len(codes))
    points = axes.scatter(codes[:, 0], second, c=labels, s=4, cmap="tab10" if labels is not None else None)
    if labels is not None:
        axes.legend(*points.legend_elements(num=None), title="label", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def save(figure, path):
    """Writes a figure to a file, atomically; the suffix decides the format."""
    from vaezoo import files

    if not pathlib.Path(path).suffix:
        raise ValueError(f"`output` must end in a format, such as .png. Received: {path}")
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
