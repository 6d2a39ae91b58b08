"""The convolutional ResNet VAE: its shapes at any size, its posteriors, its parts against plain Keras."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_expit

from vaezoo.models.conv_vae import ConvVAE, ResidualBlock, TransposedResidualBlock, sizes
from vaezoo.objectives import ELBO
from vaezoo.posteriors import POSTERIORS


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (7, 5, 2), (8, 9, 3), (1, 1, 1)])
def test_encoder_and_decoder_mirror_each_other_at_any_size(image_shape):
    model = ConvVAE(image_shape, latent_dim=3, filters=(2, 3, 4), hidden_units=5)
    halvings = sizes(image_shape, 3)
    assert halvings[-1] == tuple(math.ceil(size / 8) for size in image_shape[:2])
    x = np.zeros((2, *image_shape), "float32")
    h, shapes = x, []
    for block in model.encoder.blocks:
        h = block(h)
        shapes.append(tuple(h.shape[1:]))
    z, upwards = model.decoder.unflatten(model.decoder.dense(tf.zeros([2, 5]))), []
    for block in model.decoder.blocks:
        upwards.append(tuple(z.shape[1:]))
        z = block(z)
    assert upwards[0] == shapes[-1] == (*halvings[-1], 4)
    assert upwards[::-1] == shapes
    assert z.shape == (2, *image_shape)


def test_the_thesis_model_has_the_maps_of_appendix_5a():
    model = ConvVAE((28, 28, 1))
    assert [tuple(block.first.v.shape[2:]) for block in model.encoder.blocks] == [
        (1, 16),
        (16, 16),
        (16, 32),
        (32, 32),
        (32, 32),
    ]
    assert model.encoder.dense.v.shape == (4 * 4 * 32, 450)
    assert model.latent_dim == 32


# The nets in float64, from weights alone: kernels g v / ||v||, and the convolutions of Keras.


def elu(h):
    return np.where(h > 0.0, h, np.expm1(np.minimum(h, 0.0)))


def kernel_and_bias(layer, out_axis):
    """g v / ||v||, one norm per output, and b."""
    v = np.moveaxis(np.asarray(layer.v, "float64"), out_axis, -1)
    kernel = np.asarray(layer.g) * v / np.sqrt((v**2).sum(axis=tuple(range(v.ndim - 1))))
    return np.moveaxis(kernel, -1, out_axis), np.asarray(layer.b)


def dense(layer, h):
    kernel, b = kernel_and_bias(layer, -1)
    return h @ kernel + b


def conv(layer, h, strides=1):
    kernel, b = kernel_and_bias(layer, -1)
    return np.asarray(keras.ops.conv(h, kernel, strides, padding="same")) + b


def transposed(layer, h, size):
    """The adjoint of the convolution of stride 2 that takes maps of this size to those of h; plus b."""
    kernel, b = kernel_and_bias(layer, -2)
    return np.asarray(tf.nn.conv2d_transpose(h, kernel, [len(h), *size, len(b)], 2, "SAME")) + b


def randomized(model):
    """All weights off their initial values: biases too, or an ELU more or less would not show at 0."""
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(weight + rng.normal(0.0, 0.5, weight.shape))
    return model


@pytest.mark.parametrize(("in_filters", "filters", "strides"), [(3, 3, 1), (2, 4, 2)])
def test_a_residual_block_is_shortcut_plus_two_convolutions_of_elus(in_filters, filters, strides):
    block = randomized(ResidualBlock(in_filters, filters, strides))
    h = np.random.default_rng(1).normal(size=(2, 5, 4, in_filters))
    shortcut = h if strides == 1 else conv(block.shortcut, h, strides)
    expected = shortcut + conv(block.second, elu(conv(block.first, elu(h), strides)))
    np.testing.assert_allclose(block(h.astype("float32")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 4), (5, 3)])
def test_a_transposed_residual_block_is_shortcut_plus_two_convolutions_of_elus(size):
    block = randomized(TransposedResidualBlock(3, 2, size))
    h = np.random.default_rng(1).normal(size=(2, 3, 2, 3))
    residual = transposed(block.second, elu(conv(block.first, elu(h))), size)
    expected = transposed(block.shortcut, h, size) + residual
    np.testing.assert_allclose(block(h.astype("float32")), expected, rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_are_the_chains_of_appendix_5a():
    """Blocks down, ELU, dense, ELU, the Gaussian's heads; dense, ELU, dense, blocks up, the logits of Bernoullis."""
    model = randomized(ConvVAE((6, 5, 2), latent_dim=3, filters=(2, 4), hidden_units=5))
    x = np.random.default_rng(1).integers(0, 2, (3, 6, 5, 2)).astype("float32")
    encoder, decoder, noise = model.encoder, model.decoder, model.noise(1, 3, seed=[0, 1])
    h = x.astype("float64")
    for block in encoder.blocks:
        h = np.asarray(block(h.astype("float32")), "float64")
    features = elu(dense(encoder.dense, elu(h).reshape(3, -1)))
    kernel, bias = (np.asarray(weight) for weight in model.posterior.params.weights)
    mean, log_sd = np.split(features @ kernel + bias, 2, axis=-1)
    np.testing.assert_allclose(model.encode(x), mean, rtol=1e-4, atol=1e-5)
    h = dense(decoder.dense, elu(dense(decoder.hidden, mean + np.exp(log_sd) * noise[0])))
    h = h.reshape(3, 2, 2, 4)
    for block in decoder.blocks:
        h = np.asarray(block(h.astype("float32")), "float64")
    log_lik = np.sum(x * log_expit(h) + (1.0 - x) * log_expit(-h), axis=(1, 2, 3))
    np.testing.assert_allclose(model.terms(x, noise).log_lik[0], log_lik, rtol=1e-4)


