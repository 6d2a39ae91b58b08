"""AS-VAE: a linear-Gaussian pair in closed form, the game's players, and what is refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.special import expit, log_expit
from scipy.stats import multivariate_normal

from vaezoo.base.modes import in_mode
from vaezoo.inference.density_ratios import contrast, unpaired
from vaezoo.layers.batch_norm import BatchNormalization, averages_held
from vaezoo.layers.discriminators import CodeNet, ImageNet, JointNet, KnownDensities, LogRatios, Pairs
from vaezoo.models import VAE
from vaezoo.models.as_vae import ASVAE, DISCRIMINATORS
from vaezoo.objectives import ALI, ELBO, Contest, SymmetricBound, elbo
from vaezoo.posteriors import POSTERIORS

tfd = tfp.distributions

# The pair: q(x) = N(m, S), q(z | x) = N(V x + c, diag(s^2)) and p(z) = N(0, I), p(x | z) = N(W z + b, diag(t^2)).

PIXELS, LATENTS = 3, 2
SHAPE = (PIXELS, 1, 1)
RNG = np.random.default_rng(0)
DATA_MEAN, DATA_FACTOR = RNG.normal(0.0, 0.5, PIXELS), np.tril(RNG.normal(0.0, 0.3, (PIXELS, PIXELS))) + np.eye(PIXELS)
SIZES = {
    "W": (PIXELS, LATENTS),
    "b": (PIXELS,),
    "t": (PIXELS,),
    "V": (LATENTS, PIXELS),
    "c": (LATENTS,),
    "s": (LATENTS,),
}
PARAMETERS = RNG.normal(0.0, 0.3, sum(map(np.prod, SIZES.values())))


def play(model, x, noise):
    """`model.game`, as a training step plays it."""
    return in_mode(model, lambda: model.game(x, noise), training=True)


def named(parameters):
    """A flat vector -> the arrays of the pair; t and s are exponentials."""
    parts = np.split(parameters, np.cumsum([np.prod(size) for size in SIZES.values()])[:-1])
    arrays = {name: part.reshape(size) for (name, size), part in zip(SIZES.items(), parts, strict=True)}
    return {**arrays, "t": np.exp(arrays["t"]), "s": np.exp(arrays["s"])}


def joint(mean, covariance, matrix, offset, scales):
    """N(mean, covariance) of u, and v = matrix u + offset + scales * noise: mean and covariance of (u, v)."""
    of_v = matrix @ covariance @ matrix.T + np.diag(scales**2)
    cross = covariance @ matrix.T
    return np.append(mean, matrix @ mean + offset), np.block([[covariance, cross], [cross.T, of_v]])


def marginal(gaussian, part):
    return gaussian[0][part], gaussian[1][part, part]


X, Z = slice(PIXELS), slice(PIXELS, None)


def pair(parameters):
    """The joints q(x, z) and p(x, z), each as the mean and the covariance of (x, z)."""
    of = named(parameters)
    q = joint(DATA_MEAN, DATA_FACTOR @ DATA_FACTOR.T, of["V"], of["c"], of["s"])
    mean, covariance = joint(np.zeros(LATENTS), np.eye(LATENTS), of["W"], of["b"], of["t"])
    order = np.r_[LATENTS : LATENTS + PIXELS, :LATENTS]
    return q, (mean[order], covariance[np.ix_(order, order)])


def kl(one, other):
    """KL(N(m1, S1) || N(m2, S2))."""
    return cross_entropy(one, other) - cross_entropy(one, one)


def cross_entropy(one, other):
    """-E_N(m1, S1) log N(.; m2, S2)."""
    precision, gap = np.linalg.inv(other[1]), one[0] - other[0]
    spread = np.trace(precision @ one[1]) + gap @ precision @ gap
    return 0.5 * (spread + np.linalg.slogdet(2.0 * np.pi * other[1])[1])


def divergence_from_posterior(parameters, of_p=None):
    """E_p(x) KL(p(z | x) || q(z | x)), as a KL of joints with p's marginal of x; p may have parameters of its own."""
    of, (_, p) = named(parameters), pair(parameters if of_p is None else of_p)
    return kl(p, joint(*marginal(p, X), of["V"], of["c"], of["s"]))


def divergence_of_images(parameters):
    """KL(p(x) || q(x))."""
    return kl(*(marginal(gaussian, X) for gaussian in reversed(pair(parameters))))


