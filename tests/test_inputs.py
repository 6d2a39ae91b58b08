"""What users give: all forms of one data set give the same figures, weights count, bad values are told in one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaezoo.models import M2, VAE, ConvVAE, SteinVAE
from vaezoo.objectives import ELBO, IWAE, FreeBits, SemiSupervisedELBO, Stein

SHAPE = (4, 3, 1)
RNG = np.random.default_rng(0)
X = RNG.random((60, *SHAPE)).astype("float32")
Y = np.arange(60) % 3
W = RNG.random(60).astype("float32")


def tiny(objective=None, *, eager=True, **settings):
    """The same VAE each time, compiled with SGD."""
    keras.utils.set_random_seed(0)
    model = VAE(SHAPE, latent_dim=2, hidden_units=(5,))
    model.compile(keras.optimizers.SGD(0.1), objective, run_eagerly=eager, **settings)
    return model


def tiny_m2(**settings):
    """The same model of three classes each time, compiled."""
    keras.utils.set_random_seed(0)
    model = M2(SHAPE, latent_dim=2, num_classes=3, hidden_units=(5,))
    model.compile(keras.optimizers.SGD(0.1), SemiSupervisedELBO(alpha=1.0), run_eagerly=True, **settings)
    return model


class Batches(keras.utils.PyDataset):
    """Arrays of equal length as a `keras.utils.PyDataset`."""

    def __init__(self, *arrays, size=20):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, index):
        return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])


def one_line(error, name, *parts):
    text = str(error.value)
    assert text.startswith(f"`{name}` must "), text
    assert "\n" not in text
    assert "Received" in text
    for part in parts:
        assert part in text, text


# Weights of examples.


def step(model, x, **settings):
    """The change of all weights in one step on all of x."""
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(x, batch_size=60, shuffle=False, verbose=0, **settings)
    return np.concatenate([(w.numpy() - old).ravel() for w, old in zip(model.trainable_weights, before, strict=True)])


@pytest.mark.parametrize("objective", [ELBO(), IWAE(3)], ids=["elbo", "iwae"])
def test_a_step_is_linear_in_the_weights(objective):
    """The loss is sum(w * loss) / N: weights w and 1 - w add up to the step without any."""
    steps = [step(tiny(objective), X, sample_weight=w) for w in (W, 1 - W)]
    np.testing.assert_allclose(sum(steps), step(tiny(objective), X), atol=1e-6)
    assert abs(steps[0] - steps[1]).max() > 1e-3


def test_what_weighs_nothing_changes_nothing():
    weights = (np.arange(60) < 40).astype("float32")
    other = np.where(weights[:, None, None, None] > 0, X, 1 - X)
    np.testing.assert_array_equal(*(step(tiny(), x, sample_weight=weights) for x in (X, other)))


def weighted_forms():
    """All ways to give x with weights, as arguments of `evaluate`."""
    return {
        "arrays": {"x": X, "sample_weight": W, "batch_size": 20},
        "a column": {"x": X, "sample_weight": W[:, None], "batch_size": 20},
        "arrays with y": {"x": X, "y": Y, "sample_weight": W, "batch_size": 20},
        "lists": {"x": list(X), "sample_weight": list(W), "batch_size": 20},
        "dataset": {"x": dataset(X, Y, W).batch(20)},
        "PyDataset": {"x": Batches(X, Y, W)},
        "generator": {"x": (part for part in Batches(X, Y, W))},
        "class_weight": {"x": X, "y": Y, "class_weight": {0: 0.0, 1: 2.0}, "batch_size": 20},
    }


@pytest.mark.parametrize("form", list(weighted_forms()))
def test_logged_losses_are_weighted_and_figures_are_not(form):
    """As in Keras: loss = sum(w * loss) / N, and plain metrics don't see weights."""
    given = weighted_forms()[form]
    weights = np.array([0.0, 2.0, 1.0])[Y] if form == "class_weight" else W
    model = tiny()
    frozen = keras.optimizers.SGD(0.0)
    model.compile(frozen, ELBO(analytic_kl=False), run_eagerly=True)
    terms = []
    for index in range(3):  # the noise of a step: that of the model's `training_noise` at iteration 0, 1, 2
        x = X[20 * index : 20 * (index + 1)]
        terms.append(model.objective(model.terms(x, model.training_noise(x)), 0))
        model.optimizer.iterations.assign_add(1)
    elbo = np.concatenate(terms)
    model.optimizer.iterations.assign(0)
    logs = model.fit(**given, shuffle=False, verbose=0).history
    assert logs["loss"][0] == pytest.approx(-np.mean(weights * elbo), rel=1e-5)
    assert logs["elbo"][0] == pytest.approx(np.mean(elbo), rel=1e-5)