@pytest.mark.rest
@pytest.mark.parametrize("posterior", sorted(POSTERIORS))
def test_every_posterior_trains_in_it(posterior):
    rng = np.random.default_rng(0)
    templates = rng.integers(0, 2, (2, 6, 6, 1))
    x = templates[rng.integers(2, size=64)].astype("float32")
    model = ConvVAE((6, 6, 1), latent_dim=2, filters=(3,), hidden_units=6, posterior=posterior)
    model.compile("adam", ELBO(analytic_kl=False))
    model.initialize(x)
    before = [weight.numpy() for weight in model.posterior.trainable_weights]
    first = model.evaluate(x, verbose=0, return_dict=True)["elbo"]
    model.fit(x, batch_size=8, epochs=8, verbose=0)
    assert model.evaluate(x, verbose=0, return_dict=True)["elbo"] > first + 1.0
    moved = [not np.array_equal(old, new) for old, new in zip(before, model.posterior.trainable_weights, strict=True)]
    assert all(moved)


def test_fit_initialises_once_and_loaded_weights_stay(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (32, 6, 6, 1)).astype("float32")
    model = ConvVAE((6, 6, 1), latent_dim=2, filters=(3,), hidden_units=6)
    model.compile("sgd")
    model.optimizer.learning_rate = 0.0
    model.fit(x, verbose=0)
    weights = model.get_weights()
    hidden = model.encoder.dense(model.encoder.flatten(tf.nn.elu(chain(model.encoder.blocks, x)))).numpy()
    np.testing.assert_allclose([hidden.mean(), hidden.std()], [0.0, 1.0], atol=1e-3)
    model.fit(1 - x, verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    model.save_weights(tmp_path / "model.weights.h5")
    other = ConvVAE((6, 6, 1), latent_dim=2, filters=(3,), hidden_units=6)
    other.load_weights(tmp_path / "model.weights.h5")
    other.initialize(1 - x)
    np.testing.assert_array_equal(other.encode(x), model.encode(x))


def chain(blocks, h):
    for block in blocks:
        h = block(h)
    return h


def test_fit_sets_layers_from_the_first_batch_of_a_generator():
    batches = np.random.default_rng(0).random((2, 4, 6, 6, 1)).astype("float32")
    models = [ConvVAE((6, 6, 1), latent_dim=2, filters=(3,), hidden_units=6) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    models[0].compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    models[0].fit((batch for batch in batches), verbose=0)
    models[1].initialize(batches[0])
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "`latent_dim` must be an integer of at least 1. Received: 0"),
        ({"filters": []}, "`filters` must hold at least one value"),
        ({"posterior": "iav"}, "Did you mean 'iaf'?"),
        ({"posterior": "iaf", "posterior_args": {"form": "gate"}}, "Did you mean 'gated'?"),
        (
            {"posterior": "iaf", "posterior_args": {"steps": 3}},
            "`posterior_args of iaf` must be one of: form, hidden_units",
        ),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        ConvVAE((6, 6, 1), **settings)
    assert message in str(error.value)
