"""Models inside other Keras models, and what Keras' callbacks and `summary` read of them."""

import copy
import re

import keras
import numpy as np
import pytest
from test_keras_contracts import MyVAE

from vaezoo.layers.likelihoods import LIKELIHOODS
from vaezoo.layers.posteriors import POSTERIORS
from vaezoo.models import ADGM, VAE

SHAPE = (6, 5, 2)


@pytest.fixture
def model():
    return VAE(SHAPE, latent_dim=3, hidden_units=(8,))


def classifier(*layers):
    outer = keras.Sequential([keras.Input(SHAPE), *layers, keras.layers.Dense(1)])
    outer.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return outer


def test_feature_extractor_gives_codes_in_sequential_and_functional_models(model, images):
    inputs = keras.Input(SHAPE)
    codes = model.feature_extractor()(inputs)
    assert codes.shape == (None, 3)
    for outer in (keras.Model(inputs, codes), keras.Sequential([keras.Input(SHAPE), model.feature_extractor()])):
        np.testing.assert_allclose(outer.predict(images, verbose=0), model.encode(images), atol=1e-6)


def test_feature_extractor_has_the_weights_that_codes_depend_on(model, images):
    extractor = model.feature_extractor()
    expected = [*model.encoder.weights, *model.posterior.weights]
    assert {weight.path for weight in extractor.trainable_variables} == {weight.path for weight in expected}
    assert len(extractor.weights) == len(extractor.variables) == len(expected)
    outer, decoder = classifier(extractor), copy.deepcopy(model.decoder.get_weights())
    before = [np.array(weight) for weight in expected]
    outer.fit(images, np.ones(len(images)), verbose=0)  # warnings of missing gradients are errors, see below
    assert not any(np.array_equal(weight, old) for weight, old in zip(expected[:2], before[:2], strict=True))
    for new, old in zip(model.decoder.get_weights(), decoder, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.filterwarnings("error:Gradients do not exist")
def test_training_an_outer_model_warns_of_no_missing_gradient(model, images):
    classifier(model.feature_extractor()).fit(images, np.ones(len(images)), verbose=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_an_outer_model_is_saved_and_loaded_with_its_extractor(model, images, compiled, tmp_path):
    if compiled:
        model.compile("adam")
    outer = classifier(model.feature_extractor(trainable=False))
    outer.fit(images, np.ones(len(images)), verbose=0)
    outer.save(tmp_path / "outer.keras")
    again = keras.models.load_model(tmp_path / "outer.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), outer.predict(images, verbose=0), atol=1e-6)
    assert len(again.trainable_variables) == 2  # the extractor is frozen still
    np.testing.assert_array_equal(again.layers[0].model.decode(np.ones((1, 3))), model.decode(np.ones((1, 3))))


def test_a_frozen_extractor_moves_nothing(images):
    model = ADGM(SHAPE, 2, 2, 3, hidden_units=(7,), batch_normalization=True)
    extractor = model.feature_extractor(trainable=False)
    assert extractor.trainable_variables == []
    before = [np.array(weight) for weight in model.weights]  # moving averages are among them
    classifier(extractor).fit(images, np.ones(len(images)), verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_an_extractor_sees_the_outer_training_mode(images):
    model = MyVAE(layer=keras.layers.Dropout(0.5))
    extractor = model.feature_extractor()
    outer = keras.Sequential([keras.Input(SHAPE), extractor])
    np.testing.assert_allclose(outer(images, training=False), model.encode(images), atol=1e-6)
    assert not np.allclose(outer(images, training=True), outer(images, training=True))


class Wrapped(keras.layers.Layer):
    """What a user writes around a model."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def call(self, x):
        return self.inner.encode(x)


@pytest.mark.parametrize("wrap", [Wrapped, VAE.feature_extractor, lambda model: model], ids=["own", "ours", "itself"])
def test_the_outer_loss_is_its_own(model, images, wrap):
    model.compile("adam", run_eagerly=True)
    model.fit(images, verbose=0)
    outer = classifier(wrap(model), keras.layers.Flatten())
    logs = outer.evaluate(images, np.full((len(images), 1), 5.0), return_dict=True, verbose=0)
    assert list(logs) == ["loss"]
    assert logs["loss"] == pytest.approx(np.mean((outer.predict(images, verbose=0) - 5.0) ** 2), rel=1e-5)
    assert [metric.name for metric in model.metrics] == ["loss", "elbo", "log_likelihood", "kl"]


def test_a_model_is_called_on_a_keras_tensor(model, images):
    inputs = keras.Input(SHAPE)
    outer = keras.Model(inputs, model(inputs))
    assert outer.output_shape == (None, *SHAPE)
    np.testing.assert_allclose(outer.predict(images, verbose=0), model.decode(model.encode(images)), atol=1e-6)


@pytest.mark.parametrize("make", [lambda: VAE(SHAPE, 3, (8,)), lambda: ADGM(SHAPE, 2, 2, 3, (7,))])
def test_encoding_a_keras_tensor_names_the_extractor_in_one_line(make):
    with pytest.raises(ValueError, match="feature_extractor") as error:
        make().encode(keras.Input(SHAPE))
    assert "\n" not in str(error.value)


def test_a_model_without_an_encoder_has_no_extractor(model):
    class Decoder(VAE):
        encode = None

    with pytest.raises(ValueError, match="`model` must have an `encode`. Received: Decoder"):
        Decoder(SHAPE, 3, (8,)).feature_extractor()


# Callbacks.


@pytest.mark.parametrize(
    ("make", "monitor", "better"),
    [
        (keras.callbacks.EarlyStopping, "val_elbo", 1),
        (keras.callbacks.ReduceLROnPlateau, "val_elbo", 1),
        (lambda **kwargs: keras.callbacks.ModelCheckpoint("unused.keras", **kwargs), "val_elbo", 1),
        (keras.callbacks.EarlyStopping, "elbo", 1),
        (keras.callbacks.EarlyStopping, "val_loss", -1),
    ],
)
def test_callbacks_know_which_way_is_better(model, images, make, monitor, better, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = make(monitor=monitor)
    model.compile("adam", run_eagerly=True)
    for callbacks in ([callback], callback):
        model.fit(images, validation_data=(images,), verbose=0, callbacks=callbacks)
        assert bool(callback.monitor_op(2.0, 1.0)) == (better > 0)


def test_a_mode_that_the_user_sets_is_kept(model, images):
    callback = keras.callbacks.EarlyStopping(monitor="val_elbo", mode="min")
    model.compile("adam", run_eagerly=True)
    model.fit(images, validation_data=(images,), verbose=0, callbacks=[callback])
    assert callback.mode == "min"


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_summary_knows_the_shapes(posterior, likelihood):
    lines = []
    VAE((5,), 3, (8,), posterior=posterior, likelihood=likelihood).summary(print_fn=lines.append)
    shapes = re.findall(r"(encoder|posterior|decoder|likelihood) .*?(\(None.*?\)|\?)", "\n".join(lines))
    assert shapes == [
        ("encoder", "(None, 8)"),
        ("posterior", "(None, 3)"),
        ("decoder", "(None, 8)"),
        ("likelihood", "(None, 5)"),
    ]
