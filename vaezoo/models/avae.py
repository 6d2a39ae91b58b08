"""The auxiliary variational autoencoder, AVAE.

L. Maaloe, C. K. Sonderby, S. K. Sonderby, O. Winther, "Auxiliary deep generative models" (2016), section 4.3.

    q(a, z | x) = q(a_1 | x) q(z_1 | a_1, x) prod_{i = 2..L} q(a_i | a_i-1, x) q(z_i | a_i, z_i-1)          (19)
    p(x, a, z)  = p(x | z_1) p(z_L) p(a_L | z_L) prod_{i < L} p(z_i | z_i+1) p(a_i | z_>=i)                (20)

p(z_L) = N(0, I), p(x | z_1) is Bernoulli or Gaussian, and every other factor is a diagonal Gaussian by a network of its
own. The a_i integrate out of (20): what is generated is a VAE with layers z_1..z_L, and the a_i only make q(z | x) more
than Gaussian. The bound (2) has them; an importance-weighted estimate of it tends to log p(x).

    x [B, HWC], a_i-1 [S, B, A_i-1] -> q(a_i | .): a_i [S, B, A_i];   q(a_1 | x) has batch [B]
    a_i [S, B, A_i], z_i-1 [S, B, D_i-1] -> q(z_i | .): z_i [S, B, D_i];   z_0 is x [B, HWC]
    z_i, .., z_L -> p(a_i | z_>=i): batch [S, B];   z_i+1 -> p(z_i | z_i+1): batch [S, B]
    z_1 -> decoder -> [S, B, F] -> likelihood -> p(x | z_1): batch [S*B], event [H, W, C]

The KL is sampled, in columns a_1, z_1, a_2, z_2, ...; of z_L it may be the closed form. The code of an image is z_1.

Departures: p(a_i | z_>=i) as in (20); (2) prints p(a | z, x). The layers of mean and log-scale start from small normal
weights: from Glorot's, log-scales compound through exp, and the first steps are NaN. All networks have the same hidden
units, whatever their layer.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.inference.terms import Terms
from vaezoo.layers import likelihoods
from vaezoo.layers.networks import JointMLP
from vaezoo.layers.posteriors import DiagonalGaussian, reparameterize
from vaezoo.numerics import merge_samples, tile_samples

tfd = tfp.distributions

INIT_STDDEV = 1e-3  # of the layers of mean and log-scale: the posteriors of z start at the priors
AUXILIARY_INIT_STDDEV = 0.03  # of those of q(a | .): at 0.001 a stayed unused in short trials; not tuned further


class Draw(NamedTuple):
    """A draw from q, a factor of (19): the value [S, B, D], and its log-density log_q [S, B], nats."""

    q: tfd.Distribution
    value: tf.Tensor
    log_q: tf.Tensor


class Factor(keras.layers.Layer):
    """A diagonal Gaussian given several inputs; mean and log-scale are affine in the features of a `JointMLP`.

    Args:
        input_dims: dict of the inputs' names to their sizes.
        dim: int, the size of the variable.
        hidden_units, activation, batch_normalization: as in `JointMLP`.
        init_stddev: as in `DiagonalGaussian`.
    """

    def __init__(self, input_dims, dim, hidden_units, activation, *, batch_normalization, init_stddev, **kwargs):
        super().__init__(**kwargs)
        settings = {"batch_normalization": batch_normalization, "dtype": self.dtype_policy}
        self.net = JointMLP(input_dims, hidden_units, activation, name="net", **settings)
        self.head = DiagonalGaussian(hidden_units[-1], dim, init_stddev, name="head")
        self.built = True

    def distribution(self, **inputs):
        """Inputs [..., size], by name -> distribution: batch shape the one they broadcast to, event shape [dim]."""
        return self.head.distribution(self.net(self.net.project(**inputs)))

    def draw(self, noise, **inputs):
        """Returns the `Draw` that noise [S, B, dim] gives."""
        q = self.distribution(**inputs)
        return Draw(q, *reparameterize(q, noise))


@keras.saving.register_keras_serializable(package="vaezoo")
class AVAE(LatentVariableModel):
    """A VAE with L layers of latents and as many of auxiliary variables.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dims: tuple of L ints, the dimension D_i of each z_i, z_1 first: the one next to the image.
        auxiliary_dims: tuple of L ints, the dimension A_i of each a_i.
        hidden_units: widths of the hidden layers of each network.
        activation: Keras activation of the hidden layers.
        batch_normalization: whether hidden layers are normalised over the batch.
        likelihood: a name in `vaezoo.likelihoods.LIKELIHOODS`.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dims=(64, 32),
        auxiliary_dims=(64, 32),
        hidden_units=(500, 500),
        activation="leaky_relu",
        batch_normalization=False,
        likelihood="bernoulli",
        **kwargs,
    ):
        latent_dims = checks.positive_ints("latent_dims", latent_dims)
        super().__init__(image_shape, latent_dims[:1], **kwargs)
        self.latent_dims, self.auxiliary_dims = latent_dims, checks.positive_ints("auxiliary_dims", auxiliary_dims)
        num_layers = len(latent_dims)
        if len(self.auxiliary_dims) != num_layers:
            raise ValueError(
                f"`auxiliary_dims` must hold a value per layer of latents, {num_layers}. Received: {auxiliary_dims!r}"
            )
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.batch_normalization = checks.boolean("batch_normalization", batch_normalization)

        pixels, widths = math.prod(self.example_shape), self.hidden_units
        settings = {"batch_normalization": batch_normalization, "dtype": self.dtype_policy}

        def factors(name, input_dims, dims, init_stddev=INIT_STDDEV):
            return [
                Factor(inputs, dim, widths, activation, init_stddev=init_stddev, name=f"{name}_{layer}", **settings)
                for layer, (inputs, dim) in enumerate(zip(input_dims, dims, strict=True), start=1)
            ]

        # One factor per layer in each list, layer 1 first; p(z_L) has no network.
        below, z_dims = (pixels, *latent_dims[:-1]), {f"z_{i}": dim for i, dim in enumerate(latent_dims, start=1)}
        self.auxiliary_posteriors = factors(
            "q_a",
            [{"x": pixels}, *({"x": pixels, "a": dim} for dim in self.auxiliary_dims[:-1])],
            self.auxiliary_dims,
            AUXILIARY_INIT_STDDEV,
        )
        self.posteriors = factors(
            "q_z", [{"a": a, "z": z} for a, z in zip(self.auxiliary_dims, below, strict=True)], latent_dims
        )
        self.auxiliary_priors = factors(
            "p_a", [from_layer(z_dims, layer) for layer in range(num_layers)], self.auxiliary_dims
        )
        self.priors = factors("p_z", [{"z": dim} for dim in latent_dims[1:]], latent_dims[:-1])
        self.decoder = JointMLP({"z": latent_dims[0]}, widths, activation, name="decoder", **settings)
        self.likelihood = likelihoods.build(likelihood, widths[-1], self.example_shape)

    approximate_posterior = None  # q is a chain; see `infer`

    @property
    def prior(self):
        """p(z_L): batch shape [], event shape [D_L]."""
        dim = self.latent_dims[-1]
        return tfd.MultivariateNormalDiag(tf.zeros(dim), tf.ones(dim))

    @property
    def noise_shape(self):
        """One axis, of the noise of all a_i, then of all z_i."""
        return (sum(self.auxiliary_dims) + sum(self.latent_dims),)

    def infer(self, x, noise):
        """Images in [0, 1], [B, H, W, C], and noise -> two lists of `Draw`s, of the a_i and of the z_i, eq. (19)."""
        x = self._flat(x)
        a, z, given_to_a, below = [], [], {"x": x}, x
        for q_a, q_z, *noise_of_layer in zip(
            self.auxiliary_posteriors, self.posteriors, *self._parts(noise), strict=True
        ):
            a.append(q_a.draw(noise_of_layer[0], **given_to_a))
            z.append(q_z.draw(noise_of_layer[1], a=a[-1].value, z=below))
            given_to_a, below = {"x": x, "a": a[-1].value}, z[-1].value
        return a, z

    def terms(self, x, noise, *, analytic_kl=False):
        """Returns the `Terms` of images x, with the columns a_1, z_1, a_2, z_2, ...

        Args:
            x: images, uint8 in 0..255 or floats in [0, 1], [B, H, W, C].
            noise: from `noise`, [S, B, *noise_shape].
            analytic_kl: True gives KL(q(z_L | .) || p(z_L)) in closed form. The others have none: what the priors of
                the other z_i and of the a_i depend on is drawn after them.
        """
        x = self.domain.values(x)
        a, z = self.infer(x, noise)
        values = {f"z_{layer}": draw.value for layer, draw in enumerate(z, start=1)}
        log_p_a = [
            p.distribution(**from_layer(values, layer)).log_prob(a[layer].value)
            for layer, p in enumerate(self.auxiliary_priors)
        ]
        priors = [*(p.distribution(z=draw.value) for p, draw in zip(self.priors, z[1:], strict=True)), self.prior]
        kl_z = [draw.log_q - p.log_prob(draw.value) for p, draw in zip(priors, z, strict=True)]
        if analytic_kl:
            kl_z[-1] = tfd.kl_divergence(z[-1].q, self.prior)
        kl_a = [draw.log_q - log_p for draw, log_p in zip(a, log_p_a, strict=True)]
        kl = [column for pair in zip(kl_a, kl_z, strict=True) for column in pair]  # 2L times [S, B]
        features = self.decoder(self.decoder.project(z=z[0].value))  # [S, B, F]
        p = self.likelihood.distribution(merge_samples(features))
        log_lik = p.log_prob(tile_samples(x, tf.shape(noise)[0]))  # [S*B]
        return Terms(tf.reshape(log_lik, tf.shape(features)[:-1]), tf.stack(kl, axis=-1))

    def encode(self, x):
        """Returns z_1 at zero noise, [B, D_1]."""
        x = self._flat(self.values(x))
        a = self.auxiliary_posteriors[0].distribution(x=x).mean()
        return self.posteriors[0].distribution(a=a, z=x).mean()

    def likelihood_distribution(self, z):
        """z_1 [B, D_1] -> p(x | z_1): batch shape [B], event shape [H, W, C]."""
        return self.likelihood.distribution(self.decoder(self.decoder.project(z=z)))

    def generated(self, noise):
        """Returns p(x | z_1) at the z_L, .., z_1 that noise gives in the prior, from `noise(1, B)`: batch shape [B]."""
        _, (*noise_below, z) = self._parts(noise[0])
        for p, draw in zip(reversed(self.priors), reversed(noise_below), strict=True):
            z = p.distribution(z=z).bijector.forward(draw)
        return self.likelihood_distribution(z)

    def kl_per_dimension(self, x):
        """Returns None: the factors of q depend on each other's draws."""
        del x

    def _flat(self, x):
        return tf.reshape(self.domain.inputs(x), [-1, math.prod(self.example_shape)])

    def _parts(self, noise):
        """Splits noise [..., *noise_shape] into two lists, of the a_i and of the z_i."""
        parts = tf.split(noise, [*self.auxiliary_dims, *self.latent_dims], axis=-1)
        return parts[: len(self.auxiliary_dims)], parts[len(self.auxiliary_dims) :]


def from_layer(of_layers, layer):
    """Returns what a dict holds for this layer, counted from 0, and those above it: the "z_>=i" of (20)."""
    return dict(list(of_layers.items())[layer:])
