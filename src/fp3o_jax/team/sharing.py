"""Parameter sharing as a partition of the agents: data, not code.

Every leaf of a network's parameters carries a leading axis of groups. An agent uses the weights of its
group, separately for trunk and head: ``full`` is one group, ``none`` is n, ``partial`` one trunk and n
heads. What depends on who shares what stands in this file; agents that share nothing are taken a few at a
time in :mod:`fp3o_jax.team.subteams`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.base import Environment
from fp3o_jax.registry import sharings


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Which group of parameters each agent uses, and how the groups are optimised.

    Agents tied to one another through trunk or head form a component: it has one optimiser, with its own
    gradient clipping.

    Attributes:
        trunk: [n] group of each agent's trunk.
        head: [n] group of each agent's policy head.
        critic_groups: [n] group of each agent's critic; the trunk's by default.
        pooled: whether a component's loss is one mean over all its samples, rather than the mean over agents
            of each agent's mean; by default where everything is shared that is shared at all.
    """

    trunk: tuple[int, ...]
    head: tuple[int, ...]
    critic_groups: tuple[int, ...] | None = None
    pooled: bool | None = None

    def __post_init__(self) -> None:
        if self.critic_groups is None:
            object.__setattr__(self, "critic_groups", self.trunk)
        if self.pooled is None:
            object.__setattr__(self, "pooled", self.trunk == self.head)

    @property
    def num_agents(self) -> int:
        return len(self.trunk)

    @property
    def critic(self) -> Sharing:
        """Sharing of the critics, whose heads are shared as their trunks are.

        Critics shared as the actors' trunks average over agents as the actors do.
        """
        groups = self.critic_groups
        return Sharing(groups, groups, groups, pooled=self.pooled or groups != self.trunk)

    @property
    def independent(self) -> bool:
        """Whether no two agents share anything."""
        return max(self.component) + 1 == self.num_agents

    @property
    def component(self) -> tuple[int, ...]:
        """[n] component of each agent."""
        label = list(range(self.num_agents))
        for groups in (self.trunk, self.head):
            for group in set(groups):
                tied = {label[i] for i, g in enumerate(groups) if g == group}
                label = [min(tied) if c in tied else c for c in label]
        return _number(label)

    def component_of(self, part: str) -> np.ndarray:
        """[G] component that each group of ``trunk`` or ``head`` belongs to."""
        groups = getattr(self, part)
        return np.array([self.component[groups.index(g)] for g in range(max(groups) + 1)])

    def head_lr_scale(self, owned: int) -> np.ndarray:
        """[G] factor on the learning rate of each policy head, with ``owned`` agents in one stage.

        The mean over agents divides a head's gradient by the number of agents it runs over; the factor
        undoes that. 1 where the loss is pooled.
        """
        sizes = np.bincount(self.component)[self.component_of("head")]
        if self.pooled:
            return np.ones(len(sizes))
        return np.maximum(1.0, np.minimum(sizes, owned) / np.bincount(self.head))


def own_sharing(name: str, env: Environment) -> Sharing:
    """The partition that others bring by name, for an environment.

    Its groups may be called anything; they are numbered.

    Raises:
        ConfigError: there is none of that name, it fails, or it has not a group for each agent.
    """
    make, n = sharings.find(name), env.num_agents
    try:
        made = make(env)
        if not isinstance(made, Sharing):
            raise TypeError(f"it returns {made!r}, no fp3o_jax.Sharing")
        groups = {part: _groups(part, getattr(made, part), n) for part in ("trunk", "head", "critic_groups")}
    except Exception as error:
        raise ConfigError(
            f"sharing={name!r} must be a function of an Environment that returns a Sharing: with "
            f"env={env.name!r} {type(error).__name__}: {error}"
        ) from error
    return dataclasses.replace(made, **groups)


def make_sharing(
    sharing: str | Sharing,
    agent_types: Sequence[Hashable] | None,
    num_agents: int,
    trunk_groups: Sequence[int] | None = None,
    head_groups: Sequence[int] | None = None,
    critic_sharing: str = "actors",
    critic_groups: Sequence[int] | None = None,
) -> Sharing:
    """The partition that ``Config.sharing`` and ``Config.critic_sharing`` name.

    Args:
        sharing: full, partial, none, by_type or groups; or the actors' partition itself.
        agent_types: [n] the type of each agent; None where types change from episode to episode.
        num_agents: n.
        trunk_groups: [n] for sharing=groups.
        head_groups: [n] for sharing=groups; the trunk's by default.
        critic_sharing: actors, full, none or groups.
        critic_groups: [n] for critic_sharing=groups.

    Raises:
        ConfigError: groups are not one number per agent, or there are no fixed types.
    """
    actors = _sharing_of_actors(sharing, agent_types, num_agents, trunk_groups, head_groups)
    if critic_sharing == "actors":
        return actors
    if critic_sharing == "groups":
        critics = _groups("critic_groups", critic_groups, num_agents)
    else:
        critics = {"full": (0,) * num_agents, "none": tuple(range(num_agents))}[critic_sharing]
    return dataclasses.replace(actors, critic_groups=critics)


def _sharing_of_actors(
    sharing: str | Sharing,
    agent_types: Sequence[Hashable] | None,
    num_agents: int,
    trunk_groups: Sequence[int] | None,
    head_groups: Sequence[int] | None,
) -> Sharing:
    one, each = (0,) * num_agents, tuple(range(num_agents))
    if isinstance(sharing, Sharing):
        return sharing
    if sharing == "full":
        return Sharing(one, one)
    if sharing == "partial":
        return Sharing(one, each)
    if sharing == "none":
        return Sharing(each, each)
    if sharing == "by_type":
        if agent_types is None:
            raise ConfigError(
                "sharing='by_type' needs agents whose types are fixed, and this environment draws new ones "
                "in each episode: use 'full', 'partial' or 'none'"
            )
        types = _number(agent_types)
        return Sharing(types, types)
    return Sharing(
        _groups("trunk_groups", trunk_groups, num_agents),
        _groups("head_groups", head_groups or trunk_groups, num_agents),
    )


def _groups(name: str, groups: Sequence[int] | None, num_agents: int) -> tuple[int, ...]:
    """The groups of a setting, counted from 0."""
    if groups is None or len(groups) != num_agents:
        raise ConfigError(f"{name}={groups!r} must hold one group for each of {num_agents} agents")
    return _number(groups)


def _number(labels: Sequence[Hashable]) -> tuple[int, ...]:
    """Labels as 0, 1, 2, ... in the order of first appearance."""
    seen: dict[Hashable, int] = {}
    return tuple(seen.setdefault(label, len(seen)) for label in labels)


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
    """``params`` with others, ``own`` [P, ...], of ``agents`` [P], of which no two share any.

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

    Agents behind the step, as a scan goes through them: the other way round, what the GRU reads and writes
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
