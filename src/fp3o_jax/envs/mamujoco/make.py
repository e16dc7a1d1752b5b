"""``mamujoco/<robot>_<partition>``: a robot's joints, divided among agents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.base import Environment, Observation, Outcome
from fp3o_jax.envs.mamujoco.c_engine import c_engine
from fp3o_jax.envs.mamujoco.graph import observed, places
from fp3o_jax.envs.mamujoco.robot import Engine, Felt, Robot, Task, fields_at_rest
from fp3o_jax.envs.mamujoco.robots import ROBOTS
from fp3o_jax.envs.mamujoco.views import Partition, parsed, segments_of
from fp3o_jax.envs.quiet import quiet, quiet_mujoco
from fp3o_jax.envs.spaces import existing_actions, to_bounds

Physics = Literal["mujoco", "mjx"]
Effort = Literal["full", "fast"]
#: What is listed of the robots that have any number of segments.
EXAMPLES = {"manysegmentswimmer": ("8x2",), "manysegmentant": ("2x3",)}
TASKS = tuple(
    f"{name}_{partition}"
    for name, robot in ROBOTS.items()
    for partition in (*robot.partitions, *EXAMPLES.get(name, ()))
)
#: What agents see of the nodes that all see.
EVERYWHERE = ("qpos", "qvel")


@struct.dataclass
class State:
    """Where a robot stands.

    Attributes:
        physics: as its engine has it.
        steps: of the episode so far.
    """

    physics: Any
    steps: Array


class Parts(NamedTuple):
    """What an environment is made of.

    Attributes:
        name: as in ``Config.env``.
        task: the robot.
        engine: its physics.
        agents: actuators of each.
        seen: for each agent the places of what it sees among all features.
        whole: likewise of the critics.
    """

    name: str
    task: Task
    engine: Engine
    agents: Partition
    seen: tuple[np.ndarray, ...]
    whole: np.ndarray


def make(
    task: str,
    agent_obsk: int | str | None = 1,
    partition: str | Sequence[Any] | None = None,
    physics: Physics | None = None,
    effort: Effort = "full",
    **options: Any,
) -> Environment:
    """A robot of MaMuJoCo's.

    Args:
        task: ``<robot>_<partition>``; the robot alone where it is divided by ``partition``.
        agent_obsk: how far along the robot agents see beyond their own joints; None, or "all", for
            Gymnasium's whole observation.
        partition: a division of one's own, see :func:`~fp3o_jax.envs.mamujoco.views.parsed`.
        physics: "mujoco" in C on the host, or "mjx" on the device; by default that on a CPU, this elsewhere.
        effort: of MJX's solver: "full", as the robot's file has it, or "fast", at most 4 iterations with 8
            steps of the line search in each.
        options: Gymnasium's weights and ranges.

    Raises:
        ConfigError: no such robot, partition or option, or a value that cannot be used.
    """
    return environment_of(parts_of(task, agent_obsk, partition, physics, effort, **options))


def parts_of(
    task: str,
    agent_obsk: int | str | None = 1,
    partition: str | Sequence[Any] | None = None,
    physics: Physics | None = None,
    effort: Effort = "full",
    **options: Any,
) -> Parts:
    """What :func:`make` puts together."""
    name, _, division = task.partition("_")
    if name not in ROBOTS:
        raise unknown("env", f"mamujoco/{task}", (f"mamujoco/{known}" for known in TASKS))
    robot = ROBOTS[name]
    distance = _distance(agent_obsk)
    segments = None if robot.segments is None else segments_of(division, f"mamujoco/{task}")
    with quiet(), quiet_mujoco():
        model = robot.model() if segments is None else robot.model(math.prod(segments))
    bound = Task(robot, model, _options(name, robot, options))
    agents = _agents(bound, task, segments, partition)

    at_rest = fields_at_rest(bound)
    shapes = {feature: x.shape for feature, x in robot.features(np, bound, at_rest).items()}
    whole = [(feature, tuple(range(math.prod(shapes[feature])))[part]) for feature, part in robot.whole]
    graph = robot.graph(model)
    seen = [
        whole if distance is None else observed(graph, own, distance, robot.local, EVERYWHERE, shapes)
        for own in agents
    ]
    return Parts(
        name=f"mamujoco/{task}",
        task=bound,
        engine=_engine(bound, f"mamujoco/{task}", physics, effort, sum(map(math.prod, shapes.values()))),
        agents=agents,
        seen=tuple(places(of_agent, shapes) for of_agent in seen),
        whole=places(whole, shapes),
    )


def _engine(task: Task, name: str, physics: Physics | None, effort: Effort, num_features: int) -> Engine:
    physics = physics or ("mujoco" if jax.default_backend() == "cpu" else "mjx")
    for option, value, valid in (("physics", physics, Physics), ("effort", effort, Effort)):
        if value not in get_args(valid):
            raise unknown(f"env_kwargs {option}", value, get_args(valid))
    if physics == "mujoco":
        if effort != "full":
            raise ConfigError(f"env_kwargs effort={effort!r} is for physics='mjx', and this is 'mujoco'")
        return c_engine(task, num_features)
    from fp3o_jax.envs.mamujoco.mjx_engine import mjx_engine

    return mjx_engine(task, name, effort)


def environment_of(parts: Parts) -> Environment:
    """Puts it together: agents' actions are scattered to the actuators, and what they see is gathered."""
    name, task, engine, agents, seen, whole = parts
    robot, model = task.robot, task.model
    obs_sizes, action_sizes = tuple(map(len, seen)), tuple(map(len, agents))
    low, high = model.actuator_ctrlrange.T
    # Beyond the last feature stands a zero, for what pads the smaller observations.
    padded = np.full((len(agents), max(obs_sizes)), -1, np.int32)
    for row, of_agent in zip(padded, seen, strict=True):
        row[: len(of_agent)] = of_agent
    # Which of the agents' actions, side by side and without padding, each actuator gets.
    turn = np.argsort(np.concatenate([np.array(own) for own in agents]))
    exists = existing_actions(action_sizes)

    def observe(felt: Felt) -> Observation:
        features = jnp.append(felt.features, jnp.zeros(1, jnp.float32))
        return Observation(
            obs=jnp.take(features, padded, mode="wrap"),
            global_state=jnp.take(features, whole),
            action_mask=None,
            alive=jnp.ones(len(agents), bool),
        )

    def reset(key: Array) -> tuple[State, Observation]:
        physics, felt = engine.reset(*robot.start(key, task))
        return State(physics, jnp.zeros((), jnp.int32)), observe(felt)

    def step(key: Array, state: State, actions: Array) -> tuple[State, Observation, Outcome]:
        ctrl = to_bounds(actions[exists][turn], low, high)
        physics, felt = engine.step(state.physics, ctrl)
        steps = state.steps + 1
        outcome = Outcome(
            reward=felt.reward,
            terminated=felt.terminated,
            truncated=(steps >= robot.time_limit) & ~felt.terminated,
            won=jnp.zeros((), bool),
            diverged=felt.diverged,
        )
        return State(physics, steps), observe(felt), outcome

    def drawn(states: State) -> Iterator[np.ndarray]:
        from fp3o_jax.envs.mamujoco.frames import frames

        return frames(model, engine.moments(states.physics)[0])

    bounds = [tuple(tuple(float(side[i]) for i in own) for own in agents) for side in (low, high)]
    return Environment(
        name=name,
        agents=tuple(f"agent_{i}" for i in range(len(agents))),
        obs_sizes=obs_sizes,
        action_sizes=action_sizes,
        discrete=False,
        state_size=len(whole),
        time_limit=robot.time_limit,
        truncates=True,
        reports_wins=False,
        agent_types=tuple(zip(obs_sizes, action_sizes, strict=True)),
        reset=reset,
        step=step,
        frames=drawn,
        step_seconds=task.dt,
        action_low=bounds[0],
        action_high=bounds[1],
    )


