"""From a config to a trained model: strategy, data, callbacks, resume."""

import json
import os
import pathlib

import keras
import tensorflow as tf

from vaezoo import callbacks as vaezoo_callbacks
from vaezoo import checks, config, data, files, zoo

MOST_STEPS_PER_EXECUTION = 50  # a step of a small MLP takes 4 ms, Keras' own loop around it up to 1


def train(name, *, directory=None, resume=False, splits=None, overrides=None, callbacks=(), verbose="auto"):
    """Trains a zoo entry, or a config of the user's own, and returns the model with its last weights.

    The run's folder receives `config.json`, `state.npz` (what `resume` reads), `last.weights.h5`, `best.weights.h5` (by
    the ELBO on the validation part), `log.csv`, `images/` and `tensorboard/`.

    Several workers: with TF_CONFIG set, call this before any other use of TensorFlow, with a `directory` that all
    workers can read; the chief writes it.

    Args:
        name: a zoo entry, the path of a TOML file, or a `vaezoo.config.Config`.
        directory: the run's folder; default `runs/<name>`.
        resume: go on with the run in that folder, to the same weights as if it had never stopped.
        splits: `vaezoo.data.Splits` to use instead of the config's data.
        overrides: dict from dotted config keys to values, e.g. {"train.epochs": 3}.
        callbacks: further Keras callbacks.
        verbose: as in `keras.Model.fit`.

    Raises:
        ValueError: a bad config or data; or the folder holds a run of another config.
        FileExistsError: the folder holds a run and `resume` is False.
        FloatingPointError: a term of the bound became NaN or infinite.
    """
    settings = name if isinstance(name, config.Config) else config.read(name, overrides)
    strategy = default_strategy()
    chief = strategy.cluster_resolver is None or strategy.cluster_resolver.task_id in (0, None)
    directory = pathlib.Path(directory or pathlib.Path("runs") / settings.name)
    splits = splits or data.load(settings.data.name)
    _claim(directory, settings, resume, chief)

    train_settings = settings.train
    batches, steps = data.training_batches(
        splits.train.images, settings.data.transform, batch_size=train_settings.batch_size, seed=train_settings.seed
    )
    validation = data.test_images(splits.validation.images, settings.data.transform)
    with strategy.scope():
        model = zoo.build(
            settings,
            jit_compile=train_settings.jit_compile and strategy.num_replicas_in_sync == 1,
            steps_per_execution=_largest_divisor(steps, MOST_STEPS_PER_EXECUTION),
        )
    checks.images("training images", splits.train.images[:1], model.image_shape)
    state = vaezoo_callbacks.TrainingState(directory, writes=chief)
    state.set_model(model)
    first_epoch = state.restore(model) if resume else 0
    if first_epoch:
        batches, _ = data.training_batches(
            splits.train.images,
            settings.data.transform,
            batch_size=train_settings.batch_size,
            seed=train_settings.seed,
            first_epoch=first_epoch,
        )
    own = [vaezoo_callbacks.StopOnNaN(), state]
    if chief:
        own += [
            vaezoo_callbacks.ImageGrid(directory / "images"),
            keras.callbacks.TensorBoard(directory / "tensorboard", write_graph=False),
        ]
    if first_epoch < train_settings.epochs:
        model.fit(
            batches,
            epochs=train_settings.epochs,
            initial_epoch=first_epoch,
            steps_per_epoch=steps,
            validation_data=validation,
            validation_batch_size=train_settings.batch_size,
            callbacks=[*own, *callbacks],
            verbose=verbose,
        )
    return model


def default_strategy():
    """Returns the strategy of TF_CONFIG's workers, of several local devices, or the one in scope, in this order."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy()
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _claim(directory, settings, resume, chief):
    """Makes the run's folder, or checks that it holds a run of the same config (more epochs are welcome)."""
    path, table = directory / config.RUN_CONFIG, json.loads(json.dumps(config.as_dict(settings)))
    if path.exists() and not resume:
        raise FileExistsError(f"`directory` must not hold a run, unless it is to be resumed (--resume). Received: {directory}")
    if not chief:
        return
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        for part in (before, table):
            part["train"].pop("epochs")
        if before != table:
            different = ", ".join(key for key in table if before.get(key) != table[key])
            raise ValueError(f"`directory` must hold a run of the same config. Received: {directory}, which differs in: {different}")
    directory.mkdir(parents=True, exist_ok=True)
    files.sweep(directory)
    with files.atomic(path) as temporary:
        temporary.write_text(json.dumps(config.as_dict(settings), indent=2), "utf-8")


def _largest_divisor(number, most):
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)
