"""From a config to a trained model: strategy, data, callbacks, resume."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib

import keras
import tensorflow as tf

from vaezoo import callbacks as vaezoo_callbacks
from vaezoo import config, data, files, zoo
from vaezoo.domains import IMAGES

MOST_STEPS_PER_EXECUTION = 50  # a step of a small MLP takes 4 ms, Keras' own loop around it up to 1


def train(name, *, directory=None, resume=False, splits=None, overrides=None, callbacks=(), verbose="auto"):
    """Trains a zoo entry, or a config of the user's own, and returns the model with its last weights.

    The run's folder receives `config.json`, `state.npz` (what `resume` reads), `last.weights.h5`, `best.weights.h5` (by
    the ELBO on the validation part), `log.csv`, `images/`, of a model of images, `words.txt`, of a model of documents
    whose words are known, and `tensorboard/`.

    Data that are given (`splits`, or "data.name" among the overrides), and documents, decide the model's `image_shape`,
    unless it is among the overrides itself.

    Several workers: with TF_CONFIG set, call this before any other use of TensorFlow, with a `directory` that all
    workers can read; the chief writes it.

    Args:
        name: a zoo entry, the path of a TOML file, the folder of a run, or a `vaezoo.config.Config`.
        directory: the run's folder; default that of `name`, if it is one, else `runs/<name>`.
        resume: go on with the run in that folder, to the same weights as if it had never stopped.
        splits: `vaezoo.data.Splits` to use instead of the config's data.
        overrides: dict from dotted config keys to values, e.g. {"train.epochs": 3}.
        callbacks: further Keras callbacks.
        verbose: as in `keras.Model.fit`.

    Raises:
        ValueError: a bad config or data; or the folder holds a run of another config.
        FileExistsError: the folder holds a run and `resume` is False.
        BlockingIOError: another process trains in the folder.
        FloatingPointError: a term of the bound became NaN or infinite.
    """
    overrides = overrides or {}
    if isinstance(name, config.Config):
        settings = config.parse(config.as_dict(name), overrides)
    else:
        settings = config.read(name, overrides)
    if splits is not None:
        if not isinstance(splits, data.Splits):
            raise ValueError(f"`splits` must be a vaezoo.data.Splits, see Splits.from_arrays. Received: {type(splits)}")
        settings = config.parse(config.as_dict(settings), {"data.name": data.ARRAYS})
    # The card's figures are those of the entry's weights, not of this run.
    settings = dataclasses.replace(settings, weights=None)
    recipe, transform = settings.train, settings.data.transform
    directory = pathlib.Path(directory or default_directory(name, settings))
    strategy = default_strategy()
    chief = _is_chief(strategy)
    given = splits is not None or "data.name" in overrides
    with contextlib.ExitStack() as stack:
        with _all_or_none(strategy):
            if chief:
                stack.enter_context(files.locked(directory, wait=False))  # until the training ends
                if config.is_run(directory) and not resume:
                    raise FileExistsError(
                        f"`directory` must not hold a run, unless it is to be resumed (--resume). Received: {directory}"
                    )
            splits = splits or data.load(settings.data.name)
            if "model.args.image_shape" not in overrides and (given or transform == "counts"):
                shape = list(splits.train.images.shape[1:])
                settings = config.parse(config.as_dict(settings), {"model.args.image_shape": shape})
            if chief and resume:
                _check_same_run(directory, settings, splits.words)
            if settings.data.labels:
                splits = data.draw_labels(splits, settings.data.labels, settings.data.label_seed)
            batches, steps = _batches(splits, settings)
            validation = data.transform_once(splits.validation.images, transform)
            if settings.data.labels:
                validation = validation, splits.validation.labels
        alone = strategy.num_replicas_in_sync == 1
        with strategy.scope():
            model = zoo.build(
                settings,
                jit_compile=recipe.jit_compile and alone,
                # In TensorFlow 2.21 the collectives of several replicas fail inside of Keras' loop over steps.
                steps_per_execution=_largest_divisor(steps, MOST_STEPS_PER_EXECUTION) if alone else 1,
            )
        settings = dataclasses.replace(settings, num_params=model.count_params())
        state = vaezoo_callbacks.TrainingState(directory, writes=chief)
        state.set_model(model)
        with _all_or_none(strategy):
            data.check_domain(model.domain, transform)
            model.domain.check(f"training {model.domain.name}", splits.train.images[:1], model.image_shape)
            start = zoo.load(recipe.start_from) if recipe.start_from else None  # before the folder is touched
            if chief:
                _claim(directory, settings, splits.words)
            first_epoch = state.restore(model) if resume else 0
            if first_epoch == 0:
                with strategy.scope():
                    if model.initial_images:
                        first = splits.train.images[: model.initial_images]
                        model.initialize(data.transform_once(first, transform, seed=recipe.seed))
                    if start is not None:
                        model.start_from(start, splits.train.images)
        if _sum_over_workers(strategy, first_epoch) != first_epoch * _num_workers(strategy):
            raise ValueError(
                f"`directory` must be a folder that all workers share. Received: {directory}, which is not"
            )
        if first_epoch:
            batches, _ = _batches(splits, settings, first_epoch)
        own = [vaezoo_callbacks.StopOnNaN(), vaezoo_callbacks.MeasureAverages()]
        if chief:
            own += [keras.callbacks.TensorBoard(directory / "tensorboard", write_graph=False)]
            if model.domain is IMAGES:
                own += [vaezoo_callbacks.ImageGrid(directory / "images")]
        own += [state]  # the last, so that an epoch whose state is on disk has its picture and its curves
        if first_epoch < recipe.epochs:
            model.fit(
                batches,
                epochs=recipe.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=steps,
                validation_data=validation,
                validation_batch_size=recipe.batch_size,
                shuffle=False,  # the batches are, by epoch
                callbacks=[*own, *callbacks],
                verbose=verbose,
            )
        model.optimizer.finalize_variable_values(model.bound_variables)  # the averages, if there are any
        return model


def default_directory(name, settings):
    """Returns where a run goes that is given no folder: the folder that `name` is, or `runs/<entry>`."""
    return pathlib.Path(name) if config.is_run(name) else pathlib.Path("runs") / settings.name


def default_strategy():
    """Returns the strategy of TF_CONFIG's workers, of several local devices, or the one in scope, in this order."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy()
    if "TF_CONFIG" in os.environ:
        return _the_only(tf.distribute.MultiWorkerMirroredStrategy)
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) > 1:
            return _the_only(tf.distribute.MirroredStrategy, tuple(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache
def _the_only(strategy, *args):
    """Makes a strategy once: the collectives of a second one on the same devices are taken for the first one's."""
    return strategy(*args)


def _batches(splits, settings, first_epoch=0):
    return data.training_batches(
        splits.train.images,
        settings.data.transform,
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        first_epoch=first_epoch,
        labelled=splits.labelled if settings.data.labels else None,
    )


# The run's folder: the chief locks and checks it, and writes to it only when everything else has been found good.


def _check_same_run(directory, settings, words):
    """Raises if the folder holds a run of another recipe (epochs may be added), or one that counts other words."""
    if not config.is_run(directory):
        return
    different = _differences(_decisive(config.read(directory)), _decisive(settings))
    if different:
        raise ValueError(
            f"`directory` must hold a run of the same config. Received: {directory}, which differs in: "
            + ", ".join(different)
        )
    zoo.check_words(directory, settings, words)


def _claim(directory, settings, words):
    """Makes the folder, clears it of what a killed run was writing, and writes the words, if any, and the config."""
    for folder in (directory, directory / "images"):
        files.sweep(folder)
    if not config.is_run(directory):
        (directory / zoo.RUN_WORDS).unlink(missing_ok=True)  # of a run that was killed before it had a config
    if words is not None:
        with files.atomic(directory / zoo.RUN_WORDS) as path:
            path.write_text("".join(f"{word}\n" for word in words), "utf-8")
    with files.atomic(directory / config.RUN_CONFIG) as path:
        path.write_text(json.dumps(config.as_dict(settings), indent=2), "utf-8")


def _decisive(settings):
    """Returns what decides a run's weights after any number of epochs, as JSON would give it back."""
    table = json.loads(json.dumps(config.as_dict(settings)))
    table["train"].pop("epochs")
    return {part: table[part] for part in ("model", "data", "objective", "train")}


def _differences(before, now, where=""):
    """Returns one text, "dotted.key (before, now)", per value that differs between two nested dicts."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{where}{key}.")
        elif old != new:
            found.append(f"{where}{key} (was {old!r}, is {new!r})")
    return found


# Several workers.


def _num_workers(strategy):
    """Returns the number of processes that train together."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict() if resolver is not None and resolver.task_type else {}
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def _is_chief(strategy):
    """Tells whether this process is the one that writes: the chief of TF_CONFIG, else its first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (resolver.task_id == 0 and not has_chief)


def _sum_over_workers(strategy, value):
    """Returns the sum of a number over all workers, each of which has to call it."""
    if _num_workers(strategy) == 1:
        return value
    share = value * _num_workers(strategy) / strategy.num_replicas_in_sync

    @tf.function
    def total():
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.constant(share)), axis=None)

    return float(total())


@contextlib.contextmanager
def _all_or_none(strategy):
    """Ends all workers if one fails in the block; or the others would wait for it in their first step, for ever."""
    try:
        yield
    except Exception:
        _sum_over_workers(strategy, 1.0)
        raise
    if _sum_over_workers(strategy, 0.0):
        raise ConnectionAbortedError("the other workers must be able to start. Received: a failure; see their output")


def _largest_divisor(number, most):
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)
