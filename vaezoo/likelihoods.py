"""Likelihoods: layers that turn decoder features into p(x | z) over images [H, W, C] with values in [0, 1]."""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.distributions import BernoulliLogits

tfd = tfp.distributions


@keras.saving.register_keras_serializable(package="vaezoo")
class Bernoulli(keras.layers.Layer):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(a_i)), eq. (2.74) of Kingma (2017); a is affine in the features.

    Grey values in (0, 1) are accepted, and then the log-probability is the cross-entropy, which is not a likelihood.

    Args:
        feature_dim: int, width F of the decoder features.
        image_shape: tuple of ints (H, W, C).
    """

    def __init__(self, feature_dim, image_shape, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.image_shape = checks.positive_ints("image_shape", image_shape)
        self.logits = keras.layers.Dense(math.prod(self.image_shape), name="logits", dtype="float32")
        self.logits.build((None, feature_dim))
        self.built = True

    def distribution(self, features):
        """Features [B, F] -> distribution of images, batch shape [B], event shape [H, W, C]."""
        logits = tf.reshape(self.logits(features), [-1, *self.image_shape])
        return tfd.Independent(BernoulliLogits(logits, dtype=tf.float32), len(self.image_shape))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "image_shape": self.image_shape}


@keras.saving.register_keras_serializable(package="vaezoo")
class BoundedMeanGaussian(keras.layers.Layer):
    """p(x | z) = N(x; sigmoid(a), diag(sigma^2)), eq. (2.75) of Kingma (2017) with the means bounded to (0, 1).

    a and log sigma are affine in the features. The scale is free, as in the thesis: train on dequantised images, whose
    density is bounded, or the scale of a constant pixel goes to 0 and the density to infinity.

    Args:
        feature_dim: int, width F of the decoder features.
        image_shape: tuple of ints (H, W, C).
    """

    def __init__(self, feature_dim, image_shape, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.image_shape = checks.positive_ints("image_shape", image_shape)
        self.params = keras.layers.Dense(2 * math.prod(self.image_shape), name="params", dtype="float32")
        self.params.build((None, feature_dim))
        self.built = True

    def distribution(self, features):
        """Features [B, F] -> distribution of images, batch shape [B], event shape [H, W, C]."""
        params = tf.reshape(self.params(features), [-1, 2, *self.image_shape])
        logit_loc, log_scale = tf.unstack(params, axis=1)  # [B, H, W, C] each
        return tfd.Independent(tfd.Normal(tf.sigmoid(logit_loc), tf.exp(log_scale)), len(self.image_shape))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "image_shape": self.image_shape}


# The names that a config's [model.args] may use.
LIKELIHOODS = {"bernoulli": Bernoulli, "bounded_mean_gaussian": BoundedMeanGaussian}
