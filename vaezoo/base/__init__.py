"""What models are made of: the base classes, their objectives, metrics and signatures."""

from vaezoo.base.figures import Figure
from vaezoo.base.labelled import LabelledModel
from vaezoo.base.latent_variable import LatentVariableModel
from vaezoo.base.semi_supervised import SemiSupervisedModel
from vaezoo.base.signatures import Signature

__all__ = ["Figure", "LabelledModel", "LatentVariableModel", "SemiSupervisedModel", "Signature"]
