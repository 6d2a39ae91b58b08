"""The strategy that a run trains under, and what its workers say to each other."""

import contextlib
import functools
import os

import tensorflow as tf


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


# Several workers.


def num_workers(strategy):
    """Returns the number of processes that train together."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict() if resolver is not None and resolver.task_type else {}
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def is_chief(strategy):
    """Tells whether this process is the one that writes: the chief of TF_CONFIG, else its first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (resolver.task_id == 0 and not has_chief)


def sum_over_workers(strategy, value):
    """Returns the sum of a number over all workers, each of which has to call it."""
    if num_workers(strategy) == 1:
        return value
    share = value * num_workers(strategy) / strategy.num_replicas_in_sync

    @tf.function
    def total():
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.constant(share)), axis=None)

    return float(total())


@contextlib.contextmanager
def all_or_none(strategy):
    """Ends all workers if one fails in the block; or the others would wait for it in their first step, for ever."""
    try:
        yield
    except Exception:
        sum_over_workers(strategy, 1.0)
        raise
    if sum_over_workers(strategy, 0.0):
        raise ConnectionAbortedError("the other workers must be able to start. Received: a failure; see their output")
