"""What an example is, an image or a document's word counts: how it is checked, and what the networks see of it."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from vaezoo import checks


class Domain(NamedTuple):
    """The examples that a likelihood gives probabilities to; its layer names one of those below as `domain`.

    Attributes:
        name: what examples are called in signatures and messages.
        expected: what legal float32 values are, for messages.
        ranges: dict from the dtypes that signatures take to the least and the largest value; None for no limit.
        check: (argument's name, array or dataset, shape of one example) -> None, or raises `ValueError`.
        values: examples as they are stored -> float32, what the likelihood sees.
        inputs: values -> what encoders see.
        legal: values -> whether all are, for graphs.
    """

    name: str
    expected: str
    ranges: dict
    check: Callable
    values: Callable
    inputs: Callable
    legal: Callable


def to_unit_interval(x):
    """Returns images as float32 in [0, 1]: uint8 is divided by 255, floats are taken as they are."""
    x = _tensor(x)
    if not (x.dtype == tf.uint8 or x.dtype.is_floating):
        raise ValueError(f"`x` must be uint8 or floating point. Received dtype: {x.dtype.name}")
    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else tf.cast(x, tf.float32)


def to_counts(x):
    """Returns counts as float32, whatever they are stored in."""
    x = _tensor(x)
    if not (x.dtype.is_integer or x.dtype.is_floating):
        raise ValueError(f"`x` must be integers or floating point. Received dtype: {x.dtype.name}")
    return tf.cast(x, tf.float32)


def _tensor(x):
    if isinstance(x, keras.KerasTensor):
        raise ValueError(
            "`x` must be an array or a tensor; in a functional model, call the model or its `feature_extractor()`. "
            f"Received: a KerasTensor of shape {x.shape}"
        )
    return tf.convert_to_tensor(x)


IMAGES = Domain(
    name="images",
    expected="in [0, 1]",
    ranges={"float32": [0, 1], "uint8": [0, 255]},
    check=checks.images,
    values=to_unit_interval,
    inputs=lambda x: x,
    legal=lambda x: tf.reduce_all((x >= 0.0) & (x <= 1.0)),
)
# Encoders see log(1 + x): of a word that is said once or a hundred times, the first time tells most.
COUNTS = Domain(
    name="counts",
    expected="whole numbers of at least 0",
    ranges={"float32": [0, None]},
    check=checks.counts,
    values=to_counts,
    inputs=tf.math.log1p,
    legal=lambda x: tf.reduce_all((x >= 0.0) & tf.math.is_finite(x) & (x == tf.floor(x))),
)
# The rank of an array, with the axis of the examples, tells images from documents.
DOMAINS_BY_RANK = {4: IMAGES, 2: COUNTS}
