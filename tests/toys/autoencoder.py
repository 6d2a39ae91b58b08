"""An autoencoder without a prior: codes and reconstructions, by squared errors."""

import math

import keras
import tensorflow as tf

from vaezoo.base import StochasticModel
from vaezoo.replicas import global_batch_size


@keras.saving.register_keras_serializable(package="toys")
class Autoencoder(StochasticModel):
    def __init__(self, example_shape, latent_dim=4, hidden_units=16, **kwargs):
        super().__init__(example_shape, **kwargs)
        self.latent_shape = (latent_dim,)
        layers = [keras.layers.Flatten(), keras.layers.Dense(hidden_units, "relu"), keras.layers.Dense(latent_dim)]
        self.encoder = keras.Sequential([keras.Input(self.example_shape), *layers])
        pixels = keras.layers.Dense(math.prod(self.example_shape), "sigmoid")
        layers = [keras.layers.Dense(hidden_units, "relu"), pixels, keras.layers.Reshape(self.example_shape)]
        self.decoder = keras.Sequential([keras.Input(self.latent_shape), *layers])

    def encode(self, x):
        return self.encoder(self.domain.values(x))

    def decode(self, z):
        return self.decoder(z)

    def call(self, x):
        return self.decode(self.encode(x))

    def measure(self, data):
        x = self.examples_of(data)
        return {"loss": tf.reduce_sum(tf.square(self(x) - self.domain.values(x)), axis=[1, 2, 3])}

    def training_loss(self, data):
        measured = self.measure(data)
        return tf.reduce_sum(measured["loss"]) / global_batch_size(measured["loss"]), measured
