"""What a user can get wrong is told in one line: argument, expectation, value."""

import re
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE

from vaezoo.models import VAE


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    for part in parts:
        assert part in text, text


def bad_images(images):
    poisoned = images.copy()
    poisoned[3, 1, 2, 0] = np.nan
    return {
        "rank": (images[..., 0], "`x` must have shape [batch, 6, 5, 2]", "[40, 6, 5]"),
        "channels": (images[..., :1], "`x` must have shape [batch, 6, 5, 2]", "[40, 6, 5, 1]"),
        "flat": (images.reshape(40, -1), "`x` must have shape", "[40, 60]"),
        "above": (images * 255, "`x` must be uint8, or floats in [0, 1]", "Received floats in ["),
        "below": (images - 0.5, "`x` must be uint8, or floats in [0, 1]", "[-0.49"),
        "nan": (poisoned, "`x` must hold finite values", "NaN at index [3, 1, 2, 0]"),
        "infinite": (np.where(images > 0.9, np.inf, images), "`x` must be uint8, or floats in [0, 1]", "inf"),
        "empty": (images[:0], "`x` must hold at least one example", "[0, 6, 5, 2]"),
        "int": (np.round(images).astype("int64"), "`x` must be uint8 or floating point", "int64"),
        "binary uint8": (np.round(images).astype("uint8"), "holds only 0 and 1", "float32"),
        "text": (np.full((3, *IMAGE_SHAPE), "a"), "`x` must be uint8 or floating point", "<U1"),
    }


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "log_likelihood"])
@pytest.mark.parametrize("kind", list(bad_images(np.zeros((40, *IMAGE_SHAPE), "float32"))))
def test_bad_images(make_tiny, images, method, kind):
    value, *parts = bad_images(images)[kind]
    model = make_tiny("vae")
    before = [np.array(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="`x`") as error:
        getattr(model, method)(value)
    one_line(error, *parts)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize("kind", ["channels", "above", "nan", "int"])
def test_bad_first_batch_of_a_dataset(make_tiny, images, kind):
    value, *parts = bad_images(images)[kind]
    with pytest.raises(ValueError, match="`x`") as error:
        make_tiny("vae").fit(tf.data.Dataset.from_tensor_slices(value).batch(10), verbose=0)
    one_line(error, parts[0])


@pytest.mark.parametrize("value", [np.zeros((3, *IMAGE_SHAPE), "int64"), [[[["a"]]]]], ids=["int", "text"])
def test_bad_codes_of(make_tiny, value):
    with pytest.raises(ValueError, match="`x` must be uint8 or floating point"):
        make_tiny("vae").encode(value)


def test_empty_dataset(make_tiny, images):
    with pytest.raises(ValueError, match="`x` must hold at least one batch") as error:
        make_tiny("vae").fit(tf.data.Dataset.from_tensor_slices(images[:0]).batch(10), verbose=0)
    one_line(error)


def test_bad_validation_data(make_tiny, images):
    with pytest.raises(ValueError, match="`validation_data` must be uint8, or floats in") as error:
        make_tiny("vae").fit(images, validation_data=images + 1, verbose=0)
    one_line(error)


def test_missing_channel_axis_gets_a_hint():
    model = VAE((6, 5, 1), latent_dim=2, hidden_units=(4,))
    model.compile()
    with pytest.raises(ValueError, match=re.escape("add the channel axis: x[..., None]")):
        model.fit(np.zeros((3, 6, 5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "`latent_dim` must be an integer of at least 1. Received: 0"),
        ({"latent_dim": 2.0}, "`latent_dim` must be an integer of at least 1. Received: 2.0"),
        ({"image_shape": (28, 0, 1)}, "`image_shape` must be an integer of at least 1. Received: 0"),
        ({"image_shape": 28}, "`image_shape` must be a sequence of integers. Received: 28"),
        ({"hidden_units": ()}, "`hidden_units` must hold at least one value. Received: ()"),
        ({"hidden_units": (5, -1)}, "`hidden_units` must be an integer of at least 1. Received: -1"),
        (
            {"posterior": "diagonal"},
            "`posterior` must be one of: coupling, diagonal_gaussian, full_covariance_gaussian, iaf",
        ),
        ({"likelihood": "bernouli"}, "Did you mean 'bernoulli'?"),
        ({"activation": "tahn"}, "tahn"),
    ],
)
def test_bad_constructor_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VAE(**{"image_shape": (6, 5, 2), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be an integer of at least 1. Received: 0"),
        ({"num_samples": 10, "chunk": -1}, "`chunk` must be an integer of at least 1. Received: -1"),
    ],
)
def test_bad_estimates(make_tiny, images, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_tiny("vae").log_likelihood(images, **arguments)


def test_bad_sampling(make_tiny):
    with pytest.raises(ValueError, match="`num_samples` must be an integer of at least 1"):
        make_tiny("vae").sample(0, seed=0)
    with pytest.raises(ValueError, match="`temperature` must be a finite number of at least 0"):
        make_tiny("vae").sample(1, seed=0, temperature=-1.0)


def test_several_steps_in_a_call_are_refused_with_several_replicas(monkeypatch):
    model = VAE((6, 5, 1), latent_dim=2, hidden_units=(4,))
    monkeypatch.setattr(VAE, "distribute_strategy", types.SimpleNamespace(num_replicas_in_sync=2))
    with pytest.raises(ValueError, match="`steps_per_execution` must be 1 with 2 replicas. Received: 5"):
        model.compile(steps_per_execution=5)
