"""JaxMARL environments behind :class:`~fp3o_jax.envs.base.Environment`: SMAX, MABrax, MPE, any other.

The only module that imports JaxMARL and Brax, and only when an environment is made.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.base import Environment, Observation, Outcome, pad_last
from fp3o_jax.envs.scenes import Scene, mpe_scenes, smax_scenes

MABRAX = ("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3")
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what JaxMARL and Brax print while they are imported or built from our users.

    JaxMARL's MABrax module replaces ``sys.stdout`` and ``sys.stderr`` while it is imported and then puts
    the interpreter's original streams there, which would undo any capture in force. So the originals are
    covered as well, and all four are put back.
    """
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    streams = {name: getattr(sys, name) for name in names}
    try:
        for name in names:
            setattr(sys, name, io.StringIO())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


@contextlib.contextmanager
def _quiet_mujoco() -> Iterator[None]:
    """Keeps MuJoCo, which parses Brax's models, from printing warnings and writing a log file to the
    working directory."""
    import mujoco

    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


def smax_maps() -> tuple[str, ...]:
    """The names of JaxMARL's SMAX maps."""
    with _quiet():
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
    return tuple(MAP_NAME_TO_SCENARIO)


def smax(map_name: str, **kwargs: Any) -> Environment:
    """SMAX with the heuristic enemy.

    Running out of time is a truncation; a battle won or lost is a termination.
    """
    if map_name not in smax_maps():
        raise unknown("env", f"smax/{map_name}", (f"smax/{m}" for m in smax_maps()))
    with _quiet():
        from jaxmarl.environments.smax import HeuristicEnemySMAX
        from jaxmarl.environments.smax.smax_env import map_name_to_scenario

        scenario = map_name_to_scenario(map_name)
        env = _build(HeuristicEnemySMAX, scenario=scenario, **kwargs)
    allies = env.num_agents

    def won(state: Any, info: dict[str, Any]) -> Array:
        alive = state.state.unit_alive
        return alive[:allies].any() & ~alive[allies:].any()

    def truncated(state: Any, info: dict[str, Any]) -> Array:
        alive = state.state.unit_alive
        return alive[:allies].any() & alive[allies:].any()

    types = None
    if not scenario.smacv2_unit_type_generation:
        types = tuple(int(t) for t in scenario.unit_types[:allies])
    return adapt(
        env,
        f"smax/{map_name}",
        truncated=truncated,
        won=won,
        time_limit=env.max_steps,
        agent_types=types,
        scenes=lambda states: smax_scenes(env, states),
    )


def mabrax(task: str, **kwargs: Any) -> Environment:
    """A Brax robot whose joints are divided among agents.

    The global state is the whole Brax observation; the time limit is a truncation.
    """
    if task not in MABRAX:
        raise unknown("env", f"mabrax/{task}", (f"mabrax/{m}" for m in MABRAX))
    with _quiet():
        from brax import envs as brax_envs
        from jaxmarl.environments.mabrax.mabrax_env import MABraxEnv
        from jaxmarl.environments.mabrax.mappings import _agent_observation_mapping

    with _quiet(), _quiet_mujoco():
        size = brax_envs.get_environment(
            task.split("_")[0], backend=kwargs.get("backend", "positional")
        ).observation_size
        kwargs.setdefault("agent_obs_mapping", _observed(task, size, _agent_observation_mapping[task]))
        env = _build(MABraxEnv, env_name=task, auto_reset=False, **kwargs)

    def html(states: Any) -> str:
        from brax.io import html as brax_html

        # The viewer takes the simulator's time step for the time between two states.
        system = env.sys.tree_replace({"opt.timestep": env.env.dt * env.action_repeat})
        steps = [jax.tree.map(lambda x, t=t: x[t], states.pipeline_state) for t in range(len(states.done))]
        return brax_html.render(system, steps, height="100vh", colab=False)

    return adapt(
        env,
        f"mabrax/{task}",
        global_state=lambda state, obs: state.obs,
        truncated=lambda state, info: info["truncation"] > 0,
        time_limit=env.episode_length,
        html=html,
    )


