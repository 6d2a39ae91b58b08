"""`vaezoo.layers.posteriors`, under its public name."""

from vaezoo.layers.posteriors import *  # noqa: F403
