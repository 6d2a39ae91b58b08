"""The parts of a data set: train, validation and test; and draws of the labels that count.

Documents are bags of words: the counts of V words, [N, V], where images are [N, H, W, C]. What is said of images holds
for them, too, unless they are told apart.
"""

import dataclasses

import numpy as np

from vaezoo import checks
from vaezoo.domains import DOMAINS_BY_RANK


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """A part of a data set: columns by name, with a row per example. It unpacks into images and labels.

    Attributes:
        images: images, [N, H, W, C] (uint8 as stored, or floats in [0, 1]); or the word counts of documents, [N, V],
            whole numbers of any type.
        labels: ints [N], -1 where unknown; or None.
        others: dict of further columns, [N, ...], for models with figures or heads of their own.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    others: dict = dataclasses.field(default_factory=dict)

    def __iter__(self):
        return iter((self.images, self.labels))

    @property
    def columns(self):
        """All columns by name: "x", the images, "label", if there are labels, and the others."""
        labels = {} if self.labels is None else {"label": self.labels}
        return {"x": self.images, **labels, **self.others}

    @classmethod
    def from_columns(cls, columns):
        """Makes a part of a dict of columns, of which "x" must be one; undoes `columns`."""
        others = {name: column for name, column in columns.items() if name not in ("x", "label")}
        return cls(columns["x"], columns.get("label"), others)

    def rows(self, index):
        """Returns the part that holds these rows, a slice or ints, of every column."""
        return ImageSet.from_columns({name: column[index] for name, column in self.columns.items()})


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

        A part is an array, or a dict of columns with a row per example: "x", the images or counts; "label", ints [N],
        -1 where unknown; and any others, which all parts must have. `test` defaults to `validation`.

        Raises:
            ValueError: an array is not as described.
        """
        parts = {"train": train, "validation": validation, "test": validation if test is None else test}
        parts = {name: _checked_columns(name, part) for name, part in parts.items()}
        names = parts["train"].keys()
        for name, part in parts.items():
            if part.keys() != names:
                raise ValueError(
                    f"`{name}` must have the columns of `train`: {', '.join(names)}. Received: {', '.join(part)}"
                )
            _check_examples(name, part["x"], parts["train"]["x"])
        if words is not None:
            words = _checked_words(words, parts["train"]["x"])
        return cls(**{name: ImageSet.from_columns(part) for name, part in parts.items()}, words=words)


def _checked_columns(name, part):
    """Returns the columns of a part, an array of examples or a dict of columns, as arrays by name."""
    if not isinstance(part, dict):
        return {"x": np.asarray(part)}
    if "x" not in part:
        raise ValueError(f"`{name}` must have a column x, the images or counts. Received: {', '.join(part) or 'none'}")
    columns = {column: np.asarray(values) for column, values in part.items()}
    if near := checks.did_you_mean("label", columns.keys() - {"label"}) if "label" not in columns else "":
        raise ValueError(f"`{name}` must call its classes `label`. Received: {near.split(chr(39))[1]}")
    for column, values in columns.items():
        if not values.ndim or len(values) != len(columns["x"]):
            raise ValueError(
                f"`{name}` must have a row per example, {len(columns['x'])}, in each column. "
                f"Received: {list(values.shape)} in {column!r}"
            )
    labels = columns.get("label")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < checks.UNKNOWN):
        received = f"{labels.dtype} {list(labels.shape)}" + (
            f" from {labels.min()}" if labels.dtype.kind in "iu" else ""
        )
        raise ValueError(f"`label` of `{name}` must be ints [N] from 0, or -1 for unknown. Received: {received}")
    return columns


def _check_examples(name, examples, training):
    """Raises `ValueError` unless examples are images or counts, of the kind and shape of the training ones."""
    if examples.ndim not in DOMAINS_BY_RANK:
        raise ValueError(
            f"`{name}` must have shape [N, H, W, C], or [N, V] of word counts. Received: {list(examples.shape)}"
        )
    if examples.ndim == 2 and examples.dtype.kind == "f" and (examples != np.floor(examples)).any():
        raise ValueError(
            f"`{name}` must hold whole numbers of at least 0, word counts, if it is [N, V]; a table of other values, "
            f"scaled to [0, 1], must be images [N, 1, V, 1], {name}[:, None, :, None]. "
            f"Received: {examples.dtype} from {examples.min():g} to {examples.max():g}"
        )
    DOMAINS_BY_RANK[training.ndim].check(name, examples, training.shape[1:])


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
        return self.train.rows(self.indices)

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
    classes = np.unique(splits.train.labels[splits.train.labels != checks.UNKNOWN])
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