def test_evaluation_weighs_its_loss():
    model = tiny()
    plain = model.evaluate(X, batch_size=60, verbose=0, return_dict=True)
    model.reset_metrics()
    losses = model.measure(tf.constant(X))["loss"].numpy()
    assert plain["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    expected = {**plain, "loss": pytest.approx(np.mean(W * losses), rel=1e-5)}
    assert model.evaluate(X, sample_weight=W, batch_size=60, verbose=0, return_dict=True) == expected
    assert model.test_on_batch(X, sample_weight=W, return_dict=True) == expected
    for held_out in ((X, Y, W), (X, None, W), dataset(X, Y, W).batch(60)):
        size = {} if isinstance(held_out, tf.data.Dataset) else {"validation_batch_size": 60}
        still = tiny()
        still.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        logs = still.fit(X, validation_data=held_out, verbose=0, **size).history
        assert {name: logs[f"val_{name}"][0] for name in expected} == expected


def test_weights_of_a_batch():
    """`train_on_batch` takes the step that `fit` takes."""
    one, other = tiny(), tiny()
    step(one, X, sample_weight=W)
    other.train_on_batch(X, sample_weight=W)
    for weight, same in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(weight, same, atol=1e-6)


@pytest.mark.parametrize("objective", [FreeBits(0.1), Stein(3)], ids=["free bits", "stein"])
def test_weights_are_refused_where_no_loss_is_one_example_s(objective):
    model = SteinVAE(SHAPE, latent_dim=2, hidden_units=(5,)) if isinstance(objective, Stein) else tiny()
    model.compile("sgd", objective, run_eagerly=True)
    with pytest.raises(ValueError) as error:
        model.fit(X, sample_weight=W, verbose=0)
    one_line(error, "sample_weight", "None", type(objective).__name__)
    assert np.isfinite(model.evaluate(X, sample_weight=W, verbose=0, return_dict=True)["loss"])  # that of the ELBO


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"sample_weight": W[:59]}, "sample_weight"),
        ({"sample_weight": "many"}, "sample_weight"),
        ({"sample_weight": -W}, "sample_weight"),
        ({"sample_weight": np.where(Y, W, np.nan)}, "sample_weight"),
        ({"class_weight": {0: 1.0}}, "class_weight"),
        ({"class_weight": [1.0], "y": Y}, "class_weight"),
        ({"y": Y[:3]}, "y"),
        ({"y": object()}, "y"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": "3"}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"verbose": "loud"}, "verbose"),
        ({"callbacks": [print]}, "callbacks"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_split": 0.999}, "validation_split"),
        ({"validation_data": 3}, "validation_data"),
        ({"validation_data": (X, Y, W, W)}, "validation_data"),
        ({"validation_freq": 0}, "validation_freq"),
        ({"steps_per_epoch": 1.5}, "steps_per_epoch"),
        ({"shuffle": "all"}, "shuffle"),
    ],
)
def test_bad_arguments_of_fit(settings, name):
    with pytest.raises(ValueError) as error:
        tiny().fit(**{"x": X, "verbose": 0, **settings})
    one_line(error, name)


@pytest.mark.parametrize("argument", ["y", "sample_weight", "batch_size", "validation_split"])
def test_arguments_that_batches_leave_no_use_for_are_refused(argument):
    value = {"y": Y, "sample_weight": W, "batch_size": 10, "validation_split": 0.5}[argument]
    for x in (dataset(X).batch(20), Batches(X)):
        with pytest.raises(ValueError) as error:
            tiny().fit(x, verbose=0, **{argument: value})
        one_line(error, argument)


# The same data in all forms.


def feeds():
    """Sixty images, in batches of 20, of known and unknown number."""
    signature = tf.TensorSpec([None, *SHAPE])
    return {
        "dataset": dataset(X).batch(20),
        "whole batches": dataset(X).batch(20, drop_remainder=True),
        "unknown number": dataset(X).filter(lambda _: True).batch(20),
        "unknown number of whole batches": dataset(X).filter(lambda _: True).batch(20, drop_remainder=True),
        "from_generator": tf.data.Dataset.from_generator(lambda: iter(np.split(X, 3)), output_signature=signature),
        "labels": dataset(X, Y).batch(20),
        "dict": dataset({"image": X, "label": Y, "id": Y}).batch(20),
        "dict without labels": dataset({"image": X}).batch(20),
        "PyDataset": Batches(X),
        "generator": (part for part in np.split(X, 3)),
        "distributed": tf.distribute.get_strategy().experimental_distribute_dataset(dataset(X).batch(20)),
    }


