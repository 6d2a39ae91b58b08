"""The evaluation's figures; the linear-Gaussian oracle is in test_linear_gaussian.py."""

import dataclasses
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from vaezoo import evaluation, zoo
from vaezoo.base import Figure
from vaezoo.base.metrics import ExampleMean
from vaezoo.base.stochastic_model import StochasticModel
from vaezoo.inference.annealing import annealed_estimate
from vaezoo.inference.importance import effective_sample_size
from vaezoo.models import M2, VAE, SteinVAE
from vaezoo.numerics import batched
from vaezoo.objectives import Terms


def test_figures_belong_together(make_tiny, images):
    model = make_tiny("vae")
    model.fit(images, epochs=5, verbose=0)
    figures = evaluation.evaluate(model, images, num_samples=20, batch_size=16)
    assert figures.elbo == pytest.approx(figures.reconstruction - figures.kl, abs=1e-3)
    assert figures.log_likelihood > figures.elbo
    assert 1 <= figures.effective_sample_size <= 20
    assert figures.num_images == 40
    assert figures.kl_per_group == pytest.approx([figures.kl], abs=1e-3)
    assert figures.kl_per_dimension == ()  # its posterior is not Gaussian
    assert figures.bits_per_dim == pytest.approx(-figures.log_likelihood / (60 * np.log(2)), rel=1e-6)


def test_dequantised_bits_per_dim_are_those_of_256_levels(make_tiny, images):
    """P(level) = density in [0, 1] / 256: D log 256 nats, 8 bits a dimension, more than the density's."""
    model = make_tiny("vae")  # its images are as if they were dequantised
    density = evaluation.evaluate(model, images, num_samples=2)
    levels = evaluation.evaluate(model, images, num_samples=2, transform="uniform_dequantization")
    assert levels.bits_per_dim == pytest.approx(density.bits_per_dim + 8.0, abs=1e-5)
    assert levels.elbo_bits_per_dim == pytest.approx(density.elbo_bits_per_dim + 8.0, abs=1e-5)
    assert levels.log_likelihood == density.log_likelihood


@pytest.mark.parametrize(("transform", "bits"), [("uniform_dequantization", 8.0), ("unit_interval", 0.0)])
def test_the_uniform_density_of_dequantised_pixels_is_8_bits_per_dim(make_tiny, images, transform, bits):
    """p(x) = 1 on [0, 1]^D gives each of the 256 levels the mass 1/256; read as a density it is 0 nats, 0 bits."""
    model = make_tiny("vae")
    model.terms = lambda x, noise: Terms(tf.zeros(noise.shape[:2]), tf.zeros([*noise.shape[:2], 1]))
    model.log_prob_given_noise = lambda x, noise: 0.0 * tf.reduce_sum(noise, axis=-1)
    figures = evaluation.evaluate(model, images[:4], num_samples=2, transform=transform)
    annealed = evaluation.evaluate_annealed(model, images[:4], num_temperatures=2, transform=transform)
    np.testing.assert_allclose([figures.elbo, figures.log_likelihood, annealed.log_likelihood], 0.0, atol=1e-6)
    found = figures.bits_per_dim, figures.elbo_bits_per_dim, annealed.bits_per_dim
    np.testing.assert_allclose(found, bits, atol=1e-6)


def test_kl_per_dimension_sums_to_the_closed_form_of_a_diagonal_posterior(images):
    from vaezoo.models import VAE

    model = VAE((6, 5, 2), latent_dim=3, hidden_units=(7,))
    terms = model.terms(images, model.noise(1, len(images), seed=[0, 0]), analytic_kl=True)
    np.testing.assert_allclose(model.kl_per_dimension(images).numpy().sum(-1), terms.kl[0, :, 0], rtol=1e-4)
    figures = evaluation.evaluate(model, images, num_samples=1, batch_size=16)
    assert sum(figures.kl_per_dimension) == pytest.approx(np.mean(terms.kl), rel=1e-3)


def test_a_model_that_gives_each_of_the_256_levels_the_same_mass_reads_8_bits_per_dim(make_tiny, images):
    model = make_tiny("vae")

    def uniform_terms(x, noise):
        num_samples = tf.shape(noise)[0]
        return Terms(tf.fill([num_samples, len(x)], -60 * np.float32(np.log(256))), tf.zeros([num_samples, len(x), 1]))

    model.terms = uniform_terms
    figures = evaluation.evaluate(model, images, num_samples=3, transform="grey_levels")
    assert figures.bits_per_dim == pytest.approx(8.0, abs=1e-6)
    assert figures.elbo_bits_per_dim == pytest.approx(8.0, abs=1e-6)


