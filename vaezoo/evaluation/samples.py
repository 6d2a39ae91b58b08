"""What a model's samples are worth to a classifier of images: are they like the data, and are all classes there?

Two figures, both after published ones whose network was Inception. Here it is any classifier (`image_classifier`), so
they have other names, and are comparable only under the same classifier.

    samples [N, H, W, C] -> classifier -> p(y | x) [N, K] -> classifier score, in [1, K], higher is better
                                       -> features [N, F] -> Frechet distance from those of test images, lower is better

T. Salimans et al., "Improved techniques for training GANs" (2016), section 4; M. Heusel et al., "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium" (2017), eq. (6).
"""

import dataclasses
import math
import time
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from vaezoo import checks, data
from vaezoo.base.contracts import require_pictures
from vaezoo.evaluation.image_classifier import error_rate
from vaezoo.numerics import batched

SPLITS = 10  # as Salimans et al. have them


class ClassifierScore(NamedTuple):
    """Mean and standard deviation of the classifier score over disjoint parts of the images."""

    mean: float
    standard_deviation: float


def classifier_score(probabilities, splits=SPLITS):
    """Returns the `ClassifierScore`, exp(E_x KL(p(y | x) || p(y))) with p(y) = E_x p(y | x).

    This is the formula of the inception score, and not that score: the classifier is another one. It is 1 if all
    images look alike to the classifier, and K if it is sure of each and all classes are equally frequent. It does not
    see whether the images of a class differ, nor whether they are like the data.

    Args:
        probabilities: p(y | x), one row per image, [N, K].
        splits: int, the parts, each with a p(y) of its own. Part i takes rows i, i + splits, ..., where Salimans et al.
            take neighbours: to independent samples that is the same, and images may be sorted.

    Raises:
        ValueError: rows are not probabilities, or fewer than the parts.
    """
    probabilities = _matrix("probabilities", probabilities)
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1.0).max() > 1e-4:
        raise ValueError("`probabilities` must have rows of at least 0 and of sum 1. Received: others")
    if checks.positive_int("splits", splits) > len(probabilities):
        raise ValueError(f"`splits` must be at most the {len(probabilities)} images. Received: {splits}")
    scores = []
    for first in range(splits):
        part = probabilities[first::splits]  # [M, K]
        kl = rel_entr(part, part.mean(axis=0)).sum(axis=1)  # [M]; where p(y | x) is 0 its term is 0
        scores.append(np.exp(kl.mean()))
    return ClassifierScore(float(np.mean(scores)), float(np.std(scores)))


def frechet_distance(features, others):
    """Returns the squared Frechet distance of the two Gaussians that have the sets' means and covariances.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), Heusel et al. (2017), eq. (6): FID's formula, without its network. With
    S = A' A and S' = B' B, the trace of the root is the sum of the singular values of A B', which no rounding makes
    complex. It is biased upwards by about 1 / N: compare only sets of equal sizes.

    Args:
        features: one row per image, [N, F], N at least 2.
        others: of other images, [M, F].

    Raises:
        ValueError: if an argument is not as described.
    """
    sets = _matrix("features", features), _matrix("others", others)
    if sets[0].shape[1] != sets[1].shape[1] or min(map(len, sets)) < 2:
        raise ValueError(
            "`features` and `others` must have two rows at least, and columns alike. "
            f"Received shapes: {list(sets[0].shape)} and {list(sets[1].shape)}"
        )
    means = [rows.mean(axis=0) for rows in sets]  # [F] each
    scaled = [(rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip(sets, means, strict=True)]
    roots = [np.linalg.qr(rows, mode="r") for rows in scaled]  # [<= F, F] each
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False)
    distance = np.square(means[0] - means[1]).sum() + sum(np.square(root).sum() for root in roots) - 2 * cross.sum()
    return max(0.0, float(distance))  # equal sets differ by rounding


def _matrix(name, values):
    """Returns values as float64 [N, columns], or raises `ValueError`."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite numbers [rows, columns]. Received shape: {list(values.shape)}")
    return values


@dataclasses.dataclass(frozen=True)
class SampleScores:
    """Figures of a model's samples, and those of real images beside them; comparable under the same classifier only."""

    num_samples: int
    num_classes: int
    classifier_score: float  # in [1, num_classes]
    classifier_score_deviation: float  # standard deviation over `SPLITS` parts of the samples
    frechet_distance: float  # of the samples from the test images
    num_test_images: int
    test_classifier_score: float
    test_classifier_score_deviation: float
    num_train_images: int
    train_frechet_distance: float  # of as many training images as samples from the test images: what a copy would have
    classifier_error_rate: float | None  # %, of the test images, where they have labels
    seconds: float


def draw(model, num_samples, *, batch_size=500, seed=0):
    """Returns `model.sample`, E[x | z] for z from the prior, in batches: floats in [0, 1], [num_samples, H, W, C]."""
    seeds = np.random.default_rng(seed).integers(2**31 - 1, size=math.ceil(num_samples / batch_size))

    def drawn(rows):
        return model.sample(len(rows), seed=int(seeds[rows.start // batch_size]))

    return batched(drawn, range(num_samples), batch_size)


def score_samples(model, classifier, splits, *, num_samples=10_000, batch_size=500, seed=0):
    """Measures a model's samples against real images, as they are stored (grey, whatever the model was trained on).

    Args:
        model: a `LatentVariableModel`.
        classifier: a `vaezoo.evaluation.image_classifier.ImageClassifier` of such images.
        splits: `vaezoo.data.Splits`.
        num_samples: int, at least `SPLITS`.
        batch_size: samples at once.
        seed: int, of the samples, and of the choice of training images.

    Returns:
        `SampleScores`.
    """
    if checks.positive_int("num_samples", num_samples) < SPLITS:
        raise ValueError(f"`num_samples` must be at least {SPLITS}. Received: {num_samples}")
    checks.positive_int("batch_size", batch_size)
    checks.non_negative_int("seed", seed)
    require_pictures(model)
    if classifier.image_shape != model.example_shape:
        raise ValueError(
            f"`classifier` must take images of the model's shape {list(model.example_shape)}. "
            f"Received: one of {list(classifier.image_shape)}"
        )
    start = time.perf_counter()
    chosen = np.random.default_rng(seed).permutation(len(splits.train.images))[:num_samples]
    samples = classifier.predict(draw(model, num_samples, batch_size=batch_size, seed=seed))
    real = splits.test.images, splits.train.images[chosen]
    test, train = (classifier.predict(data.grey(images)) for images in real)
    score, test_score = classifier_score(samples.probabilities), classifier_score(test.probabilities)
    labels = splits.test.labels
    return SampleScores(
        num_samples=num_samples,
        num_classes=classifier.num_classes,
        classifier_score=score.mean,
        classifier_score_deviation=score.standard_deviation,
        frechet_distance=frechet_distance(samples.features, test.features),
        num_test_images=len(splits.test.images),
        test_classifier_score=test_score.mean,
        test_classifier_score_deviation=test_score.standard_deviation,
        num_train_images=len(chosen),
        train_frechet_distance=frechet_distance(train.features, test.features),
        classifier_error_rate=None if labels is None else error_rate(test.probabilities, labels),
        seconds=round(time.perf_counter() - start, 1),
    )
