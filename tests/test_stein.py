"""Stein directions against plain loops, particles against the densities they are to follow, and the collapse."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from vaezoo.inference import stein


def loops(particles, scores, weights, self_term):
    """phi of one set of particles, [M, D], in float64, as it is written down."""
    number = len(particles)
    squared = [[np.sum((z - other) ** 2) for other in particles] for z in particles]
    pairs = [squared[i][j] for i in range(number) for j in range(i)]
    bandwidth = np.median(pairs) / math.log(number + 1)
    phi = np.zeros_like(particles)
    for j in range(number):
        for k in range(number):
            if j == k and not self_term:
                continue
            kernel = math.exp(-squared[k][j] / bandwidth)
            gradient = -2.0 / bandwidth * (particles[k] - particles[j]) * kernel  # of the kernel, in its first argument
            phi[j] += weights[k] * (kernel * scores[k] + gradient)
    return phi


@pytest.mark.parametrize("number", [2, 5, 8])
@pytest.mark.parametrize("self_term", [False, True])
def test_direction_equals_a_double_loop(number, self_term):
    rng = np.random.default_rng(number)
    particles, scores = rng.normal(size=(2, number, 3, 4))  # three sets of particles in four dimensions
    weights = rng.dirichlet(np.ones(number), size=3).T
    phi = stein.direction(*(tf.constant(v) for v in (particles, scores, weights)), self_term=self_term)
    for place in range(3):
        expected = loops(particles[:, place], scores[:, place], weights[:, place], self_term)
        np.testing.assert_allclose(phi[:, place], expected, rtol=1e-10, atol=1e-12)


def test_one_particle_follows_its_score():
    particle, score = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, -4.0]])
    np.testing.assert_array_equal(stein.direction(particle, score, tf.ones([1]), self_term=True), score)
    np.testing.assert_array_equal(stein.direction(particle, score, tf.ones([1]), self_term=False), 0 * score)


def test_particles_in_one_place_move_along_their_mean_score():
    particles = tf.ones([4, 3])
    scores = tf.constant(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))
    phi = stein.direction(particles, scores, tf.fill([4], 0.25), self_term=True)
    np.testing.assert_allclose(phi, np.broadcast_to(np.mean(scores, axis=0), (4, 3)), atol=1e-6)


def pull(variance, number, self_term, dim=50, sets=4000):
    """E[phi(z) . z] over sets of draws from N(0, variance I) with the score of N(0, I): below 0 they contract."""
    draws = math.sqrt(variance) * np.random.default_rng(0).normal(size=(number, sets, dim)).astype("float32")
    phi = stein.direction(tf.constant(draws), -draws, tf.fill(draws.shape[:2], 1 / number), self_term=self_term)
    return np.mean(np.sum(phi * draws, axis=-1))


@pytest.mark.parametrize(("number", "low", "high"), [(3, 1.35, 1.75), (5, 1.05, 1.17), (10, 0.97, 1.06)])
def test_a_sampler_without_self_term_rests_near_the_right_variance(number, low, high):
    """As `vaezoo.inference.stein` has it; the bandwidth is that of the draws, which is all that is left of a bias."""
    assert pull(low, number, False) > 0 > pull(high, number, False)


@pytest.mark.parametrize("number", [5, 20])
def test_a_sampler_with_self_term_collapses(number):
    """It rests at (M - 1) / (M + 1) log(M + 1) / D."""
    rest = (number - 1) / (number + 1) * math.log(number + 1) / 50
    assert pull(0.93 * rest, number, True) > 0 > pull(1.07 * rest, number, True)


@pytest.mark.parametrize("distance", [1e-3, 1.0, 1e3])
def test_the_kernel_of_two_particles_is_a_third_at_any_distance(distance):
    """phi_j = 1/6 [s(z') + 2 log 3 / d^2 (z_j - z')] without the self term."""
    z = distance * np.array([[0.6, 0.8], [0.0, 0.0]])
    scores = np.array([[1.0, -2.0], [3.0, 0.5]])
    phi = stein.direction(
        tf.constant(z), tf.constant(scores), tf.fill([2], tf.constant(0.5, tf.float64)), self_term=False
    )
    np.testing.assert_allclose(phi, (scores[::-1] + 2.0 * math.log(3.0) / distance**2 * (z - z[::-1])) / 6.0)


def settle(particles, score, self_term, steps, step_size):
    """Moves particles kept from step to step, with AdaGrad as Liu and Wang do, to where they stay."""

    @tf.function
    def run(particles):
        squares = tf.zeros_like(particles)
        weights = tf.fill(tf.shape(particles)[:-1], 1.0 / particles.shape[0])
        for _ in tf.range(steps):
            phi = stein.direction(particles, score(particles), weights, self_term=self_term)
            squares = 0.9 * squares + 0.1 * phi**2
            particles += step_size * phi / (1e-6 + tf.sqrt(squares))
        return particles

    return run(tf.constant(particles, tf.float32)).numpy()


def test_particles_recover_a_mixture_of_two_gaussians():
    """Mean, covariance and the share of both modes, of 200 particles that start in a heap between them."""
    means, shares = np.array([[-2.0, 1.0], [2.0, 0.0]], "float32"), np.array([0.3, 0.7])

    def score(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_p = tf.reduce_logsumexp(
                np.log(shares).astype("float32") - 0.5 * tf.reduce_sum((z[:, tf.newaxis] - means) ** 2, axis=-1),
                axis=-1,
            )
        return tape.gradient(log_p, z)

    start = np.random.default_rng(0).normal(size=(200, 2))
    particles = settle(start, score, True, 2000, 0.02)
    mean = shares @ means
    covariance = np.eye(2) + (shares * (means - mean).T) @ (means - mean)
    np.testing.assert_allclose(particles.mean(axis=0), mean, atol=0.15)
    np.testing.assert_allclose(np.cov(particles.T), covariance, atol=0.25)
    closer_to_the_first = np.square(particles - means[0]).sum(-1) < np.square(particles - means[1]).sum(-1)
    exact = shares @ scipy.stats.norm.cdf(np.array([1.0, -1.0]) * np.linalg.norm(means[1] - means[0]) / 2)
    assert closer_to_the_first.mean() == pytest.approx(exact, abs=0.06)


@pytest.mark.parametrize("number", [5, 20])
def test_the_printed_update_collapses_in_fifty_dimensions(number):
    """Kept particles rest at a variance of log(M + 1) / D around the mode of N(0, I), see `inference.stein`."""
    start = np.random.default_rng(0).normal(size=(number, 20, 50))
    particles = settle(start, lambda z: -z, True, 1500, 0.01)
    variance = particles.var(axis=0, ddof=1).mean()
    assert variance == pytest.approx(math.log(number + 1) / 50, rel=0.02)
