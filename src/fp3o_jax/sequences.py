"""How the steps of a rollout become sequences, and sequences blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def as_sequences(x: Array, length: int) -> Array:
    """Cuts the time axis into chunks: [n, T, B, ...] -> [n, L, N, ...] with N = T / L * B."""
    n, steps, num_envs = x.shape[:3]
    chunks = x.reshape((n, steps // length, length, num_envs, *x.shape[3:])).swapaxes(1, 2)
    return chunks.reshape((n, length, steps // length * num_envs, *x.shape[3:]))


def as_steps(x: Array, num_envs: int) -> Array:
    """Puts the chunks together again: [n, L, N, ...] -> [n, T, B, ...], the inverse of `as_sequences`."""
    n, length, count = x.shape[:3]
    chunks = x.reshape((n, length, count // num_envs, num_envs, *x.shape[3:])).swapaxes(1, 2)
    return chunks.reshape((n, length * (count // num_envs), num_envs, *x.shape[3:]))


def num_blocks(sequences: int, samples: int, target: int | None) -> int:
    """How many blocks of equal size hold ``target`` of the ``samples`` each, or less; 1 if None."""
    if target is None:
        return 1
    wanted = min(-(-samples // target), sequences)
    return next(k for k in range(wanted, sequences + 1) if sequences % k == 0)


def sum_over(block: Callable[[Array | int], Any], count: int, zeros: Any) -> Any:
    """``block(0) + ... + block(count - 1)``, one after another, from ``zeros`` of the result's structure."""
    if count == 1:
        return block(0)
    return jax.lax.fori_loop(0, count, lambda i, total: jax.tree.map(jnp.add, total, block(i)), zeros)


def joined(blocks: Array) -> Array:
    """What blocks of sequences became, put together again: [k, n, L, N / k] -> [n, L, N]."""
    _, n, length, _ = blocks.shape
    return jnp.moveaxis(blocks, 0, 2).reshape((n, length, -1))
