"""Images by name, split, transformed and batched: TFDS sets, scikit-learn's digits (embedded), or arrays.

And documents, as bags of words: the counts of V words, [N, V], where images are [N, H, W, C]. What this file says of
images holds for them, too, unless they are told apart.

A set is held once, as it is stored (uint8), and batches are gathered from it: the order of epoch e and the noise of
step s are functions of (seed, e) and (seed, s), so a run can be resumed at any step.
"""

import dataclasses
import pathlib
import socket
import urllib.request
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.domains import COUNTS, IMAGES

# Dynamic binarization of a test set is part of the test set: drawn once, from this seed, for every model and run.
TEST_SEED = 20_170_425
MOONS_NOISE = 0.1  # standard deviation; the paper gives none, its authors' loader 0.2, at which the moons overlap
MAX_WORDS = 2_000  # of 20 Newsgroups: Pu (2018), section 4.5.2
HELD_OUT = 1_000  # documents or images from the end of train, for validation, of a set without a part for it
MAX_BYTES = 8 * 2**30  # a set is read into memory; what is larger needs a pipeline of the user's own


class DataNotPreparedError(OSError):
    """A set is neither prepared nor can it be downloaded."""


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


def semi_supervised(name, labels=100, seed=0):
    """Returns the `SemiSupervisedSplits` of a data set: as many labels of each class, drawn by a seed.

    The indices are a function of the training part's labels, `labels` and `seed` only: `PCG64(seed)` permutes the
    indices of each class in turn, and the first labels / K of each count.

    Args:
        name: as for `load`.
        labels: how many, a multiple of the number of classes.
        seed: int, of the draw.

    Raises:
        DataNotPreparedError, ValueError: as for `load`; or the set has no labels, or not so many of each class.
    """
    return draw_labels(load(name), labels, seed)


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


# TFDS sets and the parts of them that serve as train, validation and test.
#   MNIST and CIFAR-10 have no validation part: the last images of train serve.
#   Frey's frames follow each other in time and neighbours are nearly equal, so the parts are contiguous.
#   SVHN's extra images belong to the training ones, as in Maaloe et al. (2016).
TFDS_SPLITS = {
    "mnist": ("train[:55000]", "train[55000:]", "test"),
    "fashion_mnist": ("train[:55000]", "train[55000:]", "test"),
    "cifar10": ("train[:45000]", "train[45000:]", "test"),
    "binarized_mnist": ("train", "validation", "test"),
    "frey_face": ("train[:1600]", "train[1600:1765]", "train[1765:]"),
    "svhn_cropped": ("train[:72257]+extra", "train[72257:]", "test"),
    "smallnorb": ("train[:21870]", "train[21870:]", "test"),
}
EMBEDDED = ("digits", "moons")
NEWSGROUPS = "20newsgroups"
NAMES = (*EMBEDDED, NEWSGROUPS, *TFDS_SPLITS)
ARRAYS = "arrays"  # what a run on arrays has for the name of its data


def load(name):
    """Returns the `Splits` of a data set.

    Args:
        name: one of `EMBEDDED`, `NEWSGROUPS`, a key of `TFDS_SPLITS`, or any other TFDS image set. Of the last, the
            parts called train, validation and test are used; what is missing is cut from the end of train, a tenth
            each. Or the path of a file of arrays that ends in .npz, see `read_npz`.

    Raises:
        DataNotPreparedError: the set is not prepared, and can't be downloaded.
        FileNotFoundError: the path does not exist.
        ValueError: there is no such set, it has no images of one size, or it does not fit into memory.
    """
    if str(name).endswith(".npz"):
        return read_npz(name)
    if name == ARRAYS:
        raise ValueError("`data name` must be one that can be read again. Received: 'arrays', which the caller had")
    scikit_learns = {"digits": _digits, "moons": _moons, NEWSGROUPS: _newsgroups}
    return scikit_learns[name]() if name in scikit_learns else _tfds(name)


