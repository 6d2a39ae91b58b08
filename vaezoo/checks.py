"""Checks of what comes from outside. Every error names the argument, what was expected and what was received."""

import difflib
import inspect
import math
import numbers
import reprlib

UNKNOWN = -1  # the label of an example whose class is not known, as in scikit-learn
MOST_LISTED = 50  # longer lists of names help nobody
LONGEST_SHOWN = 100  # characters of a value
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = LONGEST_SHOWN


def shown(value):
    """Returns a value as errors show it: in one line, and cut where it is long."""
    try:
        text = " ".join(SHORT.repr(value).split())
    except Exception:  # a `__repr__` of the user's own
        text = f"<{type(value).__name__}>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {list(value.shape)}, {value.dtype}"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def positive_int(name, value):
    """Returns `value` as an int of at least 1, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1. Received: {shown(value)}")
    return int(value)


def non_negative_int(name, value):
    """Returns `value` as an int of at least 0, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"`{name}` must be an integer of at least 0. Received: {shown(value)}")
    return int(value)


def seed(name, value):
    """Returns `value`, an integer that 32 bits hold, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not -(2**31) <= value < 2**31:
        raise ValueError(f"`{name}` must be an integer of 32 bits. Received: {shown(value)}")
    return int(value)


def non_negative(name, value):
    """Returns `value`, a finite number of at least 0, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {shown(value)}")
    return value


