"""The auxiliary deep generative model, ADGM.

L. Maaloe, C. K. Sonderby, S. K. Sonderby, O. Winther, "Auxiliary deep generative models" (2016).

    p(y) = 1/K,  p(z) = N(z; 0, I)                                                            (3), (4)
    p(a | y, z) = N(a; .),  p(x | y, z) = Bernoulli or Gaussian                               (5), (6)
    q(a | x) = N(a; .),  q(y | a, x) = Cat(y; .),  q(z | a, y, x) = N(z; .)                    (7)-(9)

each by a network of its own, with a linear layer for the mean and the log of the scale, (14)-(16).

    x [B, HWC] -> q(a | x): a [S, B, A];  x, a -> log q(y | a, x) [S, B, K]
    x, a [S, B, .], y [C, 1, 1, K] -> q(z | a, y, x): z [C, S, B, D]
    y, z -> p(a | y, z): batch [C, S, B];  y, z -> features [C, S, B, F] -> log p(x | y, z) [C, S, B]

p(a | y, z) as in the experiments; (5) prints p(a | z, y, x). Departure: the layers of mean and log-scale start from
N(0, 0.001^2), not from Glorot's distribution, so that the posteriors start at the priors; see `init_stddev`.
"""

import math

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.base.semi_supervised import Inference, SemiSupervisedModel
from vaezoo.layers import likelihoods
from vaezoo.layers.networks import JointMLP
from vaezoo.layers.posteriors import DiagonalGaussian, reparameterize
from vaezoo.layers.principal_components import PrincipalComponents


@keras.saving.register_keras_serializable(package="vaezoo")
class ADGM(SemiSupervisedModel):
    """The auxiliary deep generative model.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        auxiliary_dim: int, the dimension A of a.
        num_classes: int, K.
        hidden_units: widths of the hidden layers of each of the five networks.
        activation: Keras activation of the hidden layers.
        batch_normalization: whether hidden layers are normalised over the batch.
        likelihood, principal_components: see `VAE`.
        init_stddev: of the weights of the layers of mean and log-scale; None for Glorot's.

    Raises:
        ValueError: if an argument is not as described.
    """

    DECODER_INPUTS = ("y", "z")  # of p(x | .)

    def __init__(
        self,
        image_shape,
        latent_dim=100,
        auxiliary_dim=100,
        num_classes=10,
        hidden_units=(500, 500),
        activation="relu",
        batch_normalization=False,
        likelihood="bernoulli",
        principal_components=0,
        init_stddev=1e-3,
        **kwargs,
    ):
        auxiliary_dim = checks.positive_int("auxiliary_dim", auxiliary_dim)
        super().__init__(image_shape, latent_dim, num_classes, auxiliary_dim, **kwargs)
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.batch_normalization = checks.boolean("batch_normalization", batch_normalization)
        self.components = PrincipalComponents.of_images(self.example_shape, principal_components)

        pixels = math.prod(self.example_shape)
        dims = {"x": principal_components or pixels, "a": auxiliary_dim, "y": num_classes, "z": latent_dim}
        last = self.hidden_units[-1]

        def net(inputs, name):
            return JointMLP(
                {key: dims[key] for key in inputs},
                self.hidden_units,
                activation,
                batch_normalization=batch_normalization,
                dtype=self.dtype_policy,
                name=name,
            )

        self.auxiliary_encoder = net("x", "auxiliary_encoder")
        self.auxiliary = DiagonalGaussian(last, auxiliary_dim, init_stddev, name="auxiliary")
        self.classifier = net("xa", "classifier")
        self.logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")
        self.logits.build((None, last))
        self.encoder = net("xay", "encoder")
        self.posterior = DiagonalGaussian(last, latent_dim, init_stddev, name="posterior")
        self.auxiliary_decoder = net("yz", "auxiliary_decoder")
        self.auxiliary_likelihood = DiagonalGaussian(last, auxiliary_dim, init_stddev, name="auxiliary_likelihood")
        self.decoder = net(self.DECODER_INPUTS, "decoder")
        self.likelihood = likelihoods.build(likelihood, last, self.example_shape, self.components)
        self.track_initialization()

    def auxiliary_posterior(self, x):
        """Images in [0, 1], [B, H, W, C] or flat -> q(a | x): batch shape [B], event shape [A]."""
        return self._auxiliary_posterior(self.flat(x))

    def _auxiliary_posterior(self, x):
        return self.auxiliary.distribution(self.auxiliary_encoder(self.auxiliary_encoder.project(x=x)))

    def infer(self, x, noise_a):
        x = self.flat(x)
        a, log_q_a = reparameterize(self._auxiliary_posterior(x), noise_a)  # [S, B, A], [S, B]
        logits = self.logits(self.classifier(self.classifier.project(x=x) + self.classifier.project(a=a)))
        style = self.encoder.project(x=x) + self.encoder.project(a=a)  # [S, B, F]
        return Inference(tf.nn.log_softmax(logits), a, log_q_a, style)

    def style_posterior(self, inference, y):
        return self.posterior.distribution(self.encoder(inference.style + self.encoder.project(y=y)))

    def auxiliary_prior(self, y, z):
        net = self.auxiliary_decoder
        return self.auxiliary_likelihood.distribution(net(net.project(y=y) + net.project(z=z)))

    def features(self, y, z, a):
        return self.decoder(self.decoder.project(y=y) + self.decoder.project(z=z))
