"""The adversarial symmetric VAE, AS-VAE, its halves AS-VAE-r and AS-VAE-g, and ALI, which it generalises.

Y. Pu, "Deep generative models for image representation learning" (2018), chapter 5; Y. Pu et al., "Adversarial
symmetric variational autoencoder" (2017). V. Dumoulin et al., "Adversarially learned inference" (2017).

    q(x, z) = q(x) q(z | x),  p(x, z) = p(z) p(x | z);  q(z | x) and p(x | z) are Gaussian
    L_x = E_q(x) log p(x) - KL(q(x, z) || p(x, z)) = E_q(x, z) [log p(x | z) - f1(x, z)]            (5.12), (5.14)
    L_z = E_p(z) log q(z) - KL(p(x, z) || q(x, z)) = E_p(x, z) [log q(z | x) - f2(x, z)]            (5.13), (5.14)
    f1 = log q(x, z) - log p(x) p(z),  f2 = log p(x, z) - log q(x) q(z)                                     (5.5)

    x [B, H, W, C] -> convolutions of stride 2 -> dense -> posterior: batch [B], event [D]
    z [B, D] -> dense, dense -> [h, w, F] -> transposed convolutions -> mean and scale of p(x | z), [B, H, W, 2C]

AS-VAE maximises L_x + L_z, AS-VAE-r L_x, AS-VAE-g L_z, by noise behind z and x (5.15). A step holds f1 and f2 where
they are (5.16), so it follows -KL(q || p) - KL(p || q). `discriminator` selects where f1 and f2 come from:
"joint", as published: two nets of x and z; "known_densities": the densities that are known, and one net each for the
two ratios of marginals that are not; "ali": one net of x and z, (5.1), without a bound. See `layers.discriminators`.

Batch normalisation and rectifiers follow each convolution and each dense layer of encoder and decoder. Codes of both
kinds are decoded in one batch. The encoder normalises data and generated images by their own statistics, and averages
those of data.

Departures; docs/results/as_vae.md has the evidence:
- Discriminators see data with noise N(0, t^2), and the variance of p(x | z) is t^2 + a learned one.
- Means and learned scales of p(x | z) are sigmoids, because pixels lie in [0, 1].
- Posteriors are Gaussian; the paper has 80 steps of an unnamed flow. "coupling" has the density that L_z needs.
- Dense layers are normalised over the batch; r(x) sees where in the image its features are.
- "MLP" is one hidden layer. All convolutions are 3x3. No dropout.
- Both players move at once, each from where the other stood, with optimizers of the same settings.
"""

import dataclasses
import math
from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.base.descent import after
from vaezoo.base.metrics import ExampleMean
from vaezoo.base.modes import in_mode
from vaezoo.base.objectives import Objective
from vaezoo.inference.terms import Terms
from vaezoo.layers import posteriors
from vaezoo.layers.batch_norm import averages_held, held_statistics, recorded_statistics
from vaezoo.layers.discriminators import (
    ALIDiscriminator,
    JointDiscriminators,
    KnownDensities,
    Pairs,
    convolutions,
    deconvolutions,
    normalized,
)
from vaezoo.layers.posteriors import reparameterize
from vaezoo.noise import Stream, noise_seed, standard_normal
from vaezoo.replicas import global_batch_size, replica_id

tfd = tfp.distributions
INITIAL_LOGIT = math.log(0.3 / 0.7)  # of the learned scale of p(x | z): 0.3 is that of a digit's pixels


class Contest(NamedTuple):
    """Everything that an adversarial objective may look at, [B] each, in nats.

    A pair (x, z) is inferred, x ~ q(x) and z ~ q(z | x), or generated, z ~ p(z) and x ~ p(x | z).

    Attributes:
        log_lik: log p(x | z) at inferred pairs.
        log_q: log q(z | x) at generated pairs.
        ratio_of_inferred: the discriminators' log-ratio at inferred pairs, for AS-VAE f1.
        ratio_of_generated: that at generated pairs, for AS-VAE f2.
    """

    log_lik: tf.Tensor
    log_q: tf.Tensor
    ratio_of_inferred: tf.Tensor
    ratio_of_generated: tf.Tensor