def boolean(name, value):
    """Returns `value`, True or False, or raises `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false. Received: {shown(value)}")
    return value


def positive_ints(name, values):
    """Returns `values` as a non-empty tuple of ints of at least 1, or raises `ValueError`."""
    try:
        return tuple(positive_int(name, value) for value in values) or _refuse_empty(name)
    except TypeError:
        raise ValueError(f"`{name}` must be a sequence of integers. Received: {shown(values)}") from None


def _refuse_empty(name):
    raise ValueError(f"`{name}` must hold at least one value. Received: ()")


def one_of(name, value, known):
    """Returns `value` if it is in `known`, or raises `ValueError` with the nearest known name."""
    if isinstance(value, str) and value in known:
        return value
    listed = f"one of: {', '.join(sorted(known))}" if len(known) <= MOST_LISTED else f"one of {len(known)} known names"
    raise ValueError(f"`{name}` must be {listed}. Received: {shown(value)}.{did_you_mean(value, known)}")


def parameters(function):
    """Returns the names that a function, or a class, takes as arguments."""
    found = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in found if parameter.kind is not parameter.VAR_KEYWORD]


def did_you_mean(value, known):
    """Returns " Did you mean 'x'?" for the nearest known name, or the empty string."""
    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def array(name, value, expected):
    """Returns `value` as a NumPy array of numbers, or raises `ValueError`.

    Args:
        name: the caller's argument, for the message.
        value: what NumPy makes an array of: arrays, tensors, numbers, lists of those, objects with `__array__`.
        expected: what it must be, for the message.
    """
    import numpy as np  # here, for the command line checks names without it

    try:
        found = np.asarray(value)
    except Exception:
        raise ValueError(f"`{name}` must be {expected}. Received: {shown(value)}") from None
    if found.dtype.kind in "OUSMm":
        raise ValueError(f"`{name}` must be {expected}. Received: {shown(value)}")
    return found


def images(name, value, image_shape):
    """Returns images as an array, or raises `ValueError`.

    Legal are uint8 in 0..255 and floats in [0, 1], [B, *image_shape] with B at least 1.

    Args:
        name: the caller's argument, for the message.
        value: an array, tensor, or a list of images.
        image_shape: tuple of ints, (height, width, channels).

    Raises:
        ValueError: naming argument, expectation and value.
    """
    import numpy as np

    given = value = _examples(name, value, image_shape, "uint8 or floating point")
    if value.dtype == np.uint8:
        if image_shape and value.size > np.prod(image_shape) and value.max() == 1:
            raise ValueError(
                f"`{name}` must be float32 where images are binary: uint8 is read as 0..255. "
                "Received: uint8 that holds only 0 and 1"
            )
    elif value.dtype.kind in "fV":  # V: bfloat16 as numpy sees it
        value = value.astype(np.float32)
        if np.isnan(value).any():
            first = [int(i) for i in np.argwhere(np.isnan(value))[0]]
            raise ValueError(f"`{name}` must hold finite values. Received: NaN at index {first}")
        low, high = value.min(), value.max()
        if low < 0 or high > 1:
            cure = " (divide by 255)" if low >= 0 and 1 < high <= 255 else ""
            raise ValueError(
                f"`{name}` must be uint8, or floats in [0, 1]{cure}. Received floats in [{low:g}, {high:g}]"
            )
    else:
        raise ValueError(f"`{name}` must be uint8 or floating point. Received dtype: {value.dtype}")
    return given


def counts(name, value, shape):
    """Returns counts as an array, or raises `ValueError`.

    Legal are whole numbers of at least 0, as integers of any kind or as floats, [B, *shape] with B at least 1.

    Args:
        name: the caller's argument, for the message.
        value: as for `images`.
        shape: tuple of ints, the shape of one example; (V,) of a document over V words.

    Raises:
        ValueError: naming argument, expectation and value.
    """
    import numpy as np

    given = value = _examples(name, value, shape, "integers or floating point")
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
    return given


def _examples(name, value, shape, kinds):
    """Returns examples as an array [B, *shape] with B at least 1, or raises `ValueError`."""
    expected = f"[batch, {', '.join(map(str, shape))}]"
    value = array(name, value, f"{kinds}, of shape {expected}")
    if value.shape[1:] != tuple(shape) or value.ndim == 0:
        hint = ""
        if (*value.shape[1:], 1) == tuple(shape):
            hint = " (add the channel axis: x[..., None])"
        elif value.shape == tuple(shape):
            hint = " (add the batch axis: x[None])"
        raise ValueError(f"`{name}` must have shape {expected}{hint}. Received: {list(value.shape)}")
    if not len(value):
        raise ValueError(f"`{name}` must hold at least one example. Received shape: {list(value.shape)}")
    return value


def codes(name, value, latent_shape):
    """Returns latents, finite floats [B, *latent_shape] with B at least 1, as float32, or raises `ValueError`."""
    import numpy as np

    expected = f"finite numbers of shape [batch, {', '.join(map(str, latent_shape))}]"
    value = array(name, value, expected)
    if value.dtype.kind not in "iufV" or value.ndim == 0 or value.shape[1:] != tuple(latent_shape) or not len(value):
        hint = " (add the batch axis: z[None])" if value.shape == tuple(latent_shape) else ""
        raise ValueError(f"`{name}` must be {expected}{hint}. Received: {shown(value)}")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        first = [int(i) for i in np.argwhere(~np.isfinite(value))[0]]
        raise ValueError(f"`{name}` must be {expected}. Received: a value that is not finite at index {first}")
    return value


def weights(name, value, length):
    """Returns the weights of so many examples, finite floats of at least 0, as float32 [N], or raises `ValueError`."""
    import numpy as np

    expected = f"{length} finite numbers of at least 0, one for each example"
    value = array(name, value, expected)
    if value.dtype.kind not in "biufV" or value.shape not in ((length,), (length, 1)):
        raise ValueError(f"`{name}` must be {expected}. Received: {shown(value)}")
    value = value.astype(np.float32).reshape(length)
    wrong = ~((value >= 0) & (value < np.inf))
    if wrong.any():
        raise ValueError(f"`{name}` must be {expected}. Received: {value[wrong][0]:g} at index {int(wrong.argmax())}")
    return value


def same_length(name, value, length):
    """Raises `ValueError` unless `value`, an array, holds something for each of `length` examples."""
    if value.ndim == 0 or len(value) != length:
        raise ValueError(f"`{name}` must hold a label per image, {length}. Received: {math.prod(value.shape)}")


def labels(name, value, num_classes, *, unknown=None, every=False):
    """Returns classes as an int32 array, or raises `ValueError`.

    Args:
        name: the caller's argument, for the message.
        value: an int, or a sequence of them, in 0..num_classes - 1; as floats or one-hot, [N, K], too.
        num_classes: int, K.
        unknown: a further legal value, for "unknown", which NaN is read as; None for none.
        every: whether each class must be there.
    """
    import numpy as np

    legal = f"integers in 0..{num_classes - 1}" + ("" if unknown is None else f", or {unknown} for unknown")
    value = array(name, value, legal)
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim == 2 and value.shape[1] == num_classes and value.dtype.kind in "biuf":
        value = _of_one_hot(value)
    if value.dtype.kind == "f":
        value = value if unknown is None else np.where(np.isnan(value), unknown, value)
        value = value.astype(np.int64) if (np.isfinite(value) & (value == np.floor(value))).all() else value
    if value.dtype.kind not in "iu" or value.ndim > 1:
        raise ValueError(f"`{name}` must be {legal}. Received: {value.dtype} of shape {list(value.shape)}")
    wrong = (value < 0) | (value >= num_classes)
    if unknown is not None:
        wrong &= value != unknown
    if wrong.any():
        raise ValueError(f"`{name}` must be {legal}. Received: {value[wrong].flat[0]}")
    known = value if unknown is None else value[value != unknown]
    if every and not known.size:
        raise ValueError(f"`{name}` must hold at least one known label. Received: none of {value.size}")
    missing = sorted(set(range(num_classes)) - set(known.flat)) if every else ()
    if missing:
        raise ValueError(
            f"`{name}` must hold a label of each of the {num_classes} classes. Received: none of {missing}"
        )
    return value.astype(np.int32)


def _of_one_hot(value):
    """Returns the classes of one-hot rows, as floats, NaN of a row of NaN; what has other rows, as it is."""
    import numpy as np

    unknown = np.isnan(value).all(axis=1) if value.dtype.kind == "f" else np.zeros(len(value), bool)
    one_hot = ((value == 0) | (value == 1)).all(axis=1) & (value.sum(axis=1) == 1)
    return np.where(unknown, np.nan, value.argmax(axis=1)) if (one_hot | unknown).all() else value
