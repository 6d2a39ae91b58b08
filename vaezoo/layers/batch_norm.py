"""Batch normalisation (S. Ioffe and C. Szegedy, 2015).

It takes the statistics of the batch in Keras' training mode, and its moving averages elsewhere.
"""

import contextlib
import contextvars

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.replicas import global_batch_size, replica_sum

MOMENTUM = 0.99  # of batch normalisation's moving averages
EPSILON = 1e-4  # added to a variance: a pixel that never changes is not to be divided by 0
_averages_held = contextvars.ContextVar("averages_held", default=False)
_recorded = contextvars.ContextVar("recorded", default=None)  # else: dict from layers to the statistics that they took
_held_statistics = contextvars.ContextVar("held_statistics", default=None)  # else: that dict


@contextlib.contextmanager
def _set(variable, value):
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def averages_held():
    """Returns a context in which `BatchNormalization` leaves its moving averages as they are, in training mode too.

    A step that passes two kinds of batches takes each with its own statistics, and updates the averages by one of them:
    a second update would leave them between the two.
    """
    return _set(_averages_held, True)


def recorded_statistics():
    """Returns a context that yields a dict, of the statistics that `BatchNormalization` takes inside of it."""
    return _set(_recorded, {})


def held_statistics(recorded):
    """Returns a context in which `BatchNormalization` takes what `recorded_statistics` yielded, as constants.

    So two kinds of batches go through one function, where statistics of their own would hide how they differ.
    """
    return _set(_held_statistics, recorded)


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last, [..., units] -> [..., units], in float32.

    y = gain * (x - mean) / sqrt(variance + EPSILON) + shift. In sync over the replicas: their batches count as one.

    Args:
        units: int.
    """

    def __init__(self, units, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        shape = (checks.positive_int("units", units),)
        self.gain = self.add_weight(shape, "ones", name="gain")
        self.shift = self.add_weight(shape, "zeros", name="shift")
        self.mean = self.add_weight(shape, "zeros", trainable=False, aggregation="mean", name="mean")
        self.variance = self.add_weight(shape, "ones", trainable=False, aggregation="mean", name="variance")
        self.built = True

    def call(self, x, training=False):
        """Inputs [..., units] -> the same shape and dtype."""
        dtype, x = x.dtype, tf.cast(x, tf.float32)
        held, recorded = _held_statistics.get(), _recorded.get()
        if held is not None:
            mean, variance = held[self]
        elif not (training and self.trainable):  # Keras does not let a frozen layer move its averages either
            mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        else:
            rows = tf.reshape(x, [-1, x.shape[-1]])
            count = global_batch_size(rows)
            mean = replica_sum(tf.reduce_sum(rows, axis=0)) / count
            variance = replica_sum(tf.reduce_sum(tf.square(rows - mean), axis=0)) / count
            if recorded is not None:
                recorded[self] = tf.stop_gradient(mean), tf.stop_gradient(variance)
            if not _averages_held.get():
                for average, value in ((self.mean, mean), (self.variance, variance)):
                    average.assign(MOMENTUM * average + (1.0 - MOMENTUM) * tf.stop_gradient(value))
        scale = self.gain * tf.math.rsqrt(variance + EPSILON)
        return tf.cast(x * scale + (self.shift - mean * scale), dtype)
