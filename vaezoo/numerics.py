"""Numerics shared by every model: means in log space, the layout of samples, units."""

import math

import tensorflow as tf


def log_mean_exp(x, axis):
    """Returns log(mean(exp(x))) over `axis`, without overflow.

    Args:
        x: float tensor of log quantities, e.g. log weights [S, B].
        axis: int, the axis to average over.
    """
    count = tf.cast(tf.shape(x)[axis], x.dtype)
    return tf.reduce_logsumexp(x, axis) - tf.math.log(count)


def tile_samples(x, num_samples):
    """Repeats a batch once per posterior sample: [B, ...] -> [S*B, ...], row s*B + b is x[b]."""
    return tf.tile(x, [num_samples] + [1] * (x.shape.rank - 1))


def merge_samples(x):
    """Folds the sample axis into the batch, so that nets see ordinary batches: [S, B, ...] -> [S*B, ...]."""
    return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))


def split_samples(x, num_samples):
    """Undoes `merge_samples`: [S*B, ...] -> [S, B, ...]."""
    return tf.reshape(x, tf.concat([[num_samples, -1], tf.shape(x)[1:]], axis=0))


def bits_per_dim(nats, num_dims):
    """Converts a log-likelihood in nats per example to bits per dimension: -nats / (D ln 2).

    Args:
        nats: log p(x), nats, any shape.
        num_dims: D, the number of values in one example (height * width * channels).
    """
    return -nats / (num_dims * math.log(2.0))
