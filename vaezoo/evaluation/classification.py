"""Error rates of models with classes, and of classifiers of features."""

import numpy as np

from vaezoo import checks
from vaezoo.base import figures
from vaezoo.base.contracts import require


def error_rate(model, images, labels):
    """Returns the % of images [N, H, W, C] whose most probable class, by `model.predict_proba`, is not their label.

    Labels of -1 are unknown, and do not count.
    """
    return figures.error_rate(model.predict_proba(images), labels)


def feature_error_rate(m1, splits, classifier):
    """Returns the % of test images that a classifier of an `M1`'s features gets wrong.

    Args:
        m1: an `M1`.
        splits: `vaezoo.data.SemiSupervisedSplits`; the classifier sees the features of all training images, and the
            labels of the labelled ones.
        classifier: a name in `vaezoo.classifiers.CLASSIFIERS`.
    """
    from vaezoo.evaluation import feature_classifiers

    require(m1, "classifier_features")
    checks.one_of("classifier", classifier, feature_classifiers.CLASSIFIERS)
    fitted = feature_classifiers.fit(classifier, m1.classifier_features(splits.train.images), splits.known_labels)
    return 100.0 * float(np.mean(fitted.predict(m1.classifier_features(splits.test.images)) != splits.test.labels))
