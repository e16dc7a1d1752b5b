"""Generalised advantage estimation: arrays in, arrays out."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import Array


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    done: Array,
    gamma: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Generalised advantage estimation (Schulman et al., 2016), with truncations told from terminations.

    ``A_t = d_t + gamma * lambda * (1 - done_t) * A_(t+1)`` with
    ``d_t = r_t + gamma * (1 - terminated_t) * V(s_(t+1)) - V(s_t)``: a termination stops the bootstrap and
    the trace, a truncation the trace alone.

    Args:
        rewards: [T, B] team reward.
        values: [n, T, B] value of the state in which the agents acted.
        next_values: [n, T, B] value of the state that followed, before any reset.
        terminated: [T, B] bool, the episode reached its end.
        done: [T, B] bool, the episode ended for any reason.
        gamma: discount.
        gae_lambda: decay of the trace.

    Returns:
        [n, T, B] advantages.
    """
    chex.assert_equal_shape([values, next_values])
    chex.assert_equal_shape([rewards, terminated, done])
    deltas = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values
    trace = gamma * gae_lambda * (1.0 - done.astype(deltas.dtype))

    def step(advantage: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, decay = inputs
        advantage = delta + decay * advantage
        return advantage, advantage

    time_first = jnp.moveaxis(deltas, 1, 0)
    _, advantages = jax.lax.scan(step, jnp.zeros_like(time_first[0]), (time_first, trace), reverse=True)
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
    mean = (alive * advantages).sum(axes, keepdims=True) / count
    std = jnp.sqrt((alive * (advantages - mean) ** 2).sum(axes, keepdims=True) / count)
    return (advantages - mean) / (std + 1e-5) * (alive.sum(axes, keepdims=True) > 0)
