"""Data that come in batches: `tf.data`, distributed datasets, `keras.utils.PyDataset`, generators.

A batch, or element, is x, (x, y), (x, y, sample_weight), a dict with image and label as TFDS makes it, or, of models
with classes, ((x_labelled, y), x_unlabelled), in which both parts may have weights. Arrays are checked whole before
training. These data are checked batch by batch on their way to the step, because XLA ignores assertions in a step.
"""

import contextlib
import itertools
import re
import types

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks

DISTRIBUTED = tf.distribute.DistributedDataset
IN_DICT = {"x": ("image", "x"), "y": ("label", "y")}  # TFDS' names, and Keras'


def is_feed(value):
    """Returns whether a value yields batches, rather than being examples."""
    loader = type(value).__module__.startswith(("torch.utils.data", "grain"))
    return loader or isinstance(value, (tf.data.Dataset, DISTRIBUTED, keras.utils.PyDataset, types.GeneratorType))


def of_dict(name, element):
    """Returns (x, y) of a dict that has both, else x; of what is no dict, itself. Other entries are left out."""
    if not isinstance(element, dict):
        return element
    x, y = ([element[key] for key in keys if key in element] for keys in IN_DICT.values())
    if len(x) != 1:
        raise ValueError(f"`{name}` must have one of the keys image and x, if a dict. Received: {sorted(element)}")
    return (x[0], y[0]) if y else x[0]


def of_arrays(name, x, y):
    """Returns the arrays x and y, of a dict of both and no y, too."""
    found = of_dict(name, x)
    if not isinstance(x, dict) or not isinstance(found, tuple):
        return found, y
    if y is not None:
        raise ValueError(f"`y` must be None where `{name}` has labels. Received: {checks.shown(y)}")
    return found


def parts(element):
    """Returns the list of the (x, y, sample_weight) of an element: one, or those with a label and those without."""
    if isinstance(element, (tuple, list)) and element and isinstance(element[0], (tuple, list)):
        labelled, x, *weights = element
        element = [labelled, (x, None, *weights)]
    else:
        element = [element]
    return [keras.utils.unpack_x_y_sample_weight(part) for part in element]


