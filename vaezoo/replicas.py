"""What a step knows of the other replicas that take it in sync; outside a strategy there are none."""

import tensorflow as tf


def replica_id():
    """Returns the index of this replica among those in sync; 0 outside a strategy."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def replica_sum(value):
    """Sums a tensor over the replicas in sync; the identity outside a strategy. Differentiable."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def global_batch_size(x):
    """Returns the number of examples x [B, ...] that all replicas in sync see in this step, float32 []."""
    return replica_sum(tf.cast(tf.shape(x)[0], tf.float32))


def in_multi_worker_mode():
    """Returns whether a strategy of several workers, each a process of its own, is in scope."""
    strategy = tf.distribute.get_strategy()
    multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return multi_worker and strategy.extended._in_multi_worker_mode()
