"""Bounds with a class against brute force, the estimate from two classes, labels in and out, batch normalisation."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from conftest import CASES, IMAGE_SHAPE, how_it_trains, one_per_shape

from vaezoo import data
from vaezoo.base.labelled import paired_batches
from vaezoo.base.modes import in_mode
from vaezoo.base.semi_supervised import SemiSupervisedModel
from vaezoo.inference.class_sums import expectation_over_classes, one_hot_draw, top_class_and_another
from vaezoo.layers.batch_norm import MOMENTUM, BatchNormalization
from vaezoo.models import ADGM, M1, M1M2, M2, MODELS, SDGM
from vaezoo.noise import Stream, noise_seed
from vaezoo.objectives import ELBO, SemiSupervisedELBO, alpha, elbo, log_weights

PIXELS = {"likelihood": "bounded_mean_gaussian", "principal_components": 0}
SYSTEMS = sorted(name for name, model in MODELS.items() if issubclass(model, SemiSupervisedModel))


@pytest.fixture(scope="module", params=SYSTEMS)
def model(request):
    """A tiny model of each system, trained a few steps with labels, so that its nets mean something."""
    keras.utils.set_random_seed(0)
    model = MODELS[request.param](**CASES[request.param].args)
    model.compile(keras.optimizers.Adam(1e-2), SemiSupervisedELBO(alpha=1.0), run_eagerly=True)
    x = np.random.default_rng(0).random((40, *IMAGE_SHAPE), np.float32)
    model.fit(x, labels_of(x), batch_size=10, epochs=2, verbose=0)
    return model


def labels_of(images, num_classes=4, known=16):
    labels = np.arange(len(images)) % num_classes
    labels[known:] = -1
    return labels


# The bounds.


def test_unlabelled_bound_is_the_sum_over_classes_of_labelled_ones(model, images):
    """(3.8) by brute force: each class's L(x, y) by `labelled_terms`, weighed by q(y | a, x), on the same noise."""
    noise = model.noise(3, len(images), seed=[0, 1])
    unlabelled = elbo(model.unlabelled_terms(images, noise))
    noise_a, _, _ = model._parts(noise)
    log_q = np.broadcast_to(model.infer(images, noise_a).log_q_y, (3, len(images), model.num_classes)).astype("float64")
    total = 0.0
    for k in range(model.num_classes):
        terms, cross_entropy = model.labelled_terms(images, np.full(len(images), k), noise)
        bound = np.asarray(log_weights(terms), "float64")  # [S, B], L before the mean over a
        np.testing.assert_allclose(cross_entropy, -log_q[..., k].mean(axis=0), rtol=1e-5, atol=1e-6)
        total += np.exp(log_q[..., k]) * (bound - log_q[..., k])
    np.testing.assert_allclose(unlabelled, total.mean(axis=0), rtol=1e-5, atol=1e-4)


def test_terms_of_drawn_classes_have_the_unlabelled_bound_for_mean(model, images):
    few, many = images[:3], 20_000
    noise = model.noise(many, 3, seed=[0, 2])
    drawn = np.asarray(log_weights(model.terms(few, noise)), "float64")
    exact = np.asarray(log_weights(model.unlabelled_terms(few, noise)), "float64")
    error = np.std(drawn - exact, axis=0) / np.sqrt(many)
    assert (np.abs(drawn.mean(axis=0) - exact.mean(axis=0)) < 4 * error + 1e-4).all()


def test_joint_bounds_summed_over_classes_stay_below_the_importance_sampled_evidence(model, images):
    few, many = images[:4], 5000
    joint = []
    for k in range(model.num_classes):
        terms, _ = model.labelled_terms(few, np.full(4, k), model.noise(many, 4, seed=[0, 3]))
        joint.append(elbo(terms))  # L(x, k) <= log p(x, k)
    evidence = np.asarray(model.log_likelihood(few, num_samples=many, seed=1))
    unlabelled = np.asarray(elbo(model.unlabelled_terms(few, model.noise(many, 4, seed=[0, 4]))))
    summed = np.asarray(tf.reduce_logsumexp(joint, axis=0))
    assert (summed <= evidence + 0.02).all()
    assert (unlabelled <= evidence + 0.02).all()
    if not model.auxiliary_dim:
        assert (unlabelled <= summed + 0.02).all()  # by Jensen, whatever q(y | x)


@pytest.mark.parametrize("system", ["m2", "adgm", "sdgm"])
def test_evidence_is_that_of_draws_from_the_prior(system, images):
    """log p(x) by importance sampling against the mean of p(x | .) over ancestral draws, which needs no q at all."""
    args = {**CASES[system].args, **PIXELS, "image_shape": (1, 2, 1), "num_classes": 2}
    model = MODELS[system](**args)
    # Of p(x | .); q and p(a | .) stay near N(0, I), so that draws of q cover the posterior.
    for index, weight in enumerate([*model.decoder.trainable_variables, *model.likelihood.trainable_variables]):
        weight.assign(weight + 0.3 * tf.random.stateless_normal(weight.shape, [3, index]))
    x = tf.constant([0.3, 0.6], shape=(1, 1, 2, 1))
    many = 200_000
    noise_a, z, uniform = model._parts(model.noise(1, many, seed=[0, 5])[0])
    y = tf.one_hot(tf.cast(uniform * 2, tf.int32), 2)
    densities = model.likelihood_distribution(tf.concat([z, y], axis=-1), noise_a).log_prob(tf.repeat(x, many, axis=0))
    densities = np.exp(np.asarray(densities, "float64"))
    error = densities.std() / densities.mean() / np.sqrt(many)
    estimate = float(model.log_likelihood(x, num_samples=20_000, chunk=2000)[0])
    assert error < 0.02
    assert abs(estimate - np.log(densities.mean())) < 4 * error + 0.02


