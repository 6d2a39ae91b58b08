"""Sums over classes: one-hot draws, and expectations under q(y | a, x), exact or estimated from two classes."""

import numpy as np
import tensorflow as tf

# Classes in batches.


def one_hot_draw(log_probs, uniform):
    """Returns a one-hot draw of each row of log-probabilities [..., K], by the inverse CDF at uniform numbers [...]."""
    below = uniform[..., tf.newaxis] > tf.cumsum(tf.exp(log_probs), axis=-1)
    last = log_probs.shape[-1] - 1  # the sum may be a rounding error short of 1
    return tf.one_hot(tf.minimum(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), last), last + 1)


def top_class_and_another(log_q_y, uniform):
    """Returns the most probable class, and a draw from q of the others, one-hot, [2, S, B, K]."""
    log_q_y = tf.stop_gradient(log_q_y)
    top = tf.one_hot(tf.argmax(log_q_y, axis=-1), log_q_y.shape[-1])  # [S, B, K]
    others = tf.nn.log_softmax(tf.where(top > 0, -np.inf, log_q_y))
    another = one_hot_draw(others, uniform)
    return tf.stack([tf.broadcast_to(top, tf.shape(another)), another])


def expectation_over_classes(values, log_q_y, y, *, exact):
    """Returns sum_k q(k) v_k of values per class, [C, S, B, V] -> [S, B, V], with its gradient.

    With all classes that is what it says. With the top class t and a draw j of the others, j ~ q(j) / (1 - q(t)), and
    the baseline b = v_t, held constant,

        b + q(t) (v_t - b) + q(j) / [q(j)] * (1 - [q(t)]) * (v_j - b),     [.] held constant,

    has the same expectation and gradient: since the q(k) sum to 1, b contributes nothing to either.

    Args:
        values: [C, S, B, V].
        log_q_y: [S, B, K] or [1, B, K].
        y: the classes, one-hot: [K, 1, 1, K], or from `top_class_and_another`.
        exact: whether these are all classes.
    """
    log_q = tf.reduce_sum(y * log_q_y, axis=-1)  # [C, S, B]
    if exact:
        return tf.reduce_sum(tf.exp(log_q)[..., tf.newaxis] * values, axis=0)
    top, another = tf.unstack(log_q)
    rest = tf.stop_gradient(-tf.math.expm1(top))  # 1 - q(t)
    weights = tf.stack([tf.exp(top), tf.exp(another - tf.stop_gradient(another)) * rest])
    baseline = tf.stop_gradient(values[0])
    return baseline + tf.reduce_sum(weights[..., tf.newaxis] * (values - baseline), axis=0)
