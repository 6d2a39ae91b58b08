"""M2, the generative semi-supervised model: a VAE with a class beside its latents.

D. P. Kingma, "Variational inference & deep learning" (2017), section 3.2.2; D. P. Kingma, D. J. Rezende, S. Mohamed,
M. Welling, "Semi-supervised learning with deep generative models" (2014).

    p(y) = 1/K,  p(z) = N(z; 0, I),  p(x | y, z) = Bernoulli or Gaussian of mlp(y, z)      (3.2)
    q(y | x) = Cat(y; softmax of mlp(x))                                                    (3.5)
    q(z | y, x) = N(z; mu, diag(sigma^2)),  mu, log sigma affine in mlp(y, x)               (3.4)

    x [B, H, W, C] -> classifier -> log q(y | x) [1, B, K]
    x [B, HWC], y [C, 1, 1, K] -> encoder -> posterior -> q(z | y, x): batch [C, 1, B], event [D]
    y, z [C, S, B, D] -> decoder -> [C, S, B, F] -> likelihood -> log p(x | y, z) [C, S, B]

Departures: weights start from Glorot's uniform distribution, those of q(z | y, x) from N(0, 0.001^2) as in the thesis,
unless `init_stddev` says otherwise; there is no weight decay (the thesis adds a N(0, I) prior over the weights).
"""

import math

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.base.semi_supervised import Inference, SemiSupervisedModel
from vaezoo.layers import likelihoods
from vaezoo.layers.networks import JointMLP
from vaezoo.layers.posteriors import DiagonalGaussian
from vaezoo.layers.principal_components import PrincipalComponents


@keras.saving.register_keras_serializable(package="vaezoo")
class M2(SemiSupervisedModel):
    """The generative semi-supervised model.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        num_classes: int, K.
        hidden_units: widths of the hidden layers of each of the three networks.
        activation: Keras activation of the hidden layers.
        likelihood, principal_components: see `VAE`.
        init_stddev: of the weights of the layer of q(z | y, x), which at 0.001 starts at the prior; None for Glorot's.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=50,
        num_classes=10,
        hidden_units=(500,),
        activation="softplus",
        likelihood="bernoulli",
        principal_components=0,
        init_stddev=1e-3,
        **kwargs,
    ):
        super().__init__(image_shape, latent_dim, num_classes, **kwargs)
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.components = PrincipalComponents.of_images(self.example_shape, principal_components)

        dims = {"x": principal_components or math.prod(self.example_shape), "y": num_classes, "z": latent_dim}
        last = self.hidden_units[-1]

        def net(inputs, name):
            sizes = {key: dims[key] for key in inputs}
            return JointMLP(sizes, self.hidden_units, activation, dtype=self.dtype_policy, name=name)

        self.classifier = net("x", "classifier")
        self.logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")
        self.logits.build((None, last))
        self.encoder = net("xy", "encoder")
        self.posterior = DiagonalGaussian(last, latent_dim, init_stddev, name="posterior")
        self.decoder = net("yz", "decoder")
        self.likelihood = likelihoods.build(likelihood, last, self.example_shape, self.components)
        self.track_initialization()

    def infer(self, x, noise_a):
        x = self.flat(x)
        logits = self.logits(self.classifier(self.classifier.project(x=x)))  # [B, K]
        return Inference(tf.nn.log_softmax(logits)[tf.newaxis], None, None, self.encoder.project(x=x))

    def style_posterior(self, inference, y):
        return self.posterior.distribution(self.encoder(inference.style + self.encoder.project(y=y)))

    def features(self, y, z, a):
        return self.decoder(self.decoder.project(y=y) + self.decoder.project(z=z))
