"""A NaN ends training with the name of the term that broke first, and leaves the last good state."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE

from vaezoo import training
from vaezoo.callbacks import StopOnNaN
from vaezoo.models import VAE


class BreakingVAE(VAE):
    """One of its terms becomes NaN in the eighth step."""

    broken = "kl"

    def terms(self, x, noise, *, analytic_kl=False):
        terms = super().terms(x, noise, analytic_kl=analytic_kl)
        value = getattr(terms, self.broken)
        return terms._replace(**{self.broken: tf.where(tf.equal(self.optimizer.iterations, 7), np.nan, value)})


@pytest.mark.parametrize("settings", [{}, {"steps_per_execution": 10}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize(("field", "name"), [("kl", "kl"), ("log_lik", "log_likelihood")])
def test_the_term_that_broke_first_is_named(images, settings, field, name):
    model = BreakingVAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.broken = field
    model.compile("adam", **settings)
    with pytest.raises(
        FloatingPointError, match=f"^`{name}` must be finite. Received: NaN or infinity in step 8 of epoch 1$"
    ) as error:
        model.fit(images, batch_size=4, epochs=3, verbose=0, callbacks=[StopOnNaN()])
    assert "\n" not in str(error.value)


def test_terms_that_break_together_are_both_named(images):
    """An update to infinite weights breaks both terms in the step that follows it."""
    model = VAE(IMAGE_SHAPE, latent_dim=3, hidden_units=(7,))
    model.compile(keras.optimizers.SGD(1e38))
    with pytest.raises(FloatingPointError, match="`log_likelihood` and `kl` must be finite.*too high a learning rate"):
        model.fit(images, batch_size=4, epochs=3, verbose=0, callbacks=[StopOnNaN()])


def test_a_run_keeps_its_last_good_state(tmp_path, monkeypatch):
    small = {"model.args.hidden_units": [8], "train.jit_compile": False, "train.optimizer.name": "SGD"}

    class PoisonAfterTwoEpochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                weight = self.model.trainable_variables[0]
                weight.assign(np.full(weight.shape, np.nan))

    with pytest.raises(FloatingPointError, match="in step 1 of epoch 3"):
        training.train(
            "vae_digits",
            directory=tmp_path,
            overrides={**small, "train.epochs": 4},
            callbacks=[PoisonAfterTwoEpochs()],
            verbose=0,
        )
    with np.load(tmp_path / "state.npz") as state:
        assert all(np.isfinite(state[name]).all() for name in state.files if name != "history")
    model = training.train(
        "vae_digits", directory=tmp_path, resume=True, overrides={**small, "train.epochs": 3}, verbose=0
    )
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_from_the_command_line_it_is_one_line(tmp_path, capfd, monkeypatch):
    from vaezoo import cli

    overrides = ["train.optimizer.name=SGD", "train.optimizer.args={learning_rate = 1e30}", "train.jit_compile=false"]
    arguments = [part for override in overrides for part in ("--set", override)]
    monkeypatch.setattr("sys.argv", ["vaezoo", "train", "vae_digits", "--dir", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit) as exit_status:
        cli.main()
    assert exit_status.value.code == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vaezoo:")]
    assert len(lines) == 1
    assert "must be finite" in lines[0]
