"""The zoo: entries by name, their configs, weights and runs. Importing it does not import TensorFlow."""

from vaezoo.zoo.loading import info, list_models, load, words
from vaezoo.zoo.registry import register

__all__ = ["info", "list_models", "load", "register", "words"]
