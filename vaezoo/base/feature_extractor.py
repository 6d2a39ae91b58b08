"""The encoder of a model as a Keras layer."""

import keras
import tensorflow as tf

from vaezoo.base.signatures import examples_spec


@keras.saving.register_keras_serializable(package="vaezoo")
class FeatureExtractor(keras.layers.Layer):
    """Examples -> the codes that `model.encode` gives, [B, *latent_shape], as a layer of other Keras models.

    It shares the model's weights, and has those that the codes depend on: training the outer model trains the encoder,
    `trainable = False` freezes it, and decoders take no part. It is saved and loaded with the outer model, as the
    whole `model`, from which images can be sampled still.

    Args:
        model: a `LatentVariableModel` with `encode`.

    Raises:
        ValueError: the model has no `encode`.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})  # as codes are; inside, the model's own policy rules
        if model.encode is None:
            raise ValueError(f"`model` must have an `encode`. Received: {type(model).__name__}, which has none")
        self.model = model
        graph = tf.function(model.encode, autograph=False).get_concrete_function(examples_spec(model)).graph
        self._used = {id(variable) for variable in graph.variables}
        if not (self.trainable and model.trainable):
            self.trainable = model.trainable = False
        self.built = True

    @property
    def variables(self):
        return [variable for variable in super().variables if self._uses(variable)]

    @property
    def weights(self):
        return [variable for variable in super().weights if self._uses(variable)]

    def _uses(self, variable):
        parts = getattr(variable.value, "values", (variable.value,))  # one of each replica
        return any(id(part) in self._used for part in parts)

    def call(self, x):
        return tf.ensure_shape(self.model.encode(x), [None, *self.model.latent_shape])

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.model.latent_shape)

    def get_config(self):
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})