def _observed(task: str, size: int, mapping: dict[str, Any]) -> dict[str, np.ndarray]:
    """Which of the robot's ``size`` features each agent sees, for the observations that Brax now gives.

    JaxMARL's table for the half-cheetah counts the torso's x position, which Brax leaves out: every index
    is one too high there. Its table for the humanoid was laid out for 376 features and Brax gives 244:
    JAX would read the last feature for all those past the end, so they are dropped.
    """
    shift = 1 if task.startswith("halfcheetah") and size == 17 else 0
    indices = {agent: np.asarray(table) - shift for agent, table in mapping.items()}
    return {agent: table[table < size] for agent, table in indices.items()}


def mpe(task: str, **kwargs: Any) -> Environment:
    """A cooperative multi-agent particle task.

    The global state is all agents' observations side by side; episodes end by their time limit alone.
    """
    if task in MPE_COMPETITIVE:
        raise ConfigError(
            f"env='mpe/{task}' is not cooperative, and the algorithms here maximise one team reward: "
            f"the cooperative tasks are {', '.join(f'mpe/{m}' for m in MPE)}"
        )
    if task not in MPE:
        raise unknown("env", f"mpe/{task}", (f"mpe/{m}" for m in MPE))
    with _quiet():
        from jaxmarl.environments import mpe as tasks

        name = "".join(word.capitalize() for word in task.split("_")) + "MPE"
        env = _build(getattr(tasks, name), **kwargs)

    return adapt(
        env,
        f"mpe/{task}",
        global_state=lambda state, obs: jnp.concatenate([obs[a].ravel() for a in env.agents]),
        truncated=lambda state, info: jnp.ones((), bool),
        time_limit=env.max_steps,
        scenes=lambda states: mpe_scenes(env, states),
    )


def _build(cls: type, **kwargs: Any) -> Any:
    try:
        return cls(**kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"env_kwargs={kwargs!r} do not fit {cls.__name__}: {error}") from error


