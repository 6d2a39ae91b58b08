"""What is maximised: the ELBO, importance-weighted bounds and free bits, as functions of one record.

The functions are the mathematics; the classes below them are what `compile(objective=...)` takes: the same functions
with their settings, serialised with the model. All values are nats per example.
"""

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.numerics import log_mean_exp
from vaezoo.replicas import global_batch_size, replica_sum


class Terms(NamedTuple):
    """Everything that an objective or an estimator may look at, in nats.

    Attributes:
        log_lik: [S, B], log p(x | z) for S posterior samples of B examples.
        kl: [S, B, G], log q(z_g | .) - log p(z_g | .), one column per latent group. Sampled, or the closed form
            repeated over S where a model was asked for its analytic KL. None in a step that needs no density of q.
    """

    log_lik: tf.Tensor
    kl: tf.Tensor


def log_weights(terms):
    """Returns log p(x, z) - log q(z | x), [S, B]. Importance weights only if `terms.kl` is the sampled one."""
    return terms.log_lik - tf.reduce_sum(terms.kl, axis=-1)


def elbo(terms, beta=1.0):
    """Returns the evidence lower bound, eq. (2.10) of Kingma (2017), [B]; `beta` weighs the KL."""
    return tf.reduce_mean(terms.log_lik - beta * tf.reduce_sum(terms.kl, axis=-1), axis=0)


def iwae(terms):
    """Returns the importance-weighted bound log(1/S sum_s w_s), eq. (8) of Burda et al. (2016), [B]."""
    return log_mean_exp(log_weights(terms), axis=0)


def free_bits(terms, nats):
    """Returns the ELBO in which a latent group whose mean KL is below `nats` costs `nats`, [B].

    Eq. (5.33) of Kingma (2017): each group's KL is averaged over the whole (global) minibatch before
    the maximum is taken, so a group is free until the batch as a whole uses it.
    """
    example_kl = tf.reduce_mean(terms.kl, axis=0)  # [B, G]
    batch_size = tf.cast(global_batch_size(example_kl), example_kl.dtype)
    group_kl = replica_sum(tf.reduce_sum(example_kl, axis=0)) / batch_size  # [G]; replicas' batches may differ in size
    return tf.reduce_mean(terms.log_lik, axis=0) - tf.reduce_sum(tf.maximum(group_kl, nats))


