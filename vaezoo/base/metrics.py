"""Metrics that are right on several replicas too: means over examples, and which term of the bound broke first."""

import keras
import tensorflow as tf


class ExampleMean(keras.metrics.Mean):
    """The mean over examples of a value per example, [B].

    Keras assigns old total + new values, which on several replicas doubles the old total at each step (Keras 3.8); to
    add to the variable itself is right in every version.

    Args:
        name: of the logs.
        direction: "up" if more is better, "down" if less is; None leaves `mode` to the user of a Keras callback.
    """

    def __init__(self, name, direction=None):
        super().__init__(name=name)
        self._direction = direction  # Keras' own name for it

    def update_state(self, values):
        self.total.value.assign_add(tf.reduce_sum(values))
        self.count.value.assign_add(tf.cast(tf.shape(values)[0], self.count.dtype))


def direct(callbacks, metrics):
    """Sets the mode of Keras callbacks that are to find it themselves, by the direction of the metric they monitor.

    Keras looks at metrics that `compile` was given only.

    Args:
        callbacks: what `fit` was given: a list, a `keras.callbacks.CallbackList`, one callback or None.
        metrics: list of `ExampleMean`s.
    """
    modes = {metric.name: {"up": "max", "down": "min"}.get(metric._direction) for metric in metrics}
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        mode = modes.get(str(getattr(callback, "monitor", None)).removeprefix("val_"))
        if mode is not None and getattr(callback, "mode", None) == "auto":
            callback.mode = mode


@keras.saving.register_keras_serializable(package="vaezoo")
class TermHealth(keras.metrics.Metric):
    """Remembers which of the terms broke first, so that a NaN can be traced although it spreads within one step.

    `finite_steps` counts, for log p(x | z) and for the KL, the steps before its first non-finite value, summed over
    the replicas. One that broke on a single replica has a smaller sum than one that broke everywhere a step later.
    """

    NAMES = ("log_likelihood", "kl")

    def __init__(self, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.finite_steps = self.add_variable([2], "zeros", name="finite_steps")
        self.intact = self.add_variable([2], "ones", name="intact", aggregation="mean")

    def update_state(self, terms):
        finite = tf.stack([True if term is None else tf.reduce_all(tf.math.is_finite(term)) for term in terms])
        self.intact.assign(self.intact * tf.cast(finite, tf.float32))
        self.finite_steps.value.assign_add(tf.convert_to_tensor(self.intact))

    def reset_state(self):
        self.finite_steps.assign(tf.zeros([2]))
        self.intact.assign(tf.ones([2]))

    def result(self):
        return self.finite_steps

    def broken(self):
        """Returns the names of the terms that broke first, and their finite steps; no names while all is well."""
        steps = keras.ops.convert_to_numpy(self.finite_steps)
        first = int(steps.min())
        if keras.ops.convert_to_numpy(self.intact).min() == 1.0:
            return (), first
        return tuple(name for name, count in zip(self.NAMES, steps, strict=True) if count == first), first