def adapt(
    env: Any,
    name: str | None = None,
    *,
    global_state: Callable[[Any, dict[str, Array]], Array] | None = None,
    truncated: Callable[[Any, dict[str, Any]], Array] | None = None,
    won: Callable[[Any, dict[str, Any]], Array] | None = None,
    time_limit: int | None = None,
    agent_types: tuple[Hashable, ...] | None = (),
    scenes: Callable[[Any], list[Scene]] | None = None,
    html: Callable[[Any], str] | None = None,
) -> Environment:
    """Any JaxMARL environment as an :class:`Environment`.

    Args:
        env: a ``jaxmarl`` ``MultiAgentEnv``.
        name: its name in logs; by default its class.
        global_state: (state, obs by agent) -> [S]. By default ``obs["world_state"]``, else
            ``env.get_world_state(state)``, else none.
        truncated: (state, info) -> whether an episode that is over was cut by a time limit. By default
            ``info["truncation"]`` where there is one; without it every end is a termination.
        won: (state, info) -> whether an episode that is over was won.
        time_limit: bound on the episode length, if known.
        agent_types: [n]; by default agents are of one type if their names agree but for the number and
            their spaces agree. None if types change.
        scenes, html: how an episode is shown, see :class:`Environment`.

    Raises:
        ConfigError: spaces that are neither all ``Discrete`` nor all one-dimensional ``Box``.
    """
    agents = tuple(env.agents)
    name = name or getattr(env, "name", type(env).__name__)
    discrete, action_sizes, low, high = _action_spaces(env, agents, name)
    max_actions = max(action_sizes)

    def by_agent(actions: Array) -> dict[str, Array]:
        if discrete:
            return {a: actions[i] for i, a in enumerate(agents)}
        return {
            a: jnp.clip(actions[i, :size], low[i], high[i])
            for i, (a, size) in enumerate(zip(agents, action_sizes, strict=True))
        }

    key = jax.random.key(0)
    no_action = jnp.zeros(len(agents), jnp.int32) if discrete else jnp.zeros((len(agents), max_actions))
    with _quiet():
        obs_shapes, state_shape = jax.eval_shape(env.reset, key)
        *_, info_shapes = jax.eval_shape(env.step_env, key, state_shape, by_agent(no_action))
    if missing := [a for a in agents if a not in obs_shapes]:
        raise ConfigError(f"env={name!r}: reset gives no observation for {', '.join(missing)}")
    obs_sizes = tuple(int(np.prod(obs_shapes[a].shape)) for a in agents)
    has_mask = discrete and _works(env.get_avail_actions, state_shape)
    global_state = global_state or _find_global_state(env, obs_shapes, state_shape)
    if truncated is None and "truncation" in info_shapes:

        def truncated(state: Any, info: dict[str, Any]) -> Array:
            return jnp.asarray(info["truncation"]) > 0

    if agent_types == ():
        stems = [re.sub(r"[_\d]+$", "", a) for a in agents]
        agent_types = tuple(zip(stems, obs_sizes, action_sizes, strict=True))

    exists = np.arange(max_actions) < np.array(action_sizes)[:, None]

    def observe(state: Any, obs: dict[str, Array], alive: Array) -> Observation:
        mask = jnp.asarray(exists) if discrete else None
        if has_mask:
            available = env.get_avail_actions(state)
            mask = jnp.stack([pad_last(available[a], max_actions) for a in agents]) > 0
        flat = [pad_last(obs[a].ravel().astype(jnp.float32), max(obs_sizes)) for a in agents]
        return Observation(
            obs=jnp.stack(flat),
            global_state=(global_state(state, obs).astype(jnp.float32) if global_state else jnp.zeros(0)),
            action_mask=mask,
            alive=alive,
        )

    def reset(key: Array) -> tuple[Any, Observation]:
        obs, state = env.reset(key)
        return state, observe(state, obs, jnp.ones(len(agents), bool))

    def step(key: Array, state: Any, actions: Array) -> tuple[Any, Observation, Outcome]:
        obs, state, rewards, dones, info = env.step_env(key, state, by_agent(actions))
        done = jnp.asarray(dones["__all__"], bool)
        cut = truncated(state, info) if truncated else jnp.zeros((), bool)
        outcome = Outcome(
            reward=sum(rewards[a] for a in agents).astype(jnp.float32) / len(agents),
            terminated=done & ~cut,
            truncated=done & cut,
            won=done & won(state, info) if won else jnp.zeros((), bool),
        )
        alive = ~jnp.stack([jnp.asarray(dones[a], bool) for a in agents])
        return state, observe(state, obs, alive), outcome

    return Environment(
        name=name,
        agents=agents,
        obs_sizes=obs_sizes,
        action_sizes=action_sizes,
        discrete=discrete,
        state_size=jax.eval_shape(reset, key)[1].global_state.shape[0],
        time_limit=time_limit,
        truncates=truncated is not None,
        reports_wins=won is not None,
        agent_types=agent_types,
        reset=reset,
        step=step,
        scenes=scenes,
        html=html,
    )


def _action_spaces(
    env: Any, agents: tuple[str, ...], name: str
) -> tuple[bool, tuple[int, ...], list[Any], list[Any]]:
    """Whether actions are discrete, their sizes [n], and the bounds of continuous ones."""
    from jaxmarl.environments.spaces import Box, Discrete

    spaces = [env.action_space(a) for a in agents]
    if all(isinstance(s, Discrete) for s in spaces):
        return True, tuple(int(s.n) for s in spaces), [], []
    if all(isinstance(s, Box) and len(s.shape) == 1 for s in spaces):
        return (
            False,
            tuple(int(s.shape[0]) for s in spaces),
            [s.low for s in spaces],
            [s.high for s in spaces],
        )
    kinds = ", ".join(sorted({type(s).__name__ for s in spaces}))
    raise ConfigError(
        f"env={name!r} has action spaces {kinds}: all agents must have Discrete ones, or all Box ones of "
        "one dimension"
    )


def _works(fn: Callable[..., Any], *shapes: Any) -> bool:
    """Whether an optional method of a JaxMARL environment is implemented."""
    try:
        jax.eval_shape(fn, *shapes)
    except (NotImplementedError, AttributeError):
        return False
    return True


def _find_global_state(
    env: Any, obs_shapes: dict[str, Any], state_shape: Any
) -> Callable[[Any, dict[str, Array]], Array] | None:
    if "world_state" in obs_shapes:
        return lambda state, obs: obs["world_state"].ravel()
    if hasattr(env, "get_world_state") and _works(env.get_world_state, state_shape):
        return lambda state, obs: env.get_world_state(state).ravel()
    return None