TRACED = "unknown number of whole batches", "dict", "PyDataset"  # a trace takes longer than all steps


@pytest.mark.parametrize("settings", [{}, {"eager": False}, {"eager": False, "steps_per_execution": 2}], ids=str)
def test_figures_and_steps_are_those_of_arrays(settings):
    """One model is put back to its start for each form."""
    model = tiny(**settings)
    names = TRACED if settings else list(feeds())
    start, optimizer_start = model.get_weights(), [v.numpy() for v in model.optimizer.variables]

    def figures(x, **size):
        model.set_weights(start)
        for variable, value in zip(model.optimizer.variables, optimizer_start, strict=True):
            variable.assign(value)
        logs = model.fit(x, shuffle=False, verbose=0, **size).history
        return {**logs, "steps": model.optimizer.iterations.numpy(), "weights": model.get_weights()}

    expected = figures(X, batch_size=20)
    assert expected["steps"] == 3
    for name in names:
        found = figures(feeds()[name])
        assert found["steps"] == 3, name
        for value, same in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6, err_msg=name)
    model.set_weights(start)
    expected = model.evaluate(X, batch_size=20, verbose=0)
    for name in TRACED:
        np.testing.assert_allclose(model.evaluate(feeds()[name], verbose=0), expected, rtol=1e-5, err_msg=name)


def test_steps_of_compiled_data_of_unknown_number():
    """The attempt that finds the end of the data runs nothing, under XLA and with whole batches too."""
    model = tiny(eager=False, jit_compile=True, steps_per_execution=2)
    model.fit(dataset(X).filter(lambda _: True).batch(20, drop_remainder=True), epochs=2, verbose=0)
    assert model.optimizer.iterations == 6
    assert model.elbo_tracker.count == 60


