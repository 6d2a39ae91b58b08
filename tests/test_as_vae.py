"""AS-VAE: a linear-Gaussian pair in closed form, the game's players, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import multivariate_normal

from vaezoo.layers import batch_statistics
from vaezoo.models.as_vae import ASVAE, KnownDensities, LogRatios
from vaezoo.objectives import ALI, ELBO, SymmetricBound, elbo

tfd = tfp.distributions

# The linear-Gaussian pair:  q(x) = N(m, S),  q(z | x) = N(V x + c, s^2 I),  p(z) = N(0, I),  p(x | z) = N(W z + b, t^2 I).

PIXELS, LATENTS = 3, 2
SHAPE = (PIXELS, 1, 1)
RNG = np.random.default_rng(0)
DATA_MEAN, DATA_FACTOR = RNG.normal(0.0, 0.5, PIXELS), np.tril(RNG.normal(0.0, 0.3, (PIXELS, PIXELS))) + np.eye(PIXELS)
SIZES = {"W": (PIXELS, LATENTS), "b": (PIXELS,), "t": (PIXELS,), "V": (LATENTS, PIXELS), "c": (LATENTS,), "s": (LATENTS,)}
PARAMETERS = RNG.normal(0.0, 0.3, sum(map(np.prod, SIZES.values())))


def named(parameters):
    """A flat vector -> the arrays of the pair; t and s are exponentials."""
    parts = np.split(parameters, np.cumsum([np.prod(size) for size in SIZES.values()])[:-1])
    arrays = {name: part.reshape(size) for (name, size), part in zip(SIZES.items(), parts, strict=True)}
    return {**arrays, "t": np.exp(arrays["t"]), "s": np.exp(arrays["s"])}


def joint(mean, covariance, matrix, offset, scales):
    """N(mean, covariance) of u, and v = matrix u + offset + scales * noise: mean and covariance of (u, v)."""
    of_v = matrix @ covariance @ matrix.T + np.diag(scales**2)
    cross = covariance @ matrix.T
    return np.append(mean, matrix @ mean + offset), np.block([[covariance, cross], [cross.T, of_v]])


def marginal(gaussian, part):
    return gaussian[0][part], gaussian[1][part, part]


X, Z = slice(PIXELS), slice(PIXELS, None)


def pair(parameters):
    """The joints q(x, z) and p(x, z), each as the mean and the covariance of (x, z)."""
    of = named(parameters)
    q = joint(DATA_MEAN, DATA_FACTOR @ DATA_FACTOR.T, of["V"], of["c"], of["s"])
    mean, covariance = joint(np.zeros(LATENTS), np.eye(LATENTS), of["W"], of["b"], of["t"])
    order = np.r_[LATENTS : LATENTS + PIXELS, :LATENTS]
    return q, (mean[order], covariance[np.ix_(order, order)])


def kl(one, other):
    """KL(N(m1, S1) || N(m2, S2))."""
    return cross_entropy(one, other) - cross_entropy(one, one)


def cross_entropy(one, other):
    """-E_N(m1, S1) log N(.; m2, S2)."""
    precision, gap = np.linalg.inv(other[1]), one[0] - other[0]
    spread = np.trace(precision @ one[1]) + gap @ precision @ gap
    return 0.5 * (spread + np.linalg.slogdet(2.0 * np.pi * other[1])[1])


def divergence_from_exact_posterior(parameters):
    """E_p(x) KL(q(z | x) || p(z | x)), as a KL of joints with p's marginal of x."""
    _, p = pair(parameters)
    of = named(parameters)
    return kl(joint(*marginal(p, X), of["V"], of["c"], of["s"]), p)


def bounds(parameters):
    """L_x of (5.12) and L_z of (5.13)."""
    q, p = pair(parameters)
    l_x = -cross_entropy(marginal(q, X), marginal(p, X)) - kl(q, p)
    return l_x, -cross_entropy(marginal(p, Z), marginal(q, Z)) - kl(p, q)


def central_differences(function, step=1e-5):
    steps = step * np.eye(len(PARAMETERS))
    return np.array([(function(PARAMETERS + h) - function(PARAMETERS - h)) / (2.0 * step) for h in steps])


def log_density(gaussian, values):
    """log N(values; mean, covariance) in float64, [B]."""
    mean, covariance = gaussian
    p = tfd.MultivariateNormalTriL(tf.constant(mean), tf.constant(np.linalg.cholesky(covariance)))
    return p.log_prob(tf.concat([tf.reshape(value, [len(value), -1]) for value in values], axis=-1))


class Optimal:
    """f1 and f2 of (5.5) in closed form, at parameters that no gradient reaches."""

    def log_ratios(self, inferred, generated, infer):
        del infer
        q, p = pair(PARAMETERS)
        f1 = log_density(q, inferred[:2]) - log_density(marginal(p, X), inferred[:1]) - inferred.log_prior
        product = log_density(marginal(q, X), generated[:1]) + log_density(marginal(q, Z), generated[1:2])
        return LogRatios(f1, log_density(p, generated[:2]) - product, tf.zeros_like(f1))


class OptimalMarginals(KnownDensities):
    """Known densities, and the ratios of the marginals in closed form."""

    def __init__(self):
        self.images, self.codes = (lambda value, part=part: self._ratio(part, value) for part in (X, Z))

    def _ratio(self, part, value):
        q, p = pair(PARAMETERS)
        return log_density(marginal(p, part), (value,)) - log_density(marginal(q, part), (value,))


