"""What a user gives to a model: checked before Keras sees it, and brought to one form.

Examples are arrays, tensors, lists of them, or objects with `__array__`; `fit`, `evaluate` and `predict` also take the
batches of `vaezoo.base.feeds`. An illegal value raises an error of one line. No argument is ignored silently.
"""

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.base import feeds, keywords


class CheckedInputs(keras.Model):
    """A model whose `domain` and `example_shape` say which examples are legal."""

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains, as `keras.Model.fit` does.

        Args:
            x: examples, checked whole; or a feed, each batch of which is checked.
            y: ignored by models without classes.
            *args: further arguments of `keras.Model.fit`.
            **kwargs: further arguments of `keras.Model.fit`. `sample_weight`, [N], weighs each example's share of the
                loss: the loss is sum(w * loss) / N. The other metrics are not weighted.

        Raises:
            ValueError: an argument is not legal, or would have no effect.
        """
        given = keywords.given(keras.Model.fit, (x, y, *args), kwargs)
        x, start = self._brought(given, "x")
        split = given.get("validation_split")
        if split and feeds.is_feed(x):
            raise ValueError(f"`validation_split` must be 0 where `x` yields batches. Received: {split}")
        if split:
            keywords.split_at("validation_split", split, len(x))
        return self._fit(given, start)

    def _fit(self, given, start):
        """Trains on x that has been checked; `start` returns a first batch of it."""
        if given.get("validation_data") is not None:
            given["validation_data"] = self._held_out(given["validation_data"])
        self._initialize_from(start)
        with feeds.told():
            return super().fit(**given)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Measures, as `keras.Model.evaluate` does; for the arguments, see `fit`."""
        if kwargs.get("_use_cached_eval_dataset"):  # `fit` has checked and stored it
            return super().evaluate(x, y, *args, **kwargs)
        given = keywords.given(keras.Model.evaluate, (x, y, *args), kwargs)
        self._brought(given, "x")
        with feeds.told():
            return super().evaluate(**given)

    def predict(self, x, *args, **kwargs):
        """Calls the model on batches, as `keras.Model.predict` does."""
        given = keywords.given(keras.Model.predict, (x, *args), kwargs)
        self._brought(given, "x")
        given.pop("y", None)  # of a dict
        with feeds.told():
            return super().predict(**given)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """Takes one step on a batch, as `keras.Model.train_on_batch` does; for the arguments, see `fit`."""
        given = keywords.given(keras.Model.train_on_batch, (x, y, *args), kwargs)
        self._initialize_from(self._brought_batch(given))
        return super().train_on_batch(**self.as_trained(given))

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """Measures a batch, as `keras.Model.test_on_batch` does."""
        given = keywords.given(keras.Model.test_on_batch, (x, y, *args), kwargs)
        self._brought_batch(given)
        return super().test_on_batch(**given)

    def predict_on_batch(self, x):
        """Calls the model on a batch."""
        return super().predict_on_batch(self.examples("x", x))

    def initialize(self, x):
        """Sets the layers that are set from data; see `InitializedFromData`."""
        super().initialize(self.examples("x", x))

    def __call__(self, x, *args, **kwargs):
        """Calls the model on examples."""
        return super().__call__(self.examples("x", x), *args, **kwargs)

    # One form of what is given.

    def examples(self, name, x):
        """Returns examples, [B, *example_shape], as an array or tensor of a legal dtype.

        Of symbolic tensors nothing but their shape is known.

        Raises:
            ValueError: they are not legal.
        """
        if is_symbolic(x):
            self._check_shape(name, x)
            return x
        return self._concrete(name, x)

    def _concrete(self, name, x):
        return kept(x, self.domain.check(name, x, self.example_shape))

    def values(self, x):
        """Returns examples as the likelihood sees them, float32, checked as in `examples`."""
        return self.domain.values(self.examples("x", x))

    def labels(self, name, y, length):
        """Returns what stands beside `length` examples: for models with classes their labels, else any numbers."""
        if not isinstance(y, (np.ndarray, tf.Tensor)):
            y = checks.array(name, y, f"an array with a value for each of {length} examples")
        checks.same_length(name, y, length)
        return y

    def _brought(self, given, name):
        """Brings x, y and sample_weight to one form in `given`; returns x and a function that returns a first batch."""
        x = given.get("x")
        if feeds.is_feed(x):
            for argument in ("y", "sample_weight", "batch_size"):
                if given.get(argument) is not None:
                    value = checks.shown(given[argument])
                    raise ValueError(f"`{argument}` must be None where `x` yields batches. Received: {value}")
            given["x"], start = feeds.checked(name, x, self)
            if given.get("class_weight") is not None:
                feeds.check_class_weight(given["class_weight"], x, start())
            return given["x"], start
        x, y = feeds.of_arrays(name, x, given.get("y"))
        x = self._concrete(name, x)
        y = None if y is None else self.labels("y" if name == "x" else name, y, len(x))
        weights = given.get("sample_weight")
        if weights is not None:
            weights = given["sample_weight"] = checks.weights("sample_weight", weights, len(x))
        if given.get("class_weight") is not None and (y is None or weights is not None):
            raise ValueError(
                f"`class_weight` must be None without `y`, or with `sample_weight`. Received: {given['class_weight']}"
            )
        if given.get("class_weight") is not None:
            feeds.check_weighed_classes(y)
        if weights is not None and y is None:
            y = np.empty((len(x), 0), np.float32)  # Keras leaves weights out where there is no y
        if "y" in given or y is not None:
            given["y"] = y
        given["x"] = x
        return x, lambda: x

    def _brought_batch(self, given):
        """Brings the arguments of an `*_on_batch` to one form: tensors, which an eager step needs."""
        if feeds.is_feed(given["x"]):
            raise ValueError(f"`x` must be a batch of examples. Received: {checks.shown(given['x'])}")
        _, start = self._brought(given, "x")
        for name in ("x", "y", "sample_weight"):
            if given.get(name) is not None:
                given[name] = tf.convert_to_tensor(given[name])
        return start

    def _initialize_from(self, start):
        if self.initialized is not None and not self.initialized.numpy():
            self.initialize(feeds.parts(start())[-1][0][: self.initial_images])

    def _held_out(self, data):
        """Returns `validation_data` in one form: a feed, or (x, y, sample_weight)."""
        if feeds.is_feed(data):
            return feeds.checked("validation_data", data, self)[0]
        if isinstance(data, (tuple, list)) and not 1 <= len(data) <= 3:
            raise ValueError(
                f"`validation_data` must be x, (x, y) or (x, y, sample_weight). Received: {len(data)} parts"
            )
        given = dict(zip(("x", "y", "sample_weight"), keras.utils.unpack_x_y_sample_weight(data), strict=True))
        if feeds.is_feed(given["x"]):
            raise ValueError(
                "`validation_data` must be examples or yield batches itself. "
                f"Received: a tuple with {checks.shown(given['x'])}"
            )
        self._brought(given, "validation_data")
        return given["x"], given.get("y"), given.get("sample_weight")

    # What a step is given.

    def as_trained(self, given):
        """Returns the arguments of `train_on_batch` in the form in which a step takes them."""
        return given

    def examples_of(self, data):
        """Returns the examples x of a batch: x, or (x, y), of which y is ignored.

        Raises:
            ValueError: there are weights, which whoever calls this has no use for.
        """
        x, weights = self.weighted_examples_of(data)
        if weights is not None:
            raise ValueError(
                f"`sample_weight` must be None: no loss per example in training {type(self).__name__} with "
                f"{self.objective}. Received: weights"
            )
        return x

    def trained_examples_of(self, data):
        """Returns the examples x of a batch and their weights, or None.

        Raises:
            ValueError: there are weights, and the objective's value of an example depends on the others.
        """
        return self.weighted_examples_of(data) if self.objective.per_example else (self.examples_of(data), None)

    def weighted_examples_of(self, data):
        """Returns the examples x of a batch, and their weights, float32 [B]; None without."""
        x, _, weights = feeds.unpacked(data)
        self._check_shape("x", x)
        return x, weights if weights is None else tf.reshape(tf.cast(weights, tf.float32), [-1])

    def _check_shape(self, name, x):
        rank = len(x.shape) if isinstance(x.shape, tuple) else x.shape.rank  # of a `keras.KerasTensor`, a tuple
        if rank is not None and tuple(x.shape[1:]) != self.example_shape:
            expected = f"[batch, {', '.join(map(str, self.example_shape))}]"
            raise ValueError(f"`{name}` must have shape {expected}. Received: {x.shape}")


def is_symbolic(x):
    """Returns whether x is a tensor without values: of a graph, or a `keras.KerasTensor`."""
    return isinstance(x, keras.KerasTensor) or (tf.is_tensor(x) and not hasattr(x, "numpy"))


def kept(given, checked):
    """Returns what was given if it is a tensor, which may have a gradient, else the array that was checked."""
    if isinstance(given, (tf.Tensor, tf.Variable, keras.Variable)):
        return tf.convert_to_tensor(given)
    return given if isinstance(given, np.ndarray) else checked


def weighted(losses, weights):
    """Returns losses [B] times weights [B], if there are any."""
    return losses if weights is None else weights * losses