def test_bound_of_a_linear_gaussian_model_with_two_classes():
    """log p(x) - U(x) = KL(q || p(y, z | x)), with every factor by scipy; 0 at the exact posterior."""
    model = M2((1, 1, 1), latent_dim=1, num_classes=2, hidden_units=(2,), activation="linear")
    slope, noise_scale, centres, x = 0.7, 0.5, np.array([-0.4, 0.9]), 0.8
    model.likelihood = Affine(slope, noise_scale, centres)
    model.features = lambda y, z, a: tf.concat([tf.broadcast_to(y, [*z.shape[:-1], 2]), z], axis=-1)
    variance = slope**2 + noise_scale**2
    log_joint = np.log(0.5) + scipy.stats.norm(centres, np.sqrt(variance)).logpdf(x)  # log p(x, y)
    log_evidence = np.logaddexp(*log_joint)
    gain = slope / variance
    means, scale = gain * (x - centres), np.sqrt(1 - gain * slope)  # of p(z | x, y)

    def bound(log_q_y, locs, scales):
        log_q_y = np.asarray(log_q_y, "float32")
        model.infer = lambda x, noise_a: Inferred(tf.constant(log_q_y[np.newaxis, np.newaxis]))
        locs, scales = (tf.constant(np.asarray(v, "float32").reshape(2, 1, 1, 1)) for v in (locs, scales))
        model.style_posterior = lambda inference, y: diagonal(locs, scales)
        noise = model.noise(200_000, 1, seed=[0, 6])
        values = np.asarray(log_weights(model.unlabelled_terms(np.full((1, 1, 1, 1), x, "float32"), noise)), "float64")
        return values.mean(), values.std() / np.sqrt(values.size)

    exact, spread = bound(log_joint - log_evidence, means, [scale, scale])
    assert spread < 1e-6  # the log-weight is constant
    np.testing.assert_allclose(exact, log_evidence, atol=1e-5)
    q_y, locs, scales = np.array([0.3, 0.7]), means + np.array([0.2, -0.3]), np.array([0.5, 1.1])
    value, error = bound(np.log(q_y), locs, scales)
    divergence = np.sum(q_y * (np.log(q_y) - (log_joint - log_evidence)))
    divergence += np.sum(q_y * (np.log(scale / scales) + (scales**2 + (locs - means) ** 2) / (2 * scale**2) - 0.5))
    assert abs(log_evidence - value - divergence) < 4 * error


class Inferred:
    """What `infer` returns, without a net."""

    a = log_q_a = style = None

    def __init__(self, log_q_y):
        self.log_q_y = log_q_y


class Affine:
    """p(x | y, z) = N(x; centres[y] + slope * z, scale^2), with features [one-hot y, z]."""

    def __init__(self, slope, scale, centres):
        self.slope, self.scale, self.centres = slope, scale, centres

    def distribution(self, features):
        import tensorflow_probability as tfp

        loc = features[:, :2] @ tf.constant(self.centres[:, np.newaxis], tf.float32) + self.slope * features[:, 2:]
        loc = tf.reshape(loc, [-1, 1, 1, 1])
        return tfp.distributions.Independent(tfp.distributions.Normal(loc, self.scale), 3)


def diagonal(locs, scales):
    import tensorflow_probability as tfp

    return tfp.distributions.MultivariateNormalDiag(locs, scale_diag=scales)


# Two classes instead of all.


def test_two_classes_have_the_expectation_and_the_gradient_of_all():
    """Exactly: the estimates of each possible draw, weighed by its probability, against the sum over all classes."""
    rng = np.random.default_rng(0)
    logits = tf.Variable(rng.normal(size=(1, 5, 4)), dtype=tf.float32)
    table = tf.Variable(rng.normal(size=(4, 1, 5, 2)), dtype=tf.float32)  # v_k, one per class
    readout = rng.normal(size=(1, 5, 2)).astype("float32")

    def loss(choose):
        with tf.GradientTape() as tape:
            log_q = tf.nn.log_softmax(logits)
            value = tf.reduce_sum(readout * choose(log_q), axis=(0, 2))  # [B]
        return value, tape.jacobian(value, [logits, table])

    def everything(log_q):
        return expectation_over_classes(table, log_q, tf.eye(4)[:, tf.newaxis, tf.newaxis], exact=True)

    exact = loss(everything)
    q = np.asarray(tf.nn.softmax(logits))[0]
    top = q.argmax(axis=-1)
    value, gradients = 0.0, [0.0, 0.0]
    for other in range(1, 4):  # the class `other` places after the top one
        index = (top + other) % 4
        y = tf.stack([tf.one_hot(top, 4)[tf.newaxis], tf.one_hot(index, 4)[tf.newaxis]])

        def two(log_q, y=y):
            values = tf.einsum("csbk,ksbv->csbv", y, table)
            return expectation_over_classes(values, log_q, y, exact=False)

        row = np.arange(5)
        weight = q[row, index] / (1 - q[row, top])
        estimate = loss(two)
        value += weight * estimate[0].numpy()
        for i, gradient in enumerate(estimate[1]):
            gradients[i] = gradients[i] + weight.reshape(5, *[1] * (gradient.shape.rank - 1)) * gradient.numpy()
    np.testing.assert_allclose(value, exact[0], rtol=1e-5, atol=1e-6)
    for mine, true in zip(gradients, exact[1], strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-4, atol=1e-6)


