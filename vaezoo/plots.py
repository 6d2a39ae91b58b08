"""`vaezoo.evaluation.plots`, under its public name."""

from vaezoo.evaluation.plots import *  # noqa: F403