@pytest.mark.parametrize("eager", [True, False])
def test_batches_by_hand_are_those_of_fit(eager):
    fitted, by_hand = tiny(), tiny(eager=eager)
    fitted.fit(X, batch_size=20, shuffle=False, verbose=0)
    for part in np.split(X, 3):
        logs = by_hand.train_on_batch(part, return_dict=True)
    assert by_hand.optimizer.iterations == 3
    assert set(logs) == {"loss", "elbo", "kl", "log_likelihood"}
    for weight, same in zip(fitted.weights, by_hand.weights, strict=True):
        np.testing.assert_allclose(weight, same, rtol=1e-5, atol=1e-6)
    expected = fitted.evaluate(X, batch_size=60, verbose=0, return_dict=True)
    found = by_hand.test_on_batch(X, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(by_hand.predict_on_batch(X), fitted.predict(X, verbose=0), atol=1e-5)


class Frame:
    """What pandas and torch have: an object that says how it becomes an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def test_what_numpy_reads_is_examples_and_codes():
    model = tiny()
    expected = model.evaluate(X, verbose=0)
    for x in (list(X), X.tolist(), Frame(X), tf.constant(X), {"image": X}, X.astype("float64")):
        np.testing.assert_allclose(model.evaluate(x, verbose=0), expected, rtol=1e-5)
    assert model.evaluate(X, Frame(Y), verbose=0) == expected
    z = model.encode(X[:2])
    for x in (list(X[:2]), X[:2].tolist(), Frame(X[:2]), tf.Variable(X[:2])):
        np.testing.assert_allclose(model.encode(x), z, rtol=1e-6)
    for code in (z.numpy().tolist(), list(z.numpy()), Frame(z), z.numpy().astype("float64")):
        np.testing.assert_allclose(model.decode(code), model.decode(z), rtol=1e-6)
    np.testing.assert_allclose(model(X[:2]), model.decode(z), rtol=1e-6)


def test_gradients_pass_through_checks():
    model, x = tiny(), tf.Variable(X[:2])
    with tf.GradientTape() as tape:
        z = tf.Variable(model.encode(x))
        image = model.decode(z)
    assert np.abs(tape.gradient(image, z)).max() > 0


# Bad values, wherever they come from.


def poisoned(value):
    x = X.copy()
    x[45, 1, 2, 0] = value
    return x


def test_a_bad_value_in_a_later_batch_stops_training_under_xla():
    """XLA leaves assertions out of what it compiles."""
    model = tiny(eager=False, jit_compile=True)
    with pytest.raises(ValueError) as error:
        model.fit(dataset(poisoned(np.nan)).batch(20), verbose=0)
    one_line(error, "x")
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("value", [255.0, -1.0, np.nan])
def test_a_bad_value_in_a_later_batch_stops_training(value):
    x, model = poisoned(value), tiny()
    signature = tf.TensorSpec([None, *SHAPE])
    for feed in (
        dataset(x).batch(20),
        tf.data.Dataset.from_generator(lambda: iter(np.split(x, 3)), output_signature=signature),
        Batches(x),
        Batches(x, Y, W),
        (part for part in np.split(x, 3)),
    ):
        with pytest.raises(ValueError) as error:
            model.fit(feed, verbose=0)
        one_line(error, "x")
    with pytest.raises(ValueError) as error:
        model.fit(X, validation_data=dataset(x).batch(20), verbose=0)
    one_line(error, "validation_data")
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize(
    "method",
    ["encode", "__call__", "predict_on_batch", "train_on_batch", "test_on_batch", "kl_per_dimension", "initialize"],
)
def test_what_looks_at_examples_checks_them(method):
    for x, part in (
        (255 * X, "divide by 255"),
        (poisoned(np.nan), "NaN at index [45, 1, 2, 0]"),
        (X[0], "add the batch axis: x[None]"),
        (None, "None"),
        (X[..., None], "[60, 4, 3, 1, 1]"),
        ("x", "'x'"),
    ):
        with pytest.raises(ValueError) as error:
            getattr(tiny(), method)(x)
        one_line(error, "x", part)


@pytest.mark.parametrize("z", [np.zeros(2), np.zeros((3, 5)), [[np.nan, 0]], "z", None, [[1, 2], [3]]], ids=str)
def test_bad_codes(z):
    with pytest.raises(ValueError) as error:
        tiny().decode(z)
    one_line(error, "z", "finite numbers of shape [batch, 2]")


def test_float_images_of_a_folder_are_told_the_cure():
    """What `keras.utils.image_dataset_from_directory` makes: floats in 0..255."""
    with pytest.raises(ValueError) as error:
        tiny().fit(dataset(np.round(255 * X), Y).batch(20), verbose=0)
    one_line(error, "x", "divide by 255")


def test_a_dict_without_images_names_its_keys():
    with pytest.raises(ValueError) as error:
        tiny().fit(dataset({"text": X}).batch(20), verbose=0)
    one_line(error, "x", "image", "text")


def test_empty_feeds():
    for feed in (dataset(X[:0]).batch(2), Batches(X[:0]), (part for part in ())):
        with pytest.raises(ValueError) as error:
            tiny().fit(feed, verbose=0)
        one_line(error, "x", "at least one batch")


# What a model does not have, and layers that are set from data.


def test_classes_without_labels_or_of_a_generator_have_no_weights():
    for feed in (tf.data.Dataset.from_tensors(X), (pair for pair in [(X, np.zeros(len(X)))])):
        with pytest.raises(ValueError) as error:
            tiny().fit(feed, class_weight={0: 2.0}, verbose=0)
        one_line(error, "class_weight")


@pytest.mark.parametrize("y", [np.zeros((len(X), 2, 2)), np.full(len(X), np.nan), tf.zeros([])])
def test_weighed_classes_are_classes(y):
    with pytest.raises(ValueError) as error:
        tiny().fit(X, y, class_weight={0: 2.0}, verbose=0)
    one_line(error, "y")


def test_models_without_classes_say_so():
    with pytest.raises(ValueError) as error:
        tiny().sample(1, seed=0, label=3)
    one_line(error, "label", "VAE has no classes to draw")
    with pytest.raises(ValueError) as error:
        tiny().predict_proba(X)
    one_line(error, "model", "classify", "VAE")
    with pytest.raises(ValueError) as error:
        tiny_m2().sample(3, seed=0, label=[0, 1])
    one_line(error, "label")


def conv():
    keras.utils.set_random_seed(0)
    model = ConvVAE(SHAPE, latent_dim=2, filters=(3,), hidden_units=4)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


def test_layers_are_set_from_whatever_comes_first():
    expected = conv()
    expected.initialize(X[:20])
    assert expected.initialized.numpy()
    for fed in (
        lambda model: model.train_on_batch(X[:20]),
        lambda model: model.fit(Batches(X), verbose=0),
        lambda model: model.fit((part for part in np.split(X, 3)), verbose=0),
        lambda model: model.fit(dataset({"image": X}).batch(20), verbose=0),
        lambda model: model.fit(list(X[:20]), verbose=0),
    ):
        model = conv()
        fed(model)
        for weight, same in zip(model.weights, expected.weights, strict=True):
            np.testing.assert_allclose(weight, same, rtol=1e-5, atol=1e-6)


# Models with classes.


def fitted(x, y, **settings):
    """The history of a training from the same start, and what it has learned."""
    model = tiny_m2()
    logs = model.fit(x, y, batch_size=60, verbose=0, **settings).history
    return {**logs, "weights": model.get_weights()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for value, same in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6)


PARTLY = np.where(np.arange(60) % 2, Y, -1)
ONE_HOT = np.where(PARTLY[:, None] < 0, np.nan, np.eye(3)[PARTLY])


def test_labels_may_be_floats_nan_or_one_hot():
    expected = fitted(X, PARTLY)
    for y in (np.where(PARTLY < 0, np.nan, PARTLY), PARTLY.astype(float), PARTLY[:, None], ONE_HOT, Frame(PARTLY)):
        assert_same(fitted(X, y), expected)
    assert_same(fitted({"image": X, "label": PARTLY}, None), expected)


def test_a_part_may_be_split_off():
    """As Keras splits: the last part, in order."""
    split = fitted(X, PARTLY, validation_split=0.25)
    assert_same(split, fitted(X[:45], PARTLY[:45], validation_data=(X[45:], PARTLY[45:])))
    assert "val_error_rate" in split


def test_held_out_data_in_all_forms():
    expected = fitted(X, PARTLY, validation_data=(X, PARTLY), validation_batch_size=60)
    for held_out in (
        (X, ONE_HOT),
        {"image": X, "label": PARTLY},
        dataset(X, ONE_HOT).batch(60),
        dataset({"image": X, "label": PARTLY}).batch(60),
        Batches(X, PARTLY, size=60),
    ):
        size = None if isinstance(held_out, (tf.data.Dataset, Batches)) else 60
        assert_same(fitted(X, PARTLY, validation_data=held_out, validation_batch_size=size), expected)


def test_weights_of_labelled_and_unlabelled_images():
    """Twice the weight is twice the loss, of both parts."""
    plain, twice = (fitted(X, PARTLY, sample_weight=np.full(60, w)) for w in (1.0, 2.0))
    assert_same(plain, fitted(X, PARTLY))
    assert twice["loss"][0] == pytest.approx(2 * plain["loss"][0], rel=1e-5)
    first = [tiny_m2().train_on_batch(X, PARTLY, sample_weight=np.full(60, w), return_dict=True) for w in (1.0, 2.0)]
    assert first[1]["loss"] == pytest.approx(2 * first[0]["loss"], rel=1e-5)
    assert first[1]["elbo"] == pytest.approx(first[0]["elbo"], rel=1e-5)
    assert np.isfinite(tiny_m2().fit(X, sample_weight=W, verbose=0).history["loss"][0])


def test_a_batch_with_labels_by_hand():
    model = tiny_m2()
    assert "cross_entropy" in model.train_on_batch(X, PARTLY, return_dict=True)
    assert "cross_entropy" not in model.train_on_batch(X, np.full(60, -1), return_dict=True)
    assert "error_rate" in model.test_on_batch(X, PARTLY, return_dict=True)


@pytest.mark.parametrize(
    "y", [Y + 1, Y - 2, Y + 0.5, np.eye(3)[Y] * 2, ["a"] * 60], ids=["3", "-2", "half", "2", "text"]
)
def test_bad_labels_are_refused_wherever_they_come_from(y):
    for call in (
        lambda: tiny_m2().fit(X, y, verbose=0),
        lambda: tiny_m2().evaluate(X, y, verbose=0),
        lambda: tiny_m2().train_on_batch(X, y),
        lambda: tiny_m2().fit(X, PARTLY, validation_data=Batches(X, np.asarray(y)), verbose=0),
    ):
        with pytest.raises(ValueError) as error:
            call()
        one_line(error, "y")


def test_bad_labels_in_a_later_batch_are_refused():
    y = np.where(np.arange(60) == 50, 3, Y)
    for feed in (dataset(X, y).batch(20), dataset(X, y.astype("float32")).batch(20)):
        with pytest.raises(ValueError) as error:
            tiny_m2().evaluate(feed, verbose=0)
        one_line(error, "y", "classes in -1..2")
    pairs = tf.data.Dataset.zip(dataset(X, y).batch(20), dataset(X).batch(20))
    with pytest.raises(ValueError) as error:
        tiny_m2().fit(pairs, verbose=0)
    one_line(error, "y", "classes in 0..2")
