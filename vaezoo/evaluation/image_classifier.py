"""Classifiers of images that measure samples: a user's own Keras model, or a small network that is trained here.

    images [N, H, W, C] in [0, 1] -> class probabilities [N, K], and the features [N, F] that they are a layer away from

Nothing is downloaded. The network that `train` makes is no Inception: what is measured with it is called by its name.
"""

import math
import pathlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.base.figures import error_rate
from vaezoo.domains import to_unit_interval
from vaezoo.noise import keras_seed
from vaezoo.numerics import batched

FILTERS = (16, 32)  # of 3x3, each followed by pooling 2x2: 99.15 % of MNIST's test images, 2 minutes on one core
FEATURES = 64  # few enough that a few thousand images give their covariance
DROPOUT = 0.25
BATCH_SIZE, LEARNING_RATE = 100, 3e-3
SUM_TOLERANCE = 1e-2  # of a row of probabilities, that half precision may have rounded


class Predictions(NamedTuple):
    """What a classifier says of N images: probabilities [N, K] and features [N, F], float64."""

    probabilities: np.ndarray
    features: np.ndarray


class ImageClassifier:
    """A Keras classifier, checked.

    Args:
        model: functional or sequential: images [B, H, W, C] in [0, 1] -> probabilities [B, K], K at least 2. Its last
            layer with weights is Dense; what that layer is given are the features.

    Attributes:
        image_shape: (H, W, C).
        num_classes: K.

    Raises:
        ValueError: the model is not as described.
    """

    def __init__(self, model):
        try:
            inputs, outputs = model.inputs, model.outputs
            shapes = [tuple(tensor.shape) for tensor in (*inputs, *outputs)]
        except (AttributeError, TypeError, ValueError):  # Keras has one for each kind of model without them
            shapes = []
        sizes = [size for shape in shapes for size in shape[1:]]
        if [len(shape) for shape in shapes] != [4, 2] or None in sizes or sizes[-1] < 2:
            raise ValueError(
                "`classifier` must be a functional or sequential Keras model of images [batch, height, width, "
                f"channels] with outputs [batch, classes]. Received: {type(model).__name__} of shapes {shapes}"
            )
        last = next((layer for layer in reversed(model.layers) if layer.weights), None)
        if not isinstance(last, keras.layers.Dense):
            raise ValueError(
                f"`classifier` must have a Dense layer for its last one with weights. Received: {type(last).__name__}"
            )
        self.image_shape, self.num_classes = shapes[0][1:], shapes[1][1]
        self._model = keras.Model(inputs[0], [outputs[0], last.input])

    def predict(self, images, batch_size=500):
        """Returns the `Predictions` of images, uint8 in 0..255 or floats in [0, 1], [N, H, W, C].

        Raises:
            ValueError: the images do not fit, or what the classifier gives are not probabilities.
        """
        checks.images("images", images, self.image_shape)
        columns = batched(lambda x: tuple(self._model(to_unit_interval(x), training=False)), images, batch_size)
        probabilities, features = (column.astype(np.float64) for column in columns)
        sums = probabilities.sum(axis=1)
        wrong = ~((probabilities >= 0).all(axis=1) & (np.abs(sums - 1.0) < SUM_TOLERANCE))
        if wrong.any():
            row = probabilities[wrong][0].round(3).tolist()
            raise ValueError(f"`classifier` must give probabilities, by a softmax at its end. Received: {row}")
        return Predictions(probabilities / sums[:, np.newaxis], features)

    def error_rate(self, images, labels):
        """Returns the % of images [N, H, W, C] whose most probable class is not their label."""
        return error_rate(self.predict(images).probabilities, labels)


def load(path):
    """Returns the `ImageClassifier` of a file that `keras.Model.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold a Keras model, or not a classifier of images.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`classifier` must be a file. Received: {path}, which does not exist")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py and Keras raise many kinds for a damaged or foreign file
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"`classifier` must be a whole `.keras` file. Received: {path}: {reason}") from None
    return ImageClassifier(model)


def build(image_shape, num_classes):
    """Returns the network, not trained: two convolutions with pooling, a dense layer of features, a softmax."""
    x = inputs = keras.Input(image_shape)
    for filters in FILTERS:
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D(2, padding="same")(x)
    x = keras.layers.Dropout(DROPOUT)(keras.layers.Flatten()(x))
    features = keras.layers.Dense(FEATURES, activation="relu", name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax", name="probabilities")(features))


def train(images, labels, *, epochs=5, seed=0, verbose=0):
    """Returns the Keras model of `build`, trained.

    Args:
        images: uint8 in 0..255 or floats in [0, 1], [N, H, W, C].
        labels: ints [N], class ids 0..K-1, each of which is there.
        epochs: int.
        seed: int, of the weights, of dropout and of the order.
        verbose: as in `keras.Model.fit`.

    Raises:
        ValueError: if an argument is not as described.
    """
    if images.ndim != 4:
        raise ValueError(f"`images` must have shape [N, H, W, C]. Received: {list(images.shape)}")
    checks.images("images", images, images.shape[1:])
    checks.positive_int("epochs", epochs)
    num_classes = 1 + max(1, int(labels.max()))
    labels = checks.labels("labels", labels, num_classes, every=True)
    with keras_seed(checks.non_negative_int("seed", seed)):
        model = build(images.shape[1:], num_classes)
    steps = math.ceil(len(images) / BATCH_SIZE)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = _batches(images, labels, epochs, seed)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=verbose)
    return model


def _batches(images, labels, epochs, seed):
    """Returns the batches of all epochs, each in an order of its own that depends on the seed alone."""
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(images)) for _ in range(epochs)])  # [epochs, N]
    stored, labels = tf.constant(images), tf.constant(labels)

    def rows(order):
        return tf.data.Dataset.from_tensor_slices(order).batch(BATCH_SIZE)

    def batch(row):
        return to_unit_interval(tf.gather(stored, row)), tf.gather(labels, row)

    return tf.data.Dataset.from_tensor_slices(orders).flat_map(rows).map(batch).prefetch(tf.data.AUTOTUNE)
