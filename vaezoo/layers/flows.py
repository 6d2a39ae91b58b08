"""Normalizing flows: Keras layers that own the weights, and hand out TFP bijectors that are views of them.

Equation numbers are those of chapter 5 of D. P. Kingma, "Variational inference & deep learning" (2017), unless another
paper is named: D. J. Rezende and S. Mohamed, "Variational inference with normalizing flows" (2015); L. Dinh et al.,
"Density estimation using Real NVP" (2016).

A flow's bijector is made anew in each forward pass: bijectors remember what they computed for a tensor, and a
remembered value would outlive a change of the weights.
"""

import itertools
import math
import weakref

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.layers import masks
from vaezoo.layers.weight_norm import Conv2D, Dense

tfb = tfp.bijectors

GATE_BIAS = 1.5  # sigmoid(1.5) = 0.82: each gated step starts as a mild update, section 5.4
OUTPUT_SCALE = 0.1  # of the ungated forms, as in the authors' code: their steps start near the identity
LEAST_SQUARED_NORM = 1e-12  # of a planar step's w: a shorter one has no direction to correct u along


# The forms of a step: what a net puts out, (m, s) -> (shift, log_scale). Those of `FORMS` are for the autoregressive
# model whose inverse the step is, y -> (y - shift) / exp(log_scale).


def gated(m, s):
    """The step sigma y + (1 - sigma) m with sigma = sigmoid(s), eqs. (5.31), (5.32).

    exp(-log_scale) = sigma and -shift exp(-log_scale) = (1 - sigma) m have this solution, free of cancellation.
    """
    log_scale = tf.nn.softplus(-(s + GATE_BIAS))
    return -tf.math.expm1(log_scale) * m, log_scale


def location_scale(m, s):
    """The step (y - m) / exp(s), eq. (5.19)."""
    return OUTPUT_SCALE * m, OUTPUT_SCALE * s


def location(m, s):
    """The step y - m, the volume-preserving form of table 5.B.1: s is left out."""
    return OUTPUT_SCALE * m, tf.zeros_like(s)


# The names that a config's [model.args] may use.
FORMS = {"gated": gated, "location_scale": location_scale, "location": location}


def bounded(m, s):
    """The step y exp(tanh(s)) + m of a coupling: none scales by more than e. Dinh et al. learn a factor of the tanh."""
    return OUTPUT_SCALE * m, tf.tanh(OUTPUT_SCALE * s)


# The nets of the steps.


