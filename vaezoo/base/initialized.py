"""Models with layers that are set from a first batch of data, once, before the first training step."""

import keras
import tensorflow as tf

from vaezoo.base.modes import in_mode
from vaezoo.layers.batch_norm import averages_held
from vaezoo.layers.initialization import data_dependent_initialization


class InitializedFromData(keras.Model):
    """A model that may have weight-normalised layers or principal components; see `vaezoo.layers.weight_norm`.

    Attributes:
        initialized: Boolean weight: whether those layers have been set. None if there are none.
        initial_images: Maximum number of examples used to set them.
    """

    initialized = None
    initial_images = 0

    def track_initialization(self):
        """Adds the weight `initialized` if a layer needs it: the last line of a constructor with such layers."""
        self.initial_images = max((getattr(layer, "initial_images", 0) for layer in self._flatten_layers()), default=0)
        if self.initial_images:
            self.initialized = self.add_weight((), "zeros", "bool", trainable=False, name="initialized")

    def initialize(self, x):
        """Sets those layers from a first batch of examples, [B, ...]; does nothing if they have been set.

        `fit` calls it. Loaded weights are never touched. Several workers must give the same examples.
        """
        if self.initialized is None or self.initialized.numpy():
            return
        x = tf.convert_to_tensor(x)
        with data_dependent_initialization(), averages_held():  # in training mode, as the first step
            in_mode(self, lambda: self.forward(x), training=True)
        self.initialized.assign(True)

    def forward(self, x):
        """Passes examples once through all layers that are set from data."""
        raise NotImplementedError