class AdversarialObjective(Objective):
    """What a model with discriminators plays for, `(contest, step) -> [B]`; its pairs take one sample each.

    Attributes:
        reconstruction_weight, generation_weight: how much inferred and generated pairs count.
    """

    sees = "pairs"
    num_samples, analytic_kl = 1, False


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class SymmetricBound(AdversarialObjective):
    """The bound of the adversarial symmetric VAE, L_x + L_z, eqs. (5.12)-(5.14) of Pu (2018).

        L_x = E_q [log p(x | z) - f1(x, z)],    L_z = E_p [log q(z | x) - f2(x, z)]

    Args:
        reconstruction_weight: of L_x; AS-VAE-r has 1 and 0.
        generation_weight: of L_z; AS-VAE-g has 0 and 1.
    """

    reconstruction_weight: float = 1.0
    generation_weight: float = 1.0

    def __post_init__(self):
        checks.non_negative("reconstruction_weight", self.reconstruction_weight)
        checks.non_negative("generation_weight", self.generation_weight)
        if not (self.reconstruction_weight or self.generation_weight):
            raise ValueError("`reconstruction_weight` and `generation_weight` must not both be 0. Received: 0 and 0")

    def __call__(self, contest, step):
        """Returns the objective, [B]. Skips a half whose weight is 0: it may be infinite, and 0 * inf is NaN."""
        del step
        halves = [
            (self.reconstruction_weight, contest.log_lik - contest.ratio_of_inferred),
            (self.generation_weight, contest.log_q - contest.ratio_of_generated),
        ]
        return tf.add_n([weight * half for weight, half in halves if weight])


@keras.saving.register_keras_serializable(package="vaezoo")
@dataclasses.dataclass(frozen=True)
class ALI(AdversarialObjective):
    """Adversarially learned inference, eq. (5.1) of Pu (2018), for encoder and decoder.

    With one discriminator f -> log q(x, z) - log p(x, z) they would minimise E_q log s(f) + E_p log(1 - s(f)), s the
    logistic function. As V. Dumoulin et al. (2017) do, they maximise E_q log(1 - s(f)) + E_p log s(f) instead, which
    has the same equilibrium and a gradient where the discriminator is sure.
    """

    reconstruction_weight = generation_weight = 1.0

    def __call__(self, contest, step):
        """Returns the objective, [B]."""
        del step
        return -tf.nn.softplus(contest.ratio_of_inferred) - tf.nn.softplus(-contest.ratio_of_generated)


# The names that a config's [model.args] may use, and the games that their discriminators can play.
DISCRIMINATORS = {"joint": JointDiscriminators, "known_densities": KnownDensities, "ali": ALIDiscriminator}
GAMES = {"joint": SymmetricBound, "known_densities": SymmetricBound, "ali": ALI}


