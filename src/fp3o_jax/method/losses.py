"""The terms of the objective, per sample: arrays in, arrays out."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def clipped_surrogate(log_ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """PPO's objective ``min(r A, clip(r, 1 - eps, 1 + eps) A)`` per sample, to be maximised.

    Args:
        log_ratio: log r, the log-probability of the action less that under the behaviour policy.
        advantage: advantage, already weighted where the algorithm does so; same shape.
        clip_eps: clip range.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def weighted_surrogate(
    log_ratio: Array,
    log_weight: Array,
    advantage: Array,
    clip_eps: Array | float,
    weight_clip_eps: Array | float,
) -> Array:
    """The other agents' ratios weigh the advantage: ``min(r W A, clip(r) W A)`` (HAPPO, FP3O).

    Args:
        log_ratio: log r of the agent that is optimised.
        log_weight: log W, the product of the ratios of the agents that weigh on it; same shape.
        advantage: advantage; same shape.
        clip_eps: clip range of r.
        weight_clip_eps: not used: W is not clipped.
    """
    del weight_clip_eps
    return clipped_surrogate(log_ratio, advantage * jnp.exp(log_weight), clip_eps)


def double_clipped_surrogate(
    log_ratio: Array,
    log_weight: Array,
    advantage: Array,
    clip_eps: Array | float,
    weight_clip_eps: Array | float,
) -> Array:
    """The other agents' ratios, clipped, join the agent's own: ``min(l A, clip(l) A)``, ``l = r clip(W)``.

    CoPPO's "double clipping" (Wu et al., 2021), which A2PO (Wang et al., 2023) shares. Arguments as in
    :func:`weighted_surrogate`; W is clipped to ``1 - weight_clip_eps`` .. ``1 + weight_clip_eps``.
    """
    # The logarithm of the clipped weight: log1p(-weight_clip_eps) needs a range below 1.
    weight = jnp.clip(log_weight, jnp.log1p(-weight_clip_eps), jnp.log1p(weight_clip_eps))
    return clipped_surrogate(log_ratio + weight, advantage, clip_eps)


def huber(error: Array, delta: Array | float) -> Array:
    """``e^2 / 2`` for ``|e| <= delta``, else ``delta (|e| - delta / 2)``: symmetric in its argument."""
    size = jnp.abs(error)
    inside = jnp.minimum(size, delta)
    return inside * (size - 0.5 * inside)


def clipped_value_loss(
    value: Array,
    old_value: Array,
    target: Array,
    clip_eps: Array | float,
    delta: Array | float,
) -> Array:
    """Per sample, the larger Huber loss of the new value and of the new value clipped around the old one."""
    clipped = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return jnp.maximum(huber(target - value, delta), huber(target - clipped, delta))
