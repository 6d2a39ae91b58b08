"""Convolutions and their mirror image, normalised over the batch, and the discriminators made of them.

    f(x, z): x -> convolutions of stride 2 -> average over the image [B, F], beside a dense layer of z -> dense -> [B]
    r(x): x -> convolutions of stride 2 -> dense -> [B];   s(z): z -> dense -> [B]

What discriminators learn are the log-ratios of the adversarial symmetric VAE (`vaezoo.models.as_vae`),

    f1 = log q(x, z) - log p(x) p(z),  f2 = log p(x, z) - log q(x) q(z)                          (5.5) of Pu (2018)
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from vaezoo.inference.density_ratios import contrast, unpaired
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


# What is told apart.


class Pairs(NamedTuple):
    """Images and codes in pairs, and their densities.

    Attributes:
        x: as discriminators see it, [B, H, W, C]: data have noise, which z and the densities know nothing of.
        z: [B, D].
        log_lik, log_q, log_prior: log p(x | z), log q(z | x) and log p(z), nats, [B].
    """

    x: tf.Tensor
    z: tf.Tensor
    log_lik: tf.Tensor
    log_q: tf.Tensor
    log_prior: tf.Tensor


class LogRatios(NamedTuple):
    """What discriminators say of pairs.

    Attributes:
        of_inferred, of_generated: the log-ratios that the objective asks for, nats, [B].
        loss: what the discriminators minimise, nats, [B]; a discriminator that knows nothing has 2 log 2.
    """

    of_inferred: tf.Tensor
    of_generated: tf.Tensor
    loss: tf.Tensor


class JointDiscriminators(keras.layers.Layer):
    """The published ones: f1 and f2 are free functions of x and z, trained on (5.3) and (5.4)."""

    shown_to_encoder = staticmethod(tf.identity)

    def __init__(self, image_shape, latent_dim, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        sizes = image_shape, latent_dim, filters, hidden_units
        self.first = JointNet(*sizes, dtype=self.dtype_policy, name="first")
        self.second = JointNet(*sizes, dtype=self.dtype_policy, name="second")
        self.built = True

    def log_ratios(self, inferred, generated):
        f1, _, loss1 = contrast(self.first, (inferred.x, inferred.z), unpaired(generated))
        f2, _, loss2 = contrast(self.second, (generated.x, generated.z), unpaired(inferred))
        return LogRatios(f1, f2, loss1 + loss2)


class KnownDensities(keras.layers.Layer):
    """f1 and f2 from the densities that are known, and two nets for the ratios of marginals that are not.

    With r(x) = log p(x) - log q(x), s(z) = log p(z) - log q(z) and p(z | x) = p(x | z) p(z) / p(x),

        f1 = log q(z | x) - log p(z) - r(x),    f2 = log p(z | x) - log p(z) + r(x) + s(z),

    and lemma 7 holds for each ratio alone: a net of images learns r from x ~ p(x) and x ~ q(x), one of codes learns s.
    q(z | x), held fixed, stands in for p(z | x), which is not known and which the game makes equal to it. So AS-VAE-r
    has the gradient of the plain VAE. AS-VAE-g moves p(x | z) along -KL(p(x) || q(x)) and q(z | x) along
    -E_p(x) KL(p(z | x) || q(z | x)), the sleep phase of wake-sleep: KL(p(x, z) || q(x, z)) is the sum of the two, and
    the second one's gradient by p is left out. s only enters the value of L_z, because it is asked at draws of p(z).
    """

    def __init__(self, image_shape, latent_dim, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.images = ImageNet(image_shape, filters, hidden_units, dtype=dtype, name="images")
        self.codes = CodeNet(latent_dim, hidden_units, dtype=dtype, name="codes")
        self.built = True

    shown_to_encoder = staticmethod(tf.stop_gradient)

    def log_ratios(self, inferred, generated):
        r_generated, r_inferred, images_loss = contrast(self.images, (generated.x,), (inferred.x,))
        s_generated, _, codes_loss = contrast(self.codes, (generated.z,), (inferred.z,))
        # Data have no gradient, but for batch normalisation, which ties their scores to those of the others.
        f1 = inferred.log_q - inferred.log_prior - tf.stop_gradient(r_inferred)
        f2 = tf.stop_gradient(generated.log_q) - generated.log_prior + r_generated + s_generated
        return LogRatios(f1, f2, images_loss + codes_loss)


class ALIDiscriminator(keras.layers.Layer):
    """ALI's: one free function of x and z, trained on (5.1)."""

    shown_to_encoder = staticmethod(tf.identity)

    def __init__(self, image_shape, latent_dim, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.net = JointNet(image_shape, latent_dim, filters, hidden_units, dtype=self.dtype_policy, name="net")
        self.built = True

    def log_ratios(self, inferred, generated):
        return LogRatios(*contrast(self.net, (inferred.x, inferred.z), (generated.x, generated.z)))
