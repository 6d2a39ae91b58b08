"""Pictures: what they show, not how they look."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from vaezoo import plots
from vaezoo.models import ADGM, AVAE, M2, VAE


@pytest.fixture
def model():
    return VAE((6, 5, 1), latent_dim=2, hidden_units=(7,))


def adgm(latent_dim=2, auxiliary_dim=4):
    """An ADGM of three classes, far from its start, where every posterior is the prior."""
    model = ADGM((6, 5, 1), latent_dim, auxiliary_dim, num_classes=3, hidden_units=(8,))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.4, size=variable.shape))
    return model


def grey_images(count):
    return np.random.default_rng(1).integers(256, size=(count, 6, 5, 1)).astype("uint8")


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


def test_stereo_pairs_stand_side_by_side():
    pairs = np.random.default_rng(0).random((4, 2, 3, 2))
    grid = plots.tile_images(pairs)
    assert grid.shape == (5, 13, 1)
    np.testing.assert_allclose(grid[:2, :6, 0], np.hstack([pairs[0, ..., 0], pairs[0, ..., 1]]), rtol=1e-6)
    assert plots.grid_figure(pairs).axes


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


@pytest.mark.parametrize("posterior", ["diagonal_gaussian", "iaf"])
def test_posterior_draws_are_those_of_each_images_posterior(posterior):
    model = VAE((6, 5, 1), latent_dim=2, hidden_units=(7,), posterior=posterior)
    images = np.random.default_rng(0).random((3, 6, 5, 1)).astype("float32")
    axes = plots.posterior_draws(model, images, num_samples=4000).axes[0]
    draws = np.stack([points.get_offsets() for points in axes.collections], axis=1).astype("float32")
    assert draws.shape == (4000, 3, 2)
    noise = model.approximate_posterior(images).bijector.inverse(draws).numpy()  # a wrong order of images shows here
    np.testing.assert_allclose(noise.mean(axis=0), np.zeros((3, 2)), atol=0.08)  # 5 standard errors
    np.testing.assert_allclose(np.cov(noise.reshape(4000, 6).T), np.eye(6), atol=0.12)
    assert len({tuple(points.get_facecolor()[0]) for points in axes.collections}) == 3
    assert [circle.get_radius() for circle in axes.patches] == [1, 2, 3]


def test_posterior_draws_follow_the_seed(model):
    images = np.zeros((1, 6, 5, 1), "float32")
    first, again, other = (
        plots.posterior_draws(model, images, num_samples=50, seed=seed).axes[0].collections[0].get_offsets()
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).all(axis=1).any()


def test_posterior_draws_need_two_dimensions():
    images = np.zeros((1, 6, 5, 1), "float32")
    with pytest.raises(ValueError, match="`model` must have 2 latent dimensions. Received: 3"):
        plots.posterior_draws(VAE((6, 5, 1), latent_dim=3, hidden_units=(7,)), images)


HISTORY = {
    "log_likelihood": [-100.0, -80.0],
    "kl_layer_01": [1.0, 2.0],
    "kl_layer_02": [10.0, 5.0],
}


def areas(figure):
    """The lower and upper rims of the areas, from below, [areas, 2, epochs]."""
    rims = [patch.get_data() for patch in figure.axes[0].patches]
    return np.array([np.broadcast_arrays(rim.baseline, rim.values) for rim in rims])


def test_layers_stand_on_the_reconstruction_and_reach_minus_the_elbo():
    figure = plots.kl_per_layer(HISTORY, (4, 5, 1))
    np.testing.assert_allclose(areas(figure), [[[0, 0], [100, 80]], [[100, 80], [101, 82]], [[101, 82], [111, 87]]])
    axes = figure.axes[0]
    assert axes.get_ylabel() == "nats per training image"
    bits = axes.child_axes[0]
    axes.set_ylim(0, 20 * np.log(2) * 8)
    figure.draw_without_rendering()
    np.testing.assert_allclose(bits.get_ylim(), [0, 8])  # 20 values of 8 bits
    assert bits.get_ylabel() == "bits/dim"


def test_layers_of_validation_images_come_first():
    validation = {f"val_{name}": [2 * value for value in values] for name, values in HISTORY.items()}
    figure = plots.kl_per_layer({**HISTORY, **validation}, (4, 5, 1))
    np.testing.assert_allclose(areas(figure)[2], [[202, 164], [222, 174]])
    assert figure.axes[0].get_ylabel() == "nats per validation image"


def test_layers_are_read_from_a_log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,log_likelihood,kl_layer_01,kl_layer_02,more\n1,-100.0,1.0,10.0,\n2,-80.0,2.0,5.0,3.0\n")
    np.testing.assert_array_equal(
        areas(plots.kl_per_layer(path, (4, 5, 1))), areas(plots.kl_per_layer(HISTORY, (4, 5, 1)))
    )


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("epoch,log_likelihood,kl\n1,-2.0,3.0\n", "Received: epoch, log_likelihood, kl"),
        ("epoch,kl_layer_01\n1,3.0\n", "Received: epoch, kl_layer_01"),
        ("epoch,log_likelihood,kl_layer_01\n", "Received: epoch, log_likelihood, kl_layer_01"),
        ("", "Received: no columns"),
    ],
)
def test_a_log_without_layers_is_refused(tmp_path, text, received):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="`history` must hold epochs of a model with layers of latents") as error:
        plots.kl_per_layer(tmp_path / "log.csv", (4, 5, 1))
    assert received in str(error.value)


def test_analogies_are_an_image_and_every_class_in_its_style():
    model, images = adgm(), grey_images(4)
    figure = plots.analogies(model, images)
    grid = pixels(figure)
    tiles = np.array([[grid[7 * i : 7 * i + 6, 6 * j : 6 * j + 5] for j in range(4)] for i in range(4)])  # [4, 4, 6, 5]
    np.testing.assert_allclose(tiles[:, 0], images[..., 0] / 255, atol=1e-6)
    codes = model.encode(images).numpy()
    own = codes[:, 2:].argmax(axis=1)
    assert len(set(own)) > 1
    rebuilt = model.predict(images, verbose=0)[..., 0]
    np.testing.assert_allclose(tiles[np.arange(4), 1 + own], rebuilt, atol=1e-6)
    for label, one_hot in enumerate(np.eye(3, dtype="float32")):
        in_class = model.decode(np.concatenate([codes[:, :2], np.tile(one_hot, [4, 1])], axis=1))
        np.testing.assert_allclose(tiles[:, 1 + label], in_class[..., 0], atol=1e-6)
    assert abs(np.diff(tiles[:, 1:], axis=1)).max(axis=(1, 2, 3)).min() > 0.01  # classes differ
    ticks = figure.axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["x", "0", "1", "2"]
    np.testing.assert_array_equal([tick.get_position()[0] for tick in ticks], [2, 8, 14, 20])  # the columns' middles


def test_analogies_refuse_other_images():
    with pytest.raises(ValueError, match=r"`images` must have shape \[batch, 6, 5, 1\]"):
        plots.analogies(adgm(), np.zeros((2, 5, 6, 1), "float32"))


def test_manifold_of_a_class_walks_its_styles():
    model = adgm()
    low, high = norm.ppf([1 / 4, 3 / 4]).astype("float32")
    grids = [pixels(plots.manifold(model, size=2, label=label)) for label in range(3)]
    for grid, one_hot in zip(grids, np.eye(3), strict=True):
        corners = model.decode(np.array([[low, high, *one_hot], [high, low, *one_hot]], "float32"))
        np.testing.assert_allclose(grid[:6, :5], corners[0, ..., 0], atol=1e-6)
        np.testing.assert_allclose(grid[7:, 6:], corners[1, ..., 0], atol=1e-6)
    assert abs(grids[0] - grids[1]).max() > 0.01


def test_manifold_of_a_class_needs_a_label_and_two_dimensions_of_style():
    with pytest.raises(ValueError, match="`label` must be one of the model's classes. Received: None"):
        plots.manifold(adgm())
    with pytest.raises(ValueError, match="`label` must be integers in 0..2. Received: 3"):
        plots.manifold(adgm(), label=3)
    with pytest.raises(ValueError, match="`model` must have 2 latent dimensions. Received: 3"):
        plots.manifold(adgm(latent_dim=3), label=0)


@pytest.mark.parametrize("label", [2, [0, 1, 2, 0]])
def test_samples_of_a_class_are_the_models(label):
    model = adgm()
    image = model.sample(4, seed=1, label=label)[3, ..., 0]
    np.testing.assert_allclose(pixels(plots.samples(model, 4, seed=1, label=label))[7:, 6:], image)


@pytest.mark.parametrize(
    "picture",
    [
        lambda model, images: plots.analogies(model, images),
        lambda model, images: plots.manifold(model, label=1),
        lambda model, images: plots.samples(model, label=1),
    ],
)
def test_pictures_of_classes_need_a_model_with_classes(model, picture):
    with pytest.raises(ValueError, match="`model` must be a model with classes, as an M2. Received: VAE"):
        picture(model, grey_images(2))


# Pictures of models that lack what the picture shows: one line that names the model and what it has not.
PICTURES = {
    "samples": (lambda model, images: plots.samples(model), "generate", "a prior to draw from"),
    "reconstructions": (plots.reconstructions, "encode", "an encoder"),
    "manifold": (lambda model, images: plots.manifold(model), "decode", "a decoder"),
    "latents": (plots.latents, "encode", "an encoder"),
    "information": (plots.information, "kl_per_dimension", "Gaussian posteriors"),
    "posterior_draws": (plots.posterior_draws, "approximate_posterior", "a posterior of one layer"),
    "auxiliary_space": (plots.auxiliary_space, "auxiliary_posterior", "an auxiliary variable, as an ADGM"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_what_a_model_lacks_is_refused(name):
    picture, attribute, words = PICTURES[name]

    class Lacking(VAE):
        pass

    setattr(Lacking, attribute, None)
    message = f"`model` must have {words}.* Received: Lacking, whose `{attribute}` is None"
    with pytest.raises(ValueError, match=message) as error:
        picture(Lacking((6, 5, 1), latent_dim=2, hidden_units=(7,)), grey_images(2))
    assert "\n" not in str(error.value)


def test_a_hierarchy_has_no_single_posterior_to_draw_from():
    model = AVAE((6, 5, 1), (2, 2), (2, 2), hidden_units=(8,))
    with pytest.raises(ValueError, match="`model` must have a posterior of one layer of latents. Received: AVAE"):
        plots.posterior_draws(model, grey_images(2))


def test_examples_that_are_no_pictures_are_not_drawn():
    """Rows of a table, [30]: an AxisError of numpy's before."""
    table = VAE((30,), latent_dim=2, hidden_units=(7,))
    rows = np.random.default_rng(0).random((4, 30), np.float32)
    for draw in (plots.samples, plots.manifold, lambda model: plots.reconstructions(model, rows)):
        with pytest.raises(ValueError, match=r"must be a model of images \[H, W, C\]. Received: VAE of shape \[30\]"):
            draw(table)
    assert plots.latents(table, rows).axes


