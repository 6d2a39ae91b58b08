"""Batch normalisation (S. Ioffe and C. Szegedy, 2015).

It takes the statistics of the batch inside of `batch_statistics()`, which training steps enter, and its moving averages
elsewhere: `terms` stays a function of its arguments.
"""

import contextlib
import contextvars

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.replicas import global_batch_size, replica_sum

MOMENTUM = 0.99  # of batch normalisation's moving averages
EPSILON = 1e-4  # added to a variance: a pixel that never changes is not to be divided by 0
_batch_statistics = contextvars.ContextVar("batch_statistics", default=None)  # else: whether averages are updated, dict
_held_statistics = contextvars.ContextVar("held_statistics", default=None)  # else: that dict


@contextlib.contextmanager
def batch_statistics(*, update=True):
    """Makes `BatchNormalization` take the batch's statistics, and fold them into its averages if `update`.

    A step that passes two kinds of batches takes each with its own statistics, and updates the averages by one of them:
    a second update would leave them between the two. Or the second kind takes those of the first, which are yielded, by
    `held_statistics`.
    """
    taken = {}
    token = _batch_statistics.set((update, taken))
    try:
        yield taken
    finally:
        _batch_statistics.reset(token)


@contextlib.contextmanager
def held_statistics(taken):
    """Makes `BatchNormalization` take what `batch_statistics` yielded, as constants.

    So two kinds of batches go through one function, where statistics of their own would hide how they differ.
    """
    token = _held_statistics.set(taken)
    try:
        yield
    finally:
        _held_statistics.reset(token)


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last, [..., units] -> [..., units], in float32.

    y = gain * (x - mean) / sqrt(variance + EPSILON) + shift. In sync over the replicas: their batches count as one.

    Args:
        units: int.
    """

    def __init__(self, units, **kwargs):
        super().__init__(autocast=False, **kwargs)
        shape = (checks.positive_int("units", units),)
        self.gain = self.add_weight(shape, "ones", name="gain")
        self.shift = self.add_weight(shape, "zeros", name="shift")
        self.mean = self.add_weight(shape, "zeros", trainable=False, aggregation="mean", name="mean")
        self.variance = self.add_weight(shape, "ones", trainable=False, aggregation="mean", name="variance")
        self.built = True

    def call(self, x):
        """Inputs [..., units] -> the same shape and dtype."""
        dtype, x = x.dtype, tf.cast(x, tf.float32)
        update, taken = _batch_statistics.get() or (False, None)
        held = _held_statistics.get()
        if held is not None:
            mean, variance = held[self]
        elif taken is None:
            mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        else:
            rows = tf.reshape(x, [-1, x.shape[-1]])
            count = global_batch_size(rows)
            mean = replica_sum(tf.reduce_sum(rows, axis=0)) / count
            variance = replica_sum(tf.reduce_sum(tf.square(rows - mean), axis=0)) / count
            taken[self] = tf.stop_gradient(mean), tf.stop_gradient(variance)
        if update and held is None:
            for average, value in ((self.mean, mean), (self.variance, variance)):
                average.assign(MOMENTUM * average + (1.0 - MOMENTUM) * tf.stop_gradient(value))
        scale = self.gain * tf.math.rsqrt(variance + EPSILON)
        return tf.cast(x * scale + (self.shift - mean * scale), dtype)