def bounds(parameters):
    """L_x of (5.12) and L_z of (5.13)."""
    q, p = pair(parameters)
    l_x = -cross_entropy(marginal(q, X), marginal(p, X)) - kl(q, p)
    return l_x, -cross_entropy(marginal(p, Z), marginal(q, Z)) - kl(p, q)


def central_differences(function, step=1e-5):
    steps = step * np.eye(len(PARAMETERS))
    return np.array([(function(PARAMETERS + h) - function(PARAMETERS - h)) / (2.0 * step) for h in steps])


def log_density(gaussian, values):
    """log N(values; mean, covariance) in float64, [B]."""
    mean, covariance = gaussian
    p = tfd.MultivariateNormalTriL(tf.constant(mean), tf.constant(np.linalg.cholesky(covariance)))
    return p.log_prob(tf.concat([tf.reshape(value, [len(value), -1]) for value in values], axis=-1))


class Optimal:
    """f1 and f2 of (5.5) in closed form, at parameters that no gradient reaches."""

    shown_to_encoder = staticmethod(tf.identity)

    def log_ratios(self, inferred, generated):
        q, p = pair(PARAMETERS)
        f1 = log_density(q, inferred[:2]) - log_density(marginal(p, X), inferred[:1]) - inferred.log_prior
        product = log_density(marginal(q, X), generated[:1]) + log_density(marginal(q, Z), generated[1:2])
        return LogRatios(f1, log_density(p, generated[:2]) - product, tf.zeros_like(f1))


class OptimalMarginals(KnownDensities):
    """Known densities, and the ratios of the marginals in closed form."""

    def __init__(self):
        super(KnownDensities, self).__init__()
        self.images, self.codes = (lambda value, part=part: self._ratio(part, value) for part in (X, Z))

    def _ratio(self, part, value):
        q, p = pair(PARAMETERS)
        return log_density(marginal(p, part), (value,)) - log_density(marginal(q, part), (value,))


class LinearGaussian(ASVAE):
    """The pair in float64, as a function of a flat vector of parameters."""

    def __init__(self):
        super().__init__(SHAPE, LATENTS, filters=(2,), hidden_units=2, noise_stddev=0.0)
        self.parameters = tf.Variable(PARAMETERS, trainable=False)

    def _named(self):
        parts = tf.split(self.parameters, [np.prod(size) for size in SIZES.values()])
        return {name: tf.reshape(part, size) for (name, size), part in zip(SIZES.items(), parts, strict=True)}

    @property
    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros(LATENTS, tf.float64), tf.ones(LATENTS, tf.float64))

    def approximate_posterior(self, x):
        of = self._named()
        loc = tf.reshape(x, [-1, PIXELS]) @ tf.transpose(of["V"]) + of["c"]
        return tfd.MultivariateNormalDiag(loc, scale_diag=tf.exp(of["s"]) * tf.ones_like(loc))

    def likelihood_distribution(self, z):
        of = self._named()
        loc = z @ tf.transpose(of["W"]) + of["b"]
        scale = tf.exp(of["t"]) * tf.ones_like(loc)
        return tfd.Independent(tfd.Normal(*(tf.reshape(part, [-1, *SHAPE]) for part in (loc, scale))), 3)


@functools.cache
def linear_gaussian():
    return LinearGaussian()


def exact_expectation(discriminators, objective):
    """The expected objective and its gradient, by one step of the game on points that integrate quadratics exactly.

    Every log-density is quadratic in the standard normal noise behind x and the game, of n values in all: the mean over
    the 2n points +-sqrt(n) e_i is its expectation, whatever the parameters.
    """
    model = linear_gaussian()
    model.discriminators, model.objective = discriminators, objective
    size = PIXELS + 2 * LATENTS + 2 * PIXELS
    points = np.sqrt(size) * np.concatenate([np.eye(size), -np.eye(size)])
    x = (DATA_MEAN + points[:, :PIXELS] @ DATA_FACTOR.T).reshape(-1, *SHAPE)
    with tf.GradientTape() as tape:
        tape.watch(model.parameters)
        contest, *_ = play(model, tf.constant(x), tf.constant(points[:, PIXELS:]))
        value = tf.reduce_mean(objective(contest, 0))
    return value.numpy(), tape.gradient(value, model.parameters).numpy()


R, G = SymmetricBound(1.0, 0.0), SymmetricBound(0.0, 1.0)


