"""A classifier with a Gaussian posterior of its weights: C. Blundell et al., "Weight uncertainty in networks" (2015).

p(w) = N(0, I), p(y | x, w) = Categorical([x, 1] w), q(w) = N(mean, stddev^2); KL(q || p) is of the whole data set.
"""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo.base import StochasticModel
from vaezoo.base.metrics import ExampleMean
from vaezoo.noise import Stream, noise_seed, standard_normal
from vaezoo.objectives import ELBO, Terms, elbo
from vaezoo.replicas import global_batch_size, replica_id

tfd = tfp.distributions


@keras.saving.register_keras_serializable(package="toys")
class BayesianClassifier(StochasticModel):
    supervised, monitor, monitor_mode = True, "val_elbo", "max"
    default_objective = ELBO

    def __init__(self, example_shape, num_classes, **kwargs):
        super().__init__(example_shape, **kwargs)
        shape = math.prod(self.example_shape) + 1, num_classes
        self.mean = self.add_weight(shape, "zeros", name="mean")
        self.log_stddev = self.add_weight(shape, keras.initializers.Constant(-3.0), name="log_stddev")
        self.track_num_examples()
        self.elbo_tracker, self.error_rate_tracker = ExampleMean(name="elbo"), ExampleMean(name="error_rate")

    def log_probabilities(self, x, noise):  # [S, P, K] -> [S, B, K]
        rows = tf.reshape(self.domain.values(x), [-1, self.mean.shape[0] - 1])
        rows = tf.pad(rows, [[0, 0], [0, 1]], constant_values=1)
        return tf.nn.log_softmax(tf.einsum("bp,spk->sbk", rows, self.mean + tf.exp(self.log_stddev) * noise))

    def terms_of_labels(self, x, y, num_samples, *stream):
        noise = standard_normal([num_samples, *self.mean.shape], noise_seed(self.seed, *stream))
        log_p = self.log_probabilities(x, noise)
        kl = tf.reduce_sum(tfd.kl_divergence(tfd.Normal(self.mean, tf.exp(self.log_stddev)), tfd.Normal(0.0, 1.0)))
        log_lik = tf.reduce_sum(log_p * tf.one_hot(y, log_p.shape[-1]), axis=-1)
        return Terms(log_lik, tf.zeros([1, 1, 0]), self.example_share(kl))

    def training_loss(self, data):
        step, (x, y) = self.optimizer.iterations, data
        terms = self.terms_of_labels(x, y, self.objective.num_samples, Stream.TRAIN, step, replica_id())
        bound = self.objective(terms, step)
        return -tf.reduce_sum(bound) / global_batch_size(x), {"loss": -bound, "elbo": bound}

    def measure(self, data):
        bound = elbo(self.terms_of_labels(*data, 10, Stream.TEST))
        wrong = tf.argmax(self.class_probabilities(data[0]), axis=-1) != tf.cast(data[1], tf.int64)
        return {"loss": -bound, "elbo": bound, "error_rate": 100.0 * tf.cast(wrong, tf.float32)}

    def class_probabilities(self, x):
        noise = np.random.default_rng(0).standard_normal((10, *self.mean.shape)).astype("float32")
        return tf.reduce_mean(tf.exp(self.log_probabilities(x, noise)), axis=0)
