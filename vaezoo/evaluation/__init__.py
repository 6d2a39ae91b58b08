"""What models are worth: bounds, estimates of log p(x), error rates, perplexities, scores of samples, pictures."""

from vaezoo.evaluation.bounds import (
    AnnealedEvaluation,
    Evaluation,
    evaluate,
    evaluate_annealed,
    posterior_spectrum,
)
from vaezoo.evaluation.classification import error_rate, feature_error_rate
from vaezoo.evaluation.documents import log_orders, perplexity, topics

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
