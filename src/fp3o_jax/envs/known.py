"""What is known of JaxMARL's own environments beyond what every environment says of itself.

An object is recognised by the full name of its class, so that nothing has to be imported to look.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.scenes import Scene, mpe_scenes, smax_scenes
from fp3o_jax.envs.spared import jaxmarl_module
from fp3o_jax.envs.wrappers import clone, inherits

_ROOT = "jaxmarl.environments"
_MABRAX = f"{_ROOT}.mabrax.mabrax_env.MABraxEnv"

MPE = ("simple", "simple_reference", "simple_speaker_listener", "simple_spread")
# Teams with adversaries or private rewards: there is no team reward to maximise.
MPE_COMPETITIVE = (
    "simple_adversary",
    "simple_crypto",
    "simple_facmac",
    "simple_facmac_3a",
    "simple_facmac_6a",
    "simple_facmac_9a",
    "simple_push",
    "simple_tag",
    "simple_world_comm",
)


class Known(NamedTuple):
    """What the adapter is told of an environment; functions take the state of that environment itself.

    Attributes:
        truncated: (state, info) -> whether an episode that is over was cut by a time limit.
        won: (state, info) -> whether an episode that is over was won.
        global_state: (state, obs by agent) -> [S].
        time_limit: no episode has more steps than this plus one.
        agent_types: [n]; None where types change from episode to episode, () if nothing is known.
        scenes, html: how an episode is shown, see :class:`~fp3o_jax.envs.base.Environment`.
        joint_state: the global state is all observations side by side, which is nothing to wonder at.
    """

    truncated: Callable[[Any, dict[str, Any]], Array] | None = None
    won: Callable[[Any, dict[str, Any]], Array] | None = None
    global_state: Callable[[Any, dict[str, Array]], Array] | None = None
    time_limit: int | None = None
    agent_types: tuple[Hashable, ...] | None = ()
    scenes: Callable[[Any], list[Scene]] | None = None
    html: Callable[[Any], str] | None = None
    joint_state: bool = False


def about(env: Any) -> Known:
    """What is known of an environment, :func:`mended` before and out of its wrappers."""
    describe = next((describe for path, describe in _ABOUT.items() if inherits(env, path)), None)
    return Known() if describe is None else describe(env)


def _smax(env: Any) -> Known:
    """Running out of time is a truncation; a battle won or lost is a termination."""
    allies = env.num_allies

    def won(state: Any, info: dict[str, Any]) -> Array:
        alive = state.state.unit_alive
        return alive[:allies].any() & ~alive[allies:].any()

    def truncated(state: Any, info: dict[str, Any]) -> Array:
        alive = state.state.unit_alive
        return alive[:allies].any() & alive[allies:].any()

    types: tuple[int, ...] | None = None
    if not env.smacv2_unit_type_generation:
        units = (0,) * allies if env.scenario is None else env.scenario[:allies]
        types = tuple(int(t) for t in units)
    return Known(truncated, won, None, env.max_steps, types, scenes=lambda states: smax_scenes(env, states))


def _mabrax(env: Any) -> Known:
    """The global state is the whole Brax observation; the time limit is a truncation."""

    def html(states: Any) -> str:
        from brax.io import html as brax_html

        # The viewer takes the simulator's time step for the time between two states.
        system = env.sys.tree_replace({"opt.timestep": env.env.dt * env.action_repeat})
        steps = [jax.tree.map(lambda x, t=t: x[t], states.pipeline_state) for t in range(len(states.done))]
        return brax_html.render(system, steps, height="100vh", colab=False)

    return Known(
        truncated=lambda state, info: state.info["truncation"] > 0,
        global_state=lambda state, obs: state.obs,
        time_limit=-(-env.episode_length // env.action_repeat),
        html=html,
    )


def _mpe(env: Any) -> Known:
    """The global state is all agents' observations side by side; episodes end by their time limit alone."""
    return Known(
        truncated=_at_limit(env),
        joint_state=True,
        time_limit=env.max_steps,
        scenes=lambda states: mpe_scenes(env, states),
    )


