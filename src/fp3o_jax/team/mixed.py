"""Teams whose agents come from several: what each learnt elsewhere, played together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from fp3o_jax.envs.base import Observation
from fp3o_jax.team.actor_critic import Acted, ActorCritic


class MixedTeam:
    """The networks of several teams as those of one, of which each agent is in another's place.

    It acts as an :class:`~fp3o_jax.team.actor_critic.ActorCritic` does, and takes its place in a trainer
    whose episodes are played; it cannot be trained. Parameters of the actors are ``{"teams", "source"}``: a
    tuple with those of each team, and for each agent the number of the team that it comes from, int [n]. So
    who comes from where is data: many mixtures are one ``vmap``.

    Every team sees what all agents see, and of its actions those of its own agents are taken: an agent does
    what it does in its own team, with any sharing, recurrent state, and normalisation of its own.

    Args:
        teams: networks, all for the same environment.
    """

    def __init__(self, teams: Sequence[ActorCritic]):
        self._teams = tuple(teams)

    def initial_hidden(self, num_envs: int) -> tuple[Array | None, ...]:
        """Zero states [n, B, H] of each team's actors; None where they are feed-forward."""
        return tuple(team.initial_hidden(num_envs) for team in self._teams)

    def act(
        self,
        params: dict[str, Any],
        seen: Observation,
        hidden: tuple[Array | None, ...],
        key: Array | None,
        starts: Array | None = None,
        greedy: Array | None = None,
    ) -> Acted:
        """One action of each agent, as its own team acts; ``hidden`` is that of each team."""
        # One key for all: of each agent only one team's draw is used.
        acted = [
            team.act(own, seen, before, key, starts, greedy)
            for team, own, before in zip(self._teams, params["teams"], hidden, strict=True)
        ]
        source = params["source"]
        agents = jnp.arange(len(source))

        def of_sources(name: str) -> Array:
            return jnp.stack([getattr(each, name) for each in acted])[source, agents]

        return Acted(*map(of_sources, ("obs", "action", "log_prob")), tuple(each.hidden for each in acted))
