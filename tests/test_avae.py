"""The auxiliary VAE: its densities by scipy, factor by factor, and its estimates of p(x) by quadrature."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.special import log_expit, logsumexp
from scipy.stats import norm

from vaezoo.base.modes import in_mode
from vaezoo.layers.batch_norm import averages_held
from vaezoo.models.avae import AVAE, Factor
from vaezoo.objectives import ELBO, elbo
from vaezoo.posteriors import reparameterize

tfd = tfp.distributions

SHAPE, PIXELS = (2, 3, 1), 6
SIZES = {"latent_dims": (3, 2, 4), "auxiliary_dims": (2, 5, 3), "hidden_units": (7, 8), "activation": "tanh"}
X = np.random.default_rng(0).integers(0, 2, (4, *SHAPE)).astype("float32")


def make(num_layers, stddev=0.3, **settings):
    """A model of so many layers, each weight of which is moved off its initial value."""
    keras.utils.set_random_seed(0)
    settings = {**SIZES, **settings}
    dims = {name: settings.pop(name)[:num_layers] for name in ("latent_dims", "auxiliary_dims")}
    model = AVAE(SHAPE, **dims, **settings)
    move(model.trainable_weights, stddev)
    return model


def move(weights, stddev, seed=1):
    rng = np.random.default_rng(seed)
    for weight in weights:
        weight.assign_add(rng.normal(0.0, stddev, weight.shape))


def weights_of(*layers):
    return [weight for layer in layers for weight in layer.trainable_weights]


def log_density(factor, value, **inputs):
    """log N(value; .) by scipy, of the mean and the scale that the factor gives, [rows]."""
    distribution = factor.distribution(**inputs)
    return norm.logpdf(value, distribution.mean(), distribution.stddev()).sum(-1)


def log_bernoulli(model, x, z):
    """log p(x | z_1) of flat images [rows or 1, HWC] at z_1 [rows, D_1], [rows]."""
    logits = model.likelihood.logits(model.decoder(model.decoder.project(z=z))).numpy().astype("float64")
    return (x * log_expit(logits) + (1 - x) * log_expit(-logits)).sum(-1)


def terms_by_scipy(model, noise):
    """log p(x | z_1) and the columns of (19) and (20), for noise [B, *noise_shape]: one draw of each image of `X`."""
    num_layers = len(model.latent_dims)
    noise = np.split(noise, np.cumsum([*model.auxiliary_dims, *model.latent_dims])[:-1], axis=-1)
    noise_a, noise_z = (dict(enumerate(part, start=1)) for part in (noise[:num_layers], noise[num_layers:]))
    x = X.reshape(len(X), PIXELS)
    a, z, log_q_a, log_q_z = {}, {0: x}, {}, {}  # by layer, from 1
    for i in range(1, num_layers + 1):
        inputs = {"x": x} if i == 1 else {"x": x, "a": a[i - 1]}
        q = model.auxiliary_posteriors[i - 1]
        a[i] = q.distribution(**inputs).mean() + q.distribution(**inputs).stddev() * noise_a[i]
        log_q_a[i] = log_density(q, a[i], **inputs)
        inputs, q = {"a": a[i], "z": z[i - 1]}, model.posteriors[i - 1]
        z[i] = q.distribution(**inputs).mean() + q.distribution(**inputs).stddev() * noise_z[i]
        log_q_z[i] = log_density(q, z[i], **inputs)
    kl = []
    for i in range(1, num_layers + 1):
        above = {f"z_{j}": z[j] for j in range(i, num_layers + 1)}
        kl.append(log_q_a[i] - log_density(model.auxiliary_priors[i - 1], a[i], **above))
        if i < num_layers:
            kl.append(log_q_z[i] - log_density(model.priors[i - 1], z[i], z=z[i + 1]))
        else:
            kl.append(log_q_z[i] - norm.logpdf(z[i]).sum(-1))
    return log_bernoulli(model, x, z[1]), np.stack(kl, axis=-1)


@pytest.mark.parametrize("batch_normalization", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_terms_equal_the_factors_by_scipy(num_layers, batch_normalization):
    model = make(num_layers, batch_normalization=batch_normalization)
    noise = model.noise(3, len(X), seed=[0, 1])
    assert noise.shape == (3, len(X), sum(SIZES["latent_dims"][:num_layers] + SIZES["auxiliary_dims"][:num_layers]))
    terms = model.terms(X, noise)
    assert terms.kl.shape == (3, len(X), 2 * num_layers)
    for draw in range(3):
        log_lik, kl = terms_by_scipy(model, noise[draw].numpy())
        np.testing.assert_allclose(terms.log_lik[draw], log_lik, rtol=1e-5)
        np.testing.assert_allclose(terms.kl[draw], kl, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_terms_of_several_draws_are_those_of_each(num_layers):
    model = make(num_layers)
    noise = model.noise(5, len(X), seed=[0, 1])
    together = model.terms(X, noise)
    for draw in range(5):
        alone = model.terms(X, noise[draw : draw + 1])
        np.testing.assert_allclose(together.log_lik[draw], alone.log_lik[0], rtol=1e-5)
        np.testing.assert_allclose(together.kl[draw], alone.kl[0], rtol=1e-4, atol=1e-5)


def log_p_by_quadrature(model):
    """log p(x) of each image of `X`, from p(x | z_1) p(z_1 | z_2) p(z_2) alone, on a grid of scalar z_1 and z_2."""
    grid, step = np.linspace(-12.0, 12.0, 1201, retstep=True)
    column = grid[:, np.newaxis].astype("float32")
    log_p_z = norm.logpdf(grid)
    if len(model.latent_dims) == 2:
        p = model.priors[0].distribution(z=column)  # a z_1 for each z_2 of the grid
        log_joint = norm.logpdf(grid, p.mean().numpy(), p.stddev().numpy()) + log_p_z[:, np.newaxis]  # [z_2, z_1]
        log_p_z = logsumexp(log_joint, axis=0) + np.log(step)
    np.testing.assert_allclose(logsumexp(log_p_z) + np.log(step), 0.0, atol=1e-4)  # the grid is wide enough
    log_lik = np.stack([log_bernoulli(model, x[np.newaxis], column) for x in X.reshape(len(X), PIXELS)])
    return logsumexp(log_lik + log_p_z, axis=-1) + np.log(step)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_importance_weights_estimate_p_of_x_whatever_p_of_a(num_layers):
    """a integrates out of p(x, a, z): the networks p(a | z) move the bound, and the estimate within its error."""
    model = make(num_layers, stddev=0.1, latent_dims=(1, 1), auxiliary_dims=(1, 1))
    move(weights_of(model.decoder, model.likelihood), 0.7)
    move(weights_of(*model.priors), 0.2)
    for q in (*model.auxiliary_posteriors, *model.posteriors):
        q.head.params.bias.assign_add([0.0, 0.5])  # wider than the priors, so that no weight is large
    expected, bounds, num_samples = log_p_by_quadrature(model), [], 100_000
    for _ in range(2):
        estimate = model.importance_estimate(X, num_samples=num_samples, chunk=20_000)
        error = np.sqrt(1.0 / estimate.effective_sample_size - 1.0 / num_samples)  # of the logarithm
        assert error.max() < 0.02
        assert np.all(np.abs(estimate.log_likelihood - expected) < 4.0 * error)
        bounds.append(estimate.log_lik - tf.reduce_sum(estimate.kl, -1))
        assert np.all(bounds[-1] < expected)
        move(weights_of(*model.auxiliary_priors), 0.2, seed=2)
    assert np.all(np.abs(bounds[0] - bounds[1]) > 0.1)


def test_only_the_top_layer_has_a_closed_form_and_it_is_the_mean_of_the_sampled_one():
    model = make(2)
    # 10,000 draws of the noise of z_2, for each image at the same draw of all that it depends on.
    noise = tf.concat([tf.tile(model.noise(1, 4, seed=[0, 1])[..., :-2], [10_000, 1, 1]), normal([10_000, 4, 2])], -1)
    sampled, closed = (model.terms(X, noise, analytic_kl=analytic_kl) for analytic_kl in (False, True))
    np.testing.assert_array_equal(sampled.kl[..., :-1], closed.kl[..., :-1])
    np.testing.assert_array_equal(sampled.log_lik, closed.log_lik)
    column = sampled.kl[..., -1].numpy().astype("float64")
    assert np.ptp(closed.kl[..., -1], axis=0).max() < 1e-5
    error = column.std(axis=0) / 100.0
    assert np.all(np.abs(column.mean(axis=0) - closed.kl[0, :, -1]) < 4.0 * error)
    assert closed.kl[..., -1].numpy().min() > 4.0 * error.max()


def normal(shape):
    return tf.constant(np.random.default_rng(3).standard_normal(shape), tf.float32)


def test_generating_goes_down_the_priors():
    model = make(3)
    noise = model.noise(1, 5, seed=[0, 1])
    *_, z_1, z_2, z = tf.split(noise[0], [*model.auxiliary_dims, *model.latent_dims], axis=-1)
    for factor, draw in ((model.priors[1], z_2), (model.priors[0], z_1)):
        p = factor.distribution(z=z)
        z = p.mean() + p.stddev() * draw
    np.testing.assert_allclose(model.generate(noise), model.decode(z), rtol=1e-5)
    other_a = tf.concat([normal([1, 5, sum(model.auxiliary_dims)]), noise[..., sum(model.auxiliary_dims) :]], axis=-1)
    np.testing.assert_array_equal(model.generate(noise), model.generate(other_a))


def test_code_is_z_1_at_zero_noise_and_its_decoding_the_reconstruction():
    model = make(2)
    _, z = model.infer(X, tf.zeros([1, len(X), *model.noise_shape]))
    np.testing.assert_allclose(model.encode(X), z[0].value[0], rtol=1e-5)
    assert model.encode(X).shape == (len(X), *model.latent_shape) == (4, 3)
    np.testing.assert_allclose(model.decode(model.encode(X)), model(X), rtol=1e-6)


def test_posteriors_of_z_start_at_the_priors_and_those_of_a_near_them_but_not_blind():
    model = AVAE(SHAPE, **SIZES)
    kl = model.terms(X, model.noise(50, len(X), seed=[0, 1])).kl
    assert np.abs(kl[..., 1::2]).max() < 0.1
    assert np.abs(kl).max() < 1.0
    assert np.std(model.auxiliary_posteriors[0].distribution(x=X.reshape(4, -1)).mean(), axis=0).min() > 0.005


def test_a_training_step_moves_the_averages_and_terms_take_them():
    model = make(2, batch_normalization=True)
    model.compile(keras.optimizers.SGD(0.0), ELBO(analytic_kl=False))
    noise = model.noise(2, len(X), seed=[0, 1])

    def averages():
        return [weight.numpy() for weight in model.non_trainable_weights if weight.path.endswith(("mean", "variance"))]

    before, bound = averages(), elbo(model.terms(X, noise))
    assert len(before) == 2 * 2 * (4 + 3 + 1)  # mean and variance of two hidden layers in each network
    for one, other in zip(before, averages(), strict=True):
        np.testing.assert_array_equal(one, other)
    with averages_held():
        assert not np.allclose(elbo(in_mode(model, lambda: model.terms(X, noise), training=True)), bound)
    for one, other in zip(before, averages(), strict=True):
        np.testing.assert_array_equal(one, other)
    model.fit(X, verbose=0)
    for one, other in zip(before, averages(), strict=True):
        assert not np.any(one == other)
    assert not np.allclose(elbo(model.terms(X, noise)), bound)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dims": ()}, "`latent_dims` must hold at least one value"),
        ({"latent_dims": (3, 0)}, "`latent_dims` must be an integer of at least 1. Received: 0"),
        ({"latent_dims": 3}, "`latent_dims` must be a sequence of integers. Received: 3"),
        ({"auxiliary_dims": (4,)}, r"`auxiliary_dims` must hold a value per layer of latents, 2. Received: \(4,\)"),
        ({"auxiliary_dims": (4, 4, 4)}, "`auxiliary_dims` must hold a value per layer of latents, 2"),
        ({"hidden_units": (0,)}, "`hidden_units` must be an integer of at least 1"),
        ({"batch_normalization": 1}, "`batch_normalization` must be true or false. Received: 1"),
        ({"likelihood": "bernouli"}, "Did you mean 'bernoulli'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AVAE(SHAPE, **arguments)


def test_an_auxiliary_variable_reaches_both_modes_of_a_potential():
    """Section 4.1: p(z) = exp(U(z)) / Z of Rezende and Mohamed (2015), with log Z by quadrature.

    Whatever fits one of two equal modes only has a bound (18) of at most log Z - log 2. Which solution is found depends
    on the seed: of the seeds 0-3 two find both modes; the paper calls the other solution the most frequent one.
    """
    grid = np.linspace(-6.0, 6.0, 1201)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1).astype("float32")
    log_z = np.log(np.exp(potential(tf.constant(plane)).numpy().astype("float64")).sum() * (grid[1] - grid[0]) ** 2)

    keras.utils.set_random_seed(2)
    nets = {"hidden_units": (50, 50), "activation": "relu", "batch_normalization": False, "init_stddev": None}
    q_z, p_a = Factor({"a": 2}, 2, **nets), Factor({"z": 2}, 2, **nets)  # q(a) = N(0, I)
    weights = q_z.trainable_variables + p_a.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 5000))
    optimizer.build(weights)

    def draw(noise, temperature=1.0):
        a, noise_z = tf.split(noise, 2, axis=-1)
        q = q_z.distribution(a=a)
        z, log_q_z = reparameterize(q, noise_z)
        log_q_a = tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(a), axis=-1)
        return z, temperature * potential(z) + p_a.distribution(z=z).log_prob(a) - log_q_a - log_q_z

    @tf.function
    def train():
        for step in tf.range(5000):
            noise = tf.random.stateless_normal([200, 4], tf.stack([2, step]))
            with tf.GradientTape() as tape:
                _, bound = draw(noise, tf.minimum(1.0, tf.cast(step, tf.float32) / 3000.0))
                loss = -tf.reduce_mean(bound)
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    train()
    z, bound = draw(tf.random.stateless_normal([20_000, 4], [2, 10**6]))
    assert log_z - np.log(2) + 0.1 < np.mean(bound) < log_z
    assert 0.3 < np.mean(z[:, 0] > 0) < 0.7


def potential(z):
    """U(z) of a ring of radius 2 whose left and right arcs are the modes, [..., 2] -> [...]."""
    ring = -0.5 * tf.square((tf.norm(z, axis=-1) - 2.0) / 0.4)
    arcs = tf.reduce_logsumexp(-0.5 * tf.square((z[..., :1] - [2.0, -2.0]) / 0.6), axis=-1)
    return ring + arcs