def read_npz(path):
    """Returns the `Splits` of a file that `numpy.savez` or `savez_compressed` wrote.

    Its arrays are `train` and `test`: images [N, H, W, C], uint8 or floats in [0, 1], or word counts [N, V], whole
    numbers of any type; `validation`, without which the last 1,000 of train serve; and, of documents, the V `words`,
    strings, if they are known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is none of numpy's, or its arrays are not as described.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`data name` must be a file, if it ends in .npz. Received: {path}, which is none")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a truncated zip, a bad header, pickled objects: each has its own
        raise ValueError(f"`{path}` must be a file of numpy's savez. Received: {error}") from None
    legal = {"train", "validation", "test", "words"}
    if not {"train", "test"} <= arrays.keys() <= legal:
        raise ValueError(
            f"`{path}` must hold the arrays train and test, and may hold validation and words. "
            f"Received: {', '.join(sorted(arrays)) or 'none'}"
        )
    if "validation" not in arrays:
        if arrays["train"].ndim == 0 or len(arrays["train"]) <= HELD_OUT:
            raise ValueError(
                f"`train` of {path} must hold more than {HELD_OUT} rows, or validation must be given: the last "
                f"{HELD_OUT} serve. Received: {list(arrays['train'].shape)}"
            )
        arrays["train"], arrays["validation"] = np.split(arrays["train"], [-HELD_OUT])
    return Splits.from_arrays(**arrays)


def _newsgroups():
    """20 Newsgroups: counts of the 2,000 most frequent words of the training posts, stop words apart; 20 labels.

    A word is two letters or more. Headers, footers and quotes, which name the group, are left out, and then the posts
    without a word.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    parts = [_fetch_newsgroups(part) for part in ("train", "test")]
    vectorizer = CountVectorizer(
        max_features=MAX_WORDS, stop_words="english", token_pattern=r"\b[a-z]{2,}\b", dtype=np.uint16
    )
    vectorizer.fit(parts[0].data)
    sets = []
    for part in parts:
        counts = vectorizer.transform(part.data).toarray()  # [N, V]
        some = counts.any(axis=1)
        sets.append(ImageSet(counts[some], part.target[some]))
    train, test = sets
    columns = [np.split(column, [-HELD_OUT]) for column in train]  # of counts, of labels
    train, validation = (ImageSet(*part) for part in zip(*columns, strict=True))
    return Splits(train, validation, test, words=tuple(vectorizer.get_feature_names_out()))


def _fetch_newsgroups(part):
    """Returns the posts of a part and their groups, in scikit-learn's order, from its cache or the network."""
    from sklearn.datasets import fetch_20newsgroups, get_data_home

    settings = {"subset": part, "remove": ("headers", "footers", "quotes")}
    try:
        return fetch_20newsgroups(**settings, download_if_missing=False)
    except OSError:  # it is not in the cache
        pass
    try:
        _require_network("ndownloader.figshare.com")
        return fetch_20newsgroups(**settings)
    except Exception as error:
        raise DataNotPreparedError(
            f"data set {NEWSGROUPS!r} must be prepared. Looked for {get_data_home()}; it is not there, and "
            f"downloading it failed: {_reason(error)}. Three ways out: (1) call "
            "sklearn.datasets.fetch_20newsgroups(subset='all') where there is a network, and copy the folder; "
            "(2) set SCIKIT_LEARN_DATA to a folder that holds it; (3) use documents of your own: --data PATH.npz, with "
            "the arrays train and test [N, V], and words [V]"
        ) from error


def _moons():
    """Two interleaving half-moons with Gaussian noise, section 4.2 of Maaloe et al. (2016): 10,000 points each.

    A point is an image of two pixels, [1, 2, 1]: (x + 2) / 5 and (y + 2) / 5, which are in [0, 1] for any noise met.
    """
    from sklearn.datasets import make_moons

    parts = []
    for seed, size in enumerate((10_000, 1_000, 10_000)):
        points, labels = make_moons(size, noise=MOONS_NOISE, random_state=seed)
        parts.append(ImageSet(((points + 2.0) / 5.0).reshape(-1, 1, 2, 1).astype(np.float32), labels))
    return Splits(*parts)


