"""Stein VAE and Stein VIWAE: an encoder that only draws, and learns to follow particles.

Y. Pu, "Deep generative models for image representation learning" (2018), chapter 4; Y. Pu et al., "VAE learning via
Stein variational gradient descent" (2017).

    p(z) = N(z; 0, I),  p(x | z, theta) = f(x; mlp(z)),  theta a point or P particles
    z_j  = f_eta(x, xi_j),  xi_j ~ N(0, I),  j = 1 .. M                                              section 4.2.2
    z_j' = z_j + epsilon phi(z_j),  phi of `inference.stein` for the score grad_z log p(x, z)           (4.12), (4.44)
    eta  : a step towards f_eta(x, xi_j) = z_j', which is -phi handed backwards through f_eta          (4.13)
    theta: a step along grad_theta mean_j log p(x | z_j, theta); P particles move along their own phi (4.11)
    w_i  = mean_j p(x, z_ij) / q(z_ij | x), normalised over i: of k groups in phi and theta's step    (4.42), (4.43)

    x [B, H, W, C], xi [S, B, D] -> encoder -> z [S, B, D] -> P decoders -> log p(x | z, theta), each [S, B]

epsilon and 1/M are factors that drop out of steps like Adam's. k = 1 is Stein VAE, k > 1 Stein VIWAE; its M = 1 has the
gradient of the importance-weighted bound.

The density: q(z | x) = N(xi; 0, I) / |det dz/dxi| at the xi that was drawn, that of z only where f_eta(x, .) is one to
one, which nothing enforces. So the ELBO and importance-sampled estimates of log p(x) are no bounds, and they are loose.
`vaezoo evaluate --estimator ais` needs no density.

Classes (section 4.4): p(x, y | z) = p(x | z) softmax(W z + b)_y. The particles of a labelled image move by

    grad_z [log p(z) + log p(x | z) + zeta log p(y | z)],   zeta = N_x / (C rho)                     (4.54)

with N_x values in an image, C classes, and rho the share of labelled images in a step; unlabelled ones as without.

Departures; docs/results/stein_vae.md has the evidence. The self term of phi is off by default; the bandwidth is Liu and
Wang's; noise is drawn for each image; no dropout; theta and z move at once, one step of eta each (K = 1); VIWAE weighs
gradients of theta, not particles (4.40). Particles of theta have the prior N(0, I), start from Keras' initializers and
keep the self term; z follows their mean of log p(x | z, theta); what is measured is the log of the mean.
"""

import dataclasses
import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.base.feeds import classes
from vaezoo.base.labelled import LabelledModel, split_data
from vaezoo.base.objectives import Objective
from vaezoo.base.semi_supervised import AVERAGED
from vaezoo.domains import IMAGES
from vaezoo.inference import stein
from vaezoo.inference.terms import Terms
from vaezoo.layers import likelihoods
from vaezoo.layers.implicit import ImplicitEncoder, ImplicitMap
from vaezoo.layers.networks import mlp
from vaezoo.numerics import log_mean_exp, merge_samples, split_samples, tile_samples
from vaezoo.replicas import global_batch_size, replica_sum

tfb, tfd = tfp.bijectors, tfp.distributions


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class Stein(Objective):
    """Stein variational gradient descent on KL(q || p), chapter 4 of Pu (2018): for a `SteinVAE`.

    It is no function of `Terms`: particles move along a direction that needs log p(x, z) and its gradient only. What
    `fit` logs as `loss` is -log p(x, z) at the particles of images without labels, which has no entropy in it: a
    collapse lowers it. `val_loss` is the negative ELBO, by the density of the encoder.

    Args:
        num_particles: int, M, particles of z per image.
        importance_samples: int, k. 1 is Stein VAE; above, Stein VIWAE on k groups of M particles, which takes the
            density of each, through a Jacobian.
        self_term: whether a particle's own score is among those that move it, as printed (`inference.stein`). Without
            it at least 3 particles are needed, and 5 or more are wanted. Particles of weights always have it.
        num_examples: int, N, the images in the data set, which particles of weights need to weigh their prior by.
    """

    sees = "particles"
    num_particles: int = 5
    importance_samples: int = 1
    self_term: bool = False
    num_examples: int = 0
    analytic_kl = False

    def __post_init__(self):
        checks.positive_int("num_particles", self.num_particles)
        checks.positive_int("importance_samples", self.importance_samples)
        checks.boolean("self_term", self.self_term)
        checks.non_negative_int("num_examples", self.num_examples)
        if self.num_samples < 3 and not self.self_term:
            raise ValueError(
                "`num_particles` must be at least 3, of all groups, without the self term: two only repel each other. "
                f"Received: {self.num_samples}"
            )

    @property
    def num_samples(self):
        """Particles of z per image in all, kM."""
        return self.importance_samples * self.num_particles


