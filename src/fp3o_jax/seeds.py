"""Random keys of seeds."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import MAX_SEED, ConfigError


def seed_key(seed: int, name: str = "seed") -> Array:
    """The PRNG key that belongs to a seed; all 64 bits of it count.

    ``jax.random.key`` alone takes 32 of them, so that a seed and the same seed plus 2**32 would be one run.
    Below 2**32 it is ``jax.random.key(seed)``.

    Args:
        seed: 0 to 2**64 - 1.
        name: what an error calls it.

    Raises:
        ConfigError: it is no such number.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"{name}={seed!r} must be a whole number from 0 to 2**64 - 1")
    low, high = int(seed) & 0xFFFFFFFF, int(seed) >> 32
    key = jax.random.key(low)
    return jax.random.fold_in(key, np.uint32(high)) if high else key


def seed_keys(seeds: Iterable[int]) -> Array:
    """The keys [S] of S seeds."""
    return jnp.stack([seed_key(seed) for seed in seeds])
