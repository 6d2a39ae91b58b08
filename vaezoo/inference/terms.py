"""The record of a bound's terms, and the bounds as functions of it; nats per example."""

from typing import NamedTuple

import tensorflow as tf

from vaezoo.numerics import log_mean_exp
from vaezoo.replicas import global_batch_size, replica_sum


class Terms(NamedTuple):
    """Everything that an objective or an estimator may look at, in nats.

    Attributes:
        log_lik: [S, B], log p(x | z) for S posterior samples of B examples.
        kl: [S, B, G], log q(z_g | .) - log p(z_g | .), one column per latent group. Sampled, or the closed form
            repeated over S where a model was asked for its analytic KL. None in a step that needs no density of q.
        global_kl: [S], or a scalar, of latents that all examples of a data set share (weights with a posterior): one
            example's share of their KL, which is the KL of the whole data set over its number of examples. The model
            divides, see `vaezoo.base.global_latents`. None without such latents.
    """

    log_lik: tf.Tensor
    kl: tf.Tensor
    global_kl: tf.Tensor | None = None


def total_kl(terms):
    """Returns the KL of all latent groups, and the example's share of that of global latents, [S, B]."""
    kl = tf.reduce_sum(terms.kl, axis=-1)
    return kl if terms.global_kl is None else kl + tf.expand_dims(terms.global_kl, -1)


def log_weights(terms):
    """Returns log p(x, z) - log q(z | x), [S, B]. Importance weights only if `terms.kl` is the sampled one."""
    return terms.log_lik - total_kl(terms)


def elbo(terms, beta=1.0):
    """Returns the evidence lower bound, eq. (2.10) of Kingma (2017), [B]; `beta` weighs the KL."""
    return tf.reduce_mean(terms.log_lik - beta * total_kl(terms), axis=0)


def iwae(terms):
    """Returns the importance-weighted bound log(1/S sum_s w_s), eq. (8) of Burda et al. (2016), [B].

    With global latents it bounds nothing in general: draws that suit some examples weigh more for these alone.
    """
    return log_mean_exp(log_weights(terms), axis=0)


def free_bits(terms, nats):
    """Returns the ELBO in which a latent group whose mean KL is below `nats` costs `nats`, [B].

    Eq. (5.33) of Kingma (2017): each group's KL is averaged over the whole (global) minibatch before
    the maximum is taken, so a group is free until the batch as a whole uses it. Global latents are no group of an
    example, and cost their share from the first nat on.
    """
    example_kl = tf.reduce_mean(terms.kl, axis=0)  # [B, G]
    batch_size = tf.cast(global_batch_size(example_kl), example_kl.dtype)
    group_kl = replica_sum(tf.reduce_sum(example_kl, axis=0)) / batch_size  # [G]; replicas' batches may differ in size
    cost = tf.reduce_sum(tf.maximum(group_kl, nats))
    if terms.global_kl is not None:
        cost += tf.reduce_mean(terms.global_kl)
    return tf.reduce_mean(terms.log_lik, axis=0) - cost