@keras.saving.register_keras_serializable(package="vaezoo")
class SteinVAE(LatentVariableModel):
    """A VAE with an implicit encoder, trained by `vaezoo.objectives.Stein`.

    With another objective it is trained on that bound, through the density of its encoder.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, D, the dimension of z and of the noise xi.
        hidden_units: widths of the encoder's hidden layers, of D or more; the decoder has them in reverse.
        activation: Keras activation of the hidden layers, which acts on each unit by itself; smooth, and nowhere flat,
            for a unit with slope 0 may leave q(z | x) without a density.
        likelihood: a name in `vaezoo.likelihoods.LIKELIHOODS`.
        weight_particles: int, P, particles of the decoder's weights, over which p(x | z) is averaged.

    Raises:
        ValueError: if an argument is not as described.
    """

    default_objective = Stein
    shows = ("terms", "particles")

    def __init__(
        self,
        image_shape,
        latent_dim=50,
        hidden_units=(200, 200),
        activation="tanh",
        likelihood="bernoulli",
        weight_particles=1,
        **kwargs,
    ):
        super().__init__(image_shape, (checks.positive_int("latent_dim", latent_dim),), **kwargs)
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        if min(self.hidden_units) < latent_dim:
            raise ValueError(
                f"`hidden_units` must be at least `latent_dim`, {latent_dim}, or q(z | x) is flat and has no density. "
                f"Received: {self.hidden_units}"
            )
        self.activation = keras.activations.get(activation)

        widths, dtype = self.hidden_units, self.dtype_policy
        sizes = math.prod(self.example_shape), latent_dim
        self.encoder = ImplicitEncoder(*sizes, widths, activation, dtype=dtype, name="encoder")
        self.decoders, self.likelihoods = [], []
        for _ in range(checks.positive_int("weight_particles", weight_particles)):
            self.decoders.append(mlp((latent_dim,), widths[::-1], activation, dtype=dtype, name="decoder"))
            self.likelihoods.append(likelihoods.build(likelihood, widths[0], self.example_shape))

    @property
    def domain(self):
        """What an example is, as the likelihood says."""
        return getattr(self.likelihoods[0], "domain", IMAGES)

    def approximate_posterior(self, x):
        """Images in [0, 1], [B, H, W, C] -> q(z | x): batch shape [B], event shape [D]."""
        x = tf.reshape(self.domain.inputs(x), [-1, math.prod(self.example_shape)])
        noise = tfd.MultivariateNormalDiag(tf.zeros([tf.shape(x)[0], self.latent_dim]))
        # Images are projected once, whatever the number of draws.
        return tfd.TransformedDistribution(noise, ImplicitMap(self.encoder, self.encoder.project(x=x)))

    def likelihood_distributions(self, z):
        """Latents [B, D] -> list of the P distributions p(x | z, theta): batch shape [B], event shape [H, W, C]."""
        return [
            likelihood.distribution(decoder(z))
            for decoder, likelihood in zip(self.decoders, self.likelihoods, strict=True)
        ]

    def likelihood_distribution(self, z):
        """Latents [B, D] -> p(x | z), the mean over theta: batch shape [B], event shape [H, W, C]."""
        distributions = self.likelihood_distributions(z)
        if len(distributions) == 1:
            return distributions[0]
        return tfd.Mixture(tfd.Categorical(tf.zeros([tf.shape(z)[0], len(distributions)])), distributions)

    def joint(self, x, z):
        """Images [B, H, W, C] and z [S, B, D] -> log p(x | z, theta), the mean over theta, and log p(x, z), [S, B]."""
        num_samples = z.shape[0]
        images = tile_samples(x, num_samples)
        log_liks = [p.log_prob(images) for p in self.likelihood_distributions(merge_samples(z))]
        log_lik = split_samples(tf.add_n(log_liks) / len(log_liks), num_samples)  # [S, B]
        return log_lik, log_lik + self.prior.log_prob(z)

    # Training it.

    def training_gradients(self, data):
        """Returns the negated fields of Stein, (4.11)-(4.13); of another objective, its gradients."""
        if self.objective.sees == "terms":
            return super().training_gradients(data)
        fields, measured = self.stein_step(data)
        if len(self.decoders) > 1:
            fields = self._fields_of_weight_particles(fields)
        with tf.GradientTape() as tape:
            penalty, measured = self.penalized(tf.zeros([]), measured)
        pulls = tape.gradient(penalty, self.bound_variables)
        scale = self.optimizer.scale_loss(tf.ones([]))
        moves = zip(pulls, fields, strict=True)
        return [scale * (-field if pull is None else pull - field) for pull, field in moves], measured

    def stein_step(self, data):
        """Returns this replica's share of the variables' fields, and what was measured.

        For the decoders they are the gradients of the mean over theta of log p(x | z, theta).
        """
        x = self.domain.values(self.examples_of(data))
        moves = self.moves(self.training_noise(x), x, lambda z: self.joint(x, z))
        return moves.fields, {"loss": -tf.reduce_mean(moves.log_density, axis=0), "terms": moves.terms}

    def moves(self, noise, x, densities):
        """Draws particles and returns `Moves`.

        Args:
            noise: xi, [S, B, D].
            x: images in [0, 1], [B, H, W, C].
            densities: z [S, B, D] -> log p(x | z), and the log-density that z and the decoders climb, [S, B] each.
        """
        variables, weighs = self.trainable_variables, self.objective.importance_samples > 1
        scale = self.optimizer.scale_loss(tf.ones([]))  # for nets whose gradients pass through half precision
        with tf.GradientTape() as encoder_tape:
            q = self.approximate_posterior(x)
            z = q.bijector.forward(noise)  # [S, B, D]
        particles, kl = tf.stop_gradient(z), None
        with tf.GradientTape(persistent=weighs) as tape:
            tape.watch(particles)
            log_lik, log_density = densities(particles)
        if weighs:
            log_q = q.distribution.log_prob(noise) - q.bijector.forward_log_det_jacobian(noise, event_ndims=1)
            kl = (log_q - self.prior.log_prob(particles))[..., tf.newaxis]  # [S, B, 1]
            weights = group_weights(log_density - log_q, self.objective.importance_samples)  # [S, B]
            scores = tape.gradient(log_density, particles, scale * tf.ones_like(weights)) / scale
            climbs = tape.gradient(log_density, variables, scale * weights)
        else:  # one backward pass for both
            weights = tf.fill(tf.shape(log_density), 1.0 / noise.shape[0])
            scores, *climbs = tape.gradient(log_density, [particles, *variables], scale * weights)
            scores *= noise.shape[0] / scale
        phi = stein.direction(particles, scores, weights, self_term=self.objective.self_term)  # [S, B, D]
        follows = encoder_tape.gradient(z, variables, scale * phi)
        share, fields = 1.0 / (scale * global_batch_size(x)), []
        for variable, *parts in zip(variables, follows, climbs, strict=True):
            parts = [part for part in parts if part is not None]
            fields.append(share * tf.add_n(parts) if parts else tf.zeros_like(variable))
        return Moves(fields, particles, Terms(log_lik, kl), log_density)

    def _fields_of_weight_particles(self, fields):
        """Returns `fields` with those of the decoders moved by phi in the space of weights, (4.11).

        With the self term, as printed: independent starts have nothing to learn from each other's scores alone.
        """
        if not self.objective.num_examples:
            raise ValueError(
                "`num_examples` must be the number of images in the data, for particles of weights. Received: 0"
            )
        number, num_examples = len(self.decoders), self.objective.num_examples
        by_id = {id(v): field for v, field in zip(self.trainable_variables, fields, strict=True)}
        groups = [
            [*decoder.trainable_variables, *likelihood.trainable_variables]
            for decoder, likelihood in zip(self.decoders, self.likelihoods, strict=True)
        ]
        theta = tf.stack([flat(group) for group in groups])  # [P, W]
        climbs = number * tf.stack([flat([by_id[id(v)] for v in group]) for group in groups])  # mean over images
        scores = num_examples * replica_sum(climbs) - theta  # of p(theta | data), with p(theta) = N(0, I)
        phi = stein.direction(theta, scores, tf.fill([number], 1.0 / number), self_term=True) / num_examples
        phi /= tf.distribute.get_strategy().num_replicas_in_sync  # each replica has the whole of it
        for group, row in zip(groups, tf.unstack(phi), strict=True):
            parts = tf.split(row, [math.prod(v.shape) for v in group])
            by_id |= {id(v): tf.reshape(part, v.shape) for v, part in zip(group, parts, strict=True)}
        return [by_id[id(v)] for v in self.trainable_variables]


