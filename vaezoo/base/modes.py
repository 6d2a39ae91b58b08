"""Keras' training mode, for functions that are no layer's `call`."""

import keras
import tensorflow as tf


class Mode(keras.layers.Layer):
    """Calls a function as Keras calls `call`.

    Layers called inside of the function see `training`: Dropout drops, moving averages move. They do so only inside of
    some layer's `__call__`, and a step that calls a model's parts itself is inside of none.
    """

    def __init__(self):
        super().__init__(dtype="float32", autocast=False, name="mode")
        self.built = True

    def call(self, function, training=None):
        """Returns what the function returns; the argument `training` is for Keras, which hands it down."""
        del training
        return function()


_mode = Mode()


def in_mode(model, function, *, training):
    """Calls a function of no arguments in Keras' training or inference mode.

    Args:
        model: a `keras.Model`; losses that its layers added before are forgotten, those that they add meanwhile, by
            `add_loss` or `activity_regularizer`, are in `model.losses` afterwards.
        function: of no arguments.
        training: bool.
    """
    failures = []

    def caught():
        try:
            return function()
        except Exception as failure:  # Keras would wrap its message in lines about `Mode.call`
            failures.append(failure)

    model._clear_losses()  # as Keras does at the outermost call of a model
    result = _mode(function=caught, training=training)
    if failures:
        raise failures[0]
    return result


def penalty(model):
    """Returns the sum of `model.losses`, a scalar: its regularizers' and what its layers added; None without any."""
    losses = model.losses
    return tf.add_n([tf.cast(tf.reduce_sum(loss), tf.float32) for loss in losses]) if losses else None
