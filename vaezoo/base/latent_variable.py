"""Latent-variable models: terms of the bound, codes, samples, the estimate of log p(x)."""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base.feature_extractor import FeatureExtractor
from vaezoo.base.metrics import ExampleMean, TermHealth
from vaezoo.base.objectives import ELBO
from vaezoo.base.stochastic_model import StochasticModel
from vaezoo.inference.importance import importance_estimate, weight_sums
from vaezoo.inference.terms import Terms, elbo
from vaezoo.layers.posteriors import code, reparameterize
from vaezoo.noise import Stream, noise_seed, standard_normal
from vaezoo.numerics import merge_samples, split_samples, tile_samples
from vaezoo.replicas import global_batch_size, replica_id

tfd = tfp.distributions

GAUSSIANS = tfd.MultivariateNormalDiag, tfd.MultivariateNormalTriL  # whose KL from a Gaussian prior has a closed form


class LatentVariableModel(StochasticModel):
    """A model p(x, z) = p(x | z) p(z) of examples, with an inference model q(z | x).

    Examples are images in [0, 1], [B, H, W, C], unless the likelihood says otherwise; see `vaezoo.domains`.

    A subclass builds its networks in the constructor: `encoder` (examples -> features), `posterior` (a layer of
    `vaezoo.posteriors`), `decoder` (z -> features) and `likelihood` (a layer of `vaezoo.likelihoods`). It may replace
    `prior`, `approximate_posterior` and `likelihood_distribution`. A model whose latents form a hierarchy overrides
    `terms`, `encode`, `decode` and `generated` instead. A model without an encoder sets `encode = None`, one without a
    prior `generate = None`: it then has no signature of that name.

    All randomness enters as tensors of noise: `terms(x, noise)` is a pure function.

    Args:
        example_shape: tuple of ints, (H, W, C) of an image, or (V,) of a document over V words.
        latent_shape: tuple of ints, the shape of one z; (D,) unless a subclass has an arrangement of its own.
    """

    monitor, monitor_mode = "val_elbo", "max"
    default_objective = ELBO

    def __init__(self, example_shape, latent_shape, **kwargs):
        super().__init__(example_shape, **kwargs)
        self.latent_shape = checks.positive_ints("latent_shape", latent_shape)
        self.elbo_tracker = ExampleMean("elbo", "up")
        self.log_lik_tracker = ExampleMean("log_likelihood", "up")
        self.kl_tracker = ExampleMean(name="kl")
        self.health = TermHealth(name="health")

    # The model: what a subclass may replace.

    @property
    def image_shape(self):
        """`example_shape`, by the name that models of images know it by."""
        return self.example_shape

    @property
    def latent_dim(self):
        """The number of values in one z."""
        return math.prod(self.latent_shape)

    @property
    def prior(self):
        """p(z): batch shape [], event shape [D]."""
        return tfd.MultivariateNormalDiag(tf.zeros(self.latent_shape), tf.ones(self.latent_shape))

    def approximate_posterior(self, x):
        """Images in [0, 1], [B, H, W, C], or counts -> q(z | x): batch shape [B], event shape [D]."""
        return self.posterior.distribution(self.encoder(self.domain.inputs(x)))

    def likelihood_distribution(self, z):
        """Latents [B, D] -> p(x | z): batch shape [B], event shape [H, W, C]."""
        return self.likelihood.distribution(self.decoder(z))

    @property
    def noise_shape(self):
        """The shape of the noise behind one draw of all that is random about an example; that of z, if that is all."""
        return self.latent_shape

    def noise(self, num_samples, batch_size, *, seed):
        """Returns the standard normal noise behind `num_samples` draws for each example, [S, B, *noise_shape].

        Args:
            num_samples: int, S.
            batch_size: int or scalar tensor, B.
            seed: stateless seed, int32 [2].
        """
        return standard_normal([num_samples, batch_size, *self.noise_shape], seed)

    def terms(self, x, noise, *, analytic_kl=False):
        """Returns the `Terms` of images x under the posterior draws that the noise stands for.

        Args:
            x: images, uint8 in 0..255 or floats in [0, 1], [B, H, W, C].
            noise: from `noise`, [S, B, D].
            analytic_kl: True gives KL(q || p) in closed form, where q is Gaussian, instead of its sampled value.
        """
        x = self.domain.values(x)
        num_samples = tf.shape(noise)[0]
        q = self.approximate_posterior(x)  # batch [B], event [D]
        z, log_q = reparameterize(q, noise)  # [S, B, D], [S, B]
        p = self.likelihood_distribution(merge_samples(z))  # batch [S*B], event [H, W, C]
        log_lik = split_samples(p.log_prob(tile_samples(x, num_samples)), num_samples)  # [S, B]
        if analytic_kl and isinstance(q, GAUSSIANS):
            kl = tf.broadcast_to(tfd.kl_divergence(q, self.prior), tf.shape(log_q))  # [S, B]
        else:
            kl = log_q - self.prior.log_prob(z)  # [S, B]
        return Terms(log_lik, kl[..., tf.newaxis])

    def encode(self, x):
        """Returns the deterministic codes of images: z at zero noise, the posterior mean of a Gaussian, [B, D]."""
        return code(self.approximate_posterior(self.domain.values(x)))

    def decode(self, z):
        """Returns E[x | z], images [B, H, W, C] with values in [0, 1]."""
        return self.likelihood_distribution(z).mean()

    def generated(self, noise):
        """Returns p(x | z) at the z that noise, from `noise(1, B)`, gives in the prior: batch shape [B]."""
        return self.likelihood_distribution(noise[0])

    def generate(self, noise):
        """Returns E[x | z] for z from the prior, images [B, H, W, C], from `noise(1, B)`."""
        return self.generated(noise).mean()

    def log_prob_given_noise(self, x, noise):
        """Returns log p(x | z) at the z that noise gives in the prior, [S, B]: E over noise of its exponential is p(x).

        Args:
            x: images, uint8 in 0..255 or floats in [0, 1], [B, H, W, C].
            noise: from `noise`, [S, B, D].
        """
        num_samples = tf.shape(noise)[0]
        p = self.generated(merge_samples(noise)[tf.newaxis])
        return split_samples(p.log_prob(tile_samples(self.domain.values(x), num_samples)), num_samples)

    # Using it.

    def call(self, x):
        """Reconstructs images: `decode(encode(x))`, [B, H, W, C]."""
        return self.decode(self.encode(x))

    @property
    def has_call(self):
        return type(self).call is not LatentVariableModel.call or None not in (self.encode, self.decode)

    def feature_extractor(self, **kwargs):
        """Returns `encode` as a Keras layer, for Sequential and functional models; see `FeatureExtractor`."""
        return FeatureExtractor(self, **kwargs)

    def sample(self, num_samples, *, seed, temperature=1.0):
        """Returns E[x | z] for `num_samples` draws of z from the prior, [num_samples, H, W, C].

        Args:
            num_samples: int, at least 1.
            seed: int.
            temperature: the standard deviation of the draws is multiplied by it; 1 is the model.
        """
        num_samples = checks.positive_int("num_samples", num_samples)
        checks.non_negative("temperature", temperature)
        noise = self.noise(1, num_samples, seed=noise_seed(seed, Stream.SAMPLE))
        return self.generate(temperature * noise)

    weight_sums_function = None  # the graph behind `importance_estimate`, once it is there

    def importance_estimate(self, x, *, num_samples, chunk=100, seed=0):
        """Estimates log p(x) by importance sampling from q(z | x), in memory constant in `num_samples`.

        Arguments and result are those of `vaezoo.inference.importance.importance_estimate`.
        """
        self.domain.check("x", x, self.example_shape)
        if self.weight_sums_function is None:
            sums = weight_sums(self.terms, self.noise)
            self.weight_sums_function = tf.function(sums, jit_compile=self.compiled and self.jit_compile)
        return importance_estimate(self.weight_sums_function, x, num_samples=num_samples, chunk=chunk, seed=seed)

    def log_likelihood(self, x, *, num_samples=1000, chunk=100, seed=0):
        """Returns the importance-sampled log p(x), nats, [B]; arguments as for `importance_estimate`."""
        return self.importance_estimate(x, num_samples=num_samples, chunk=chunk, seed=seed).log_likelihood

    def kl_per_dimension(self, x):
        """Returns KL(q(z_d | x) || p(z_d)) of a Gaussian q's marginals against N(0, 1), nats, [B, D]; else None."""
        q = self.approximate_posterior(self.domain.values(x))
        if not isinstance(q, GAUSSIANS):
            return None
        marginals = tfd.Normal(q.mean(), q.stddev())
        return tfd.kl_divergence(marginals, tfd.Normal(0.0, 1.0))

    # Training it.

    def compile(self, optimizer="adam", objective=None, **settings):
        """Configures training; see `StochasticModel.compile`."""
        super().compile(optimizer, objective, **settings)
        self.weight_sums_function = None

    def forward(self, x):
        self.terms(x, self.noise(1, tf.shape(x)[0], seed=noise_seed(0, Stream.INITIALIZATION)))

    def training_loss(self, data):
        """Returns this replica's share of the loss, and the measured values."""
        x = self.examples_of(data)
        terms = self.terms(x, self.training_noise(x), analytic_kl=self.objective.analytic_kl)
        objective = self.objective(terms, self.optimizer.iterations)  # [B]
        return -tf.reduce_sum(objective) / global_batch_size(x), {"loss": -objective, "terms": terms}

    def training_noise(self, x, *stream):
        """Returns the noise of this step and replica for examples x; `stream` tells apart several of one step."""
        seed = noise_seed(self.seed, Stream.TRAIN, self.optimizer.iterations, replica_id(), *stream)
        return self.noise(self.objective.num_samples, tf.shape(x)[0], seed=seed)

    def measure(self, data):
        """Measures the ELBO (beta = 1, sampled KL, one sample per example) with noise that is the same at each call.

        The noise of a batch is told apart by the number of examples measured before it.
        """
        x = self.examples_of(data)
        seen = tf.cast(self.elbo_tracker.count, tf.int32)
        noise = self.noise(1, tf.shape(x)[0], seed=noise_seed(self.seed, Stream.TEST, seen, replica_id()))
        terms = self.terms(x, noise)
        return {"loss": -elbo(terms), "terms": terms}

    def update_metrics(self, measured):
        """Updates the metrics; "terms" among the measured values stand for log-likelihood, KL and ELBO.

        `Terms` with a `kl` of None have no ELBO.
        """
        terms = measured.pop("terms")
        self.health.update_state(terms)
        measured["log_likelihood"] = tf.reduce_mean(terms.log_lik, axis=0)
        if terms.kl is not None:
            measured["kl"] = tf.reduce_mean(tf.reduce_sum(terms.kl, axis=-1), axis=0)
            measured["elbo"] = elbo(terms)
        return super().update_metrics(measured)

    def broken_terms(self):
        return self.health.broken()