class Objective:
    """What `compile(objective=...)` takes: `(terms, step) -> [B]`, with what it needs of `terms` as attributes.

    Attributes:
        num_samples: posterior samples per example.
        analytic_kl: whether `Terms.kl` is to be the closed form instead of the sampled value.
    """

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class ELBO(Objective):
    """The evidence lower bound, with either SGVB estimator.

    Args:
        num_samples: posterior samples per example, at least 1.
        analytic_kl: True takes the KL in closed form (estimator B, eq. (2.77)), False samples it (estimator A, (2.29)).
        beta: weight of the KL; 1 is the bound.
        warmup_steps: the weight goes linearly from `initial_beta` to `beta` over so many optimizer steps; 0 for none.
        initial_beta: below `beta`, latents come into use before they cost; above it, they carry little at first, so
            that a model with classes puts into the class what it can. It needs `warmup_steps`.
    """

    num_samples: int = 1
    analytic_kl: bool = True
    beta: float = 1.0
    warmup_steps: int = 0
    initial_beta: float = 0.0

    def __post_init__(self):
        checks.positive_int("num_samples", self.num_samples)
        checks.boolean("analytic_kl", self.analytic_kl)
        checks.non_negative("beta", self.beta)
        checks.non_negative("warmup_steps", self.warmup_steps)
        checks.non_negative("initial_beta", self.initial_beta)
        if self.initial_beta and not self.warmup_steps:
            raise ValueError(f"`initial_beta` must be 0 without `warmup_steps`. Received: {self.initial_beta}")

    def __call__(self, terms, step):
        """Returns the objective, [B]. `step` is the optimizer's iteration count, which drives the warm-up."""
        if not self.warmup_steps:
            return elbo(terms, self.beta)
        progress = tf.minimum(tf.cast(step, tf.float32) / float(self.warmup_steps), 1.0)
        return elbo(terms, self.initial_beta + progress * (self.beta - self.initial_beta))


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class IWAE(Objective):
    """The importance-weighted bound on `num_samples` samples, Burda et al. (2016); its KL is always sampled."""

    num_samples: int = 5
    analytic_kl = False

    def __post_init__(self):
        checks.positive_int("num_samples", self.num_samples)

    def __call__(self, terms, step):
        """Returns the objective, [B]."""
        del step
        return iwae(terms)


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class FreeBits(Objective):
    """The ELBO with free bits.

    Args:
        nats: the KL, per latent group, that costs the same whether it is used or not.
        num_samples, analytic_kl: as for `ELBO`.
    """

    nats: float
    num_samples: int = 1
    analytic_kl: bool = False

    def __post_init__(self):
        checks.non_negative("nats", self.nats)
        checks.positive_int("num_samples", self.num_samples)
        checks.boolean("analytic_kl", self.analytic_kl)

    def __call__(self, terms, step):
        """Returns the objective, [B]."""
        del step
        return free_bits(terms, self.nats)


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class SemiSupervisedELBO(ELBO):
    """The bounds of labelled and unlabelled examples, and a classification loss: eqs. (3.9), (3.10) of Kingma (2017).

    A step maximises, for x unlabelled and (x', y) labelled examples,

        mean U(x) + labelled_weight * (mean L(x', y) + alpha * mean E_q(a | x') log q(y | a, x'))

    The thesis' sum over all N_u + N_l examples is labelled_weight = N_l / N_u and alpha = 0.1 N / N_l (`alpha`). Maaloe
    et al. (2016) take all labelled examples into every batch, which makes labelled_weight 1.

    Args:
        num_samples, analytic_kl, beta, warmup_steps, initial_beta: as for `ELBO`.
        alpha: weight of a labelled example's log q(y | x) against its bound.
        labelled_weight: weight of the mean over the labelled examples against that over the unlabelled ones.
        enumerate_classes: True sums the unlabelled bound over all classes. False takes the most probable class and one
            draw of the others: the same expectation and gradient, at the cost of two classes.
    """

    alpha: float = dataclasses.field(kw_only=True)
    labelled_weight: float = 1.0
    enumerate_classes: bool = True

    def __post_init__(self):
        super().__post_init__()
        checks.non_negative("alpha", self.alpha)
        checks.non_negative("labelled_weight", self.labelled_weight)
        checks.boolean("enumerate_classes", self.enumerate_classes)


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class Stein(Objective):
    """Stein variational gradient descent on KL(q || p), chapter 4 of Pu (2018): for a `SteinVAE`.

    It is no function of `Terms`: particles move along a direction that needs log p(x, z) and its gradient only. What
    `fit` logs as `loss` is -log p(x, z) at the particles of images without labels, which has no entropy in it: a
    collapse lowers it. `val_loss` is the negative ELBO, by the density of the encoder.

    Args:
        num_particles: int, M, particles of z per image.
        importance_samples: int, k. 1 is Stein VAE; above, Stein VIWAE on k groups of M particles, which takes the
            density of each, through a Jacobian.
        self_term: whether a particle's own score is among those that move it, as printed; see `vaezoo.stein`. Without
            it at least 3 particles are needed, and 5 or more are wanted. Particles of weights always have it.
        num_examples: int, N, the images in the data set, which particles of weights need to weigh their prior by.
    """

    num_particles: int = 5
    importance_samples: int = 1
    self_term: bool = False
    num_examples: int = 0
    analytic_kl = False

    def __post_init__(self):
        checks.positive_int("num_particles", self.num_particles)
        checks.positive_int("importance_samples", self.importance_samples)
        checks.boolean("self_term", self.self_term)
        checks.non_negative_int("num_examples", self.num_examples)
        if self.num_samples < 3 and not self.self_term:
            raise ValueError(
                "`num_particles` must be at least 3, of all groups, without the self term: two only repel each other. "
                f"Received: {self.num_samples}"
            )

    @property
    def num_samples(self):
        """Particles of z per image in all, kM."""
        return self.importance_samples * self.num_particles

    def __call__(self, terms, step):
        """Refuses: see above."""
        raise ValueError(f"`objective` must be a bound, unless the model is a SteinVAE. Received: {self}")


