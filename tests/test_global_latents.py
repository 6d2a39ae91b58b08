"""Latents of the whole data set: the share of their KL in every bound, and the number of examples that share them."""

import pathlib

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from toys.bayesian_classifier import BayesianClassifier

from vaezoo.inference.terms import Terms, elbo, free_bits, iwae, log_weights
from vaezoo.objectives import ELBO, IWAE, FreeBits
from vaezoo.zoo import config, loading

X = np.array([0.3, -1.2, 2.5, 0.7, 1.1])
N = len(X)
LABELS = np.arange(40) % 4
NO_KL = tf.zeros([1, 1, 0])


def evidence(x):
    """log p(x) of x_i ~ N(w, 1) with w ~ N(0, 1)."""
    return scipy.stats.multivariate_normal(np.zeros(len(x)), np.eye(len(x)) + 1.0).logpdf(x)


def gaussian_terms(x, mean, stddev):
    """The terms at mean -+ stddev, whose mean is the expectation of any quadratic; the KL in closed form."""
    w = np.array([mean - stddev, mean + stddev])
    kl = 0.5 * (mean**2 + stddev**2 - 1.0) - np.log(stddev)
    return Terms(tf.constant(scipy.stats.norm(w[:, None], 1.0).logpdf(x)), tf.cast(NO_KL, tf.float64), kl / len(x))


def test_the_elbos_of_all_examples_add_up_to_the_evidence_at_the_posterior():
    stddev = 1.0 / np.sqrt(1.0 + N)
    mean = X.sum() / (1.0 + N)
    assert np.sum(elbo(gaussian_terms(X, mean, stddev))) == pytest.approx(evidence(X), abs=1e-9)
    assert np.sum(elbo(gaussian_terms(X, mean + 0.1, stddev))) == pytest.approx(
        evidence(X) - 0.5 * (0.1 / stddev) ** 2, abs=1e-9
    )


def test_beta_weighs_the_share_too():
    terms = Terms(*(tf.cast(term, tf.float32) for term in gaussian_terms(X, 0.2, 0.5)))
    for objective, beta in ((ELBO(beta=3.0), 3.0), (ELBO(warmup_steps=10), 0.5)):
        expected = np.mean(terms.log_lik, axis=0) - beta * terms.global_kl
        np.testing.assert_allclose(objective(terms, 5), expected, rtol=1e-6)


def test_weights_of_one_example_are_its_evidence_whatever_the_draw():
    """At the posterior of N = 1, log p(x | w) - log q(w) + log p(w) is log p(x) at every w."""
    x, w = X[:1], np.array([-1.0, 0.4, 2.0])
    sampled = scipy.stats.norm(x / 2, np.sqrt(0.5)).logpdf(w) - scipy.stats.norm.logpdf(w)
    log_lik = scipy.stats.norm(w[:, None], 1.0).logpdf(x)
    terms = Terms(*(tf.cast(term, tf.float32) for term in (log_lik, NO_KL, sampled)))
    np.testing.assert_allclose(log_weights(terms), np.full([3, 1], evidence(x)), rtol=1e-5)
    np.testing.assert_allclose(iwae(terms), [evidence(x)], rtol=1e-5)
    np.testing.assert_allclose(IWAE(3)(terms, 0), [evidence(x)], rtol=1e-5)


def test_free_bits_are_no_gift_to_global_latents():
    kl = tf.constant([[[0.1, 4.0], [0.3, 2.0]]])  # [1, 2, 2]; the groups' means are 0.2 and 3
    terms = Terms(tf.constant([[-5.0, -6.0]]), kl, tf.constant([0.25]))
    expected = np.array([-5.0, -6.0]) - (1.0 + 3.0) - 0.25
    np.testing.assert_allclose(free_bits(terms, 1.0), expected, rtol=1e-6)
    np.testing.assert_allclose(FreeBits(1.0)(terms, 0), expected, rtol=1e-6)


# The number of examples.


@pytest.fixture
def model(images):
    made = BayesianClassifier(images.shape[1:], 4)
    made.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    return made


@pytest.mark.parametrize("form", ["arrays", "batches", "one batch"])
def test_fit_counts_the_examples(model, images, form):
    x = tf.data.Dataset.from_tensor_slices((images, LABELS))
    data = {"arrays": [images, LABELS], "batches": [x.batch(20)], "one batch": [x.batch(40)]}
    model.fit(*data[form], verbose=0)
    assert model.num_examples.numpy() == 40.0
    kl = model.terms_of_labels(images[:2], LABELS[:2], 1).global_kl * 40.0
    stddev = np.exp(np.array(model.log_stddev, float))
    expected = np.sum(0.5 * (np.square(model.mean) + stddev**2 - 1.0) - np.log(stddev))
    assert float(kl) == pytest.approx(expected, rel=1e-4)


def test_data_of_unknown_size_need_the_number(model, images):
    x = tf.data.Dataset.from_tensor_slices((images, LABELS)).filter(lambda *_: True).batch(20)
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`num_examples` must be set .* model.num_examples.assign\(N\)") as error:
            use(x, verbose=0)
        assert "\n" not in str(error.value)
    model.num_examples.assign(40)
    model.fit(x, verbose=0)
    model.evaluate(images[:10], LABELS[:10], verbose=0)
    assert model.num_examples.numpy() == 40.0  # which measuring on fewer does not change


def test_the_number_is_saved(model, images, tmp_path):
    model.fit(images, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").num_examples.numpy() == 40.0


def test_an_entry_without_data_knows_the_size_of_its_own():
    path = pathlib.Path(__file__).parent / "toys" / "bayesian_classifier.toml"
    assert loading.build(config.read(path, {"data.train_size": 1297})).num_examples.numpy() == 1297.0