def _digits():
    """scikit-learn's 1797 handwritten digits, 8x8 with 17 grey levels, in an order shuffled once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))  # the set is sorted by writer
    images = np.round(digits.images[order] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target[order]
    parts = [
        ImageSet(x, y) for x, y in zip(np.split(images, [1297, 1497]), np.split(labels, [1297, 1497]), strict=True)
    ]
    return Splits(*parts)


def _tfds(name):
    import tensorflow_datasets as tfds

    import vaezoo.frey_face  # noqa: F401  registers the builder

    try:
        builder = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        known = sorted({*NAMES, *tfds.list_builders()})
        checks.one_of("data name", name, known)
        raise  # TFDS knows the name, so the trouble is another one
    if "image" not in (builder.info.features or {}):
        raise ValueError(f"`data name` must be a set of images. Received: {name!r}, with {builder.info.features}")
    shape = builder.info.features["image"].shape
    if None in shape:
        raise ValueError(f"`data name` must be a set of images of one size. Received: {name!r}, of shape {shape}")
    _prepare(builder)
    parts = TFDS_SPLITS.get(name) or _default_splits(set(builder.info.splits))
    size = sum(builder.info.splits[part].num_examples for part in parts) * int(np.prod(shape))
    if size > MAX_BYTES:
        raise ValueError(
            f"`data name` must be a set of at most {MAX_BYTES} bytes, which are held in memory. Received: {name!r}, "
            f"{size} bytes; read it with tfds.load(...) and give `model.fit` the tf.data.Dataset"
        )
    return Splits(*(_read(builder, part) for part in parts))


def _prepare(builder):
    """Downloads and prepares a set, unless that was done before."""
    if builder.data_path.exists():
        return
    try:
        if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            _require_network("storage.googleapis.com")
        builder.download_and_prepare()
    except Exception as error:  # each downloader, parser and file system has its own
        raise DataNotPreparedError(
            f"data set {builder.name!r} must be prepared. Looked for {builder.data_path}; it is not there, and "
            f"preparing it failed: {_reason(error)}. Three ways out: (1) run `tfds build {builder.name}` where there "
            "is a network, and copy the folder; (2) set TFDS_DATA_DIR to a folder that holds it; (3) use the embedded "
            "data (the entry vae_digits), or pass arrays: vaezoo.train(..., splits=vaezoo.data.Splits.from_arrays(...))"
        ) from error


def _require_network(host):
    """Raises `OSError` at once where names cannot be resolved; TFDS itself would retry for minutes."""
    if not urllib.request.getproxies():
        socket.getaddrinfo(host, 443)


def _reason(error):
    """Returns the first line of an error's message, or else its kind."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _default_splits(names):
    """The parts of a TFDS set that has no entry in `TFDS_SPLITS`."""
    cut = {"validation", "test"} - names
    if not cut:
        return "train", "validation", "test"
    if len(cut) == 2:
        return "train[:80%]", "train[80%:90%]", "train[90%:]"
    if "test" in names:
        return "train[:90%]", "train[90%:]", "test"
    return "train[:90%]", "validation", "train[90%:]"


def _read(builder, part):
    """Reads a part into memory, in its stored order."""
    examples = builder.as_dataset(split=part, shuffle_files=False)
    columns_of = norb_pair if builder.name == "smallnorb" else image_and_label
    batches = list(examples.map(columns_of).batch(1024).as_numpy_iterator())
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    return ImageSet(columns[0], columns[1] if len(columns) == 2 else None)


def image_and_label(example):
    """A TFDS example -> (image, label), or (image,) where there is no label."""
    return tuple(example[key] for key in ("image", "label") if key in example)


