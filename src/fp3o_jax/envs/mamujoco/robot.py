"""What a robot is, and what its step brings.

What a robot feels and earns is written once, over an array module ``xp``: NumPy in float64 beside MuJoCo in
C, ``jax.numpy`` on a device. Arrays may have any leading axes. The order of the operations is Gymnasium's,
so that results agree to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct

from fp3o_jax.envs.mamujoco.graph import Graph

#: Fields of an ``MjData``, by name.
Fields = Mapping[str, Any]
ALL = slice(None)


class Task(NamedTuple):
    """A robot, its ``MjModel``, and the options that were chosen."""

    robot: Robot
    model: Any
    options: Mapping[str, Any]

    @property
    def dt(self) -> float:
        """Seconds of one step of the environment."""
        return self.model.opt.timestep * self.robot.frame_skip


def plain_features(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    """Position and velocity."""
    return {"qpos": d["qpos"], "qvel": d["qvel"]}


def first_coordinate(xp: Any, task: Task, d: Fields) -> Any:
    return d["qpos"][..., :1]


def running(xp: Any, task: Task, velocity: Any, d: Fields, ctrl: Any, healthy: Any) -> Any:
    """What all earn that run or swim: speed, and being upright; less effort and the force of contacts."""
    o = task.options
    gain = o["forward_reward_weight"] * velocity[..., 0]
    cost = o["ctrl_cost_weight"] * xp.square(ctrl).sum(-1)
    if healthy is not None:
        gain = gain + healthy * o["healthy_reward"]
    if "contact_cost_weight" in o:
        cost = cost + contact_cost(xp, task, d)
    return gain - cost


def contact_cost(xp: Any, task: Task, d: Fields) -> Any:
    forces = contact_forces(xp, task, d)
    squares = xp.square(forces).reshape((*forces.shape[:-2], -1)).sum(-1)
    cost = task.options["contact_cost_weight"] * squares
    return xp.clip(cost, *task.options.get("contact_cost_range", (-np.inf, np.inf)))


def contact_forces(xp: Any, task: Task, d: Fields) -> Any:
    bounds = task.options.get("contact_force_range")
    return d["cfrc_ext"] if bounds is None else xp.clip(d["cfrc_ext"], *bounds)


def noisy_start(key: jax.Array, task: Task) -> tuple[jax.Array, jax.Array]:
    """Uniform noise on position and velocity."""
    scale, keys = task.options["reset_noise_scale"], jax.random.split(key)
    return (
        jax.random.uniform(keys[0], (task.model.nq,), minval=-scale, maxval=scale),
        jax.random.uniform(keys[1], (task.model.nv,), minval=-scale, maxval=scale),
    )


@dataclasses.dataclass(frozen=True)
class Robot:
    """One robot.

    Attributes:
        scenario: MaMuJoCo's name of it.
        model: -> its ``MjModel``; of robots that have ``segments``, from their number.
        graph: ``MjModel`` -> what there is to be seen.
        whole: Gymnasium's observation: names of features, and which part of each.
        partitions: name -> the joints of each agent (see :func:`~fp3o_jax.envs.mamujoco.views.parsed`).
        options: Gymnasium's weights and ranges, with its defaults.
        frame_skip: steps of the physics in one of the environment.
        time_limit: steps of an episode.
        derived: fields of ``MjData`` that features, position and reward are made of, beyond ``qpos`` and
            ``qvel``.
        features: (xp, task, fields) -> arrays by name, all that can be seen of it.
        position: (xp, task, fields) -> [..., P], whose speed is rewarded.
        reward: (xp, task, velocity [..., P], fields, ctrl [..., A], healthy) -> [...].
        healthy: (xp, task, fields) -> [...] bool; None if an episode has no end but its time limit.
        start: (key, task) -> what is added to the initial position and velocity.
        local: categories that are seen of an agent's own joints, of their neighbours, and so on.
        segments: (first segment, how many) -> actuators, where the number of segments is free.
    """

    scenario: str
    model: Callable[..., Any]
    graph: Callable[[Any], Graph]
    whole: tuple[tuple[str, slice], ...]
    partitions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frame_skip: int = 5
    time_limit: int = 1000
    derived: tuple[str, ...] = ()
    features: Callable[..., dict[str, Any]] = plain_features
    position: Callable[..., Any] = first_coordinate
    reward: Callable[..., Any] = running
    healthy: Callable[..., Any] | None = None
    start: Callable[..., tuple[jax.Array, jax.Array]] = noisy_start
    local: tuple[tuple[str, ...], ...] = (("qpos", "qvel"), ("qpos",))
    segments: Callable[[int, int], tuple[int, ...]] | None = None


@struct.dataclass
class Felt:
    """What a step of the environment led to.

    Attributes:
        features: [F] all that can be seen of the robot, side by side.
        reward: the team's.
        terminated: whether the episode has come to its end.
        diverged: whether it has since the physics are not finite any more.
    """

    features: jax.Array
    reward: jax.Array
    terminated: jax.Array
    diverged: jax.Array


class Engine(NamedTuple):
    """A robot's physics for one copy of it, pure.

    Attributes:
        reset: what is added to the initial position [nq] and velocity [nv] -> (state, Felt).
        step: (state, ctrl [A] as the actuators take it) -> (state, Felt).
        moments: states as NumPy arrays, with leading axes -> positions [..., nq] and velocities [..., nv].
    """

    reset: Callable[[jax.Array, jax.Array], tuple[Any, Felt]]
    step: Callable[[Any, jax.Array], tuple[Any, Felt]]
    moments: Callable[[Any], tuple[np.ndarray, np.ndarray]]


class Judgement(NamedTuple):
    """What a step led to: all features side by side [..., F], the team's reward, its end, whether that is for
    want of sound physics [...], and the position [..., P], which the next step's speed is measured from."""

    features: Any
    reward: Any
    terminated: Any
    diverged: Any
    position: Any


