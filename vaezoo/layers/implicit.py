"""Implicit distributions: a network of an input and noise, drawn from, with the Jacobian that its density takes."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo.layers.networks import JointMLP

tfb = tfp.bijectors


class ImplicitEncoder(JointMLP):
    """A perceptron of an image and noise, with the Jacobian of its output with respect to the noise.

    Args:
        image_dim: int, values in an image.
        latent_dim: int, D, of noise and output.
        hidden_units, activation: as for `JointMLP`; the activation acts on each unit by itself.
    """

    def __init__(self, image_dim, latent_dim, hidden_units, activation, **kwargs):
        super().__init__({"x": image_dim, "noise": latent_dim}, hidden_units, activation, **kwargs)
        apart = [self.activation(tf.constant([value])) for value in (0.5, -1.0)]
        if np.abs(self.activation(tf.constant([0.5, -1.0])) - tf.concat(apart, axis=0)).max() > 0:
            raise ValueError(f"`activation` must act on each unit by itself. Received: {activation!r}")
        self.codes = keras.layers.Dense(latent_dim, dtype="float32", name="codes")
        self.codes.build((None, hidden_units[-1]))

    def call(self, projected):
        """The sum of both inputs' projections, [..., hidden_units[0]] -> z, [..., D]."""
        return self.codes(super().call(projected))

    def jacobian(self, projected):
        """The sum of both inputs' projections, [..., hidden_units[0]] -> dz/dxi, [..., D of xi, D of z]."""
        kernels = [layer.kernel for layer in (self.projections["noise"], *self.hidden, self.codes)]
        h, jacobian = tf.cast(projected, tf.float32) + self.bias, kernels[0]
        for kernel, layer in zip(kernels[1:], [*self.hidden, self.codes], strict=True):
            with tf.GradientTape() as tape:
                tape.watch(h)
                active = self.activation(h)
            slopes = tape.gradient(active, h)  # [..., units], of each unit by itself
            jacobian = tf.einsum("...du,uv->...dv", jacobian * slopes[..., tf.newaxis, :], kernel)
            h = tf.matmul(active, kernel) + layer.bias
        return jacobian


class ImplicitMap(tfb.Bijector):
    """The map xi -> z of one batch of images, which is drawn from and not inverted.

    Args:
        encoder: an `ImplicitEncoder`.
        projected: its projection of the images, [B, units].
    """

    def __init__(self, encoder, projected, name="implicit_map"):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self._inputs = lambda noise: projected + encoder.project(noise=noise)
            self._encoder = encoder
            super().__init__(forward_min_event_ndims=1, dtype=tf.float32, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        return self._encoder(self._inputs(x))

    def _forward_log_det_jacobian(self, x):
        _, triangle = tf.linalg.qr(self._encoder.jacobian(self._inputs(x)))  # XLA has no determinant
        return tf.reduce_sum(tf.math.log(tf.abs(tf.linalg.diag_part(triangle))), axis=-1)
