"""Advantage estimation: arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.kernels import shards


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
        rewards: [T, B] team reward; or [n, T, B], each agent's own.
        values: [n, T, B] value of the state in which the agents acted.
        next_values: [n, T, B] value of the state that followed, before any reset.
        terminated: [T, B] bool, the episode reached its end.
        done: [T, B] bool, the episode ended for any reason.
        gamma: discount.
        gae_lambda: decay of the trace.
    """
    chex.assert_equal_shape([values, next_values])
    chex.assert_equal_shape([rewards if rewards.ndim == done.ndim else rewards[0], terminated, done])
    delta = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values
    return TDErrors(delta, gamma * gae_lambda * (1.0 - done.astype(delta.dtype)))


def gae(errors: TDErrors) -> Array:
    """Generalised advantage estimation (Schulman et al., 2016): ``A_t = delta_t + decay_t * A_(t+1)``.

    Returns:
        [n, T, B] advantages.
    """
    return _accumulate(errors, jnp.ones_like(errors.delta))


def preceding_agent_correction(errors: TDErrors, log_weight: Array, gae_lambda: Array | float = 1.0) -> Array:
    """A2PO's advantages under the policies that the agents before have moved to (Wang et al., 2023).

    ``A_t = delta_t + decay_t * min(1, W_(t+1)) * A_(t+1)``: each later step counts as far as the agents
    updated already still take the actions that were sampled.

    Args:
        errors: of P agents.
        log_weight: [P, T, B] log W, the product of the preceding agents' ratios.
        gae_lambda: not used: it is part of the decay.

    Returns:
        [P, T, B] advantages; those of GAE where W = 1 throughout.
    """
    del gae_lambda
    chex.assert_equal_shape([errors.delta, log_weight])
    return _accumulate(errors, jnp.exp(jnp.minimum(log_weight, 0.0)))


def twice_decayed_correction(errors: TDErrors, log_weight: Array, gae_lambda: Array | float) -> Array:
    """As :func:`preceding_agent_correction`, lambda counted twice, as in the code of A2PO's authors.

    ``A_t = delta_t + decay_t * lambda * min(1, W_(t+1)) * A_(t+1)``, where the decay has a lambda already.
    """
    chex.assert_equal_shape([errors.delta, log_weight])
    return _accumulate(errors, gae_lambda * jnp.exp(jnp.minimum(log_weight, 0.0)))


def running_product_correction(errors: TDErrors, log_weight: Array, gae_lambda: Array | float = 1.0) -> Array:
    """As :func:`preceding_agent_correction`, the bound of 1 put on the running product of the ratios.

    ``A_t = sum_k c_k decay_t ... decay_(t+k-1) delta_(t+k)``, ``c_k = min(1, c_(k-1) W_(t+k))``, ``c_0 = 1``:
    what one step has lost a later one may win back (`speedup_trace` in the code of A2PO's authors). The
    product depends on where it began, so that T steps are summed up in T^2 operations.
    """
    del gae_lambda
    chex.assert_equal_shape([errors.delta, log_weight])
    steps = errors.delta.shape[1]
    delta, log_weight = (jnp.moveaxis(x, 1, 0) for x in (errors.delta, log_weight))
    # What the step before lets through; nothing has begun before the first one.
    decay = jnp.concatenate([jnp.zeros_like(errors.decay[:1]), errors.decay[:-1]])

    def step(carry: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        # Of sums that began with each of the steps: [T, P, B].
        log_kept, decayed, total = carry
        t, delta, log_weight, decay = inputs
        log_kept = jnp.minimum(log_kept + log_weight, 0.0).at[t].set(0.0)
        decayed = (decayed * decay).at[t].set(1.0)
        return (log_kept, decayed, total + decayed * jnp.exp(log_kept) * delta), None

    zeros = jnp.zeros_like(delta)
    inputs = jnp.arange(steps), delta, log_weight, decay
    (_, _, total), _ = jax.lax.scan(step, (zeros, zeros, zeros), inputs)
    return jnp.moveaxis(total, 0, 1)


#: A2PO's corrections by the name of the setting `trace`: (errors, log weight, lambda) -> advantages.
TRACES = {
    "paper": preceding_agent_correction,
    "gae_trace": twice_decayed_correction,
    "speedup": running_product_correction,
}


def _accumulate(errors: TDErrors, kept: Array) -> Array:
    """``A_t = delta_t + decay_t * kept_(t+1) * A_(t+1)``, zero after the last step."""

    def step(later: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        delta, decay, kept = inputs
        advantage = delta + decay * later
        return kept * advantage, advantage

    delta, kept = (jnp.moveaxis(x, 1, 0) for x in (errors.delta, kept))
    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, errors.decay, kept), reverse=True)
    return jnp.moveaxis(advantages, 0, 1)


def normalize_advantages(advantages: Array, alive: Array, over: str = "agent") -> Array:
    """Zero mean and unit deviation, over the samples in which agents were alive.

    Args:
        advantages: [n, ...].
        alive: [n, ...] 1 where the sample counts.
        over: "agent", each agent's samples by themselves, or "joint", all agents' together.

    Returns:
        [n, ...] ``(A - mean) / (std + 1e-5)``, std with ddof 0. Zeros throughout where nobody was alive.
    """
    chex.assert_equal_shape([advantages, alive])
    axes = tuple(range(1 if over == "agent" else 0, advantages.ndim))
    alive = alive.astype(advantages.dtype)
    living = shards.total(alive.sum(axes, keepdims=True))

    def mean_of(x: Array) -> Array:
        sums = shards.total(jnp.where(alive > 0, x, 0.0).sum(axes, keepdims=True))
        return sums / jnp.maximum(living, 1.0)

    mean = mean_of(advantages)
    std = jnp.sqrt(mean_of((advantages - mean) ** 2))
    return (advantages - mean) / (std + 1e-5) * (living > 0)


def relative_advantage(advantages: Array, values: Array, alive: Array) -> Array:
    """How much there is to gain from each agent: the mean of ``|A / V|`` over its living samples.

    By its size A2PO's semi-greedy order picks agents.

    Args:
        advantages: [n, ...].
        values: [n, ...], or [1, ...] where all agents share them.
        alive: [n, ...] 1 where the sample counts.

    Returns:
        [n].
    """
    axes = tuple(range(1, advantages.ndim))
    size = jnp.abs(advantages) / jnp.maximum(jnp.abs(values), 1e-8)
    sums, living = shards.total((jnp.where(alive > 0, size, 0.0).sum(axes), alive.sum(axes)))
    return sums / jnp.maximum(living, 1.0)
