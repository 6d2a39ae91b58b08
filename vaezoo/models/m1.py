"""M1, the latent-feature discriminative model: a VAE whose latents are the features of a classifier.

D. P. Kingma, "Variational inference & deep learning" (2017), section 3.2.1; D. P. Kingma, D. J. Rezende, S. Mohamed,
M. Welling, "Semi-supervised learning with deep generative models" (2014).

    p(z)     = N(z; 0, I),  p(x | z) = f(x; z)                                    (3.1)
    q(z | x) = N(z; mu(x), diag(sigma^2(x)))                                      (3.3)
    y        = classifier(mu(x)), trained on the labelled images                  algorithm 3

    x [B, H, W, C] -> encoder -> posterior -> mu [B, D] -> a classifier of `evaluation.feature_classifiers` -> y

The VAE is trained on all images, the classifier afterwards on the features of those with a label; a transductive one
also takes the features of the others.

Departures: the features are the posterior's means, where algorithm 3 draws z: the means classify better, and the same
each time. Weights start from Glorot's uniform distribution, not from N(0, 0.001^2).
"""

import keras

from vaezoo.models.vae import VAE
from vaezoo.numerics import batched


@keras.saving.register_keras_serializable(package="vaezoo")
class M1(VAE):
    """A VAE with two hidden layers, and its features.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        hidden_units: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: Keras activation of the hidden layers.
        likelihood, principal_components: see `VAE`.
        **kwargs: further arguments of `VAE`.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=50,
        hidden_units=(600, 600),
        activation="softplus",
        likelihood="bernoulli",
        principal_components=0,
        **kwargs,
    ):
        given = {"likelihood": likelihood, "principal_components": principal_components}
        super().__init__(image_shape, latent_dim, hidden_units, activation, **given, **kwargs)

    def features(self, x, batch_size=1000):
        """Returns the posterior means of images [N, H, W, C], a numpy array [N, D]."""
        return batched(self.encode, self.examples("x", x), batch_size)

    classifier_features = features