def test_a_unit_that_ignores_the_data_is_not_active(images):
    from vaezoo.models import VAE

    model = VAE((6, 5, 2), latent_dim=3, hidden_units=(7,))
    kernel = model.posterior.params.kernel.numpy() * 10
    kernel[:, 1] = 0.0  # the mean of the second unit becomes constant
    model.posterior.params.kernel.assign(kernel)
    assert evaluation.evaluate(model, images, num_samples=1).active_units == 2


def test_a_unit_is_active_if_the_variance_of_its_code_over_all_images_exceeds_a_hundredth():
    """Burda et al. (2016): A_u = Var_x(E_q(z | x)[z_u]) > 0.01, whatever the mean is and however images are batched."""
    variances = np.array([0.0099, 0.0101, 0.0099, 0.0101, 0.0])
    means = np.array([0.0, 0.0, 3.0, -3.0, 3.0])
    model = VAE((1, 1, 5), latent_dim=5, hidden_units=(5,), activation="linear")
    model.encoder.layers[-1].set_weights([np.eye(5), np.zeros(5)])
    spread = np.diag(2.0 * np.sqrt(variances))  # a code is mean + spread * (x - 1/2), x in {0, 1}
    bias = np.append(means - spread.sum(axis=0) / 2, np.zeros(5))
    model.posterior.params.set_weights([np.hstack([spread, np.zeros((5, 5))]), bias])
    images = np.repeat([0.0, 1.0], 4)[:, None, None, None] * np.ones((8, 1, 1, 5), "float32")  # sorted: batches differ
    np.testing.assert_allclose(np.var(model.encode(images), axis=0), variances, atol=1e-6)
    for batch_size in (8, 4, 3):
        figures = evaluation.evaluate(model, images, num_samples=1, batch_size=batch_size)
        assert figures.active_units == 2


# log p(x) by a grid over two latents.


def log_p_by_quadrature(model, x, half_width=5.0, cells=160):
    """log p(x) of binary images from p(x | z) and p(z) alone, on a grid over [-half_width, half_width]^2."""
    axis, step = np.linspace(-half_width, half_width, cells + 1, retstep=True)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    flat, log_joint = x.reshape(len(x), -1).astype("float64"), []
    for z in np.array_split(grid, 10):
        logits = np.asarray(model.likelihood.logits(model.decoder(z.astype("float32"))), "float64")
        log_lik = flat @ logits.T - np.logaddexp(0.0, logits).sum(axis=-1)  # sum_i log Bernoulli(x_i; sigmoid(a_i))
        log_joint.append(log_lik - 0.5 * (z**2).sum(axis=-1) - np.log(2.0 * np.pi))
    return logsumexp(np.concatenate(log_joint, axis=-1), axis=-1) + 2.0 * np.log(step)


@pytest.fixture(scope="module")
def two_latents():
    """A VAE with two latents and random weights, binary images, and their exact log p(x); q is wider than the prior."""
    keras.utils.set_random_seed(0)
    model = VAE((2, 3, 1), latent_dim=2, hidden_units=(5,))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0.0, 1.0, weight.shape))
    model.posterior.params.set_weights([0.1 * rng.normal(size=(5, 4)), np.array([0.2, -0.3, 0.4, 0.3])])
    x = rng.integers(0, 2, (10, 2, 3, 1)).astype("float32")
    return model, x, log_p_by_quadrature(model, x)


def test_quadrature_sums_to_one_over_all_images(two_latents):
    """The oracle's own check: p is a distribution over the 64 binary images."""
    model, _, _ = two_latents
    every = (np.arange(64)[:, np.newaxis] >> np.arange(6) & 1).astype("float32").reshape(-1, 2, 3, 1)
    assert np.exp(log_p_by_quadrature(model, every)).sum() == pytest.approx(1.0, abs=1e-5)


def test_importance_and_annealed_estimates_equal_quadrature_within_their_errors(two_latents):
    """Both, of 4 standard errors of the logarithm, sqrt(1/ESS - 1/k); the ELBO is below log p(x) for each image."""
    model, x, exact = two_latents
    sampled = model.importance_estimate(x, num_samples=20_000, chunk=20_000)
    annealed = annealed_estimate(model.log_prob_given_noise, model.noise, x, num_chains=4000, num_temperatures=4)
    for estimate, k in ((sampled, 20_000), (annealed, 4000)):
        error = np.sqrt(1.0 / np.asarray(estimate.effective_sample_size) - 1.0 / k)
        assert error.max() < 0.02
        assert np.all(np.abs(estimate.log_likelihood - exact) < 4.0 * error)
    assert np.all(sampled.log_lik - tf.reduce_sum(sampled.kl, axis=-1) < exact)


