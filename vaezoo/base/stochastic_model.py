"""The base of all models: a training step that takes noise, and Keras' contracts around it."""

import keras
import tensorflow as tf

from vaezoo import checks
from vaezoo.base import arguments
from vaezoo.base.contracts import Contracts
from vaezoo.base.descent import Descent, after
from vaezoo.base.exported import Exported
from vaezoo.base.global_latents import GlobalLatents
from vaezoo.base.initialized import InitializedFromData
from vaezoo.base.inputs import CheckedInputs
from vaezoo.base.metrics import ExampleMean
from vaezoo.base.modes import in_mode
from vaezoo.domains import IMAGES
from vaezoo.replicas import in_multi_worker_mode


class StochasticModel(CheckedInputs, InitializedFromData, GlobalLatents, Descent, Contracts, Exported):
    """A Keras model whose loss is a function of data and noise.

    A subclass owes two methods, which return a dict of values per example, [B], by the names of metrics:

        training_loss(data) -> this replica's share of the loss, and such a dict, with "loss" in it
        measure(data)       -> such a dict, with "loss" in it

    and creates a tracker for each further name: `self.accuracy_tracker = ExampleMean(name="accuracy")`. It may replace
    `training_gradients` if it follows another field than a gradient, and `train_step` if a step has several phases:
    each is a `descend`, and `twin_optimizer` makes the optimizers of the later ones.

    All else is Keras': layers see `training=True` in training steps; regularizers and `add_loss` join the loss; the
    arguments of the constructor are captured, so that `get_config`, `save`, `clone_model` and `vaezoo.export` need no
    code of a subclass. The noise of a step is a function of the seed given to `compile`, of `optimizer.iterations` and
    of the replica, so that a run that is resumed from its weights and optimizer state goes on exactly as it would have.

    Args:
        example_shape: tuple of ints, the shape of one example: (H, W, C) of an image, (V,) of a document over V words.
    """

    monitor = "val_loss"  # the log that tells the best epoch; `monitor_mode` is "min" or "max"
    monitor_mode = "min"
    default_objective = staticmethod(lambda: None)  # what `compile` makes if it is given none
    objective, seed = None, 0
    shows = ("terms",)  # what it shows an objective; see `vaezoo.objectives.Objective`
    supervised = False  # whether it is trained and measured on (x, y), a class per example

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls, *args, **kwargs)
        object.__setattr__(instance, "_arguments", arguments.captured(cls, args, kwargs))
        return instance

    def __init__(self, example_shape, **kwargs):
        super().__init__(autocast=False, **kwargs)  # networks cast for themselves: counts and images stay exact
        given = "image_shape" if "image_shape" in self._arguments else "example_shape"
        self.example_shape = checks.positive_ints(given, example_shape)
        self.loss_tracker = ExampleMean("loss", "down")
        self.built = True  # by the constructor, all of it
        self._build_shapes_dict = {"input_shape": (None, *self.example_shape)}  # where Keras and TFLite look for it

    def get_config(self):
        own = {name: arguments.serialized(value) for name, value in self._arguments.items()}
        return {**own, "name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: arguments.deserialized(value) for name, value in config.items()})

    @property
    def image_shape(self):
        """`example_shape`, by the name that models of images know it by."""
        return self.example_shape

    @property
    def domain(self):
        """What an example is, as the likelihood says: `vaezoo.domains.IMAGES`, unless it names another one."""
        return getattr(getattr(self, "likelihood", None), "domain", IMAGES)

    # What a subclass owes.

    def training_loss(self, data):
        """Returns this replica's share of the loss, a scalar, and a dict of measured values, [B].

        Gradients are summed over replicas: divide a sum over examples by `vaezoo.replicas.global_batch_size`.
        """
        raise NotImplementedError

    def measure(self, data):
        """Returns a dict of the values that a test step measures, [B]."""
        raise NotImplementedError

    # Training it.

    def compile(
        self,
        optimizer="adam",
        objective=None,
        *,
        seed=0,
        jit_compile=False,
        steps_per_execution=1,
        run_eagerly=False,
    ):
        """Configures training.

        Args:
            optimizer: a Keras optimizer, or its name; None for a model that is only measured.
            objective: one of `vaezoo.objectives`; None keeps the objective that the model was compiled with before, and
                is the model's `default_objective()` the first time.
            seed: int, of the noise.
            jit_compile: compile the steps with XLA; on CPU that pays for MLPs and not for convolutions.
            steps_per_execution: as in `keras.Model.compile`; 1 under a strategy of several replicas, whose collectives
                fail inside Keras' loop over steps (TensorFlow 2.21).
            run_eagerly: as in `keras.Model.compile`.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        if steps_per_execution != 1 and replicas > 1:
            raise ValueError(
                f"`steps_per_execution` must be 1 with {replicas} replicas. Received: {steps_per_execution}"
            )
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        if self.optimizer is not None:
            self.optimizer.build(self.bound_variables)  # now, or the first step would be traced twice
        objective = objective or self.objective or self.default_objective()
        sees = getattr(objective, "sees", "nothing")
        if objective is not None and sees not in self.shows:
            expected = f"one that sees {' or '.join(self.shows)}, for a {type(self).__name__}"
            raise ValueError(f"`objective` must be {expected}. Received: {objective}, which sees {sees}")
        self.objective = objective
        self.seed = int(seed)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "seed": self.seed,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
        }

    def compile_from_config(self, config):
        config = {**config}
        for key in ("optimizer", "objective"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        self.compile(**config)

    @property
    def bound_variables(self):
        """The variables that `optimizer` moves: all trainable ones, unless a model has other players."""
        return self.trainable_variables

    @property
    def optimizers(self):
        """All optimizers, whose states a run needs to go on exactly; none of a model that is not compiled."""
        return [self.optimizer] if self.compiled and self.optimizer is not None else []

    def train_step(self, data):
        """Takes one step on the loss."""
        with after(data):
            gradients, measured = in_mode(self, lambda: self.training_gradients(data), training=True)
            self.optimizer.apply_gradients(zip(gradients, self.bound_variables, strict=True))
            return self.update_metrics(measured)

    def training_gradients(self, data):
        """Returns this replica's share of what a step descends, one per bound variable, and what was measured.

        They are scaled as `optimizer.scale_loss` scales a loss, and may be another field than a gradient.
        """
        return self.gradients(lambda: self.training_loss(data), self.bound_variables, self.optimizer)

    def test_step(self, data):
        """Measures a batch, with noise that is the same at each call of `evaluate`."""
        with after(data):
            measured = in_mode(self, lambda: self.measure(data), training=False)
            return self.update_metrics(self.penalized(0.0, measured)[1])

    def update_metrics(self, measured):
        """Updates the metrics of a dict of measured values, [B], and returns their logs."""
        metrics = {metric.name: metric for metric in self.metrics if metric.name in measured}
        for name, metric in metrics.items():
            metric.update_state(measured[name])
        logs = {name: metric.result() for name, metric in metrics.items()}
        if in_multi_worker_mode():
            # On this condition Keras 3 averages the logs along axis 0, which scalars do not have.
            logs = tf.nest.map_structure(lambda value: tf.reshape(value, [1]), logs)
        return logs

    def broken_terms(self):
        """Returns the names of the terms that became NaN or infinite first, and how many steps were finite before.

        No names: nothing broke, or the model does not tell.
        """
        return (), 0

    def forget_broken_terms(self):
        """Lets `broken_terms` start anew, before an epoch."""

    def _get_metrics_result_or_logs(self, logs):
        """Returns the metrics of all replicas, of those that the last step has measured.

        Keras does so only where a step measures every metric; else its logs are a mean of the replicas' own means,
        which is wrong where their batches differ in size.
        """
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: the constructor has built the model. Keras' symbolic build fails with several workers."""
