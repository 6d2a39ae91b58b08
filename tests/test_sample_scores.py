"""Classifier score and Frechet distance, against closed forms and plain loops; samples measured; the command line."""

import functools
import json
import math
import types

import conftest
import keras
import numpy as np
import pytest
import scipy.linalg

from vaezoo import data, files, zoo
from vaezoo.domains import COUNTS, IMAGES
from vaezoo.evaluation import image_classifier, samples
from vaezoo.evaluation.samples import classifier_score, frechet_distance


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_probabilities(rng, rows, classes):
    return rng.dirichlet(np.full(classes, 0.3), size=rows)


# The classifier score.


def test_the_score_of_equal_rows_is_1():
    assert classifier_score(np.tile([0.2, 0.5, 0.3], (20, 1))) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_the_score_of_sure_and_balanced_rows_is_the_number_of_classes():
    assert classifier_score(np.eye(7)[np.arange(70) % 7], splits=5) == pytest.approx((7.0, 0.0), abs=1e-12)


def test_the_score_of_sure_rows_is_the_perplexity_of_their_classes():
    """exp H(p(y)), with H = - sum_y p log p: a mode that is missed lowers the score."""
    p = np.array([0.5, 0.25, 0.25])
    rows = np.eye(3)[np.repeat(np.arange(3), [50, 25, 25])]
    assert classifier_score(rows, splits=1).mean == pytest.approx(math.exp(-np.sum(p * np.log(p))), rel=1e-12)


def test_the_score_equals_plain_loops(rng):
    probabilities, splits = random_probabilities(rng, 60, 4), 3
    scores = []
    for part in range(splits):
        rows = [row for index, row in enumerate(probabilities) if index % splits == part]
        marginal = [sum(row[k] for row in rows) / len(rows) for k in range(4)]
        kl = [sum(row[k] * math.log(row[k] / marginal[k]) for k in range(4)) for row in rows]
        scores.append(math.exp(sum(kl) / len(kl)))
    mean = sum(scores) / splits
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / splits)
    assert classifier_score(probabilities, splits=splits) == pytest.approx((mean, deviation), rel=1e-10)


def test_the_score_is_within_its_bounds(rng):
    for classes in (2, 5, 10):
        assert 1 < classifier_score(random_probabilities(rng, 100, classes)).mean < classes


def test_sorted_images_score_as_shuffled_ones_do():
    rows = np.eye(10)[np.repeat(np.arange(10), 100)]  # neighbours would be of one class: a score of 1
    assert classifier_score(rows).mean == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("probabilities", "splits", "message"),
    [
        (np.full((20, 2), 0.6), 10, "`probabilities` must have rows of at least 0 and of sum 1"),
        (np.tile([1.5, -0.5], (20, 1)), 10, "`probabilities` must have rows of at least 0 and of sum 1"),
        (np.full((20, 2), np.nan), 10, "`probabilities` must be finite numbers"),
        (np.ones(20), 10, r"`probabilities` must be finite numbers \[rows, columns\]. Received shape: \[20\]"),
        (np.full((9, 2), 0.5), 10, "`splits` must be at most the 9 images. Received: 10"),
        (np.full((9, 2), 0.5), 0, "`splits` must be an integer of at least 1. Received: 0"),
    ],
)
def test_what_has_no_score(probabilities, splits, message):
    with pytest.raises(ValueError, match=message):
        classifier_score(probabilities, splits)


# The Frechet distance.


def test_a_set_is_at_distance_0_from_itself_in_any_order(rng):
    features = rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8))
    assert frechet_distance(features, features[::-1]) == pytest.approx(0.0, abs=1e-12)


