"""What models are worth: bounds, estimates of log p(x), error rates, perplexities, scores of samples, pictures."""

import importlib

# Loaded when first used, for they import TensorFlow: the picture of a log must not wait for it.
_FILES = {
    "bounds": ("AnnealedEvaluation", "Evaluation", "evaluate", "evaluate_annealed", "posterior_spectrum"),
    "classification": ("error_rate", "feature_error_rate"),
    "documents": ("log_orders", "perplexity", "topics"),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "AnnealedEvaluation",
    "Evaluation",
    "error_rate",
    "evaluate",
    "evaluate_annealed",
    "feature_error_rate",
    "log_orders",
    "perplexity",
    "posterior_spectrum",
    "topics",
]


def __getattr__(name):
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"vaezoo.evaluation.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'vaezoo.evaluation' has no attribute {name!r}")


def __dir__():
    return __all__