def alpha(num_labelled, num_unlabelled, scale=0.1):
    """Returns the weight of a labelled example's classification loss, scale * (N_l + N_u) / N_l.

    This is alpha = 0.1 N of eq. (3.10) of Kingma (2017), per labelled example, and section 2.3 of Maaloe et al. (2016).
    """
    return scale * (checks.positive_int("num_labelled", num_labelled) + num_unlabelled) / num_labelled


class Contest(NamedTuple):
    """Everything that an adversarial objective may look at, [B] each, in nats.

    A pair (x, z) is inferred, x ~ q(x) and z ~ q(z | x), or generated, z ~ p(z) and x ~ p(x | z).

    Attributes:
        log_lik: log p(x | z) at inferred pairs.
        log_q: log q(z | x) at generated pairs.
        ratio_of_inferred: the discriminators' log-ratio at inferred pairs, for AS-VAE f1.
        ratio_of_generated: that at generated pairs, for AS-VAE f2.
    """

    log_lik: tf.Tensor
    log_q: tf.Tensor
    ratio_of_inferred: tf.Tensor
    ratio_of_generated: tf.Tensor


class AdversarialObjective(Objective):
    """What a model with discriminators plays for, `(contest, step) -> [B]`; its pairs take one sample each.

    Subclasses define `of_contest`, `contest -> [B]`.

    Attributes:
        reconstruction_weight, generation_weight: how much inferred and generated pairs count.
    """

    num_samples, analytic_kl = 1, False

    def __call__(self, contest, step):
        """Returns the objective, [B].

        Raises:
            ValueError: the model has no discriminators, and hands in the terms of a bound.
        """
        del step
        if not isinstance(contest, Contest):
            raise ValueError(f"`objective` must be a bound, unless the model is an ASVAE. Received: {self}")
        return self.of_contest(contest)


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class SymmetricBound(AdversarialObjective):
    """The bound of the adversarial symmetric VAE, L_x + L_z, eqs. (5.12)-(5.14) of Pu (2018).

        L_x = E_q [log p(x | z) - f1(x, z)],    L_z = E_p [log q(z | x) - f2(x, z)]

    Args:
        reconstruction_weight: of L_x; AS-VAE-r has 1 and 0.
        generation_weight: of L_z; AS-VAE-g has 0 and 1.
    """

    reconstruction_weight: float = 1.0
    generation_weight: float = 1.0

    def __post_init__(self):
        checks.non_negative("reconstruction_weight", self.reconstruction_weight)
        checks.non_negative("generation_weight", self.generation_weight)
        if not (self.reconstruction_weight or self.generation_weight):
            raise ValueError("`reconstruction_weight` and `generation_weight` must not both be 0. Received: 0 and 0")

    def of_contest(self, contest):
        """Returns the objective, [B]; what has no weight is left out, for it may overflow unheeded."""
        halves = [
            (self.reconstruction_weight, contest.log_lik - contest.ratio_of_inferred),
            (self.generation_weight, contest.log_q - contest.ratio_of_generated),
        ]
        return tf.add_n([weight * half for weight, half in halves if weight])


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class ALI(AdversarialObjective):
    """Adversarially learned inference, eq. (5.1) of Pu (2018), for encoder and decoder.

    With one discriminator f -> log q(x, z) - log p(x, z) they would minimise E_q log s(f) + E_p log(1 - s(f)), s the
    logistic function. As V. Dumoulin et al. (2017) do, they maximise E_q log(1 - s(f)) + E_p log s(f) instead, which
    has the same equilibrium and a gradient where the discriminator is sure.
    """

    reconstruction_weight = generation_weight = 1.0

    def of_contest(self, contest):
        """Returns the objective, [B]."""
        return -tf.nn.softplus(contest.ratio_of_inferred) - tf.nn.softplus(-contest.ratio_of_generated)


# The names that a config's [objective] may use.
OBJECTIVES = {
    "elbo": ELBO,
    "iwae": IWAE,
    "free_bits": FreeBits,
    "semi_supervised_elbo": SemiSupervisedELBO,
    "stein": Stein,
    "as_vae": SymmetricBound,
    "ali": ALI,
}
