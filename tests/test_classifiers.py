"""Classifiers of features: what the transductive SVM adds to scikit-learn's, and what `fit` refuses."""

import functools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from vaezoo.evaluation import feature_classifiers
from vaezoo.evaluation.feature_classifiers import TransductiveSVM


def hide(y, per_class, seed):
    """All labels but a few of each class, drawn at random, become -1."""
    rng, labels = np.random.default_rng(seed), np.full(len(y), -1)
    for label in np.unique(y):
        rows = rng.choice(np.flatnonzero(y == label), per_class, replace=False)
        labels[rows] = label
    return labels


def clusters(seed, num_classes=4, rows=200, std=1.0):
    """Rows of equally frequent classes [N, 5], the classes, and labels that know 3 of each."""
    centres = np.random.default_rng(3).normal(size=(num_classes, 5), scale=2.0)
    x, y = make_blobs(rows, centers=centres, cluster_std=std, random_state=seed)
    return x, y, hide(y, 3, seed)


def plain_svc(x, labels, variance_of, gamma=0.5):
    """The `SVC` that the docstring names, written apart."""
    gamma = gamma / (x.shape[1] * np.mean(np.var(variance_of, axis=0)))
    return SVC(C=1, gamma=gamma, break_ties=True).fit(x[labels >= 0], labels[labels >= 0])


@pytest.mark.parametrize("proportions", [[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4], [0.01, 0.01, 0.49, 0.49]])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
def test_a_balanced_assignment_has_the_asked_proportions(proportions, scale):
    scores = scale * np.random.default_rng(0).normal(size=(1000, 4)) + [0, 0, 1, 3]  # the last class wins most rows
    p = feature_classifiers.balance(scores, np.array(proportions))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(p.mean(axis=0), proportions, rtol=2 * feature_classifiers.BALANCE_TOLERANCE)


def test_a_balanced_assignment_is_softmax_times_a_factor_per_class():
    """Ratios of two rows' odds, which factors per class and row can't change, are the scores'."""
    scores = np.random.default_rng(1).normal(size=(50, 3))
    log_p = np.log(feature_classifiers.balance(scores, np.array([0.2, 0.3, 0.5])))

    def log_odds_ratios(log_values):
        odds = log_values - log_values[:, :1]
        return odds - odds[:1]

    np.testing.assert_allclose(log_odds_ratios(log_p), log_odds_ratios(scores), atol=1e-9)


def test_balancing_ignores_what_all_classes_or_all_rows_share():
    rng, proportions = np.random.default_rng(2), np.array([0.5, 0.3, 0.2])
    scores = rng.normal(size=(200, 3))
    p = feature_classifiers.balance(scores, proportions)
    shifted = feature_classifiers.balance(scores + 100 * rng.normal(size=(200, 1)) + [1, 0, -1], proportions)
    np.testing.assert_allclose(shifted, p, atol=2e-3)
    np.testing.assert_allclose(
        feature_classifiers.balance(np.zeros((10, 3)), proportions), np.tile(proportions, (10, 1))
    )