def bars(axes):
    return np.array([bar.get_height() for bar in axes.patches])


@pytest.mark.parametrize("latent_dim", [1, 9])
def test_information_of_a_vae_sums_to_its_kl(latent_dim):
    model, images = VAE((6, 5, 1), latent_dim=latent_dim, hidden_units=(7,)), grey_images(1100)
    (axes,) = plots.information(model, images).axes
    heights = bars(axes)
    assert heights.shape == (latent_dim,)
    assert (np.diff(heights) <= 0).all()
    noise = model.noise(1, len(images), seed=[0, 0])
    np.testing.assert_allclose(heights.sum(), model.terms(images, noise, analytic_kl=True).kl.numpy().mean(), rtol=1e-5)


def test_information_of_a_model_with_classes_is_that_of_a_and_of_z():
    model, images = adgm(latent_dim=5), grey_images(30)
    panels = plots.information(model, images).axes
    a, z = (bars(axes) for axes in panels)
    assert (a.shape, z.shape) == ((4,), (5,))
    assert (np.diff(a) <= 0).all()
    assert (np.diff(z) <= 0).all()
    kl = model.kl_per_dimension(images).numpy().mean(axis=0)
    np.testing.assert_allclose(a, sorted(kl[:4], reverse=True), rtol=1e-5)
    # q(z | a, y, x) at the posterior mean of a, in the class that the model gives the image:
    y = model.encode(images).numpy()[:, 5:].argmax(axis=1)
    terms, _ = model.labelled_terms(images, y, np.zeros((1, 30, 10), "float32"), analytic_kl=True)
    np.testing.assert_allclose(z.sum(), terms.kl[..., 1].numpy().mean(), rtol=1e-5)
    assert [axes.get_title() for axes in panels] == [f"a: {a.sum():.1f} nats", f"z: {z.sum():.1f} nats"]
    assert panels[0].patches[0].get_facecolor() != panels[1].patches[0].get_facecolor()


