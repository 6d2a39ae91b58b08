"""Posteriors against scipy, autodiff and the closed forms of Kingma (2017), section 2.6."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import multivariate_normal

from vaezoo.posteriors import POSTERIORS, code, reparameterize

FEATURES, LATENTS, BATCH = 5, 4, 3


@pytest.fixture(params=sorted(POSTERIORS))
def q(request):
    layer = POSTERIORS[request.param](FEATURES, LATENTS)
    layer.params.bias.assign(0.5 * np.random.default_rng(1).normal(size=layer.params.bias.shape))
    return layer.distribution(tf.random.stateless_normal([BATCH, FEATURES], [0, 1]))


def test_log_q_of_the_draw_equals_scipys_density(q):
    z, log_q = reparameterize(q, tf.random.stateless_normal([6, BATCH, LATENTS], [1, 2]))
    assert z.shape == (6, BATCH, LATENTS)
    for b in range(BATCH):
        expected = multivariate_normal(q.mean()[b], q.covariance()[b]).logpdf(z[:, b])
        np.testing.assert_allclose(log_q[:, b], expected, rtol=1e-5)


def test_log_determinant_equals_autodiff_jacobian(q):
    noise = tf.random.stateless_normal([BATCH, LATENTS], [1, 3])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = q.bijector.forward(noise)
    jacobian = tape.batch_jacobian(z, noise)
    expected = np.linalg.slogdet(jacobian.numpy().astype("float64"))[1]
    np.testing.assert_allclose(q.bijector.forward_log_det_jacobian(noise, 1) + tf.zeros(BATCH), expected, atol=1e-5)


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


def test_code_is_the_mean(q):
    np.testing.assert_allclose(code(q), q.mean(), rtol=1e-6)


def test_full_covariance_factor_is_lower_triangular_with_positive_diagonal():
    layer = POSTERIORS["full_covariance_gaussian"](FEATURES, LATENTS)
    factor = layer.distribution(tf.random.stateless_normal([BATCH, FEATURES], [0, 1])).scale.to_dense().numpy()
    np.testing.assert_array_equal(factor, np.tril(factor))
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
    assert np.count_nonzero(factor[0]) == LATENTS * (LATENTS + 1) // 2


def test_one_latent_dimension_has_nothing_below_the_diagonal():
    layer = POSTERIORS["full_covariance_gaussian"](FEATURES, 1)
    assert layer.distribution(tf.ones([2, FEATURES])).covariance().shape == (2, 1, 1)