def norb_pair(example):
    """A TFDS example of small NORB -> the two 96x96 images of an object as one, [32, 32, 2], and its category.

    A pixel is the mean of 3x3, rounded; Miyato et al. (2016) and Maaloe et al. (2016) take pairs of this size.
    """
    pair = tf.cast(tf.concat([example["image"], example["image2"]], axis=-1), tf.float32)
    small = tf.nn.avg_pool2d(pair[tf.newaxis], 3, 3, "VALID")[0]
    return tf.cast(tf.round(small), tf.uint8), example["label_category"]


def grey(images):
    """Returns stored images as floats in [0, 1], [N, H, W, C]: a set that is stored as 0 and 1 keeps them."""
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 and images.max() > 1 else 1)


# Transforms: stored images, seed -> floats in [0, 1], [B, H, W, C]; stored counts, seed -> floats, [B, V].


def unit_interval(images, seed):
    """Grey values x / 255. Under a Bernoulli likelihood these give cross-entropies, not likelihoods."""
    del seed
    return tf.cast(images, tf.float32) / 255.0 if images.dtype == tf.uint8 else tf.cast(images, tf.float32)


def grey_levels(images, seed):
    """The 256 levels of 8-bit images, k / 255: what a discretised likelihood gives masses to."""
    return unit_interval(images, seed)


def dynamic_binarization(images, seed):
    """X ~ Bernoulli(grey value), drawn anew at every step of training, once for a test set."""
    threshold = tf.random.stateless_uniform(tf.shape(images), seed)
    return tf.cast(threshold < unit_interval(images, seed), tf.float32)


def static_binarization(images, seed):
    """Images that hold only 0 and 1 already, such as Larochelle and Murray's MNIST."""
    del seed
    return tf.cast(images, tf.float32)


def uniform_dequantization(images, seed):
    """(x + u) / 256, u ~ U[0, 1): a density of these bounds the likelihood of the 256 levels, after - D log 256."""
    levels = tf.cast(images, tf.float32)
    below = tf.math.nextafter((levels + 1.0) / 256.0, 0.0)  # x + u rounds up to x + 1 once in 200,000 draws
    return tf.minimum((levels + tf.random.stateless_uniform(tf.shape(images), seed)) / 256.0, below)


def counts(documents, seed):
    """Word counts as they are."""
    del seed
    return tf.cast(documents, tf.float32)


# The names that a config's [data] may use.
TRANSFORMS = {
    "unit_interval": unit_interval,
    "grey_levels": grey_levels,
    "dynamic_binarization": dynamic_binarization,
    "static_binarization": static_binarization,
    "uniform_dequantization": uniform_dequantization,
    "counts": counts,
}
# What they are made for; the rank of an array, with the axis of the examples, tells images from documents.
DOMAINS = {name: COUNTS if transform is counts else IMAGES for name, transform in TRANSFORMS.items()}
DOMAINS_BY_RANK = {4: IMAGES, 2: COUNTS}


def check_domain(domain, transform):
    """Raises `ValueError` if what a transform makes is not what a model's likelihood is of; see `vaezoo.domains`."""
    checks.one_of("transform", transform, TRANSFORMS)
    if DOMAINS[transform] is not domain:
        raise ValueError(f"`transform` must be one for a model of {domain.name}. Received: {transform!r}")


