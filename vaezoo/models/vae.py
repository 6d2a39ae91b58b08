"""The variational autoencoder of Kingma and Welling.

D. P. Kingma, "Variational inference & deep learning" (2017), chapter 2; D. P. Kingma and M. Welling, "Auto-encoding
variational Bayes" (2014).

    p(z)     = N(z; 0, I)
    p(x | z) = Bernoulli(x; sigmoid(W h + b)) or N(x; sigmoid(W h + b), sigma^2),  h = mlp(z)      (2.74), (2.75)
    q(z | x) = N(z; mu, diag(sigma^2)) or N(z; mu, L L'),  mu, log sigma, L affine in mlp(x)     (2.76), 2.6.1

    x [B, H, W, C] -> encoder -> h [B, F] -> posterior -> q: batch [B], event [D]
    noise [S, B, D] -> z [S, B, D] -> decoder -> [S*B, F] -> likelihood -> p: batch [S*B], event [H, W, C]

With `ELBO(analytic_kl=True)` it trains on estimator B (2.77), with `analytic_kl=False` on estimator A (2.29), and with
`IWAE(k)` it is the importance weighted autoencoder with one stochastic layer (Burda et al., 2016).

Departures: weights start from Glorot's uniform distribution, not from N(0, 0.01), and there is no weight decay
(the thesis adds a N(0, I) prior over the weights); the zoo's entries train with Adam, not Adagrad.
"""

import keras

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.layers import likelihoods, posteriors
from vaezoo.layers.networks import mlp
from vaezoo.layers.principal_components import PrincipalComponents


@keras.saving.register_keras_serializable(package="vaezoo")
class VAE(LatentVariableModel):
    """A VAE whose encoder and decoder are multi-layer perceptrons of the same widths.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        hidden_units: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: Keras activation of the hidden layers.
        posterior: a name in `vaezoo.posteriors.POSTERIORS`.
        posterior_args: dict of further arguments of that posterior; None for its defaults.
        likelihood: a name in `vaezoo.likelihoods.LIKELIHOODS`; or, of principal components, in `COMPONENT_LIKELIHOODS`.
        principal_components: int, how many of an image encoder and likelihood see in its place; 0 for pixels.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        latent_dim=20,
        hidden_units=(500,),
        activation="tanh",
        posterior="diagonal_gaussian",
        posterior_args=None,
        likelihood="bernoulli",
        principal_components=0,
        **kwargs,
    ):
        super().__init__(image_shape, (checks.positive_int("latent_dim", latent_dim),), **kwargs)
        self.hidden_units = checks.positive_ints("hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.posterior_args = dict(posterior_args or {})

        widths, dtype = self.hidden_units, self.dtype_policy
        components = PrincipalComponents.of_images(self.example_shape, principal_components)
        self.encoder = mlp(self.example_shape, widths, activation, first=components, dtype=dtype, name="encoder")
        self.posterior = posteriors.build(posterior, widths[-1], self.latent_dim, self.posterior_args)
        self.decoder = mlp((self.latent_dim,), widths[::-1], activation, dtype=dtype, name="decoder")
        self.likelihood = likelihoods.build(likelihood, widths[0], self.example_shape, components)
        self.track_initialization()
