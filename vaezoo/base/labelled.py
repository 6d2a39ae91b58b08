"""Models of images of which some have a class: labels in, probabilities of classes out."""

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.base.latent_variable import LatentVariableModel
from vaezoo.base.metrics import ExampleMean


class LabelledModel(LatentVariableModel):
    """A model of images, of which some have a class: labels in, probabilities of classes out.

    A subclass owes `class_probabilities` and, in its training step, what it makes of labels.

    `fit` takes `((x_labelled, y), x_unlabelled)`, as arrays or as a `tf.data.Dataset` of batches of them; `(x, y)` with
    y = -1 where the class is unknown; or x alone.

    Args:
        num_classes: int, K, at least 2.
        *args, **kwargs: of the class that comes next, `LatentVariableModel` or one of its subclasses.
    """

    def __init__(self, *args, num_classes, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_classes = checks.positive_int("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}")
        self.cross_entropy_tracker = ExampleMean("cross_entropy", "down")
        self.error_rate_tracker = ExampleMean("error_rate", "down")

    def class_probabilities(self, x):
        """Images [B, H, W, C] -> q(y | x), [B, K]."""
        raise NotImplementedError

    def predict_proba(self, x, batch_size=500):
        """Returns the class probabilities of images [N, H, W, C], a numpy array [N, K]; see `class_probabilities`."""
        self.domain.check("x", x, self.example_shape)
        checks.positive_int("batch_size", batch_size)
        parts = (x[first : first + batch_size] for first in range(0, len(x), batch_size))
        return np.concatenate([np.asarray(self.class_probabilities(part)) for part in parts])

    def measure(self, data):
        """Measures the ELBO as the base class does and, of `(x, y)`, the error rate in % where y is known."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        measured = super().measure(x)
        if y is None:
            return measured
        y = tf.cast(tf.reshape(y, [-1]), tf.int64)
        wrong = 100.0 * tf.cast(tf.argmax(self.class_probabilities(x), axis=-1) != y, tf.float32)
        return {**measured, "error_rate": tf.boolean_mask(wrong, y != checks.UNKNOWN)}

    def fit(self, x=None, y=None, batch_size=None, **kwargs):
        """Trains on labelled and unlabelled images, as `keras.Model.fit` does; for the forms of data, see the class.

        Arrays become batches of `batch_size` unlabelled images, each beside at most as many labelled ones. The images
        of `(x, y)` all count as unlabelled, those with a label as labelled besides.

        Raises:
            ValueError: images or labels are not legal; no label is known, or none of some class.
        """
        if y is not None:
            y = checks.labels("y", y, self.num_classes, unknown=checks.UNKNOWN)
            self.domain.check("x", x, self.example_shape)
            _check_lengths(x, y)
            known = y != checks.UNKNOWN
            x = (np.asarray(x)[known], y[known]), np.asarray(x)
        if isinstance(x, tuple):
            (x_labelled, y), x_unlabelled = x
            self.domain.check("x_labelled", x_labelled, self.example_shape)
            self.domain.check("x_unlabelled", x_unlabelled, self.example_shape)
            y = checks.labels("y", y, self.num_classes, every=True)
            _check_lengths(x_labelled, y)
            self.initialize(x_unlabelled[: self.initial_images])
            x = paired_batches(x_labelled, y, x_unlabelled, batch_size or 32)
            batch_size, kwargs["shuffle"] = None, False  # the dataset has and does both
        return super().fit(x, batch_size=batch_size, **kwargs)


def _check_lengths(x, y):
    if len(x) != len(y):
        raise ValueError(f"`y` must hold a label per image, {len(x)}. Received: {len(y)}")


def split_data(data):
    """Splits what a training step is given into `(x_labelled, y)`, or None, and x.

    Raises:
        ValueError: it is a batch of pairs `(x, y)`: which of them are labelled has to be decided before batching.
    """
    if isinstance(data, tuple) and isinstance(data[0], tuple):
        return data
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    if y is not None:
        raise ValueError(
            "`x` must be a dataset of images, or of ((x_labelled, y), x_unlabelled). Received a dataset of (x, y)."
        )
    return None, x


def paired_batches(x_labelled, y, x_unlabelled, batch_size):
    """Returns a `tf.data.Dataset` of ((x_labelled, y), x_unlabelled): a pass over the latter, shuffled anew each time.

    A batch holds `batch_size` unlabelled images, and as many labelled ones, or all if there are not so many.
    """
    labelled_size = min(checks.positive_int("batch_size", batch_size), len(y))
    x_labelled, y, x_unlabelled = (tf.constant(value) for value in (x_labelled, y, x_unlabelled))
    unlabelled = tf.data.Dataset.range(len(x_unlabelled)).shuffle(len(x_unlabelled)).batch(batch_size)
    labelled = tf.data.Dataset.range(len(y)).shuffle(len(y)).repeat().batch(labelled_size)

    def gather(rows, labelled_rows):
        return (tf.gather(x_labelled, labelled_rows), tf.gather(y, labelled_rows)), tf.gather(x_unlabelled, rows)

    return tf.data.Dataset.zip(unlabelled, labelled).map(gather).prefetch(tf.data.AUTOTUNE)
