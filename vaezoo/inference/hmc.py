"""Hamiltonian Monte Carlo: a step that leaves a density as it is, and the adaptation of its size.

R. M. Neal, "MCMC using Hamiltonian dynamics" (2011).
"""

import tensorflow as tf
import tensorflow_probability as tfp

ACCEPTANCE = 0.65  # the rate that step sizes are adapted to, about the best for HMC (Beskos et al., 2013)
ADAPTATION = 0.1  # of log step size, per unit of acceptance too much
FIRST_STEP_SIZE = 0.3  # under a standard normal; adapted from there


def hmc_step(log_prob, state, log_step_size, *, num_leapfrog_steps, seed):
    """Takes one step of each chain.

    Args:
        log_prob: states [*chains, *event] -> log-density up to a constant, [*chains].
        state: [*chains, *event].
        log_step_size: [*chains].
        num_leapfrog_steps: int.
        seed: stateless seed, int32 [2].

    Returns:
        The new states, [*chains, *event], and the probability that each chain's proposal was accepted with, [*chains];
        0 where it is NaN, which HMC rejects.
    """
    event_rank = state.shape.rank - log_step_size.shape.rank
    step_size = tf.reshape(tf.exp(log_step_size), tf.concat([tf.shape(log_step_size), [1] * event_rank], axis=0))
    kernel = tfp.mcmc.HamiltonianMonteCarlo(log_prob, step_size, num_leapfrog_steps)
    state, results = kernel.one_step(state, kernel.bootstrap_results(state), seed=seed)
    acceptance = tf.exp(tf.minimum(results.log_accept_ratio, 0.0))
    return state, tf.where(tf.math.is_nan(acceptance), 0.0, acceptance)


def adapted(log_step_size, acceptance):
    """Returns log step sizes after a step: larger where it was accepted more often than `ACCEPTANCE`, else smaller."""
    return log_step_size + ADAPTATION * (acceptance - ACCEPTANCE)
