"""Data sets by name: TFDS sets, scikit-learn's (digits and moons are embedded), or a file of arrays."""

import pathlib
import socket
import urllib.request

import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.data.splits import ImageSet, Splits, draw_labels

MOONS_NOISE = 0.1  # standard deviation; the paper gives none, its authors' loader 0.2, at which the moons overlap
MAX_WORDS = 2_000  # of 20 Newsgroups: Pu (2018), section 4.5.2
HELD_OUT = 1_000  # documents or images from the end of train, for validation, of a set without a part for it
MAX_BYTES = 8 * 2**30  # a set is read into memory; what is larger needs a pipeline of the user's own


class DataNotPreparedError(OSError):
    """A set is neither prepared nor can it be downloaded."""


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
PARTS = ("train", "validation", "test")
COLUMNS = ("label", "tags", "caption")  # of a file of arrays, beside the images or counts
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
    strings, if they are known. Each part may have further columns, `COLUMNS`, all parts the same: `train_label` and
    `test_label`, ints [N] with -1 for unknown, and `validation_label` with `validation`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is none of numpy's, or its arrays are not as described.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`data name` must be a file, if it ends in .npz. Received: {path}, which is none; if it has moved: "
            "--data PATH.npz, or --set data.name=PATH.npz"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a truncated zip, a bad header, pickled objects: each has its own
        raise ValueError(f"`{path}` must be a file of numpy's savez. Received: {error}") from None
    further = [f"{part}_{column}" for column in COLUMNS for part in PARTS]
    if not {"train", "test"} <= arrays.keys() <= {*PARTS, "words", *further}:
        raise ValueError(
            f"`{path}` must hold the arrays train and test, and may hold validation and words, and "
            f"{', '.join(further)}. Received: {', '.join(sorted(arrays)) or 'none'}"
        )
    words = arrays.pop("words", None)
    parts = {part: {} for part in PARTS}
    for name, values in arrays.items():
        part, _, column = name.partition("_")
        parts[part][column or "x"] = values
    if not parts["validation"]:
        if arrays["train"].ndim == 0 or len(arrays["train"]) <= HELD_OUT:
            raise ValueError(
                f"`train` of {path} must hold more than {HELD_OUT} rows, or validation must be given: the last "
                f"{HELD_OUT} serve. Received: {list(arrays['train'].shape)}"
            )
        columns, size = parts["train"], len(arrays["train"]) - HELD_OUT
        parts["train"] = {name: values[:size] for name, values in columns.items()}
        parts["validation"] = {name: values[size:] for name, values in columns.items()}
    return Splits.from_arrays(**parts, words=words)


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

    import vaezoo.data.frey_face  # noqa: F401  registers the builder

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
