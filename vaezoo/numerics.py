"""Numerics shared by every model: means in log space, the layout of samples, batches, units."""

import math

import numpy as np
import tensorflow as tf
from scipy.special import gammaln

from vaezoo import checks


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


def batches(x, size):
    """Yields the parts x[0:size], x[size:2 * size], ... of an array, or of a `range`: the last one may be shorter.

    Raises:
        ValueError: `size` is not a positive integer.
    """
    checks.positive_int("batch_size", size)
    for first in range(0, len(x), size):
        yield x[first : first + size]


def batched(function, x, size, progress=None):
    """Returns a function's rows of N examples, in memory constant in N but for them.

    Args:
        function: a batch [B, ...] -> rows [B, ...], or a tuple of several such arrays.
        x: N examples, [N, ...]; or `range(N)`, for functions that need to know which rows a batch has.
        size: int, B.
        progress: called with (examples done, examples in all) after each batch.

    Returns:
        A numpy array [N, ...], or a tuple of them.

    Raises:
        ValueError: `size` is not a positive integer, or there is no example.
    """
    parts, done = [], 0
    for part in batches(x, size):
        parts.append(function(part))
        done += len(part)
        if progress:
            progress(done, len(x))
    if not parts:
        raise ValueError("`x` must hold at least one example. Received: none")
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return np.concatenate(parts)


def standard_error(values):
    """Returns the standard error of the mean of values [N]; NaN of a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def bits_per_dim(nats, num_dims):
    """Converts a log-likelihood in nats per example to bits per dimension: -nats / (D ln 2).

    Args:
        nats: log p(x), nats, any shape.
        num_dims: D, the number of values in one example (height * width * channels).
    """
    return -nats / (num_dims * math.log(2.0))


def log_orders(counts):
    """Returns the log of the number of orders that each document's words can have, log(N! / prod_v x_v!), [N]."""
    counts = np.asarray(counts, np.float64)
    return gammaln(counts.sum(axis=-1) + 1.0) - gammaln(counts + 1.0).sum(axis=-1)


def perplexity(log_p, counts):
    """Returns the perplexity of a word of documents; see `vaezoo.evaluation.documents` for what it is.

    Args:
        log_p: log p(x), or bounds of it, nats, [N].
        counts: the documents, [N, V].
    """
    log_p_words = np.asarray(log_p, np.float64) - log_orders(counts)
    return float(np.exp(-log_p_words.sum() / np.sum(counts, dtype=np.float64)))
