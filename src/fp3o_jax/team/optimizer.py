"""Adam for grouped parameters: one optimiser per component of agents that share something.

Parameters and statistics carry a leading axis of groups. Groups that no running pipeline owns keep their
weights and their statistics.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fp3o_jax.team.groups import groups_of, joined, take
from fp3o_jax.team.sharing import Sharing

ADAM = optax.scale_by_adam(eps=1e-5)
PARTS = ("trunk", "head")


def init(params: dict[str, Any], tx: optax.GradientTransformation = ADAM) -> dict[str, Any]:
    """Adam statistics for ``{"trunk", "head"}``, leaves [G, ...]; every group counts its own steps."""
    return {part: jax.vmap(tx.init)(params[part]) for part in PARTS}


def _per_group(values: Array, leaf: Array) -> Array:
    return values.reshape((-1,) + (1,) * (leaf.ndim - 1))


def _square_norm(tree: Any) -> Array:
    """[G] squared norm of each group's leaves."""
    return sum((leaf**2).sum(axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(tree))


def step(
    grads: dict[str, Any],
    state: dict[str, Any],
    params: dict[str, Any],
    *,
    sharing: Sharing,
    learning_rate: Array,
    head_scale: np.ndarray,
    max_grad_norm: Array,
    active: dict[str, Array],
    tx: optax.GradientTransformation = ADAM,
) -> tuple[dict[str, Any], dict[str, Any], Array]:
    """One clipped Adam step.

    Args:
        grads: gradients, ``{"trunk", "head"}``, leaves [G, ...].
        state: statistics from ``init``.
        params: parameters.
        sharing: which groups form a component; each component's gradient is clipped by its global norm.
        learning_rate: of the trunk.
        head_scale: [G] factor on it for each head.
        max_grad_norm: bound of the norm.
        active: [G] 1 for groups to update, by part.
        tx: gradient -> direction.

    Returns:
        New parameters, new statistics, and the sum over active components of the norms before clipping.
    """
    num_components = max(sharing.component) + 1
    square, running = jnp.zeros(num_components), jnp.zeros(num_components)
    components = {}
    for part in PARTS:
        components[part] = groups_of(None, sharing.component_of(part))
        square = joined(square, components[part], _square_norm(grads[part]), "add")
        running = joined(running, components[part], active[part], "max")
    norm = jnp.sqrt(square)
    shrink = jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-6))

    new_params, new_state = {}, {}
    for part, scale in (("trunk", 1.0), ("head", head_scale)):
        factor = take(shrink, components[part])
        clipped = jax.tree.map(lambda g, f=factor: g * _per_group(f, g), grads[part])
        direction, moved = jax.vmap(tx.update)(clipped, state[part])
        rate = -learning_rate * scale * jnp.ones(len(factor))

        def keep(new: Array, old: Array, on: Array = active[part]) -> Array:
            return jnp.where(_per_group(on, new) > 0, new, old)

        new_params[part] = jax.tree.map(
            lambda p, d, r=rate, keep=keep: keep(p + _per_group(r, d) * d, p), params[part], direction
        )
        new_state[part] = jax.tree.map(keep, moved, state[part])
    return new_params, new_state, (norm * running).sum()
