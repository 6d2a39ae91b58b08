"""The linear-Gaussian oracle: with the exact posterior, every log-weight is log p(x).

    p(z) = N(0, I),  p(x | z) = N(W z + b, s^2 I)  =>  p(x) = N(b, W W' + s^2 I),
    p(z | x) = N(S W'(x - b) / s^2, S),  S = (I + W'W / s^2)^-1.

The model goes through the public base class, and its posterior is the library's own full-covariance layer.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import multivariate_normal

from vaezoo.base import LatentVariableModel
from vaezoo.evaluation import evaluate
from vaezoo.objectives import elbo, iwae, log_weights
from vaezoo.posteriors import FullCovarianceGaussian

tfd = tfp.distributions
SHAPE, LATENTS, SCALE = (3, 2, 1), 4, 0.3
DIMS = 6
RNG = np.random.default_rng(0)
W, B = 0.2 * RNG.normal(size=(DIMS, LATENTS)), RNG.uniform(0.3, 0.7, size=DIMS)
X = RNG.random((50, *SHAPE)).astype("float32")
LOG_P = multivariate_normal(B, W @ W.T + SCALE**2 * np.eye(DIMS)).logpdf(X.reshape(len(X), -1))


class LinearGaussianLikelihood(keras.layers.Layer):
    def distribution(self, z):
        loc = tf.reshape(z @ tf.constant(W.T, tf.float32) + tf.constant(B, tf.float32), [-1, *SHAPE])
        return tfd.Independent(tfd.Normal(loc, SCALE), 3)


class LinearGaussian(LatentVariableModel):
    def __init__(self):
        super().__init__(SHAPE, latent_shape=(LATENTS,))
        self.encoder = keras.layers.Flatten()
        self.posterior = FullCovarianceGaussian(DIMS, LATENTS)
        self.decoder = keras.layers.Identity()
        self.likelihood = LinearGaussianLikelihood()

    def make_posterior_exact(self):
        covariance = np.linalg.inv(np.eye(LATENTS) + W.T @ W / SCALE**2)
        gain = covariance @ W.T / SCALE**2  # mu = gain (x - b)
        factor = np.linalg.cholesky(covariance)
        below = tfp.math.fill_triangular_inverse(np.tril(factor[1:, :-1]))  # as the layer lays it out
        kernel = np.zeros(self.posterior.params.kernel.shape)
        kernel[:, :LATENTS] = gain.T
        bias = np.concatenate([-gain @ B, np.log(np.diag(factor)), below])
        self.posterior.params.set_weights([kernel, bias])


@pytest.fixture(scope="module")
def model():
    model = LinearGaussian()
    model.make_posterior_exact()
    model.compile()
    return model


def test_every_log_weight_is_log_p_of_x(model):
    terms = model.terms(X, model.noise(200, len(X), seed=[0, 1]))
    np.testing.assert_allclose(log_weights(terms), np.broadcast_to(LOG_P, (200, len(X))), atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_estimates_are_exact_and_every_sample_counts_whatever_the_chunk(model, chunk):
    estimate = model.importance_estimate(X, num_samples=7, chunk=chunk)
    np.testing.assert_allclose(estimate.log_likelihood, LOG_P, atol=1e-4)
    np.testing.assert_allclose(estimate.effective_sample_size, np.full(len(X), 7.0), rtol=1e-3)
    np.testing.assert_allclose(estimate.log_lik - tf.reduce_sum(estimate.kl, -1), LOG_P, atol=1e-4)


def test_elbo_and_every_iwae_bound_are_log_p_of_x(model):
    for num_samples in (1, 5, 50):
        terms = model.terms(X, model.noise(num_samples, len(X), seed=[1, 1]))
        np.testing.assert_allclose(elbo(terms), LOG_P, atol=1e-4)
        np.testing.assert_allclose(iwae(terms), LOG_P, atol=1e-4)


def test_keras_evaluate_weighs_a_short_last_batch_by_its_examples(model):
    for batch_size in (50, 16, 7):
        logs = model.evaluate(X, batch_size=batch_size, verbose=0, return_dict=True)
        assert logs["elbo"] == pytest.approx(LOG_P.mean(), abs=1e-4)


def test_evaluation_reports_log_p_of_x_and_its_standard_error(model):
    figures = evaluate(model, X, num_samples=10, batch_size=16, chunk=4)
    assert figures.log_likelihood == pytest.approx(LOG_P.mean(), abs=1e-4)
    assert figures.elbo == pytest.approx(LOG_P.mean(), abs=1e-4)
    assert figures.log_likelihood_standard_error == pytest.approx(LOG_P.std(ddof=1) / np.sqrt(50), rel=1e-4)
    assert figures.bits_per_dim == pytest.approx(-LOG_P.mean() / (DIMS * np.log(2)), abs=1e-4)


def test_a_wrong_posterior_is_below_log_p_of_x_by_its_divergence(model):
    """ELBO = log p(x) - KL(q(z | x) || p(z | x)), eq. (2.11)."""
    wrong = LinearGaussian()
    q = wrong.posterior.distribution(wrong.encoder(X))
    exact = model.posterior.distribution(model.encoder(X))
    terms = wrong.terms(X, wrong.noise(20_000, len(X), seed=[2, 2]))
    log_w = log_weights(terms).numpy()
    gap = LOG_P - log_w.mean(0)
    standard_error = log_w.std(0) / np.sqrt(len(log_w))
    divergence = tfd.kl_divergence(q, exact).numpy()
    assert (abs(gap - divergence) < 5 * standard_error + 1e-3).all()
    assert divergence.min() > 0.1


def test_bounds_rise_with_k_and_stay_below_log_p_of_x():
    """E[L_1] <= E[L_5] <= E[L_50] <= log p(x), Burda et al. (2016), theorem 1; one standard error apart at least."""
    wrong = LinearGaussian()
    bounds = []
    for num_samples in (1, 5, 50):
        repeats = [
            iwae(wrong.terms(X, wrong.noise(num_samples, len(X), seed=[3, repeat]))).numpy().mean()
            for repeat in range(40)
        ]
        bounds.append((np.mean(repeats), np.std(repeats) / np.sqrt(40)))
    for (lower, error), (upper, _) in zip(bounds, [*bounds[1:], (LOG_P.mean(), 0.0)], strict=True):
        assert lower + error < upper


def test_both_sgvb_estimators_have_the_same_mean():
    """Estimator A (2.29) samples the KL, estimator B (2.77) has it in closed form."""
    wrong = LinearGaussian()
    noise = wrong.noise(20_000, len(X), seed=[4, 4])
    a = log_weights(wrong.terms(X, noise)).numpy()
    b = log_weights(wrong.terms(X, noise, analytic_kl=True)).numpy()
    standard_error = (a - b).std(0) / np.sqrt(len(a))
    assert (abs(a.mean(0) - b.mean(0)) < 5 * standard_error + 1e-4).all()
    assert (a.std(0) != b.std(0)).all()
