"""Approximate posteriors: layers that turn encoder features into q(z | x).

A posterior's distribution is a `tfd.TransformedDistribution` of standard normal noise, so that a draw is an explicit
function of that noise (`reparameterize`). Weights live in Keras layers; distributions are views, rebuilt at each call.
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks

tfd = tfp.distributions


def reparameterize(q, noise):
    """Returns z = g(noise) and log q(z | x), eqs. (2.20) and (2.33) of Kingma (2017).

    Args:
        q: a `tfd.TransformedDistribution` of standard normal noise, batch shape [B], event shape [D].
        noise: standard normal draws, [S, B, D].

    Returns:
        z: [S, B, D].
        log_q: log p(noise) - log |det dz/dnoise|, [S, B], nats.
    """
    z = q.bijector.forward(noise)  # [S, B, D]
    log_det = q.bijector.forward_log_det_jacobian(noise, event_ndims=1)  # [S, B] or broadcastable
    log_noise = tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(noise), axis=-1)  # [S, B]
    return z, log_noise - log_det


def code(q):
    """Returns z at zero noise, [B, D]: the deterministic code of an example; a Gaussian's mean."""
    event_shape = tf.concat([q.batch_shape_tensor(), q.event_shape_tensor()], axis=0)
    return q.bijector.forward(tf.zeros(event_shape, q.dtype))


@keras.saving.register_keras_serializable(package="vaezoo")
class DiagonalGaussian(keras.layers.Layer):
    """q(z | x) = N(z; mu, diag(sigma^2)), eq. (2.76) of Kingma (2017); mu and log sigma are affine in the features.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D.
    """

    def __init__(self, feature_dim, latent_dim, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.latent_dim = checks.positive_int("latent_dim", latent_dim)
        # float32 whatever the policy: densities lose their meaning in half precision.
        self.params = keras.layers.Dense(2 * latent_dim, name="params", dtype="float32")
        self.params.build((None, feature_dim))
        self.built = True

    def distribution(self, features):
        """Features [B, F] -> `tfd.MultivariateNormalDiag`, batch shape [B], event shape [D]."""
        loc, log_scale = tf.split(self.params(features), 2, axis=-1)  # [B, D] each
        return tfd.MultivariateNormalDiag(loc, scale_diag=tf.exp(log_scale))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="vaezoo")
class FullCovarianceGaussian(keras.layers.Layer):
    """q(z | x) = N(z; mu, L L'), section 2.6.1 of Kingma (2017): L is lower triangular with diagonal sigma.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D. The layer puts out D(D + 3)/2 values: mu, log sigma and the entries below the diagonal.
    """

    def __init__(self, feature_dim, latent_dim, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.latent_dim = checks.positive_int("latent_dim", latent_dim)
        below_diagonal = latent_dim * (latent_dim - 1) // 2
        self.params = keras.layers.Dense(2 * latent_dim + below_diagonal, name="params", dtype="float32")
        self.params.build((None, feature_dim))
        self.built = True

    def distribution(self, features):
        """Features [B, F] -> `tfd.MultivariateNormalTriL`, batch shape [B], event shape [D]."""
        loc, log_scale, below = tf.split(self.params(features), [self.latent_dim, self.latent_dim, -1], axis=-1)
        triangle = tfp.math.fill_triangular(below)  # [B, D-1, D-1], diagonal included
        strictly_lower = tf.pad(triangle, [[0, 0], [1, 0], [0, 1]])  # [B, D, D], one row down
        return tfd.MultivariateNormalTriL(loc, scale_tril=tf.linalg.set_diag(strictly_lower, tf.exp(log_scale)))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "latent_dim": self.latent_dim}


# The names that a config's [model.args] may use.
POSTERIORS = {"diagonal_gaussian": DiagonalGaussian, "full_covariance_gaussian": FullCovarianceGaussian}