def judge(xp: Any, task: Task, before: Any, d: Fields, ctrl: Any) -> Judgement:
    """What a robot sees, earns and suffers.

    Physics that are not finite, or beyond what MuJoCo takes, end the episode without a reward, and nothing is
    seen of them.

    Args:
        xp: the array module.
        task: the robot.
        before: [..., P], the position that the step began in.
        d: fields after the step.
        ctrl: [..., A], what the actuators were told.
    """
    robot = task.robot
    position = robot.position(xp, task, d)
    healthy = None if robot.healthy is None else robot.healthy(xp, task, d)
    reward = robot.reward(xp, task, (position - before) / task.dt, d, ctrl, healthy)
    terminated = xp.zeros(reward.shape, bool)
    if healthy is not None and task.options["terminate_when_unhealthy"]:
        terminated = ~healthy
    sound = (xp.abs(d["qpos"]) < MAX_VALUE).all(-1) & (xp.abs(d["qvel"]) < MAX_VALUE).all(-1)
    features = flat(xp, robot.features(xp, task, d), d["qpos"].ndim - 1)
    sound = sound & xp.isfinite(features).all(-1) & xp.isfinite(reward)
    return Judgement(
        xp.where(sound[..., None], features, 0.0),
        xp.where(sound, reward, 0.0),
        terminated | ~sound,
        ~sound,
        position,
    )


#: Beyond it MuJoCo calls a state bad (``mjMAXVAL``).
MAX_VALUE = 1e10


def flat(xp: Any, features: Mapping[str, Any], leading: int) -> Any:
    """All features side by side."""
    rows = [x.reshape((*x.shape[:leading], -1)) for x in features.values()]
    return xp.concatenate(rows, axis=-1)


def fields_at_rest(task: Task) -> dict[str, np.ndarray]:
    """Fields of the robot as its model has it, before anything has happened."""
    import mujoco

    data = mujoco.MjData(task.model)
    mujoco.mj_forward(task.model, data)
    return {name: np.array(getattr(data, name)) for name in ("qpos", "qvel", *task.robot.derived)}
