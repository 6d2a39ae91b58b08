"""Approximate posteriors: layers that turn encoder features into q(z | x).

A posterior's distribution is a `tfd.TransformedDistribution` of standard normal noise, so that a draw is an explicit
function of that noise (`reparameterize`). Weights live in Keras layers; distributions are views, rebuilt at each call.
"""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.layers import flows
from vaezoo.layers.weight_norm import Dense

__all__ = [
    "POSTERIORS",
    "CouplingFlow",
    "DiagonalGaussian",
    "FlowPosterior",
    "FullCovarianceGaussian",
    "InverseAutoregressiveFlow",
    "PlanarFlow",
    "RadialFlow",
    "build",
    "code",
    "context_layers",
    "flowed",
    "reparameterize",
]

tfb, tfd = tfp.bijectors, tfp.distributions


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
    standard_normal = tfd.Normal(tf.zeros([], z.dtype), tf.ones([], z.dtype))
    log_noise = tf.reduce_sum(standard_normal.log_prob(noise), axis=-1)  # [S, B]
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
        init_stddev: standard deviation of the initial weights, so that q starts near N(0, I) if it is small; None is
            Glorot's uniform distribution.
    """

    def __init__(self, feature_dim, latent_dim, init_stddev=None, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim = checks.positive_int("feature_dim", feature_dim)
        self.latent_dim = checks.positive_int("latent_dim", latent_dim)
        self.init_stddev = None if init_stddev is None else checks.non_negative("init_stddev", init_stddev)
        initializer = "glorot_uniform" if init_stddev is None else keras.initializers.RandomNormal(stddev=init_stddev)
        # float32 whatever the policy: densities lose their meaning in half precision.
        self.params = keras.layers.Dense(2 * latent_dim, name="params", dtype="float32", kernel_initializer=initializer)
        self.params.build((None, feature_dim))
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.latent_dim)

    def distribution(self, features):
        """Features [..., F] -> `tfd.MultivariateNormalDiag`, batch shape [...], event shape [D]."""
        loc, log_scale = tf.split(self.params(features), 2, axis=-1)  # [..., D] each
        return tfd.MultivariateNormalDiag(loc, scale_diag=tf.exp(log_scale))

    def get_config(self):
        own = {"feature_dim": self.feature_dim, "latent_dim": self.latent_dim, "init_stddev": self.init_stddev}
        return {**super().get_config(), **own}


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
        self.build((None, feature_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.latent_dim)

    def distribution(self, features):
        """Features [B, F] -> `tfd.MultivariateNormalTriL`, batch shape [B], event shape [D]."""
        loc, log_scale, below = tf.split(self.params(features), [self.latent_dim, self.latent_dim, -1], axis=-1)
        triangle = tfp.math.fill_triangular(below)  # [B, D-1, D-1], diagonal included
        strictly_lower = tf.pad(triangle, [[0, 0], [1, 0], [0, 1]])  # [B, D, D], one row down
        return tfd.MultivariateNormalTriL(loc, scale_tril=tf.linalg.set_diag(strictly_lower, tf.exp(log_scale)))

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "latent_dim": self.latent_dim}


class FlowPosterior(keras.layers.Layer):
    """What the posteriors below share: a diagonal Gaussian, then steps of a flow that depend on the features.

    A subclass owes `steps`. Its layers are float32 whatever the policy, as those of the Gaussian are.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D.
        num_steps: int, T.
    """

    def __init__(self, feature_dim, latent_dim, num_steps, **kwargs):
        super().__init__(**kwargs)
        self.gaussian = DiagonalGaussian(feature_dim, latent_dim, name="gaussian")
        self.num_steps = checks.positive_int("num_steps", num_steps)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.gaussian.latent_dim)

    def steps(self, features):
        """Features [B, F] -> list of T bijectors, in the order of their application."""
        raise NotImplementedError

    def distribution(self, features):
        """Features [B, F] -> distribution, batch shape [B], event shape [D]."""
        return flowed(self.gaussian.distribution(features), self.steps(features))

    def get_config(self):
        return {
            **super().get_config(),
            "feature_dim": self.gaussian.feature_dim,
            "latent_dim": self.gaussian.latent_dim,
            "num_steps": self.num_steps,
        }


@keras.saving.register_keras_serializable(package="vaezoo")
class InverseAutoregressiveFlow(FlowPosterior):
    """Algorithm 5 of Kingma (2017): a diagonal Gaussian, then steps of inverse autoregressive flow.

    The encoder's features are the extra output h; each step's net adds an affine function of them to its first layer.
    The order of the latents is reversed from step to step.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D.
        num_steps: int, T.
        hidden_units: widths of the hidden layers of each step's masked net; () makes the steps linear.
        form: a name in `vaezoo.layers.flows.FORMS`.
    """

    def __init__(self, feature_dim, latent_dim, num_steps=2, hidden_units=(320,), form="gated", **kwargs):
        super().__init__(feature_dim, latent_dim, num_steps, **kwargs)
        self.hidden_units = flows.layer_sizes("hidden_units", hidden_units)
        self.form = checks.one_of("form", form, flows.FORMS)
        self.nets = [
            flows.MaskedDenseNet(
                latent_dim, self.hidden_units, backwards=step % 2 == 1, dtype="float32", name=f"step_{step}"
            )
            for step in range(self.num_steps)
        ]
        self.contexts = context_layers(feature_dim, self.nets)
        self.build((None, feature_dim))

    def steps(self, features):
        form = flows.FORMS[self.form]
        return [
            flows.inverse_autoregressive(net, form, context(features), event_ndims=1)
            for net, context in zip(self.nets, self.contexts, strict=True)
        ]

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units, "form": self.form}


@keras.saving.register_keras_serializable(package="vaezoo")
class CouplingFlow(FlowPosterior):
    """A diagonal Gaussian, then affine couplings (Dinh et al., "Density estimation using Real NVP", 2016).

    A step moves one half of the latents and keeps the other; the halves swap from step to step. Each step's net adds an
    affine function of the encoder's features to its first layer.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D, at least 2.
        num_steps: int, T; 1 leaves the first half Gaussian.
        hidden_units: widths of the hidden layers of each step's net; () makes shift and log-scale affine but for tanh.
    """

    def __init__(self, feature_dim, latent_dim, num_steps=4, hidden_units=(320,), **kwargs):
        super().__init__(feature_dim, latent_dim, num_steps, **kwargs)
        if latent_dim < 2:
            raise ValueError(f"`latent_dim` must be at least 2, for one half to move the other. Received: {latent_dim}")
        self.hidden_units = flows.layer_sizes("hidden_units", hidden_units)
        half = latent_dim // 2
        self.num_kept = [half if step % 2 == 0 else half - latent_dim for step in range(self.num_steps)]
        self.nets = [
            flows.CouplingNet(
                abs(kept), latent_dim - abs(kept), self.hidden_units, dtype="float32", name=f"step_{step}"
            )
            for step, kept in enumerate(self.num_kept)
        ]
        self.contexts = context_layers(feature_dim, self.nets)
        self.build((None, feature_dim))

    def steps(self, features):
        return [
            flows.coupling(net, context(features), kept)
            for net, context, kept in zip(self.nets, self.contexts, self.num_kept, strict=True)
        ]

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units}


@keras.saving.register_keras_serializable(package="vaezoo")
class PlanarFlow(FlowPosterior):
    """A diagonal Gaussian, then planar steps, eq. (5.17) (Rezende and Mohamed, 2015).

    u, w and b of each step are affine in the encoder's features. The layer is weight-normalised: once it is initialised
    from data its outputs are of order 1 whatever the features' size, so that w'z + b is, and with u of order 0.1 all
    steps start near the identity. With u = 0 they would be the identity, and w and b without gradients.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D.
        num_steps: int, T. A step bends along one direction only: many are needed.
    """

    def __init__(self, feature_dim, latent_dim, num_steps=10, **kwargs):
        super().__init__(feature_dim, latent_dim, num_steps, **kwargs)
        self.params = Dense(feature_dim, self.num_steps * (2 * latent_dim + 1), name="params", dtype="float32")
        self.build((None, feature_dim))

    def steps(self, features):
        latent_dim = self.gaussian.latent_dim
        steps = []
        for params in tf.split(self.params(features), self.num_steps, axis=-1):  # [B, 2D + 1] each
            u, w, b = tf.split(params, [latent_dim, latent_dim, 1], axis=-1)
            steps.append(flows.Planar(flows.OUTPUT_SCALE * u, w / math.sqrt(latent_dim), b[:, 0]))
        return steps


@keras.saving.register_keras_serializable(package="vaezoo")
class RadialFlow(FlowPosterior):
    """A diagonal Gaussian, then radial steps (Rezende and Mohamed, 2015, eq. 14).

    Centre, alpha and gamma of each step are functions of the encoder's features, by a layer as in `PlanarFlow`. alpha
    starts around sqrt(D), the distance at which standard normal noise lies, and gamma / alpha within a tenth of 1.

    Args:
        feature_dim: int, width F of the encoder features.
        latent_dim: int, D.
        num_steps: int, T.
    """

    def __init__(self, feature_dim, latent_dim, num_steps=10, **kwargs):
        super().__init__(feature_dim, latent_dim, num_steps, **kwargs)
        self.params = Dense(feature_dim, self.num_steps * (latent_dim + 2), name="params", dtype="float32")
        self.build((None, feature_dim))

    def steps(self, features):
        latent_dim = self.gaussian.latent_dim
        steps = []
        for params in tf.split(self.params(features), self.num_steps, axis=-1):  # [B, D + 2] each
            centre, width, ratio = tf.split(params, [latent_dim, 1, 1], axis=-1)
            alpha = math.sqrt(latent_dim) * flows.positive(width[:, 0])
            gamma = alpha * flows.positive(flows.OUTPUT_SCALE * ratio[:, 0])
            steps.append(flows.Radial(centre, alpha, gamma))
        return steps


def context_layers(feature_dim, nets):
    """Returns a layer per net from encoder features to its context, [B, F] -> [B, context_dim]."""
    return [
        Dense(feature_dim, net.context_dim, name=f"context_{step}", dtype="float32") for step, net in enumerate(nets)
    ]


def flowed(q, steps):
    """Returns the distribution of steps[-1](...(steps[0](z))), z ~ q, a Gaussian; eqs. (5.23)-(5.29)."""
    noise = tfd.MultivariateNormalDiag(tf.zeros_like(q.loc))
    return tfd.TransformedDistribution(noise, tfb.Chain([*reversed(steps), q.bijector]))


# The names that a config's [model.args] may use.
POSTERIORS = {
    "diagonal_gaussian": DiagonalGaussian,
    "full_covariance_gaussian": FullCovarianceGaussian,
    "iaf": InverseAutoregressiveFlow,
    "planar": PlanarFlow,
    "radial": RadialFlow,
    "coupling": CouplingFlow,
}


def build(posterior, feature_dim, latent_dim, args):
    """Returns the layer that a name in `POSTERIORS` and a dict of its further arguments stand for.

    Raises:
        ValueError: the name, or one of the arguments, is unknown.
    """
    layer = POSTERIORS[checks.one_of("posterior", posterior, POSTERIORS)]
    known = [name for name in checks.parameters(layer) if name not in ("feature_dim", "latent_dim")]
    for name in args:
        checks.one_of(f"posterior_args of {posterior}", name, known)
    return layer(feature_dim, latent_dim, name="posterior", **args)