def test_the_other_class_is_drawn_from_what_the_top_one_leaves():
    log_q = tf.math.log(tf.constant([[[0.5, 0.3, 0.2, 0.0001]]])) * tf.ones([20_000, 1, 1])
    uniform = tf.random.stateless_uniform([20_000, 1], [0, 0])
    top, another = np.asarray(top_class_and_another(log_q, uniform))
    assert (top[..., 0] == 1).all()
    np.testing.assert_allclose(another.mean(axis=(0, 1)), [0, 0.6, 0.4, 0.0002], atol=0.02)


def test_a_class_of_vanishing_probability_is_no_nan():
    logits = tf.Variable([[[200.0, -200.0, 0.0]]])
    with tf.GradientTape() as tape:
        log_q = tf.nn.log_softmax(logits)
        y = top_class_and_another(log_q, tf.constant([[0.5]]))
        loss = tf.reduce_sum(expectation_over_classes(tf.ones([2, 1, 1, 1]), log_q, y, exact=False))
    assert np.isfinite(tape.gradient(loss, logits)).all()
    np.testing.assert_allclose(loss, 1.0)


def test_two_classes_train_the_model_as_all_do_in_expectation(model, images):
    few, noise = images[:2], model.noise(4000, 2, seed=[0, 7])
    bounds = [model.unlabelled_terms(few, noise, enumerate_classes=flag) for flag in (True, False)]
    exact, two = (np.asarray(log_weights(terms), "float64") for terms in bounds)
    error = (two - exact).std(axis=0) / np.sqrt(4000)
    assert (np.abs((two - exact).mean(axis=0)) < 4 * error + 1e-4).all()


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.999999, 1.0])
def test_draws_of_a_class_are_one_hot(uniform):
    probs = tf.constant([[0.25, 0.5, 0.25], [1.0, 1e-30, 1e-30]])
    drawn = np.asarray(one_hot_draw(tf.math.log(probs), tf.fill([2], uniform)))
    assert (drawn.sum(axis=-1) == 1).all()


# The objective.


