"""What a training step costs against the particles M of a Stein VAE, its groups k, and particles of weights P.

    python benchmarks/particles.py

The model of `stein_vae_mnist`, 100 binary 28x28 images a step, compiled by XLA. The contestants take turns; printed is
the median over the rounds of each one's time against that of a Gaussian VAE of the same nets with 5 samples.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from vaezoo.models import VAE, SteinVAE
from vaezoo.objectives import ELBO, Stein

ROUNDS, STEPS = 7, 3
SIZES = dict(image_shape=(28, 28, 1), latent_dim=50, hidden_units=(200, 200))


def make_step(model, objective):
    """Returns a function that takes one step."""
    model.compile("adam", objective)
    x = tf.constant(np.random.default_rng(0).integers(2, size=(100, 28, 28, 1)).astype("float32"))
    step = tf.function(lambda: model.train_step(x)["loss"], jit_compile=True)
    step()
    return step


def main():
    """Measures and prints."""
    contestants = {"Gaussian VAE, 5 samples": make_step(VAE(**SIZES), ELBO(5))}
    for particles in (5, 10, 20, 50):
        contestants[f"Stein, M = {particles}"] = make_step(SteinVAE(**SIZES), Stein(particles))
    for groups in (2, 4):
        contestants[f"VIWAE, M = 5, k = {groups}"] = make_step(SteinVAE(**SIZES), Stein(5, importance_samples=groups))
    for weights in (2, 4):
        model = SteinVAE(**SIZES, weight_particles=weights)
        contestants[f"Stein, M = 5, P = {weights}"] = make_step(model, Stein(5, num_examples=55_000))
    rounds = []
    for _ in range(ROUNDS):
        seconds = {}
        for name, step in contestants.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                float(step())
            seconds[name] = (time.perf_counter() - start) / STEPS
        first = next(iter(seconds.values()))
        rounds.append({name: value / first for name, value in seconds.items()})
    for name in contestants:
        print(f"{name:26} {statistics.median(each[name] for each in rounds):6.2f}")


if __name__ == "__main__":
    main()
