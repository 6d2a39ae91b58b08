"""Weight-normalised layers, dense and convolutional, initialised from data.

T. Salimans and D. P. Kingma, "Weight normalization" (2016); section 5.B.6 of Kingma (2017).

    y = g * (v . x) / ||v|| + b,  one g, one b and one ||v|| per output

Data-dependent initialisation: on a first batch, g and b are set so that each output has mean 0 and a chosen standard
deviation. It happens in an eager forward pass of the whole net inside of `data_dependent_initialization()`, so that
each layer sees what the layers before it, initialised already, put out.
"""

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.layers.initialization import initializing

V_STDDEV = 0.05  # of v's initial entries; only their direction matters
LEAST_VARIANCE = 1e-5  # an output that varies less over the first batch is constant, and its scale is left as it is


class WeightNormalized(keras.layers.Layer):
    """What the layers below share: v, g and b, the kernel they make, and their initialisation from data.

    Args:
        kernel_shape: tuple of ints, the shape of v.
        out_axis: int, the axis of the outputs in it.
        mask: float array that multiplies v, of its shape, or None.
        init_scale: standard deviation of the outputs after the initialisation from data; a number, or one per output.
    """

    initial_images = 256  # of the first batch, where so many are at hand

    def __init__(self, kernel_shape, out_axis, mask=None, init_scale=1.0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the kernel is made in float32, and cast once
        units = kernel_shape[out_axis]
        self.mask, self.init_scale = mask, init_scale
        self._norm_axes = [axis for axis in range(len(kernel_shape)) if axis != out_axis % len(kernel_shape)]
        self._gain_shape = [units if axis == out_axis % len(kernel_shape) else 1 for axis in range(len(kernel_shape))]
        settings = {"autocast": False}  # of variables: a layer's own says nothing of them
        self.v = self.add_weight(kernel_shape, keras.initializers.RandomNormal(stddev=V_STDDEV), name="v", **settings)
        self.g = self.add_weight([units], "ones", name="g", **settings)
        self.b = self.add_weight([units], "zeros", name="b", **settings)
        self.built = True

    def linear(self, x, kernel):
        """Returns x times the kernel, [..., units]."""
        raise NotImplementedError

    def call(self, x):
        """Inputs [..., in] -> [..., units]."""
        x = tf.cast(x, self.compute_dtype)
        if initializing():
            self._initialize(x)
        kernel = tf.reshape(self.g, self._gain_shape) * self._direction()
        return self.linear(x, tf.cast(kernel, x.dtype)) + tf.cast(self.b, x.dtype)

    def _direction(self):
        """Returns v / ||v||; 0 where the mask leaves nothing of v."""
        v = tf.convert_to_tensor(self.v)
        return tf.math.l2_normalize(v if self.mask is None else v * tf.cast(self.mask, v.dtype), self._norm_axes)

    def _initialize(self, x):
        if tf.inside_function():  # its graph would set g and b again at each later call
            raise RuntimeError("data-dependent initialization must be eager. Received: a call inside of tf.function")
        outputs = tf.cast(self.linear(x, tf.cast(self._direction(), x.dtype)), self.g.dtype)
        mean, variance = tf.nn.moments(outputs, list(range(outputs.shape.rank - 1)))
        gain = self.init_scale * tf.where(variance < LEAST_VARIANCE, 1.0, tf.math.rsqrt(variance))
        self.g.assign(gain)
        self.b.assign(-mean * gain)


class Dense(WeightNormalized):
    """A weight-normalised dense layer, [..., in_units] -> [..., units]; its kernel is [in_units, units].

    Args:
        in_units, units: ints.
        mask, init_scale: as in `WeightNormalized`.
    """

    def __init__(self, in_units, units, **kwargs):
        shape = checks.positive_int("in_units", in_units), checks.positive_int("units", units)
        super().__init__(shape, -1, **kwargs)

    def linear(self, x, kernel):
        return tf.einsum("...i,io->...o", x, kernel) if x.shape.rank > 2 else tf.matmul(x, kernel)


class Conv2D(WeightNormalized):
    """A weight-normalised convolution, [..., H, W, in_filters] -> [..., H/strides, W/strides, filters].

    The kernel is [kernel_size, kernel_size, in_filters, filters].

    Args:
        in_filters, filters, kernel_size, strides: ints.
        mask, init_scale: as in `WeightNormalized`.
    """

    def __init__(self, in_filters, filters, kernel_size=3, strides=1, **kwargs):
        self.strides = checks.positive_int("strides", strides)
        shape = kernel_size, kernel_size, in_filters, filters
        super().__init__(checks.positive_ints("kernel_size, in_filters and filters", shape), -1, **kwargs)

    def linear(self, x, kernel):
        return tf.nn.convolution(x, kernel, strides=self.strides, padding="SAME")


class Conv2DTranspose(WeightNormalized):
    """A weight-normalised transposed convolution, [B, H, W, in_filters] -> [B, *out_size, filters].

    Its kernel is [kernel_size, kernel_size, filters, in_filters].

    Args:
        in_filters, filters, kernel_size, strides: ints.
        out_size: (height, width) of the output, a size that the strides reduce to the input's.
        mask, init_scale: as in `WeightNormalized`.
    """

    def __init__(self, in_filters, filters, out_size, kernel_size=3, strides=2, **kwargs):
        self.filters, self.strides = filters, checks.positive_int("strides", strides)
        self.out_size = checks.positive_ints("out_size", out_size)
        shape = kernel_size, kernel_size, filters, in_filters
        super().__init__(checks.positive_ints("kernel_size, filters and in_filters", shape), -2, **kwargs)

    def linear(self, x, kernel):
        shape = tf.stack([tf.shape(x)[0], *self.out_size, self.filters])
        outputs = tf.nn.conv2d_transpose(x, kernel, shape, self.strides, padding="SAME")
        # Also keeps LiteRT from fusing b, which its op refuses where all values are equal, as before any training.
        return tf.reshape(outputs, shape)
