"""What every latent-variable model shares: training step, metrics, the estimate of log p(x), export signatures."""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base.metrics import ExampleMean, TermHealth
from vaezoo.base.objectives import ELBO
from vaezoo.base.signatures import Signature
from vaezoo.domains import IMAGES
from vaezoo.inference.importance import ImportanceEstimate
from vaezoo.inference.terms import Terms, elbo, log_weights
from vaezoo.layers.batch_norm import batch_statistics
from vaezoo.layers.initialization import data_dependent_initialization
from vaezoo.layers.posteriors import code, reparameterize
from vaezoo.noise import Stream, noise_seed, standard_normal
from vaezoo.numerics import merge_samples, split_samples, tile_samples
from vaezoo.replicas import global_batch_size, replica_id

tfd = tfp.distributions
GAUSSIANS = tfd.MultivariateNormalDiag, tfd.MultivariateNormalTriL  # whose KL from a Gaussian prior has a closed form


class LatentVariableModel(keras.Model):
    """A model p(x, z) = p(x | z) p(z) of images, with an inference model q(z | x).

    Where this text says images, a model whose likelihood is of counts has documents, [B, V]; see `vaezoo.domains`.

    A subclass builds its networks in the constructor: `encoder` (images -> features), `posterior` (a layer of
    `vaezoo.posteriors`), `decoder` (z -> features) and `likelihood` (a layer of `vaezoo.likelihoods`). It may replace
    `prior`, `approximate_posterior` and `image_distribution`. A model whose latents form a hierarchy overrides `terms`,
    `encode`, `decode` and `generated` instead.

    All randomness enters as tensors of noise: `terms(x, noise)` is a pure function. The noise of a training step is a
    function of the seed given to `compile`, of `optimizer.iterations` and of the replica, so a run that is resumed
    from its weights and optimizer state goes on exactly as it would have.

    Args:
        image_shape: tuple of ints (H, W, C), or (V,) of documents over V words.
        latent_shape: tuple of ints, the shape of one z; (D,) unless a subclass has an arrangement of its own.
    """

    def __init__(self, image_shape, latent_shape, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = checks.positive_ints("image_shape", image_shape)
        self.latent_shape = checks.positive_ints("latent_shape", latent_shape)
        self.loss_tracker = ExampleMean(name="loss")
        self.elbo_tracker = ExampleMean(name="elbo")
        self.log_lik_tracker = ExampleMean(name="log_likelihood")
        self.kl_tracker = ExampleMean(name="kl")
        self.health = TermHealth(name="health")
        self.built = True  # by the constructor, all of it

    # The model: what a subclass may replace.

    @property
    def latent_dim(self):
        """The number of values in one z."""
        return math.prod(self.latent_shape)

    @property
    def domain(self):
        """What an example is, as the likelihood says: `vaezoo.domains.IMAGES`, unless it names another one."""
        return getattr(getattr(self, "likelihood", None), "domain", IMAGES)

    @property
    def prior(self):
        """p(z): batch shape [], event shape [D]."""
        return tfd.MultivariateNormalDiag(tf.zeros(self.latent_shape), tf.ones(self.latent_shape))

    def approximate_posterior(self, x):
        """Images in [0, 1], [B, H, W, C], or counts -> q(z | x): batch shape [B], event shape [D]."""
        return self.posterior.distribution(self.encoder(self.domain.inputs(x)))

    def image_distribution(self, z):
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
        p = self.image_distribution(merge_samples(z))  # batch [S*B], event [H, W, C]
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
        return self.image_distribution(z).mean()

    def generated(self, noise):
        """Returns p(x | z) at the z that noise, from `noise(1, B)`, gives in the prior: batch shape [B]."""
        return self.image_distribution(noise[0])

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

    def importance_estimate(self, x, *, num_samples, chunk=100, seed=0):
        """Estimates log p(x) = log E_q[p(x, z) / q(z | x)] by importance sampling, in memory constant in `num_samples`.

        Args:
            x: images [B, H, W, C].
            num_samples: int, k.
            chunk: how many samples are drawn at once; memory grows with chunk * B.
            seed: int.

        Returns:
            `ImportanceEstimate`.
        """
        self.domain.check("x", x, self.image_shape)
        num_samples, chunk = checks.positive_int("num_samples", num_samples), checks.positive_int("chunk", chunk)
        weight_sums = self._make_weight_sums()
        log_sum = log_sum_of_squares = -np.inf
        log_lik = kl = 0.0
        for index, start in enumerate(range(0, num_samples, chunk)):
            seed_of_chunk = noise_seed(seed, Stream.IMPORTANCE, index)
            sums = weight_sums(tf.convert_to_tensor(x), seed_of_chunk, min(chunk, num_samples - start))
            log_sum = np.logaddexp(log_sum, sums[0])
            log_sum_of_squares = np.logaddexp(log_sum_of_squares, sums[1])
            log_lik, kl = log_lik + np.float64(sums[2]), kl + np.float64(sums[3])
        return ImportanceEstimate(
            tf.convert_to_tensor(log_sum - np.log(num_samples), tf.float32),
            tf.convert_to_tensor(np.exp(2.0 * log_sum - log_sum_of_squares), tf.float32),
            tf.convert_to_tensor(log_lik / num_samples, tf.float32),
            tf.convert_to_tensor(kl / num_samples, tf.float32),
        )

    def log_likelihood(self, x, *, num_samples=1000, chunk=100, seed=0):
        """Returns the importance-sampled log p(x), nats, [B]; arguments as for `importance_estimate`."""
        return self.importance_estimate(x, num_samples=num_samples, chunk=chunk, seed=seed).log_likelihood

    def _make_weight_sums(self):
        """Returns the cached graph (x, seed, S) -> log sum_s w_s, log sum_s w_s^2, sum_s log_lik, sum_s kl."""
        if self.weight_sums_function is None:

            def weight_sums(x, seed, num_samples):
                terms = self.terms(x, self.noise(num_samples, tf.shape(x)[0], seed=seed))
                log_w = log_weights(terms)  # [S, B]
                return (
                    tf.reduce_logsumexp(log_w, axis=0),
                    tf.reduce_logsumexp(2.0 * log_w, axis=0),
                    tf.reduce_sum(terms.log_lik, axis=0),
                    tf.reduce_sum(terms.kl, axis=0),
                )

            self.weight_sums_function = tf.function(weight_sums, jit_compile=self.compiled and self.jit_compile)
        return self.weight_sums_function

    weight_sums_function = None
    default_objective = ELBO  # what `compile` makes if it is given none

    def kl_per_dimension(self, x):
        """Returns KL(q(z_d | x) || p(z_d)) of a Gaussian q's marginals against N(0, 1), nats, [B, D]; else None."""
        q = self.approximate_posterior(self.domain.values(x))
        if not isinstance(q, GAUSSIANS):
            return None
        marginals = tfd.Normal(q.mean(), q.stddev())
        return tfd.kl_divergence(marginals, tfd.Normal(0.0, 1.0))

    # Training it.

    initialized = None  # a weight of models with layers that are set from data: whether they have been
    initial_images = 0  # that they are set from, where so many are at hand

    def _track_initialization(self):
        """Makes that weight; the last line of a constructor that may have made such layers."""
        self.initial_images = max(getattr(layer, "initial_images", 0) for layer in self._flatten_layers())
        if self.initial_images:
            self.initialized = self.add_weight((), "zeros", "bool", trainable=False, name="initialized")

    def initialize(self, x):
        """Sets weight-normalised layers, and principal components, from a first batch of images, [B, H, W, C]; once.

        `fit` calls it. Models without such layers have nothing to set, and loaded weights are never touched. Several
        workers must hand in the same images.
        """
        if self.initialized is None or self.initialized.numpy():
            return
        with data_dependent_initialization(), batch_statistics(update=False):  # as in the first step
            x = tf.convert_to_tensor(x)
            self.terms(x, self.noise(1, tf.shape(x)[0], seed=noise_seed(0, Stream.INITIALIZATION)))
        self.initialized.assign(True)

    def compile(
        self,
        optimizer="adam",
        objective=None,
        *,
        seed=0,
        jit_compile=False,
        steps_per_execution=1,
        run_eagerly=False,
    ):
        """Configures training.

        Args:
            optimizer: a Keras optimizer, or its name.
            objective: one of `vaezoo.objectives`; None is the model's `default_objective()`.
            seed: int, of the noise.
            jit_compile: compile the steps with XLA; on CPU that pays for MLPs and not for convolutions.
            steps_per_execution: as in `keras.Model.compile`; 1 under a strategy of several replicas, whose collectives
                fail inside Keras' loop over steps (TensorFlow 2.21).
            run_eagerly: as in `keras.Model.compile`.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        if steps_per_execution != 1 and replicas > 1:
            raise ValueError(
                f"`steps_per_execution` must be 1 with {replicas} replicas. Received: {steps_per_execution}"
            )
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        self.optimizer.build(self.bound_variables)  # now, or the first step would be traced twice
        self.objective = self.default_objective() if objective is None else objective
        self.seed = int(seed)
        self.weight_sums_function = None

    def get_compile_config(self):
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "seed": self.seed,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
        }

    def compile_from_config(self, config):
        config = {**config}
        for key in ("optimizer", "objective"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        self.compile(**config)

    @property
    def bound_variables(self):
        """The variables that `terms` depend on and `optimizer` moves: all trainable ones, but for an adversary's."""
        return self.trainable_variables

    @property
    def optimizers(self):
        """All optimizers, whose states a run needs to go on exactly: an adversary has one of its own."""
        return [self.optimizer]

    def train_step(self, data):
        """Takes one step on the objective; `data` is x or (x, y), of which y is ignored."""
        gradients, measured = self.training_gradients(data)
        self.optimizer.apply_gradients(zip(gradients, self.bound_variables, strict=True))
        return self._update_metrics(**measured)

    def training_gradients(self, data):
        """Returns this replica's share of what a step descends, one per bound variable, and what was measured.

        They are scaled as `optimizer.scale_loss` scales a loss, and may be another field than a gradient.
        """
        with tf.GradientTape() as tape, batch_statistics():
            loss, measured = self.training_loss(data)
            scaled_loss = self.optimizer.scale_loss(loss)
        return tape.gradient(scaled_loss, self.bound_variables), measured

    def training_loss(self, data):
        """Returns this replica's share of the loss, and what `_update_metrics` is to be given.

        Gradients are summed over replicas: each divides by the global batch, whose parts may differ in size.
        """
        x = self._images_of(data)
        terms = self.terms(x, self._training_noise(x), analytic_kl=self.objective.analytic_kl)
        objective = self.objective(terms, self.optimizer.iterations)  # [B]
        return -tf.reduce_sum(objective) / global_batch_size(x), {"loss": -objective, "terms": terms}

    def _training_noise(self, x, *stream):
        """Returns the noise of this step and replica for images x; `stream` tells apart several of one step."""
        seed = noise_seed(self.seed, Stream.TRAIN, self.optimizer.iterations, replica_id(), *stream)
        return self.noise(self.objective.num_samples, tf.shape(x)[0], seed=seed)

    def test_step(self, data):
        """Measures the ELBO (beta = 1, sampled KL, one sample per example) with noise that is the same at each call.

        The noise of a batch is told apart by the number of examples measured before it.
        """
        return self._update_metrics(**self.measure(data))

    def measure(self, data):
        """Returns what `_update_metrics` is to be given in a test step."""
        x = self._images_of(data)
        seen = tf.cast(self.elbo_tracker.count, tf.int32)
        noise = self.noise(1, tf.shape(x)[0], seed=noise_seed(self.seed, Stream.TEST, seen, replica_id()))
        terms = self.terms(x, noise)
        return {"loss": -elbo(terms), "terms": terms}

    @property
    def metrics(self):
        return [self.loss_tracker, self.elbo_tracker, self.log_lik_tracker, self.kl_tracker]

    def _update_metrics(self, loss, terms, **measured):
        """Updates the metrics, and returns the logs of those that the step has measured.

        Args:
            loss: [B] or a scalar per example.
            terms: `Terms`; with a `kl` of None there is no ELBO either.
            measured: values of further metrics, by their names, [B].
        """
        self.health.update_state(terms)
        measured |= {"loss": loss, "log_likelihood": tf.reduce_mean(terms.log_lik, axis=0)}
        if terms.kl is not None:
            kl = tf.reduce_mean(tf.reduce_sum(terms.kl, axis=-1), axis=0)
            measured |= {"elbo": elbo(terms), "kl": kl}
        metrics = {metric.name: metric for metric in self.metrics}
        metrics = {name: metrics[name] for name in sorted(measured, key=list(metrics).index)}
        for name, metric in metrics.items():
            metric.update_state(measured[name])
        logs = {name: metric.result() for name, metric in metrics.items()}
        strategy = tf.distribute.get_strategy()
        multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if multi_worker and strategy.extended._in_multi_worker_mode():
            # On this condition Keras 3 averages the logs along axis 0, which scalars do not have.
            logs = tf.nest.map_structure(lambda value: tf.reshape(value, [1]), logs)
        return logs

    def _get_metrics_result_or_logs(self, logs):
        """Returns the metrics of all replicas, of those that the last step has measured.

        Keras does so only where a step measures every metric; else its logs are a mean of the replicas' own means,
        which is wrong where their batches differ in size.
        """
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _images_of(self, data):
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError("`sample_weight` must be None: a likelihood has no weights. Received a tensor.")
        if x.shape.rank is not None and tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"`x` must have shape [batch, {', '.join(map(str, self.image_shape))}]. Received: {x.shape}"
            )
        return x

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: the constructor has built the model. Keras' symbolic build fails with several workers."""

    def fit(self, x=None, *args, validation_data=None, **kwargs):
        """Trains on images, as `keras.Model.fit` does; an array `x` is checked whole, a dataset's first batch is."""
        self.domain.check("x", x, self.image_shape)
        if self.initialized is not None and not self.initialized.numpy():
            self.initialize(first_images(x, self.initial_images))
        if validation_data is not None:
            held_out = validation_data[0] if isinstance(validation_data, (tuple, list)) else validation_data
            self.domain.check("validation_data", held_out, self.image_shape)
        return super().fit(x, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Measures the ELBO on images, as `keras.Model.evaluate` does."""
        self.domain.check("x", x, self.image_shape)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Reconstructs images, as `keras.Model.predict` does."""
        self.domain.check("x", x, self.image_shape)
        return super().predict(x, *args, **kwargs)

    # Exporting it.

    def export_signatures(self):
        """Returns the list of `Signature`s that exporters and tests loop over; the first one is served by default."""
        images = tf.TensorSpec([None, *self.image_shape], tf.float32, self.domain.name)
        z = tf.TensorSpec([None, *self.latent_shape], tf.float32, "z")
        seed = tf.TensorSpec([None], tf.int32, "seed")

        def encode(images):
            return {"z": self.encode(images)}

        def decode(z):
            return {self.domain.name: self.decode(z)}

        def sample(seed):
            return {self.domain.name: self.generate(self._noise_of_rows(seed, Stream.SAMPLE))}

        def score(images, seed):
            terms = self.terms(images, self._noise_of_rows(seed, Stream.IMPORTANCE))
            return {"elbo": elbo(terms)}

        def sample_lite(num_samples):
            # LiteRT has no stateless generator among its builtin ops; its own draws anew at every call.
            return {self.domain.name: self.generate(tf.random.normal(tf.stack([1, num_samples, *self.noise_shape])))}

        return [
            Signature("encode", encode, (images,)),
            Signature("decode", decode, (z,)),
            Signature("sample", sample, (seed,), lite=False),
            Signature("score", score, (images, seed), lite=False),
            Signature("sample", sample_lite, (tf.TensorSpec([], tf.int32, "num_samples"),), saved_model=False),
        ]

    def _noise_of_rows(self, seeds, stream):
        """Returns the noise of one draw per row, [1, n, D]; row i depends on seeds[i] only, whatever the batch."""

        def row(seed):
            return self.noise(1, 1, seed=noise_seed(seed, stream))[0, 0]

        rows = tf.map_fn(row, seeds, fn_output_signature=tf.TensorSpec(self.noise_shape))  # [n, D]
        return rows[tf.newaxis]

    def get_config(self):
        return {
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "image_shape": self.image_shape,
        }


def first_images(x, most):
    """Returns a first batch, of `most` images at most, of what `fit` takes: arrays, or a `tf.data.Dataset`.

    A dataset's elements are x, (x, y), or ((x_labelled, y), x).
    """
    if hasattr(x, "element_spec"):
        x = next(iter(x))
        while isinstance(x, tuple):
            x = x[1] if isinstance(x[0], tuple) else x[0]
    if not hasattr(x, "shape"):
        raise ValueError(f"`x` must be images or a tf.data.Dataset; else call `initialize` before. Received: {type(x)}")
    return x[:most]
