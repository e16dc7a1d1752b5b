"""SMAX battles of any size: n marines against the heuristic enemy's n + 2."""

from __future__ import annotations

from typing import Any


def team(num_agents: int = 8) -> Any:
    """JaxMARL's environment of so many marines: ``--env marines:team --env-kwargs num_agents=8``."""
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.smax_env import Scenario

    enemies = num_agents + 2
    marines = jnp.zeros(num_agents + enemies, jnp.uint8)
    return HeuristicEnemySMAX(scenario=Scenario(marines, num_agents, enemies, False, False))
