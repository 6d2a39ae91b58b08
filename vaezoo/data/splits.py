"""The parts of a data set: train, validation and test; and draws of the labels that count.

Documents are bags of words: the counts of V words, [N, V], where images are [N, H, W, C]. What is said of images holds
for them, too, unless they are told apart.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vaezoo import checks
from vaezoo.domains import DOMAINS_BY_RANK


class ImageSet(NamedTuple):
    """Images, [N, H, W, C] (uint8 as stored, or floats in [0, 1]), and their labels, int [N], or None.

    Or the word counts of documents, [N, V], whole numbers of any type.
    """

    images: np.ndarray
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three parts of a data set: train on one, choose on another, report on the third.

    Attributes:
        words: of documents, the V words whose counts they are, as far as these are known; else None.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    words: tuple | None = dataclasses.field(default=None, kw_only=True)

    @classmethod
    def from_arrays(cls, train, validation, test=None, words=None):
        """Makes splits of images [N, H, W, C], or of word counts [N, V] and the V words, if these are known.

        `test` defaults to `validation`.
        """
        parts = {"train": train, "validation": validation, "test": validation if test is None else test}
        parts = {name: np.asarray(images) for name, images in parts.items()}
        for name, images in parts.items():
            if images.ndim not in DOMAINS_BY_RANK:
                raise ValueError(
                    f"`{name}` must have shape [N, H, W, C], or [N, V] of word counts. Received: {list(images.shape)}"
                )
            DOMAINS_BY_RANK[parts["train"].ndim].check(name, images, parts["train"].shape[1:])
        if words is not None:
            words = _checked_words(words, parts["train"])
        return cls(**{name: ImageSet(images, None) for name, images in parts.items()}, words=words)


def _checked_words(words, documents):
    """Returns V words as a tuple, if they can be those that documents, [N, V], count."""
    if np.ndim(words) != 1 or not all(isinstance(word, str) for word in words):
        received = np.asarray(words)
        raise ValueError(f"`words` must be strings, [V]. Received: {received.dtype}, {list(received.shape)}")
    if (len(words),) != documents.shape[1:]:
        raise ValueError(
            f"`words` must hold one word per count of a document. Received: {len(words)} words, and `train` of "
            f"shape {list(documents.shape)}"
        )
    words = tuple(map(str, words))
    for word in words:  # a file has them one to a line
        if len(f"{word}.".splitlines()) > 1:
            raise ValueError(f"`words` must be without line breaks. Received: {word!r}")
    return words


@dataclasses.dataclass(frozen=True)
class SemiSupervisedSplits(Splits):
    """Splits of which only some training images count as labelled; see `semi_supervised`.

    Attributes:
        indices: ints, increasing, into the training part: the images whose labels may be looked at.
    """

    indices: np.ndarray

    @property
    def labelled(self):
        """The labelled images; they are among `train`, which holds all."""
        return ImageSet(self.train.images[self.indices], self.train.labels[self.indices])

    @property
    def known_labels(self):
        """The labels of `train` as far as they may be looked at, -1 elsewhere, [N]."""
        known = np.full(len(self.train.labels), checks.UNKNOWN)
        known[self.indices] = self.train.labels[self.indices]
        return known


def draw_labels(splits, labels=100, seed=0):
    """Returns `Splits` with labels of which only some count; arguments as for `semi_supervised`."""
    if splits.train.labels is None:
        raise ValueError("`splits` must have labels to draw from. Received: none")
    classes = np.unique(splits.train.labels)
    per_class, rest = divmod(checks.positive_int("labels", labels), len(classes))
    if rest or not per_class:
        raise ValueError(f"`labels` must be a multiple of the {len(classes)} classes. Received: {labels}")
    rng, indices = np.random.default_rng(checks.non_negative_int("seed", seed)), []
    for each in classes:
        (members,) = np.nonzero(splits.train.labels == each)
        if len(members) < per_class:
            raise ValueError(
                f"`labels` must be at most {len(members) * len(classes)}: class {each} has {len(members)} images. "
                f"Received: {labels}"
            )
        indices.append(rng.permutation(members)[:per_class])
    indices = np.sort(np.concatenate(indices))
    return SemiSupervisedSplits(splits.train, splits.validation, splits.test, indices, words=splits.words)
