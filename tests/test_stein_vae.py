"""Stein VAE and VIWAE: each step against plain loops, the density against autodiff and scipy, the toy of 4.5.1."""

import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from conftest import IMAGE_SHAPE
from scipy.special import softmax
from test_stein import loops

from vaezoo.models import VAE, SemiSupervisedSteinVAE, SteinVAE
from vaezoo.models.stein_vae import AVERAGED, group_weights
from vaezoo.objectives import ELBO, Stein, iwae

tfd = tfp.distributions
SIZES = dict(image_shape=IMAGE_SHAPE, latent_dim=3, hidden_units=(7, 8))


def make(objective, cls=SteinVAE, **args):
    model = cls(**SIZES, **args)
    model.compile(keras.optimizers.Adam(1e-2), objective)
    return model


def by_loops(model, x, noise, log_density, weights=None):
    """The negated fields of a step for images x, image by image and particle by particle."""
    number, self_term = len(noise), model.objective.self_term
    totals = [np.zeros(v.shape) for v in model.trainable_variables]
    for place in range(len(x)):
        image = x[place : place + 1]
        with tf.GradientTape() as tape:
            z = model.approximate_posterior(image).bijector.forward(noise[:, place : place + 1])  # [S, 1, D]
        scores, climbs = [], []
        for j in range(number):
            with tf.GradientTape(persistent=True) as inner:
                particle = tf.constant(z[j : j + 1])
                inner.watch(particle)
                log_p = log_density(particle, place)
            scores.append(inner.gradient(log_p, particle)[0, 0])
            climbs.append(inner.gradient(log_p, model.trainable_variables))
        w = np.full(number, 1 / number) if weights is None else weights[:, place]
        phi = loops(np.array(z[:, 0], "float64"), np.array(scores, "float64"), w, self_term)
        follows = tape.gradient(z, model.trainable_variables, output_gradients=phi[:, np.newaxis].astype("float32"))
        for total, follow, *climb in zip(totals, follows, *climbs, strict=True):
            total -= 0.0 if follow is None else follow.numpy()
            total -= sum(w[j] * each.numpy() for j, each in enumerate(climb) if each is not None)
    return [total / len(x) for total in totals]


def joint_of(model, x):
    return lambda z, place: (
        model.likelihood_distribution(z[0]).log_prob(x[place : place + 1]) + model.prior.log_prob(z)[0]
    )


def assert_all_close(values, expected):
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("self_term", [False, True])
def test_a_step_equals_plain_loops(images, self_term):
    model, x = make(Stein(4, self_term=self_term)), tf.constant(images[:3])
    gradients, measured = model.training_gradients(x)
    noise = model.training_noise(tf.constant(x))
    assert_all_close(gradients, by_loops(model, x, noise, joint_of(model, x)))
    terms = model.terms(x, noise)
    np.testing.assert_allclose(measured["terms"].log_lik, terms.log_lik, rtol=1e-5)
    assert measured["terms"].kl is None
    z = model.approximate_posterior(x).bijector.forward(noise)
    log_joint = np.array(
        [[joint_of(model, x)(z[j : j + 1, place : place + 1], place)[0] for place in range(3)] for j in range(4)]
    )
    np.testing.assert_allclose(measured["loss"], -log_joint.mean(axis=0), rtol=1e-5)


def test_particles_follow_the_mean_over_weights_of_log_p(images):
    """(4.44): the mean of the log-likelihoods, not the log-likelihood of their mixture."""
    model, x = make(Stein(4, num_examples=40), weight_particles=2), tf.constant(images[:3])
    fields, _ = model.stein_step(x)

    def log_density(z, place):
        log_liks = [p.log_prob(x[place : place + 1]) for p in model.likelihood_distributions(z[0])]
        return (log_liks[0] + log_liks[1]) / 2 + model.prior.log_prob(z)[0]

    assert_all_close([-field for field in fields], by_loops(model, x, model.training_noise(x), log_density))


