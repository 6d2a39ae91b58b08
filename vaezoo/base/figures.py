"""The figures of a model on a data set, which `vaezoo.evaluation.evaluate` computes: those of what the model has."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vaezoo import checks
from vaezoo.inference.importance import ImportanceEstimate
from vaezoo.numerics import batched, batches, bits_per_dim, perplexity, standard_error

ACTIVE_VARIANCE = 0.01  # a unit is active if the variance of its posterior mean over the data exceeds it (Burda et al.)


class Figure(NamedTuple):
    """One figure of a model on a data set.

    Attributes:
        name: what it is called where figures are printed.
        function: `Measured` -> a number, or a tuple of numbers.
        unit: of the numbers.
        needs: names of the columns, in `Measured.columns`, without which there is no such figure; e.g. "label", or
            "grey": the examples as they are stored, which a transform has not touched.
    """

    name: str
    function: Callable
    unit: str = "nats"
    needs: tuple = ()


class Measured:
    """A model on N examples, and what several of its figures are made of, which is computed once, when first used.

    Args:
        model: the model.
        x: examples, transformed, [N, ...].
        columns: dict of further columns, [N, ...], by name.
        log_bin: the log of the volume, in units of x, of a grey level of one example; 0 if x has no such levels.
        num_samples, chunk, batch_size, seed, progress: see `vaezoo.evaluation.evaluate`.
    """

    def __init__(self, model, x, columns, *, log_bin=0.0, num_samples, chunk, batch_size, seed, progress=None):
        self.model, self.x, self.columns, self.log_bin = model, x, columns, log_bin
        self.num_samples, self.chunk, self.batch_size, self.seed = num_samples, chunk, batch_size, seed
        self.progress = progress

    @functools.cached_property
    def bounds(self):
        """`ImportanceEstimate` of all examples, [N, ...]."""

        def estimate(rows):
            x, seed = self.x[rows.start : rows.stop], self.seed + rows.start
            return self.model.importance_estimate(x, num_samples=self.num_samples, chunk=self.chunk, seed=seed)

        return ImportanceEstimate(*batched(estimate, range(len(self.x)), self.batch_size, self.progress))

    @functools.cached_property
    def kl(self):
        """KL(q(z | x) || p(z)), the mean over the samples, nats, [N]."""
        return self.bounds.kl.sum(axis=-1)

    @functools.cached_property
    def elbo(self):
        """The ELBO, nats, [N]."""
        return self.bounds.log_lik - self.kl

    @functools.cached_property
    def codes(self):
        """The variance of each value of the code over the examples, and the mean squared error of decoded codes.

        The latter is None without a decoder. The codes are not kept: those of a hierarchy would fill the memory.
        """
        total, total_of_squares, errors = 0, 0, 0.0
        for x in batches(self.x, self.batch_size):
            z = self.model.encode(x)
            rows = np.asarray(z).astype(np.float64)
            total, total_of_squares = total + rows.sum(axis=0), total_of_squares + np.square(rows).sum(axis=0)
            if self.model.decode is not None:
                difference = np.asarray(self.model.domain.values(x) - self.model.decode(z), np.float64)
                errors += np.square(difference).sum()
        count = len(self.x)
        variance = total_of_squares / count - np.square(total / count)
        return variance, errors / (count * self.num_dims) if self.model.decode is not None else None

    @property
    def num_dims(self):
        """The number of values in one example."""
        return math.prod(self.model.example_shape)

    def bits_per_dim(self, log_p):
        """Returns the bits per value of log-likelihoods, nats, [N]; of the grey levels where x is dequantised."""
        return float(bits_per_dim(log_p.mean() - self.log_bin, self.num_dims))


BOUNDS = [
    Figure("elbo", lambda measured: float(measured.elbo.mean())),
    Figure("elbo_standard_error", lambda measured: standard_error(measured.elbo)),
    Figure("reconstruction", lambda measured: float(measured.bounds.log_lik.mean())),
    Figure("kl", lambda measured: float(measured.kl.mean())),
    Figure("log_likelihood", lambda measured: float(measured.bounds.log_likelihood.mean())),
    Figure("log_likelihood_standard_error", lambda measured: standard_error(measured.bounds.log_likelihood)),
    Figure("effective_sample_size", lambda measured: float(measured.bounds.effective_sample_size.mean()), "samples"),
    Figure("bits_per_dim", lambda measured: measured.bits_per_dim(measured.bounds.log_likelihood), "bits"),
    Figure("elbo_bits_per_dim", lambda measured: measured.bits_per_dim(measured.elbo), "bits"),
    Figure("kl_per_group", lambda measured: tuple(measured.bounds.kl.mean(axis=0).round(4).tolist())),
]
PERPLEXITIES = [
    Figure("perplexity", lambda measured: perplexity(measured.bounds.log_likelihood, measured.x), "per word"),
    Figure("elbo_perplexity", lambda measured: perplexity(measured.elbo, measured.x), "per word"),
]


def _kl_per_dimension(measured):
    if measured.model.kl_per_dimension(measured.x[:1]) is None:  # a posterior that is not Gaussian
        return ()
    kl = batched(measured.model.kl_per_dimension, measured.x, measured.batch_size)
    return tuple(kl.mean(axis=0).round(4).tolist())


def _error_rate(measured):
    return error_rate(measured.model.predict_proba(measured.columns["grey"]), measured.columns["label"])


def error_rate(probabilities, labels):
    """Returns the % of rows [N, K] whose most probable class is not their label, ints [N].

    Labels of -1 are unknown, and do not count.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(probabilities),) or labels.max() >= probabilities.shape[1]:
        expected = f"{len(probabilities)} ints in 0..{probabilities.shape[1] - 1}, or -1 for unknown"
        raise ValueError(f"`labels` must be {expected}. Received: {list(labels.shape)}, up to {labels.max()}")
    known = labels != checks.UNKNOWN
    return 100.0 * float(np.mean(probabilities.argmax(axis=-1)[known] != labels[known]))


# What a model must have for figures, and these.
FIGURES = [
    (("terms",), BOUNDS),
    (("encode", "decode"), [Figure("rmse", lambda measured: math.sqrt(measured.codes[1]), "units of x")]),
    (("encode",), [Figure("active_units", lambda measured: int((measured.codes[0] > ACTIVE_VARIANCE).sum()), "units")]),
    (("kl_per_dimension",), [Figure("kl_per_dimension", _kl_per_dimension)]),
    (("class_probabilities",), [Figure("error_rate", _error_rate, "%", ("grey", "label"))]),
]


def of(model):
    """Returns the figures of what a model has."""
    found = []
    for names, figures in FIGURES:
        if all(getattr(model, name) is not None for name in names):
            found += figures
    if model.terms is not None and model.domain.of_words:
        found += PERPLEXITIES
    return found
