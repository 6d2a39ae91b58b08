"""TFP distributions that TFP itself lacks, or has in a slower form."""

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class BernoulliLogits(tfd.Bernoulli):
    """A Bernoulli, made from logits, whose log-probability is one pass over the logits: x a - softplus(a).

    `tfd.Bernoulli` takes two softplus and a guarded product, twice the time of this, and of a decoder's last layer it
    is the dearest part.
    """

    def _log_prob(self, event):
        return -tf.nn.sigmoid_cross_entropy_with_logits(labels=event, logits=self.logits)


class Likelihood(tfd.Distribution):
    """A distribution that is measured and shown, by its log-probability and its mean, and not drawn from."""

    def __init__(self, dtype, parameters, name):
        super().__init__(
            dtype=dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )


class ComponentsGaussian(Likelihood):
    """A diagonal Gaussian over the principal components of images, as a distribution of images [B, H, W, C].

    Its log-density is that of the components, nats; what of an image lies outside of their span is not looked at.

    Args:
        loc, log_scale: [B, Q].
        components: a `vaezoo.layers.principal_components.PrincipalComponents`.
        image_shape: tuple of ints (H, W, C).
    """

    def __init__(self, loc, log_scale, components, image_shape, name="ComponentsGaussian"):
        parameters = dict(locals())
        self.gaussian = tfd.MultivariateNormalDiag(loc, scale_diag=tf.exp(log_scale))
        self.components, self.image_shape = components, tuple(image_shape)
        super().__init__(loc.dtype, parameters, name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        parameter = tfp.util.ParameterProperties(event_ndims=1)
        return {"loc": parameter, "log_scale": parameter}

    def _event_shape(self):
        return tf.TensorShape(self.image_shape)

    def _event_shape_tensor(self):
        return tf.constant(self.image_shape, tf.int32)

    def _log_prob(self, value):
        flat = tf.reshape(value, tf.concat([tf.shape(value)[:-3], [math.prod(self.image_shape)]], axis=0))
        return self.gaussian.log_prob(self.components.project(flat))

    def _mean(self):
        """The image of the mean components, with its values clipped to [0, 1]."""
        images = self.components.reconstruct(self.gaussian.mean())
        return tf.clip_by_value(tf.reshape(images, [-1, *self.image_shape]), 0.0, 1.0)


class DiscretizedLogistic(Likelihood):
    """The 256 masses that a logistic density puts on the bins of 8-bit images, section 5.B.5 of Kingma (2017).

    Images have the values k/255, k = 0..255; on the scale of `loc`, bin k is [k/256 - 1/2, (k + 1)/256 - 1/2]:

        p(k) = sigmoid(b) - sigmoid(a),  a, b = (bin's ends - loc) / exp(log_scale)
        log p(k) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(-(b - a)))

    The second line, by sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - e^(a-b)), has finite values and gradients however
    far the bin lies from `loc`. The first and the last bin take the tails, so that the masses sum to 1.

    Args:
        loc: float tensor, on the scale -1/2..1/2.
        log_scale: float tensor, broadcasts against `loc`.
        edges: False leaves the tails out, as the authors' code does; the masses then sum to less than 1.
    """

    def __init__(self, loc, log_scale, edges=True, name="DiscretizedLogistic"):
        parameters = dict(locals())
        self.loc, self.log_scale, self.edges = loc, log_scale, edges
        super().__init__(loc.dtype, parameters, name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        parameter = tfp.util.ParameterProperties()
        return {"loc": parameter, "log_scale": parameter}

    def _event_shape(self):
        return tf.TensorShape([])

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _log_prob(self, value):
        level = tf.round(255.0 * value)
        inverse_scale = tf.exp(-self.log_scale)
        low = (level / 256.0 - 0.5 - self.loc) * inverse_scale  # a
        width = inverse_scale / 256.0  # b - a
        log_below = tf.math.log_sigmoid(low + width)
        log_above = tf.math.log_sigmoid(-low)
        log_inside = tfp.math.log1mexp(width)
        if not self.edges:
            return log_below + log_above + log_inside
        first, last = level < 0.5, level > 254.5
        inside = log_below + log_above + log_inside
        return tf.where(first, log_below, tf.where(last, log_above, inside))

    def _mean(self):
        """The logistic's mean, in the bins of the images: what is shown; the clipped tails are left out."""
        return tf.clip_by_value(self.loc + 0.5, 0.0, 1.0)