def test_shifted_sets_are_at_the_squared_length_of_the_shift(rng):
    features, shift = rng.normal(size=(50, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    assert frechet_distance(features, features + shift) == pytest.approx(np.sum(shift**2), rel=1e-12)


def test_diagonal_covariances(rng):
    """The sum of (s - s')^2 over the axes, for independent columns of standard deviations s and s'."""
    white = rng.normal(size=(60, 3))
    white = (white - white.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    one, other = np.array([1.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.1])
    assert frechet_distance(white * one, white * other) == pytest.approx(np.sum((one - other) ** 2), rel=1e-10)


def test_the_distance_equals_the_formula_with_a_matrix_root(rng):
    one, other = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(70, 5)) @ rng.normal(size=(5, 5))
    s, t = np.cov(one.T), np.cov(other.T)
    means = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2)
    expected = means + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_columns_that_never_vary_do_no_harm(rng):
    """Rectified features are often 0 on all images; their covariances have no root that `sqrtm` could find."""
    features = np.maximum(rng.normal(size=(50, 6)), 0)
    features[:, [1, 4]] = 0.0
    others = features + np.array([0, 2.0, 0, 0, 0, 0])
    assert frechet_distance(features, others) == pytest.approx(4.0, rel=1e-12)


def test_fewer_rows_than_columns(rng):
    """Two rows each: covariances of rank 1 along d and d', tr (S S')^(1/2) = |d d'| / 2."""
    d, other = rng.normal(size=(2, 5))
    expected = (d @ d + other @ other) / 2 - abs(d @ other)
    assert frechet_distance([d / 2, -d / 2], [other / 2, -other / 2]) == pytest.approx(expected, rel=1e-12)


def test_what_has_no_distance(rng):
    features = rng.normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"columns alike. Received shapes: \[10, 3\] and \[10, 2\]"):
        frechet_distance(features, features[:, :2])
    with pytest.raises(ValueError, match="must have two rows at least"):
        frechet_distance(features, features[:1])
    with pytest.raises(ValueError, match="`others` must be finite numbers"):
        frechet_distance(features, features + np.inf)


# A model's samples.


@pytest.fixture(scope="module")
def splits():
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(splits):
    return image_classifier.train(*splits.train, epochs=30)


@pytest.fixture
def classifier(trained):
    return image_classifier.ImageClassifier(trained)


class Copyist:
    """Draws what it has been given, over and over: a stand-in for a model whose samples are known."""

    domain = IMAGES

    def __init__(self, images):
        self.images, self.example_shape, self.at = images, images.shape[1:], 0

    def sample(self, num_samples, *, seed):
        self.at += num_samples
        return self.images[np.arange(self.at - num_samples, self.at) % len(self.images)]


def test_a_model_that_draws_the_test_images_has_their_figures(splits, classifier):
    copyist, count = Copyist(data.grey(splits.test.images)), len(splits.test.images)
    figures = samples.score_samples(copyist, classifier, splits, num_samples=count, batch_size=77)
    assert figures.classifier_score == pytest.approx(figures.test_classifier_score, rel=1e-5)
    assert figures.classifier_score_deviation == pytest.approx(figures.test_classifier_score_deviation, abs=1e-4)
    assert figures.frechet_distance == pytest.approx(0.0, abs=1e-6)
    assert figures.train_frechet_distance > 1e-3
    assert figures.classifier_error_rate == pytest.approx(classifier.error_rate(*splits.test))


def test_a_model_that_draws_one_class_has_a_score_near_1_and_is_far_from_the_test_images(splits, classifier):
    sevens = Copyist(data.grey(splits.test.images[splits.test.labels == 7]))
    figures = samples.score_samples(sevens, classifier, splits, num_samples=200)
    assert 1 < figures.classifier_score < 1.5 < figures.test_classifier_score
    assert figures.frechet_distance > 10 * figures.train_frechet_distance


def test_the_shipped_model_is_better_than_an_untrained_one(splits, classifier):
    shipped, fresh = (
        samples.score_samples(zoo.load("vae_digits", weights=weights), classifier, splits, num_samples=300)
        for weights in ("pretrained", None)
    )
    assert shipped.classifier_score > fresh.classifier_score
    assert shipped.frechet_distance < fresh.frechet_distance
    assert (shipped.num_samples, shipped.num_train_images, shipped.num_test_images) == (300, 300, 300)


