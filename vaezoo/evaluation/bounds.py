"""What a model is worth on a data set: bounds and estimates of log p(x), and what its latents do."""

import dataclasses
import math
import time

import numpy as np

from vaezoo import checks, data
from vaezoo.domains import COUNTS
from vaezoo.evaluation.documents import perplexity
from vaezoo.inference.annealing import annealed_estimate
from vaezoo.noise import Stream, noise_seed
from vaezoo.numerics import bits_per_dim

ACTIVE_VARIANCE = 0.01  # a unit is active if the variance of its posterior mean over the data exceeds it (Burda et al.)
# What the numbers are, by the transform of the data.
MEASURES = {
    "unit_interval": "density (Gaussian) or cross-entropy (Bernoulli) of grey values: not a likelihood of pixels",
    "grey_levels": "log-likelihood of the 256 grey levels (discretised logistic; other likelihoods give densities)",
    "dynamic_binarization": "log-likelihood of binary images, drawn once from the grey values",
    "static_binarization": "log-likelihood of binary images",
    "uniform_dequantization": "density of dequantised images in [0, 1]; bits/dim are those of the 256 grey levels",
    "counts": "log-likelihood of word counts; the perplexity is that of a word, with the cost of the length",
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one set of images; nats per example unless the name says otherwise.

    Standard errors are those of the mean over the examples.
    """

    measure: str
    num_images: int
    num_samples: int  # k
    elbo: float
    elbo_standard_error: float
    reconstruction: float  # E_q log p(x | z)
    rmse: float  # of decode(encode(x)), over all pixels in [0, 1] (x 255: in grey levels), or over all word counts
    kl: float
    log_likelihood: float  # k-sample estimate of log p(x)
    log_likelihood_standard_error: float
    effective_sample_size: float  # mean over the examples; between 1 and k
    bits_per_dim: float  # of the k-sample estimate
    elbo_bits_per_dim: float
    active_units: int  # values of the code that vary over the examples
    kl_per_group: tuple  # mean over the examples, one value per latent group: one of a plain VAE, one per map of others
    kl_per_dimension: tuple  # mean over the examples, one value per latent dimension of a Gaussian posterior; else ()
    seconds: float
    error_rate: float | None = None  # %, of the grey images, where a model has classes and the images labels
    perplexity: float | None = None  # of documents, by the k-sample estimate
    elbo_perplexity: float | None = None  # of documents, by the ELBO


def evaluate(
    model, images, *, transform="unit_interval", num_samples=1000, batch_size=100, chunk=50, seed=0, progress=None
):
    """Measures a model with beta = 1 and the sampled KL, in memory constant in `num_samples`.

    Args:
        model: a `LatentVariableModel`.
        images: floats in [0, 1] or uint8, [N, H, W, C], transformed already (`vaezoo.data.transform_once`); or word
            counts, [N, V].
        transform: the name of that transform, which decides what the numbers are.
        num_samples: int, k, the posterior samples per image.
        batch_size: images at once; memory grows with batch_size * chunk.
        chunk: samples at once.
        seed: int.
        progress: called with (images done, images in all) after each batch.

    Returns:
        `Evaluation`.
    """
    _check(model, images, transform)
    checks.positive_int("batch_size", batch_size)
    start, parts, kl_per_dimension, codes, squares = time.perf_counter(), [], [], _Variance(), 0.0
    for first in range(0, len(images), batch_size):
        x = images[first : first + batch_size]
        parts.append(model.importance_estimate(x, num_samples=num_samples, chunk=chunk, seed=seed + first))
        z = model.encode(x)
        codes.add(np.asarray(z))
        squares += np.square(np.asarray(model.domain.values(x) - model.decode(z), np.float64)).sum()
        kl_per_dimension.append(model.kl_per_dimension(x))
        if progress:
            progress(min(first + batch_size, len(images)), len(images))
    log_likelihood, effective_sample_size, log_lik, kl = (np.concatenate(column) for column in zip(*parts, strict=True))
    kl_per_group, kl = kl.mean(axis=0), kl.sum(axis=-1)  # [G], [N]
    elbo, num_dims = log_lik - kl, math.prod(model.example_shape)
    log_bin = _log_bin(transform, num_dims)
    return Evaluation(
        measure=MEASURES[transform],
        num_images=len(images),
        num_samples=num_samples,
        elbo=float(elbo.mean()),
        elbo_standard_error=_standard_error(elbo),
        reconstruction=float(log_lik.mean()),
        rmse=math.sqrt(squares / (len(images) * num_dims)),
        kl=float(kl.mean()),
        log_likelihood=float(log_likelihood.mean()),
        log_likelihood_standard_error=_standard_error(log_likelihood),
        effective_sample_size=float(effective_sample_size.mean()),
        bits_per_dim=float(bits_per_dim(log_likelihood.mean() - log_bin, num_dims)),
        elbo_bits_per_dim=float(bits_per_dim(elbo.mean() - log_bin, num_dims)),
        active_units=int((codes.variance() > ACTIVE_VARIANCE).sum()),
        kl_per_group=tuple(kl_per_group.round(4).tolist()),
        kl_per_dimension=()
        if kl_per_dimension[0] is None
        else tuple(np.concatenate(kl_per_dimension).mean(axis=0).round(4).tolist()),
        seconds=round(time.perf_counter() - start, 1),
        perplexity=_perplexity(model, log_likelihood, images),
        elbo_perplexity=_perplexity(model, elbo, images),
    )


@dataclasses.dataclass(frozen=True)
class AnnealedEvaluation:
    """log p(x) of one model on one set of images by annealed importance sampling; nats per example."""

    measure: str
    num_images: int
    num_chains: int
    num_temperatures: int
    num_leapfrog_steps: int
    log_likelihood: float
    log_likelihood_standard_error: float  # of the mean over the examples
    bits_per_dim: float
    effective_sample_size: float  # of the chains' weights, mean over the examples
    acceptance: float  # rate of the HMC steps, mean over chains and examples
    least_acceptance: float  # of an example
    seconds: float
    perplexity: float | None = None  # of documents


def evaluate_annealed(
    model,
    images,
    *,
    transform="unit_interval",
    num_chains=6,
    num_temperatures=500,
    num_leapfrog_steps=5,
    batch_size=100,
    seed=0,
    progress=None,
):
    """Measures log p(x) without use of the model's posterior.

    Args:
        model: a `LatentVariableModel`.
        images: floats in [0, 1] or uint8, [N, H, W, C], transformed already (`vaezoo.data.transform_once`); or word
            counts, [N, V].
        transform: the name of that transform.
        num_chains: int, per image.
        num_temperatures: int.
        num_leapfrog_steps: int, of each HMC step.
        batch_size: images at once.
        seed: int.
        progress: called with (images done, images in all) after each batch.

    Returns:
        `AnnealedEvaluation`.
    """
    _check(model, images, transform)
    start = time.perf_counter()
    estimate = annealed_estimate(
        model.log_prob_given_noise,
        model.noise,
        images,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog_steps=num_leapfrog_steps,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    num_dims, log_p = math.prod(model.example_shape), estimate.log_likelihood
    return AnnealedEvaluation(
        measure=MEASURES[transform],
        num_images=len(images),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog_steps=num_leapfrog_steps,
        log_likelihood=float(log_p.mean()),
        log_likelihood_standard_error=_standard_error(log_p),
        bits_per_dim=float(bits_per_dim(log_p.mean() - _log_bin(transform, num_dims), num_dims)),
        effective_sample_size=float(estimate.effective_sample_size.mean()),
        acceptance=float(estimate.acceptance.mean()),
        least_acceptance=float(estimate.acceptance.min()),
        seconds=round(time.perf_counter() - start, 1),
        perplexity=_perplexity(model, log_p, images),
    )


def _check(model, images, transform):
    data.check_domain(model.domain, transform)
    model.domain.check("images", images, model.example_shape)
    if transform.endswith("binarization") and not np.isin(images, (0, 1)).all():
        raise ValueError(f"`images` must hold only 0 and 1 for {transform!r}. Received others: not transformed yet?")
    if transform == "uniform_dequantization" and images.dtype == np.uint8:
        raise ValueError(f"`images` must be dequantised floats for {transform!r}. Received: uint8")


def _log_bin(transform, num_dims):
    """Returns the log of what the volume of a grey level of dequantised pixels in [0, 1] is to be divided by."""
    return num_dims * math.log(256) if transform == "uniform_dequantization" else 0.0


def _perplexity(model, log_p, images):
    return perplexity(log_p, images) if model.domain is COUNTS else None


def posterior_spectrum(model, images, *, num_draws=500, seed=0):
    """Returns how far q(z | x) spreads along each of its own directions, from the widest to the narrowest.

    A sampler may have collapsed to a few directions although every coordinate of z still varies, where these are
    oblique to the axes. Against N(0, I) a direction of standard deviation s << 1 costs about -log s nats.

    Args:
        model: a `LatentVariableModel` with a vector of latents.
        images: as for `evaluate`, [N, ...].
        num_draws: int, of z for each image; well above D.
        seed: int.

    Returns:
        Geometric means over the images of the square roots of the eigenvalues of Cov(z | x), [D].
    """
    model.domain.check("images", images, model.example_shape)
    if checks.positive_int("num_draws", num_draws) <= model.latent_dim:
        raise ValueError(f"`num_draws` must be more than the {model.latent_dim} latents. Received: {num_draws}")
    log_widths = []
    for index in range(len(images)):
        q = model.approximate_posterior(model.domain.values(images[index : index + 1]))
        noise = model.noise(num_draws, 1, seed=noise_seed(seed, Stream.IMPORTANCE, index))
        z = np.asarray(q.bijector.forward(noise)[:, 0], np.float64)  # [S, D]
        log_widths.append(np.log(np.linalg.svd(z - z.mean(axis=0), compute_uv=False) / math.sqrt(num_draws - 1)))
    return np.exp(np.mean(log_widths, axis=0))


class _Variance:
    """The variance of rows that come in batches: a hierarchy's codes of a whole set would fill the memory."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, rows):
        rows = rows.astype(np.float64)
        self.count += len(rows)
        self.total, self.squares = self.total + rows.sum(axis=0), self.squares + np.square(rows).sum(axis=0)

    def variance(self):
        return self.squares / self.count - np.square(self.total / self.count)


def _standard_error(values):
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
