"""Importance sampling of log p(x)."""

from typing import NamedTuple

import tensorflow as tf


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
