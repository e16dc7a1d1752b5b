"""Agents that learn beside others that stay as they are: ``Config.train_agents``."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.team.inputs import Statistics
from fp3o_jax.team.sharing import Sharing


def agent_indices(setting: str, chosen: Sequence[int | str], agents: Sequence[str]) -> tuple[int, ...]:
    """Positions of the agents that are meant, each once, in the order of the environment.

    Args:
        setting: what an error calls the choice.
        chosen: names of agents, or numbers counted from 0; a text of digits that is no name is a number.
        agents: all names.

    Raises:
        ConfigError: one is neither, or none is chosen.
    """
    if not chosen:
        raise ConfigError(f"{setting}={chosen!r} must name at least one agent of {', '.join(agents)}")
    found = set()
    for agent in chosen:
        if agent in agents:
            found.add(agents.index(agent))
        elif isinstance(agent, int) or agent.isdecimal():
            if not 0 <= int(agent) < len(agents):
                raise ConfigError(
                    f"{setting}={agent!r} must be a name, or a number from 0 to {len(agents) - 1}: the "
                    f"agents are {', '.join(agents)}"
                )
            found.add(int(agent))
        else:
            raise unknown(setting, agent, agents)
    return tuple(sorted(found))


def learners_of(
    train_agents: Sequence[int | str] | None, agents: Sequence[str], sharing: Sharing
) -> tuple[int, ...] | None:
    """The agents that ``Config.train_agents`` means; None if all learn.

    Args:
        train_agents: names or numbers; None for all.
        agents: names of all.
        sharing: of the policies.

    Raises:
        ConfigError: there is no such agent; or one that learns shares parameters with one that does not,
            which would change with it.
    """
    if train_agents is None:
        return None
    learners = agent_indices("train_agents", train_agents, agents)
    if len(learners) == len(agents):
        return None
    frozen = [i for i in range(len(agents)) if i not in learners]
    for part in ("trunk", "head"):
        groups = getattr(sharing, part)
        tied = [(i, j) for i in learners for j in frozen if groups[i] == groups[j]]
        if tied:
            learns, stays = (agents[i] for i in tied[0])
            split = tuple(int(i in learners) for i in range(len(agents)))
            raise ConfigError(
                f"train_agents={tuple(train_agents)!r}: {learns!r} learns and {stays!r} does not, and they "
                f"share a policy {part}. Agents that share parameters learn all or not at all: "
                "sharing='none' would do, or sharing='groups' with groups of either kind alone, such as "
                f"trunk_groups={split}"
            )
    return learners


def counted(seen: Statistics, sharing: Sharing, learners: Sequence[int] | None) -> Statistics:
    """What policies have seen in an iteration, [G, F], without what belongs to frozen ones.

    Statistics that normalise observations are a part of the policy, and a frozen one keeps them.
    """
    if learners is None:
        return seen
    learns = np.zeros(max(sharing.trunk) + 1)
    learns[[sharing.trunk[i] for i in learners]] = 1.0
    return jax.tree.map(lambda x: x * learns[:, None].astype(x.dtype), seen)