def test_with_optimal_discriminators_the_estimate_is_the_bound():
    l_x, l_z = bounds(PARAMETERS)
    for objective, bound in (
        (R, l_x),
        (G, l_z),
        (SymmetricBound(), l_x + l_z),
        (SymmetricBound(0.5, 2.0), 0.5 * l_x + 2.0 * l_z),
    ):
        assert exact_expectation(Optimal(), objective)[0] == pytest.approx(bound, abs=1e-10)


def test_a_step_at_fixed_discriminators_follows_the_symmetric_divergence_and_not_the_bound():
    """(5.16) does not say so: log p(x) and log q(z) of (5.12) and (5.13) are inside of f, which a step holds fixed."""
    halves = [lambda parameters: -kl(*pair(parameters)), lambda parameters: -kl(*reversed(pair(parameters)))]
    expected = [central_differences(half) for half in halves]
    for objective, gradient in ((R, expected[0]), (G, expected[1]), (SymmetricBound(), sum(expected))):
        np.testing.assert_allclose(exact_expectation(Optimal(), objective)[1], gradient, atol=1e-8)
        assert np.abs(gradient - central_differences(lambda parameters: sum(bounds(parameters)))).max() > 0.1


def test_known_densities_estimate_the_bound_up_to_the_inexactness_of_the_posterior():
    l_x, l_z = bounds(PARAMETERS)
    gap = divergence_from_posterior(PARAMETERS)
    assert gap > 0.1
    assert exact_expectation(OptimalMarginals(), R)[0] == pytest.approx(l_x, abs=1e-10)
    assert exact_expectation(OptimalMarginals(), G)[0] == pytest.approx(l_z + gap, abs=1e-10)


def test_known_densities_follow_the_divergence_of_images_by_p_and_that_of_posteriors_by_q():
    """KL(p(x, z) || q(x, z)) is the sum of the two; of the second, p's share is left out, which is 0 at the optimum."""
    halves = [
        lambda parameters: -kl(*pair(parameters)),
        lambda parameters: -divergence_of_images(parameters) - divergence_from_posterior(parameters, of_p=PARAMETERS),
    ]
    assert kl(*reversed(pair(PARAMETERS))) == pytest.approx(
        divergence_of_images(PARAMETERS) + divergence_from_posterior(PARAMETERS), abs=1e-10
    )
    for objective, half in zip((R, G), halves, strict=True):
        gradient = exact_expectation(OptimalMarginals(), objective)[1]
        np.testing.assert_allclose(gradient, central_differences(half), atol=1e-8)


class Recorder:
    """Discriminators that keep the pairs that they are shown."""

    shown_to_encoder = staticmethod(tf.identity)

    def log_ratios(self, inferred, generated):
        self.pairs = inferred, generated
        return LogRatios(tf.zeros_like(inferred.log_q), tf.zeros_like(generated.log_q), None)


@pytest.mark.parametrize("objective", [SymmetricBound(), R, G])
def test_pairs_have_the_densities_of_scipy(objective):
    model, recorder = linear_gaussian(), Recorder()
    model.discriminators, model.objective = recorder, objective
    rng = np.random.default_rng(1)
    data, noise = rng.standard_normal((5, PIXELS)), rng.standard_normal((5, 2 * LATENTS + 2 * PIXELS))
    play(model, tf.constant(data.reshape(-1, *SHAPE)), tf.constant(noise))
    of = named(PARAMETERS)
    inferred_z = data @ of["V"].T + of["c"] + of["s"] * noise[:, :LATENTS]
    z = noise[:, LATENTS : 2 * LATENTS]
    x = z @ of["W"].T + of["b"] + of["t"] * noise[:, -PIXELS:]
    for pairs, expected_x, expected_z in zip(recorder.pairs, (data, x), (inferred_z, z), strict=True):
        np.testing.assert_allclose(pairs.x[..., 0, 0], expected_x, atol=1e-12)
        np.testing.assert_allclose(pairs.z, expected_z, atol=1e-12)
        for row, (one_x, one_z) in enumerate(zip(expected_x, expected_z, strict=True)):
            densities = [
                multivariate_normal(of["W"] @ one_z + of["b"], np.diag(of["t"] ** 2)).logpdf(one_x),
                multivariate_normal(of["V"] @ one_x + of["c"], np.diag(of["s"] ** 2)).logpdf(one_z),
                multivariate_normal(np.zeros(LATENTS)).logpdf(one_z),
            ]
            np.testing.assert_allclose([pairs.log_lik[row], pairs.log_q[row], pairs.log_prior[row]], densities)


