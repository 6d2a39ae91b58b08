"""What is maximised: the bounds, and the objectives of single systems, under their public name."""

from vaezoo.base.objectives import ELBO, IWAE, FreeBits, Objective, SemiSupervisedELBO, alpha
from vaezoo.inference.terms import Terms, elbo, free_bits, iwae, log_weights
from vaezoo.models import OBJECTIVES
from vaezoo.models.as_vae import ALI, AdversarialObjective, Contest, SymmetricBound
from vaezoo.models.stein_vae import Stein

__all__ = [
    "ALI",
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "AdversarialObjective",
    "Contest",
    "FreeBits",
    "Objective",
    "SemiSupervisedELBO",
    "Stein",
    "SymmetricBound",
    "Terms",
    "alpha",
    "elbo",
    "free_bits",
    "iwae",
    "log_weights",
]
