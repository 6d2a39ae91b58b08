"""Draws from models with a class: p(x | a, y, z) at draws of a and z, of a given class or of one that is drawn.

y ~ Cat(1/K),  z ~ N(0, I),  a ~ p(a | y, z),  x ~ p(x | a, y, z);   without an auxiliary variable no a
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base.labelled import LabelledModel
from vaezoo.base.signatures import Signature, noise_of_rows, unseeded
from vaezoo.noise import Stream
from vaezoo.numerics import log_mean_exp, merge_samples, split_samples, tile_samples

tfd = tfp.distributions


class DrawnByClass(LabelledModel):
    """A model whose code is a style z and a class, one-hot: [B, D + K].

    A subclass owes `features`, `likelihood` and `auxiliary_prior`, as `SemiSupervisedModel` says, and the attributes
    `style_dim`, D, and `auxiliary_dim`, A.
    """

    # Noise.

    @property
    def noise_shape(self):
        """One axis, of the noise of a, of z and of y, [A + D + 1]."""
        return (self.auxiliary_dim + self.style_dim + 1,)

    def _parts(self, noise):
        """Splits noise [..., A + D + 1] into that of a, that of z, and uniform draws for y, [...]."""
        noise_a, noise_z, noise_y = tf.split(noise, [self.auxiliary_dim, self.style_dim, 1], axis=-1)
        return noise_a, noise_z, tfd.Normal(0.0, 1.0).cdf(noise_y[..., 0])

    # The model.

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

    # Using it.

    def sample(self, num_samples, *, seed, temperature=1.0, label=None):
        """Returns E[x | a, y, z] for draws from the prior, [num_samples, H, W, C].

        As in the base class, but that `temperature` scales a and z and not the draw of the class, and that `label`, a
        class or one for each sample, sets it.
        """
        noise = self._noise_of_samples(num_samples, seed, temperature)
        scale = tf.concat([tf.fill([self.auxiliary_dim + self.style_dim], float(temperature)), [1.0]], axis=0)
        if label is not None:
            label = checks.labels("label", label, self.num_classes)
            if label.size not in (1, num_samples):
                raise ValueError(f"`label` must be a class, or {num_samples} of them. Received: {label.size}")
            label = np.broadcast_to(label, (num_samples,))
        return self.generate(scale * noise, label)

    def class_codes(self, z, label):
        """Returns the codes of styles z, [N, D], in a class, an int, or in one each, [N]: a numpy array [N, D + K]."""
        label = np.broadcast_to(checks.labels("label", label, self.num_classes), len(z))
        return np.concatenate([z, np.eye(self.num_classes, dtype=np.asarray(z).dtype)[label]], axis=-1)

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
