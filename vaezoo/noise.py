"""Randomness: stateless seeds, the streams that keep draws apart, and the seed of Keras' initializers."""

import contextlib
import enum
import random

import tensorflow as tf


class Stream(enum.IntEnum):
    """Streams of noise that must never meet: each use of one seed draws from its own."""

    TRAIN = 0
    TEST = 1
    SAMPLE = 2
    IMPORTANCE = 3
    INITIALIZATION = 4
    CHAIN = 5
    PILOT = 6


def noise_seed(seed, *data):
    """Returns a stateless seed, int32 [2], for an integer seed and any number of integers that tell draws apart."""
    folded = tf.stack([tf.cast(seed, tf.int32), 0])
    for value in data:
        folded = tf.random.experimental.stateless_fold_in(folded, tf.cast(value, tf.int32))
    return folded


def standard_normal(shape, seed):
    """Returns standard normal draws of a stateless seed.

    By Philox, which is what a plain graph takes anyway: the generator that XLA chooses for itself is 4 to 25 times
    slower on a CPU, a fifth of a small model's training step.
    """
    return tf.random.stateless_normal(shape, seed, alg="philox")


@contextlib.contextmanager
def keras_seed(seed):
    """Lets a seed decide what Keras' initializers draw, and leaves the caller's generators as they were.

    Keras takes the initializers' seeds from Python's generator; `keras.utils.set_random_seed` would reset the caller's.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
