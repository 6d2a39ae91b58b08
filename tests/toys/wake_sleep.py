"""Wake and sleep: two phases a step, with different variables. G. Hinton et al., "The wake-sleep algorithm" (1995).

wake:  the decoder climbs log p(x | z), at z from q(z | x)
sleep: the encoder climbs log q(z | x), at x, z from p(x, z)
"""

import keras
import tensorflow as tf

from vaezoo.base import LatentVariableModel
from vaezoo.base.descent import after
from vaezoo.base.metrics import ExampleMean
from vaezoo.layers import likelihoods, networks, posteriors
from vaezoo.replicas import global_batch_size


@keras.saving.register_keras_serializable(package="toys")
class WakeSleep(LatentVariableModel):
    def __init__(self, example_shape, latent_dim=3, hidden_units=16, **kwargs):
        super().__init__(example_shape, (latent_dim,), **kwargs)
        self.encoder = networks.mlp(self.example_shape, (hidden_units,), "tanh", name="encoder")
        self.posterior = posteriors.DiagonalGaussian(hidden_units, latent_dim)
        self.decoder = networks.mlp(self.latent_shape, (hidden_units,), "tanh", name="decoder")
        self.likelihood = likelihoods.Bernoulli(hidden_units, self.example_shape)
        self.sleep_tracker = ExampleMean(name="sleep_loss")

    @property
    def bound_variables(self):
        return [*self.decoder.trainable_variables, *self.likelihood.trainable_variables]

    @property
    def sleeping_variables(self):
        return [*self.encoder.trainable_variables, *self.posterior.trainable_variables]

    @property
    def optimizers(self):
        return [*super().optimizers, self.sleep_optimizer]

    def compile(self, *args, **settings):
        super().compile(*args, **settings)
        self.sleep_optimizer = self.twin_optimizer(self.sleeping_variables)

    def train_step(self, data):
        x = self.examples_of(data)
        with after(data):
            asleep = self.descend(lambda: self.sleep(x), self.sleeping_variables, self.sleep_optimizer)
            awake = self.descend(lambda: self.training_loss(x), self.bound_variables, self.optimizer)
            return self.update_metrics({**asleep, **awake})

    def sleep(self, x):
        z = self.training_noise(x, 1)[0]
        dreams = tf.stop_gradient(self.generate(z[tf.newaxis]))
        loss = -self.approximate_posterior(dreams).log_prob(z)
        return tf.reduce_sum(loss) / global_batch_size(x), {"loss": loss, "sleep_loss": loss}
