"""What models with a class share: bounds of labelled and unlabelled images, classification, generation by class.

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
from vaezoo.base.labelled import LabelledModel, split_data
from vaezoo.base.objectives import SemiSupervisedELBO
from vaezoo.base.signatures import Signature, noise_of_rows, unseeded
from vaezoo.inference.class_sums import expectation_over_classes, one_hot_draw, top_class_and_another
from vaezoo.inference.terms import Terms
from vaezoo.layers.batch_norm import averages_held
from vaezoo.layers.posteriors import reparameterize
from vaezoo.noise import Stream, noise_seed
from vaezoo.numerics import log_mean_exp, merge_samples, split_samples, tile_samples
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


class SemiSupervisedModel(LabelledModel):
    """A model p(x, y, z) of images and classes, most of which are not known.

    A subclass owes `infer`, `style_posterior`, `features` and `likelihood`, and `auxiliary_prior` if it has an
    auxiliary variable. The code of an image is z, its style, followed by its class, one-hot: [B, D + K].

    Trained on x alone it learns clusters that nothing ties to classes.

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

    @property
    def noise_shape(self):
        """One axis, of the noise of a, of z and of y, [A + D + 1]."""
        return (self.auxiliary_dim + self.style_dim + 1,)

    def _parts(self, noise):
        """Splits noise [..., A + D + 1] into that of a, that of z, and uniform draws for y, [...]."""
        noise_a, noise_z, noise_y = tf.split(noise, [self.auxiliary_dim, self.style_dim, 1], axis=-1)
        return noise_a, noise_z, tfd.Normal(0.0, 1.0).cdf(noise_y[..., 0])

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

    # Using it.

    def class_probabilities(self, x):
        """Images [B, H, W, C] -> q(y | x), [B, K]: the mean of q(y | a, x) over `AVERAGED` draws of a, always the same.

        Images binarized in training may be given as grey values: they are classified better so.
        """
        draws = AVERAGED if self.auxiliary_dim else 1
        noise_a = np.random.default_rng(0).standard_normal((draws, 1, self.auxiliary_dim)).astype(np.float32)
        return tf.reduce_mean(tf.exp(self.infer(self.domain.values(x), noise_a).log_q_y), axis=0)

    def encode(self, x):
        """Returns z at zero noise, given the most probable class, and that class, one-hot: [B, D + K]."""
        inference = self.infer(self.domain.values(x), tf.zeros([1, 1, self.auxiliary_dim]))
        y = tf.one_hot(tf.argmax(inference.log_q_y[0], axis=-1), self.num_classes)  # [B, K]
        z = self.style_posterior(inference, y[tf.newaxis, tf.newaxis]).mean()[0, 0]
        return tf.concat([z, y], axis=-1)

    def likelihood_distribution(self, z, noise_a=None):
        """Codes [B, D + K] -> p(x | a, y, z), batch shape [B], at the a that noise [B, A] gives in p(a | y, z)."""
        z, y = tf.split(z, [self.style_dim, self.num_classes], axis=-1)
        a = None
        if self.auxiliary_dim:
            p = self.auxiliary_prior(y, z)
            a = p.mean() if noise_a is None else p.bijector.forward(noise_a)
        return self.likelihood.distribution(self.features(y, z, a))

    def generated(self, noise, label=None):
        """Returns p(x | a, y, z) at the draw from the prior that noise stands for: batch shape [B].

        Args:
            noise: from `noise(1, B)`.
            label: classes, ints [B]; None draws them.
        """
        noise_a, noise_z, uniform = self._parts(noise[0])
        if label is None:
            label = tf.minimum(tf.cast(uniform * self.num_classes, tf.int32), self.num_classes - 1)
        y = tf.one_hot(label, self.num_classes)
        return self.likelihood_distribution(tf.concat([noise_z, y], axis=-1), noise_a)

    def generate(self, noise, label=None):
        """Returns E[x | a, y, z] for a draw from the prior, images [B, H, W, C]; arguments as for `generated`."""
        return self.generated(noise, label).mean()

    def log_prob_given_noise(self, x, noise):
        """Returns log p(x | .) at the a and z that noise gives in the prior, the mean over all classes, [S, B]."""
        num_samples = tf.shape(noise)[0]
        images, rows = tile_samples(self.domain.values(x), num_samples), merge_samples(noise)[tf.newaxis]
        log_p = [
            self.generated(rows, tf.fill(tf.shape(rows)[1:2], label)).log_prob(images)
            for label in range(self.num_classes)
        ]
        return split_samples(log_mean_exp(tf.stack(log_p), axis=0), num_samples)

    def sample(self, num_samples, *, seed, temperature=1.0, label=None):
        """Returns E[x | a, y, z] for draws from the prior, [num_samples, H, W, C].

        As in the base class, but that `temperature` scales a and z and not the draw of the class, and that `label`, a
        class or one for each sample, sets it.
        """
        num_samples = checks.positive_int("num_samples", num_samples)
        checks.non_negative("temperature", temperature)
        noise = self.noise(1, num_samples, seed=noise_seed(seed, Stream.SAMPLE))
        scale = tf.concat([tf.fill([self.auxiliary_dim + self.style_dim], float(temperature)), [1.0]], axis=0)
        if label is not None:
            label = np.broadcast_to(checks.labels("label", label, self.num_classes), (num_samples,))
        return self.generate(scale * noise, label)

    def kl_per_dimension(self, x):
        """Returns the KL of each value of a, then of z, from its prior, given the most probable class, nats [B, A + D].

        That of a is taken at the posterior mean of z.
        """
        x = self.domain.values(x)
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
        labelled, x = split_data(data)
        x = self.examples_of(x)
        objective, step = self.objective, self.optimizer.iterations
        options = {"analytic_kl": objective.analytic_kl}
        enumerate_classes = getattr(objective, "enumerate_classes", True)
        terms = self.unlabelled_terms(x, self.training_noise(x), enumerate_classes=enumerate_classes, **options)
        bound = objective(terms, step)  # [B]
        loss = -tf.reduce_sum(bound) / global_batch_size(x)
        if labelled is None:
            return loss, {"loss": -bound, "terms": terms}
        if not isinstance(objective, SemiSupervisedELBO):
            raise ValueError(f"`objective` must be a SemiSupervisedELBO to learn from labels. Received: {objective}")
        x_labelled, y = self.examples_of(labelled[0]), labelled[1]
        with averages_held():
            labelled_terms, cross_entropy = self.labelled_terms(
                x_labelled, y, self.training_noise(x_labelled, 1), **options
            )
        labelled_bound = objective(labelled_terms, step) - objective.alpha * cross_entropy
        weight = objective.labelled_weight
        loss -= weight * tf.reduce_sum(labelled_bound) / global_batch_size(x_labelled)
        losses = -bound - weight * tf.reduce_mean(labelled_bound)
        return loss, {"loss": losses, "terms": terms, "cross_entropy": cross_entropy}

    # Exporting it.

    def export_signatures(self):
        """Returns the base classes' signatures, with a `sample` of LiteRT's own, and `sample_class`."""
        seed, label = (tf.TensorSpec([None], tf.int32, name) for name in ("seed", "label"))

        def sample_class(seed, label):
            what = [f"`label` must be in 0..{self.num_classes - 1}. Received:", label]
            tf.debugging.Assert(tf.reduce_all((label >= 0) & (label < self.num_classes)), what)
            return {self.domain.name: self.generate(noise_of_rows(self, seed, Stream.SAMPLE), label)}

        def sample_lite(num_samples):
            # The normal CDF, which else turns noise into a class, is not among LiteRT's builtin ops.
            label = self.num_classes * unseeded(tf.raw_ops.RandomUniform, num_samples[tf.newaxis])
            noise = unseeded(tf.raw_ops.RandomStandardNormal, tf.stack([1, num_samples, *self.noise_shape]))
            return {self.domain.name: self.generate(noise, tf.minimum(tf.cast(label, tf.int32), self.num_classes - 1))}

        return [
            *(
                s._replace(function=sample_lite) if s.name == "sample" and s.lite else s
                for s in super().export_signatures()
            ),
            Signature("sample_class", sample_class, (seed, label), lite=False),
        ]
