"""Networks between images, latents and features: built Keras models."""

import math

import keras

from vaezoo import checks


def mlp(input_shape, hidden_units, activation, *, dtype=None, name=None):
    """Returns a built multi-layer perceptron, [B, *input_shape] -> [B, hidden_units[-1]].

    Args:
        input_shape: tuple of ints, the shape of one example; it is flattened.
        hidden_units: widths of the layers, each followed by the activation.
        activation: a Keras activation, by name or as a function.
        dtype: dtype policy; None takes the global one.
        name: name of the model.
    """
    hidden_units = checks.positive_ints("hidden_units", hidden_units)
    layers = [keras.layers.Reshape((math.prod(input_shape),), dtype=dtype)] if len(input_shape) > 1 else []
    layers += [keras.layers.Dense(units, activation, dtype=dtype) for units in hidden_units]
    return keras.Sequential([keras.Input(input_shape), *layers], name=name)
