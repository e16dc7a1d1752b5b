"""How the steps of a rollout become sequences."""

from __future__ import annotations

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
