"""Posteriors against scipy, autodiff and the closed forms of Kingma (2017), section 2.6; what holds for all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal

from vaezoo.layers.initialization import data_dependent_initialization
from vaezoo.posteriors import POSTERIORS, code, reparameterize

FEATURES, LATENTS, BATCH = 5, 4, 3
GAUSSIANS = ["diagonal_gaussian", "full_covariance_gaussian"]
FLOWS = sorted(POSTERIORS.keys() - set(GAUSSIANS))
# Arguments beyond the two dimensions, every one of them off its default.
ARGUMENTS = {
    "diagonal_gaussian": {},
    "full_covariance_gaussian": {},
    "iaf": {"num_steps": 3, "hidden_units": (6, 7), "form": "location_scale"},
    "coupling": {"num_steps": 3, "hidden_units": (6, 7)},
    "planar": {"num_steps": 3},
    "radial": {"num_steps": 3},
}


def make(name):
    """A posterior with random biases; those of a new one are 0."""
    layer, rng = POSTERIORS[name](FEATURES, LATENTS, **ARGUMENTS[name]), np.random.default_rng(1)
    for weight in layer.weights:
        if weight.name in ("bias", "b"):
            weight.assign(0.5 * rng.normal(size=weight.shape))
    return layer


def features(rows=BATCH):
    return tf.random.stateless_normal([rows, FEATURES], [0, 1])


@pytest.fixture(params=GAUSSIANS)
def q(request):
    return make(request.param).distribution(features())


@pytest.fixture(params=sorted(POSTERIORS))
def name(request):
    """The name of each posterior in turn."""
    return request.param


# Gaussians.


def test_log_q_of_the_draw_equals_scipys_density(q):
    z, log_q = reparameterize(q, tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2]))
    assert z.shape == (6, BATCH, LATENTS)
    for b in range(BATCH):
        expected = multivariate_normal(q.mean()[b], q.covariance()[b]).logpdf(z[:, b])
        np.testing.assert_allclose(log_q[:, b], expected, rtol=1e-5)


def test_whitened_draws_have_the_moments_of_a_standard_normal(q):
    z, _ = reparameterize(q, tf.random.stateless_normal([200_000, BATCH, LATENTS], [2, 3]))
    factor = np.linalg.cholesky(q.covariance())
    white = np.linalg.solve(factor, np.moveaxis(z - q.mean(), 0, -1))  # [B, D, S]
    five_standard_errors = 5 * np.sqrt(2 / 200_000)
    np.testing.assert_allclose(white.mean(-1), np.zeros((BATCH, LATENTS)), atol=five_standard_errors)
    for b in range(BATCH):
        np.testing.assert_allclose(np.cov(white[b]), np.eye(LATENTS), atol=five_standard_errors)


def test_closed_form_kl_equals_the_mean_of_the_sampled_one(q):
    prior = tfp.distributions.MultivariateNormalDiag(tf.zeros(LATENTS), tf.ones(LATENTS))
    z, log_q = reparameterize(q, tf.random.stateless_normal([100_000, BATCH, LATENTS], [3, 3]))
    sampled = (log_q - prior.log_prob(z)).numpy()
    standard_error = sampled.std(0) / np.sqrt(len(sampled))
    closed_form = tfp.distributions.kl_divergence(q, prior).numpy()
    assert (abs(closed_form - sampled.mean(0)) < 5 * standard_error).all()


def test_closed_form_kl_equals_appendix_2a_for_the_diagonal():
    layer = POSTERIORS["diagonal_gaussian"](FEATURES, LATENTS)
    q = layer.distribution(tf.random.stateless_normal([BATCH, FEATURES], [0, 1]))
    mu, sigma = q.mean().numpy(), q.stddev().numpy()
    expected = -0.5 * (1 + np.log(sigma**2) - mu**2 - sigma**2).sum(-1)
    prior = tfp.distributions.MultivariateNormalDiag(tf.zeros(LATENTS), tf.ones(LATENTS))
    np.testing.assert_allclose(tfp.distributions.kl_divergence(q, prior), expected, rtol=1e-5)


def test_code_of_a_gaussian_is_its_mean(q):
    np.testing.assert_allclose(code(q), q.mean(), rtol=1e-6)


def test_full_covariance_factor_is_lower_triangular_with_positive_diagonal():
    layer = POSTERIORS["full_covariance_gaussian"](FEATURES, LATENTS)
    factor = layer.distribution(tf.random.stateless_normal([BATCH, FEATURES], [0, 1])).scale.to_dense().numpy()
    np.testing.assert_array_equal(factor, np.tril(factor))
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
    assert np.count_nonzero(factor[0]) == LATENTS * (LATENTS + 1) // 2


# All posteriors.


def test_shapes(name):
    q = make(name).distribution(features())
    assert q.batch_shape == q.batch_shape_tensor().numpy().tolist() == [BATCH]
    assert q.event_shape == q.event_shape_tensor().numpy().tolist() == [LATENTS]
    assert q.bijector.forward_min_event_ndims == q.bijector.inverse_min_event_ndims == 1
    z, log_q = reparameterize(q, tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2]))
    assert (z.shape, log_q.shape, code(q).shape) == ((6, BATCH, LATENTS), (6, BATCH), (BATCH, LATENTS))


def test_log_determinant_equals_autodiff_jacobian(name):
    q = make(name).distribution(features())
    noise = tf.random.stateless_normal([BATCH, LATENTS], [1, 3])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(noise)
        outputs = tf.unstack(q.bijector.forward(noise), axis=-1)
    jacobian = np.stack([tape.gradient(output, noise) for output in outputs], axis=1)  # examples do not meet
    expected = np.linalg.slogdet(jacobian.astype("float64"))[1]
    np.testing.assert_allclose(q.bijector.forward_log_det_jacobian(noise, 1) + tf.zeros(BATCH), expected, atol=1e-5)


def test_log_q_of_the_draw_equals_the_density_at_it(name):
    """The density of a copy: TFP remembers the noise behind the draw itself, and would not invert it."""
    q = make(name).distribution(features())
    z, log_q = reparameterize(q, tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2]))
    np.testing.assert_allclose(q.log_prob(tf.identity(z)), log_q, rtol=1e-4)


def test_code_is_z_at_zero_noise_with_an_unknown_batch_too(name):
    layer = make(name)
    z, _ = reparameterize(layer.distribution(features()), tf.zeros([1, BATCH, LATENTS]))
    graph = tf.function(lambda x: code(layer.distribution(x)), input_signature=[tf.TensorSpec([None, FEATURES])])
    np.testing.assert_allclose(code(layer.distribution(features())), z[0], atol=1e-6)
    np.testing.assert_allclose(graph(features()), z[0], atol=1e-6)


def test_a_row_depends_on_its_own_features_and_noise(name):
    layer, x = make(name), features()
    noise = tf.random.stateless_normal([2, BATCH, LATENTS], [1, 2])
    z, log_q = reparameterize(layer.distribution(x), noise)
    for s, b in [(0, 0), (1, 2)]:
        row_z, row_log_q = reparameterize(layer.distribution(x[b : b + 1]), noise[s : s + 1, b : b + 1])
        np.testing.assert_allclose(row_z[0, 0], z[s, b], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row_log_q[0, 0], log_q[s, b], rtol=1e-5, atol=1e-5)


def test_every_weight_is_tracked_and_gets_a_gradient(name):
    layer = make(name)
    with tf.GradientTape() as tape:  # of what a bound is made of
        z, log_q = reparameterize(
            layer.distribution(features()), tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2])
        )
        loss = tf.reduce_sum(log_q) + tf.reduce_sum(z**2)
    assert len(tape.watched_variables()) == len(layer.trainable_variables) == len(layer.weights)
    for weight, gradient in zip(layer.trainable_variables, tape.gradient(loss, layer.trainable_variables), strict=True):
        assert np.isfinite(gradient).all(), weight.path
        assert np.count_nonzero(gradient) > 0, weight.path


@pytest.mark.parametrize("name", FLOWS)
def test_every_step_depends_on_the_features(name):
    layer = make(name)
    y = tf.random.stateless_normal([1, LATENTS], [1, 2])
    steps = layer.steps(features(2))
    assert len(steps) == 3
    for step in steps:
        z = step.forward(tf.repeat(y, 2, axis=0)).numpy()
        assert abs(z[0] - z[1]).max() > 1e-3


def test_the_order_of_the_latents_is_reversed_from_step_to_step():
    steps, y = make("iaf").steps(features()), tf.random.stateless_normal([BATCH, LATENTS], [1, 2])
    for index, step in enumerate(steps):
        for latent in range(LATENTS):
            moved = step.forward(y + tf.one_hot(latent, LATENTS)) - step.forward(y)
            before, after = moved[:, :latent].numpy(), moved[:, latent + 1 :].numpy()
            unmoved, moved = (before, after) if index % 2 == 0 else (after, before)
            np.testing.assert_array_equal(unmoved, np.zeros_like(unmoved))
            assert (moved != 0).all()


@pytest.mark.parametrize("latent_dim", [2, 4, 5])
def test_two_couplings_move_each_latent_once(latent_dim):
    first, second = POSTERIORS["coupling"](FEATURES, latent_dim, num_steps=2).steps(features())
    y = tf.random.stateless_normal([BATCH, latent_dim], [1, 2])
    kept, moved = (np.arange(latent_dim) < latent_dim // 2), (np.arange(latent_dim) >= latent_dim // 2)
    np.testing.assert_array_equal(first.forward(y) == y, [kept] * BATCH)
    np.testing.assert_array_equal(second.forward(y) == y, [moved] * BATCH)


@pytest.mark.parametrize("name", ["coupling", "planar", "radial"])
def test_initialised_from_data_a_flow_starts_near_the_identity(name):
    """All of its steps together move a draw by less than a quarter of its deviation, whatever the features' size."""
    layer, x = POSTERIORS[name](FEATURES, 16), 100.0 * features(200)
    noise = tf.random.stateless_normal([200, 16], [1, 2])
    with data_dependent_initialization():
        tfp.bijectors.Chain(layer.steps(x)[::-1]).forward(noise)
    moved = tfp.bijectors.Chain(layer.steps(x)[::-1]).forward(noise) - noise
    assert 0.1 < np.sqrt(np.mean(moved**2)) < 0.25


