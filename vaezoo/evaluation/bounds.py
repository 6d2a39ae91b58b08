"""What a model is worth on a data set: bounds and estimates of log p(x), and what its latents do."""

import dataclasses
import math
import time

import numpy as np

from vaezoo import checks, data
from vaezoo.base.contracts import require
from vaezoo.base.figures import Measured
from vaezoo.inference.annealing import annealed_estimate
from vaezoo.noise import Stream, noise_seed
from vaezoo.numerics import batched, bits_per_dim, perplexity, standard_error

# What the numbers are, by the transform of the data.
MEASURES = {
    "unit_interval": "density (Gaussian) or cross-entropy (Bernoulli) of grey values: not a likelihood of pixels",
    "grey_levels": "log-likelihood of the 256 grey levels (discretised logistic; other likelihoods give densities)",
    "dynamic_binarization": "log-likelihood of binary images, drawn once from the grey values",
    "static_binarization": "log-likelihood of binary images",
    "uniform_dequantization": "density of dequantised images in [0, 1]; bits/dim are those of the 256 grey levels",
    "counts": "log-likelihood of word counts; the perplexity is that of a word, with the cost of the length",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one model on one data set; nats per example unless the name says otherwise.

    What the model does not declare, in its `figures()`, is None. Figures that a model of one's own declares besides are
    attributes, too. Standard errors are those of the mean over the examples.
    """

    measure: str
    num_images: int
    num_samples: int  # k
    elbo: float | None = None
    elbo_standard_error: float | None = None
    reconstruction: float | None = None  # E_q log p(x | z)
    rmse: float | None = None  # of decode(encode(x)), over all pixels in [0, 1] (x 255: in grey levels), or word counts
    kl: float | None = None
    log_likelihood: float | None = None  # k-sample estimate of log p(x)
    log_likelihood_standard_error: float | None = None
    effective_sample_size: float | None = None  # mean over the examples; between 1 and k
    bits_per_dim: float | None = None  # of the k-sample estimate
    elbo_bits_per_dim: float | None = None
    active_units: int | None = None  # values of the code that vary over the examples
    kl_per_group: tuple | None = None  # mean over the examples, a value per latent group: one of a plain VAE, else maps
    kl_per_dimension: tuple | None = None  # mean over the examples, of a Gaussian posterior; () of others
    seconds: float
    error_rate: float | None = None  # %, of the stored images, where a model has classes and the images labels
    perplexity: float | None = None  # of documents, by the k-sample estimate
    elbo_perplexity: float | None = None  # of documents, by the ELBO


def evaluate(
    model,
    images,
    *,
    transform="unit_interval",
    num_samples=1000,
    batch_size=100,
    chunk=50,
    seed=0,
    progress=None,
    columns=None,
):
    """Computes the figures that a model declares, with beta = 1 and the sampled KL.

    Memory is constant in `num_samples`.

    Args:
        model: a `StochasticModel`; see its `figures`.
        images: floats in [0, 1] or uint8, [N, H, W, C], transformed already (`vaezoo.data.transform_once`); or word
            counts, [N, V].
        transform: the name of that transform, which decides what the numbers are.
        num_samples: int, k, the posterior samples per image.
        batch_size: images at once; memory grows with batch_size * chunk.
        chunk: samples at once.
        seed: int.
        progress: called with (images done, images in all) after each batch of the k-sample estimate.
        columns: dict of what some figures need besides, [N, ...]: "label", ints, and "grey", the images as they are
            stored, for the error rate; what figures of one's own name.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: an argument is not as described.
    """
    _check(model, images, transform)
    checks.positive_int("batch_size", batch_size)
    columns = {} if columns is None else columns
    for name, column in columns.items():
        if len(column) != len(images):
            raise ValueError(f"`columns` must hold {len(images)} rows each. Received: {len(column)} of {name!r}")
    start, settings = time.perf_counter(), {"num_samples": num_samples, "chunk": chunk, "batch_size": batch_size}
    log_bin = _log_bin(transform, math.prod(model.example_shape))
    measured = Measured(model, images, columns, log_bin=log_bin, seed=seed, progress=progress, **settings)
    found = {
        figure.name: figure.function(measured)
        for figure in model.figures()
        if all(name in columns for name in figure.needs)
    }
    common = {"measure": MEASURES[transform], "num_images": len(images), "num_samples": num_samples}
    known = {field.name for field in dataclasses.fields(Evaluation)}
    own = [(name, object, None) for name in found if name not in known]
    cls = (
        dataclasses.make_dataclass("Evaluation", own, bases=(Evaluation,), frozen=True, kw_only=True)
        if own
        else Evaluation
    )
    return cls(**common, **found, seconds=round(time.perf_counter() - start, 1))


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
    require(model, "log_prob_given_noise")
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
        log_likelihood_standard_error=standard_error(log_p),
        bits_per_dim=float(bits_per_dim(log_p.mean() - _log_bin(transform, num_dims), num_dims)),
        effective_sample_size=float(estimate.effective_sample_size.mean()),
        acceptance=float(estimate.acceptance.mean()),
        least_acceptance=float(estimate.acceptance.min()),
        seconds=round(time.perf_counter() - start, 1),
        perplexity=perplexity(log_p, images) if model.domain.of_words else None,
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
    require(model, "approximate_posterior")
    model.domain.check("images", images, model.example_shape)
    if checks.positive_int("num_draws", num_draws) <= model.latent_dim:
        raise ValueError(f"`num_draws` must be more than the {model.latent_dim} latents. Received: {num_draws}")

    def log_widths(rows):
        q = model.approximate_posterior(model.domain.values(images[rows.start : rows.stop]))
        noise = model.noise(num_draws, 1, seed=noise_seed(seed, Stream.IMPORTANCE, rows.start))
        z = np.asarray(q.bijector.forward(noise)[:, 0], np.float64)  # [S, D]
        return np.log(np.linalg.svd(z - z.mean(axis=0), compute_uv=False) / math.sqrt(num_draws - 1))[np.newaxis]

    return np.exp(batched(log_widths, range(len(images)), 1).mean(axis=0))