@keras.saving.register_keras_serializable(package="vaezoo")
class ASVAE(LatentVariableModel):
    """The adversarial symmetric VAE.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, D.
        filters: maps after each halving of the image.
        convs_per_stage: int, the convolutions of encoder and decoder per halving.
        hidden_units: int, units of the dense layers.
        posterior: a name in `vaezoo.posteriors.POSTERIORS`.
        posterior_args: dict of further arguments of that posterior; None for its defaults.
        noise_stddev: standard deviation of the noise on the data that discriminators see, and the floor of the scale of
            p(x | z).
        discriminator: a name in `DISCRIMINATORS`.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=64,
        filters=(32, 64),
        convs_per_stage=1,
        hidden_units=256,
        posterior="diagonal_gaussian",
        posterior_args=None,
        noise_stddev=0.1,
        discriminator="known_densities",
        **kwargs,
    ):
        super().__init__(image_shape, (checks.positive_int("latent_dim", latent_dim),), **kwargs)
        self.filters = checks.positive_ints("filters", filters)
        self.noise_stddev = checks.non_negative("noise_stddev", noise_stddev)
        checks.positive_int("convs_per_stage", convs_per_stage)
        checks.positive_int("hidden_units", hidden_units)
        make_discriminators = DISCRIMINATORS[checks.one_of("discriminator", discriminator, DISCRIMINATORS)]
        self.default_objective = GAMES[discriminator]

        dtype = self.dtype_policy
        self.encoder_maps = convolutions(self.example_shape, self.filters, convs_per_stage, dtype=dtype, name="maps")
        dense = keras.layers.Dense(hidden_units, use_bias=False, dtype=dtype)
        self.encoder_dense = keras.Sequential(
            [
                keras.Input(self.encoder_maps.output_shape[1:]),
                keras.layers.Flatten(dtype=dtype),
                *normalized(dense, hidden_units),
            ],
            name="encoder_dense",
        )
        self.posterior = posteriors.build(posterior, hidden_units, latent_dim, posterior_args or {})
        self.decoder = deconvolutions(
            self.example_shape, latent_dim, self.filters, convs_per_stage, hidden_units, dtype=dtype, name="decoder"
        )
        sizes = self.example_shape, latent_dim, self.filters, hidden_units
        self.discriminators = make_discriminators(*sizes, dtype=dtype, name="discriminators")
        self.discriminator_tracker = ExampleMean(name="discriminator_loss")
        self.track_initialization()

    def encoder(self, x):
        return self.encoder_dense(self.encoder_maps(x))

    def likelihood_distribution(self, z):
        """Latents [B, D] -> p(x | z): batch shape [B], event shape [H, W, C]."""
        logit_loc, logit_scale = tf.split(self.decoder(z), 2, axis=-1)
        scale = tf.sqrt(self.noise_stddev**2 + tf.square(tf.sigmoid(logit_scale + INITIAL_LOGIT)))
        return tfd.Independent(tfd.Normal(tf.sigmoid(logit_loc), scale), 3)

    # The game.

    def both_likelihood_distributions(self, inferred_z, z):
        """Two kinds of codes, [B, D] each -> p(x | z) at each, by one function: their statistics are common.

        They are taken from the codes that the objective weighs.
        """
        if self.objective.reconstruction_weight and self.objective.generation_weight:
            p = self.likelihood_distribution(tf.concat([inferred_z, z], axis=0))
            size = tf.shape(z)[0]
            return p[:size], p[size:]
        if self.objective.reconstruction_weight:
            with recorded_statistics() as taken:
                of_inferred = self.likelihood_distribution(inferred_z)
            with held_statistics(taken):
                return of_inferred, self.likelihood_distribution(z)
        with recorded_statistics() as taken:
            of_generated = self.likelihood_distribution(z)
        with held_statistics(taken):
            return self.likelihood_distribution(inferred_z), of_generated

    def game_noise(self, batch_size, *, seed):
        """Returns the noise of a step's game, [B, 2D + 2HWC]; see `game`."""
        return standard_normal([batch_size, 2 * self.latent_dim + 2 * math.prod(self.example_shape)], seed)

    def game(self, x, noise):
        """Draws pairs and asks the discriminators.

        The encoder normalises images and generated images by their own statistics; those of images are averaged.

        Args:
            x: images in [0, 1], [B, H, W, C].
            noise: from `game_noise`.

        Returns:
            `Contest`, the `Terms` of the inferred pairs, and the discriminators' loss, [B].
        """
        pixels = math.prod(self.example_shape)
        noise_z, z, *of_images = tf.split(noise, [self.latent_dim] * 2 + [pixels] * 2, axis=-1)
        noise_data, noise_x = (tf.reshape(part, tf.shape(x)) for part in of_images)
        inferred_z, log_q = reparameterize(self.approximate_posterior(x), noise_z[tf.newaxis])  # [1, B, D], [1, B]
        inferred_z = inferred_z[0]
        p, p_generated = self.both_likelihood_distributions(inferred_z, z)
        shown = x + self.noise_stddev * noise_data
        inferred = Pairs(shown, inferred_z, p.log_prob(x), log_q[0], self.prior.log_prob(inferred_z))
        generated_x = p_generated.mean() + p_generated.stddev() * noise_x
        with averages_held():
            q = self.approximate_posterior(self.discriminators.shown_to_encoder(generated_x))
        generated = Pairs(generated_x, z, p_generated.log_prob(generated_x), q.log_prob(z), self.prior.log_prob(z))
        ratios = self.discriminators.log_ratios(inferred, generated)
        contest = Contest(inferred.log_lik, generated.log_q, ratios.of_inferred, ratios.of_generated)
        kl = inferred.log_q - inferred.log_prior  # [B]
        return contest, Terms(inferred.log_lik[tf.newaxis], kl[tf.newaxis, :, tf.newaxis]), ratios.loss

    # Training it.

    shows = ("terms", "pairs")
    discriminator_optimizer = None  # of a model that is compiled with a game

    @property
    def bound_variables(self):
        rivals = {id(variable) for variable in self.discriminators.trainable_variables}
        return [variable for variable in self.trainable_variables if id(variable) not in rivals]

    @property
    def optimizers(self):
        return [*super().optimizers, *([self.discriminator_optimizer] if self.discriminator_optimizer else [])]

    def compile(self, optimizer="adam", objective=None, **settings):
        """Configures training, as the base class does.

        Args:
            optimizer: of encoder and decoder; the discriminators have one of the same class and settings, schedules of
                the rate among them. What is set later, as by a callback, is of the first one only.
            objective: of the discriminators' game; or a bound, for which they idle. None is the game.
            **settings: see the base class.
        """
        super().compile(optimizer, objective, **settings)
        self.discriminator_optimizer = None
        if self.objective.sees == "pairs":
            game = self.default_objective
            if type(self.objective) is not game:
                raise ValueError(
                    f"`objective` must be that of the model's discriminators, {game.__name__}, or a bound. "
                    f"Received: {self.objective}"
                )
            self.discriminator_optimizer = self.twin_optimizer(self.discriminators.trainable_variables)

    def train_step(self, data):
        """Takes one step of both players, from where both stand; or one on a bound."""
        if self.discriminator_optimizer is None:
            return super().train_step(data)
        with after(data):
            gradients, rivals_gradients, measured = in_mode(self, lambda: self.game_gradients(data), training=True)
            rivals = self.discriminators.trainable_variables
            self.optimizer.apply_gradients(zip(gradients, self.bound_variables, strict=True))
            self.discriminator_optimizer.apply_gradients(zip(rivals_gradients, rivals, strict=True))
            return self.update_metrics(measured)

    def game_gradients(self, data):
        """Returns the gradients of both players' losses by their variables, and what was measured."""
        with tf.GradientTape(persistent=True) as tape:
            loss, measured = self.training_loss(data)
            rivals_loss = tf.reduce_sum(measured["discriminator_loss"]) / global_batch_size(measured["loss"])
            rivals_loss, _ = self.penalized(rivals_loss, measured)
            loss, measured = self.penalized(loss, measured)
            loss = self.optimizer.scale_loss(loss)
            rivals_loss = self.discriminator_optimizer.scale_loss(rivals_loss)
        rivals = self.discriminators.trainable_variables
        return tape.gradient(loss, self.bound_variables), tape.gradient(rivals_loss, rivals), measured

    def training_loss(self, data):
        if self.discriminator_optimizer is None:
            return super().training_loss(data)
        x = self.domain.values(self.examples_of(data))
        seed = noise_seed(self.seed, Stream.TRAIN, self.optimizer.iterations, replica_id())
        contest, terms, rivals_loss = self.game(x, self.game_noise(tf.shape(x)[0], seed=seed))
        objective = self.objective(contest, self.optimizer.iterations)  # [B]
        measured = {"loss": -objective, "terms": terms, "discriminator_loss": rivals_loss}
        return -tf.reduce_sum(objective) / global_batch_size(x), measured