# The players.

IMAGE_SHAPE = (6, 5, 1)
IMAGES = np.random.default_rng(2).random((24, *IMAGE_SHAPE)).astype("float32")
GAMES = {"joint": SymmetricBound, "known_densities": SymmetricBound, "ali": ALI}


def make(objective=None, *, discriminator="known_densities", learning_rate=1e-2, **settings):
    keras.utils.set_random_seed(0)
    sizes = {"latent_dim": 3, "filters": (4, 5), "hidden_units": 8}
    model = ASVAE(IMAGE_SHAPE, discriminator=discriminator, **{**sizes, **settings})
    model.compile(keras.optimizers.Adam(learning_rate), objective)
    return model


def values(variables):
    return [np.array(variable) for variable in variables]


def moved(before, variables):
    return [not np.array_equal(one, other) for one, other in zip(before, values(variables), strict=True)]


def test_as_vae_r_of_known_densities_has_the_gradient_of_the_plain_vae():
    model = make(R)
    noise = model.game_noise(len(IMAGES), seed=[0, 1])
    with tf.GradientTape() as tape:
        contest, *_ = play(model, tf.constant(IMAGES), noise)
        of_game = tf.reduce_mean(R(contest, 0))
    expected_of = tape.gradient(of_game, model.bound_variables)
    with tf.GradientTape() as tape:
        terms = in_mode(model, lambda: model.terms(IMAGES, noise[np.newaxis, :, :3]), training=True)
        bound = tf.reduce_mean(elbo(terms))
    for one, other in zip(expected_of, tape.gradient(bound, model.bound_variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert sum(map(tf.norm, expected_of)) > 1.0


@pytest.mark.parametrize("discriminator", GAMES)
def test_a_step_moves_both_players_and_one_on_a_bound_only_one(discriminator):
    model = make(discriminator=discriminator)
    for objective, rivals_move in ((None, True), (ELBO(), False)):
        model.compile(keras.optimizers.Adam(1e-2), objective, run_eagerly=True)
        own, rivals = values(model.bound_variables), values(model.discriminators.weights)
        logs = model.fit(IMAGES, batch_size=12, epochs=2, verbose=0).history
        assert np.isfinite(list(logs.values())).all()
        assert all(moved(own, model.bound_variables))
        assert (
            all(moved(rivals, model.discriminators.weights))
            == any(moved(rivals, model.discriminators.weights))
            == rivals_move
        )
        assert ("discriminator_loss" in logs) == rivals_move
        assert len(model.optimizers) == 1 + rivals_move


def with_fixed_noise(discriminator, learning_rate):
    """A game of SGD on pairs that are the same in each step, as long as encoder and decoder are."""
    model = make(discriminator=discriminator)
    model.compile(keras.optimizers.SGD(learning_rate))
    noise = model.game_noise(len(IMAGES), seed=[0, 1])
    model.game_noise = lambda batch_size, *, seed: noise
    return model


@pytest.mark.parametrize("discriminator", GAMES)
def test_a_step_climbs_the_objective_and_descends_the_discriminators_loss(discriminator):
    """SGD's step is the rate times autodiff's gradient of the mean over images: up for one, down for the other."""
    model = with_fixed_noise(discriminator, 0.1)
    own, rivals = model.bound_variables, model.discriminators.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        contest, _, loss = play(model, tf.constant(IMAGES), model.game_noise(len(IMAGES), seed=None))
        value, loss = tf.reduce_mean(model.objective(contest, 0)), tf.reduce_mean(loss)
    up, down = tape.gradient(value, own), tape.gradient(loss, rivals)
    assert tf.linalg.global_norm(up) > 0.1
    assert tf.linalg.global_norm(down) > 0.1
    expected = [variable + 0.1 * gradient for variable, gradient in zip(own, up, strict=True)]
    expected += [variable - 0.1 * gradient for variable, gradient in zip(rivals, down, strict=True)]
    model.train_step(tf.constant(IMAGES))
    for variable, wanted in zip([*own, *rivals], expected, strict=True):
        np.testing.assert_allclose(variable, wanted, rtol=1e-4, atol=1e-5, err_msg=variable.path)


@pytest.mark.parametrize("discriminator", GAMES)
def test_the_loss_of_discriminators_falls_on_fixed_pairs(discriminator):
    """While encoder and decoder rest, each step's is lower than the one before."""
    model, losses = with_fixed_noise(discriminator, 0.02), []
    model.optimizer.learning_rate = 0.0
    before = values(model.bound_variables)
    for _ in range(4):
        model.discriminator_tracker.reset_state()
        losses.append(float(model.train_step(tf.constant(IMAGES))["discriminator_loss"]))
    assert np.all(np.diff(losses) < 0.0)
    assert not any(moved(before, model.bound_variables))


@pytest.mark.parametrize("discriminator", GAMES)
def test_discriminators_that_know_nothing_lose_2_log_2_each(discriminator):
    model = make(discriminator=discriminator)
    for layer in model.discriminators._flatten_layers():
        if layer.name == "score":
            layer.kernel.assign(tf.zeros_like(layer.kernel))
    _, _, loss = play(model, tf.constant(IMAGES), model.game_noise(len(IMAGES), seed=[0, 1]))
    np.testing.assert_allclose(loss, (1 if discriminator == "ali" else 2) * 2.0 * np.log(2.0), rtol=1e-6)


# The nets in float64, from weights alone, under moving averages.


def relu(h):
    return np.maximum(h, 0.0)


def normalized(layer, h):
    mean, variance, gain, shift = (np.asarray(v) for v in (layer.mean, layer.variance, layer.gain, layer.shift))
    return gain * (h - mean) / np.sqrt(variance + 1e-4) + shift


def dense(layer, h):
    return h @ np.asarray(layer.kernel, "float64") + (np.asarray(layer.bias) if layer.use_bias else 0.0)


def conv(layer, h, strides):
    h = np.asarray(
        keras.ops.conv(np.asarray(h, "float64"), np.asarray(layer.kernel, "float64"), strides, padding="same")
    )
    return h + (np.asarray(layer.bias) if layer.use_bias else 0.0)


def transposed(layer, h, size):
    """The adjoint of a convolution of stride 2 from twice the maps of h, cut at the lower right."""
    h = np.asarray(keras.ops.conv_transpose(h, np.asarray(layer.kernel, "float64"), 2, padding="same"))
    return h[:, : size[0], : size[1]]


def layers_of(net, kind):
    """A Sequential's layers of a kind, in order, to be taken one by one."""
    return iter([layer for layer in net.layers if isinstance(layer, kind)])


def plain_convolutions(net, h, strides):
    convs, norms = layers_of(net, keras.layers.Conv2D), layers_of(net, BatchNormalization)
    for stride in strides:
        h = relu(normalized(next(norms), conv(next(convs), h, stride)))
    assert next(convs, None) is next(norms, None) is None
    return h


def shaken(net):
    """All weights, and the moving averages, off their initial values."""
    rng = np.random.default_rng(5)
    for weight in net.weights:
        if weight.dtype == "float32":
            value = weight + rng.normal(0.0, 0.4, weight.shape)
            weight.assign(np.exp(value) if "variance" in weight.path else value)
    return net


@pytest.mark.parametrize("convs_per_stage", [1, 2])
def test_encoder_and_decoder_are_convolutions_normalised_and_rectified(convs_per_stage):
    model = shaken(make(convs_per_stage=convs_per_stage))
    maps = plain_convolutions(model.encoder_maps, IMAGES, [2, 1][:convs_per_stage] * 2)
    layer, norm = (next(layers_of(model.encoder_dense, kind)) for kind in (keras.layers.Dense, BatchNormalization))
    features = relu(normalized(norm, dense(layer, maps.reshape(len(IMAGES), -1))))
    np.testing.assert_allclose(model.encoder(IMAGES), features, rtol=1e-3, atol=1e-4)

    z = np.random.default_rng(6).normal(size=(4, 3))
    kinds = keras.layers.Dense, keras.layers.Conv2D, keras.layers.Conv2DTranspose, BatchNormalization
    denses, convs, ups, norms = (layers_of(model.decoder, kind) for kind in kinds)
    h = relu(normalized(next(norms), dense(next(denses), z)))
    h = relu(normalized(next(norms), dense(next(denses), h))).reshape(4, 2, 2, 5)
    convs = iter([layer for layer in convs if not isinstance(layer, keras.layers.Conv2DTranspose)])
    for size in ((3, 3), IMAGE_SHAPE[:2]):
        for _ in range(convs_per_stage - 1):
            h = relu(normalized(next(norms), conv(next(convs), h, 1)))
        h = relu(normalized(next(norms), transposed(next(ups), h, size)))
    mean, scale = np.split(conv(next(convs), h, 1), 2, axis=-1)
    for rest in (denses, convs, ups, norms):
        assert next(rest, None) is None
    p = model.likelihood_distribution(z.astype("float32"))
    np.testing.assert_allclose(p.mean(), expit(mean), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(p.stddev(), np.hypot(0.1, expit(scale + np.log(3.0 / 7.0))), rtol=1e-3, atol=1e-4)


def test_nets_of_discriminators_are_their_figures():
    """Convolutions of x, averaged over the image and joined to a layer of z, or flattened; layers; a score."""
    z = np.random.default_rng(6).normal(size=(24, 3))
    joint, images, codes = (
        shaken(net) for net in (JointNet(IMAGE_SHAPE, 3, (4, 5), 8), ImageNet(IMAGE_SHAPE, (4, 5), 8), CodeNet(3, 8))
    )

    def mlp(net, h):
        for layer in layers_of(net, keras.layers.Dense):
            h = relu(dense(layer, h))
        return h

    h = plain_convolutions(joint.convolutions, IMAGES, [2, 2]).mean(axis=(1, 2))
    h = mlp(joint.both, np.concatenate([h, mlp(joint.code, z)], axis=-1))
    np.testing.assert_allclose(joint(IMAGES, z.astype("float32")), dense(joint.score, h)[:, 0], rtol=1e-3, atol=1e-4)
    h = mlp(images.dense, plain_convolutions(images.convolutions, IMAGES, [2, 2]).reshape(24, -1))
    np.testing.assert_allclose(images(IMAGES), dense(images.score, h)[:, 0], rtol=1e-3, atol=1e-4)
    h = mlp(codes.dense, z)
    np.testing.assert_allclose(codes(z.astype("float32")), dense(codes.score, h)[:, 0], rtol=1e-3, atol=1e-4)


class Net:
    """Keeps what it is asked; its score is the sum of a row less that of all rows' mean, for rows to see each other."""

    def __call__(self, *inputs):
        self.asked = inputs
        return self.score(*inputs)

    @staticmethod
    def score(*inputs):
        sums = tf.add_n([tf.reduce_sum(tf.reshape(value, [len(value), -1]), axis=1) for value in inputs])
        return sums - tf.reduce_mean(sums)


@pytest.mark.parametrize("discriminator", GAMES)
def test_discriminators_tell_the_pairs_of_their_formula_apart(discriminator):
    """(5.3), (5.4): q(x, z) from p(x) p(z), p(x, z) from q(x) q(z); p from q of each marginal; (5.1): the joints."""
    rng = np.random.default_rng(3)
    inferred, generated = (
        Pairs(*(tf.constant(rng.normal(size=size)) for size in [(4, *IMAGE_SHAPE), (4, 3), (4,), (4,), (4,)]))
        for _ in range(2)
    )
    layer = DISCRIMINATORS[discriminator](IMAGE_SHAPE, 3, (4, 5), 8)
    names = {"joint": ("first", "second"), "known_densities": ("images", "codes"), "ali": ("net",)}[discriminator]
    nets = [Net() for _ in names]
    for name, net in zip(names, nets, strict=True):
        setattr(layer, name, net)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inferred, generated])
        ratios = layer.log_ratios(inferred, generated)

    def strangers(pairs):
        return pairs.x, np.roll(pairs.z, 1, axis=0)

    def own(pairs):
        return pairs.x, pairs.z

    expected = {
        "joint": [(own(inferred), strangers(generated)), (own(generated), strangers(inferred))],
        "known_densities": [((generated.x,), (inferred.x,)), ((generated.z,), (inferred.z,))],
        "ali": [(own(inferred), own(generated))],
    }[discriminator]
    loss, scores = 0.0, []
    for net, (real, fake) in zip(nets, expected, strict=True):
        rows = [np.concatenate(pair) for pair in zip(real, fake, strict=True)]
        for asked, wanted in zip(net.asked, rows, strict=True):
            np.testing.assert_array_equal(asked, wanted)
        scores.append(np.split(Net.score(*rows), 2))
        loss -= log_expit(scores[-1][0]) + log_expit(-scores[-1][1])  # real is scored up, and fake down
    np.testing.assert_allclose(ratios.loss, loss)
    if discriminator == "joint":
        of_inferred, of_generated = scores[0][0], scores[1][0]
    elif discriminator == "ali":
        of_inferred, of_generated = scores[0]
    else:
        (r_generated, r_inferred), (s_generated, _) = scores
        of_inferred = inferred.log_q - inferred.log_prior - r_inferred
        of_generated = generated.log_q - generated.log_prior + r_generated + s_generated
    np.testing.assert_allclose(ratios.of_inferred, of_inferred)
    np.testing.assert_allclose(ratios.of_generated, of_generated)
    if discriminator != "ali":  # what is there for the discriminator passes no gradient on
        unconnected = tf.UnconnectedGradients.ZERO
        assert not np.any(tape.gradient(ratios.of_inferred, generated.x, unconnected_gradients=unconnected))
    if discriminator == "joint":
        assert not np.any(tape.gradient(ratios.of_generated, inferred.x, unconnected_gradients=unconnected))


def test_discriminators_learn_the_log_ratio():
    """Lemma 7, by enumeration: of two distributions over three values, the loss is least at log p - log q."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
    f = tf.Variable(np.log(p / q))
    with tf.GradientTape() as tape:
        _, _, loss = contrast(lambda rows: tf.gather(f, rows), (tf.range(3),), (tf.range(3),))
        at_real, at_fake = tf.nn.softplus(-f), loss - tf.nn.softplus(-f)
        expected_loss = tf.reduce_sum(p * at_real + q * at_fake)
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(expected_loss, f)), 0.0, atol=1e-12)


def test_unpaired_takes_no_image_with_its_own_code():
    pairs = Pairs(tf.range(5), tf.range(5), None, None, None)
    x, z = unpaired(pairs)
    assert not np.any(x == z)
    assert sorted(z.numpy()) == sorted(x.numpy())


@pytest.mark.parametrize(("objective", "kinds"), [(R, "inferred"), (G, "generated"), (SymmetricBound(), "both")])
def test_averages_follow_the_images_and_the_codes_that_count(objective, kinds):
    model = make(objective, learning_rate=0.0)
    nets = model.encoder_maps, model.encoder_dense, model.decoder
    averages = [weight for net in nets for weight in net.weights if weight.path.endswith(("/mean", "/variance"))]
    before, noise = values(averages), model.game_noise(len(IMAGES), seed=[0, 1])
    play(model, tf.constant(IMAGES), noise)
    after = values(averages)
    assert all(moved(before, averages))
    for average, value in zip(averages, before, strict=True):
        average.assign(value)
    q = in_mode(model, lambda: model.approximate_posterior(IMAGES), training=True)
    inferred, generated = q.mean() + q.stddev() * noise[:, :3], noise[:, 3:6]
    codes = {"inferred": [inferred], "generated": [generated], "both": [inferred, generated]}[kinds]
    model.decoder(tf.concat(codes, axis=0), training=True)
    for one, other in zip(after, values(averages), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("objective", "weighed"), [(R, 0), (G, 1)])
def test_codes_without_weight_are_decoded_with_the_statistics_of_the_others(objective, weighed):
    """So a pair depends on the other rows of the weighed kind, and not on those of its own."""
    model, recorder = make(objective), Recorder()
    model.discriminators = recorder
    noise = model.game_noise(len(IMAGES), seed=[0, 1]).numpy()

    def log_lik(changed=None):
        """Of the first pair without weight, where the codes of a kind are others in all other rows."""
        given = noise.copy()
        if changed is not None:
            given[1:, 3 * changed : 3 * changed + 3] *= -2.0
        play(model, tf.constant(IMAGES), tf.constant(given))
        return float(recorder.pairs[1 - weighed].log_lik[0])

    assert log_lik(changed=1 - weighed) == pytest.approx(log_lik(), rel=1e-5)
    assert log_lik(changed=weighed) != pytest.approx(log_lik(), rel=1e-3)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_flows_are_set_from_the_features_of_the_first_step(posterior):
    model = make(posterior=posterior)
    model.initialize(IMAGES)
    if posterior in ("planar", "radial"):
        with averages_held():
            features = in_mode(model, lambda: model.encoder(tf.constant(IMAGES)), training=True)
        params = model.posterior.params(features)
        np.testing.assert_allclose(np.mean(params, axis=0), 0.0, atol=1e-4)
    contest, terms, _ = play(model, tf.constant(IMAGES), model.game_noise(len(IMAGES), seed=[0, 1]))
    assert np.isfinite(SymmetricBound()(contest, 0)).all()
    assert np.abs(np.mean(terms.kl)) < 10.0


def test_discriminators_are_shown_images_with_noise_and_the_encoder_without():
    """The bound of images as they are, whatever the noise on what the discriminators compare."""
    model = make(R)
    recorder = Recorder()
    model.discriminators = recorder
    noise = model.game_noise(len(IMAGES), seed=[0, 1]).numpy()
    _, terms, _ = play(model, tf.constant(IMAGES), tf.constant(noise))
    noise_data = noise[:, 6:36].reshape(IMAGES.shape)
    np.testing.assert_allclose(recorder.pairs[0].x, IMAGES + 0.1 * noise_data, atol=1e-6)
    noise[:, 6:36] = 0.0
    _, same, _ = play(model, tf.constant(IMAGES), tf.constant(noise))
    np.testing.assert_allclose(elbo(terms), elbo(same), rtol=1e-5)


def test_what_has_no_weight_is_not_looked_at():
    broken = Contest(*tf.constant([[1.0], [np.nan], [0.25], [np.nan]]))
    assert R(broken, 0) == 0.75
    assert np.isnan(SymmetricBound()(broken, 0))
    assert SymmetricBound(2.0, 0.5)(Contest(*tf.constant([[1.0], [3.0], [0.25], [1.0]])), 0) == 2.0 * 0.75 + 0.5 * 2.0


def test_ali_is_what_its_paper_minimises():
    logits = np.array([0.3, -2.0, 40.0])
    contest = Contest(None, None, tf.constant(logits), tf.constant(logits[::-1].copy()))
    expected = log_expit(-logits) + log_expit(logits[::-1])  # log(1 - D) at inferred pairs, log D at generated ones
    np.testing.assert_allclose(ALI()(contest, 0), expected, rtol=1e-6)


def test_both_optimizers_are_saved_and_go_on(tmp_path):
    model = make(discriminator="joint")
    model.fit(IMAGES, batch_size=12, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.objective == SymmetricBound()
    for one, other in zip(model.optimizers, again.optimizers, strict=True):
        assert np.all(one.iterations == 2)
        assert len(one.variables) == len(other.variables) > 10
        for variable, copy in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(variable, copy)
    for each in (model, again):
        each.fit(IMAGES, batch_size=12, shuffle=False, verbose=0)
    for weight, copy in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(weight, copy, atol=1e-6, err_msg=weight.path)


def test_the_scale_of_images_is_bounded():
    model = make(noise_stddev=0.2)
    for logit, scale in ((-50.0, 0.2), (50.0, np.sqrt(1.04))):
        model.decoder.layers[-1].bias.assign([0.0, logit])
        np.testing.assert_allclose(model.likelihood_distribution(tf.zeros([2, 3])).stddev(), scale, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "objective", "message"),
    [
        ({"discriminator": "jont"}, None, "Did you mean 'joint'"),
        ({"posterior": "planr"}, None, "Did you mean 'planar'"),
        ({"filters": ()}, None, "`filters` must hold at least one value"),
        ({"convs_per_stage": 0}, None, "`convs_per_stage` must be an integer of at least 1. Received: 0"),
        ({"hidden_units": 0}, None, "`hidden_units` must be an integer of at least 1. Received: 0"),
        ({"noise_stddev": -1.0}, None, "`noise_stddev` must be a finite number of at least 0. Received: -1.0"),
        (
            {"discriminator": "ali"},
            SymmetricBound(),
            "discriminators, ALI, or a bound. Received: Symm",
        ),
        (
            {"discriminator": "joint"},
            ALI(),
            "discriminators, SymmetricBound, or a bound. Received: ALI",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, objective, message):
    with pytest.raises(ValueError, match=message):
        make(objective, **arguments)


@pytest.mark.parametrize("objective", [SymmetricBound(), ALI()])
def test_a_game_is_refused_by_models_without_discriminators(objective):
    with pytest.raises(ValueError, match="`objective` must be one that sees terms, for a VAE.*sees pairs"):
        VAE(IMAGE_SHAPE).compile("adam", objective)


def test_bad_objectives_and_averaged_weights_are_refused():
    with pytest.raises(ValueError, match="`reconstruction_weight` and `generation_weight` must not both be 0"):
        SymmetricBound(0.0, 0.0)
    with pytest.raises(ValueError, match="`generation_weight` must be a finite number of at least 0. Received: -1"):
        SymmetricBound(1.0, -1)
    with pytest.raises(ValueError, match="`optimizer` must not average weights"):
        make().compile(keras.optimizers.Adam(use_ema=True))
