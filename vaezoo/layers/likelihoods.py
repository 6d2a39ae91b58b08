"""Likelihoods: layers that turn decoder features into p(x | z) over images [H, W, C] with values in [0, 1], or counts.

A likelihood of other examples than images says so in its `domain`; see `vaezoo.domains`.
"""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.domains import COUNTS
from vaezoo.layers.distributions import BernoulliLogits, ComponentsGaussian

__all__ = [
    "COMPONENT_LIKELIHOODS",
    "INITIAL_RATE",
    "INITIAL_SCALE",
    "LIKELIHOODS",
    "Bernoulli",
    "BoundedMeanGaussian",
    "Poisson",
    "PrincipalComponentsGaussian",
    "build",
]

tfd = tfp.distributions

INITIAL_SCALE = 0.1  # where the first component has 1: latents that explain nothing yet start where they are needed
INITIAL_RATE = 0.05  # of a word in a document; a document of 100 words over 2,000. Rates of 1 would cost 2,000 nats


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
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.image_shape)

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
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.image_shape)

    def distribution(self, features):
        """Features [B, F] -> distribution of images, batch shape [B], event shape [H, W, C]."""
        params = tf.reshape(self.params(features), [-1, 2, *self.image_shape])
        logit_loc, log_scale = tf.unstack(params, axis=1)  # [B, H, W, C] each
        return tfd.Independent(tfd.Normal(tf.sigmoid(logit_loc), tf.exp(log_scale)), len(self.image_shape))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "image_shape": self.image_shape}


class PrincipalComponentsGaussian(keras.layers.Layer):
    """p(c | z) = N(c; mu, diag(sigma^2)) over the principal components c of an image.

    For images that are pre-processed with PCA, as those of section 3.4.3 of Kingma (2017). mu and log sigma are affine
    in the features; sigma starts at `INITIAL_SCALE`. Densities are those of the components, and can't be compared to
    densities of pixels.

    Args:
        feature_dim: int, width F of the decoder features.
        image_shape: tuple of ints (H, W, C).
        components: a `vaezoo.layers.principal_components.PrincipalComponents` of such images.
    """

    def __init__(self, feature_dim, image_shape, components, **kwargs):
        super().__init__(**kwargs)
        self.image_shape, self.components = checks.positive_ints("image_shape", image_shape), components
        count = components.num_components
        self.params = keras.layers.Dense(2 * count, name="params", dtype="float32")
        self.params.build((None, checks.positive_int("feature_dim", feature_dim)))
        self.params.bias.assign(np.repeat([0.0, math.log(INITIAL_SCALE)], count).astype(np.float32))
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.image_shape)

    def distribution(self, features):
        """Features [B, F] -> distribution of images, batch shape [B], event shape [H, W, C]."""
        loc, log_scale = tf.split(self.params(features), 2, axis=-1)  # [B, Q] each
        return ComponentsGaussian(loc, log_scale, self.components, self.image_shape)


@keras.saving.register_keras_serializable(package="vaezoo")
class Poisson(keras.layers.Layer):
    """p(x | z) = prod_v Poisson(x_v; exp(a_v)) of the counts x_v of V words; a is affine in the features.

    Rates are exponentials: a is the Poisson's natural parameter, log p = x a - exp(a) - log x! is concave in it, and
    its gradient x - exp(a) is never lost, where log(softplus(a)) ends as log 0 in float32 from a = -104 on. In return
    the features must be bounded, as tanh's are: on 20 Newsgroups, exponentials of ReLU features overflowed within two
    epochs; of tanh features they reached a validation ELBO 3 nats above that of softplus rates.

    Args:
        feature_dim: int, width F of the decoder features.
        image_shape: tuple of ints, the shape of one example's counts; (V,).
    """

    domain = COUNTS

    def __init__(self, feature_dim, image_shape, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.image_shape = checks.positive_ints("image_shape", image_shape)
        self.log_rates = keras.layers.Dense(math.prod(self.image_shape), name="log_rates", dtype="float32")
        self.log_rates.build((None, feature_dim))
        self.log_rates.bias.assign(np.full(math.prod(self.image_shape), math.log(INITIAL_RATE), np.float32))
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.image_shape)

    def distribution(self, features):
        """Features [B, F] -> distribution of counts, batch shape [B], event shape [V]."""
        log_rates = tf.reshape(self.log_rates(features), [-1, *self.image_shape])
        return tfd.Independent(tfd.Poisson(log_rate=log_rates), len(self.image_shape))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "image_shape": self.image_shape}


# The names that a config's [model.args] may use; the second are of models that see principal components.
LIKELIHOODS = {"bernoulli": Bernoulli, "bounded_mean_gaussian": BoundedMeanGaussian, "poisson": Poisson}
COMPONENT_LIKELIHOODS = {"principal_components_gaussian": PrincipalComponentsGaussian}


def build(likelihood, feature_dim, image_shape, components=None):
    """Returns the layer of a name in `LIKELIHOODS`; with `PrincipalComponents`, in `COMPONENT_LIKELIHOODS`.

    Raises:
        ValueError: the name is unknown, or stands in the other table.
    """
    if components is None:
        make = LIKELIHOODS[checks.one_of("likelihood", likelihood, LIKELIHOODS)]
        return make(feature_dim, image_shape, name="likelihood")
    make = COMPONENT_LIKELIHOODS[checks.one_of("likelihood", likelihood, COMPONENT_LIKELIHOODS)]
    return make(feature_dim, image_shape, components, name="likelihood")
