"""MJX: the physics on the device, in float32 (or float64, where JAX has it enabled)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.mamujoco.robot import Engine, Felt, Judgement, Task, judge
from fp3o_jax.envs.quiet import quiet

#: How hard the solver tries at most: as the robot's file says, or (iterations, steps of each line search).
EFFORT: dict[str, tuple[int, int] | None] = {"full": None, "fast": (4, 8)}
#: Of Runge and Kutta: how far each stage goes to the next, and what it counts for.
STAGES = ((0.5, 1 / 6), (0.5, 1 / 3), (1.0, 1 / 3), (0.0, 1 / 6))


@struct.dataclass
class Motion:
    """A state of the physics: all that its next step depends on.

    Attributes:
        qpos: [nq].
        qvel: [nv].
        warmstart: [nv], the acceleration that the solver starts from.
        position: [P], whose speed is rewarded.
    """

    qpos: Array
    qvel: Array
    warmstart: Array
    position: Array


def mjx_engine(task: Task, name: str, effort: str) -> Engine:
    """A robot in MJX.

    Args:
        task: the robot.
        name: of the environment, for messages.
        effort: of ``EFFORT``.

    Raises:
        ConfigError: MJX cannot simulate the robot.
    """
    import mujoco

    with quiet():  # it says what else it could use
        from mujoco import mjx

    model, robot = task.model, task.robot
    # The solver that MJX has in place of the projected Gauss-Seidel of some files.
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    if EFFORT[effort] is not None:
        model.opt.iterations, model.opt.ls_iterations = EFFORT[effort]
    try:
        device_model, at_rest = mjx.put_model(model), mjx.make_data(model)
    except NotImplementedError as error:
        raise ConfigError(
            f"env={name!r}: physics='mjx' cannot simulate it ({error}); take physics='mujoco'"
        ) from error
    runge_kutta = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4

    def step_once(data: Any, _: None) -> tuple[Any, None]:
        after = _runge_kutta(task, mjx, device_model, data) if runge_kutta else mjx.step(device_model, data)
        return _as_kept(after, data), None

    def seen(data: Any) -> dict[str, Array]:
        return {f: getattr(data, f, getattr(data._impl, f, None)) for f in ("qpos", "qvel", *robot.derived)}

    def moved(data: Any, felt: Judgement) -> tuple[Motion, Felt]:
        motion = Motion(data.qpos, data.qvel, data.qacc_warmstart, felt.position)
        return motion, Felt(
            felt.features.astype(jnp.float32),
            felt.reward.astype(jnp.float32),
            felt.terminated,
            felt.diverged,
        )

    def reset(qpos: Array, qvel: Array) -> tuple[Motion, Felt]:
        data = at_rest.replace(qpos=at_rest.qpos + qpos, qvel=at_rest.qvel + qvel)
        # Of a reset nobody feels forces: the first half of the physics is enough.
        for part in (mjx.kinematics, mjx.com_pos, mjx.tendon, mjx.com_vel):
            data = part(device_model, data)
        data = data.tree_replace({"_impl.ten_velocity": data._impl.ten_J @ data.qvel})
        fields = seen(data)
        before = robot.position(jnp, task, fields)
        return moved(data, judge(jnp, task, before, fields, data.ctrl))

    def step(motion: Motion, ctrl: Array) -> tuple[Motion, Felt]:
        data = at_rest.replace(
            qpos=motion.qpos,
            qvel=motion.qvel,
            qacc_warmstart=motion.warmstart,
            ctrl=ctrl.astype(motion.qpos.dtype),
        )
        # Of one step alone there is a copy in the program.
        data, _ = jax.lax.scan(step_once, data, length=robot.frame_skip)
        if "cfrc_ext" in robot.derived:
            data = mjx.rne_postconstraint(device_model, data)
        return moved(data, judge(jnp, task, motion.position, seen(data), ctrl))

    def moments(states: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(states.qpos), np.asarray(states.qvel)

    return Engine(reset, step, moments)


def _runge_kutta(task: Task, mjx: Any, device_model: Any, data: Any) -> Any:
    """A step of fourth order as MuJoCo makes it, with its four stages in a scan.

    ``mjx.step`` compiles each of them by itself, and adds up the speeds of a free root's turning as they are,
    as MuJoCo did before 4.0: its sums there are Munthe-Kaas's (see :func:`_rate`).
    """
    dt, start = task.model.opt.timestep, data

    def stage(carry: tuple[Any, Array, Array, Array], weights: tuple[Array, Array]) -> tuple[Any, None]:
        data, change, moved, gained = carry
        onward, share = weights
        data = _as_kept(mjx.forward(device_model, data), data)
        rate = _rate(task, change, data.qvel)
        moved, gained = moved + share * dt * rate, gained + share * dt * data.qacc
        change = onward * dt * rate
        data = data.replace(qpos=_moved(task, start.qpos, change), qvel=start.qvel + onward * dt * data.qacc)
        return (data, change, moved, gained), None

    zeros = jnp.zeros_like(data.qvel)
    stages = tuple(jnp.array(column, data.qvel.dtype) for column in zip(*STAGES, strict=True))
    (data, _, moved, gained), _ = jax.lax.scan(stage, (data, zeros, zeros, zeros), stages)
    return data.replace(
        qpos=_moved(task, start.qpos, moved),
        qvel=start.qvel + gained,
        qacc_warmstart=data.qacc,
        time=start.time + dt,
    )


def _as_kept(data: Any, before: Any) -> Any:
    """Data of the types of before: where JAX has float64, MJX makes some integers longer than they were."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), data, before)


def _rate(task: Task, change: Array, qvel: Array) -> Array:
    """How fast a change [nv] of the position grows that :func:`_moved` applies; the velocity, but for the
    rotation u of a free root: w + u x w / 2 + c u x (u x w), the inverse of the exponential's differential
    (Munthe-Kaas, 1998), c = (1 - |u|/2 cot(|u|/2)) / |u|^2 by its series, of which a step needs little."""
    if task.model.nq == task.model.nv:
        return qvel
    turned, spin = change[3:6], qvel[3:6]
    square = turned @ turned
    c = 1 / 12 + square * (1 / 720 + square * (1 / 30240 + square / 1209600))
    once = jnp.cross(turned, spin)
    return qvel.at[3:6].set(spin + once / 2 + c * jnp.cross(turned, once))


def _moved(task: Task, qpos: Array, change: Array) -> Array:
    """A position after a change [nv]: added, but for the rotation of a free root."""
    if task.model.nq == task.model.nv:
        return qpos + change
    place = qpos[:3] + change[:3]
    angle = jnp.linalg.norm(change[3:6])
    half = angle / 2
    axis = change[3:6] / jnp.where(angle > 0, angle, 1.0)
    turn = jnp.concatenate([jnp.cos(half)[None], jnp.sin(half) * axis])
    w, x, y, z = qpos[3:7]
    left = jnp.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    rotation = left @ turn
    return jnp.concatenate([place, rotation / jnp.linalg.norm(rotation), qpos[7:] + change[6:]])
