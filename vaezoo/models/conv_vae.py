"""The convolutional ResNet VAE for binary images, with any posterior: the MNIST model of inverse autoregressive flow.

D. P. Kingma, "Variational inference & deep learning" (2017), section 5.6.1 and appendix 5.A; D. P. Kingma et al.,
"Improving variational inference with inverse autoregressive flow" (2016).

    p(z)     = N(z; 0, I)
    p(x | z) = Bernoulli(x; sigmoid(a)),  a = decoder(z)
    q(z | x) = a diagonal Gaussian, or one that a flow goes on from: algorithm 5 for the inverse autoregressive one

Encoder, for 28x28 images and filters = (16, 32, 32):

    x [B, 28, 28, 1] -> block 16, stride 2 -> [14, 14, 16] -> block 16 -> block 32, stride 2 -> [7, 7, 32] -> block 32
      -> block 32, stride 2 -> [4, 4, 32] -> dense 450, ELU -> h [B, 450]

The decoder is its mirror image: z [B, 32] -> dense 450 -> dense 512 -> [4, 4, 32] -> ... -> [28, 28, 1]. A block is
residual, with ELU before each of its two 3x3 convolutions; where its shape changes, a strided (transposed) convolution
takes the place of the identity. All layers are weight-normalised and initialised from data.

Readings and departures: "between every other strided convolution there is another block" is read as one block of stride
1 between two strided ones; the heads of the posterior are plain dense layers (`vaezoo.posteriors`).
"""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.layers import posteriors, weight_norm
from vaezoo.layers.distributions import BernoulliLogits

tfd = tfp.distributions


class ResidualBlock(keras.layers.Layer):
    """shortcut(h) + conv(elu(conv(elu(h)))), [B, H, W, in_filters] -> [B, H/strides, W/strides, filters]."""

    def __init__(self, in_filters, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.first = weight_norm.Conv2D(in_filters, filters, strides=strides, dtype=dtype, name="first")
        self.second = weight_norm.Conv2D(filters, filters, dtype=dtype, name="second")
        self.shortcut = None
        if strides > 1:
            self.shortcut = weight_norm.Conv2D(in_filters, filters, strides=strides, dtype=dtype, name="shortcut")
        self.built = True

    def call(self, h):
        residual = self.second(tf.nn.elu(self.first(tf.nn.elu(h))))
        return residual + (h if self.shortcut is None else self.shortcut(h))


class TransposedResidualBlock(keras.layers.Layer):
    """`ResidualBlock` read backwards: its second layer changes the shape, [B, h, w, C] -> [B, *out_size, filters]."""

    def __init__(self, in_filters, filters, out_size, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.first = weight_norm.Conv2D(in_filters, in_filters, dtype=dtype, name="first")
        self.second = weight_norm.Conv2DTranspose(in_filters, filters, out_size, dtype=dtype, name="second")
        self.shortcut = weight_norm.Conv2DTranspose(in_filters, filters, out_size, dtype=dtype, name="shortcut")
        self.built = True

    def call(self, h):
        return self.second(tf.nn.elu(self.first(tf.nn.elu(h)))) + self.shortcut(h)


class Encoder(keras.layers.Layer):
    """Images [B, H, W, C] -> features [B, hidden_units]."""

    def __init__(self, image_shape, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.blocks = []
        for index, (before, after) in enumerate(zip((image_shape[-1], *filters), filters, strict=False)):
            if index:
                self.blocks.append(ResidualBlock(before, before, dtype=dtype, name=f"same_{index}"))
            self.blocks.append(ResidualBlock(before, after, 2, dtype=dtype, name=f"down_{index}"))
        flat = filters[-1] * math.prod(sizes(image_shape, len(filters))[-1])
        self.dense = weight_norm.Dense(flat, hidden_units, dtype=dtype, name="dense")
        self.flatten = keras.layers.Reshape((flat,), dtype=dtype)
        self.built = True

    def call(self, x):
        h = x
        for block in self.blocks:
            h = block(h)
        return tf.nn.elu(self.dense(self.flatten(tf.nn.elu(h))))


class Decoder(keras.layers.Layer):
    """Latents [B, D] -> logits of images [B, H, W, C]."""

    def __init__(self, image_shape, latent_dim, filters, hidden_units, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        *larger, smallest = sizes(image_shape, len(filters))
        self.hidden = weight_norm.Dense(latent_dim, hidden_units, dtype=dtype, name="hidden")
        self.dense = weight_norm.Dense(hidden_units, math.prod(smallest) * filters[-1], dtype=dtype, name="dense")
        self.unflatten = keras.layers.Reshape((*smallest, filters[-1]), dtype=dtype)
        self.blocks = []
        for index in reversed(range(len(filters))):
            after = filters[index - 1] if index else image_shape[-1]
            self.blocks.append(
                TransposedResidualBlock(filters[index], after, larger[index], dtype=dtype, name=f"up_{index}")
            )
            if index:
                self.blocks.append(ResidualBlock(after, after, dtype=dtype, name=f"same_{index}"))
        self.built = True

    def call(self, z):
        h = self.unflatten(self.dense(tf.nn.elu(self.hidden(z))))
        for block in self.blocks:
            h = block(h)
        return h


def sizes(image_shape, num_halvings):
    """Returns the (height, width) of an image, and after each of the strides of 2."""
    found = [tuple(image_shape[:2])]
    for _ in range(num_halvings):
        found.append(tuple(-(-size // 2) for size in found[-1]))
    return found


@keras.saving.register_keras_serializable(package="vaezoo")
class ConvVAE(LatentVariableModel):
    """A VAE of residual blocks for binary images, one layer of Gaussian latents, any posterior.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, D.
        filters: maps after each halving of the image.
        hidden_units: int, units of the dense layer between maps and latents.
        posterior: a name in `vaezoo.posteriors.POSTERIORS`.
        posterior_args: dict of further arguments of that posterior; None for its defaults.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=32,
        filters=(16, 32, 32),
        hidden_units=450,
        posterior="diagonal_gaussian",
        posterior_args=None,
        **kwargs,
    ):
        super().__init__(image_shape, (checks.positive_int("latent_dim", latent_dim),), **kwargs)
        self.filters = checks.positive_ints("filters", filters)
        self.hidden_units = checks.positive_int("hidden_units", hidden_units)

        dtype = self.dtype_policy
        self.encoder = Encoder(self.example_shape, self.filters, hidden_units, dtype=dtype, name="encoder")
        self.posterior = posteriors.build(posterior, hidden_units, latent_dim, posterior_args or {})
        self.decoder = Decoder(self.example_shape, latent_dim, self.filters, hidden_units, dtype=dtype, name="decoder")
        self.track_initialization()

    def likelihood_distribution(self, z):
        """Latents [B, D] -> p(x | z): batch shape [B], event shape [H, W, C]."""
        return tfd.Independent(BernoulliLogits(tf.cast(self.decoder(z), tf.float32), dtype=tf.float32), 3)
