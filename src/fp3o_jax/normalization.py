"""Running statistics of the value targets, per critic."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

DECAY = 0.99999
VARIANCE_FLOOR = 1e-2


class ValueNorm(NamedTuple):
    """Exponential moving first and second moments, and the weight that debiases them; each [G]."""

    mean: Array
    mean_square: Array
    weight: Array


def init(num_groups: int) -> ValueNorm:
    """Statistics that have seen nothing: they leave values as they are."""
    zeros = jnp.zeros(num_groups)
    return ValueNorm(zeros, zeros, zeros)


def update(stats: ValueNorm, targets: Array, mask: Array, groups: Array) -> ValueNorm:
    """One step of the moving averages per batch.

    Args:
        stats: statistics of G critics.
        targets: [n, ...] value targets, not normalised; or [1, ...], the same for all agents.
        mask: [n, ...] 1 where the sample counts.
        groups: [n] int, the critic of each agent.

    Returns:
        The new statistics; those of a critic without any sample stay.
    """
    axes = tuple(range(1, targets.ndim))

    def total(x: Array) -> Array:
        return jnp.zeros_like(stats.mean).at[groups].add((x * mask).sum(axes))

    count = total(jnp.ones_like(targets))
    seen = count > 0
    count = jnp.maximum(count, 1.0)

    def move(old: Array, new: Array) -> Array:
        return jnp.where(seen, DECAY * old + (1.0 - DECAY) * new, old)

    return ValueNorm(
        move(stats.mean, total(targets) / count),
        move(stats.mean_square, total(targets**2) / count),
        move(stats.weight, jnp.ones_like(count)),
    )


def moments(stats: ValueNorm, groups: Array) -> tuple[Array, Array]:
    """Debiased mean and standard deviation [n] of each agent's critic; 0 and 1 before the first update."""
    seen = stats.weight > 0
    weight = jnp.where(seen, stats.weight, 1.0)
    mean = stats.mean / weight
    variance = jnp.maximum(stats.mean_square / weight - mean**2, VARIANCE_FLOOR)
    std = jnp.where(seen, jnp.sqrt(variance), 1.0)
    return mean[groups], std[groups]