def test_xla_draws_what_a_plain_graph_draws(name):
    layer = make(name)

    def draw(x, noise):
        return reparameterize(layer.distribution(x), noise)

    arguments = features(), tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2])
    for compiled, plain in zip(tf.function(draw, jit_compile=True)(*arguments), draw(*arguments), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-5)


def test_densities_are_float32_whatever_the_policy(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = POSTERIORS[name](FEATURES, LATENTS)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    for dtype in (tf.float32, tf.bfloat16):  # what an encoder puts out
        q = layer.distribution(tf.cast(features(), dtype))
        assert {tensor.dtype for tensor in reparameterize(q, tf.ones([1, BATCH, LATENTS]))} == {tf.float32}


def test_a_config_builds_the_same_posterior(name):
    layer = POSTERIORS[name](FEATURES, LATENTS, **ARGUMENTS[name], name="other")
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert twin.get_config().items() >= {"name": "other", "latent_dim": LATENTS, **ARGUMENTS[name]}.items()
    for weight, value in zip(twin.weights, layer.weights, strict=True):
        weight.assign(value)
    np.testing.assert_array_equal(code(twin.distribution(features())), code(layer.distribution(features())))


def test_one_latent_dimension(name):
    if name == "coupling":
        with pytest.raises(ValueError, match="`latent_dim` must be at least 2, .* Received: 1"):
            POSTERIORS[name](FEATURES, 1)
        return
    q = POSTERIORS[name](FEATURES, 1).distribution(features())
    noise = tf.constant(np.linspace(-4.0, 4.0, 801), tf.float32)[:, None, None] + tf.zeros([BATCH, 1])
    z, log_q = reparameterize(q, noise)
    mass = trapezoid(np.exp(log_q), z[..., 0], axis=0)
    np.testing.assert_allclose(mass, np.full(BATCH, 0.99994), atol=1e-4)  # P(|noise| < 4)


@pytest.mark.parametrize("num_steps", [0, -1, 1.5, True, None])
@pytest.mark.parametrize("name", FLOWS)
def test_the_number_of_steps_is_checked(name, num_steps):
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1. Received: "):
        POSTERIORS[name](FEATURES, LATENTS, num_steps=num_steps)


@pytest.mark.parametrize("hidden_units", [320, "64", None, {6: 5}, [0], [2.0]], ids=str)
@pytest.mark.parametrize("name", ["iaf", "coupling"])
def test_the_widths_of_hidden_layers_are_checked(name, hidden_units):
    with pytest.raises(ValueError, match="`hidden_units` must be .*integer.* of at least 1. Received: "):
        POSTERIORS[name](FEATURES, LATENTS, hidden_units=hidden_units)


@pytest.mark.parametrize("form", ["gate", None, 3])
def test_the_form_is_checked(form):
    with pytest.raises(ValueError, match="`form` must be one of: gated, location, location_scale. Received: "):
        POSTERIORS["iaf"](FEATURES, LATENTS, form=form)