def test_viwae_equals_plain_loops(images):
    model, x = make(Stein(2, importance_samples=3)), tf.constant(images[:3])
    noise = model.training_noise(tf.constant(x))
    terms = model.terms(x, noise)
    ratios = np.exp(np.asarray(terms.log_lik - terms.kl[..., 0], "float64")).reshape(3, 2, 3)  # [k, M, B]
    of_group = ratios.mean(axis=1) / ratios.mean(axis=1).sum(axis=0)
    weights = np.repeat(of_group[:, np.newaxis] / 2, 2, axis=1).reshape(6, 3)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    gradients, measured = model.training_gradients(x)
    assert_all_close(gradients, by_loops(model, x, noise, joint_of(model, x), weights))
    np.testing.assert_allclose(measured["terms"].kl, terms.kl, rtol=1e-4, atol=1e-4)


def test_the_decoder_of_viwae_climbs_the_importance_weighted_bound(images):
    """With groups of one the weights are those of Burda et al., whose bound autodiff differentiates."""
    model = make(Stein(1, importance_samples=5))
    gradients, _ = model.training_gradients(tf.constant(images))
    decoder = {id(v) for v in [*model.decoders[0].trainable_variables, *model.likelihoods[0].trainable_variables]}
    noise = model.training_noise(tf.constant(images))
    with tf.GradientTape() as tape:
        bound = tf.reduce_mean(iwae(model.terms(images, noise)))
    expected = tape.gradient(bound, model.trainable_variables)
    found = [
        (gradient, -wanted)
        for variable, gradient, wanted in zip(model.trainable_variables, gradients, expected, strict=True)
        if id(variable) in decoder
    ]
    assert len(found) == 6
    assert_all_close(*zip(*found, strict=True))