def test_the_importance_estimate_of_shipped_weights_equals_quadrature():
    """Of the decoder of `vae_mnist_2d` and images drawn from it; with its q widened, so that no weight is large."""
    model, rng = zoo.load("vae_mnist_2d"), np.random.default_rng(0)
    means = np.asarray(model.decode(rng.normal(size=(6, 2)).astype("float32")))
    x = (rng.random(means.shape) < means).astype("float32")
    exact = log_p_by_quadrature(model, x)
    model.posterior.params.bias.assign_add([0.0, 0.0, 1.2, 1.2])
    estimate = model.importance_estimate(x, num_samples=5000, chunk=500)
    error = np.sqrt(1.0 / estimate.effective_sample_size - 1.0 / 5000)
    assert error.max() < 0.1
    assert np.all(np.abs(estimate.log_likelihood - exact) < 4.0 * error)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_rmse_is_that_of_the_reconstructions(make_tiny, images, dtype):
    """Over all images and pixels at once, which a mean over batches of 16, 16 and 8 images would not be."""
    model = make_tiny("vae")
    given = images if dtype == "float32" else np.round(255 * images).astype("uint8")
    x = given.astype(np.float64) / (255 if dtype == "uint8" else 1)
    difference = x - model.predict(given, verbose=0)
    assert evaluation.evaluate(model, given, num_samples=1, batch_size=16).rmse == pytest.approx(
        np.sqrt(np.mean(difference**2)), rel=1e-5
    )


def test_rmse_of_a_constant_reconstruction_is_in_units_of_0_to_1(make_tiny):
    model = make_tiny("vae")
    model.decode = lambda z: tf.fill([len(z), *model.example_shape], 0.25)
    assert evaluation.evaluate(model, np.ones((3, *model.example_shape), "float32"), num_samples=1).rmse == 0.75


def test_the_estimate_depends_on_the_seed_alone(make_tiny, images):
    model = make_tiny("vae")
    one, same = (evaluation.evaluate(model, images, num_samples=5, seed=3) for _ in range(2))
    other = evaluation.evaluate(model, images, num_samples=5, seed=4)
    assert one.log_likelihood == same.log_likelihood != other.log_likelihood


def test_batches_have_noise_of_their_own(make_tiny, images):
    """Two equal images in different batches get different draws."""
    model = make_tiny("vae")
    twice = np.repeat(images[:1], 2, axis=0)
    assert evaluation.evaluate(model, twice, num_samples=1, batch_size=1).elbo_standard_error > 0


def test_progress_is_told(make_tiny, images):
    seen = []
    evaluation.evaluate(make_tiny("vae"), images, num_samples=1, batch_size=16, progress=lambda *at: seen.append(at))
    assert seen == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.rest