@keras.saving.register_keras_serializable(package="vaezoo")
class SemiSupervisedSteinVAE(LabelledModel, SteinVAE):
    """A Stein VAE whose latents say the class, too: section 4.4.

    Args:
        num_classes: int, C.
        others: see `SteinVAE`.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=50,
        num_classes=10,
        hidden_units=(600, 600),
        activation="softplus",
        likelihood="bernoulli",
        weight_particles=1,
        **kwargs,
    ):
        super().__init__(
            image_shape,
            latent_dim,
            hidden_units,
            activation,
            likelihood,
            weight_particles,
            num_classes=num_classes,
            **kwargs,
        )
        self.logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")
        self.logits.build((None, latent_dim))

    def class_probabilities(self, x):
        """Images [B, H, W, C] -> p(y | x), [B, C]: the mean of p(y | z) over `AVERAGED` draws, the same ones always."""
        noise = np.random.default_rng(0).standard_normal((AVERAGED, 1, self.latent_dim)).astype(np.float32)
        z = self.approximate_posterior(self.values(x)).bijector.forward(noise)  # [S, B, D]
        return tf.reduce_mean(tf.nn.softmax(self.logits(z)), axis=0)

    def training_loss(self, data):
        """Returns the base class's loss of images, for an objective other than Stein."""
        labelled, x = split_data(data)
        if labelled is not None:
            raise ValueError(f"`objective` must be Stein to learn from labels. Received: {self.objective}")
        return super().training_loss(x)

    def stein_step(self, data):
        """Adds what labelled images ask for; `data` is `((x_labelled, y), x_unlabelled)`, or x alone."""
        labelled, x = split_data(data)
        fields, measured = super().stein_step(x)
        if labelled is None:
            return fields, measured
        x_labelled = self.domain.values(self.examples_of(labelled))
        y = classes(labelled[1], self.num_classes)
        num_labelled = global_batch_size(x_labelled)
        share = num_labelled / (num_labelled + global_batch_size(x[0]))  # rho
        zeta = math.prod(self.example_shape) / (self.num_classes * share)

        def densities(z):
            log_lik, log_joint = self.joint(x_labelled, z)
            return log_lik, log_joint + zeta * self.log_prob_of_labels(y, z)

        moves = self.moves(self.training_noise(x_labelled, 1), x_labelled, densities)
        fields = [share * one + (1.0 - share) * other for one, other in zip(moves.fields, fields, strict=True)]
        cross_entropy = -tf.reduce_mean(self.log_prob_of_labels(y, moves.particles), axis=0)
        return fields, {**measured, "cross_entropy": cross_entropy}

    def log_prob_of_labels(self, y, z):
        """Classes y [B] and z [S, B, D] -> log p(y | z), [S, B]."""
        return tfd.Categorical(self.logits(z)).log_prob(y)


