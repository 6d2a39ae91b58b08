"""Layers and networks: features in, distributions out."""

import vaezoo.backend  # noqa: F401  before Keras is imported
