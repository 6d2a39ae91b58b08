"""Classifiers of features, fitted on few labels: the second half of M1 (`vaezoo.models.m1`).

D. P. Kingma, "Variational inference & deep learning" (2017), section 3.2.1 and table 3.1; T. Joachims, "Transductive
inference for text classification using support vector machines" (1999).

    features [N, D], labels [N] -> classifier; features [M, D] -> y [M]

Labels are class ids from 0, and -1 where the class is unknown, as scikit-learn's semi-supervised estimators have them.
"""

import functools

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from vaezoo import checks

C = 1.0  # the SVM's penalty of a labelled row; like gamma = 0.5, chosen on M1's validation images of MNIST
WEIGHTS = np.geomspace(1e-3, 1, 7)  # of an unlabelled row's penalty against a labelled one's, annealed
FITS_PER_WEIGHT = 2
BALANCE_TOLERANCE, MOST_BALANCE_STEPS = 1e-4, 2000


def balance(scores, proportions):
    """Sinkhorn scaling: class probabilities whose mean over the rows is as asked.

    They are softmax(scores) times one factor per class, renormalised.

    Args:
        scores: [N, K], higher for likelier classes.
        proportions: [K], positive, sum 1.

    Returns:
        [N, K]; rows sum to 1, and column means are `proportions` to a relative `BALANCE_TOLERANCE`, unless
        `MOST_BALANCE_STEPS` did not suffice.
    """
    below_best = scores - np.max(scores, axis=1, keepdims=True)
    p = np.exp(np.maximum(below_best, -500))  # positive, so that each class can win rows
    factors, masses = np.ones(p.shape[1]), len(p) * np.asarray(proportions)
    for _ in range(MOST_BALANCE_STEPS):
        excess = factors * ((1 / (p @ factors)) @ p) / masses  # [K], of the rows when normalised
        if np.abs(excess - 1).max() < BALANCE_TOLERANCE:
            break
        factors = factors / excess
    p = p * factors
    return p / p.sum(axis=1, keepdims=True)


class TransductiveSVM(ClassifierMixin, BaseEstimator):
    """A one-vs-one RBF SVM that labels the unlabelled rows itself.

    It is fitted on the labelled rows, then again and again on unlabelled rows too, with the labels that it gives them;
    their weight grows from 0.001 to 1 (Joachims's annealing). Without unlabelled rows it is `sklearn.svm.SVC`.

    Assumption: the classes are as frequent among the unlabelled rows as among the labelled ones, for the labels that it
    gives are balanced to those proportions (`balance`). As many labels of each class thus say that all classes are
    equally frequent. Predictions are not balanced.

    Departures from Joachims: kernel machines for several classes, relabelling all rows at once where he swaps pairs.

    Args:
        gamma: positive float of the kernel exp(-gamma |x - x'|^2 / V), with V the total variance of all rows, labelled
            or not: narrower kernels follow finer clusters.
        max_unlabelled: int, the unlabelled rows used at most, drawn at random; time grows with their square.
        random_state: int, `numpy.random.RandomState` or None, of that draw.

    Attributes:
        classes_: [K], the classes in order.
        svm_: the last `SVC`.
    """

    def __init__(self, gamma=0.5, max_unlabelled=4000, random_state=0):
        self.gamma = gamma
        self.max_unlabelled = max_unlabelled
        self.random_state = random_state

    def fit(self, features, labels):
        """Fits features [N, D] and labels [N], -1 where unknown; returns the estimator."""
        if checks.non_negative("gamma", self.gamma) == 0:
            raise ValueError("`gamma` must be more than 0. Received: 0")
        checks.positive_int("max_unlabelled", self.max_unlabelled)
        features, labels = check(features, labels)
        known, unknown = np.flatnonzero(labels != checks.UNKNOWN), np.flatnonzero(labels == checks.UNKNOWN)
        if len(unknown) > self.max_unlabelled:
            unknown = check_random_state(self.random_state).choice(unknown, self.max_unlabelled, replace=False)
        self.classes_, counts = np.unique(labels[known], return_counts=True)
        total_variance = features.var(axis=0).sum()
        if total_variance == 0:
            raise ValueError("`features` must vary over the rows. Received: all rows equal")
        self.svm_ = SVC(C=C, gamma=self.gamma / total_variance, break_ties=True, cache_size=500)
        self.svm_.fit(features[known], labels[known])
        for weight in np.repeat(WEIGHTS, FITS_PER_WEIGHT) if len(unknown) else ():
            scores = self.decision_function(features[unknown])
            scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores  # [U, K]
            guessed = self.classes_[balance(scores, counts / counts.sum()).argmax(axis=1)]
            self.svm_.fit(
                np.concatenate([features[known], features[unknown]]),
                np.concatenate([labels[known], guessed]),
                sample_weight=np.concatenate([np.ones(len(known)), np.full(len(unknown), weight)]),
            )
        return self

    def decision_function(self, features):
        """Returns scores [M, K], higher for likelier classes; of two classes [M], positive for the second."""
        check_is_fitted(self)
        return self.svm_.decision_function(features)

    def predict(self, features):
        """Returns the classes [M] of the highest scores."""
        check_is_fitted(self)
        return self.svm_.predict(features)


# Each name's estimator, made without arguments. Table 3.1 has "NN" and "TSVM".
CLASSIFIERS = {
    "knn": functools.partial(KNeighborsClassifier, n_neighbors=1),
    "logistic_regression": functools.partial(LogisticRegression, max_iter=1000),
    "tsvm": TransductiveSVM,
}


def fit(name, features, labels):
    """Fits the classifier of a name.

    Args:
        name: one of `CLASSIFIERS`; "tsvm" uses the unlabelled rows, the others drop them.
        features: [N, D], finite.
        labels: ints [N], class ids 0..K-1 and -1 where unknown.

    Returns:
        The fitted scikit-learn estimator.

    Raises:
        ValueError: if an argument is not as described.
    """
    checks.one_of("name", name, CLASSIFIERS)
    features, labels = check(features, labels)
    estimator = CLASSIFIERS[name]()
    rows = slice(None) if isinstance(estimator, TransductiveSVM) else labels != checks.UNKNOWN
    return estimator.fit(features[rows], labels[rows])


def check(features, labels):
    """Returns features [N, D] and labels [N] as arrays, or raises `ValueError`."""
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"`features` must be [rows, dimensions], not empty. Received shape: {list(features.shape)}")
    if features.dtype.kind not in "fiu":
        raise ValueError(f"`features` must be numbers. Received dtype: {features.dtype}")
    if not np.isfinite(features).all():
        first = [int(i) for i in np.argwhere(~np.isfinite(features))[0]]
        raise ValueError(f"`features` must hold finite values. Received: {features[tuple(first)]} at index {first}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"`labels` must have shape {[len(features)]}, one per row. Received: {list(labels.shape)}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"`labels` must be integers. Received dtype: {labels.dtype}")
    labels = labels.astype(np.int64)
    if labels.min() < checks.UNKNOWN:
        raise ValueError(f"`labels` must be class ids from 0, or -1 where unknown. Received: {labels.min()}")
    classes = np.unique(labels[labels != checks.UNKNOWN])
    if len(classes) < 2:
        raise ValueError(f"`labels` must hold at least two classes besides -1. Received: {classes.tolist()}")
    gaps = np.flatnonzero(classes != np.arange(len(classes)))
    if len(gaps):
        raise ValueError(f"`labels` must hold every class from 0 to {classes[-1]}. Received none of class {gaps[0]}")
    return features, labels
