"""Checks of what comes from outside. Every error names the argument, what was expected and what was received."""

import difflib
import inspect
import math
import numbers

UNKNOWN = -1  # the label of an example whose class is not known, as in scikit-learn
MOST_LISTED = 50  # longer lists of names help nobody


def positive_int(name, value):
    """Returns `value` as an int of at least 1, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}")
    return int(value)


def non_negative_int(name, value):
    """Returns `value` as an int of at least 0, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"`{name}` must be an integer of at least 0. Received: {value!r}")
    return int(value)


def non_negative(name, value):
    """Returns `value`, a finite number of at least 0, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {value!r}")
    return value


def boolean(name, value):
    """Returns `value`, True or False, or raises `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false. Received: {value!r}")
    return value


def positive_ints(name, values):
    """Returns `values` as a non-empty tuple of ints of at least 1, or raises `ValueError`."""
    try:
        return tuple(positive_int(name, value) for value in values) or _refuse_empty(name)
    except TypeError:
        raise ValueError(f"`{name}` must be a sequence of integers. Received: {values!r}") from None


def _refuse_empty(name):
    raise ValueError(f"`{name}` must hold at least one value. Received: ()")


def one_of(name, value, known):
    """Returns `value` if it is in `known`, or raises `ValueError` with the nearest known name."""
    if isinstance(value, str) and value in known:
        return value
    listed = f"one of: {', '.join(sorted(known))}" if len(known) <= MOST_LISTED else f"one of {len(known)} known names"
    raise ValueError(f"`{name}` must be {listed}. Received: {value!r}.{did_you_mean(value, known)}")


def parameters(function):
    """Returns the names that a function, or a class, takes as arguments."""
    found = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in found if parameter.kind is not parameter.VAR_KEYWORD]


def did_you_mean(value, known):
    """Returns " Did you mean 'x'?" for the nearest known name, or the empty string."""
    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def images(name, value, image_shape):
    """Checks a whole array of images, or the first batch of a `tf.data.Dataset` of them.

    Legal are uint8 in 0..255 and floats in [0, 1], [B, *image_shape] with B at least 1.

    Args:
        name: the caller's argument, for the message.
        value: an array or tensor, or a dataset of batches `x` or `(x, y)`; anything else passes unchecked.
        image_shape: tuple of ints, (height, width, channels).

    Raises:
        ValueError: naming argument, expectation and value.
    """
    import numpy as np  # here, for the command line checks names without it

    value = _examples(name, value, image_shape)
    if value is None:
        return
    if value.dtype == np.uint8:
        if image_shape and value.size > np.prod(image_shape) and value.max() == 1:
            raise ValueError(
                f"`{name}` is uint8, which is read as 0..255, but holds only 0 and 1: cast binary images to float32."
            )
    elif value.dtype.kind in "fV":  # V: bfloat16 as numpy sees it
        value = value.astype(np.float32)
        if np.isnan(value).any():
            first = [int(i) for i in np.argwhere(np.isnan(value))[0]]
            raise ValueError(f"`{name}` must hold finite values. Received: NaN at index {first}")
        low, high = value.min(), value.max()
        if low < 0 or high > 1:
            raise ValueError(f"`{name}` must be uint8, or floats in [0, 1]. Received floats in [{low:g}, {high:g}]")
    else:
        raise ValueError(f"`{name}` must be uint8 or floating point. Received dtype: {value.dtype}")


def counts(name, value, shape):
    """Checks a whole array of counts, or the first batch of a `tf.data.Dataset` of them.

    Legal are whole numbers of at least 0, as integers of any kind or as floats, [B, *shape] with B at least 1.

    Args:
        name: the caller's argument, for the message.
        value: as for `images`.
        shape: tuple of ints, the shape of one example; (V,) of a document over V words.

    Raises:
        ValueError: naming argument, expectation and value.
    """
    import numpy as np

    value = _examples(name, value, shape)
    if value is None:
        return
    if value.dtype.kind in "iu":
        wrong = value < 0
    elif value.dtype.kind in "fV":
        value = value.astype(np.float32)
        wrong = ~((value >= 0) & (value < np.inf) & (value == np.floor(value)))
    else:
        raise ValueError(f"`{name}` must be integers or floating point. Received dtype: {value.dtype}")
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` must hold whole numbers of at least 0. Received: {value[first]:g} at index {list(first)}"
        )


def _examples(name, value, shape):
    """Returns the examples to look at, an array [B, *shape] with B at least 1: all, or a dataset's first batch.

    None stands for what is neither array nor dataset.
    """
    import numpy as np

    if hasattr(value, "element_spec"):
        for batch in value.take(1):
            return _examples(name, batch[0] if isinstance(batch, tuple) else batch, shape)
        raise ValueError(f"`{name}` must hold at least one batch. Received an empty dataset.")
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return None
    value = np.asarray(value)
    expected = f"[batch, {', '.join(map(str, shape))}]"
    if value.shape[1:] != tuple(shape) or value.ndim == 0:
        hint = " (add the channel axis: x[..., None])" if (*value.shape[1:], 1) == tuple(shape) else ""
        raise ValueError(f"`{name}` must have shape {expected}{hint}. Received: {list(value.shape)}")
    if not len(value):
        raise ValueError(f"`{name}` must hold at least one example. Received shape: {list(value.shape)}")
    return value


def labels(name, value, num_classes, *, unknown=None, every=False):
    """Returns classes as an int32 array, or raises `ValueError`.

    Args:
        name: the caller's argument, for the message.
        value: an int, or a sequence of them, in 0..num_classes - 1.
        num_classes: int, K.
        unknown: a further legal value, for "unknown"; then one label at least must be known.
        every: whether each class must be there.
    """
    import numpy as np

    value = np.asarray(value)
    legal = f"integers in 0..{num_classes - 1}" + ("" if unknown is None else f", or {unknown} for unknown")
    if value.dtype.kind not in "iu" or value.ndim > 1:
        raise ValueError(f"`{name}` must be {legal}. Received: {value.dtype} of shape {list(value.shape)}")
    wrong = (value < 0) | (value >= num_classes)
    known = value if unknown is None else value[value != unknown]
    if unknown is not None:
        wrong &= value != unknown
    if wrong.any():
        raise ValueError(f"`{name}` must be {legal}. Received: {value[wrong].flat[0]}")
    if value.ndim and not len(known):
        raise ValueError(f"`{name}` must hold at least one known label. Received: none of {len(value)}")
    missing = sorted(set(range(num_classes)) - set(known.flat)) if every or unknown is not None else ()
    if missing:
        raise ValueError(
            f"`{name}` must hold a label of each of the {num_classes} classes. Received: none of {missing}"
        )
    return value.astype(np.int32)