def test_memory_does_not_grow_with_the_number_of_samples():
    """Peak memory of a process at k = 5000 against k = 50, on a decoder of MNIST's size."""
    script = """
        import sys, resource, numpy as np
        from vaezoo import evaluation
        from vaezoo.models import VAE
        model = VAE((28, 28, 1), latent_dim=20, hidden_units=(20,))
        model.compile(jit_compile=True)
        evaluation.evaluate(model, np.zeros((20, 28, 28, 1), "float32"), num_samples=int(sys.argv[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = []
    for num_samples in (50, 5000):
        command = [sys.executable, "-c", textwrap.dedent(script), str(num_samples)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 60_000, peaks  # KiB; 5000 samples of 20 images at once would be 300 MB a tensor


def test_bad_arguments(make_tiny, images):
    model = make_tiny("vae")
    with pytest.raises(ValueError, match="`images` must have shape"):
        evaluation.evaluate(model, images[..., :1])
    with pytest.raises(ValueError, match="`transform` must be one of"):
        evaluation.evaluate(model, images, transform="dynamic")
    with pytest.raises(ValueError, match="`images` must hold only 0 and 1 for 'dynamic_binarization'"):
        evaluation.evaluate(model, images, transform="dynamic_binarization")
    with pytest.raises(ValueError, match="`images` must be dequantised floats"):
        evaluation.evaluate(model, np.round(255 * images).astype("uint8"), transform="uniform_dequantization")
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        evaluation.evaluate(model, images, batch_size=0)


def test_posterior_spectrum_sees_oblique_directions():
    """Draws A xi have the singular values of A, whatever the axes; here one direction of three is a hundredth."""
    model = SteinVAE((2, 2, 1), latent_dim=3, hidden_units=(3,), activation="linear")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    factor = np.diag([1.0, 0.5, 0.01]) @ rotation  # xi -> z
    encoder = model.encoder
    encoder.projections["noise"].kernel.assign(np.eye(3))
    encoder.codes.kernel.assign(factor)
    images = np.random.default_rng(1).random((4, 2, 2, 1), np.float32)
    widths = evaluation.posterior_spectrum(model, images, num_draws=5000)
    np.testing.assert_allclose(widths, [1.0, 0.5, 0.01], rtol=0.05)
    assert np.linalg.norm(factor, axis=0).min() > 0.1  # no coordinate tells
    with pytest.raises(ValueError, match="`num_draws` must be more than the 3 latents. Received: 3"):
        evaluation.posterior_spectrum(model, images, num_draws=3)


# What a model declares.

BOUNDS = {
    *("elbo", "elbo_standard_error", "reconstruction", "kl", "log_likelihood", "log_likelihood_standard_error"),
    *("effective_sample_size", "bits_per_dim", "elbo_bits_per_dim", "kl_per_group"),
}


def given(figures):
    """The names of the figures that an evaluation has."""
    common = {"measure", "num_images", "num_samples", "seconds"}
    return {name for name, value in dataclasses.asdict(figures).items() if value is not None} - common


def test_every_system_has_the_figures_that_it_had(system, make_tiny):
    """Those of a bound, and of codes; of models with classes the error rate besides."""
    declared = {figure.name for figure in make_tiny(system).figures()}
    classes = {"m2", "m1m2", "adgm", "sdgm", "semi_supervised_stein_vae"}
    assert declared == BOUNDS | {"rmse", "active_units", "kl_per_dimension"} | (
        {"error_rate"} if system in classes else set()
    )


def test_models_of_words_have_perplexities():
    declared = {figure.name for figure in VAE((5,), latent_dim=2, hidden_units=(4,), likelihood="poisson").figures()}
    assert {"perplexity", "elbo_perplexity"} <= declared


def test_figures_have_names_of_their_own_and_units(make_tiny):
    figures = make_tiny("m2").figures()
    assert len({figure.name for figure in figures}) == len(figures)
    units = {figure.name: figure.unit for figure in figures}
    assert (units["elbo"], units["bits_per_dim"], units["error_rate"]) == ("nats", "bits", "%")


class Classifier(StochasticModel):
    """No latents at all: p(y = 1 | x) is the first pixel."""

    def __init__(self, example_shape, **kwargs):
        super().__init__(example_shape, **kwargs)
        self.accuracy_tracker = ExampleMean(name="accuracy")

    def class_probabilities(self, x):
        first = tf.reshape(x, [len(x), -1])[:, 0]
        return tf.stack([1.0 - first, first], axis=-1)


def test_a_model_without_latents_is_evaluated_and_classifies():
    model = Classifier((2, 1, 1))
    x = np.array([[0.9, 0.0], [0.2, 0.0], [0.8, 0.0], [0.7, 0.0]], "float32").reshape(4, 2, 1, 1)
    figures = evaluation.evaluate(model, x, columns={"grey": x, "label": np.array([1, 0, 0, -1])})
    assert given(figures) == {"error_rate"}
    assert figures.error_rate == pytest.approx(100 / 3)  # of the three whose label is known one is wrong
    assert given(evaluation.evaluate(model, x)) == set()  # no labels
    np.testing.assert_allclose(model.predict_proba(x, batch_size=3)[:, 1], [0.9, 0.2, 0.8, 0.7])
    assert model.export_signatures()[0].name == "classify"


class Decoder(VAE):
    """A generative model without an encoder: no codes, and no posterior to estimate a bound by."""

    encode = terms = approximate_posterior = kl_per_dimension = None


class Autoencoder(StochasticModel):
    """Codes and no probabilities: x -> x / 2."""

    def encode(self, x):
        return tf.reshape(x, [len(x), -1])

    def decode(self, z):
        return tf.reshape(z / 2.0, [-1, *self.example_shape])


def test_a_model_without_an_encoder_has_no_figures_of_codes_but_ais(images):
    model = Decoder((6, 5, 2), latent_dim=3, hidden_units=(7,))
    assert given(evaluation.evaluate(model, images)) == set()
    assert np.isfinite(evaluation.evaluate_annealed(model, images[:4], num_chains=2, num_temperatures=3).log_likelihood)
    assert {signature.name for signature in model.export_signatures()} == {"decode", "sample"}


def test_a_plain_autoencoder_has_the_error_of_its_reconstructions(images):
    figures = evaluation.evaluate(Autoencoder((6, 5, 2)), images, batch_size=16)
    assert given(figures) == {"rmse", "active_units"}
    assert figures.rmse == pytest.approx(np.sqrt(np.mean(np.square(images / 2))), rel=1e-5)
    assert figures.active_units == (images.reshape(40, -1).var(axis=0) > 0.01).sum()


def test_a_model_adds_figures_of_its_own(images):
    def mean(measured):
        return float(measured.columns["tags"].mean())

    class Tagged(VAE):
        def figures(self):
            return [*super().figures(), Figure("tags_per_image", mean, "tags", needs=("tags",))]

    model = Tagged((6, 5, 2), latent_dim=3, hidden_units=(7,))
    figures = evaluation.evaluate(model, images, num_samples=1, columns={"tags": np.arange(40)})
    assert dataclasses.asdict(figures)["tags_per_image"] == figures.tags_per_image == 19.5
    assert isinstance(figures, evaluation.Evaluation)
    assert "tags_per_image" not in dataclasses.asdict(evaluation.evaluate(model, images, num_samples=1))


def test_bad_columns(images):
    model = M2((6, 5, 2), latent_dim=2, num_classes=3, hidden_units=(7,))
    with pytest.raises(ValueError, match="`columns` must hold 40 rows each. Received: 3 of 'label'"):
        evaluation.evaluate(model, images, num_samples=1, columns={"label": np.zeros(3, int)})
    with pytest.raises(
        ValueError, match=r"`labels` must be 40 ints in 0..2, or -1 for unknown. Received: \[40\], up to 3"
    ):
        evaluation.error_rate(model, images, np.arange(40) % 4)


def test_models_that_lack_what_a_measurement_needs_are_refused_in_one_line(images):
    model, bare = VAE((6, 5, 2), latent_dim=3, hidden_units=(7,)), Autoencoder((6, 5, 2))
    with pytest.raises(ValueError, match="`model` must classify. Received: VAE, whose `class_probabilities` is None"):
        model.predict_proba(images)
    with pytest.raises(ValueError, match="`model` must have p\\(x | z\\) .* Received: Autoencoder"):
        evaluation.evaluate_annealed(bare, images)
    with pytest.raises(ValueError, match="`model` must have a posterior .* Received: Autoencoder"):
        evaluation.posterior_spectrum(bare, images)
    with pytest.raises(ValueError, match="`model` must be a model of features .* as an M1. Received: VAE"):
        evaluation.feature_error_rate(model, None, "knn")


# Batches, and what weights are worth.


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_batched_is_the_function_of_the_whole(size):
    x, done = np.random.default_rng(0).normal(size=(7, 2)), []
    np.testing.assert_array_equal(batched(np.square, x, size), np.square(x))
    one, other = batched(lambda part: (tf.constant(part), part.sum(axis=1)), x, size, lambda *at: done.append(at))
    np.testing.assert_array_equal(one, x)
    np.testing.assert_array_equal(other, x.sum(axis=1))
    assert done[-1] == (7, 7)
    rows = batched(lambda rows: np.array([[rows.start, len(rows)]]), range(7), size)
    assert [tuple(row) for row in rows] == [(first, min(size, 7 - first)) for first in range(0, 7, size)]


def test_batched_refuses_what_has_no_batches():
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1. Received: 0"):
        batched(np.square, np.ones(3), 0)
    with pytest.raises(ValueError, match="`x` must hold at least one example. Received: none"):
        batched(np.square, np.ones(0), 2)


def test_effective_sample_size_of_equal_weights_is_their_number_and_of_one_is_one():
    log_w = np.array([[0.0, 5.0, np.log(3)], [0.0, -90.0, 0.0], [0.0, -90.0, 0.0]])  # [S, B]
    sums = [np.logaddexp.reduce(factor * log_w, axis=0) for factor in (1, 2)]
    np.testing.assert_allclose(effective_sample_size(*sums), [3.0, 1.0, 25 / 11])
