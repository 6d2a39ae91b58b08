"""Initialises a model from data on one device and on two replicas, and writes its weights. Run by test_layers.py.

Two logical CPUs have to be asked for before TensorFlow starts, hence a process of its own.

Usage: python initialization.py RESULTS
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from vaezoo.models.conv_vae import ConvVAE


def make(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        flow = {"num_steps": 1, "hidden_units": (6,)}
        return ConvVAE((4, 4, 1), 3, filters=(4,), hidden_units=8, posterior="iaf", posterior_args=flow)


def weights(model, replica=0):
    """All weights as that replica has them, in one list."""
    strategy = model.distribute_strategy
    copies = [strategy.experimental_local_results(variable.value)[replica] for variable in model.variables]
    return np.concatenate([np.ravel(copy).astype("float64") for copy in copies]).tolist()


def main(path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    one, two = make(tf.distribute.get_strategy()), make(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    before = weights(one)
    images = np.random.default_rng(0).random((32, 4, 4, 1)).astype("float32")
    for model in (one, two):
        model.initialize(images)
    results = {"before": before, "one": weights(one), "replicas": [weights(two, replica) for replica in range(2)]}
    path.write_text(json.dumps(results), "utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
