"""The discretised logistic against scipy's logistic in float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import logistic

from vaezoo.layers.distributions import DiscretizedLogistic

LEVELS = np.arange(256)
LOCS, LOG_SCALES = np.array([-0.7, -0.5, -0.1234, 0.0, 0.31, 0.5, 0.9]), np.array([-7.0, -5.0, -3.5, -1.0, 2.0])


def log_masses(dtype, edges=True):
    """[256, locs, log-scales]."""
    loc, log_scale = tf.constant(LOCS[:, None], dtype), tf.constant(LOG_SCALES, dtype)
    levels = tf.constant(LEVELS[:, None, None] / 255, dtype)
    return DiscretizedLogistic(loc, log_scale, edges).log_prob(levels).numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_masses_of_the_256_levels_sum_to_1(dtype, tolerance):
    np.testing.assert_allclose(np.exp(log_masses(dtype)).sum(0), 1.0, atol=tolerance)


def test_masses_without_edges_leave_out_the_tails():
    p = logistic(LOCS[:, None], np.exp(LOG_SCALES))
    inside = p.cdf(0.5) - p.cdf(-0.5)
    np.testing.assert_allclose(np.exp(log_masses("float64", edges=False)).sum(0), inside, rtol=1e-10, atol=1e-15)
    assert inside.min() < 0.1


def test_masses_equal_scipys_differences_of_the_cdf():
    p = logistic(LOCS[:, None], np.exp(LOG_SCALES))
    ends = np.arange(257)[:, None, None] / 256 - 0.5
    ends[0], ends[-1] = -np.inf, np.inf
    expected = np.diff(p.cdf(ends), axis=0)
    np.testing.assert_allclose(np.exp(log_masses("float64")), expected, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_are_right_where_the_difference_of_the_cdfs_is_zero(dtype):
    """A bin at the distance t from `loc`: log p = -t / s + log(1 - exp(-1 / (256 s))), up to exp(-t / s)."""
    s, level = 1e-3, 250
    loc = tf.Variable(-0.5, dtype=dtype)
    with tf.GradientTape() as tape:
        log_prob = DiscretizedLogistic(loc, tf.constant(np.log(s), dtype)).log_prob(tf.constant(level / 255, dtype))
    distance = level / 256
    np.testing.assert_allclose(log_prob, -distance / s + np.log1p(-np.exp(-1 / (256 * s))), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(log_prob, loc), 1 / s, rtol=1e-5)
    bin_ends = tf.sigmoid((tf.constant([level, level + 1], dtype) / 256 - 0.5 - loc) / s)
    assert np.log(np.diff(bin_ends) + 1e-7) > -17  # what a floor under the difference makes of these 976 nats


def test_gradients_equal_finite_differences_at_every_level():
    level = tf.constant(LEVELS / 255, tf.float64)
    loc, log_scale = tf.Variable(0.05, dtype=tf.float64), tf.Variable(-3.0, dtype=tf.float64)

    def log_prob(at_loc, at_log_scale):
        return DiscretizedLogistic(at_loc * tf.ones(256, tf.float64), at_log_scale).log_prob(level)

    with tf.GradientTape(persistent=True) as tape:
        value = log_prob(loc, log_scale)
    step = 1e-6
    for variable, shift in ((loc, (step, 0.0)), (log_scale, (0.0, step))):
        above = log_prob(loc + shift[0], log_scale + shift[1])
        below = log_prob(loc - shift[0], log_scale - shift[1])
        expected = (above - below) / (2 * step)
        np.testing.assert_allclose(tape.jacobian(value, variable), expected, rtol=1e-6, atol=1e-7)


def test_mean_is_the_location_on_the_scale_of_images():
    p = DiscretizedLogistic(tf.constant([-0.6, -0.5, 0.1, 0.7]), tf.constant(-3.0))
    np.testing.assert_allclose(p.mean(), [0.0, 0.0, 0.6, 1.0], atol=1e-6)


def test_float_images_are_read_as_their_nearest_level():
    p = DiscretizedLogistic(tf.constant(0.1), tf.constant(-4.0))
    np.testing.assert_array_equal(p.log_prob(130.4 / 255), p.log_prob(130.0 / 255))
