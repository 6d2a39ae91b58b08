"""Keras callbacks: the run's state on disk, a grid of images per epoch, a NaN's cause."""

import contextlib
import csv
import functools
import json
import pathlib

import keras
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vaezoo import checks, files


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the running averages of an optimizer with `use_ema` in the place of the weights; nothing without it."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer is None or not optimizer.use_ema:
        yield
        return
    raw = [np.asarray(variable) for variable in model.bound_variables]
    optimizer.finalize_variable_values(model.bound_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.bound_variables, raw, strict=True):
            variable.assign(value)


class MeasureAverages(keras.callbacks.Callback):
    """Measures with `averaged_weights`, and trains on the others; exactly, where Keras' own rounds at each swap."""

    def on_test_begin(self, logs=None):
        """Puts the averages in."""
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs=None):
        """Takes them out."""
        self.stack.close()


class TrainingState(keras.callbacks.Callback):
    """Keeps a run on disk, so that it can be killed at any moment and resumed to the same weights.

    After each epoch: `state.npz` holds weights, optimizer and history, in one atomic write; then `log.csv`,
    `last.weights.h5` and, if the model's `monitor` improved, `best.weights.h5` follow from it, with the averages of the
    weights where the optimizer keeps them. A run killed between these writes is mended when it resumes: they
    are functions of the state.

    Args:
        directory: the run's folder.
        writes: False for the workers of a multi-worker run that are not the chief; they only read.
    """

    def __init__(self, directory, writes=True):
        super().__init__()
        self.directory, self.writes = pathlib.Path(directory), writes
        self.history = []

    @property
    def path(self):
        """The file that holds the state."""
        return self.directory / "state.npz"

    def restore(self, model):
        """Puts the state, if there is one, into a built and compiled model; returns the epochs it has seen.

        Raises:
            ValueError: the file is damaged, or it is of another model.
        """
        if not self.path.exists():
            return 0
        variables = _variables(model)
        try:
            with np.load(self.path, allow_pickle=False) as state:
                self.history = json.loads(str(state["history"]))
                values = [state[f"variable_{i}"] for i in range(len(state.files) - 1)]
        except Exception as error:  # a truncated zip, a missing member, a bad header: each has its own
            raise ValueError(f"`{self.path}` must be the state of a run. Received: {error}") from None
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise ValueError(f"`{self.path}` must be of the same model and optimizer. Received: other shapes")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        if self.writes:
            self._write_followers()
        return len(self.history)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the state."""
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        if not self.writes:
            return
        values = {f"variable_{i}": np.asarray(value) for i, value in enumerate(_variables(self.model))}
        with files.atomic(self.path) as path:
            np.savez(path, history=json.dumps(self.history), **values)
        self._write_followers()

    def _write_followers(self):
        with files.atomic(self.directory / "log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in self.history for name in row))
            writer.writeheader()
            writer.writerows(self.history)
        monitor = checks.one_of("model.monitor", self.model.monitor, self.history[-1].keys() - {"epoch"})
        sign = {"max": 1.0, "min": -1.0}[self.model.monitor_mode]
        scores = [sign * row[monitor] for row in self.history]
        names = ["last.weights.h5"] + (["best.weights.h5"] if scores[-1] >= np.nanmax(scores) else [])
        with averaged_weights(self.model):
            self._bare_model.set_weights(self.model.get_weights())
        for name in names:
            with files.atomic(self.directory / name) as path:
                self._bare_model.save_weights(path)

    @functools.cached_property
    def _bare_model(self):
        """A twin of the model without an optimizer, whose state would triple the size of the weights' files."""
        return self.model.__class__.from_config(self.model.get_config())


def _variables(model):
    return [*model.weights, *(variable for optimizer in model.optimizers for variable in optimizer.variables)]


class StopOnNaN(keras.callbacks.Callback):
    """Ends training with a `FloatingPointError` that names the term that broke.

    Put it before a `TrainingState`, and no NaN is written to disk.
    """

    def on_epoch_begin(self, epoch, logs=None):
        """Forgets what was seen before."""
        self.epoch = epoch
        self.model.forget_broken_terms()

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the running loss, which a NaN never leaves again within the epoch."""
        if not np.all(np.isfinite(np.asarray((logs or {}).get("loss", 0.0)))):
            names, steps = self.model.broken_terms()
            step = steps // self.model.distribute_strategy.num_replicas_in_sync + 1
            self._stop(names, f"in step {step}" if names else "in some step")

    def on_epoch_end(self, epoch, logs=None):
        """Looks at the measurement, and at the weights: no loss tells what the last step of the epoch did to them."""
        if not all(np.all(np.isfinite(value)) for value in (logs or {}).values()):
            self._stop(self.model.broken_terms()[0], "in the measurement after the last step")
        for weight in self.model.weights:
            if not np.all(np.isfinite(np.asarray(weight))):
                self._stop((weight.path,), "after the last step")

    def _stop(self, names, where):
        # A term that breaks by itself has a step's lead over those that follow it through the weights.
        hint = "; they broke together, as by weights that were broken before: too high a learning rate?"
        raise FloatingPointError(
            f"{' and '.join(f'`{name}`' for name in names) or '`loss`'} must be finite. Received: NaN or infinity "
            f"{where} of epoch {self.epoch + 1}{hint if len(names) > 1 else ''}"
        )


class ImageGrid(keras.callbacks.Callback):
    """Writes a grid of samples from fixed noise after each epoch, `images/epoch_0001.png`."""

    def __init__(self, directory, num_images=64):
        super().__init__()
        self.directory, self.num_images = pathlib.Path(directory), num_images

    def on_epoch_end(self, epoch, logs=None):
        """Writes the grid."""
        from PIL import Image

        from vaezoo.evaluation.plots import tile_images

        with averaged_weights(self.model):
            grid = tile_images(np.asarray(self.model.sample(self.num_images, seed=0)))
        with files.atomic(self.directory / f"epoch_{epoch + 1:04d}.png") as path:
            Image.fromarray(np.round(grid.squeeze() * 255).astype(np.uint8)).save(path)


class ProgressBar(keras.callbacks.Callback):
    """One line on the terminal for the whole run: epochs, what the model monitors, the time that is left.

    Used as a context, which gives the terminal back whatever ends the run.
    """

    def __init__(self, epochs):
        super().__init__()
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[bounds]}"), console=Console(stderr=True))
        self.task = self.progress.add_task("epochs", total=epochs, bounds="")

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def on_epoch_end(self, epoch, logs=None):
        """Brings the line up to date."""
        monitor = self.model.monitor
        names = monitor.removeprefix("val_"), monitor
        bounds = "  ".join(f"{name} {logs[name]:.2f}" for name in names if name in logs)
        self.progress.update(self.task, completed=epoch + 1, bounds=bounds)