def test_samples_are_a_function_of_the_seed(make_tiny):
    model = make_tiny("vae")
    one, same, other = (samples.draw(model, 11, batch_size=4, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (11, *model.example_shape)
    assert not np.array_equal(one, other)
    assert len(np.unique(one.reshape(11, -1), axis=0)) == 11  # batches have draws of their own


def test_data_without_labels_have_no_error_rate(splits, classifier):
    unlabelled = data.Splits.from_arrays(splits.train.images, splits.validation.images)
    copyist = Copyist(data.grey(splits.test.images))
    assert samples.score_samples(copyist, classifier, unlabelled, num_samples=50).classifier_error_rate is None


def test_bad_arguments(splits, classifier):
    copyist = Copyist(data.grey(splits.test.images))
    with pytest.raises(ValueError, match="`num_samples` must be at least 10. Received: 9"):
        samples.score_samples(copyist, classifier, splits, num_samples=9)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        samples.score_samples(copyist, classifier, splits, batch_size=0)
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0"):
        samples.score_samples(copyist, classifier, splits, seed=-1)
    other = types.SimpleNamespace(domain=IMAGES, example_shape=(28, 28, 1))
    with pytest.raises(
        ValueError, match=r"must take images of the model's shape \[28, 28, 1\]. Received: .*\[8, 8, 1\]"
    ):
        samples.score_samples(other, classifier, splits)
    documents = types.SimpleNamespace(domain=COUNTS, example_shape=(64,))
    with pytest.raises(ValueError, match="`model` must be a model of images. Received: SimpleNamespace of counts"):
        samples.score_samples(documents, classifier, splits)


# The command line.


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    """Holds a classifier of digits, and files that are none."""
    folder = tmp_path_factory.mktemp("scores")
    logits = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    models = {"digits": trained, "logits": keras.Sequential(logits), "large": image_classifier.build((28, 28, 1), 10)}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    (folder / "text.keras").write_text("no model")
    return folder


@pytest.fixture
def vaezoo(folder):
    """Returns a function that runs the command in that folder."""
    return functools.partial(conftest.vaezoo, cwd=folder)


def test_score_writes_a_table_and_json(vaezoo, folder, classifier, splits):
    options = ["--classifier", "digits.keras", "--num-samples", 100, "--seed", 3, "--json", "scores.json"]
    result = vaezoo("score", "vae_digits", *options)
    assert result.returncode == 0, result.stderr
    written = json.loads((folder / "scores.json").read_text())
    model = zoo.load("vae_digits")
    figures = samples.score_samples(model, classifier, splits, num_samples=100, seed=3)
    assert written["frechet_distance"] == pytest.approx(figures.frechet_distance, rel=1e-4)
    assert written["classifier_score"] == pytest.approx(figures.classifier_score, rel=1e-4)
    assert written["name"] == "vae_digits"
    assert written["classifier_sha256"] == files.sha256(folder / "digits.keras")
    assert f"{written['classifier_score']:.4f}" in result.stdout


def test_train_classifier_writes_what_it_says(vaezoo, folder, splits):
    result = vaezoo("train-classifier", "digits", "new/net.keras", "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (folder / "new").iterdir()] == ["net.keras"]
    wrong = image_classifier.load(folder / "new" / "net.keras").error_rate(*splits.test)
    assert result.stdout.splitlines()[-1] == f"new/net.keras: {wrong:.2f} % of 300 test images wrong"


def assert_one_line(result, message):
    assert result.returncode == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("vaezoo:"))
    assert message in line
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "vae_digits", "--classifier", "no.keras"], "`classifier` must be a file. Received: no.keras"),
        (["score", "vae_digits", "--classifier", "text.keras"], "`classifier` must be a whole `.keras` file"),
        (["score", "vae_digits", "--classifier", "large.keras"], "`classifier` must take images of the model's shape"),
        (["score", "vae_digits", "--classifier", "logits.keras"], "`classifier` must give probabilities, by a softmax"),
        (["train-classifier", "digits", "net.h5"], "`output` must end in .keras. Received: net.h5"),
        (["train-classifier", "digit", "net.keras"], "Did you mean 'digits'?"),
        (["train-classifier", "digits", "text.keras/net.keras"], "text.keras"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(vaezoo, folder, arguments, message):
    before = sorted(folder.rglob("*"))
    assert_one_line(vaezoo(*arguments), message)
    assert sorted(folder.rglob("*")) == before  # nothing half-written


def test_a_training_that_fails_leaves_the_file_as_it_was(vaezoo, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no memory left")

    monkeypatch.setattr(image_classifier, "train", fail)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_one_line(vaezoo("train-classifier", "digits", "digits.keras"), "no memory left")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_data_without_labels_train_no_classifier(vaezoo, splits, monkeypatch):
    unlabelled = data.Splits.from_arrays(splits.train.images, splits.validation.images)
    monkeypatch.setattr(data, "load", lambda name: unlabelled)
    message = "`data` must be a data set with labels. Received: 'pictures', which has none"
    assert_one_line(vaezoo("train-classifier", "pictures", "net.keras"), message)