def test_information_needs_gaussian_posteriors():
    model = VAE((6, 5, 1), latent_dim=2, hidden_units=(7,), posterior="iaf")
    with pytest.raises(ValueError, match="`model` must have Gaussian posteriors, .* Received: VAE without"):
        plots.information(model, grey_images(2))


@pytest.mark.parametrize("auxiliary_dim", [1, 2, 4])
def test_the_auxiliary_space_has_one_point_an_image(auxiliary_dim):
    model, images, labels = adgm(auxiliary_dim=auxiliary_dim), grey_images(40), np.arange(40) % 3
    figure = plots.auxiliary_space(model, images, labels)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    means = model.auxiliary_posterior(images / np.float32(255)).mean().numpy()
    if auxiliary_dim == 4:  # the principal components, whose signs are free
        u, scale, _ = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
        points, means = abs(points), abs(u * scale)[:, :2]
    np.testing.assert_allclose(points[:, :auxiliary_dim], means, atol=1e-4)
    assert len(figure.axes[0].get_legend().get_texts()) == 3
    assert plots.auxiliary_space(model, images).axes[0].get_legend() is None


def test_the_auxiliary_space_needs_an_auxiliary_variable():
    model = M2((6, 5, 1), latent_dim=2, num_classes=3, hidden_units=(8,))
    with pytest.raises(ValueError, match="`model` must have an auxiliary variable, as an ADGM. Received: M2"):
        plots.auxiliary_space(model, grey_images(2))
