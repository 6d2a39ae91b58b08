"""What Keras' own keywords may be: checked here, because most wrong values fail deep inside Keras, or not at all."""

import inspect
import math
import numbers

import keras

from vaezoo import checks


def given(method, args, kwargs):
    """Returns the arguments of a call of a method of `keras.Model`, a dict by name, without `self`, all checked.

    Raises:
        TypeError: an argument that the method does not have.
        ValueError: a value that it does not take.
    """
    found = inspect.signature(method).bind(None, *args, **kwargs).arguments
    found = {**found, **found.pop("kwargs", {})}
    found.pop("self")
    for name, check in CHECKS.items():
        if found.get(name) is not None or (name in found and name in NEVER_NONE):
            check(name, found[name])
    return found


def split_at(name, fraction, length):
    """Returns how many of `length` examples `validation_split` leaves for training, as Keras counts them."""
    kept = math.floor(length * (1.0 - fraction))
    if kept in (0, length):
        raise ValueError(f"`{name}` must leave examples in both parts of {length}. Received: {fraction}")
    return kept


def _verbose(name, value):
    if not (isinstance(value, (str, numbers.Integral)) and value in ("auto", 0, 1, 2)):
        raise ValueError(f"`{name}` must be 'auto', 0, 1 or 2. Received: {checks.shown(value)}")


def _shuffle(name, value):
    if not (isinstance(value, (bool, numbers.Integral)) or (isinstance(value, str) and value == "batch")):
        raise ValueError(f"`{name}` must be true, false or 'batch'. Received: {checks.shown(value)}")


def _fraction(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number of at least 0 and below 1. Received: {checks.shown(value)}")


def _callbacks(name, value):
    legal = keras.callbacks.Callback, keras.callbacks.CallbackList
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(one, legal) for one in values):
        raise ValueError(f"`{name}` must be a list of Keras callbacks. Received: {checks.shown(value)}")


def _frequency(name, value):
    for epochs in value if isinstance(value, (list, tuple, set)) else [value]:
        checks.positive_int(name, epochs)


def _class_weight(name, value):
    if not isinstance(value, dict) or not all(isinstance(key, numbers.Integral) for key in value):
        raise ValueError(f"`{name}` must be a dict from classes to weights. Received: {checks.shown(value)}")
    for weight in value.values():
        checks.non_negative(name, weight)


NEVER_NONE = "epochs", "initial_epoch", "verbose", "validation_freq"
CHECKS = {
    "batch_size": checks.positive_int,
    "epochs": checks.non_negative_int,
    "verbose": _verbose,
    "callbacks": _callbacks,
    "validation_split": _fraction,
    "shuffle": _shuffle,
    "class_weight": _class_weight,
    "initial_epoch": checks.non_negative_int,
    "steps_per_epoch": checks.positive_int,
    "validation_steps": checks.positive_int,
    "validation_batch_size": checks.positive_int,
    "validation_freq": _frequency,
    "steps": checks.positive_int,
    "return_dict": checks.boolean,
}
