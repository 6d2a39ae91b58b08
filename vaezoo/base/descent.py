"""Steps of optimizers down losses, in Keras' training mode."""

import keras
import tensorflow as tf

from vaezoo.base.modes import in_mode, penalty


class Descent(keras.Model):
    """A model whose training steps are made of descents; a step of several phases calls `descend` for each."""

    def descend(self, loss, variables, optimizer):
        """Takes a step of an optimizer down a loss, in training mode, and returns what was measured.

        Args:
            loss: function of no arguments -> this replica's share of the loss, a scalar, and a dict of measured values,
                [B], with "loss" in it.
            variables: list of those that move.
            optimizer: a Keras optimizer that was built for them.
        """
        gradients, measured = in_mode(self, lambda: self.gradients(loss, variables, optimizer), training=True)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return measured

    def gradients(self, loss, variables, optimizer):
        """Returns the gradients of a loss, scaled as `optimizer.scale_loss` scales it, and what was measured.

        `self.losses` join the loss. Arguments are those of `descend`.
        """
        with tf.GradientTape() as tape:
            value, measured = self.penalized(*loss())
            value = optimizer.scale_loss(value)
        return tape.gradient(value, variables), measured

    def penalized(self, loss, measured):
        """Adds `self.losses`, of regularizers and `add_loss`, to this replica's share of the loss, and to its log."""
        added = penalty(self)
        if added is None:
            return loss, measured
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return loss + added / replicas, {**measured, "loss": measured["loss"] + added}

    def twin_optimizer(self, variables):
        """Returns an optimizer like `self.optimizer`, schedules included, built for other variables.

        Call it in `compile`, and add it to `optimizers`: a run keeps the state of those.

        Raises:
            ValueError: the optimizer averages weights, which Keras' `fit` would put into other variables than its own.
        """
        if getattr(self.optimizer, "inner_optimizer", self.optimizer).use_ema:
            raise ValueError("`optimizer` must not average weights, which phases move in turn. Received: use_ema")
        twin = self.optimizer.__class__.from_config(self.optimizer.get_config())
        twin.build(variables)
        return twin


def after(data):
    """Returns a context whose ops run after a batch is there.

    At the end of data of unknown length a step is tried without a batch: what does not depend on the batch, such as
    `iterations += 1`, would run all the same.
    """
    return tf.control_dependencies([part for part in tf.nest.flatten(data) if tf.is_tensor(part)])
