"""Weight-normalised layers against numpy and scipy, their initialisation from data, and principal components."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate2d

from vaezoo.layers import masks
from vaezoo.layers.initialization import data_dependent_initialization
from vaezoo.layers.principal_components import PrincipalComponents
from vaezoo.layers.weight_norm import Conv2D, Conv2DTranspose, Dense

RANKS = [0, 0, 1, 2]  # of 4 inputs
OUT_RANKS = [0, 1, 2]  # of 3 outputs: the first one sees nothing in a strict mask
DENSE_MASK = masks.dense_mask(RANKS, OUT_RANKS, strict=True)
CONV_MASK = masks.conv_mask(RANKS, OUT_RANKS, 3, strict=False)

# name -> (its constructor's arguments, shape of its inputs, axis of the outputs in v)
LAYERS = {
    "dense": (Dense, (4, 3), {}, (200, 4), -1),
    "dense over samples": (Dense, (4, 3), {}, (7, 30, 4), -1),
    "masked dense": (Dense, (4, 3), {"mask": masks.dense_mask(RANKS, OUT_RANKS, strict=False)}, (200, 4), -1),
    "conv": (Conv2D, (4, 3), {}, (9, 5, 5, 4), -1),
    "strided conv": (Conv2D, (4, 3), {"strides": 2}, (9, 5, 5, 4), -1),
    "masked conv": (Conv2D, (4, 3), {"mask": CONV_MASK}, (9, 5, 5, 4), -1),
    "transposed conv": (Conv2DTranspose, (4, 3), {"out_size": (5, 6)}, (9, 3, 3, 4), -2),
}


def make(name, seed=0, **settings):
    """A layer with random weights, float64, and inputs for it."""
    cls, sizes, arguments, shape, out_axis = LAYERS[name]
    layer, rng = cls(*sizes, **arguments, **settings, dtype="float64"), np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer, tf.constant(2.0 + 3.0 * rng.normal(size=shape)), out_axis


def kernel_of(layer, out_axis):
    """The kernel g v / ||v||, by numpy; 0 where the mask leaves nothing of v."""
    v = layer.v.numpy() * (1.0 if layer.mask is None else layer.mask)
    outputs_last = np.moveaxis(v, out_axis, -1)
    norm = np.sqrt((outputs_last**2).sum(tuple(range(v.ndim - 1))))
    scaled = outputs_last * np.divide(layer.g.numpy(), norm, out=np.zeros_like(norm), where=norm > 0)
    return np.moveaxis(scaled, -1, out_axis)


def convolved(x, kernel):
    """x [B, H, W, in] with kernel [k, k, in, out], zero padding, stride 1, by scipy."""
    pairs = [
        [
            sum(correlate2d(x[b, ..., i], kernel[..., i, o], mode="same") for i in range(x.shape[-1]))
            for b in range(len(x))
        ]
        for o in range(kernel.shape[-1])
    ]
    return np.moveaxis(np.array(pairs), 0, -1)


@pytest.mark.parametrize("name", ["dense", "dense over samples", "masked dense"])
def test_dense_kernels_are_g_v_over_the_norm_of_v(name):
    layer, x, out_axis = make(name)
    np.testing.assert_allclose(layer(x), x.numpy() @ kernel_of(layer, out_axis) + layer.b.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["conv", "strided conv", "masked conv"])
def test_conv_kernels_are_g_v_over_the_norm_of_v(name):
    layer, x, out_axis = make(name)
    expected = convolved(x.numpy(), kernel_of(layer, out_axis))[:, :: layer.strides, :: layer.strides]
    np.testing.assert_allclose(layer(x), expected + layer.b.numpy(), atol=1e-12)


def test_a_transposed_conv_is_the_adjoint_of_the_conv_with_its_kernel():
    """<T x, y> = <x, C y>; for an odd size "SAME" pads alike on both sides, as scipy does."""
    layer = Conv2DTranspose(4, 3, (5, 7), dtype="float64")
    rng = np.random.default_rng(0)
    layer.g.assign(rng.normal(size=3))
    x, y = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 5, 7, 3))
    expected = (x * convolved(y, kernel_of(layer, -2))[:, ::2, ::2]).sum()
    np.testing.assert_allclose((layer(tf.constant(x)).numpy() * y).sum(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 6, 5, 4), (3, 6, 5, 4)])
def test_a_conv_folds_leading_axes_into_the_batch(shape):
    layer = Conv2D(4, 3, dtype="float64")
    x = np.random.default_rng(0).normal(size=shape)
    expected = layer(tf.constant(x.reshape(-1, *shape[-3:]))).numpy().reshape(*shape[:-1], 3)
    np.testing.assert_allclose(layer(tf.constant(x)), expected, atol=1e-14)


def test_an_output_that_the_mask_cuts_off_is_its_b():
    layer = Dense(4, 3, mask=DENSE_MASK, dtype="float64")
    layer.b.assign([5.0, 6.0, 7.0])
    outputs = layer(tf.random.stateless_normal([20, 4], [0, 0], dtype=tf.float64)).numpy()
    np.testing.assert_array_equal(outputs[:, 0], np.full(20, 5.0))
    assert (outputs[:, 1:].std(0) > 0).all()


# Initialisation from data.


def initialized(layer, x):
    with data_dependent_initialization():
        return layer(x).numpy()


@pytest.mark.parametrize("init_scale", [1.0, 0.1, np.array([0.1, 1.0, 3.0])], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_initialisation_gives_mean_0_and_the_chosen_deviation(name, init_scale):
    layer, x, _ = make(name, init_scale=init_scale)
    directions = layer.v.numpy()
    for outputs in (initialized(layer, x), layer(x).numpy()):  # what it puts out then is what it puts out later
        axes = tuple(range(outputs.ndim - 1))
        np.testing.assert_allclose(outputs.mean(axes), np.zeros(3), atol=1e-12)
        np.testing.assert_allclose(outputs.std(axes), init_scale * np.ones(3), rtol=1e-12)
    np.testing.assert_array_equal(layer.v.numpy(), directions)


def test_each_layer_of_a_net_sees_what_those_before_it_put_out_initialised():
    first, second = Dense(4, 5, dtype="float64"), Dense(5, 3, dtype="float64", init_scale=0.1)
    x = 100.0 * tf.random.stateless_normal([50, 4], [0, 0], dtype=tf.float64)
    with data_dependent_initialization():
        second(tf.nn.elu(first(x)))
    np.testing.assert_allclose(second(tf.nn.elu(first(x))).numpy().std(0), np.full(3, 0.1), rtol=1e-12)


def test_constant_outputs_are_centred_and_keep_their_scale():
    layer = Dense(4, 3, mask=DENSE_MASK, init_scale=0.5, dtype="float64")
    np.testing.assert_allclose(initialized(layer, tf.ones([20, 4], tf.float64)), np.zeros((20, 3)), atol=1e-15)
    np.testing.assert_array_equal(layer.g.numpy(), np.full(3, 0.5))


def test_an_output_that_the_mask_cuts_off_keeps_its_scale_and_starts_at_0():
    layer = Dense(4, 3, mask=DENSE_MASK, dtype="float64")
    outputs = initialized(layer, tf.random.stateless_normal([20, 4], [0, 0], dtype=tf.float64))
    np.testing.assert_array_equal(outputs[:, 0], np.zeros(20))
    assert layer.g.numpy()[0] == 1.0
    np.testing.assert_allclose(outputs[:, 1:].std(0), np.ones(2), rtol=1e-12)


def values(layer):
    return [weight.numpy() for weight in layer.weights]


def test_ordinary_calls_initialise_nothing():
    layer, x, _ = make("conv")
    traced = tf.function(layer)
    traced(x)
    before = values(layer)
    layer(x), traced(x), tf.function(layer, jit_compile=True)(x)
    np.testing.assert_equal(values(layer), before)
    initialized(layer, x)
    once = values(layer)
    assert not np.array_equal(once[1], before[1])
    for call in (layer, traced, tf.function(layer)):
        call(5.0 * x + 1.0)
    np.testing.assert_equal(values(layer), once)


def test_an_error_ends_the_initialisation():
    layer, x, _ = make("dense")
    before = values(layer)
    with pytest.raises(KeyError), data_dependent_initialization():
        raise KeyError
    layer(x)
    np.testing.assert_equal(values(layer), before)


@pytest.mark.slow
def test_two_replicas_are_initialised_as_one_device_is(tmp_path):
    """By the model's `initialize`, which runs where the variables of all replicas are assigned at once."""
    script = pathlib.Path(__file__).parent / "children" / "initialization.py"
    subprocess.run([sys.executable, script, tmp_path / "results.json"], check=True, timeout=400)
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["replicas"]) == 2
    for replica in results["replicas"]:
        assert replica == results["one"]
    assert results["one"] != results["before"]


