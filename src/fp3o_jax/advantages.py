"""Advantage estimation: arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array


class TDErrors(NamedTuple):
    """What advantages are summed up from.

    Attributes:
        delta: [n, T, B] ``r_t + gamma * (1 - terminated_t) * V(s_(t+1)) - V(s_t)``.
        decay: [T, B] ``gamma * lambda * (1 - done_t)``: a termination stops the bootstrap and the trace, a
            truncation the trace alone.
    """

    delta: Array
    decay: Array


def td_errors(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    done: Array,
    gamma: Array | float,
    gae_lambda: Array | float,
) -> TDErrors:
    """One-step errors of the value function, with truncations told from terminations.

    Args:
        rewards: [T, B] team reward.
        values: [n, T, B] value of the state in which the agents acted.
        next_values: [n, T, B] value of the state that followed, before any reset.
        terminated: [T, B] bool, the episode reached its end.
        done: [T, B] bool, the episode ended for any reason.
        gamma: discount.
        gae_lambda: decay of the trace.
    """
    chex.assert_equal_shape([values, next_values])
    chex.assert_equal_shape([rewards, terminated, done])
    delta = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values
    return TDErrors(delta, gamma * gae_lambda * (1.0 - done.astype(delta.dtype)))


def gae(errors: TDErrors) -> Array:
    """Generalised advantage estimation (Schulman et al., 2016): ``A_t = delta_t + decay_t * A_(t+1)``.

    Returns:
        [n, T, B] advantages.
    """
    return _accumulate(errors, jnp.ones_like(errors.delta))


def preceding_agent_correction(errors: TDErrors, log_weight: Array) -> Array:
    """A2PO's advantages under the policies that the agents before have moved to (Wang et al., 2023).

    ``A_t = delta_t + decay_t * min(1, W_(t+1)) * A_(t+1)``: each later step counts as far as the agents
    updated already still take the actions that were sampled.

    Args:
        errors: of P agents.
        log_weight: [P, T, B] log W, the product of the preceding agents' ratios.

    Returns:
        [P, T, B] advantages; those of GAE where W = 1 throughout.
    """
    chex.assert_equal_shape([errors.delta, log_weight])
    return _accumulate(errors, jnp.exp(jnp.minimum(log_weight, 0.0)))


def _accumulate(errors: TDErrors, kept: Array) -> Array:
    """``A_t = delta_t + decay_t * kept_(t+1) * A_(t+1)``, zero behind the last step."""

    def step(following: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        delta, decay, kept = inputs
        advantage = delta + decay * following
        return kept * advantage, advantage

    delta, kept = (jnp.moveaxis(x, 1, 0) for x in (errors.delta, kept))
    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, errors.decay, kept), reverse=True)
    return jnp.moveaxis(advantages, 0, 1)


def normalize_advantages(advantages: Array, alive: Array) -> Array:
    """Zero mean and unit deviation for each agent, over the samples in which it was alive.

    Args:
        advantages: [n, ...].
        alive: [n, ...] 1 where the sample counts.

    Returns:
        [n, ...] ``(A - mean) / (std + 1e-5)``, std with ddof 0. An agent that was never alive gets zeros
        throughout.
    """
    chex.assert_equal_shape([advantages, alive])
    axes = tuple(range(1, advantages.ndim))
    alive = alive.astype(advantages.dtype)
    count = jnp.maximum(alive.sum(axes, keepdims=True), 1.0)

    def mean_of(x: Array) -> Array:
        return jnp.where(alive > 0, x, 0.0).sum(axes, keepdims=True) / count

    mean = mean_of(advantages)
    std = jnp.sqrt(mean_of((advantages - mean) ** 2))
    return (advantages - mean) / (std + 1e-5) * (alive.sum(axes, keepdims=True) > 0)
