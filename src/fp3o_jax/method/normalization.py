"""Running statistics of the value targets, per critic."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fp3o_jax.kernels import shards

DECAY = 0.99999
VARIANCE_FLOOR = 1e-2


class ValueNorm(NamedTuple):
    """Exponentially weighted mean and variance of the targets, each [G], and the weight behind them.

    Both are of the batches seen so far, without bias towards their initial zeros. The variance is kept as
    such: a difference of moments would lose it where it is small beside the mean.
    """

    mean: Array
    variance: Array
    weight: Array


def init(num_groups: int) -> ValueNorm:
    """Statistics that have seen nothing: they leave values as they are."""
    zeros = jnp.zeros(num_groups)
    return ValueNorm(zeros, zeros, zeros)


def update(stats: ValueNorm, targets: Array, mask: Array, groups: Array) -> ValueNorm:
    """One step of the moving averages per batch: old and new mean and variance pooled (Chan et al., 1983),
    the old ones with ``DECAY`` of their weight, the batch's with the rest.

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
        return shards.total(jnp.zeros_like(stats.mean).at[groups].add(jnp.where(mask > 0, x, 0.0).sum(axes)))

    count = total(jnp.ones_like(targets))
    seen, count = count > 0, jnp.maximum(count, 1.0)
    # A sum of large numbers is a rough one: what it misses is in the mean of what is left.
    rough = total(targets) / count
    left = targets - jnp.expand_dims(rough[groups], axes)
    offset = total(left) / count
    mean, variance = rough + offset, total(left**2) / count - offset**2

    old, new = DECAY * stats.weight, 1.0 - DECAY
    weight = old + new
    share, difference = new / weight, mean - stats.mean
    moved = ValueNorm(
        stats.mean + share * difference,
        stats.variance + share * (variance - stats.variance) + share * (1.0 - share) * difference**2,
        weight,
    )
    return ValueNorm(*(jnp.where(seen, a, b) for a, b in zip(moved, stats, strict=True)))


def moments(stats: ValueNorm, groups: Array) -> tuple[Array, Array]:
    """Mean and standard deviation [n] of each agent's critic; 0 and 1 before the first update."""
    std = jnp.sqrt(jnp.maximum(stats.variance, VARIANCE_FLOOR))
    return stats.mean[groups], jnp.where(stats.weight > 0, std, 1.0)[groups]
