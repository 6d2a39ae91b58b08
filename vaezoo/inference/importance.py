"""Importance sampling of log p(x)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.inference.terms import log_weights
from vaezoo.noise import Stream, noise_seed


class ImportanceEstimate(NamedTuple):
    """What k posterior samples tell about each example.

    Attributes:
        log_likelihood: [B], log (1/k) sum_k w_k, the k-sample estimate of log p(x), nats.
        effective_sample_size: [B], (sum_k w_k)^2 / sum_k w_k^2, between 1 and k.
        log_lik: [B], mean over the samples of log p(x | z), nats.
        kl: [B, G], mean over the samples of log q(z_g | .) - log p(z_g | .), nats.
    """

    log_likelihood: tf.Tensor
    effective_sample_size: tf.Tensor
    log_lik: tf.Tensor
    kl: tf.Tensor


def weight_sums(terms, noise):
    """Returns the function (x, seed, S) -> log sum_s w_s, log sum_s w_s^2, sum_s log_lik and sum_s kl, for a graph.

    Args:
        terms: (x, noise) -> `Terms`, with the sampled KL; a model's `terms`.
        noise: (S, B, seed=) -> draws, [S, B, ...]; a model's `noise`.
    """

    def sums(x, seed, num_samples):
        drawn = terms(x, noise(num_samples, tf.shape(x)[0], seed=seed))
        log_w = log_weights(drawn)  # [S, B]
        return (
            tf.reduce_logsumexp(log_w, axis=0),
            tf.reduce_logsumexp(2.0 * log_w, axis=0),
            tf.reduce_sum(drawn.log_lik, axis=0),
            tf.reduce_sum(drawn.kl, axis=0),
        )

    return sums


def effective_sample_size(log_sum, log_sum_of_squares):
    """Returns (sum_k w_k)^2 / sum_k w_k^2 of weights, between 1 and k, from the logs of both sums, [B] each."""
    return np.exp(2.0 * np.asarray(log_sum) - np.asarray(log_sum_of_squares))


def importance_estimate(sums, x, *, num_samples, chunk=100, seed=0):
    """Estimates log p(x) = log E_q[p(x, z) / q(z | x)] by importance sampling, in memory constant in `num_samples`.

    Args:
        sums: what `weight_sums` returned, as a graph.
        x: examples, [B, ...].
        num_samples: int, k.
        chunk: how many samples are drawn at once; memory grows with chunk * B.
        seed: int.

    Returns:
        `ImportanceEstimate`.

    Raises:
        ValueError: `num_samples` or `chunk` is not a positive integer.
    """
    num_samples, chunk = checks.positive_int("num_samples", num_samples), checks.positive_int("chunk", chunk)
    checks.seed("seed", seed)
    log_sum = log_sum_of_squares = -np.inf
    log_lik = kl = 0.0
    for index, start in enumerate(range(0, num_samples, chunk)):
        seed_of_chunk = noise_seed(seed, Stream.IMPORTANCE, index)
        parts = sums(tf.convert_to_tensor(x), seed_of_chunk, min(chunk, num_samples - start))
        log_sum = np.logaddexp(log_sum, parts[0])
        log_sum_of_squares = np.logaddexp(log_sum_of_squares, parts[1])
        log_lik, kl = log_lik + np.float64(parts[2]), kl + np.float64(parts[3])
    return ImportanceEstimate(
        tf.convert_to_tensor(log_sum - np.log(num_samples), tf.float32),
        tf.convert_to_tensor(effective_sample_size(log_sum, log_sum_of_squares), tf.float32),
        tf.convert_to_tensor(log_lik / num_samples, tf.float32),
        tf.convert_to_tensor(kl / num_samples, tf.float32),
    )
