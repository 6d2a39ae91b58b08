"""Normalised layers: weight-normalised ones, dense and convolutional, initialised from data; batch normalisation.

T. Salimans and D. P. Kingma, "Weight normalization" (2016); section 5.B.6 of Kingma (2017).

    y = g * (v . x) / ||v|| + b,  one g, one b and one ||v|| per output

Data-dependent initialisation: on a first batch, g and b are set so that each output has mean 0 and a chosen standard
deviation. It happens in an eager forward pass of the whole net inside of `data_dependent_initialization()`, so that
each layer sees what the layers before it, initialised already, put out.

Principal components are fitted to such a first batch, too.

Batch normalisation (S. Ioffe and C. Szegedy, 2015) takes the statistics of the batch inside of `batch_statistics()`,
which training steps enter, and its moving averages elsewhere: `terms` stays a function of its arguments.
"""

import contextlib
import contextvars
import math

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.replicas import global_batch_size, replica_sum

V_STDDEV = 0.05  # of v's initial entries; only their direction matters
LEAST_VARIANCE = 1e-5  # an output that varies less over the first batch is constant, and its scale is left as it is

LEAST_STDDEV = 1e-5  # of a principal component against the first: below, it is a rounding error

MOMENTUM = 0.99  # of batch normalisation's moving averages
EPSILON = 1e-4  # added to a variance: a pixel that never changes is not to be divided by 0

_initializing = contextvars.ContextVar("initializing", default=False)
_batch_statistics = contextvars.ContextVar("batch_statistics", default=None)  # else: whether averages are updated, dict
_held_statistics = contextvars.ContextVar("held_statistics", default=None)  # else: that dict


@contextlib.contextmanager
def data_dependent_initialization():
    """Makes the layers of this file set themselves from the inputs that they are called with, eagerly."""
    token = _initializing.set(True)
    try:
        yield
    finally:
        _initializing.reset(token)


@contextlib.contextmanager
def batch_statistics(*, update=True):
    """Makes `BatchNormalization` take the batch's statistics, and fold them into its averages if `update`.

    A step that passes two kinds of batches takes each with its own statistics, and updates the averages by one of them:
    a second update would leave them between the two. Or the second kind takes those of the first, which are yielded, by
    `held_statistics`.
    """
    taken = {}
    token = _batch_statistics.set((update, taken))
    try:
        yield taken
    finally:
        _batch_statistics.reset(token)


@contextlib.contextmanager
def held_statistics(taken):
    """Makes `BatchNormalization` take what `batch_statistics` yielded, as constants.

    So two kinds of batches go through one function, where statistics of their own would hide how they differ.
    """
    token = _held_statistics.set(taken)
    try:
        yield
    finally:
        _held_statistics.reset(token)


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
        self.v = self.add_weight(kernel_shape, keras.initializers.RandomNormal(stddev=V_STDDEV), name="v")
        self.g = self.add_weight([units], "ones", name="g")
        self.b = self.add_weight([units], "zeros", name="b")
        self.built = True

    def linear(self, x, kernel):
        """Returns x times the kernel, [..., units]."""
        raise NotImplementedError

    def call(self, x):
        """Inputs [..., in] -> [..., units]."""
        x = tf.cast(x, self.compute_dtype)
        if _initializing.get():
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
        return tf.ensure_shape(outputs, [None, *self.out_size, self.filters])


