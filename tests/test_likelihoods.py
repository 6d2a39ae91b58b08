"""Likelihoods against scipy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import bernoulli, norm

from vaezoo.layers.initialization import data_dependent_initialization
from vaezoo.layers.principal_components import PrincipalComponents
from vaezoo.likelihoods import COMPONENT_LIKELIHOODS, LIKELIHOODS

SHAPE, BATCH, FEATURES = (3, 2, 2), 4, 5
X = np.random.default_rng(0).random((BATCH, *SHAPE)).astype("float32")


def make(name):
    layer = LIKELIHOODS[name](FEATURES, SHAPE)
    return layer, tf.random.stateless_normal([BATCH, FEATURES], [0, 1])


def test_bernoulli_equals_scipy():
    layer, features = make("bernoulli")
    binary = np.round(X)
    probs = expit(layer.logits(features).numpy().astype("float64")).reshape(BATCH, *SHAPE)
    expected = bernoulli(probs).logpmf(binary).sum((1, 2, 3))
    np.testing.assert_allclose(layer.distribution(features).log_prob(binary), expected, rtol=1e-5)
    np.testing.assert_allclose(layer.distribution(features).mean(), probs, rtol=1e-5)


@pytest.mark.parametrize("logit", [-500.0, 500.0])
def test_bernoulli_has_finite_values_and_gradients_at_extreme_logits(logit):
    layer, _ = make("bernoulli")
    layer.logits.bias.assign(tf.fill([12], logit))
    features = tf.zeros([1, FEATURES])
    wrong = np.full((1, *SHAPE), float(logit < 0), "float32")
    with tf.GradientTape() as tape:
        log_prob = layer.distribution(features).log_prob(wrong)
    np.testing.assert_allclose(log_prob, [-500.0 * 12], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(log_prob, layer.logits.bias), np.full(12, -np.sign(logit)), rtol=1e-6)


def test_bounded_mean_gaussian_equals_scipy():
    layer, features = make("bounded_mean_gaussian")
    a, log_scale = np.split(layer.params(features).numpy().astype("float64"), 2, axis=-1)
    expected = norm(expit(a), np.exp(log_scale)).logpdf(X.reshape(BATCH, -1)).sum(-1)
    p = layer.distribution(features)
    np.testing.assert_allclose(p.log_prob(X), expected, rtol=1e-5)
    np.testing.assert_allclose(p.mean().numpy().reshape(BATCH, -1), expit(a), rtol=1e-5)


def test_one_pass_bernoulli_equals_tfps():
    import tensorflow_probability as tfp

    from vaezoo.layers.distributions import BernoulliLogits

    logits = tf.constant(np.random.default_rng(1).normal(0, 5, (6, 7)), tf.float32)
    for event in (np.round(np.random.default_rng(2).random((6, 7))), np.random.default_rng(3).random((6, 7))):
        expected = tfp.distributions.Bernoulli(logits, dtype=tf.float32).log_prob(tf.constant(event, tf.float32))
        np.testing.assert_allclose(
            BernoulliLogits(logits, dtype=tf.float32).log_prob(event.astype("float32")), expected, rtol=1e-5
        )


def test_components_gaussian_equals_scipy():
    """Of the components of a fitted PCA; its mean is their image, clipped."""
    components = PrincipalComponents(math.prod(SHAPE), 3)
    images = np.random.default_rng(1).random((50, math.prod(SHAPE))).astype("float32")
    with data_dependent_initialization():
        components(images)
    layer = COMPONENT_LIKELIHOODS["principal_components_gaussian"](FEATURES, SHAPE, components)
    features = tf.random.stateless_normal([BATCH, FEATURES], [0, 1])
    loc, log_scale = np.split(layer.params(features).numpy().astype("float64"), 2, axis=-1)
    projected = (X.reshape(BATCH, -1) - components.mean.numpy()) @ components.basis.numpy() / components.scale.numpy()
    p = layer.distribution(features)
    np.testing.assert_allclose(p.log_prob(X), norm(loc, np.exp(log_scale)).logpdf(projected).sum(-1), rtol=1e-5)
    mean = components.mean.numpy() + (loc * components.scale.numpy()) @ components.basis.numpy().T
    np.testing.assert_allclose(p.mean(), np.clip(mean, 0, 1).reshape(BATCH, *SHAPE), atol=1e-6)
    assert p.batch_shape == (BATCH,)
    assert p.event_shape == SHAPE
