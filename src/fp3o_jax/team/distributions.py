"""Action distributions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MASKED_LOGIT = -1e10


class Distribution(Protocol):
    """A policy's action distribution; leading axes are free."""

    def sample(self, key: Array) -> Array: ...

    def mode(self) -> Array: ...

    def log_prob(self, action: Array) -> Array: ...

    def entropy(self) -> Array: ...


class Categorical(NamedTuple):
    """Discrete actions; logits [..., A], unavailable ones at ``MASKED_LOGIT``. Actions are int [...]."""

    logits: Array

    def sample(self, key: Array) -> Array:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        return self.logits.argmax(-1)

    def log_prob(self, action: Array) -> Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]

    def entropy(self) -> Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_probs) * log_probs).sum(-1)


class DiagonalGaussian(NamedTuple):
    """Continuous actions [..., A]; ``mask`` is 0 at padded dimensions, which add nothing anywhere."""

    mean: Array
    std: Array
    mask: Array

    def sample(self, key: Array) -> Array:
        return self.mode() + self.std * self.mask * jax.random.normal(key, self.mean.shape)

    def mode(self) -> Array:
        return self.mean * self.mask

    def log_prob(self, action: Array) -> Array:
        z = (action - self.mean) / self.std
        per_dimension = -0.5 * z**2 - jnp.log(self.std) - 0.5 * np.log(2 * np.pi)
        return (per_dimension * self.mask).sum(-1)

    def entropy(self) -> Array:
        per_dimension = 0.5 + 0.5 * np.log(2 * np.pi) + jnp.log(self.std)
        return (per_dimension * self.mask).sum(-1)


def choose(distribution: Distribution, key: Array | None, greedy: Array | None = None) -> Array:
    """Actions: the most probable ones if ``key`` is None, or where ``greedy`` says so, else samples."""
    if key is None:
        return distribution.mode()
    sampled = distribution.sample(key)
    return sampled if greedy is None else jnp.where(greedy, distribution.mode(), sampled)
