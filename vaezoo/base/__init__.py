"""What models are made of: the base classes, their objectives, metrics and signatures."""

import vaezoo.backend  # noqa: F401  before Keras is imported
from vaezoo.base.figures import Figure
from vaezoo.base.labelled import LabelledModel
from vaezoo.base.latent_variable import LatentVariableModel
from vaezoo.base.semi_supervised import SemiSupervisedModel
from vaezoo.base.signatures import Signature
from vaezoo.base.stochastic_model import StochasticModel

__all__ = [
    "Figure",
    "LabelledModel",
    "LatentVariableModel",
    "SemiSupervisedModel",
    "Signature",
    "StochasticModel",
]
