"""A NaN ends training with the name of the term that broke first, and leaves the last good state."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE

from vaezoo import zoo
from vaezoo.models import VAE
from vaezoo.objectives import ELBO
from vaezoo.zoo import training
from vaezoo.zoo.callbacks import StopOnNaN


class BreakingVAE(VAE):
    """One of its terms becomes NaN in the eighth step."""

    broken = "kl"

    def terms(self, x, noise, *, analytic_kl=False):
        terms = super().terms(x, noise, analytic_kl=analytic_kl)
        value = getattr(terms, self.broken)
        return terms._replace(**{self.broken: tf.where(tf.equal(self.optimizer.iterations, 7), np.nan, value)})


SETTINGS = [
    {},
    {"run_eagerly": True},
    {"jit_compile": True},
    {"steps_per_execution": 50},  # NaN has spread to everything long before anybody looks
    {"steps_per_execution": 50, "jit_compile": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("field", "name"), [("kl", "kl"), ("log_lik", "log_likelihood")])
def test_the_term_that_broke_first_is_named(images, settings, field, name):
    model = BreakingVAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.broken = field
    model.compile("adam", **settings)
    x = np.concatenate([images] * 5)  # 50 steps of 4
    message = f"`{name}` must be finite. Received: NaN or infinity in step 8 of epoch 1"
    with pytest.raises(FloatingPointError, match=f"^{message}$"):
        model.fit(x, batch_size=4, epochs=2, verbose=0, callbacks=[StopOnNaN()])


def test_steps_are_counted_anew_in_each_epoch_and_fit(images):
    model = BreakingVAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile("adam")
    for first_weights in (model.get_weights(),) * 2:  # 5 steps per epoch, of which the 8th is the second one's third
        model.set_weights(first_weights)
        model.optimizer.iterations.assign(0)
        with pytest.raises(FloatingPointError, match="`kl` .* in step 3 of epoch 2$"):
            model.fit(images, batch_size=8, epochs=3, verbose=0, callbacks=[StopOnNaN()], validation_data=images)


def test_terms_that_break_together_are_both_named(images):
    """An update to infinite weights breaks both terms in the step that follows it."""
    model = VAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile(keras.optimizers.SGD(1e38))
    with pytest.raises(FloatingPointError, match="`log_likelihood` and `kl` must be finite.*too high a learning rate"):
        model.fit(images, batch_size=4, epochs=3, verbose=0, callbacks=[StopOnNaN()])


def test_an_objective_that_breaks_although_the_terms_are_finite_is_the_loss(images):
    class Broken(ELBO):
        def __call__(self, terms, step):
            return tf.where(step < 2, 1.0, np.nan) * super().__call__(terms, step)

    model = VAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile(keras.optimizers.SGD(0.0), Broken())  # NaN * 0 is NaN: the update breaks the weights, a step later
    with pytest.raises(FloatingPointError, match="^`loss` must be finite"):
        model.fit(images, batch_size=8, verbose=0, callbacks=[StopOnNaN()])


class Poison(keras.callbacks.Callback):
    """Breaks a weight at the end of a step, as an update can."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            weight = self.model.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (3 * 20 - 10, "`log_likelihood` and `kl` must be finite.* in step 11 of epoch 3; .* learning rate"),
        (3 * 20, "`log_likelihood` and `kl` must be finite.* in the measurement after the last step of epoch 3"),
    ],
    ids=["within an epoch", "in an epoch's last step"],
)
def test_a_run_keeps_its_last_good_state(tmp_path, monkeypatch, step, message):
    monkeypatch.setattr(training, "MOST_STEPS_PER_EXECUTION", 10)  # of 20 steps in an epoch
    overrides = {"model.args.hidden_units": [8], "train.jit_compile": False, "train.epochs": 4}
    with pytest.raises(FloatingPointError, match=message):
        training.train("vae_digits", directory=tmp_path, overrides=overrides, callbacks=[Poison(step)], verbose=0)
    with np.load(tmp_path / "state.npz") as state:
        assert len(json.loads(str(state["history"]))) == 2
        assert all(np.isfinite(state[name]).all() for name in state.files if name != "history")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    for name in ("best.weights.h5", "last.weights.h5"):
        weights = zoo.load(tmp_path, weights=tmp_path / name).get_weights()
        assert all(np.isfinite(weight).all() for weight in weights)
    model = training.train("vae_digits", directory=tmp_path, resume=True, overrides=overrides, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


@pytest.mark.rest
def test_weights_that_nothing_measured_are_looked_at(images):
    """The last step of a training without validation: no loss is computed from what it left."""
    model = VAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile("adam")
    with pytest.raises(FloatingPointError, match="kernel` must be finite.* after the last step of epoch 1"):
        model.fit(images, batch_size=8, verbose=0, callbacks=[StopOnNaN(), Poison(5)])


def test_a_healthy_training_is_left_alone(images):
    model = VAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile("adam")
    history = model.fit(images, batch_size=8, epochs=2, verbose=0, callbacks=[StopOnNaN()], validation_data=images)
    assert len(history.history["loss"]) == 2
    assert model.health.broken() == ((), 5 + 5)  # steps of the last epoch: training and measuring


def test_from_the_command_line_it_is_one_line(tmp_path, capfd, monkeypatch):
    from vaezoo.cli import main

    overrides = ["train.optimizer.name=SGD", "train.optimizer.args={learning_rate = 1e30}", "train.jit_compile=false"]
    arguments = [part for override in overrides for part in ("--set", override)]
    monkeypatch.setattr("sys.argv", ["vaezoo", "train", "vae_digits", "--dir", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit) as exit_status:
        main.main()
    assert exit_status.value.code == 1
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("vaezoo:")]
    assert len(lines) == 1
    assert "must be finite" in lines[0]
