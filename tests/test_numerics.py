"""Numerics against scipy and by hand."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from vaezoo import numerics


def test_log_mean_exp_equals_scipy_where_exp_overflows():
    x = np.random.default_rng(0).normal(0, 500, (7, 5))
    for axis in (0, 1):
        expected = logsumexp(x, axis=axis) - np.log(x.shape[axis])
        np.testing.assert_allclose(numerics.log_mean_exp(tf.constant(x), axis), expected, rtol=1e-12)


def test_log_mean_exp_of_equal_values_is_the_value():
    np.testing.assert_allclose(numerics.log_mean_exp(tf.fill([4, 3], -1e5), 0), [-1e5] * 3)


def test_tiled_rows_are_sample_major():
    x = tf.reshape(tf.range(6), [3, 2])
    tiled = numerics.tile_samples(x, 2)
    np.testing.assert_array_equal(tiled, np.concatenate([x, x]))
    np.testing.assert_array_equal(numerics.split_samples(tiled, 2), np.stack([x, x]))


def test_split_undoes_merge():
    x = tf.random.stateless_normal([4, 3, 2, 5], [0, 0])
    np.testing.assert_array_equal(numerics.split_samples(numerics.merge_samples(x), 4), x)


@pytest.mark.parametrize("num_dims", [1, 3072])
def test_uniform_model_of_256_levels_is_exactly_8_bits_per_dim(num_dims):
    assert numerics.bits_per_dim(-num_dims * np.log(256), num_dims) == pytest.approx(8.0, abs=1e-12)