def test_weights_of_groups_are_softmax_of_their_mean_ratio():
    log_w = np.random.default_rng(0).normal(size=(6, 4)).astype("float32") + 300.0  # no overflow
    weights = group_weights(tf.constant(log_w), 3).numpy()
    ratios = np.exp(log_w.astype("float64") - 300.0).reshape(3, 2, 4).mean(axis=1)
    np.testing.assert_allclose(weights[::2] + weights[1::2], ratios / ratios.sum(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(weights[::2], weights[1::2])


def test_particles_of_weights_move_by_loops(images):
    """(4.11) with p(theta) = N(0, I) and the mean over the minibatch in the place of the data's."""
    model, number = make(Stein(3, num_examples=2), weight_particles=3), 3  # few, for the prior and phi to show
    z_fields, _ = model.stein_step(tf.constant(images))
    gradients, _ = model.training_gradients(tf.constant(images))
    index = {id(v): i for i, v in enumerate(model.trainable_variables)}
    groups = [
        [index[id(v)] for v in [*decoder.trainable_variables, *likelihood.trainable_variables]]
        for decoder, likelihood in zip(model.decoders, model.likelihoods, strict=True)
    ]

    def rows(values):
        return np.array([np.concatenate([np.ravel(values[i]) for i in group]) for group in groups], "float64")

    theta = rows(model.trainable_variables)
    scores = 2 * number * rows(z_fields) - theta  # stein_step has the gradient of the mean over theta
    expected = loops(theta, scores, np.full(number, 1 / number), True) / 2
    np.testing.assert_allclose(-rows(gradients), expected, rtol=1e-3, atol=1e-5)
    assert np.abs(expected - scores / 2 / number).max() > 0.01  # what others add
    others = [i for i in range(len(gradients)) if i not in {i for group in groups for i in group}]
    assert_all_close([-gradients[i] for i in others], [z_fields[i] for i in others])


def test_particles_of_weights_share_the_likelihood(images):
    model = make(Stein(3, num_examples=40), weight_particles=2)
    z = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    log_p = [p.log_prob(images) for p in model.likelihood_distributions(z)]
    np.testing.assert_allclose(
        model.likelihood_distribution(z).log_prob(images), np.logaddexp(*log_p) - math.log(2), rtol=1e-5
    )
    np.testing.assert_allclose(
        model.decode(z), np.mean([p.mean() for p in model.likelihood_distributions(z)], axis=0), atol=1e-6
    )


def test_particles_of_weights_ask_for_the_size_of_the_data(images):
    with pytest.raises(ValueError, match="`num_examples` must be the number of images"):
        make(Stein(3), weight_particles=2).fit(images, verbose=0)


# The density.


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_log_det_equals_autodiff(images, activation):
    model = SteinVAE(**SIZES, activation=activation)
    q, noise = model.approximate_posterior(images), model.noise(2, len(images), seed=[0, 1])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = q.bijector.forward(noise)
    rows = tf.reshape(tape.jacobian(z, noise), [80, 3, 80, 3])
    jacobian = np.asarray([rows[i, :, i] for i in range(80)], "float64")
    np.testing.assert_allclose(
        np.reshape(q.bijector.forward_log_det_jacobian(noise, event_ndims=1), -1),
        np.linalg.slogdet(jacobian)[1],
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_linear_encoder_is_the_gaussian_of_scipy(images):
    model, x = SteinVAE(**SIZES, activation="linear"), images[:2]
    noise = model.noise(50, 2, seed=[0, 2])
    z = np.asarray(model.approximate_posterior(x).bijector.forward(noise), "float64")
    kl = model.terms(x, noise).kl[..., 0]
    encoder = model.encoder
    layers = encoder.projections["noise"], encoder.hidden[0], encoder.codes
    factor = np.linalg.multi_dot([np.asarray(layer.kernel, "float64") for layer in layers])  # xi -> z
    for place in range(2):
        q = scipy.stats.multivariate_normal(model.encode(x)[place], factor.T @ factor)
        prior = scipy.stats.multivariate_normal(np.zeros(3))
        expected = q.logpdf(z[:, place]) - prior.logpdf(z[:, place])
        np.testing.assert_allclose(kl[:, place], expected, rtol=1e-3, atol=1e-3)


# Classes.


@pytest.mark.parametrize("num_groups", [1, 4])
@pytest.mark.parametrize("labels_shape", [[2], [2, 1]])
def test_a_step_with_labels_equals_plain_loops(images, num_groups, labels_shape):
    """(4.54): zeta = N_x / (C rho), and images with and without labels count alike, in the weights of VIWAE, too."""
    model = make(Stein(4 // num_groups, importance_samples=num_groups), SemiSupervisedSteinVAE, num_classes=4)
    x, labelled, y = images[:3], images[10:12], np.array([1, 3])
    share = 2 / 5
    zeta = math.prod(IMAGE_SHAPE) / (4 * share)
    given = tf.constant(labelled), tf.reshape(tf.constant(y), labels_shape)
    gradients, measured = model.training_gradients((given, tf.constant(x)))
    joint, joint_labelled = joint_of(model, x), joint_of(model, labelled)

    def with_label(z, place):
        return joint_labelled(z, place) + zeta * tf.nn.log_softmax(model.logits(z))[0, :, y[place]]

    noises = model.training_noise(tf.constant(x)), model.training_noise(tf.constant(labelled), 1)
    parts = [
        by_loops(model, part, noise, log_density, weights_of_one(model, part, noise, log_density, num_groups))
        for part, noise, log_density in zip((x, labelled), noises, (joint, with_label), strict=True)
    ]
    assert_all_close(gradients, [(1 - share) * one + share * other for one, other in zip(*parts, strict=True)])
    z = model.approximate_posterior(labelled).bijector.forward(noises[1])
    log_p = [tf.nn.log_softmax(model.logits(z[:, place]))[:, y[place]] for place in range(2)]
    np.testing.assert_allclose(measured["cross_entropy"], -np.mean(log_p, axis=1), rtol=1e-5)


def weights_of_one(model, x, noise, log_density, num_groups):
    """Self-normalised weights [k, B] of groups of one, of what is climbed; None for one group."""
    if num_groups == 1:
        return None
    q = model.approximate_posterior(x)
    z = q.bijector.forward(noise)
    log_q = q.distribution.log_prob(noise) - q.bijector.forward_log_det_jacobian(noise, event_ndims=1)
    log_p = [
        [log_density(z[j : j + 1, place : place + 1], place)[0] for place in range(len(x))] for j in range(num_groups)
    ]
    return softmax(np.array(log_p, "float64") - np.asarray(log_q, "float64"), axis=0)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_the_scale_of_a_half_precision_loss_drops_out(images, num_groups):
    fields = []
    for scale in (1.0, 256.0):
        keras.utils.set_random_seed(0)
        model = SteinVAE(**SIZES, dtype="mixed_float16")
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2), initial_scale=scale)
        model.compile(optimizer, Stein(3, importance_samples=num_groups))
        fields.append(model.stein_step(tf.constant(images[:5]))[0])
    for one, other in zip(*fields, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4 * max(1.0, np.abs(one).max()))


def test_class_probabilities_are_a_mean_over_draws(images):
    model = SemiSupervisedSteinVAE(**SIZES, num_classes=4)
    noise = np.random.default_rng(0).standard_normal((AVERAGED, 1, 3)).astype("float32")
    expected = np.mean(
        [
            tf.nn.softmax(model.logits(model.approximate_posterior(images).bijector.forward(np.tile(row, (40, 1)))))
            for row in noise
        ],
        axis=0,
    )
    np.testing.assert_allclose(model.predict_proba(images), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=-1), 1.0, rtol=1e-5)


def test_labels_teach_the_latents(images):
    """The two templates of the images have a class each; eight labels are enough."""
    y = (images[:, 0, 0, 0] > np.median(images[:, 0, 0, 0])).astype(int)
    known = np.where(np.arange(40) < 8, y, -1)
    model = SemiSupervisedSteinVAE(**SIZES, num_classes=2)
    model.compile(keras.optimizers.Adam(1e-2), Stein(4))
    logs = model.fit(images, known, batch_size=20, epochs=60, verbose=0).history
    assert logs["cross_entropy"][-1] < 0.2 * logs["cross_entropy"][0]
    assert np.mean(model.predict_proba(images).argmax(axis=-1) == y) > 0.9
    assert model.evaluate(images, y, verbose=0, return_dict=True)["error_rate"] < 10


# Objectives.


def test_stein_is_refused_by_models_with_a_density():
    with pytest.raises(ValueError, match="`objective` must be one that sees terms, for a VAE.*sees particles"):
        VAE(IMAGE_SHAPE).compile("adam", Stein())


def test_a_bound_is_refused_where_there_are_labels(images):
    model = make(ELBO(), SemiSupervisedSteinVAE, num_classes=4)
    with pytest.raises(ValueError, match="`objective` must be Stein to learn from labels"):
        model.fit(images, np.arange(40) % 4, verbose=0)


def test_nets_too_narrow_for_a_density_are_refused():
    with pytest.raises(ValueError, match=r"`hidden_units` must be at least `latent_dim`, 9, .* Received: \(10, 8\)"):
        SteinVAE(IMAGE_SHAPE, latent_dim=9, hidden_units=(10, 8))


def test_softmax_is_refused():
    with pytest.raises(ValueError, match="`activation` must act on each unit by itself. Received: 'softmax'"):
        SteinVAE(**SIZES, activation="softmax")


def test_too_few_particles_are_refused():
    for few in (Stein, lambda number: Stein(1, importance_samples=number)):
        with pytest.raises(
            ValueError, match="`num_particles` must be at least 3, of all groups, without the self term"
        ):
            few(2)
    assert Stein(1, self_term=True).num_samples == 1
    assert Stein(2, importance_samples=3).num_samples == 6


# The toy of section 4.5.1: x = theta z + noise, z from two Gaussians. Its exact posterior is known; with the printed
# sigma = 0.1 it has one mode at all points drawn here, and is not Gaussian along the axes: their correlation is 0.8.

THETA, SIGMA = np.array([[2.0, -1.0], [1.0, -2.0]]), 0.1
MEANS = np.array([[5.0, 5.0], [-5.0, -5.0]])
SPAN = 80.0  # x is moved into [0, 1], which is where images lie


class Toy:
    """Prior and decoder of the toy, which stay as they are."""

    @property
    def prior(self):
        components = tfd.MultivariateNormalDiag(tf.constant(MEANS, tf.float32), tf.ones([2, 2]))
        return tfd.MixtureSameFamily(tfd.Categorical(probs=[0.5, 0.5]), components)

    def approximate_posterior(self, x):
        return super().approximate_posterior(SPAN * (x - 0.5))

    def likelihood_distribution(self, z):
        loc = tf.reshape(z @ tf.constant(THETA.T, tf.float32), [-1, 1, 2, 1]) / SPAN + 0.5
        return tfd.Independent(tfd.Normal(loc, SIGMA / SPAN), 3)

    def likelihood_distributions(self, z):
        return [self.likelihood_distribution(z)]


class ToySteinVAE(Toy, SteinVAE):
    """The Stein VAE of the toy."""


class ToyVAE(Toy, VAE):
    """The Gaussian VAE of the toy."""


def exact_posterior(x):
    """Errata of (4.57)-(4.60): precision A = theta'theta / s^2 + I, weights from the completed square."""
    precision = THETA.T @ THETA / SIGMA**2 + np.eye(2)
    means = [np.linalg.solve(precision, THETA.T @ x / SIGMA**2 + mean) for mean in MEANS]
    covariance = np.linalg.inv(precision)
    evidence = [
        scipy.stats.multivariate_normal(THETA @ mean, THETA @ THETA.T + SIGMA**2 * np.eye(2)).logpdf(x)
        for mean in MEANS
    ]
    shares = np.exp(evidence - np.logaddexp(*evidence))
    parts = [scipy.stats.multivariate_normal(mean, covariance) for mean in means]
    return lambda z: sum(share * part.pdf(z) for share, part in zip(shares, parts, strict=True)), means, covariance


def total_variation(model, x, cells=30, draws=100_000):
    """Between draws from the model and the exact posterior, on a grid of cells that holds nearly all of both."""
    density, means, covariance = exact_posterior(x)
    centre, reach = means[0], 5 * np.sqrt(np.diag(covariance))
    edges = [np.linspace(c - r, c + r, cells + 1) for c, r in zip(centre, reach, strict=True)]
    fine = [np.linspace(c - r, c + r, 8 * cells + 1) for c, r in zip(centre, reach, strict=True)]
    middles = np.stack(np.meshgrid(*[(f[1:] + f[:-1]) / 2 for f in fine], indexing="ij"), axis=-1)
    area = np.prod([f[1] - f[0] for f in fine])
    exact = area * density(middles).reshape(cells, 8, cells, 8).sum(axis=(1, 3))
    image = (x / SPAN + 0.5).reshape(1, 1, 2, 1).astype("float32")
    z = model.approximate_posterior(image).bijector.forward(model.noise(draws, 1, seed=[0, 3]))[:, 0]
    found = np.histogram2d(*np.asarray(z).T, bins=edges)[0] / draws
    return 0.5 * (np.abs(exact - found).sum() + (1 - exact.sum()) + (1 - found.sum()))


@pytest.mark.rest
@pytest.mark.slow
def test_stein_comes_closer_to_the_exact_posterior_than_a_diagonal_gaussian():
    rng = np.random.default_rng(0)
    z = MEANS[rng.integers(2, size=10_010)] + rng.normal(size=(10_010, 2))
    points = z @ THETA.T + SIGMA * rng.normal(size=z.shape)
    x = (points / SPAN + 0.5).reshape(-1, 1, 2, 1).astype("float32")
    variations = {}
    for cls, objective in ((ToySteinVAE, Stein(20)), (ToyVAE, ELBO(20, analytic_kl=False))):
        model = cls((1, 2, 1), latent_dim=2, hidden_units=(100,))
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 3000)), objective, jit_compile=True
        )
        model.fit(x[10:], batch_size=100, epochs=30, verbose=0)
        variations[cls] = np.mean([total_variation(model, point) for point in points[:10]])
    assert variations[ToySteinVAE] < 0.34 < 0.37 < variations[ToyVAE]
