"""What Keras promises to a model of one's own: training mode, losses, saving, copying, compiling."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaezoo.base import LatentVariableModel
from vaezoo.layers.likelihoods import Bernoulli
from vaezoo.layers.posteriors import DiagonalGaussian
from vaezoo.models import VAE, SteinVAE
from vaezoo.objectives import ELBO, IWAE, Stein

SHAPE = (6, 5, 2)


@keras.saving.register_keras_serializable(package="tests")
class MyVAE(LatentVariableModel):
    """README's model of one's own: no `get_config`, and layers of Keras'."""

    def __init__(self, example_shape=SHAPE, latent_dim=4, *, layer=None, activation="relu", **kwargs):
        super().__init__(example_shape, latent_shape=(latent_dim,), **kwargs)
        layers = [keras.layers.Flatten(), keras.layers.Dense(8, activation), *([layer] if layer else [])]
        self.encoder = keras.Sequential([keras.Input(self.example_shape), *layers])
        self.posterior = DiagonalGaussian(8, latent_dim)
        self.decoder = keras.Sequential([keras.Input((latent_dim,)), keras.layers.Dense(8, activation)])
        self.likelihood = Bernoulli(8, self.example_shape)


def fitted(images, *, epochs=2, eager=True, **settings):
    """A model after a few steps, always the same but for its settings, and its history."""
    keras.utils.set_random_seed(0)
    model = MyVAE(**settings)
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=eager)
    return model, model.fit(images, batch_size=20, epochs=epochs, shuffle=False, verbose=0).history


# Training mode and losses.


@pytest.mark.parametrize("eager", [True, False])
def test_batch_normalization_moves_its_averages_in_training_and_only_there(images, eager):
    model, _ = fitted(images, layer=keras.layers.BatchNormalization(momentum=0.5), eager=eager)
    mean, variance = (np.asarray(weight) for weight in model.encoder.layers[-1].non_trainable_weights)
    assert np.any(mean != 0.0)
    assert np.any(variance != 1.0)
    model.evaluate(images, verbose=0)
    model.encode(images)
    model.log_likelihood(images, num_samples=2)
    np.testing.assert_array_equal(model.encoder.layers[-1].moving_mean, mean)


def test_dropout_acts_in_training_and_only_there(images):
    losses = [fitted(images, layer=keras.layers.Dropout(rate))[1]["loss"] for rate in (0.0, 0.95)]
    assert losses[0] != losses[1]
    model, _ = fitted(images, layer=keras.layers.Dropout(0.95))
    np.testing.assert_array_equal(model.encode(images), model.encode(images))


@pytest.mark.parametrize("eager", [True, False])
def test_a_regularizer_joins_the_loss_its_log_and_the_gradient(images, eager):
    layer = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.5))
    model, history = fitted(images, epochs=1, layer=layer, eager=eager)
    free, free_history = fitted(images, epochs=1, layer=keras.layers.Dense(8), eager=eager)
    assert np.linalg.norm(layer.kernel) < np.linalg.norm(free.encoder.layers[-1].kernel)
    assert history["loss"][0] > free_history["loss"][0]
    logs = model.evaluate(images, return_dict=True, verbose=0)
    penalty = 0.5 * np.sum(np.square(layer.kernel))
    assert logs["loss"] == pytest.approx(-logs["elbo"] + penalty, rel=1e-5)


def test_a_regularized_weight_follows_the_gradient_of_its_penalty(images):
    """One step of descent, with and without: the difference is the rate times the gradient."""
    kernels = []
    for weight in (0.0, 2.0):
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(weight))
        model = MyVAE(layer=layer)
        before = np.array(layer.kernel)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.fit(images, batch_size=40, shuffle=False, verbose=0)
        kernels.append(np.array(layer.kernel))
    np.testing.assert_allclose(kernels[1], kernels[0] - 0.1 * 2.0 * 2.0 * before, atol=1e-6)


class AddsLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(7.0 + 0.0 * tf.reduce_sum(x))
        return x


@pytest.mark.parametrize("layer", [AddsLoss(), keras.layers.ActivityRegularization(l1=0.1)], ids=["add_loss", "l1"])
@pytest.mark.parametrize("eager", [True, False])
def test_losses_that_layers_add_join_the_loss_once_a_step(images, layer, eager):
    _, history = fitted(images, epochs=3, layer=layer, eager=eager)
    added = np.array(history["loss"]) + np.array(history["elbo"])
    if isinstance(layer, AddsLoss):
        np.testing.assert_allclose(added, 7.0, rtol=1e-4)
    assert (added > 0.01).all()


def test_a_stein_step_follows_a_regularizer_too(images):
    model = SteinVAE(SHAPE, latent_dim=3, hidden_units=(8,))
    kernel = model.encoder.codes.kernel
    before = np.array(kernel)
    model.encoder.codes.kernel.regularizer = keras.regularizers.L2(100.0)
    model.compile(keras.optimizers.SGD(0.005), Stein(3), run_eagerly=True)
    model.fit(images, batch_size=40, verbose=0)
    assert np.linalg.norm(kernel) < 0.1 * np.linalg.norm(before)


# Arguments.


def test_a_model_of_ones_own_is_rebuilt_with_its_arguments(images, tmp_path):
    model, _ = fitted(images, latent_dim=7, activation=keras.activations.tanh, layer=keras.layers.Dense(8))
    codes = model.encode(images)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.latent_dim == 7
    for other in (again, copy.deepcopy(model)):
        np.testing.assert_array_equal(other.encode(images), codes)
        np.testing.assert_allclose(other.evaluate(images, verbose=0), model.evaluate(images, verbose=0), rtol=1e-6)
    clone = keras.models.clone_model(model)
    assert clone.latent_dim == 7
    assert clone.encoder.layers[1].activation is keras.activations.tanh


def test_a_constructor_that_passes_its_arguments_on_is_captured_too():
    class Widened(MyVAE):
        def __init__(self, *args, factor, latent_dim=3, **kwargs):
            super().__init__(*args, latent_dim=factor * latent_dim, **kwargs)

    model = Widened((4, 4, 1), factor=2, name="widened")
    config = model.get_config()
    assert (config["example_shape"], config["factor"], config["latent_dim"]) == ((4, 4, 1), 2, 3)
    again = Widened.from_config(config)
    assert (again.latent_dim, again.example_shape, again.name) == (6, (4, 4, 1), "widened")


def test_captured_arguments_do_not_change_with_the_callers_containers():
    widths = [7, 8]
    model = VAE(SHAPE, hidden_units=widths, posterior_args={})
    widths.append(9)
    assert model.get_config()["hidden_units"] == [7, 8]


# Without compile.


def test_a_model_that_is_not_compiled_is_saved_and_copied(images, tmp_path):
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    model.save(tmp_path / "a.keras")
    uncompiled = keras.models.load_model(tmp_path / "a.keras", compile=False)
    uncompiled.save(tmp_path / "b.keras")
    for other in (uncompiled, copy.deepcopy(model), keras.models.load_model(tmp_path / "b.keras")):
        np.testing.assert_array_equal(other.encode(images), model.encode(images))
        assert not other.compiled
    assert model.optimizers == []


def test_compiling_again_keeps_the_objective(images):
    model = VAE(SHAPE, latent_dim=3, hidden_units=(8,))
    model.compile("adam", IWAE(3))
    model.compile(keras.optimizers.SGD(1e-4))
    assert model.objective == IWAE(3)
    model.compile("adam", ELBO(beta=2.0))
    assert model.objective == ELBO(beta=2.0)