def test_balancing_survives_scores_of_any_size():
    scores = 1e6 * np.random.default_rng(2).normal(size=(200, 3))
    p = feature_classifiers.balance(scores, np.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    p = feature_classifiers.balance([[1e6, 0], [1e6, 0], [1e6 + 1, 0], [1e6 + 2, 0]], np.array([0.5, 0.5]))
    np.testing.assert_allclose(p.mean(axis=0), 0.5, rtol=2e-4)  # a class that no row would choose


def test_balanced_labels_of_clusters_find_the_cluster_sizes():
    """Scores so biased that one class wins every row: the asked proportions put the border back."""
    y = np.repeat([0, 1, 2], [50, 30, 20])
    scores = 10 * np.eye(3)[y] + [0, 0, 40]
    assert (scores.argmax(axis=1) == 2).all()
    np.testing.assert_array_equal(feature_classifiers.balance(scores, np.array([0.5, 0.3, 0.2])).argmax(axis=1), y)


def mean_errors(make, gamma=0.5):
    """Of `SVC` and `TransductiveSVM`, over ten draws, on the same labels; rows that neither has seen."""
    errors = []
    for seed in range(10):
        x, _, labels = make(seed)
        x_new, y_new, _ = make(seed + 1000)
        svc, tsvm = plain_svc(x, labels, x, gamma), TransductiveSVM(gamma).fit(x, labels)
        errors.append([np.mean(machine.predict(x_new) != y_new) for machine in (svc, tsvm)])
    return np.mean(errors, axis=0)


def test_unlabelled_rows_help_on_clusters():
    svc, tsvm = mean_errors(functools.partial(clusters, rows=400))
    assert tsvm < 0.6 * svc


def test_unlabelled_rows_help_on_half_moons():
    def moons(seed):
        x, y = make_moons(200, noise=0.1, random_state=seed)
        return x, y, hide(y, 3, seed)

    svc, tsvm = mean_errors(moons, gamma=10)
    assert tsvm < svc / 2


def test_without_unlabelled_rows_it_is_the_svc():
    x, y, _ = clusters(0, std=3.0)
    svc, tsvm = plain_svc(x, y, variance_of=x), TransductiveSVM().fit(x, y)
    np.testing.assert_array_equal(tsvm.predict(x), svc.predict(x))
    np.testing.assert_array_equal(tsvm.decision_function(x), svc.decision_function(x))
    np.testing.assert_array_equal(tsvm.classes_, svc.classes_)


@pytest.mark.parametrize("num_classes", [2, 6])
def test_predictions_are_the_classes_of_the_highest_scores(num_classes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(num_classes, size=200)  # noise, so one-vs-one votes tie
    tsvm = TransductiveSVM().fit(x, hide(y, 5, 0))
    scores = tsvm.decision_function(x)
    assert scores.shape == ((200,) if num_classes == 2 else (200, 6))
    best = (scores > 0).astype(int) if num_classes == 2 else scores.argmax(axis=1)
    np.testing.assert_array_equal(tsvm.predict(x), tsvm.classes_[best])
    assert tsvm.score(x, y) == np.mean(tsvm.predict(x) == y)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_one_relabelling_keeps_what_the_svc_has_right(num_classes, monkeypatch):
    """Guesses with their classes mixed up would win: their weight is that of labels, and they are many."""
    monkeypatch.setattr(feature_classifiers, "WEIGHTS", [1.0])
    monkeypatch.setattr(feature_classifiers, "FITS_PER_WEIGHT", 1)
    x, y, labels = clusters(0, num_classes, std=0.3)
    np.testing.assert_array_equal(plain_svc(x, labels, variance_of=x).predict(x), y)
    np.testing.assert_array_equal(TransductiveSVM().fit(x, labels).predict(x), y)


@pytest.mark.parametrize("seed", range(3))
def test_renaming_the_classes_renames_the_predictions(seed):
    x, _, labels = clusters(seed, std=1.5)
    new_names = np.array([2, 0, 3, 1, -1])  # -1 stays
    predictions = TransductiveSVM().fit(x, labels).predict(x)
    renamed = TransductiveSVM().fit(x, new_names[labels]).predict(x)
    assert np.mean(renamed == new_names[predictions]) > 0.99  # libsvm's solution has a tolerance


def test_the_weight_of_guesses_grows_geometrically_and_that_of_labels_stays(monkeypatch):
    weights, original = [], SVC.fit

    def fit(self, x, y, sample_weight=None):
        weights.append(sample_weight)
        return original(self, x, y, sample_weight)

    monkeypatch.setattr(SVC, "fit", fit)
    x, _, labels = clusters(0)
    TransductiveSVM().fit(x, labels)
    assert weights.pop(0) is None  # the labelled rows alone
    weights = np.array(weights)  # [fits, labelled rows, then guesses]
    assert (weights[:, :12] == 1).all()
    np.testing.assert_allclose(np.log10(weights[::2, 12:]), np.tile(np.linspace(-3, 0, 7)[:, None], 188), atol=1e-12)
    np.testing.assert_array_equal(weights[1::2], weights[::2])


def test_labelled_proportions_decide_those_of_the_guesses():
    """One broad cluster: three times as many labels of a class draw about three times as many rows to it."""
    x = np.random.default_rng(0).uniform(size=(600, 1))
    labels = np.full(600, -1)
    order = x[:, 0].argsort()
    labels[order[:6]], labels[order[-2:]] = 0, 1
    assert np.mean(TransductiveSVM().fit(x, labels).predict(x) == 0) == pytest.approx(0.75, abs=0.03)


def test_random_state_decides_the_rows_used():
    x, _, labels = clusters(0, std=3.0)
    scores = [
        TransductiveSVM(max_unlabelled=40, random_state=seed).fit(x, labels).decision_function(x) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 0.1


def test_rows_beyond_max_unlabelled_count_for_the_kernel_width_only():
    x, _, labels = clusters(0)
    tsvm = TransductiveSVM(max_unlabelled=25).fit(x, labels)
    assert tsvm.svm_.shape_fit_ == (12 + 25, 5)
    assert tsvm.svm_.gamma == pytest.approx(0.5 / np.trace(np.cov(x.T, bias=True)))


def test_it_is_a_scikit_learn_estimator():
    tsvm = TransductiveSVM(gamma=2.0, max_unlabelled=7, random_state=3)
    assert tsvm.get_params() == {"gamma": 2.0, "max_unlabelled": 7, "random_state": 3}
    assert clone(tsvm).get_params() == tsvm.get_params()
    assert TransductiveSVM().set_params(**tsvm.get_params()).get_params() == tsvm.get_params()
    with pytest.raises(NotFittedError):
        tsvm.predict(np.zeros((2, 3)))
    with pytest.raises(NotFittedError):
        tsvm.decision_function(np.zeros((2, 3)))


def test_fit_drops_unlabelled_rows_where_they_are_of_no_use():
    x, _, labels = clusters(0, std=3.0)
    known = labels >= 0
    oracles = {
        "knn": KNeighborsClassifier(1).fit(x[known], labels[known]),
        "logistic_regression": LogisticRegression(max_iter=1000).fit(x[known], labels[known]),
        "tsvm": TransductiveSVM().fit(x, labels),
    }
    assert set(oracles) == set(feature_classifiers.CLASSIFIERS)
    for name, oracle in oracles.items():
        np.testing.assert_array_equal(feature_classifiers.fit(name, x, labels).predict(x), oracle.predict(x))


X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 2, -1, -1, -1])
POISONED = np.where(X == 7, np.nan, X)
REFUSED = {
    "name": ("svm", X, Y, "`name` must be one of: knn, logistic_regression, tsvm. Received: 'svm'"),
    "one dimension": ("knn", X[0], Y, "`features` must be [rows, dimensions], not empty. Received shape: [2]"),
    "no row": ("knn", X[:0], Y[:0], "`features` must be [rows, dimensions], not empty. Received shape: [0, 2]"),
    "dtype": ("knn", X.astype(str), Y, "`features` must be numbers. Received dtype: <U32"),
    "nan": ("knn", POISONED, Y, "`features` must hold finite values. Received: nan at index [3, 1]"),
    "lengths": ("knn", X, Y[:5], "`labels` must have shape [6], one per row. Received: [5]"),
    "one-hot": ("knn", X, np.eye(6), "`labels` must have shape [6], one per row. Received: [6, 6]"),
    "floats": ("knn", X, Y * 1.0, "`labels` must be integers. Received dtype: float64"),
    "below": ("knn", X, Y - 1, "`labels` must be class ids from 0, or -1 where unknown. Received: -2"),
    "none": ("knn", X, Y * 0 - 1, "`labels` must hold at least two classes besides -1. Received: []"),
    "single": ("knn", X, np.minimum(Y, 0), "`labels` must hold at least two classes besides -1. Received: [0]"),
    "missing": (
        "knn",
        X,
        np.where(Y == 1, -1, Y),
        "`labels` must hold every class from 0 to 2. Received none of class 1",
    ),
    "uint8": ("knn", X, Y.astype(np.uint8), "`labels` must hold every class from 0 to 255. Received none of class 3"),
    "constant": ("tsvm", X * 0, Y, "`features` must vary over the rows. Received: all rows equal"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_say_what_was_expected_and_received(case):
    name, features, labels, message = REFUSED[case]
    with pytest.raises(ValueError) as error:
        feature_classifiers.fit(name, features, labels)
    assert str(error.value).startswith(message)
    if name == "knn":  # the estimator by itself refuses the same
        with pytest.raises(ValueError) as error:
            TransductiveSVM().fit(features, labels)
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"max_unlabelled": 0}, "`max_unlabelled` must be an integer of at least 1. Received: 0"),
        ({"gamma": 0}, "`gamma` must be more than 0. Received: 0"),
        ({"gamma": "scale"}, "`gamma` must be a finite number of at least 0. Received: 'scale'"),
    ],
)
def test_arguments_of_the_estimator_are_checked(argument, message):
    with pytest.raises(ValueError) as error:
        TransductiveSVM(**argument).fit(X, Y)
    assert str(error.value) == message