def unpacked(data):
    """Returns (x, y, sample_weight) of a batch; a y that holds nothing, [B, 0], as None."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    return x, None if y is not None and tuple(y.shape[1:]) == (0,) else y, weights


def packed(found):
    """Returns the element of what `parts` returned."""
    *labelled, (x, y, weights) = found
    if labelled:
        return packed(labelled), x, *([] if weights is None else [weights])
    return x if y is None and weights is None else (x, y) if weights is None else (x, y, weights)


class CheckedPyDataset(keras.utils.PyDataset):
    """A `keras.utils.PyDataset` whose batches go through a `Check`."""

    def __init__(self, dataset, check):
        settings = "workers", "use_multiprocessing", "max_queue_size"
        super().__init__(**{name: getattr(dataset, name) for name in settings})
        self.dataset, self.check = dataset, check

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def __getitem__(self, index):
        return self.check(self.dataset[index])

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


class Check:
    """Checks elements, as NumPy sees them or in the graph of a `tf.data.Dataset`, and makes one form of them.

    Args:
        name: the argument, for messages.
        model: the model, whose `domain`, `example_shape` and, with classes, `num_classes` are looked at.
    """

    def __init__(self, name, model):
        self.name, self.domain, self.shape = name, model.domain, model.example_shape
        self.num_classes = getattr(model, "num_classes", None)

    def __call__(self, element):
        """Returns an element of arrays, a tuple, which Keras wants of generators; or raises `ValueError`."""
        found = parts(of_dict(self.name, element))
        element = packed([self.part(*part, known=part is not found[-1]) for part in found])
        return element if isinstance(element, tuple) else (element,)

    def part(self, x, y, weights, known):
        x = self.domain.check(self.name, x, self.shape)
        if y is not None and self.num_classes:
            y = checks.labels("y", y, self.num_classes, unknown=None if known else checks.UNKNOWN)
            checks.same_length("y", y, len(x))
        return x, y, weights if weights is None else checks.weights("sample_weight", weights, len(x))

    def in_graph(self, *element):
        """Returns an element of tensors, with assertions that `told` reads."""
        found = parts(of_dict(self.name, element[0] if len(element) == 1 else element))
        return packed([self.part_in_graph(*part, known=part is not found[-1]) for part in found])

    def part_in_graph(self, x, y, weights, known):
        values = self.domain.values(x)
        x = _asserted(x, self.domain.legal(values), f"`{self.name}` must hold values {self.domain.expected}", values)
        if y is not None and self.num_classes:
            y = classes(y, self.num_classes)
            legal, least = (y < self.num_classes) & (y >= (0 if known else checks.UNKNOWN)), "0" if known else "-1"
            y = _asserted(y, legal, f"`y` must hold classes in {least}..{self.num_classes - 1}", y)
        if weights is not None:
            legal = (weights >= 0) & (weights < float("inf"))
            weights = _asserted(weights, legal, "`sample_weight` must hold finite numbers of at least 0", weights)
        return x, y, weights


def _asserted(value, legal, message, shown):
    def fail():  # where the least and the largest value are looked for, which takes longer than the check
        failure = tf.debugging.Assert(False, [message, tf.reduce_min(shown), tf.reduce_max(shown)])
        with tf.control_dependencies([failure]):
            return tf.identity(value)

    return tf.cond(tf.reduce_all(legal), lambda: value, fail)


def classes(y, num_classes):
    """Returns labels, [B], [B, 1] or one-hot [B, K], ints or floats with NaN for unknown, as int32 [B]."""
    if y.shape.rank == 2 and y.shape[1] == num_classes:
        unknown = tf.math.is_nan(tf.cast(y[:, 0], tf.float32))
        return tf.where(unknown, checks.UNKNOWN, tf.argmax(y, axis=-1, output_type=tf.int32))
    y = tf.reshape(y, [-1])
    if not y.dtype.is_floating:
        return tf.cast(y, tf.int32)
    # What is no whole number becomes one that is no class.
    y = tf.where(tf.math.is_nan(y), tf.cast(checks.UNKNOWN, y.dtype), y)
    return tf.cast(tf.where(y == tf.floor(y), y, tf.cast(num_classes, y.dtype)), tf.int32)


def first(name, feed):
    """Returns the first batch of a feed that can be read again, or raises `ValueError`."""
    for element in feed:
        return tf.nest.map_structure(_of_first_replica, element)
    raise ValueError(f"`{name}` must hold at least one batch. Received: an empty {type(feed).__name__}")


def _of_first_replica(part):
    return part.values[0] if isinstance(part, tf.distribute.DistributedValues) else part


def checked(name, feed, model):
    """Returns a feed whose batches are checked, and a function that returns its first batch.

    Of a distributed dataset, and of other libraries' loaders, only the first batch is checked.
    """
    check = Check(name, model)
    if isinstance(feed, keras.utils.PyDataset):
        if feed.num_batches == 0:
            raise ValueError(f"`{name}` must hold at least one batch. Received: a PyDataset of length 0")
        feed = CheckedPyDataset(feed, check)
        return feed, lambda: feed[0]
    if isinstance(feed, types.GeneratorType):
        start = [check(element) for element in itertools.islice(feed, 1)]
        element = first(name, start)
        return (element for element in itertools.chain(start, map(check, feed))), lambda: element
    element = check(first(name, feed))
    if isinstance(feed, tf.data.Dataset):  # the next batch is checked while a step is taken on this one
        feed = feed.map(check.in_graph, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return feed, lambda: element


def check_class_weight(weights, feed, element):
    """Raises `ValueError` if Keras cannot weigh the classes of a feed. `element` is the feed's first batch."""
    in_two_parts = len(parts(element)) > 1
    if isinstance(feed, types.GeneratorType) or in_two_parts or unpacked(element)[1] is None:
        raise ValueError(
            f"`class_weight` must be None where `x` yields batches without a class each, or is a generator. "
            f"Received: {weights}"
        )


def check_weighed_classes(y):
    """Raises `ValueError` unless y, an array or tensor, holds what Keras takes for classes that have weights."""
    y = np.asarray(y)
    if y.ndim not in (1, 2) or y.dtype.kind not in "iufb" or not np.isfinite(y.astype(np.float64)).all():
        raise ValueError(
            "`y` must hold classes, [N] or one-hot [N, K], beside `class_weight`. "
            f"Received: {y.dtype} of shape {list(y.shape)}"
        )


@contextlib.contextmanager
def told():
    """Raises what a batch's check found, wherever the batch was read, as a `ValueError` of one line."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raised = re.search(r"ValueError: (`\w+` must .*)", error.message)
        asserted = re.search(r"assertion failed: \[(`\w+` must .*?)\] \[(.*?)\] \[(.*?)\]", error.message)
        if raised:
            raise ValueError(raised[1]) from None
        if asserted:
            raise ValueError("{}. Received values in [{}, {}]".format(*asserted.groups())) from None
        raise
