"""Parameter sharing as a partition of the agents: data.

Every leaf of a network's parameters carries a leading axis of groups. An agent uses the weights of its
group, separately for trunk and head: ``full`` is one group, ``none`` is n, ``partial`` one trunk and n
heads. What is computed with it stands in :mod:`fp3o_jax.team.groups`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

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