def _limited(env: Any) -> Known:
    """What is left at ``max_steps`` is cut."""
    return Known(truncated=_at_limit(env), time_limit=env.max_steps)


def _at_limit(env: Any) -> Callable[[Any, dict[str, Any]], Array]:
    return lambda state, info: jnp.asarray(state.step >= env.max_steps)


_ABOUT: dict[str, Callable[[Any], Known]] = {
    f"{_ROOT}.smax.heuristic_enemy_smax_env.EnemySMAX": _smax,
    _MABRAX: _mabrax,
    f"{_ROOT}.mpe.simple.SimpleMPE": _mpe,
    f"{_ROOT}.overcooked.overcooked.Overcooked": _limited,
    f"{_ROOT}.overcooked_v2.overcooked.OvercookedV2": _limited,
    f"{_ROOT}.jaxnav.jaxnav_env.JaxNav": _limited,
}

_GENERAL_SUM = "its agents play for themselves, in a game in which one's gain may be another's loss"
_RIVALS = {
    f"{_ROOT}.smax.smax_env.SMAX": "both armies are agents of it: HeuristicEnemySMAX (smax/<map>) has one "
    "that learns",
    f"{_ROOT}.coin_game.coin_game.CoinGame": _GENERAL_SUM,
    f"{_ROOT}.storm.storm_env.InTheGrid": _GENERAL_SUM,
    f"{_ROOT}.storm.storm_2p.InTheGrid_2p": _GENERAL_SUM,
    f"{_ROOT}.storm.storm.InTheMatrix": _GENERAL_SUM,
} | {
    f"{_ROOT}.mpe.{task}.{''.join(word.capitalize() for word in task.split('_'))}MPE": "some of its agents "
    f"are against the others; the cooperative tasks are {', '.join(f'mpe/{m}' for m in MPE)}"
    for task in MPE_COMPETITIVE
}


def refuse_rivals(env: Any, name: str) -> None:
    """Raises:
    ConfigError: the environment, out of its wrappers, is one of JaxMARL's that are no team's game. A class
        derived from one of those may have made it one, and is taken.
    """
    kind = type(env)
    if reason := _RIVALS.get(f"{kind.__module__}.{kind.__qualname__}"):
        raise ConfigError(
            f"env={name!r} ({kind.__name__}) is not cooperative, and the algorithms here maximise one team "
            f"reward: {reason}"
        )


def mended(env: Any) -> Any:
    """The environment as it is to be stepped: MABrax without its own reset, and with observation tables that
    fit what Brax gives today.

    Raises:
        ConfigError: a reset of Brax's that cannot be taken off.
    """
    if not inherits(env, _MABRAX):
        return env
    tables = jaxmarl_module("mabrax.mappings")._agent_observation_mapping

    # A wrapper around the robot itself: what it hides is the last state of an episode.
    robot = env.env
    if type(robot).__name__ == "AutoResetWrapper":
        robot = robot.env
    inner = robot
    while hasattr(inner, "env"):
        inner = inner.env
        if type(inner).__name__ == "AutoResetWrapper":
            raise ConfigError(
                f"{type(env).__name__} begins new episodes by itself: make it with auto_reset=False"
            )
    task = next((task for task, table in tables.items() if table is env.agent_obs_mapping), None)
    mapping = env.agent_obs_mapping
    if task is not None:
        mapping = _observed(task, robot.observation_size, mapping)
    return clone(env, env=robot, auto_reset=False, agent_obs_mapping=mapping)


def _observed(task: str, size: int, mapping: dict[str, Any]) -> dict[str, np.ndarray]:
    """Which of the robot's ``size`` features each agent sees, for the observations that Brax now gives.

    JaxMARL's table for the half-cheetah counts the torso's x position, which Brax leaves out: every index
    is one too high there. Its table for the humanoid was laid out for 376 features and Brax gives 244:
    JAX would read the last feature for all those past the end, so they are dropped.
    """
    shift = 1 if task.startswith("halfcheetah") and size == 17 else 0
    indices = {agent: np.asarray(table) - shift for agent, table in mapping.items()}
    return {agent: table[table < size] for agent, table in indices.items()}
