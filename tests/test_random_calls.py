"""Random calls: each gives a result, or an error of one line that names argument, expectation and value.

The suite tries a few hundred, the same ones each time. For 10,000 new ones, with how often which method answered what:

    HYPOTHESIS_PROFILE=thorough pytest tests/test_random_calls.py --hypothesis-show-statistics
"""

import functools
import os
import re

import keras
import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from vaezoo.models import M2, VAE
from vaezoo.objectives import SemiSupervisedELBO

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=300, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=10_000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

SHAPE, WORDS, CLASSES = (4, 3, 1), (6,), 3
MODELS = {
    "images": lambda: VAE(SHAPE, latent_dim=2, hidden_units=(4,)),
    "classes": lambda: M2(SHAPE, latent_dim=2, num_classes=CLASSES, hidden_units=(4,)),
    "counts": lambda: VAE(WORDS, latent_dim=2, hidden_units=(4,), likelihood="poisson"),
}


@functools.cache
def model_of(kind):
    """A model whose weights never move."""
    model = MODELS[kind]()
    objective = SemiSupervisedELBO(alpha=1.0) if kind == "classes" else None
    model.compile(keras.optimizers.SGD(0.0), objective, run_eagerly=True)
    return model


class Thing:
    """What nothing knows."""


class Batches(keras.utils.PyDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (self.batch,)


def array(shape, dtype, low, high, special, seed):
    """A random array; one value of it may be special."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    if special is not None and values.size:
        values.flat[seed % values.size] = special
    with np.errstate(all="ignore"):
        return values.astype(dtype)


SHAPES = [(), (0,), (3,), (4,), (3, 1), (3, 2), (3, 3), (3, 5), (0, 6), (1, 6), (4, 6), SHAPE, (3, 4, 3), (0, *SHAPE)]
SHAPES += [(1, *SHAPE), (3, *SHAPE), (4, *SHAPE), (3, 4, 3, 2), (2, 3, *SHAPE)]
DTYPES = ["float16", "float32", "float64", "uint8", "int64", "bool", "complex64", "object", "U", "datetime64[s]"]
ARRAYS = st.builds(
    array,
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    low=st.sampled_from([-1.0, 0.0, 0.0]),
    high=st.sampled_from([1.0, 3.0, 255.0]),
    special=st.sampled_from([None, None, np.nan, np.inf, -5.0]),
    seed=st.integers(0, 100),
)
SCALARS = st.sampled_from(
    [None, True, False, -1, 0, 1, 3, 2**40, 0.5, -0.5, np.nan, np.inf, 1j, "", "adam\nnever", b"x", Ellipsis, print]
)
THINGS = st.builds(Thing) | st.sampled_from([[], (), {}, {"image": 3}, [1, [2]], [None], {1, 2}, range(3)])


def fed(make):
    """Makes something of an array, or hands it on where that can't be."""

    def made(value):
        try:
            return make(value)
        except (TypeError, ValueError, tf.errors.OpError, NotImplementedError):
            return value

    return made


FORMS = [
    lambda value: value.tolist(),
    tf.constant,
    tf.Variable,
    lambda value: {"image": value},
    lambda value: {"image": value, "label": value},
    lambda value: (value, value),
    lambda value: ((value, value), value),
    lambda value: [value, value],
    lambda value: tf.data.Dataset.from_tensor_slices(value).batch(2),
    lambda value: tf.data.Dataset.from_tensor_slices(value),
    lambda value: tf.data.Dataset.from_tensor_slices((value, value)).batch(2),
    lambda value: tf.data.Dataset.from_tensor_slices({"image": value}).batch(2),
    Batches,
    lambda value: (batch for batch in [value, value]),
]


def in_any_form(arrays):
    return arrays | st.builds(lambda make, value: fed(make)(value), st.sampled_from(FORMS), arrays)


JUNK = SCALARS | THINGS | in_any_form(ARRAYS)
SMALL = st.sampled_from([1, 2, 3])


def legal(kind):
    """What each argument is to be, by name."""
    shape, high = (WORDS, 9) if kind == "counts" else (SHAPE, 1)
    dtype = st.sampled_from(["uint8", "int64"] if kind == "counts" else ["float32", "float64"])
    x = st.builds(array, st.just((4, *shape)), dtype, st.just(0), st.just(high), st.none(), st.integers(0, 9))
    codes = CLASSES + 2 if kind == "classes" else 2
    floats = functools.partial(st.builds, array, dtype=st.just("float32"), special=st.none(), seed=st.integers(0, 9))
    return {
        "x": in_any_form(x),
        "validation_data": in_any_form(x),
        "z": floats(st.just((3, codes)), low=st.just(-1), high=st.just(1)),
        "y": st.sampled_from([[0, 1, 2, -1], np.array([0.0, 1.0, 2.0, np.nan]), None]),
        "sample_weight": floats(st.just((4,)), low=st.just(0), high=st.just(2)),
        "class_weight": st.just({0: 0.5, 1: 2.0}),
        "seed": st.integers(0, 9),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "label": st.sampled_from([None, 0, 2]),
        "verbose": st.just(0),
        "validation_split": st.sampled_from([0.0, 0.5]),
        "shuffle": st.booleans(),
        "return_dict": st.booleans(),
        "callbacks": st.sampled_from([None, [], [keras.callbacks.TerminateOnNaN()]]),
        "initial_epoch": st.just(0),
    }


# What a call needs, and what it may have.
METHODS = {
    "fit": (
        ["x", "verbose"],
        "y batch_size epochs callbacks validation_split validation_data shuffle class_weight sample_weight "
        "initial_epoch steps_per_epoch validation_steps validation_batch_size validation_freq",
    ),
    "evaluate": (["x", "verbose"], "y batch_size sample_weight steps callbacks return_dict"),
    "predict": (["x", "verbose"], "batch_size steps callbacks"),
    "train_on_batch": (["x"], "y sample_weight class_weight return_dict"),
    "test_on_batch": (["x"], "y sample_weight return_dict"),
    "predict_on_batch": (["x"], ""),
    "initialize": (["x"], ""),
    "encode": (["x"], ""),
    "__call__": (["x"], ""),
    "decode": (["z"], ""),
    "log_likelihood": (["x", "num_samples"], "chunk seed"),
    "importance_estimate": (["x", "num_samples"], "chunk seed"),
    "sample": (["num_samples", "seed"], "temperature label"),
    "predict_proba": (["x"], "batch_size"),
}


@st.composite
def calls(draw):
    """A model's kind, a method and its arguments; each is legal three times in four."""
    kind = draw(st.sampled_from(sorted(MODELS)))
    method = draw(st.sampled_from(sorted(METHODS)))
    needed, optional = METHODS[method]
    names = [*needed, *(name for name in optional.split() if draw(st.integers(0, 3)) == 0)]
    known = legal(kind)
    arguments = {}
    for name in names:
        junk = SCALARS.filter(lambda value: value != 2**40) | THINGS if name in ("num_samples", "chunk") else JUNK
        arguments[name] = draw(junk if draw(st.integers(0, 3)) == 0 else known.get(name, SMALL))
    return kind, method, arguments


@given(calls())
def test_a_call_gives_a_result_or_one_line(call):
    kind, method, arguments = call
    told = ""
    try:
        getattr(model_of(kind), method)(**arguments)
    except (ValueError, TypeError) as error:
        told = str(error)
    event(f"{method}: {'refused' if told else 'a result'}")
    assert not told or re.fullmatch(r"`\w+`.* must .*Received.*", told), told
