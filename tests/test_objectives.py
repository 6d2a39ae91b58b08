"""Objectives against their definitions on random terms, and against each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from vaezoo import objectives
from vaezoo.objectives import ELBO, IWAE, FreeBits, Terms

RNG = np.random.default_rng(0)
LOG_LIK, KL = RNG.normal(-90, 5, (6, 4)), RNG.normal(1, 2, (6, 4, 3))  # [S, B], [S, B, G]
TERMS = Terms(tf.constant(LOG_LIK), tf.constant(KL))


def test_elbo_is_the_mean_log_weight():
    np.testing.assert_allclose(objectives.elbo(TERMS), (LOG_LIK - KL.sum(-1)).mean(0))


def test_beta_weighs_the_kl():
    np.testing.assert_allclose(objectives.elbo(TERMS, 4.0), (LOG_LIK - 4 * KL.sum(-1)).mean(0))


def test_iwae_is_the_log_of_the_mean_weight():
    log_w = LOG_LIK - KL.sum(-1)
    np.testing.assert_allclose(objectives.iwae(TERMS), logsumexp(log_w, axis=0) - np.log(6))


def test_iwae_with_one_sample_is_the_elbo():
    one = Terms(TERMS.log_lik[:1], TERMS.kl[:1])
    np.testing.assert_allclose(objectives.iwae(one), objectives.elbo(one))


def test_iwae_is_never_below_the_elbo():
    assert (objectives.iwae(TERMS).numpy() >= objectives.elbo(TERMS).numpy()).all()


def test_free_bits_charges_the_floor_for_groups_below_it():
    group_kl = KL.mean((0, 1))
    floor = np.sort(group_kl)[1] + 1e-6  # two groups of three lie below
    expected = LOG_LIK.mean() - np.maximum(group_kl, floor).sum()
    assert objectives.free_bits(TERMS, floor).numpy().mean() == pytest.approx(expected)
    assert (group_kl < floor).sum() == 2


def test_free_bits_of_zero_nats_is_the_elbo_on_average():
    positive = Terms(TERMS.log_lik, abs(TERMS.kl))
    expected = objectives.elbo(positive).numpy().mean()
    assert objectives.free_bits(positive, 0.0).numpy().mean() == pytest.approx(expected)


def test_groups_below_the_floor_get_no_gradient():
    kl = tf.constant([[[0.1, 5.0]]])
    with tf.GradientTape() as tape:
        tape.watch(kl)
        value = objectives.free_bits(Terms(tf.zeros([1, 1]), kl), 1.0)
    np.testing.assert_array_equal(tape.gradient(value, kl), [[[0.0, -1.0]]])


@pytest.mark.parametrize("initial_beta", [0.0, 5.0])
@pytest.mark.parametrize(("step", "progress"), [(0, 0.0), (25, 0.5), (50, 1.0), (500, 1.0)])
def test_warm_up_takes_beta_linearly_to_its_value(step, progress, initial_beta):
    objective = ELBO(beta=2.0, warmup_steps=50, initial_beta=initial_beta)
    terms = Terms(tf.constant(LOG_LIK, tf.float32), tf.constant(KL, tf.float32))
    beta = (1.0 - progress) * initial_beta + progress * 2.0
    expected = (LOG_LIK - beta * KL.sum(-1)).mean(0)
    np.testing.assert_allclose(objective(terms, tf.constant(step, tf.int64)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [ELBO(3, False, 0.5, 7, 2.0), IWAE(9), FreeBits(0.25, 2, True)],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_survive_serialisation(objective):
    config = keras.saving.serialize_keras_object(objective)
    assert keras.saving.deserialize_keras_object(config) == objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(num_samples=0), "`num_samples` must be an integer of at least 1. Received: 0"),
        (lambda: ELBO(beta=-1.0), "`beta` must be a finite number of at least 0. Received: -1.0"),
        (lambda: ELBO(warmup_steps=float("nan")), "`warmup_steps` must be a finite number"),
        (lambda: ELBO(initial_beta=2.0), "`initial_beta` must be 0 without `warmup_steps`. Received: 2.0"),
        (lambda: ELBO(analytic_kl="yes"), "`analytic_kl` must be true or false. Received: 'yes'"),
        (lambda: IWAE(num_samples=2.5), "`num_samples` must be an integer of at least 1. Received: 2.5"),
        (lambda: FreeBits(nats=float("inf")), "`nats` must be a finite number of at least 0. Received: inf"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()
