"""Transforms: stored images, seed -> floats in [0, 1], [B, H, W, C]; stored counts, seed -> floats, [B, V]."""

import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.domains import COUNTS, DOMAINS_BY_RANK, IMAGES
from vaezoo.numerics import batched

# Dynamic binarization of a test set is part of the test set: drawn once, from this seed, for every model and run.
TEST_SEED = 20_170_425
# The uniform draws of a whole set would take four times its memory. The size is fixed, so that the first images of a
# set are the same whatever their number.
TRANSFORMED_AT_ONCE = 1000


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


def transform_once(images, transform, *, seed=TEST_SEED):
    """Returns images transformed once and for all, float32 [N, H, W, C]."""
    check_transform(images, transform)

    def transformed(rows):
        index = rows.start // TRANSFORMED_AT_ONCE
        return TRANSFORMS[transform](tf.constant(images[rows.start : rows.stop]), tf.constant([seed, index], tf.int64))

    return batched(transformed, range(len(images)), TRANSFORMED_AT_ONCE)


def grey(images):
    """Returns stored images as floats in [0, 1], [N, H, W, C]: a set that is stored as 0 and 1 keeps them."""
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 and images.max() > 1 else 1)
