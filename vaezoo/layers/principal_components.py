"""The principal components of images, fitted to a first batch of them."""

import math

import keras
import numpy as np
import tensorflow as tf

from vaezoo import checks
from vaezoo.layers.initialization import initializing

LEAST_STDDEV = 1e-5  # of a principal component against the first: below, it is a rounding error


class PrincipalComponents(keras.layers.Layer):
    """The first principal components of flat images, [..., P] -> [..., Q]: c = basis' (x - mean) / scale.

    The columns of the basis [P, Q] are orthonormal. One scale serves all components: the first has variance 1 over the
    batch of images that they are fitted to, and distances keep their proportions. Before, c is the first Q values of x.

    Args:
        dim: int, P.
        num_components: int, Q, at most P.

    Raises:
        ValueError: an argument is not as described; or, when they are fitted, there are not more images than
            components, or they do not vary in so many directions.
    """

    initial_images = 10_000  # of the first batch, where so many are at hand

    def __init__(self, dim, num_components, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.num_components = checks.positive_int("num_components", num_components)
        if num_components > checks.positive_int("dim", dim):
            raise ValueError(
                f"`num_components` must be at most the {dim} values of an image. Received: {num_components}"
            )
        fixed = {"trainable": False, "autocast": False}  # float32 inside of a model in half precision, too
        self.mean = self.add_weight((dim,), "zeros", name="mean", **fixed)
        self.basis = self.add_weight((dim, num_components), "identity", name="basis", **fixed)
        self.scale = self.add_weight((), "ones", name="scale", **fixed)
        self.built = True

    @classmethod
    def of_images(cls, image_shape, num_components):
        """Returns a layer for flat images of [H, W, C] values, or None if `num_components` is 0."""
        if not checks.non_negative_int("principal_components", num_components):
            return None
        return cls(math.prod(image_shape), num_components, name="components")

    def call(self, x):
        """Flat images [..., P] -> components [..., Q]."""
        if initializing():
            self._fit(np.asarray(x, np.float64))
        return self.project(x)

    def project(self, x):
        """As `call`, without a fit."""
        return tf.tensordot(tf.cast(x, tf.float32) - self.mean, self.basis / self.scale, 1)

    def reconstruct(self, components):
        """Components [..., Q] -> the flat images [..., P] that have them, and the mean in every other direction."""
        return self.mean + tf.tensordot(components * self.scale, self.basis, [[-1], [1]])

    def _fit(self, x):
        from sklearn.decomposition import PCA

        if len(x) <= self.num_components:
            raise ValueError(
                f"`x` must hold more than {self.num_components} images to fit as many principal components to: call "
                f"`initialize` with them before `fit`. Received: {len(x)}"
            )
        pca = PCA(self.num_components, svd_solver="covariance_eigh").fit(x)
        stddevs = np.sqrt(pca.explained_variance_)
        if not stddevs[-1] > LEAST_STDDEV * stddevs[0]:
            raise ValueError(
                f"`num_components` must be at most the rank of the images. Received: {self.num_components}, of which "
                f"the last has a standard deviation of {stddevs[-1]:.3g} where the first has {stddevs[0]:.3g}"
            )
        for weight, value in ((self.mean, pca.mean_), (self.basis, pca.components_.T), (self.scale, stddevs[0])):
            weight.assign(value.astype(np.float32))
