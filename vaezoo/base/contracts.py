"""What a model may have. What it lacks is None: commands, figures and pictures ask for that, and for no type."""

import keras

from vaezoo.base import figures
from vaezoo.numerics import batched

# The optional parts of a model: attribute -> the end of the sentence "`model` must ...", for errors.
PARTS = {
    "encode": "have an encoder",
    "decode": "have a decoder",
    "generate": "have a prior to draw from",
    "terms": "have a bound of log p(x)",
    "log_prob_given_noise": "have p(x | z) given the noise behind z",
    "approximate_posterior": "have a posterior of one layer of latents",
    "kl_per_dimension": "have Gaussian posteriors, of one layer of latents",
    "class_probabilities": "classify",
    "class_codes": "be a model with classes, as an M2",
    "auxiliary_posterior": "have an auxiliary variable, as an ADGM",
    "classifier_features": "be a model of features for a classifier, as an M1",
}


def require(model, *names):
    """Raises `ValueError` unless a model has these of its optional `PARTS`."""
    for name in names:
        if getattr(model, name) is None:
            raise ValueError(f"`model` must {PARTS[name]}. Received: {type(model).__name__}, whose `{name}` is None")


def require_pictures(model):
    """Raises `ValueError` unless a model's examples are pictures, [H, W, C]."""
    if not model.domain.drawn:
        raise ValueError(f"`model` must be a model of images. Received: {type(model).__name__} of {model.domain.name}")
    if len(model.example_shape) != 3:
        received = f"{type(model).__name__} of shape {list(model.example_shape)}"
        raise ValueError(f"`model` must be a model of images [H, W, C]. Received: {received}")


class Contracts(keras.Model):
    """A model that says what it has.

    Attributes:
        encode, decode, generate, terms, log_prob_given_noise, approximate_posterior, kl_per_dimension: methods of
            latent-variable models; see `LatentVariableModel`.
        class_probabilities: examples [B, ...] -> probabilities of their classes, [B, K].
        class_codes: styles [N, D] and classes, an int or ints [N] -> codes that `decode` takes. A model that has it has
            `style_dim` and `num_classes`, and its `sample` takes `label`.
        auxiliary_posterior: examples as `domain.values` gives them -> q(a | x), batch shape [B], event shape [A].
        latent_shape: tuple of ints, the shape of one z; None without latents per example.
        auxiliary_dim: int, A; 0 without an auxiliary variable.
        classifier_features: examples [N, ...] -> a numpy array [N, D], which a classifier is fitted to.
    """

    encode = decode = generate = terms = log_prob_given_noise = approximate_posterior = kl_per_dimension = None
    class_probabilities = class_codes = auxiliary_posterior = classifier_features = latent_shape = None
    auxiliary_dim = 0

    def figures(self):
        """Returns the list of `Figure`s that `vaezoo.evaluation.evaluate` computes; a subclass may add its own."""
        return figures.of(self)

    def predict_proba(self, x, batch_size=500):
        """Returns the class probabilities of examples [N, ...], a numpy array [N, K]; see `class_probabilities`.

        Raises:
            ValueError: the model does not classify, or an argument is not legal.
        """
        require(self, "class_probabilities")
        return batched(self.class_probabilities, self.examples("x", x), batch_size)
