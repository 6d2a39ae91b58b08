"""Classifiers of images: what is a classifier, what it says of images, the one that is trained here."""

import keras
import numpy as np
import pytest

from vaezoo import data
from vaezoo.evaluation import image_classifier

SHAPE = (8, 8, 1)


def classifier(*layers, image_shape=SHAPE):
    return keras.Sequential([keras.Input(image_shape), *layers])


def dense(units, activation="softmax"):
    return keras.layers.Dense(units, activation)


def flatten():
    return keras.layers.Flatten()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(digits):
    return image_classifier.ImageClassifier(image_classifier.train(*digits.train, epochs=30))


def test_the_trained_one_knows_digits(trained, digits):
    assert trained.error_rate(*digits.test) < 8  # 90 by chance


def test_predictions_are_those_of_the_keras_model_and_a_softmax_away_from_the_features(digits):
    last = dense(10)
    model = classifier(keras.layers.Conv2D(2, 3), flatten(), keras.layers.Dense(5, "relu"), last)
    images = digits.test.images[:23]
    got = image_classifier.ImageClassifier(model).predict(images, batch_size=10)
    np.testing.assert_allclose(got.probabilities, model.predict(images / np.float32(255), verbose=0), atol=1e-6)
    logits = got.features @ last.kernel.numpy().astype(np.float64) + last.bias.numpy()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.probabilities, softmax, atol=1e-6)
    np.testing.assert_allclose(got.probabilities.sum(axis=1), 1.0, rtol=1e-12)


def test_a_softmax_of_its_own_is_not_what_the_features_are_a_layer_away_from(digits):
    model = classifier(flatten(), keras.layers.Dense(5), keras.layers.Dense(10), keras.layers.Softmax())
    assert image_classifier.ImageClassifier(model).predict(digits.test.images[:2]).features.shape == (2, 5)


def test_uint8_and_unit_interval_are_the_same_images(trained, digits):
    stored = digits.test.images[:10]
    one, other = (trained.predict(x).probabilities for x in (stored, data.grey(stored)))
    np.testing.assert_array_equal(one, other)


def test_dropout_is_off(trained, digits):
    one, other = (trained.predict(digits.test.images[:10]).features for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_training_depends_on_the_seed_alone(digits):
    weights = []
    for caller, seed in ((1, 0), (2, 0), (2, 1)):
        keras.utils.set_random_seed(caller)
        weights.append(image_classifier.train(*digits.train, epochs=1, seed=seed).get_weights())
    one, same, other = (np.concatenate([w.ravel() for w in ws]) for ws in weights)
    np.testing.assert_allclose(one, same, atol=1e-5)  # threads may add in another order
    assert np.abs(one - other).max() > 0.1


def test_error_rate_is_a_percentage():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert image_classifier.error_rate(probabilities, np.array([0, 1, 1, 1])) == 25.0


def test_saved_and_loaded_it_says_the_same(trained, digits, tmp_path):
    model = image_classifier.build(SHAPE, 10)
    model.save(tmp_path / "net.keras")
    loaded = image_classifier.load(tmp_path / "net.keras")
    assert (loaded.image_shape, loaded.num_classes) == (SHAPE, 10)
    own = image_classifier.ImageClassifier(model)
    for one, other in zip(own.predict(digits.test.images), loaded.predict(digits.test.images), strict=True):
        np.testing.assert_array_equal(one, other)


class Subclassed(keras.Model):
    """A model that has no graph of layers."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Subclassed, "must be a functional or sequential Keras model of images .* Received: Subclassed"),
        (lambda: keras.Sequential([dense(3)]), r"must be a functional or sequential .* Received: Sequential"),
        (lambda: classifier(dense(3), image_shape=(64,)), r"Received: Sequential of shapes \[\(None, 64\)"),
        (lambda: classifier(keras.layers.Conv2D(3, 3)), r"with outputs \[batch, classes\]"),
        (lambda: classifier(flatten(), dense(1, "sigmoid")), r"shapes \[.*, \(None, 1\)\]"),
        (
            lambda: classifier(keras.layers.Conv2D(3, 3), keras.layers.GlobalAveragePooling2D()),
            "must have a Dense layer for its last one with weights. Received: Conv2D",
        ),
        (lambda: classifier(flatten(), keras.layers.Softmax()), "Received: NoneType"),
        (
            lambda: classifier(keras.layers.GlobalMaxPooling2D(), dense(4), image_shape=(None, 8, 1)),
            r"shapes \[\(None, None, 8, 1\)",
        ),
    ],
)
def test_what_is_no_classifier(make, message):
    with pytest.raises(ValueError, match=message):
        image_classifier.ImageClassifier(make())


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
def test_outputs_must_be_probabilities(digits, activation):
    with pytest.raises(ValueError, match="must give probabilities, by a softmax at its end. Received: \\["):
        image_classifier.ImageClassifier(classifier(flatten(), dense(3, activation))).predict(digits.test.images)


def test_a_classifier_that_broke_gives_no_probabilities(digits):
    model = classifier(flatten(), dense(3))
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match="must give probabilities"):
        image_classifier.ImageClassifier(model).predict(digits.test.images)


def test_bad_arguments(trained, digits, tmp_path):
    images, labels = digits.train
    with pytest.raises(ValueError, match=r"`images` must have shape \[batch, 8, 8, 1\]"):
        trained.predict(images[:, :4])
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        trained.predict(images, batch_size=0)
    with pytest.raises(ValueError, match="`epochs` must be an integer of at least 1"):
        image_classifier.train(images, labels, epochs=0)
    with pytest.raises(ValueError, match=r"`images` must have shape \[N, H, W, C\]. Received: \[1297, 64\]"):
        image_classifier.train(images.reshape(-1, 64), labels)
    with pytest.raises(ValueError, match="must hold a label of each of the 10 classes. Received: none of \\[3\\]"):
        image_classifier.train(images[labels != 3], labels[labels != 3])
    with pytest.raises(ValueError, match="`labels` must be integers"):
        image_classifier.train(images, labels / 2)
    with pytest.raises(FileNotFoundError, match="`classifier` must be a file. Received: .*nowhere.keras"):
        image_classifier.load(tmp_path / "nowhere.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="`classifier` must be a whole `.keras` file"):
        image_classifier.load(tmp_path / "text.keras")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_set_that_is_stored_as_0_and_1_is_grey_as_it_is(dtype):
    binary = np.array([0, 1], dtype).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(data.grey(binary).ravel(), [0.0, 1.0])
    np.testing.assert_allclose(data.grey(np.array([0, 51, 255], "uint8")), [0.0, 0.2, 1.0])
