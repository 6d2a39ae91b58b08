"""Convolutions and their mirror image, normalised over the batch, and the discriminators made of them."""

import math

import keras
import tensorflow as tf

from vaezoo.layers.batch_norm import BatchNormalization
from vaezoo.layers.networks import mlp

# Networks.


def normalized(layer, units):
    """Returns a layer, its batch normalisation and its rectifier."""
    return [layer, BatchNormalization(units), keras.layers.ReLU(dtype=layer.dtype_policy)]


def convolutions(image_shape, filters, convs_per_stage, *, dtype, name):
    """Returns images [B, H, W, C] -> maps: per stage a 3x3 convolution of stride 2, then more of stride 1."""
    layers = []
    for maps in filters:
        for index in range(convs_per_stage):
            strides = 1 if index else 2
            conv = keras.layers.Conv2D(maps, 3, strides, padding="same", use_bias=False, dtype=dtype)
            layers += normalized(conv, maps)
    return keras.Sequential([keras.Input(image_shape), *layers], name=name)


def deconvolutions(image_shape, latent_dim, filters, convs_per_stage, hidden_units, *, dtype, name):
    """Returns codes [B, D] -> maps [B, H, W, 2C]: two dense layers, and the convolutions' mirror image."""
    sizes = [tuple(image_shape[:2])]
    for _ in filters:
        sizes.append(tuple(-(-size // 2) for size in sizes[-1]))
    flat = filters[-1] * math.prod(sizes[-1])
    layers = [
        *normalized(keras.layers.Dense(hidden_units, use_bias=False, dtype=dtype), hidden_units),
        *normalized(keras.layers.Dense(flat, use_bias=False, dtype=dtype), flat),
        keras.layers.Reshape((*sizes[-1], filters[-1]), dtype=dtype),
    ]
    for size, small, maps in zip(sizes[-2::-1], sizes[:0:-1], reversed(filters), strict=True):
        for _ in range(convs_per_stage - 1):
            layers += normalized(keras.layers.Conv2D(maps, 3, padding="same", use_bias=False, dtype=dtype), maps)
        layers.append(keras.layers.Conv2DTranspose(maps, 3, 2, padding="same", use_bias=False, dtype=dtype))
        if size != (2 * small[0], 2 * small[1]):
            surplus = (0, 2 * small[0] - size[0]), (0, 2 * small[1] - size[1])
            layers.append(keras.layers.Cropping2D(surplus, dtype=dtype))
        layers += normalized(keras.layers.Identity(dtype=dtype), maps)
    layers.append(keras.layers.Conv2D(2 * image_shape[-1], 3, padding="same", dtype="float32", name="params"))
    return keras.Sequential([keras.Input((latent_dim,)), *layers], name=name)


class JointNet(keras.layers.Layer):
    """f(x, z): convolutions of x, averaged over the image, and a layer of z; two layers of both, [B, ...] -> [B]."""

    def __init__(self, image_shape, latent_dim, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.convolutions = convolutions(image_shape, filters, 1, dtype=dtype, name="convolutions")
        self.pool = keras.layers.GlobalAveragePooling2D(dtype=dtype)
        self.code = mlp((latent_dim,), (hidden_units,), "relu", dtype=dtype, name="code")
        self.both = mlp((filters[-1] + hidden_units,), (hidden_units,), "relu", dtype=dtype, name="both")
        self.score = score_layer(hidden_units)
        self.built = True

    def call(self, x, z):
        h = tf.concat([self.pool(self.convolutions(x)), self.code(z)], axis=-1)
        return self.score(self.both(h))[:, 0]


class ImageNet(keras.layers.Layer):
    """r(x): convolutions of x and two dense layers, [B, H, W, C] -> [B]."""

    def __init__(self, image_shape, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.convolutions = convolutions(image_shape, filters, 1, dtype=dtype, name="convolutions")
        shape = self.convolutions.output_shape[1:]
        self.dense = mlp(shape, (hidden_units,), "relu", dtype=dtype, name="dense")
        self.score = score_layer(hidden_units)
        self.built = True

    def call(self, x):
        return self.score(self.dense(self.convolutions(x)))[:, 0]


class CodeNet(keras.layers.Layer):
    """s(z): a multi-layer perceptron, [B, D] -> [B]."""

    def __init__(self, latent_dim, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.dense = mlp((latent_dim,), (hidden_units, hidden_units), "relu", dtype=self.dtype_policy, name="dense")
        self.score = score_layer(hidden_units)
        self.built = True

    def call(self, z):
        return self.score(self.dense(z))[:, 0]


def score_layer(units):
    """Returns features [B, units] -> a log-ratio [B, 1], float32 whatever the policy."""
    layer = keras.layers.Dense(1, dtype="float32", name="score")
    layer.build((None, units))
    return layer
