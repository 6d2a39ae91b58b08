"""`vaezoo.layers.likelihoods`, under its public name."""

from vaezoo.layers.likelihoods import *  # noqa: F403