def test_alpha_weighs_a_labelled_point_as_published():
    assert alpha(100, 49_900) == pytest.approx(0.1 * 50_000 / 100)
    assert alpha(100, 59_900, scale=1.0) == pytest.approx(600.0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_loss_is_the_sum_of_its_parts(system, make_tiny, images):
    objective = SemiSupervisedELBO(alpha=3.0, labelled_weight=0.5, analytic_kl=False)
    model = make_tiny(system, objective=objective)
    images, y = tf.constant(images), tf.range(8) % 4

    def parts():
        loss, _ = model.training_loss(((images[:8], y), images))
        terms = model.unlabelled_terms(images, model.training_noise(images))
        return loss, terms, *model.labelled_terms(images[:8], y, model.training_noise(images[:8], 1))

    loss, terms, labelled, cross_entropy = in_mode(model, parts, training=True)
    expected = -np.mean(elbo(terms)) - 0.5 * (np.mean(elbo(labelled)) - 3.0 * np.mean(cross_entropy))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_labels_need_an_objective_that_weighs_them(make_tiny, images):
    with pytest.raises(ValueError, match=r"`objective` must be a SemiSupervisedELBO.*Received: ELBO"):
        make_tiny("m2", objective=ELBO()).fit(images, labels_of(images), verbose=0)


@pytest.mark.parametrize("system", one_per_shape(how_it_trains, SYSTEMS))
@pytest.mark.parametrize("enumerate_classes", [True, False])
def test_classes_are_learnt_from_few_labels(system, enumerate_classes):
    """Two well-parted kinds of images, two labels of each: nearly all others are classified."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = np.clip(0.7 * (y[:, None, None, None] == (np.arange(30).reshape(6, 5, 1) % 2)), 0, 1) * np.ones((200, 6, 5, 2))
    x = np.clip(x + 0.1 * rng.random(x.shape), 0, 1).astype("float32")
    model = MODELS[system](**{**CASES[system].args, **PIXELS, "num_classes": 2})
    if CASES[system].frozen_parts:
        m1 = M1(**{**CASES["m1"].args, **PIXELS, "latent_dim": 2, "hidden_units": (8, 9)})
        m1.compile(keras.optimizers.Adam(1e-2))
        m1.fit(x, epochs=20, batch_size=20, verbose=0)
        model.start_from(m1, x)
    objective = SemiSupervisedELBO(alpha=10.0, enumerate_classes=enumerate_classes)
    model.compile(keras.optimizers.Adam(1e-2), objective)
    model.fit(x, np.where(np.arange(200) < 4, y, -1), batch_size=20, epochs=10, verbose=0)
    assert np.mean(model.predict_proba(x).argmax(axis=-1) != y) < 0.05
    some = np.where(np.arange(200) % 3, y, -1)  # the error rate is that of the images whose class is known
    for known in (y, some):
        wrong = model.predict_proba(x).argmax(axis=-1) != known
        measured = model.evaluate(x, known, verbose=0, return_dict=True)["error_rate"]
        assert measured == pytest.approx(100 * wrong[known >= 0].mean(), abs=1e-3)


# Labels that come in.


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(40, -1), "`y` must hold at least one known label. Received: none of 40"),
        (np.where(np.arange(40) < 9, np.arange(40) % 3, -1), r"each of the 4 classes. Received: none of \[3\]"),
        (np.arange(40) % 5, "`y` must be integers in 0..3, or -1 for unknown. Received: 4"),
        (-np.arange(40) % 4 - 2, "`y` must be integers in 0..3, or -1 for unknown. Received: -2"),
        (np.full(40, 0.5), "`y` must be integers in 0..3, or -1 for unknown. Received: float64"),
        (np.zeros((40, 4), int), r"Received: int64 of shape \[40, 4\]"),
    ],
    ids=["none known", "a class missing", "too high", "too low", "floats", "one-hot"],
)
def test_bad_labels(make_tiny, images, y, message):
    model = make_tiny("m2", objective=SemiSupervisedELBO(alpha=1.0))
    with pytest.raises(ValueError, match=message):
        model.fit(images, y, verbose=0)


def test_labels_must_be_as_many_as_images(make_tiny, images):
    model = make_tiny("m2", objective=SemiSupervisedELBO(alpha=1.0))
    with pytest.raises(ValueError, match="`y` must hold a label per image, 40. Received: 39"):
        model.fit(images, np.arange(39) % 4, verbose=0)
    with pytest.raises(ValueError, match="`y` must hold a label per image, 8. Received: 7"):
        model.fit(((images[:8], np.arange(7) % 4), images), verbose=0)


def test_a_dataset_of_pairs_is_refused(make_tiny, images):
    model = make_tiny("m2", objective=SemiSupervisedELBO(alpha=1.0))
    pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(40) % 4)).batch(10)
    with pytest.raises(ValueError, match=r"dataset of images, or of \(\(x_labelled, y\), x_unlabelled\)"):
        model.fit(pairs, verbose=0)


def test_every_image_may_be_labelled_and_none(make_tiny, images):
    supervised = make_tiny("m2", objective=SemiSupervisedELBO(alpha=1.0), run_eagerly=True)
    assert "cross_entropy" in supervised.fit(images, np.arange(40) % 4, verbose=0).history
    assert "cross_entropy" not in make_tiny("m2", run_eagerly=True).fit(images, verbose=0).history


def test_arrays_and_datasets_of_both_kinds_train_alike(images):
    y = np.arange(8) % 4
    batches = tf.data.Dataset.from_tensors(((images[:8], y), images))
    losses = []
    for x, batch_size in ((((images[:8], y), images), 40), (batches, None)):
        keras.utils.set_random_seed(0)
        model = ADGM(**{**CASES["adgm"].args, **PIXELS})
        model.compile(keras.optimizers.Adam(1e-2), SemiSupervisedELBO(alpha=1.0), run_eagerly=True)
        losses.append(model.fit(x, batch_size=batch_size, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-2)  # the rows' order differs, and with it which noise is whose


def test_components_are_fitted_to_the_unlabelled_images_however_they_come(make_tiny, images):
    labelled, unlabelled = (images[:8], np.arange(8) % 4), images[8:]
    for x in ((labelled, unlabelled), tf.data.Dataset.from_tensors((labelled, unlabelled))):
        model = make_tiny("adgm", objective=SemiSupervisedELBO(alpha=1.0), run_eagerly=True)
        model.fit(x, batch_size=8 if isinstance(x, tuple) else None, verbose=0)
        np.testing.assert_allclose(model.components.mean, unlabelled.reshape(32, -1).mean(axis=0), rtol=1e-5)


def test_batches_pass_over_the_unlabelled_once_and_over_the_labelled_again_and_again():
    x, y = np.arange(10).reshape(10, 1, 1, 1), np.arange(3)
    batches = list(paired_batches((x[:3], y), x, None, 4).as_numpy_iterator())
    assert sorted(np.concatenate([unlabelled.ravel() for _, unlabelled in batches])) == list(range(10))
    for (labelled, labels), _ in batches:
        np.testing.assert_array_equal(labelled.ravel(), labels)
        assert sorted(labels) == [0, 1, 2]


# What comes out.


def test_probabilities_are_the_same_whatever_the_batch(model, images):
    probabilities = model.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(model.predict_proba(images, batch_size=7), probabilities, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(images[5:6])[0], probabilities[5], atol=1e-6)


def test_samples_of_a_class_differ_from_those_of_another_in_the_class_only(model):
    one, other = (np.asarray(model.sample(6, seed=0, label=label)) for label in (0, 1))
    mixed = np.asarray(model.sample(6, seed=0, label=[0, 1, 0, 1, 0, 1]))
    assert one.shape == (6, *IMAGE_SHAPE)
    assert np.any(one != other)
    np.testing.assert_allclose(mixed, np.where(np.arange(6).reshape(6, 1, 1, 1) % 2, other, one), atol=1e-6)
    with pytest.raises(ValueError, match=r"`label` must be integers in 0..3. Received: 4"):
        model.sample(6, seed=0, label=4)


def test_a_code_is_a_style_and_a_class(model, images):
    z, y = np.split(np.asarray(model.encode(images)), [model.style_dim], axis=-1)
    np.testing.assert_array_equal(y.sum(axis=-1), 1.0)
    assert z.shape == (len(images), model.style_dim)
    again = model.decode(np.concatenate([z, y], axis=-1))
    np.testing.assert_allclose(again, model.predict(images, verbose=0), atol=1e-6)


def test_kl_per_dimension_of_a_and_z(model, images):
    kl = np.asarray(model.kl_per_dimension(images))
    assert kl.shape == (len(images), model.auxiliary_dim + model.style_dim)
    assert (kl >= -1e-6).all()


# Batch normalisation.


def test_batch_normalisation_normalises_over_all_axes_but_the_last():
    layer, x = BatchNormalization(3), tf.random.stateless_normal([4, 5, 6, 3], [0, 0], mean=2.0, stddev=3.0)
    y = layer(x, training=True)
    np.testing.assert_allclose(tf.reduce_mean(y, axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(tf.math.reduce_std(y, axis=(0, 1, 2)), 1.0, atol=1e-3)
    np.testing.assert_allclose(layer.mean, (1 - MOMENTUM) * tf.reduce_mean(x, axis=(0, 1, 2)), rtol=1e-4)
    keras_layer = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=1e-4)
    np.testing.assert_allclose(keras_layer(x, training=True), y, atol=1e-4)
    np.testing.assert_allclose(keras_layer(x, training=False), layer(x), atol=1e-4)


def test_labelled_batches_leave_the_averages_alone(make_tiny, images):
    averages = []
    images = tf.constant(images)
    for data_of_step in (images, ((images[:8] * 0.1, tf.range(8) % 4), images)):
        keras.utils.set_random_seed(0)
        model = make_tiny("adgm", keras.optimizers.SGD(0.0), SemiSupervisedELBO(alpha=1.0))
        model.train_step(data_of_step)
        averages.append(np.asarray(model.encoder.normalizations[0].mean))
    np.testing.assert_allclose(*averages, rtol=1e-6)
    assert np.any(averages[0])


def test_measuring_takes_the_averages_and_leaves_them(make_tiny, images):
    model = make_tiny("sdgm")
    before = [np.array(weight) for weight in model.non_trainable_variables]
    model.evaluate(images, verbose=0)
    model.predict_proba(images)
    for weight, value in zip(model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight, value)


# The stack.


def test_the_stack_keeps_m1_and_ignores_what_m1_does_not_use(images):
    m1 = M1(**{**CASES["m1"].args, "latent_dim": 2, "hidden_units": (8, 9)})
    m1.posterior.params.kernel.assign(
        np.random.default_rng(0).normal(size=(9, 4)) * [3, 0, 0.1, 0]
    )  # the second is off
    model = M1M2(**CASES["m1m2"].args)
    model.start_from(m1, images)
    np.testing.assert_array_equal(model.active, [1, 0])
    model.compile(keras.optimizers.Adam(1e-2), SemiSupervisedELBO(alpha=1.0), run_eagerly=True)
    model.fit(images, labels_of(images), epochs=2, verbose=0)
    for mine, theirs in zip(model.m1.weights, m1.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    noise_a = model.noise(1, 40, seed=[0, 0])[..., :2]
    moved = noise_a + tf.constant([0.0, 1.0])
    np.testing.assert_allclose(model.infer(images, noise_a).log_q_y, model.infer(images, moved).log_q_y, atol=1e-6)
    prior = model.auxiliary_prior(tf.eye(4), tf.zeros([4, 3]))
    np.testing.assert_array_equal(prior.mean()[:, 1], 0.0)
    np.testing.assert_array_equal(prior.stddev()[:, 1], 1.0)


def test_the_stack_refuses_another_m1(images):
    model = M1M2(**CASES["m1m2"].args)
    with pytest.raises(ValueError, match="`m1` must be an M1 of the sizes"):
        model.start_from(M1(**CASES["m1"].args), images)
    small = M1(**{**CASES["m1"].args, "latent_dim": 2, "hidden_units": (8, 9)})
    small.posterior.params.kernel.assign(tf.zeros([9, 4]))
    with pytest.raises(ValueError, match="`m1` must be trained. Received one none of whose 2 latents is in use"):
        model.start_from(small, images)


# The systems against their equations.


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("system", ["m2", "adgm", "sdgm"])
def test_labelled_terms_are_the_densities_of_the_equations(system, images, bounded):
    """(3.7), (10): every density by scipy, from the nets' own heads; of pixels, and of principal components."""
    model = MODELS[system](**{**CASES[system].args, **(PIXELS if bounded else {})})
    model.initialize(images)
    x, y, noise = images[:5], np.array([0, 1, 2, 3, 0]), model.noise(1, 5, seed=[0, 8])
    terms, _ = model.labelled_terms(x, y, noise)
    noise_a, noise_z, _ = model._parts(noise[0])
    one_hot, flat = np.eye(4, dtype="float32")[y], model.flat(x).numpy()

    def gaussian(head, net, **inputs):
        loc, log_scale = np.split(np.asarray(head.params(net(net.project(**inputs)))), 2, axis=-1)
        return scipy.stats.norm(loc, np.exp(log_scale))

    expected = 0.0
    given = {}
    if system != "m2":
        q_a = gaussian(model.auxiliary, model.auxiliary_encoder, x=flat)
        a = (q_a.mean() + q_a.std() * noise_a.numpy()).astype("float32")
        given = {"a": a}
    q_z = gaussian(model.posterior, model.encoder, x=flat, y=one_hot, **given)
    z = (q_z.mean() + q_z.std() * noise_z.numpy()).astype("float32")
    if system != "m2":
        p_a = gaussian(model.auxiliary_likelihood, model.auxiliary_decoder, y=one_hot, z=z)
        expected += (p_a.logpdf(a) - q_a.logpdf(a)).sum(axis=-1)
    in_generative_model = given if system == "sdgm" else {}
    features = model.decoder(model.decoder.project(y=one_hot, z=z, **in_generative_model))
    loc, log_scale = np.split(np.asarray(model.likelihood.params(features)), 2, axis=-1)
    p_x = scipy.stats.norm(scipy.special.expit(loc) if bounded else loc, np.exp(log_scale))
    expected += p_x.logpdf(flat).sum(axis=-1) + np.log(0.25)
    expected += (scipy.stats.norm.logpdf(z) - q_z.logpdf(z)).sum(axis=-1)
    np.testing.assert_allclose(elbo(terms), expected, rtol=1e-4, atol=1e-3)


# Every net by numpy, in float64, from weights alone.

ACTIVATIONS = {"relu": lambda h: np.maximum(h, 0.0), "softplus": lambda h: np.logaddexp(0.0, h)}


VARIED = np.random.default_rng(4).random((40, *IMAGE_SHAPE), np.float32)


@pytest.fixture(scope="module", params=SYSTEMS)
def shaken(request):
    """The name of a system, and a model whose weights are all off their initial values, at scales of order 1."""
    keras.utils.set_random_seed(0)
    model, rng = MODELS[request.param](**{**CASES[request.param].args, **PIXELS}), np.random.default_rng(4)
    for weight in model.weights:
        if weight.dtype == "float32":
            kernel = len(weight.shape) == 2
            value = rng.normal(0.0, 0.7 * weight.shape[0] ** -0.5 if kernel else 0.3, weight.shape)
            start = 0.0 if kernel else weight
            weight.assign(np.exp(value) if "variance" in weight.path else start + value)
    if request.param == "m1m2":
        model.active.assign([1.0, 0.0])
    log_q_y = Plain(request.param, model, VARIED).log_q_y_at_zero_noise()
    model.logits.bias.assign_sub(log_q_y.mean(axis=0).astype("float32"))
    return request.param, model


def affine(layer, h):
    return h @ np.asarray(layer.kernel, "float64") + (0.0 if layer.bias is None else np.asarray(layer.bias))


def gaussian(layer, h):
    """A `DiagonalGaussian`: location and scale."""
    loc, log_scale = np.split(affine(layer.params, h), 2, axis=-1)
    return loc, np.exp(log_scale)


def plain_net(model, net, **inputs):
    """A `JointMLP`: each layer is activation(normalized(W h + b)); the first one's W h is a sum over the inputs."""
    h = sum(affine(net.projections[name], value) for name, value in inputs.items())
    h = h if net.bias is None else h + np.asarray(net.bias)
    activation = ACTIVATIONS[keras.activations.serialize(model.activation)]
    for index in range(len(model.hidden_units)):
        h = affine(net.hidden[index - 1], h) if index else h
        if net.normalizations:
            of = net.normalizations[index]
            mean, variance, gain, shift = (np.asarray(v) for v in (of.mean, of.variance, of.gain, of.shift))
            h = gain * (h - mean) / np.sqrt(variance + 1e-4) + shift
        h = activation(h)
    return h


def plain_mlp(model, net, h):
    for layer in net.layers:
        h = ACTIVATIONS[keras.activations.serialize(model.activation)](affine(layer, h)) if layer.weights else h
    return h


class Plain:
    """The factors (3.2)-(3.5), (4)-(9) of a model, as functions of arrays: locations and scales; log q(y | a, x)."""

    def __init__(self, system, model, x):
        self.system, self.model, self.x = system, model, x.reshape(len(x), -1).astype("float64")
        self.active = np.asarray(model.active) if system == "m1m2" else 1.0

    def q_a(self):
        if self.system == "m1m2":
            return gaussian(self.model.m1.posterior, plain_mlp(self.model, self.model.m1.encoder, self.x))
        return gaussian(self.model.auxiliary, plain_net(self.model, self.model.auxiliary_encoder, x=self.x))

    def given(self, a):
        """What q(y | .) and q(z | y, .) are given."""
        return {"m2": {"x": self.x}, "m1m2": {"a": a if a is None else self.active * a}}.get(
            self.system, {"x": self.x, "a": a}
        )

    def log_q_y(self, a):
        logits = affine(self.model.logits, plain_net(self.model, self.model.classifier, **self.given(a)))
        return scipy.special.log_softmax(logits, axis=-1)

    def log_q_y_at_zero_noise(self):
        return self.log_q_y(self.q_a()[0] if self.model.auxiliary_dim else None)

    def q_z(self, a, y):
        return gaussian(self.model.posterior, plain_net(self.model, self.model.encoder, y=y, **self.given(a)))

    def p_a(self, y, z):
        net = self.model.auxiliary_decoder
        loc, scale = gaussian(self.model.auxiliary_likelihood, plain_net(self.model, net, y=y, z=z))
        return self.active * loc, np.where(self.active, scale, 1.0)

    def p_x(self, a, y, z):
        if self.system == "m1m2":
            h = plain_mlp(self.model, self.model.m1.decoder, a)
        else:
            inputs = {"a": a} if self.system == "sdgm" else {}
            h = plain_net(self.model, self.model.decoder, y=y, z=z, **inputs)
        logits, log_scale = np.split(affine(self.model.likelihood.params, h), 2, axis=-1)
        return scipy.special.expit(logits), np.exp(log_scale)


def one_hot(labels, num_classes=4):
    return np.eye(num_classes)[labels]


def test_bounds_equal_numpys_nets_and_scipys_densities(shaken):
    """L(x, y) and log q(y | a, x), draw by draw, of every system."""
    system, model = shaken
    x, y, noise = VARIED[:5], np.array([0, 1, 2, 3, 0]), model.noise(2, 5, seed=[0, 8])
    plain, (noise_a, noise_z, _) = Plain(system, model, x), (np.asarray(part) for part in model._parts(noise))
    log_density = lambda value, p: scipy.stats.norm.logpdf(value, *p).sum(axis=-1)
    a, expected = None, np.log(0.25)
    if model.auxiliary_dim:
        q_a = plain.q_a()
        a = q_a[0] + q_a[1] * noise_a
        expected = expected - log_density(a, q_a)
    targets = one_hot(y)
    q_z = plain.q_z(a, targets)
    z = q_z[0] + q_z[1] * noise_z
    expected = expected + log_density(plain.x, plain.p_x(a, targets, z)) + log_density(z, (0.0, 1.0))
    expected = expected - log_density(z, q_z) + (log_density(a, plain.p_a(targets, z)) if model.auxiliary_dim else 0.0)
    terms, cross_entropy = model.labelled_terms(x, y, noise)
    np.testing.assert_allclose(log_weights(terms), expected, rtol=1e-5)
    log_q_y = plain.log_q_y(a) * np.ones((2, 1, 1))  # [S, B, K]
    np.testing.assert_allclose(cross_entropy, -log_q_y[:, np.arange(5), y].mean(axis=0), rtol=1e-5)


def test_class_probabilities_are_the_mean_of_q_of_y_over_ten_draws(shaken, monkeypatch):
    system, model = shaken
    asked = []
    infer = model.infer
    monkeypatch.setattr(model, "infer", lambda x, noise_a: asked.append(np.asarray(noise_a)) or infer(x, noise_a))
    probabilities = model.class_probabilities(VARIED)
    (noise_a,) = asked
    plain, a = Plain(system, model, VARIED), None
    if model.auxiliary_dim:
        assert noise_a.shape == (10, 1, model.auxiliary_dim)
        assert len(np.unique(noise_a)) == noise_a.size
        loc, scale = plain.q_a()
        a = loc + scale * noise_a
    expected = np.exp(plain.log_q_y(a) * np.ones((10, 1, 1))).mean(axis=0)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_codes_and_kl_per_dimension_are_those_of_the_most_probable_class(shaken):
    """log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2, of a and of z, at zero noise."""
    system, model = shaken
    plain = Plain(system, model, VARIED)

    def kl(q, p):
        return np.log(p[1] / q[1]) + (q[1] ** 2 + (q[0] - p[0]) ** 2) / (2.0 * p[1] ** 2) - 0.5

    q_a = plain.q_a() if model.auxiliary_dim else (None, None)
    y = one_hot(plain.log_q_y_at_zero_noise().argmax(axis=-1))
    assert len(np.unique(y, axis=0)) > 1
    q_z = plain.q_z(q_a[0], y)
    columns = [kl(q_z, (0.0, 1.0))]
    if model.auxiliary_dim:
        columns.insert(0, kl(q_a, plain.p_a(y, q_z[0])))
    np.testing.assert_allclose(model.encode(VARIED), np.concatenate([q_z[0], y], axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.kl_per_dimension(VARIED), np.concatenate(columns, axis=-1), rtol=1e-3, atol=1e-5)


# Draws of classes.


class Codes:
    """Takes the place of `likelihood_distribution`, and keeps the codes that it is asked for."""

    def __call__(self, z, noise_a=None):
        self.styles, self.classes = np.split(np.asarray(z), [-4], axis=-1)
        return self

    def mean(self):
        return self.classes


def noise_with_class(model, uniform):
    """Noise for one draw per row, whose classes are at given quantiles, [1, B, A + D + 1]."""
    noise = np.random.default_rng(5).normal(size=(1, len(uniform), *model.noise_shape)).astype("float32")
    noise[0, :, -1] = scipy.stats.norm.ppf(uniform)
    return noise


def test_each_class_is_drawn_as_often_as_the_others(shaken, monkeypatch):
    """At 1000 equally spaced quantiles each of 4 classes is drawn 250 times; a histogram of random ones is flat."""
    _, model = shaken
    codes = Codes()
    monkeypatch.setattr(model, "likelihood_distribution", codes)
    model.generate(noise_with_class(model, (np.arange(1000) + 0.5) / 1000))
    np.testing.assert_array_equal(codes.classes, np.repeat(np.eye(4), 250, axis=0))
    lite = next(s for s in model.export_signatures() if s.name == "sample" and s.lite and not s.saved_model)
    for draw in (lambda: model.sample(4000, seed=0), lambda: lite.function(tf.constant(4000))):
        draw()
        assert codes.classes.shape == (4000, 4)
        assert scipy.stats.chisquare(codes.classes.sum(axis=0)).pvalue > 1e-3


def test_classes_are_drawn_by_the_inverse_of_their_cumulative_probabilities():
    """At 1000 equally spaced quantiles a class of probability p is drawn 1000 p times, in order; at 0 and 1 too."""
    probs = np.array([0.1, 0.0, 0.35, 0.05, 0.5])
    log_probs = tf.tile(tf.math.log(tf.constant(probs, tf.float32))[tf.newaxis], [1000, 1])
    drawn = one_hot_draw(log_probs, tf.constant((np.arange(1000) + 0.5) / 1000, tf.float32))
    np.testing.assert_array_equal(drawn, np.repeat(np.eye(5), np.round(1000 * probs).astype(int), axis=0))
    np.testing.assert_array_equal(one_hot_draw(log_probs[:2], tf.constant([0.0, 1.0])), np.eye(5)[[0, 4]])


def test_temperature_0_shows_one_image_per_class_and_draws_classes_as_ever(shaken):
    """z and p(a | y, z) at zero noise; class floor(K Phi(noise)), which no temperature moves."""
    system, model = shaken
    num_samples, zeros = 40, np.zeros((4, model.style_dim))
    noise = model.noise(1, num_samples, seed=noise_seed(3, Stream.SAMPLE))
    labels = np.floor(4 * scipy.stats.norm.cdf(np.asarray(noise)[0, :, -1])).astype(int)
    assert set(labels) == {0, 1, 2, 3}
    plain = Plain(system, model, np.zeros((1, *IMAGE_SHAPE)))
    a = plain.p_a(np.eye(4), zeros)[0] if model.auxiliary_dim else None
    of_class = plain.p_x(a, np.eye(4), zeros)[0].reshape(4, *IMAGE_SHAPE)
    np.testing.assert_allclose(model.sample(num_samples, seed=3, temperature=0.0), of_class[labels], rtol=1e-4)
    of_three = model.sample(num_samples, seed=3, temperature=0.0, label=3)
    np.testing.assert_allclose(of_three, of_class[[3] * num_samples], rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_temperature_scales_the_draws_of_styles_and_not_those_of_classes(shaken, monkeypatch, temperature):
    _, model = shaken
    codes, noise = Codes(), model.noise(1, 100, seed=noise_seed(3, Stream.SAMPLE))
    monkeypatch.setattr(model, "likelihood_distribution", codes)
    model.sample(100, seed=3, temperature=temperature)
    _, noise_z, uniform = model._parts(noise[0])
    np.testing.assert_allclose(codes.styles, temperature * noise_z, rtol=1e-6)
    np.testing.assert_array_equal(codes.classes, one_hot(np.floor(4 * np.asarray(uniform)).astype(int)))


def test_sdgm_generates_from_a_and_adgm_does_not(images):
    for system, reads_a in ((SDGM, True), (ADGM, False)):
        model = system(**CASES["sdgm"].args)
        code = model.encode(images)
        one, other = (np.asarray(model.likelihood_distribution(code, tf.fill([40, 2], a)).mean()) for a in (-5.0, 5.0))
        assert np.any(one != other) == reads_a


# Draws of labels.


def test_draws_of_labels_are_balanced_and_follow_the_seed():
    one, same, other = (data.semi_supervised("digits", labels=50, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.indices, same.indices)
    assert not np.array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(np.bincount(one.labelled.labels), 5)
    np.testing.assert_array_equal(one.known_labels[one.indices], one.labelled.labels)
    assert (one.known_labels >= 0).sum() == 50
    # Published: what the draw of seed 0 begins with must never change.
    np.testing.assert_array_equal(one.indices[:5], PUBLISHED)


PUBLISHED = [15, 22, 26, 38, 40]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": 55}, "`labels` must be a multiple of the 10 classes. Received: 55"),
        ({"labels": 5000}, r"`labels` must be at most \d+: class \d has \d+ images. Received: 5000"),
        ({"labels": 0}, "`labels` must be an integer of at least 1. Received: 0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0. Received: -1"),
    ],
    ids=str,
)
def test_impossible_draws_of_labels(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.semi_supervised("digits", **arguments)


def test_draws_need_labels():
    splits = data.Splits.from_arrays(np.zeros((4, 2, 2, 1), "uint8"), np.zeros((4, 2, 2, 1), "uint8"))
    with pytest.raises(ValueError, match="`splits` must have labels to draw from. Received: none"):
        data.draw_labels(splits)


def test_training_batches_hold_labelled_images_with_their_labels():
    splits = data.semi_supervised("digits", labels=20, seed=0)
    batches, _ = data.training_batches(
        splits.train.images, "unit_interval", batch_size=32, seed=0, labelled=splits.labelled
    )
    for (x, y), unlabelled in batches.take(3):
        assert unlabelled.shape == (32, 8, 8, 1)
        order = np.argsort(y, kind="stable")
        np.testing.assert_array_equal(np.bincount(y), 2)
        stored = splits.labelled.images[np.argsort(splits.labelled.labels, kind="stable")]
        drawn = np.round(np.asarray(x)[order] * 255).astype("uint8")
        for label in range(0, 20, 2):  # the two of a class, in either order
            assert sorted(map(bytes, drawn[label : label + 2])) == sorted(map(bytes, stored[label : label + 2]))


def test_noise_of_labelled_and_unlabelled_images_differs(make_tiny, images):
    model = make_tiny("m2", objective=SemiSupervisedELBO(alpha=1.0))
    assert np.any(model.training_noise(images) != model.training_noise(images, 1))
