"""From a config to a trained model: strategy, data, callbacks, resume."""

import contextlib
import dataclasses
import pathlib

import keras

from vaezoo import data, files
from vaezoo.zoo import callbacks as vaezoo_callbacks
from vaezoo.zoo import config, loading, registry, run_folder, workers

MOST_STEPS_PER_EXECUTION = 50  # a step of a small MLP takes 4 ms, Keras' own loop around it up to 1


def train(name, *, directory=None, resume=False, splits=None, overrides=None, callbacks=(), verbose="auto"):
    """Trains a zoo entry, or a config of the user's own, and returns the model with its last weights.

    The run's folder receives `config.json`, `state.npz` (what `resume` reads), `last.weights.h5`, `best.weights.h5` (by
    the model's `monitor`, such as the ELBO on the validation part), `log.csv`, `images/`, of a model that generates
    images, `words.txt`, of a model of documents whose words are known, and `tensorboard/`.

    Data that are given (`splits`, or "data.name" among the overrides), and documents, decide the model's `image_shape`
    (or `example_shape`), unless it is among the overrides itself. Data decide how many steps the epochs of schedules
    have.

    Several workers: with TF_CONFIG set, call this before any other use of TensorFlow, with a `directory` that all
    workers can read; the chief writes it.

    Args:
        name: a zoo entry, the path of a TOML file, the folder of a run, or a `vaezoo.zoo.config.Config`.
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
    directory = pathlib.Path(directory or run_folder.default_directory(name, settings))
    strategy = workers.default_strategy()
    chief = workers.is_chief(strategy)
    given = splits is not None or "data.name" in overrides
    with contextlib.ExitStack() as stack:
        with workers.all_or_none(strategy):
            if chief:
                stack.enter_context(files.locked(directory, wait=False))  # until the training ends
                if config.is_run(directory) and not resume:
                    raise FileExistsError(
                        f"`directory` must not hold a run, unless it is to be resumed (--resume). Received: {directory}"
                    )
            splits = splits or data.load(settings.data.name)
            derived = {"data.train_size": len(splits.train.images)}
            shape_key = "image_shape" if "image_shape" in settings.model.args else "example_shape"
            if f"model.args.{shape_key}" not in overrides and (given or transform == "counts"):
                derived[f"model.args.{shape_key}"] = list(splits.train.images.shape[1:])
            settings = config.parse(config.as_dict(settings), derived)
            if resume:
                settings = run_folder.keep_durations(directory, settings)
            if chief and resume:
                run_folder.check_same_run(directory, settings, splits.words)
            if settings.data.labels:
                splits = data.draw_labels(splits, settings.data.labels, settings.data.label_seed)
            supervised = registry.model(settings.model.name).supervised
            if supervised and splits.train.labels is None:
                raise ValueError(f"`data` must have labels, which {settings.model.name} learns from. Received: none")
            batches, steps = _batches(splits, settings, supervised)
            validation = data.transform_once(splits.validation.images, transform)
            if settings.data.labels or supervised:
                validation = validation, splits.validation.labels
        alone = strategy.num_replicas_in_sync == 1
        with strategy.scope():
            model = loading.build(
                settings,
                jit_compile=recipe.jit_compile and alone,
                # In TensorFlow 2.21 the collectives of several replicas fail inside of Keras' loop over steps.
                steps_per_execution=_largest_divisor(steps, MOST_STEPS_PER_EXECUTION) if alone else 1,
            )
        settings = dataclasses.replace(settings, num_params=model.count_params())
        state = vaezoo_callbacks.TrainingState(directory, writes=chief)
        state.set_model(model)
        with workers.all_or_none(strategy):
            data.check_domain(model.domain, transform)
            model.domain.check(f"training {model.domain.name}", splits.train.images[:1], model.example_shape)
            start = loading.load(recipe.start_from) if recipe.start_from else None  # before the folder is touched
            if chief:
                run_folder.claim(directory, settings, splits.words)
            first_epoch = state.restore(model) if resume else 0
            if first_epoch == 0:
                with strategy.scope():
                    if model.initial_images:
                        first = splits.train.images[: model.initial_images]
                        model.initialize(data.transform_once(first, transform, seed=recipe.seed))
                    if start is not None:
                        model.start_from(start, splits.train.images)
        if workers.sum_over_workers(strategy, first_epoch) != first_epoch * workers.num_workers(strategy):
            raise ValueError(
                f"`directory` must be a folder that all workers share. Received: {directory}, which is not"
            )
        if first_epoch:
            batches, _ = _batches(splits, settings, supervised, first_epoch)
        own = [vaezoo_callbacks.StopOnNaN(), vaezoo_callbacks.MeasureAverages()]
        if chief:
            own += [keras.callbacks.TensorBoard(directory / "tensorboard", write_graph=False)]
            if model.domain.drawn and len(model.example_shape) == 3 and model.generate is not None:
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


def _batches(splits, settings, supervised, first_epoch=0):
    return data.training_batches(
        splits.train.images,
        settings.data.transform,
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        first_epoch=first_epoch,
        labels=splits.train.labels if supervised else None,
        labelled=splits.labelled if settings.data.labels else None,
    )


def _largest_divisor(number, most):
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)