def check_transform(images, transform):
    """Raises `ValueError` if the transform is not made for images, or documents, like these."""
    checks.one_of("transform", transform, TRANSFORMS)
    domain = DOMAINS_BY_RANK.get(images.ndim)
    if DOMAINS[transform] is not domain:
        raise ValueError(
            f"`transform` {transform!r} must be given {DOMAINS[transform].name}: images are [N, H, W, C], counts are "
            f"[N, V]. Received: {list(images.shape)}"
        )
    if domain is COUNTS:
        checks.counts("documents", images, images.shape[1:])
    if transform == "static_binarization" and ((images != 0) & (images != 1)).any():
        raise ValueError(
            "`transform` 'static_binarization' must be given images that hold only 0 and 1, such as 'binarized_mnist'. "
            f"Received: {images.dtype} from {images.min()} to {images.max()}"
        )
    grey = transform not in ("static_binarization", "counts")
    if grey and images.dtype == np.uint8 and len(images) > 1 and images.max() == 1:  # as levels they are all but black
        raise ValueError(
            f"`transform` {transform!r} must be given grey images. Received: uint8 of only 0 and 1, which are for "
            "'static_binarization'"
        )
    if transform in ("grey_levels", "uniform_dequantization") and images.dtype != np.uint8:
        raise ValueError(f"`transform` {transform!r} must be given uint8 images. Received: {images.dtype}")


def training_batches(images, transform, *, batch_size, seed, first_epoch=0, labelled=None):
    """Returns an endless `tf.data.Dataset` of transformed batches [batch_size, H, W, C], and its steps per epoch.

    Each epoch takes the images in an order of its own; the last len(images) % batch_size of that order sit it out.
    With labelled images a batch is ((x_labelled, y), x): all of them, or a draw of batch_size if they are more.

    Args:
        images: array [N, H, W, C].
        transform: a name in `TRANSFORMS`.
        batch_size: int, the global one.
        seed: int.
        first_epoch: int, where to begin.
        labelled: an `ImageSet` with labels, or None.

    Raises:
        ValueError: there are fewer images than the batch takes, or the transform does not fit them.
    """
    batch_size = checks.positive_int("batch_size", batch_size)
    if len(images) < batch_size:
        raise ValueError(f"`batch_size` must be at most the {len(images)} training images. Received: {batch_size}")
    check_transform(images, transform)
    steps, apply = len(images) // batch_size, TRANSFORMS[transform]
    stored = tf.constant(images)
    if labelled is not None:
        stored_labelled, labels = tf.constant(labelled.images), tf.constant(labelled.labels, tf.int32)

    def order(epoch):
        indices = tf.range(len(images))
        shuffled = tf.random.experimental.stateless_shuffle(indices, tf.stack([tf.cast(seed, tf.int64), epoch]))
        rows = tf.reshape(shuffled[: steps * batch_size], [steps, batch_size])
        step = epoch * steps + tf.range(steps, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((step, rows))

    def batch(step, row):
        # The order's seeds are (seed, epoch): the noise folds its own in, so that the two never meet.
        noise = tf.random.experimental.stateless_fold_in(tf.stack([tf.cast(seed, tf.int64), step]), 1)
        x = tf.ensure_shape(apply(tf.gather(stored, row), noise), [None, *images.shape[1:]])
        return x if labelled is None else (labelled_batch(noise), x)

    def labelled_batch(noise):
        seeds = [tf.random.experimental.stateless_fold_in(noise, stream) for stream in (2, 3)]
        drawn = tf.random.experimental.stateless_shuffle(tf.range(len(labels)), seeds[0])[:batch_size]
        x = apply(tf.gather(stored_labelled, drawn), seeds[1])
        return tf.ensure_shape(x, [None, *images.shape[1:]]), tf.gather(labels, drawn)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    batches = epochs.flat_map(order).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE), steps


def transform_once(images, transform, *, seed=TEST_SEED):
    """Returns images transformed once and for all, float32 [N, H, W, C]."""
    check_transform(images, transform)
    # In parts, for the uniform draws of a whole set would take four times its memory; of a fixed size, so that the
    # first images of a set are the same whatever their number.
    parts = [
        TRANSFORMS[transform](tf.constant(part), tf.constant([seed, index], tf.int64)).numpy()
        for index, part in enumerate(images[first : first + 1000] for first in range(0, len(images), 1000))
    ]
    return np.concatenate(parts)
