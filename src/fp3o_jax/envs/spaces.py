"""Action spaces: what kind, how many, and between which bounds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError

#: A bound beyond this is none: some environments write the largest float where they mean infinity.
NO_BOUND = 1e30

Bounds = tuple[tuple[float, ...], ...]


class Actions(NamedTuple):
    """The actions of n agents.

    Attributes:
        discrete: kind of action.
        sizes: [n] number of actions, or of action dimensions.
        low, high: [n] of [A_i] bounds of continuous actions, infinite where there is none; None if discrete.
    """

    discrete: bool
    sizes: tuple[int, ...]
    low: Bounds | None
    high: Bounds | None


def action_spaces(env: Any, agents: tuple[str, ...], name: str) -> Actions:
    """The action spaces of a JaxMARL environment; those of Gymnax have the same attributes.

    Warns:
        Continuous actions without bounds, which are not scaled.

    Raises:
        ConfigError: spaces that are neither all ``Discrete`` nor all one-dimensional ``Box``, or bounds that
            are none.
    """
    spaces = []
    for agent in agents:
        try:
            spaces.append(env.action_space(agent))
        except Exception as error:
            raise ConfigError(
                f"env={name!r}: action_space({agent!r}) fails: {type(error).__name__}: {error}"
            ) from error
    shapes = [tuple(getattr(space, "shape", None) or ()) for space in spaces]
    if all(hasattr(s, "n") and shape == () for s, shape in zip(spaces, shapes, strict=True)):
        if any(getattr(s, "start", 0) for s in spaces):
            raise ConfigError(f"env={name!r} has Discrete actions that start above 0: count them from 0")
        return Actions(True, tuple(int(s.n) for s in spaces), None, None)
    if all(hasattr(s, "low") and len(shape) == 1 for s, shape in zip(spaces, shapes, strict=True)):
        low, high = ([_bounds(getattr(s, side), s.shape) for s in spaces] for side in ("low", "high"))
        for agent, below, above in zip(agents, low, high, strict=True):
            if not all(a <= b for a, b in zip(below, above, strict=True)):
                raise ConfigError(f"env={name!r}: the bounds of {agent!r} are low={below}, high={above}")
        free = [a for a, b, c in zip(agents, low, high, strict=True) if not np.isfinite([b, c]).all()]
        if free:
            warnings.warn(
                f"env={name!r}: actions of {', '.join(free)} have no bounds to be mapped to: the environment "
                "gets what the policy draws, whose standard deviation is at most 0.5",
                stacklevel=4,
            )
        return Actions(False, tuple(shape[0] for shape in shapes), tuple(low), tuple(high))
    kinds = ", ".join(
        sorted({f"{type(s).__name__}{list(shape)}" for s, shape in zip(spaces, shapes, strict=True)})
    )
    raise ConfigError(
        f"env={name!r} has action spaces {kinds}: all agents must have Discrete ones, or all Box ones of one "
        "dimension. One Discrete space can number the combinations of several choices"
    )


def _bounds(bound: Any, shape: Sequence[int]) -> tuple[float, ...]:
    values = np.broadcast_to(np.asarray(bound, float), shape)
    return tuple(float(b) if abs(b) < NO_BOUND else float(np.copysign(np.inf, b)) for b in values)


def to_bounds(draw: Array, low: Sequence[float], high: Sequence[float]) -> Array:
    """What a policy draws [..., A], as the action [..., A] that the environment takes.

    Dimensions between two bounds are mapped affinely from [-1, 1], and draws beyond are clipped. Others are
    passed as they are, clipped at the bound that there is. The density of an action stays that of the draw.

    Args:
        draw: what the policy drew.
        low, high: [A], infinite where there is no bound.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    bounded = np.isfinite(low) & np.isfinite(high)
    below, above = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    centre, half = (below / 2 + above / 2).astype(np.float32), (above / 2 - below / 2).astype(np.float32)
    inside = jnp.where(bounded, jnp.clip(draw, -1.0, 1.0), draw)
    return jnp.clip(centre + half * inside, low.astype(np.float32), high.astype(np.float32))


def existing_actions(sizes: Sequence[int]) -> np.ndarray:
    """[n, A] bool, which actions of the padded ones each agent has."""
    return np.arange(max(sizes)) < np.asarray(sizes)[:, None]


def playable(mask: Array, exists: Array | np.ndarray) -> Array:
    """A mask of actions [..., A] from which something can be chosen: of an agent that has nothing available,
    all actions that it has.

    Args:
        mask: bool, which actions are available.
        exists: bool, which actions there are, of a shape that broadcasts.
    """
    mask = mask & exists
    return mask | (exists & ~mask.any(-1, keepdims=True))
