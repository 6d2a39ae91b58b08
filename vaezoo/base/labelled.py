"""Models of images of which some have a class: labels in, probabilities of classes out."""

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.base import feeds, keywords
from vaezoo.base.feeds import classes
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

    def measure(self, data):
        """Measures the ELBO as the base class does and, of `(x, y)`, the error rate in % where y is known."""
        x, y, _ = feeds.unpacked(data)
        measured = super().measure(data)
        if y is None:
            return measured
        y = classes(y, self.num_classes)
        wrong = 100.0 * tf.cast(tf.argmax(self.class_probabilities(x), axis=-1, output_type=y.dtype) != y, tf.float32)
        return {**measured, "error_rate": tf.boolean_mask(wrong, y != checks.UNKNOWN)}

    def labels(self, name, y, length):
        """Returns the labels of `length` images as ints, [N]; `checks.UNKNOWN` where they are not known."""
        y = checks.labels(name, y, self.num_classes, unknown=checks.UNKNOWN)
        checks.same_length(name, y, length)
        return y

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains on labelled and unlabelled images, as `keras.Model.fit` does; for the forms of data, see the class.

        Arrays become batches of `batch_size` unlabelled images, each beside at most as many labelled ones. The images
        of `(x, y)` all count as unlabelled, those with a label as labelled besides. With `validation_split` the last
        ones are only measured.

        Raises:
            ValueError: images or labels are not legal; no label is known, or none of some class.
        """
        if not feeds.is_feed(x):
            x, y = feeds.of_arrays("x", x, y)
        given = keywords.given(keras.Model.fit, (x, y, *args), kwargs)
        in_two_parts = isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], (tuple, list)) and len(x[0]) == 2
        if feeds.is_feed(x) or (y is None and not in_two_parts):
            return super().fit(**given)
        if given.get("class_weight") is not None:
            raise ValueError(f"`class_weight` must be None in training with labels. Received: {given['class_weight']}")
        batch_size, weights = given.pop("batch_size", None) or 32, given.pop("sample_weight", None)
        split = given.pop("validation_split", 0.0)
        if in_two_parts:
            if y is not None or weights is not None or split:
                raise ValueError(
                    "`x` must be an array with `y`, `sample_weight` or `validation_split`. Received: "
                    "((x_labelled, y), x_unlabelled)"
                )
            (x_labelled, y), x = x
            x_labelled, x = self._concrete("x_labelled", x_labelled), self._concrete("x_unlabelled", x)
            y = checks.labels("y", y, self.num_classes, every=True)
            checks.same_length("y", y, len(x_labelled))
            labelled = x_labelled, y
        else:
            x = np.asarray(self._concrete("x", x))
            y = self.labels("y", y, len(x))
            weights = None if weights is None else checks.weights("sample_weight", weights, len(x))
            if split and given.get("validation_data") is None:
                kept = keywords.split_at("validation_split", split, len(x))
                held_out = (part if part is None else part[kept:] for part in (x, y, weights))
                x, y, weights = (part if part is None else part[:kept] for part in (x, y, weights))
                given["validation_data"] = tuple(held_out)
            checks.labels("y", y, self.num_classes, unknown=checks.UNKNOWN, every=True)
            labelled = tuple(part[y != checks.UNKNOWN] for part in (x, y, weights) if part is not None)
        batches = paired_batches(labelled, x, weights, batch_size)
        return self._fit({**given, "x": batches, "y": None, "shuffle": False}, lambda: x)  # the dataset shuffles

    def as_trained(self, given):
        """Splits a batch (x, y) as `fit` does."""
        if given.get("class_weight") is not None:
            raise ValueError(f"`class_weight` must be None in training with labels. Received: {given['class_weight']}")
        x, y, weights = feeds.unpacked(tuple(given.get(name) for name in ("x", "y", "sample_weight")))
        if y is None:
            return given
        known = y != checks.UNKNOWN
        labelled = tuple(tf.boolean_mask(part, known) for part in (x, y, weights) if part is not None)
        return {**given, "x": labelled, "y": x} if len(labelled[0]) else {**given, "y": None}


def split_data(data):
    """Splits what a training step is given into `(x_labelled, y)`, or None, and `(x, None)`; both may have weights.

    Raises:
        ValueError: it is a batch of pairs `(x, y)`: which of them are labelled has to be decided before batching.
    """
    if isinstance(data, tuple) and isinstance(data[0], tuple):
        labelled, x, *weights = data
        return labelled, (x, None, *weights)
    x, y, weights = feeds.unpacked(data)
    if y is not None:
        raise ValueError(
            "`x` must be a dataset of images, or of ((x_labelled, y), x_unlabelled). Received: a dataset of (x, y)"
        )
    return None, (x, None, weights)


def paired_batches(labelled, x, weights, batch_size):
    """Returns a `tf.data.Dataset` of ((x_labelled, y), x): a pass over the latter, shuffled anew each time.

    A batch holds `batch_size` unlabelled images, and as many labelled ones, or all if there are not so many.

    Args:
        labelled: (x_labelled, y), with their weights if there are any.
        x: all images that count as unlabelled, [N, H, W, C].
        weights: theirs, [N], or None.
        batch_size: int.
    """
    number = len(labelled[0])
    labelled = tuple(tf.constant(value) for value in labelled)
    unlabelled = tuple(tf.constant(value) for value in (x, weights) if value is not None)
    rows = tf.data.Dataset.range(len(x)).shuffle(len(x)).batch(batch_size)
    labelled_rows = tf.data.Dataset.range(number).shuffle(number).repeat().batch(min(batch_size, number))

    def gather(rows, labelled_rows):
        return tuple(tf.gather(part, labelled_rows) for part in labelled), *(
            tf.gather(part, rows) for part in unlabelled
        )

    return tf.data.Dataset.zip(rows, labelled_rows).map(gather).prefetch(tf.data.AUTOTUNE)