class LinearGaussian(ASVAE):
    """The pair in float64, as a function of a flat vector of parameters."""

    def __init__(self, discriminators):
        super().__init__(SHAPE, LATENTS, filters=(2,), hidden_units=2, noise_stddev=0.0)
        self.parameters = tf.Variable(PARAMETERS, trainable=False)
        self.discriminators = discriminators

    def _named(self):
        parts = tf.split(self.parameters, [np.prod(size) for size in SIZES.values()])
        return {name: tf.reshape(part, size) for (name, size), part in zip(SIZES.items(), parts, strict=True)}

    @property
    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros(LATENTS, tf.float64), tf.ones(LATENTS, tf.float64))

    def approximate_posterior(self, x):
        of = self._named()
        loc = tf.reshape(x, [-1, PIXELS]) @ tf.transpose(of["V"]) + of["c"]
        return tfd.MultivariateNormalDiag(loc, scale_diag=tf.exp(of["s"]) * tf.ones_like(loc))

    def image_distribution(self, z):
        of = self._named()
        loc = z @ tf.transpose(of["W"]) + of["b"]
        scale = tf.exp(of["t"]) * tf.ones_like(loc)
        return tfd.Independent(tfd.Normal(*(tf.reshape(part, [-1, *SHAPE]) for part in (loc, scale))), 3)


def exact_expectation(discriminators, objective):
    """The expected objective and its gradient, by one step of the game on points that integrate quadratics exactly.

    Every log-density is quadratic in the standard normal noise behind x and the game, of n values in all: the mean over
    the 2n points +-sqrt(n) e_i is its expectation, whatever the parameters.
    """
    model = LinearGaussian(discriminators)
    model.objective = objective
    size = PIXELS + 3 * LATENTS + 2 * PIXELS
    points = np.sqrt(size) * np.concatenate([np.eye(size), -np.eye(size)])
    x = (DATA_MEAN + points[:, :PIXELS] @ DATA_FACTOR.T).reshape(-1, *SHAPE)
    with tf.GradientTape() as tape:
        tape.watch(model.parameters)
        contest, terms, _ = model.game(tf.constant(x), tf.constant(points[:, PIXELS:]))
        value = tf.reduce_mean(objective(contest, 0))
    return value.numpy(), tape.gradient(value, model.parameters).numpy(), contest, terms


R, G = SymmetricBound(1.0, 0.0), SymmetricBound(0.0, 1.0)


def test_with_optimal_discriminators_the_estimate_is_the_bound():
    l_x, l_z = bounds(PARAMETERS)
    for objective, bound in ((R, l_x), (G, l_z), (SymmetricBound(), l_x + l_z), (SymmetricBound(0.5, 2.0), 0.5 * l_x + 2.0 * l_z)):
        value, *_ = exact_expectation(Optimal(), objective)
        assert value == pytest.approx(bound, abs=1e-10)


def test_a_step_at_fixed_discriminators_follows_the_symmetric_divergence_and_not_the_bound():
    """(5.16) does not say so: log p(x) and log q(z) of (5.12) and (5.13) are inside of f, which a step holds fixed."""
    halves = [lambda parameters: -kl(*pair(parameters)), lambda parameters: -kl(*reversed(pair(parameters)))]
    expected = [central_differences(half) for half in halves]
    for objective, gradient in ((R, expected[0]), (G, expected[1]), (SymmetricBound(), sum(expected))):
        np.testing.assert_allclose(exact_expectation(Optimal(), objective)[1], gradient, atol=1e-8)
        assert np.abs(gradient - central_differences(lambda parameters: sum(bounds(parameters)))).max() > 0.1


def test_known_densities_estimate_the_bound_up_to_the_inexactness_of_the_posterior():
    l_x, l_z = bounds(PARAMETERS)
    gap = divergence_from_exact_posterior(PARAMETERS)
    assert gap > 0.1
    assert exact_expectation(OptimalMarginals(), R)[0] == pytest.approx(l_x, abs=1e-10)
    assert exact_expectation(OptimalMarginals(), G)[0] == pytest.approx(l_z - gap, abs=1e-10)


def test_known_densities_follow_the_symmetric_divergence_and_that_inexactness():
    halves = [
        lambda parameters: -kl(*pair(parameters)),
        lambda parameters: -kl(*reversed(pair(parameters))) - divergence_from_exact_posterior(parameters),
    ]
    for objective, half in zip((R, G), halves, strict=True):
        gradient = exact_expectation(OptimalMarginals(), objective)[1]
        np.testing.assert_allclose(gradient, central_differences(half), atol=1e-8)


def test_pairs_have_the_densities_of_scipy():
    _, _, contest, terms = exact_expectation(Optimal(), SymmetricBound())
    model = LinearGaussian(Optimal())
    noise = np.random.default_rng(1).standard_normal((5, LATENTS + PIXELS))
    pairs = model.generated_pairs(tf.constant(noise[:, :LATENTS]), tf.constant(noise[:, LATENTS:].reshape(-1, *SHAPE)))
    of = named(PARAMETERS)
    x = noise[:, :LATENTS] @ of["W"].T + of["b"] + of["t"] * noise[:, LATENTS:]
    np.testing.assert_allclose(pairs.x[..., 0, 0], x, atol=1e-12)
    for row, z in enumerate(noise[:, :LATENTS]):
        log_lik = multivariate_normal(of["W"] @ z + of["b"], np.diag(of["t"] ** 2)).logpdf(x[row])
        log_q = multivariate_normal(of["V"] @ x[row] + of["c"], np.diag(of["s"] ** 2)).logpdf(z)
        np.testing.assert_allclose([pairs.log_lik[row], pairs.log_q[row]], [log_lik, log_q])
    assert terms.log_lik.shape == (1, len(contest.log_lik))
