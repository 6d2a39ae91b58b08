"""Batches for training.

A set is held once, as it is stored (uint8), and batches are gathered from it: the order of epoch e and the noise of
step s are functions of (seed, e) and (seed, s), so a run can be resumed at any step.
"""

import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.data.transforms import TRANSFORMS, check_transform


def training_batches(images, transform, *, batch_size, seed, first_epoch=0, labels=None, labelled=None):
    """Returns an endless `tf.data.Dataset` of transformed batches [batch_size, H, W, C], and its steps per epoch.

    Each epoch takes the images in an order of its own; the last len(images) % batch_size of that order sit it out.
    With labels of all images a batch is (x, y).
    With labelled images a batch is ((x_labelled, y), x): all of them, or a draw of batch_size if they are more.

    Args:
        images: array [N, H, W, C].
        transform: a name in `TRANSFORMS`.
        batch_size: int, the global one.
        seed: int.
        first_epoch: int, where to begin.
        labels: ints [N], or None.
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
    if labels is not None:
        classes = tf.constant(labels, tf.int32)
    if labelled is not None:
        stored_labelled, few_labels = tf.constant(labelled.images), tf.constant(labelled.labels, tf.int32)

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
        if labels is not None:
            return x, tf.gather(classes, row)
        return x if labelled is None else (labelled_batch(noise), x)

    def labelled_batch(noise):
        seeds = [tf.random.experimental.stateless_fold_in(noise, stream) for stream in (2, 3)]
        drawn = tf.random.experimental.stateless_shuffle(tf.range(len(few_labels)), seeds[0])[:batch_size]
        x = apply(tf.gather(stored_labelled, drawn), seeds[1])
        return tf.ensure_shape(x, [None, *images.shape[1:]]), tf.gather(few_labels, drawn)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    batches = epochs.flat_map(order).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE), steps
