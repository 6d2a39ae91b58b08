"""Pictures: what they show, not how they look."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from vaezoo import plots
from vaezoo.models import VAE


@pytest.fixture
def model():
    return VAE((6, 5, 1), latent_dim=2, hidden_units=(7,))


def pixels(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_tiles_hold_the_images_in_reading_order():
    images = np.arange(5).reshape(5, 1, 1, 1) * np.ones((5, 2, 3, 1)) / 10
    grid = plots.tile_images(images, columns=3)
    assert grid.shape == (5, 11, 1)
    for index in range(5):
        row, column = divmod(index, 3)
        tile = grid[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        np.testing.assert_allclose(tile, index / 10)
    assert (grid[2] == 1).all()  # the gap
    assert (grid[3:, 8:] == 1).all()  # the place of the sixth image


def test_manifold_walks_equal_steps_of_probability(model):
    grid = pixels(plots.manifold(model, size=3))
    quantiles = norm.ppf([1 / 6, 1 / 2, 5 / 6]).astype("float32")
    corners = model.decode(
        np.array([[quantiles[0], quantiles[2]], [0.0, 0.0], [quantiles[2], quantiles[0]]], "float32")
    )
    np.testing.assert_allclose(grid[:6, :5], corners[0, ..., 0], atol=1e-6)  # upper left: z_1 low, z_2 high
    np.testing.assert_allclose(grid[7:13, 6:11], corners[1, ..., 0], atol=1e-6)
    np.testing.assert_allclose(grid[14:, 12:], corners[2, ..., 0], atol=1e-6)


def test_manifold_needs_two_dimensions():
    with pytest.raises(ValueError, match="`model` must have 2 latent dimensions. Received: 3"):
        plots.manifold(VAE((6, 5, 1), latent_dim=3, hidden_units=(7,)))


def test_reconstructions_stand_below_their_images(model):
    images = np.random.default_rng(0).random((3, 6, 5, 1)).astype("float32")
    grid = pixels(plots.reconstructions(model, images))
    np.testing.assert_allclose(grid[:6, 6:11], images[1, ..., 0])
    np.testing.assert_allclose(grid[7:13, 6:11], model.predict(images, verbose=0)[1, ..., 0], atol=1e-6)


def test_samples_are_the_models(model):
    np.testing.assert_allclose(pixels(plots.samples(model, 4, seed=1))[:6, :5], model.sample(4, seed=1)[0, ..., 0])


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("labels", [None, np.array([0, 1] * 20)])
def test_latents_scatter_one_point_an_image(latent_dim, labels):
    model = VAE((6, 5, 1), latent_dim=latent_dim, hidden_units=(7,))
    images = np.random.default_rng(0).random((40, 6, 5, 1)).astype("float32")
    figure = plots.latents(model, images, labels)
    points = figure.axes[0].collections[0].get_offsets()
    assert points.shape == (40, 2)
    if latent_dim == 2:
        np.testing.assert_allclose(points, model.encode(images), atol=1e-6)
    assert (figure.axes[0].get_legend() is None) == (labels is None)


def test_a_picture_without_a_format_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="`output` must end in a format, such as .png"):
        plots.save(plots.samples(model, 4), tmp_path / "picture")


def test_colour_images_and_files(tmp_path):
    model = VAE((6, 5, 3), latent_dim=2, hidden_units=(7,))
    plots.save(plots.samples(model, 4), tmp_path / "sub" / "picture.png")
    assert Image.open(tmp_path / "sub" / "picture.png").format == "PNG"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["picture.png"]
