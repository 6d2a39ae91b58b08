"""What `compile(objective=...)` takes: the bounds of `vaezoo.inference.terms` with their settings, which are saved."""

import dataclasses

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.inference.terms import elbo, free_bits, iwae


class Objective:
    """What `compile(objective=...)` takes: `(terms, step) -> [B]`, with what it needs of `terms` as attributes.

    Attributes:
        sees: what a model shows it; it must be among the model's `shows`. "terms" are the `Terms` of a bound; anything
            else is between a system and the objectives in its file.
        num_samples: posterior samples per example.
        analytic_kl: whether `Terms.kl` is to be the closed form instead of the sampled value.
        labelled_weight: weight of labelled examples; None if the objective is of unlabelled ones only.
        enumerate_classes: whether the unlabelled bound of a model with classes sums over all of them.
        per_example: whether an example's value depends on its own terms only, so that a `sample_weight` has a meaning.
    """

    sees = "terms"
    labelled_weight = None
    enumerate_classes = True
    per_example = True

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
    per_example = False

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


def alpha(num_labelled, num_unlabelled, scale=0.1):
    """Returns the weight of a labelled example's classification loss, scale * (N_l + N_u) / N_l.

    This is alpha = 0.1 N of eq. (3.10) of Kingma (2017), per labelled example, and section 2.3 of Maaloe et al. (2016).
    """
    return scale * (checks.positive_int("num_labelled", num_labelled) + num_unlabelled) / num_labelled


# The names of the bounds, for configs.
OBJECTIVES = {
    "elbo": ELBO,
    "iwae": IWAE,
    "free_bits": FreeBits,
    "semi_supervised_elbo": SemiSupervisedELBO,
}