class PrincipalComponents(keras.layers.Layer):
    """The first principal components of flat images, [..., P] -> [..., Q]: c = basis' (x - mean) / scale.

    The columns of the basis [P, Q] are orthonormal. One scale serves all components: the first has variance 1 over the
    batch of images that they are fitted to, and distances keep their proportions. Before, c is the first Q values of x.

    Args:
        dim: int, P.
        num_components: int, Q, at most P.

    Raises:
        ValueError: an argument is not as described; or, when they are fitted, there are not more images than
            components, or they do not vary in so many directions.
    """

    initial_images = 10_000  # of the first batch, where so many are at hand

    def __init__(self, dim, num_components, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_components = checks.positive_int("num_components", num_components)
        if num_components > checks.positive_int("dim", dim):
            raise ValueError(
                f"`num_components` must be at most the {dim} values of an image. Received: {num_components}"
            )
        self.mean = self.add_weight((dim,), "zeros", trainable=False, name="mean")
        self.basis = self.add_weight((dim, num_components), "identity", trainable=False, name="basis")
        self.scale = self.add_weight((), "ones", trainable=False, name="scale")
        self.built = True

    @classmethod
    def of_images(cls, image_shape, num_components):
        """Returns a layer for flat images of [H, W, C] values, or None if `num_components` is 0."""
        if not checks.non_negative_int("principal_components", num_components):
            return None
        return cls(math.prod(image_shape), num_components, name="components")

    def call(self, x):
        """Flat images [..., P] -> components [..., Q]."""
        if _initializing.get():
            self._fit(np.asarray(x, np.float64))
        return self.project(x)

    def project(self, x):
        """As `call`, without a fit."""
        return tf.tensordot(tf.cast(x, tf.float32) - self.mean, self.basis / self.scale, 1)

    def reconstruct(self, components):
        """Components [..., Q] -> the flat images [..., P] that have them, and the mean in every other direction."""
        return self.mean + tf.tensordot(components * self.scale, self.basis, [[-1], [1]])

    def _fit(self, x):
        from sklearn.decomposition import PCA

        if len(x) <= self.num_components:
            raise ValueError(
                f"`x` must hold more than {self.num_components} images to fit as many principal components to: call "
                f"`initialize` with them before `fit`. Received: {len(x)}"
            )
        pca = PCA(self.num_components, svd_solver="covariance_eigh").fit(x)
        stddevs = np.sqrt(pca.explained_variance_)
        if not stddevs[-1] > LEAST_STDDEV * stddevs[0]:
            raise ValueError(
                f"`num_components` must be at most the rank of the images. Received: {self.num_components}, of which "
                f"the last has a standard deviation of {stddevs[-1]:.3g} where the first has {stddevs[0]:.3g}"
            )
        for weight, value in ((self.mean, pca.mean_), (self.basis, pca.components_.T), (self.scale, stddevs[0])):
            weight.assign(value.astype(np.float32))


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last, [..., units] -> [..., units], in float32.

    y = gain * (x - mean) / sqrt(variance + EPSILON) + shift. In sync over the replicas: their batches count as one.

    Args:
        units: int.
    """

    def __init__(self, units, **kwargs):
        super().__init__(autocast=False, **kwargs)
        shape = (checks.positive_int("units", units),)
        self.gain = self.add_weight(shape, "ones", name="gain")
        self.shift = self.add_weight(shape, "zeros", name="shift")
        self.mean = self.add_weight(shape, "zeros", trainable=False, aggregation="mean", name="mean")
        self.variance = self.add_weight(shape, "ones", trainable=False, aggregation="mean", name="variance")
        self.built = True

    def call(self, x):
        """Inputs [..., units] -> the same shape and dtype."""
        dtype, x = x.dtype, tf.cast(x, tf.float32)
        update, taken = _batch_statistics.get() or (False, None)
        held = _held_statistics.get()
        if held is not None:
            mean, variance = held[self]
        elif taken is None:
            mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
        else:
            rows = tf.reshape(x, [-1, x.shape[-1]])
            count = global_batch_size(rows)
            mean = replica_sum(tf.reduce_sum(rows, axis=0)) / count
            variance = replica_sum(tf.reduce_sum(tf.square(rows - mean), axis=0)) / count
            taken[self] = tf.stop_gradient(mean), tf.stop_gradient(variance)
        if update and held is None:
            for average, value in ((self.mean, mean), (self.variance, variance)):
                average.assign(MOMENTUM * average + (1.0 - MOMENTUM) * tf.stop_gradient(value))
        scale = self.gain * tf.math.rsqrt(variance + EPSILON)
        return tf.cast(x * scale + (self.shift - mean * scale), dtype)
