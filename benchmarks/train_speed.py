"""Training speed of `model.fit` against hand-written loops and, where it is installed, pythae: ratios of one run.

    python benchmarks/train_speed.py [--peer-python PATH]

The work is the same for all: an MLP VAE 784-500-20 with tanh, batch 100, Adam, binary 28x28 images in memory, reading
them included. The contestants take turns, so that a machine that slows down slows them all; the ratio printed is the
median of the rounds' ratios. `--peer-python` is an interpreter that has torch and pythae (default: this one).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from vaezoo.models import VAE

BATCH, IMAGES, ROUNDS = 100, 20_000, 7


def fit_epoch(images):
    """`fit` with the settings of the zoo's MLPs: XLA, and 50 steps in a call."""
    model = VAE((28, 28, 1), latent_dim=20, hidden_units=(500,))
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True, steps_per_execution=50)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(BATCH).prefetch(2)
    return lambda: model.fit(dataset, verbose=0)


def loop_epoch(images, jit_compile):
    """The loop that one would write by hand: plain layers, closed-form KL, one `tf.function` a step."""
    encoder = keras.Sequential([keras.Input((784,)), keras.layers.Dense(500, "tanh"), keras.layers.Dense(40)])
    decoder = keras.Sequential([keras.Input((20,)), keras.layers.Dense(500, "tanh"), keras.layers.Dense(784)])
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)
    dataset = tf.data.Dataset.from_tensor_slices(images.reshape(-1, 784)).batch(BATCH).prefetch(2)

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            loc, log_scale = tf.split(encoder(x), 2, axis=-1)
            z = loc + tf.exp(log_scale) * tf.random.normal(tf.shape(loc))
            log_lik = -tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=decoder(z))
            kl = 0.5 * tf.reduce_sum(loc**2 + tf.exp(2 * log_scale) - 1 - 2 * log_scale, -1)
            loss = tf.reduce_mean(kl - tf.reduce_sum(log_lik, -1))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def epoch():
        for x in dataset:
            loss = step(x)
        return float(loss)

    return epoch


def peer_epoch(python):
    """pythae, in a process of its own that trains one epoch per line it reads and answers with its seconds."""
    script = pathlib.Path(__file__).with_name("peer_pythae.py")
    process = subprocess.Popen([python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "ready":
        return None

    def epoch():
        process.stdin.write("epoch\n")
        process.stdin.flush()
        process.stdout.readline()

    return epoch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    args = parser.parse_args()
    images = (np.random.default_rng(0).random((IMAGES, 28, 28, 1)) > 0.5).astype("float32")
    contestants = {
        "fit": fit_epoch(images),
        "loop": loop_epoch(images, jit_compile=False),
        "loop_xla": loop_epoch(images, jit_compile=True),
    }
    if peer := peer_epoch(args.peer_python):
        contestants["pythae"] = peer
    speeds = {name: [] for name in contestants}
    for epoch in contestants.values():
        epoch()  # traces, compiles, warms up
    for _ in range(ROUNDS):
        for name, epoch in contestants.items():
            start = time.perf_counter()
            epoch()
            speeds[name].append(IMAGES / (time.perf_counter() - start))
    ratios = {
        f"fit / {name}": [ours / theirs for ours, theirs in zip(speeds["fit"], values, strict=True)]
        for name, values in speeds.items()
        if name != "fit"
    }
    summary = {name: round(statistics.median(values)) for name, values in speeds.items()}
    print("images/s, median of", ROUNDS, "rounds:", json.dumps(summary))
    for name, values in ratios.items():
        print(f"{name}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")
    if "pythae" not in contestants:
        print("pythae: not installed for", args.peer_python)


if __name__ == "__main__":
    main()
