"""A decoder without an encoder: latents are sampled by HMC. M. Hoffman, "Learning deep latent Gaussian models with
Markov chain Monte Carlo" (2017). The decoder climbs log p(x | z) at the end of a chain that begins in the prior.
"""

import keras
import tensorflow as tf

from vaezoo.base import LatentVariableModel
from vaezoo.inference.hmc import FIRST_STEP_SIZE, adapted, hmc_step
from vaezoo.layers import likelihoods, networks
from vaezoo.noise import Stream, noise_seed
from vaezoo.replicas import global_batch_size, replica_id


@keras.saving.register_keras_serializable(package="toys")
class HMCDecoder(LatentVariableModel):
    encode = terms = approximate_posterior = kl_per_dimension = None
    monitor, monitor_mode = "val_loss", "min"

    def __init__(self, example_shape, latent_dim=3, hidden_units=16, num_steps=4, **kwargs):
        super().__init__(example_shape, (latent_dim,), **kwargs)
        self.decoder = networks.mlp(self.latent_shape, (hidden_units,), "tanh", name="decoder")
        self.likelihood = likelihoods.Bernoulli(hidden_units, self.example_shape)
        initial = keras.initializers.Constant(tf.math.log(FIRST_STEP_SIZE).numpy())
        self.log_step_size = self.add_weight((), initial, trainable=False, name="log_step_size")
        self.num_steps = num_steps

    def joint(self, x, z):
        return self.likelihood_distribution(z).log_prob(x) + self.prior.log_prob(z)

    def posterior_draw(self, x, *stream):
        z = self.noise(1, tf.shape(x)[0], seed=noise_seed(self.seed, *stream))[0]
        size = log_step_size = tf.fill(tf.shape(x)[:1], tf.convert_to_tensor(self.log_step_size))
        for step in range(self.num_steps):
            seed = noise_seed(self.seed, *stream, Stream.CHAIN, step)
            z, rate = hmc_step(lambda z: self.joint(x, z), z, size, num_leapfrog_steps=3, seed=seed)
            size = adapted(size, rate)
        return tf.stop_gradient(z), tf.reduce_mean(size - log_step_size)

    def training_loss(self, data):
        x = self.domain.values(self.examples_of(data))
        z, change = self.posterior_draw(x, Stream.TRAIN, self.optimizer.iterations, replica_id())
        self.log_step_size.assign_add(change)
        loss = -self.joint(x, z)
        return tf.reduce_sum(loss) / global_batch_size(x), {"loss": loss}

    def measure(self, data):
        x = self.domain.values(self.examples_of(data))
        return {"loss": -self.joint(x, self.posterior_draw(x, Stream.TEST)[0])}