class StepNet(keras.layers.Layer):
    """What the nets below share: `layers` in a row, of which the first adds the context to what it puts out.

    Args:
        activation: Keras activation between the layers.
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    @property
    def context_dim(self):
        """The width of the context."""
        return self.layers[0].b.shape[0]

    def call(self, y, context):
        """Inputs y [..., D], or maps [..., H, W, C], and context [..., context_dim] -> m, s."""
        h = self.layers[0](y) + context
        for layer in self.layers[1:]:
            h = layer(self.activation(h))
        return tf.split(h, 2, axis=-1)


class MaskedDenseNet(StepNet):
    """An autoregressive net over vectors (MADE): output i of m and of s depends on the inputs before i only.

    Args:
        event_dim: int, D.
        hidden_units: widths of the hidden layers; () makes m and s affine in the input.
        activation: Keras activation of the hidden layers.
        backwards: True if the order of the inputs is D-1, ..., 0.
    """

    def __init__(self, event_dim, hidden_units, activation="elu", backwards=False, **kwargs):
        super().__init__(activation, **kwargs)
        event_dim = checks.positive_int("event_dim", event_dim)
        ranks = masks.net_ranks(event_dim, layer_sizes("hidden_units", hidden_units), backwards)
        self.layers = []
        for index, (before, after) in enumerate(itertools.pairwise(ranks)):
            mask = masks.dense_mask(before, after, strict=index == 0)
            settings = {"mask": mask, "dtype": self.dtype_policy, "name": f"layer_{index}"}
            self.layers.append(Dense(len(before), len(after), **settings))
        self.built = True


class MaskedConvNet(StepNet):
    """An autoregressive net over maps [H, W, C] (PixelCNN): m and s depend on values before, in the raster's order.

    Args:
        event_filters: int, C.
        hidden_filters: numbers of maps of the hidden layers; () makes m and s affine in the input.
        kernel_size: int, odd.
        activation: Keras activation of the hidden layers.
        backwards: True turns the order round, that of the channels too.
    """

    def __init__(self, event_filters, hidden_filters, kernel_size=3, activation="elu", backwards=False, **kwargs):
        super().__init__(activation, **kwargs)
        event_filters = checks.positive_int("event_filters", event_filters)
        ranks = masks.net_ranks(event_filters, layer_sizes("hidden_filters", hidden_filters), backwards)
        self.layers = []
        for index, (before, after) in enumerate(itertools.pairwise(ranks)):
            mask = masks.conv_mask(before, after, kernel_size, strict=index == 0, backwards=backwards)
            settings = {"mask": mask, "dtype": self.dtype_policy, "name": f"layer_{index}"}
            self.layers.append(Conv2D(len(before), len(after), kernel_size, **settings))
        self.built = True


class CouplingNet(StepNet):
    """A dense net from the part of a vector that a coupling keeps to the m and s of the other part.

    Args:
        kept_dim, moved_dim: ints, the sizes of the two parts.
        hidden_units: widths of the hidden layers; () makes m and s affine in the input.
        activation: Keras activation of the hidden layers.
    """

    def __init__(self, kept_dim, moved_dim, hidden_units, activation="elu", **kwargs):
        super().__init__(activation, **kwargs)
        sizes = kept_dim, *layer_sizes("hidden_units", hidden_units), 2 * checks.positive_int("moved_dim", moved_dim)
        self.layers = [
            Dense(before, after, dtype=self.dtype_policy, name=f"layer_{index}")
            for index, (before, after) in enumerate(itertools.pairwise(sizes))
        ]
        self.built = True


def layer_sizes(name, sizes):
    """Returns the sizes of hidden layers as a tuple of ints of at least 1, () included, or raises `ValueError`."""
    if not isinstance(sizes, (list, tuple)):
        raise ValueError(f"`{name}` must be a list of integers of at least 1. Received: {sizes!r}")
    return tuple(checks.positive_int(name, size) for size in sizes)


# The steps.


def step(net, form, y, context):
    """Returns a step's z, and each element's share of its log-determinant, log sigma in eq. (5.22); shapes of y.

    The same as `inverse_autoregressive(...).forward` and its log-determinant, which sums over the event: a model with
    maps of latents wants to know the KL of each.
    """
    shift, log_scale = form(*net(y, context))
    return (y - shift) * tf.exp(-log_scale), -log_scale


def inverse_autoregressive(net, form, context, event_ndims):
    """Returns a step of inverse autoregressive flow as a bijector; its forward direction is one pass of the net.

    Args:
        net: a `MaskedDenseNet` or a `MaskedConvNet`.
        form: a function of `FORMS`.
        context: tensor, what the net is conditioned on.
        event_ndims: 1 for vectors, 3 for maps.
    """

    def shift_and_log_scale(y):
        return form(*net(y, context))

    flow = tfb.MaskedAutoregressiveFlow(once_per_tensor(shift_and_log_scale), event_ndims=event_ndims)
    return tfb.Invert(flow)


def coupling(net, context, num_kept):
    """Returns an affine coupling as a bijector, eqs. (4), (5) of Dinh et al.; one pass of the net in both directions.

    Args:
        net: a `CouplingNet`.
        context: tensor, what the net is conditioned on.
        num_kept: int, how many of a vector's elements are kept: the first ones, or the last ones if negative.
    """
    remembered = once_per_tensor(lambda whole, kept: bounded(*net(kept, context)))
    return _RealNVP(num_kept, shift_and_log_scale_fn=lambda kept, num_moved, whole: remembered(whole, kept))


class _RealNVP(tfb.RealNVP):
    """`tfb.RealNVP` that tells its function which tensor a part is of.

    TFP cuts it for the map and again for the log-determinant: the parts are new tensors each time, the whole is not.
    """

    def _forward(self, x):
        return super()._forward(x, whole=x)

    def _forward_log_det_jacobian(self, x):
        return super()._forward_log_det_jacobian(x, whole=x)

    def _inverse(self, y):
        return super()._inverse(y, whole=y)

    def _inverse_log_det_jacobian(self, y):
        return super()._inverse_log_det_jacobian(y, whole=y)


class Planar(tfb.Bijector):
    """The step z + u_hat tanh(w'z + b), eq. (5.17); eqs. (10)-(12) and appendix A.1 of Rezende and Mohamed.

    u_hat is u, corrected along w so that 1 + w'u_hat = positive(w'u) > 0, without which there is no inverse. This
    `positive` is the authors' softplus, shifted: u = 0 is left as it is, and makes the step the identity.

    Args:
        u, w: tensors [..., D].
        b: tensor [...].
    """

    def __init__(self, u, w, b, name="planar"):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self._w, self._b = w, b
            along = tf.reduce_sum(w * u, axis=-1)  # [...]
            self._slope = positive(along)  # 1 + w'u_hat, [...]
            squared_norm = tf.maximum(tf.reduce_sum(w * w, axis=-1), LEAST_SQUARED_NORM)
            self._u_hat = u + ((self._slope - 1.0 - along) / squared_norm)[..., tf.newaxis] * w  # [..., D]
            self._hidden = once_per_tensor(lambda z: tf.tanh(tf.reduce_sum(w * z, axis=-1) + b))  # [...]
            super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        vector, scalar = (tfp.util.ParameterProperties(event_ndims=event_ndims) for event_ndims in (1, 0))
        return {"u": vector, "w": vector, "b": scalar}

    def _forward(self, x):
        return x + self._u_hat * self._hidden(x)[..., tf.newaxis]

    def _forward_log_det_jacobian(self, x):
        # log(1 + w'u_hat (1 - h^2)) as a sum of positive terms, which cannot cancel
        squared = tf.square(self._hidden(x))
        return tf.math.log(squared + (1.0 - squared) * self._slope)

    def _inverse(self, y):
        # w'z, a scalar, is the root of an increasing function, and z follows from it. The root is found outside of
        # the tape: the last but one line has its value, and its derivatives by the implicit function theorem.
        goal = tf.reduce_sum(self._w * y, axis=-1)  # w'y, [...]

        def excess(along):
            return along + (self._slope - 1.0) * tf.tanh(along + self._b) - goal

        reach = tf.abs(self._slope - 1.0) + 1.0  # 1 more than need be, for a change of sign in spite of rounding
        tolerance = np.finfo(y.dtype.as_numpy_dtype).eps
        root = tfp.math.find_root_chandrupatla(
            excess, goal - reach, goal + reach, position_tolerance=tolerance, max_iterations=100
        )
        root = tf.stop_gradient(root.estimated_root)
        squared = tf.square(tf.tanh(root + self._b))
        derivative = tf.stop_gradient(squared + (1.0 - squared) * self._slope)
        root -= (excess(root) - tf.stop_gradient(excess(root))) / derivative
        return y - self._u_hat * tf.tanh(root + self._b)[..., tf.newaxis]


class Radial(tfb.Bijector):
    """The step z + beta (z - centre) / (alpha + r) with r = ||z - centre||, eq. (14) of Rezende and Mohamed.

    It has an inverse where alpha > 0 and gamma = alpha + beta > 0 (appendix A.2): distances from the centre are scaled
    by (gamma + r) / (alpha + r), that is by gamma / alpha near it and by 1 far away.

    Args:
        centre: tensor [..., D].
        alpha, gamma: positive tensors [...].
    """

    def __init__(self, centre, alpha, gamma, name="radial"):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self._centre, self._alpha, self._gamma = centre, alpha, gamma
            self._distance = once_per_tensor(lambda z: distance(z, centre))
            super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype):
        vector, scalar = (tfp.util.ParameterProperties(event_ndims=event_ndims) for event_ndims in (1, 0))
        return {"centre": vector, "alpha": scalar, "gamma": scalar}

    def _forward(self, x):
        r = self._distance(x)  # [...]
        scale = (self._gamma + r) / (self._alpha + r)
        return self._centre + scale[..., tf.newaxis] * (x - self._centre)

    def _forward_log_det_jacobian(self, x):
        # D - 1 directions keep the distance and are scaled; along the last one, d(r scale)/dr = radial
        r = self._distance(x)  # [...]
        scale = (self._gamma + r) / (self._alpha + r)
        radial = (r * (r + 2.0 * self._alpha) + self._alpha * self._gamma) / tf.square(self._alpha + r)
        return (x.shape[-1] - 1.0) * tf.math.log(scale) + tf.math.log(radial)

    def _inverse(self, y):
        # r scale = R is r^2 + (gamma - R) r - alpha R = 0; of the two formulas for its root the one that cannot cancel
        distance_of_y = self._distance(y)  # [...], R
        half = 0.5 * (self._gamma - distance_of_y)
        product = self._alpha * distance_of_y
        far = tf.abs(half) + tf.sqrt(tf.square(half) + product)
        r = tf.where(half > 0.0, product / far, far)
        scale = (self._gamma + r) / (self._alpha + r)
        return self._centre + (y - self._centre) / scale[..., tf.newaxis]


def positive(x):
    """Returns softplus(x + log(e - 1)): positive, and 1 at x = 0."""
    return tf.nn.softplus(x + math.log(math.e - 1.0))


def distance(x, y):
    """Returns ||x - y||, [..., D] -> [...]; its gradient at 0 is 0, where that of `tf.norm` is NaN."""
    squared = tf.reduce_sum(tf.math.squared_difference(x, y), axis=-1)
    return tf.sqrt(tf.maximum(squared, np.finfo(squared.dtype.as_numpy_dtype).tiny))


def once_per_tensor(function):
    """Returns a function that remembers its last value, and gives it again for the same first argument, a tensor.

    TFP asks for the shift and scale of a tensor when it maps it and again for the log-determinant: two passes of the
    net, of which XLA removes one and a plain graph none. The tensor is held weakly: TFP's caches keep a bijector for as
    long as the tensors live that it has mapped, and would keep both for ever.
    """
    last = None, None

    def remembered(y, *others):
        nonlocal last
        reference, value = last
        if reference is None or reference() is not y:
            value = function(y, *others)
            last = weakref.ref(y), value
        return value

    return remembered
