"""Networks between images, latents and features: built Keras models and layers."""

import math

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.layers.batch_norm import BatchNormalization


def mlp(input_shape, hidden_units, activation, *, first=None, dtype=None, name=None):
    """Returns a built multi-layer perceptron, [B, *input_shape] -> [B, hidden_units[-1]].

    Args:
        input_shape: tuple of ints, the shape of one example; it is flattened.
        hidden_units: widths of the layers, each followed by the activation.
        activation: a Keras activation, by name or as a function.
        first: a layer of flat examples that comes before all others, or None.
        dtype: dtype policy; None takes the global one.
        name: name of the model.
    """
    hidden_units = checks.positive_ints("hidden_units", hidden_units)
    layers = [] if first is None else [first]
    if len(input_shape) > 1:  # a first layer sees the examples as they are, whatever the others compute in
        layers.insert(0, keras.layers.Reshape((math.prod(input_shape),), dtype="float32" if layers else dtype))
    layers += [keras.layers.Dense(units, activation, dtype=dtype) for units in hidden_units]
    return keras.Sequential([keras.Input(input_shape), *layers], name=name)


class JointMLP(keras.layers.Layer):
    """A multi-layer perceptron of several inputs, whose first layer is a sum of linear maps, one per input.

    `net(net.project(x=x) + net.project(y=y))` is the perceptron of x and y, by an input's name. Projections broadcast:
    with x [B, D] and y [C, 1, K], all C classes of all B images take one product with x and give [C, B, units].

    Args:
        input_dims: dict of the inputs' names to their sizes.
        hidden_units: widths of the layers, each followed by the activation.
        activation: a Keras activation, by name or as a function.
        batch_normalization: whether each layer is normalised before its activation.
    """

    def __init__(self, input_dims, hidden_units, activation, *, batch_normalization=False, **kwargs):
        super().__init__(**kwargs)
        hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        dtype = self.dtype_policy
        self.projections = {
            name: keras.layers.Dense(hidden_units[0], use_bias=False, dtype=dtype, name=f"project_{name}")
            for name in input_dims
        }
        for name, dim in input_dims.items():
            self.projections[name].build((None, dim))
        self.bias = None if batch_normalization else self.add_weight((hidden_units[0],), "zeros", name="bias")
        self.hidden = [
            keras.layers.Dense(units, use_bias=not batch_normalization, dtype=dtype) for units in hidden_units[1:]
        ]
        for layer, units in zip(self.hidden, hidden_units, strict=False):
            layer.build((None, units))
        self.normalizations = [BatchNormalization(units) for units in hidden_units] if batch_normalization else []
        self.built = True

    def project(self, **inputs):
        """Returns the sum of the linear maps of the named inputs, [..., D] each -> [..., hidden_units[0]]."""
        return sum(self.projections[name](value) for name, value in inputs.items())

    def call(self, projected):
        """The sum of all inputs' projections, [..., hidden_units[0]] -> features, [..., hidden_units[-1]]."""
        h = self._activate(0, projected if self.bias is None else projected + tf.cast(self.bias, projected.dtype))
        for index, layer in enumerate(self.hidden, start=1):
            h = self._activate(index, layer(h))
        return h

    def _activate(self, index, h):
        return self.activation(self.normalizations[index](h) if self.normalizations else h)
