"""Small cooperative matrix games: one step, one team reward, everything about them known.

- ``climbing`` and ``penalty`` (Claus & Boutilier, 1998): two agents, three actions; the best joint action
  is hidden behind heavy penalties for missing it alone.
- ``xor``: n agents with two actions; half of them must pick each. No single policy without an agent id
  can do it reliably.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.base import Environment, Observation, Outcome


def climbing(key: Array, actions: Array) -> Array:
    """Best: both pick 0, worth 11."""
    del key
    table = jnp.array([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])
    return table[actions[0], actions[1]]


def penalty(key: Array, actions: Array) -> Array:
    """Best: both pick 0 or both pick 2, worth 10; a mismatch of the two costs 10."""
    del key
    k = -10.0
    table = jnp.array([[10.0, 0.0, k], [0.0, 2.0, 0.0], [k, 0.0, 10.0]])
    return table[actions[0], actions[1]]


def xor(key: Array, actions: Array) -> Array:
    """1 if exactly half of the agents pick action 1, else 0."""
    del key
    return (2 * actions.sum() == actions.shape[0]).astype(jnp.float32)


GAMES = {"climbing": (climbing, 3), "penalty": (penalty, 3), "xor": (xor, 2)}


def make(game: str, num_agents: int = 2) -> Environment:
    """A matrix game.

    Args:
        game: climbing, penalty or xor.
        num_agents: agents of xor, an even number; the others are for two.

    Raises:
        ConfigError: no such game, or it is not for so many agents.
    """
    if game not in GAMES:
        raise unknown("env", f"matrix/{game}", (f"matrix/{g}" for g in GAMES))
    if type(num_agents) is not int:
        raise ConfigError(f"env_kwargs num_agents={num_agents!r} must be a whole number")
    if game != "xor" and num_agents != 2:
        raise ConfigError(f"env_kwargs num_agents={num_agents}: matrix/{game} is for 2 agents")
    if num_agents < 2 or num_agents % 2:
        raise ConfigError(f"env_kwargs num_agents={num_agents} must be even for matrix/xor")
    payoff, num_actions = GAMES[game]
    return payoff_game(payoff, num_agents, num_actions, f"matrix/{game}")


def payoff_game(
    payoff: Callable[[Array, Array], Array],
    num_agents: int,
    num_actions: int,
    name: str = "matrix",
    horizon: int = 1,
) -> Environment:
    """A repeated game without a state: ``payoff(key, actions [n]) -> reward``, for ``horizon`` steps.

    The last step is a time limit (a truncation) if the game is repeated, an end (a termination) if not.
    Observations and global state are the constant 1.
    """

    def observe() -> Observation:
        return Observation(
            obs=jnp.ones((num_agents, 1)),
            global_state=jnp.ones(1),
            action_mask=jnp.ones((num_agents, num_actions), bool),
            alive=jnp.ones(num_agents, bool),
        )

    def reset(key: Array) -> tuple[Array, Observation]:
        del key
        return jnp.zeros((), jnp.int32), observe()

    def step(key: Array, state: Array, actions: Array) -> tuple[Array, Observation, Outcome]:
        state = state + 1
        over = state >= horizon
        outcome = Outcome(
            reward=payoff(key, actions),
            terminated=over & (horizon == 1),
            truncated=over & (horizon > 1),
            won=jnp.zeros((), bool),
        )
        return state, observe(), outcome

    return Environment(
        name=name,
        agents=tuple(f"agent_{i}" for i in range(num_agents)),
        obs_sizes=(1,) * num_agents,
        action_sizes=(num_actions,) * num_agents,
        discrete=True,
        state_size=1,
        time_limit=horizon,
        truncates=horizon > 1,
        reports_wins=False,
        agent_types=("agent",) * num_agents,
        reset=reset,
        step=step,
    )
