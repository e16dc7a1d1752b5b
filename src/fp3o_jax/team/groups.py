"""What is computed under a sharing: what agents take from their groups of parameters and give back, how
their losses are averaged, and which groups a step moves.

Parameters have a leading axis of groups [G, ...]; what belongs to agents has one of all [n, ...] or of the
rows of a stage [P, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.team.sharing import Sharing


def take(x: Any, agents: Array | None) -> Any:
    """Rows of ``agents`` [P] from every leaf [n, ...] of ``x``; all of them if ``agents`` is None."""
    return x if agents is None else jax.tree.map(lambda leaf: jnp.asarray(leaf)[agents], x)


def put(x: Array, agents: Array | None, rows: Array) -> Array:
    """``x`` [n, ...] with other ``rows`` [P, ...] of ``agents`` [P]; of all agents, in order, if None."""
    return rows if agents is None else x.at[agents].set(rows)


def agent_params(params: Any, sharing: Sharing, agents: Array | None) -> Any:
    """What each of ``agents`` [P] uses: leaves [G, ...] -> [P, ...].

    Args:
        params: ``{"trunk", "head"}`` of the actors or of the critics, or what is laid out like that.
        sharing: who uses which group of them.
        agents: [P] int, or None for all in order.
    """
    return {part: take(tree, groups_of(agents, getattr(sharing, part))) for part, tree in params.items()}


def set_agent_params(params: Any, sharing: Sharing, agents: Array | None, own: Any) -> Any:
    """``params``, where those of ``agents`` [P] are replaced by ``own`` [P, ...]; no two of them share any.

    ``own`` itself for all agents, in order, where each has a group of its own.
    """

    def set_part(part: str, tree: Any) -> Any:
        groups = groups_of(agents, getattr(sharing, part))
        return jax.tree.map(lambda leaf, x: put(leaf, groups, x), tree, own[part])

    return {part: set_part(part, tree) for part, tree in params.items()}


def groups_of(agents: Array | None, groups: Sequence[int] | np.ndarray) -> Any:
    """[P] those of ``groups`` [n] that ``agents`` are in; None for all groups, in order, one agent in each.

    There is nothing to gather or to scatter then.
    """
    if agents is None and tuple(groups) == tuple(range(len(groups))):
        return None
    return take(np.array(groups), agents)


def joined(into: Array, groups: Any, values: Array, how: str) -> Array:
    """``into`` [G], to which the ``values`` [P] of each group are added one by one, or its highest is taken.

    Args:
        into: what there is.
        groups: [P] of the values; None for one each, in order.
        values: what comes.
        how: add or max.
    """
    if groups is None:
        return {"add": jnp.add, "max": jnp.maximum}[how](into, values)
    return getattr(into.at[groups], how)(values)


def apply_grouped(
    fn: Callable[..., Any],
    params: Sequence[Any],
    groups: Sequence[Sequence[int]],
    agents: Array | None,
    *inputs: Any,
    in_axes: Sequence[int | None],
    rows: int | None = None,
) -> Any:
    """``fn(*parameters of its groups, *inputs of the agent)`` for each of P agents.

    One group becomes one large matrix product over all agents' samples, a group for each agent a batched
    product without any gather.

    Args:
        fn: function of one agent's parameters, one pytree for each of ``params``, and inputs.
        params: pytrees, leaves [G, ...].
        groups: for each of them, [n] group of each agent.
        agents: [P] int, or None for all n agents in order.
        *inputs: pytrees, leaves [P, ...].
        in_axes: 0 or None (the same for all agents) per input.
        rows: P, which nothing else tells where everything is the same for all agents.

    Returns:
        The results of ``fn``, stacked: leaves [P, ...].
    """
    chosen, axes = [], []
    for tree, group in zip(params, groups, strict=True):
        num_groups = max(group) + 1
        chex.assert_tree_shape_prefix(tree, (num_groups,))
        if num_groups == 1:
            tree = jax.tree.map(lambda leaf: leaf[0], tree)
        elif tuple(group) != tuple(range(len(group))) or agents is not None:
            tree = take(tree, take(np.array(group), agents))
        chosen.append(tree)
        axes.append(None if num_groups == 1 else 0)
    return jax.vmap(fn, in_axes=(*axes, *in_axes), axis_size=rows)(*chosen, *inputs)


def apply_shared(
    network: Callable[..., tuple[Any, Array]],
    params: tuple[Any, Any],
    x: Array,
    mask: Array,
    ids: Array | None,
    hidden: Array,
    starts: Array,
    *head_inputs: Array,
) -> tuple[Any, Array]:
    """The sequences of P agents as those of one network that all share.

    Agents after the step, as a scan goes through them: the other way round, what the GRU reads and writes
    would be transposed on the way in and out.
    """
    agents, count = hidden.shape[:2]

    def steps(a: Array) -> Array:
        """[P, L, N or 1, ...] -> [L, P N, ...]"""
        a = jnp.broadcast_to(a, (*a.shape[:2], count, *a.shape[3:]))
        return a.swapaxes(0, 1).reshape((a.shape[1], agents * count, *a.shape[3:]))

    results = network(
        *params,
        steps(x),
        mask[0] if len(mask) == 1 else mask.repeat(count, 0),
        None if ids is None else ids.repeat(count, 0),
        hidden.reshape((agents * count, -1)),
        jnp.tile(starts, (1, agents)),
        *map(steps, head_inputs),
    )
    return jax.tree.map(
        lambda a: a.reshape((a.shape[0], agents, count, *a.shape[2:])).swapaxes(0, 1), results
    )


def loss_scale(living: Array, active: Array, sharing: Sharing, agents: Array | None) -> Array:
    """The factors [P] with which the losses of rows' living samples add up to the scalar that is minimised.

    That is the sum over components. Pooled ones contribute one mean over all their living samples, the others
    the mean over their agents of each agent's mean.

    Args:
        living: [P] how many of a row's samples count.
        active: [P] 1 where the row learns, else 0.
        sharing: of the parameters.
        agents: [P] agent of each row, or None for all in order.
    """
    component = groups_of(agents, sharing.component)

    def total(per_agent: Array) -> Array:
        """[P] the sum over each row's component, at least 1."""
        nothing = jnp.zeros(max(sharing.component) + 1, living.dtype)
        return take(jnp.maximum(joined(nothing, component, per_agent, "add"), 1.0), component)

    counts = living * active
    return active / (total(counts) if sharing.pooled else jnp.maximum(counts, 1.0) * total(active))


def active_groups(groups: Sequence[int], active: Array, agents: Array | None) -> Array:
    """[G] 1 for the groups of parameters that an ``active`` [P] row optimises, else 0."""
    return joined(jnp.zeros(max(groups) + 1, active.dtype), groups_of(agents, groups), active, "max")