class Moves(NamedTuple):
    """What moves after particles were drawn.

    Attributes:
        fields: a tensor per trainable variable, the mean over the images of all replicas; 0 for one that took no part.
        particles: z, [S, B, D].
        terms: `Terms`; with a KL where the density of the particles was needed.
        log_density: what was climbed, [S, B], nats.
    """

    fields: list
    particles: tf.Tensor
    terms: Terms
    log_density: tf.Tensor


def group_weights(log_weights, num_groups):
    """Returns the weights (4.43) of particles, [S, B], which sum to 1 over S = kM; a group has one, shared by its M.

    Args:
        log_weights: log p(x, z) - log q(z | x), [S, B], the M particles of a group one after the other.
        num_groups: int, k.
    """
    grouped = tf.reshape(log_weights, [num_groups, -1, tf.shape(log_weights)[-1]])  # [k, M, B]
    of_group = tf.nn.softmax(log_mean_exp(grouped, axis=1), axis=0)[:, tf.newaxis]  # [k, 1, B]
    size = tf.cast(tf.shape(grouped)[1], grouped.dtype)
    return tf.reshape(tf.broadcast_to(of_group / size, tf.shape(grouped)), tf.shape(log_weights))


def flat(tensors):
    """Returns the values of tensors in a row, [W]."""
    return tf.concat([tf.reshape(value, [-1]) for value in tensors], axis=0)
