"""The half-moons of Maaloe et al. (2016), section 4.2: errors of ADGM, of M2 and of the nearest labelled point.

    python benchmarks/half_moons.py

Each draw of six labels, three of each moon, is also the seed of a training of `adgm_moons`, and of the same config for
M2, which lacks a. Printed are errors on the 10,000 test points, in %.
"""

import dataclasses
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import vaezoo
from vaezoo import data, evaluation
from vaezoo.zoo import config

SEEDS = range(10, 20)  # the settings were chosen on others


def trained_error(settings, seed, test):
    """Returns the error of a model of this config, after its last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = {"data.label_seed": seed, "train.seed": seed}
        model = vaezoo.train(settings, directory=folder, overrides=seeds, verbose=0)
    return evaluation.error_rate(model, test.images, test.labels)


def nearest_error(splits, seed):
    """Returns the error of the nearest of the six labelled points."""
    labelled = data.draw_labels(splits, 6, seed).labelled
    nearest = KNeighborsClassifier(1).fit(labelled.images.reshape(6, 2), labelled.labels)
    return 100 * np.mean(nearest.predict(splits.test.images.reshape(-1, 2)) != splits.test.labels)


def main():
    splits, adgm = data.load("moons"), config.read("adgm_moons")
    args = {key: value for key, value in adgm.model.args.items() if key != "auxiliary_dim"}
    m2 = dataclasses.replace(adgm, model=config.Model("m2", args))
    for name, error in {
        "adgm": lambda seed: trained_error(adgm, seed, splits.test),
        "m2": lambda seed: trained_error(m2, seed, splits.test),
        "nearest point": lambda seed: nearest_error(splits, seed),
    }.items():
        errors = np.array([error(seed) for seed in SEEDS])
        print(f"{name}: mean {errors.mean():.1f}, standard deviation {errors.std(ddof=1):.1f}, ", end="")
        print(f"median {np.median(errors):.1f}; {' '.join(f'{e:.1f}' for e in errors)}", flush=True)


if __name__ == "__main__":
    main()
