"""What models with a class share: bounds of labelled and unlabelled images, and classification.

D. P. Kingma, "Variational inference & deep learning" (2017), section 3.3; L. Maaloe et al., "Auxiliary deep generative
models" (2016).

    p(x, y, a, z)     = p(y) p(z) p(a | y, z) p(x | a, y, z),   p(y) = 1/K, p(z) = N(0, I)      (3.2), (24)
    q(a, y, z | x)    = q(a | x) q(y | a, x) q(z | a, y, x);    M2 has no auxiliary a            (3.4), (7)-(9)

    L(x, y) = E_q(a, z | x, y) [ log p(x | .) + log p(y) - (log q - log p of a and of z) ]     (3.7), (10)
    U(x)    = E_q(a | x) sum_y q(y | a, x) (L_a(x, y) - log q(y | a, x))                        (3.8), (27)

Classes have an axis of their own, C, before samples and examples: with y [C, 1, 1, K], a [S, B, A] and what is made of
x [B, F], sums broadcast to [C, S, B, F], and nothing that does not depend on a class is computed more than once.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base.drawn_by_class import DrawnByClass
from vaezoo.base.feeds import classes
from vaezoo.base.inputs import weighted
from vaezoo.base.labelled import split_data
from vaezoo.inference.class_sums import expectation_over_classes, one_hot_draw, top_class_and_another
from vaezoo.inference.terms import Terms
from vaezoo.layers.batch_norm import averages_held
from vaezoo.layers.posteriors import reparameterize
from vaezoo.numerics import tile_samples
from vaezoo.replicas import global_batch_size

tfd = tfp.distributions
AVERAGED = 10  # draws of what a class depends on that its probabilities are averaged over, the same for every image


class Inference(NamedTuple):
    """What is inferred about images before their class is looked at.

    Attributes:
        log_q_y: log q(y | a, x), [S, B, K]; [1, B, K] without an auxiliary variable.
        a: a draw from q(a | x), [S, B, A]; None without an auxiliary variable.
        log_q_a: its log-density, [S, B]; None without one.
        style: what of the features of q(z | a, y, x) does not depend on y, [S, B, F] or [B, F].
    """

    log_q_y: tf.Tensor
    a: tf.Tensor | None
    log_q_a: tf.Tensor | None
    style: tf.Tensor


class SemiSupervisedModel(DrawnByClass):
    """A model p(x, y, z) of images and classes, most of which are not known.

    A subclass owes `infer`, `style_posterior`, `features` and `likelihood`, and `auxiliary_prior` if it has an
    auxiliary variable. The code of an image is z, its style, followed by its class, one-hot: [B, D + K].

    `DrawnByClass` has what it draws. Trained on x alone it learns clusters that nothing ties to classes.

    Args:
        image_shape: tuple of ints (H, W, C).
        latent_dim: int, the dimension D of z.
        num_classes: int, K, at least 2.
        auxiliary_dim: int, the dimension A of a; 0 for none.
    """

    def __init__(self, image_shape, latent_dim, num_classes, auxiliary_dim=0, **kwargs):
        latent_dim, num_classes = (
            checks.positive_int("latent_dim", latent_dim),
            checks.positive_int("num_classes", num_classes),
        )
        super().__init__(image_shape, (latent_dim + num_classes,), num_classes=num_classes, **kwargs)
        self.style_dim = latent_dim
        self.auxiliary_dim = checks.non_negative_int("auxiliary_dim", auxiliary_dim)

    approximate_posterior = None  # q is a chain; see `infer` and `style_posterior`
    components = None  # `PrincipalComponents` of models that see those instead of pixels

    def flat(self, x):
        """Images in [0, 1], [B, H, W, C] or flat -> what nets see: pixels, [B, HWC], or principal components [B, Q]."""
        x = tf.reshape(self.domain.inputs(x), [-1, math.prod(self.example_shape)])
        return x if self.components is None else self.components(x)

    # What a subclass owes.

    def infer(self, x, noise_a):
        """Images in [0, 1], [B, H, W, C], and noise, [S, B, A] or [S, 1, A] -> `Inference`."""
        raise NotImplementedError

    def style_posterior(self, inference, y):
        """One-hot classes y, [C, ..., K] -> q(z | a, y, x): batch shape [C, S, B] or [C, 1, B], event shape [D]."""
        raise NotImplementedError

    def auxiliary_prior(self, y, z):
        """Classes [..., K] and styles [..., D] -> p(a | y, z): batch shape [...], event shape [A]; None without a."""
        return None

    def features(self, y, z, a):
        """Classes [..., K], styles [..., D] and a [..., A] -> features of the likelihood p(x | a, y, z), [..., F]."""
        raise NotImplementedError

    # The bounds.

    def class_terms(self, x, inference, y, noise_z, *, analytic_kl=False):
        """Returns log p(x | .), [C, S, B], and the KL columns of a, if there is one, and of z, [C, S, B, G].

        Args:
            x: images in [0, 1], [B, H, W, C].
            inference: what `infer` returned for them.
            y: one-hot classes, [C, 1, 1, K] or [C, S, B, K].
            noise_z: [S, B, D]; the classes share it.
            analytic_kl: True gives KL(q(z | .) || p(z)) in closed form.
        """
        q = self.style_posterior(inference, y)
        z, log_q = reparameterize(q, noise_z)  # [C, S, B, D], [C, S, B]
        prior = tfd.MultivariateNormalDiag(tf.zeros(self.style_dim), tf.ones(self.style_dim))
        columns = [tfd.kl_divergence(q, prior) if analytic_kl else log_q - prior.log_prob(z)]
        if self.auxiliary_dim:
            columns = [inference.log_q_a - self.auxiliary_prior(y, z).log_prob(inference.a), *columns]
        features = self.features(y, z, inference.a)  # [C, S, B, F], or [S, B, F] where x does not depend on y
        rows = tf.reshape(features, [-1, features.shape[-1]])
        p = self.likelihood.distribution(rows)
        log_lik = p.log_prob(tile_samples(x, tf.shape(rows)[0] // tf.shape(x)[0]))
        log_lik = tf.reshape(log_lik, tf.shape(features)[:-1])
        shape = tf.shape(log_q)
        return tf.broadcast_to(log_lik, shape), tf.stack([tf.broadcast_to(kl, shape) for kl in columns], axis=-1)

    def terms(self, x, noise, *, analytic_kl=False):
        """Returns the `Terms` of draws of a, y and z, whose weights are honest: their mean is p(x). See the base class.

        The KL columns are a's, if there is one, z's and y's. A draw of y has no gradient: train on `unlabelled_terms`.
        """
        x = self.domain.values(x)
        noise_a, noise_z, uniform = self._parts(noise)
        inference = self.infer(x, noise_a)
        y = one_hot_draw(inference.log_q_y, uniform)  # [S, B, K]
        log_lik, kl = self.class_terms(x, inference, y[tf.newaxis], noise_z, analytic_kl=analytic_kl)
        kl_y = tf.reduce_sum(y * inference.log_q_y, axis=-1) + math.log(self.num_classes)  # [S, B]
        return Terms(log_lik[0], tf.concat([kl[0], kl_y[..., tf.newaxis]], axis=-1))

    def unlabelled_terms(self, x, noise, *, analytic_kl=False, enumerate_classes=True):
        """Returns the `Terms` whose ELBO is U(x): each is its expectation under q(y | a, x).

        Their log-weights are no importance weights, but the importance-weighted bound of them is a bound.

        `x`, `noise` and `analytic_kl` are those of `terms`; with `enumerate_classes=False` the expectation is estimated
        from two classes, see `expectation_over_classes`.
        """
        x = self.domain.values(x)
        noise_a, noise_z, uniform = self._parts(noise)
        inference = self.infer(x, noise_a)
        log_q_y = inference.log_q_y
        if enumerate_classes:
            y = tf.eye(self.num_classes)[:, tf.newaxis, tf.newaxis]  # [K, 1, 1, K]
        else:
            y = top_class_and_another(log_q_y, uniform)  # [2, S, B, K]
        log_lik, kl = self.class_terms(x, inference, y, noise_z, analytic_kl=analytic_kl)
        values = tf.concat([log_lik[..., tf.newaxis], kl], axis=-1)  # [C, S, B, 1 + G]
        values = expectation_over_classes(values, log_q_y, y, exact=enumerate_classes)  # [S, B, 1 + G]
        kl_y = tf.reduce_sum(tf.exp(log_q_y) * log_q_y, axis=-1) + math.log(self.num_classes)
        kl_y = tf.broadcast_to(kl_y, tf.shape(values)[:-1])
        return Terms(values[..., 0], tf.concat([values[..., 1:], kl_y[..., tf.newaxis]], axis=-1))

    def labelled_terms(self, x, y, noise, *, analytic_kl=False):
        """Returns the `Terms` whose ELBO is L(x, y), and -log q(y | a, x), the mean over a, [B].

        `x`, `noise` and `analytic_kl` are those of `terms`; y are classes, ints in 0..K-1, [B].
        """
        x = self.domain.values(x)
        noise_a, noise_z, _ = self._parts(noise)
        inference = self.infer(x, noise_a)
        y = tf.one_hot(y, self.num_classes)  # [B, K]
        log_lik, kl = self.class_terms(x, inference, y[tf.newaxis, tf.newaxis], noise_z, analytic_kl=analytic_kl)
        kl_y = tf.fill(tf.shape(log_lik[0]), math.log(self.num_classes))  # - log p(y)
        cross_entropy = -tf.reduce_mean(tf.reduce_sum(y * inference.log_q_y, axis=-1), axis=0)
        return Terms(log_lik[0], tf.concat([kl[0], kl_y[..., tf.newaxis]], axis=-1)), cross_entropy

    # What is inferred.

    def class_probabilities(self, x):
        """Images [B, H, W, C] -> q(y | x), [B, K]: the mean of q(y | a, x) over `AVERAGED` draws of a, always the same.

        Images binarized in training may be given as grey values: they are classified better so.
        """
        draws = AVERAGED if self.auxiliary_dim else 1
        noise_a = np.random.default_rng(0).standard_normal((draws, 1, self.auxiliary_dim)).astype(np.float32)
        return tf.reduce_mean(tf.exp(self.infer(self.values(x), noise_a).log_q_y), axis=0)

    def encode(self, x):
        """Returns z at zero noise, given the most probable class, and that class, one-hot: [B, D + K]."""
        inference = self.infer(self.values(x), tf.zeros([1, 1, self.auxiliary_dim]))
        y = tf.one_hot(tf.argmax(inference.log_q_y[0], axis=-1), self.num_classes)  # [B, K]
        z = self.style_posterior(inference, y[tf.newaxis, tf.newaxis]).mean()[0, 0]
        return tf.concat([z, y], axis=-1)

    def kl_per_dimension(self, x):
        """Returns the KL of each value of a, then of z, from its prior, given the most probable class, nats [B, A + D].

        That of a is taken at the posterior mean of z.
        """
        x = self.values(x)
        z, y = tf.split(self.encode(x), [self.style_dim, self.num_classes], axis=-1)
        inference = self.infer(x, tf.zeros([1, 1, self.auxiliary_dim]))
        q = self.style_posterior(inference, y[tf.newaxis, tf.newaxis])
        kl_z = tfd.kl_divergence(tfd.Normal(q.mean(), q.stddev()), tfd.Normal(0.0, 1.0))[0, 0]
        if not self.auxiliary_dim:
            return kl_z
        q, p = self.auxiliary_posterior(x), self.auxiliary_prior(y, z)
        return tf.concat([tfd.kl_divergence(*(tfd.Normal(d.mean(), d.stddev()) for d in (q, p))), kl_z], axis=-1)

    # Training it.

    def training_loss(self, data):
        """Returns the loss of `((x_labelled, y), x_unlabelled)`, or of x alone; see `SemiSupervisedELBO`."""
        labelled, data = split_data(data)
        x, weights = self.trained_examples_of(data)
        objective, step = self.objective, self.optimizer.iterations
        options = {"analytic_kl": objective.analytic_kl}
        noise = self.training_noise(x)
        terms = self.unlabelled_terms(x, noise, enumerate_classes=objective.enumerate_classes, **options)
        losses = weighted(-objective(terms, step), weights)  # [B]
        loss = tf.reduce_sum(losses) / global_batch_size(x)
        if labelled is None:
            return loss, {"loss": losses, "terms": terms}
        if objective.labelled_weight is None:
            raise ValueError(f"`objective` must be a SemiSupervisedELBO to learn from labels. Received: {objective}")
        (x_labelled, weights), y = self.weighted_examples_of(labelled), classes(labelled[1], self.num_classes)
        with averages_held():
            labelled_terms, cross_entropy = self.labelled_terms(
                x_labelled, y, self.training_noise(x_labelled, 1), **options
            )
        labelled_losses = weighted(objective.alpha * cross_entropy - objective(labelled_terms, step), weights)
        weight = objective.labelled_weight
        loss += weight * tf.reduce_sum(labelled_losses) / global_batch_size(x_labelled)
        losses += weight * tf.reduce_mean(labelled_losses)
        return loss, {"loss": losses, "terms": terms, "cross_entropy": cross_entropy}