def _agents(
    task: Task, name: str, segments: tuple[int, int] | None, partition: str | Sequence[Any] | None
) -> Partition:
    """The actuators of each agent."""
    model, robot, division = task.model, task.robot, name.partition("_")[2]
    joints = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
    if partition is not None and (robot.segments is not None or not division):
        return parsed(partition, joints)
    if segments is not None:
        agents, each = segments
        return tuple(robot.segments(agent * each, each) for agent in range(agents))
    if partition is not None:
        robot_alone = name.partition("_")[0]
        raise ConfigError(
            f"env='mamujoco/{name}' names a partition, and env_kwargs has another: "
            f"env='mamujoco/{robot_alone}' is divided as partition={partition!r} says"
        )
    if division not in robot.partitions:
        robot_alone = name.partition("_")[0]
        known = [f"mamujoco/{robot_alone}_{known}" for known in robot.partitions]
        raise ConfigError(
            f"env='mamujoco/{name}' is unknown: valid are {', '.join(known)}, or mamujoco/{robot_alone} with "
            f"a partition of your own in env_kwargs, such as partition='{' | '.join(joints)}'"
        )
    return parsed(robot.partitions[division], joints)


def _distance(agent_obsk: Any) -> int | None:
    if agent_obsk is None or agent_obsk in ("all", "none", "None"):
        return None
    if isinstance(agent_obsk, bool) or not isinstance(agent_obsk, int) or agent_obsk < 0:
        raise ConfigError(
            f"env_kwargs agent_obsk={agent_obsk!r} must be 0, 1, 2, ...: how many joints beyond its own an "
            "agent sees; or None (on the command line: all), for everything"
        )
    return agent_obsk


def _options(name: str, robot: Robot, given: Mapping[str, Any]) -> dict[str, Any]:
    """Gymnasium's options, those that are given instead of the defaults.

    Raises:
        ConfigError: there is no such option, or the value is of another kind.
    """
    for option, value in given.items():
        if option not in robot.options:
            valid = ("agent_obsk", "partition", "physics", "effort", *robot.options)
            raise unknown(f"mamujoco/{name}: env_kwargs", option, valid)
        default = robot.options[option]
        if isinstance(default, tuple):
            right = not isinstance(value, str) and np.shape(value) == (2,) and value[0] <= value[1]
            wanted = "two numbers, the lower one first"
        elif isinstance(default, bool):
            right, wanted = isinstance(value, bool), "True or False"
        else:
            right, wanted = isinstance(value, (int, float)) and math.isfinite(value), "a number"
        if not right:
            raise ConfigError(f"env_kwargs {option}={value!r} must be {wanted}, such as {default!r}")
    return {**robot.options, **{k: tuple(v) if np.ndim(v) else v for k, v in given.items()}}