def test_a_graph_never_learns_to_initialise():
    layer = Dense(3, 2)
    with data_dependent_initialization(), pytest.raises(RuntimeError, match="must be eager"):
        tf.function(layer.call)(tf.ones([4, 3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(0, 2), "`in_units` must be an integer of at least 1. Received: 0"),
        (lambda: Conv2D(3, 2.5), "must be an integer of at least 1. Received: 2.5"),
        (lambda: Conv2D(3, 2, strides=0), "`strides` must be an integer of at least 1. Received: 0"),
        (lambda: Conv2DTranspose(3, 2, (4, -1)), "`out_size` must be an integer of at least 1. Received: -1"),
    ],
)
def test_sizes_are_checked(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


# Principal components.

CORRELATED = np.random.default_rng(0).normal(size=(300, 4)) @ np.random.default_rng(1).normal(size=(4, 6)) + 0.5


def fitted(num_components):
    layer = PrincipalComponents(6, num_components)
    return layer, initialized(layer, CORRELATED.astype("float32"))


def test_components_are_uncorrelated_and_span_the_leading_eigenvectors():
    """By numpy: the eigenvalues, of which the first is scaled to 1, and the projector on their eigenvectors."""
    layer, components = fitted(3)
    np.testing.assert_allclose(components.mean(axis=0), np.zeros(3), atol=1e-5)
    values, vectors = np.linalg.eigh(np.cov(CORRELATED.T))
    np.testing.assert_allclose(np.cov(components.T), np.diag(values[:-4:-1]) / values[-1], atol=1e-5)
    np.testing.assert_allclose(layer.scale.numpy() ** 2, values[-1], rtol=1e-5)
    expected = vectors[:, -3:] @ vectors[:, -3:].T
    np.testing.assert_allclose(layer.basis.numpy() @ layer.basis.numpy().T, expected, atol=1e-5)


def test_reconstruction_is_exact_within_the_span_and_the_mean_outside_of_it():
    layer, components = fitted(4)  # the rank of the images
    np.testing.assert_allclose(layer.reconstruct(components), CORRELATED, atol=1e-5)
    layer, components = fitted(2)
    rest = CORRELATED - layer.reconstruct(components).numpy()
    np.testing.assert_allclose(layer.project(layer.mean + rest), np.zeros((300, 2)), atol=1e-5)
    np.testing.assert_allclose(layer.project(layer.reconstruct(components)), components, atol=1e-5)


def test_components_that_the_images_do_not_have_are_refused():
    with pytest.raises(ValueError, match="`num_components` must be at most the 6 values of an image. Received: 7"):
        PrincipalComponents(6, 7)
    with pytest.raises(ValueError, match="`num_components` must be at most the rank of the images. Received: 5"):
        fitted(5)
    with pytest.raises(ValueError, match="`x` must hold more than 3 images .* Received: 3"):
        initialized(PrincipalComponents(6, 3), CORRELATED[:3].astype("float32"))
