"""Images and documents: sets by name, split, transformed and batched."""

from vaezoo.data.batches import training_batches
from vaezoo.data.sources import (
    ARRAYS,
    COLUMNS,
    EMBEDDED,
    NAMES,
    NEWSGROUPS,
    TFDS_SPLITS,
    DataNotPreparedError,
    load,
    read_npz,
    semi_supervised,
)
from vaezoo.data.splits import ImageSet, SemiSupervisedSplits, Splits, draw_labels
from vaezoo.data.transforms import (
    DOMAINS,
    TEST_SEED,
    TRANSFORMS,
    check_domain,
    check_transform,
    grey,
    transform_once,
)

__all__ = [
    "ARRAYS",
    "COLUMNS",
    "DOMAINS",
    "EMBEDDED",
    "NAMES",
    "NEWSGROUPS",
    "TEST_SEED",
    "TFDS_SPLITS",
    "TRANSFORMS",
    "DataNotPreparedError",
    "ImageSet",
    "SemiSupervisedSplits",
    "Splits",
    "check_domain",
    "check_transform",
    "draw_labels",
    "grey",
    "load",
    "read_npz",
    "semi_supervised",
    "training_batches",
    "transform_once",
]
