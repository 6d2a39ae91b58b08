"""A zoo of published variational autoencoders as Keras models.

import vaezoo

vaezoo.list_models()
model = vaezoo.load("vae_mnist")       # built, compiled, with its weights
images = model.sample(16, seed=0)      # [16, 28, 28, 1]
vaezoo.train("vae_digits")             # data, strategy, checkpoints and pictures as the entry's config says
"""

import importlib

from vaezoo.zoo import info, list_models, load, register

__version__ = "0.1.0"

__all__ = ["evaluate", "export", "info", "list_models", "load", "register", "train"]

# Loaded when first used, for they import TensorFlow, which takes seconds.
_FUNCTIONS = {"evaluate": "vaezoo.evaluation", "export": "vaezoo.serving.exporting", "train": "vaezoo.zoo.training"}
_MODULES = {
    **{name: f"vaezoo.{name}" for name in ("data", "evaluation", "models")},
    **{name: f"vaezoo.{name}" for name in ("likelihoods", "objectives", "plots", "posteriors")},
    **{name: f"vaezoo.zoo.{name}" for name in ("callbacks", "training")},
}


def __getattr__(name):
    if name in _FUNCTIONS or name in _MODULES:
        importlib.import_module("vaezoo.backend")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'vaezoo' has no attribute {name!r}")
