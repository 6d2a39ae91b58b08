"""M1+M2, the stack: M2 on the latents of an M1 that was trained before.

D. P. Kingma, "Variational inference & deep learning" (2017), section 3.2.3; D. P. Kingma, D. J. Rezende, S. Mohamed,
M. Welling, "Semi-supervised learning with deep generative models" (2014).

    p(x, y, a, z) = p(y) p(z) p(a | y, z) p(x | a),   a = z_1 of the paper, z = z_2
    q(a | x), p(x | a)   of M1, fixed;   q(y | a), q(z | a, y), p(a | y, z)   of M2, Gaussian in a

    x [B, H, W, C] -> M1 -> a [S, B, A];   a -> log q(y | a) [S, B, K]
    a, y [C, 1, 1, K] -> q(z | a, y): z [C, S, B, D];   y, z -> p(a | y, z): batch [C, S, B]
    a -> M1's decoder -> log p(x | a) [S, B], the same for all classes

As the authors' code does, M2 looks only at the values of a that M1 uses, those whose posterior mean varies; the others
keep their prior N(0, 1), so that the bound is one on log p(x, y) still. The training of M1 is finished before
(`start_from`), its layers are not trainable.

Departures: those of M2; q(y | x) averages over draws of a, of which M2's training sees a new one in each step.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base.semi_supervised import Inference, SemiSupervisedModel
from vaezoo.layers.networks import JointMLP
from vaezoo.layers.posteriors import DiagonalGaussian, reparameterize
from vaezoo.models.m1 import M1

tfd = tfp.distributions

INIT_STDDEV = 1e-3  # of the layers of mean and log-scale, as in the thesis
ACTIVE_STDDEV = 0.1  # of a value's posterior mean over the images; the authors' threshold
ACTIVE_IMAGES = 1000  # that it is measured on


@keras.saving.register_keras_serializable(package="vaezoo")
class M1M2(SemiSupervisedModel):
    """The stacked generative semi-supervised model.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        auxiliary_dim: int, the dimension A of a, M1's latents.
        num_classes: int, K.
        hidden_units: widths of the hidden layers of each of M2's three networks.
        m1_hidden_units: widths of M1's encoder; its decoder has them in reverse.
        activation: Keras activation of all hidden layers.
        likelihood, principal_components: those of M1; see `VAE`.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=50,
        auxiliary_dim=50,
        num_classes=10,
        hidden_units=(500,),
        m1_hidden_units=(600, 600),
        activation="softplus",
        likelihood="bernoulli",
        principal_components=0,
        **kwargs,
    ):
        auxiliary_dim = checks.positive_int("auxiliary_dim", auxiliary_dim)
        super().__init__(image_shape, latent_dim, num_classes, auxiliary_dim, **kwargs)
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        dims = {"a": auxiliary_dim, "y": num_classes, "z": latent_dim}
        last = self.hidden_units[-1]

        def net(inputs, name):
            sizes = {key: dims[key] for key in inputs}
            return JointMLP(sizes, self.hidden_units, activation, dtype=self.dtype_policy, name=name)

        self.m1 = M1(
            self.example_shape,
            auxiliary_dim,
            m1_hidden_units,
            activation,
            likelihood=likelihood,
            principal_components=principal_components,
            dtype=self.dtype_policy,
            name="m1",
        )
        self.m1.trainable = False
        self.active = self.add_weight((auxiliary_dim,), "ones", trainable=False, autocast=False, name="active")
        self.classifier = net("a", "classifier")
        self.logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")
        self.logits.build((None, last))
        self.encoder = net("ay", "encoder")
        self.posterior = DiagonalGaussian(last, latent_dim, INIT_STDDEV, name="posterior")
        self.auxiliary_decoder = net("yz", "auxiliary_decoder")
        self.auxiliary_likelihood = DiagonalGaussian(last, auxiliary_dim, INIT_STDDEV, name="auxiliary_likelihood")
        self.likelihood = self.m1.likelihood

    def start_from(self, m1, images):
        """Takes over a trained M1, and finds which of its latents are in use.

        Args:
            m1: an `M1` of the same sizes.
            images: [N, H, W, C]; the first `ACTIVE_IMAGES` of them decide.

        Raises:
            ValueError: the sizes differ, or no latent is in use.
        """
        sizes = [tuple(weight.shape) for weight in self.m1.weights]
        if not isinstance(m1, M1) or [tuple(weight.shape) for weight in m1.weights] != sizes:
            raise ValueError(f"`m1` must be an M1 of the sizes of this model's. Received: {m1}")
        active = m1.features(images[:ACTIVE_IMAGES]).std(axis=0) > ACTIVE_STDDEV
        if not active.any():
            raise ValueError(f"`m1` must be trained. Received one none of whose {len(active)} latents is in use")
        self.m1.set_weights(m1.get_weights())
        self.active.assign(active.astype(np.float32))

    def auxiliary_posterior(self, x):
        """Images in [0, 1], [B, H, W, C] -> q(a | x): batch shape [B], event shape [A]."""
        return self.m1.approximate_posterior(x)

    def infer(self, x, noise_a):
        a, log_q_a = reparameterize(self.auxiliary_posterior(x), noise_a)  # [S, B, A], [S, B]
        used = a * self.active
        logits = self.logits(self.classifier(self.classifier.project(a=used)))
        return Inference(tf.nn.log_softmax(logits), a, log_q_a, self.encoder.project(a=used))

    def style_posterior(self, inference, y):
        return self.posterior.distribution(self.encoder(inference.style + self.encoder.project(y=y)))

    def auxiliary_prior(self, y, z):
        net = self.auxiliary_decoder
        p = self.auxiliary_likelihood.distribution(net(net.project(y=y) + net.project(z=z)))
        scale = tf.where(self.active > 0, p.stddev(), 1.0)
        return tfd.MultivariateNormalDiag(self.active * p.mean(), scale)

    def features(self, y, z, a):
        h = self.m1.decoder(tf.reshape(a, [-1, self.auxiliary_dim]))
        return tf.reshape(h, tf.concat([tf.shape(a)[:-1], [h.shape[-1]]], axis=0))
