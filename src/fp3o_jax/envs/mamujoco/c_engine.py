"""MuJoCo itself, in C on the host's cores: one call for all environments and seeds of a step.

Nothing is rounded: the state of the physics, and what its solver starts from, travel through the program as
the bits of float64, in pairs of uint32. So trajectories are Gymnasium's, and a run resumes to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.envs.mamujoco.robot import Engine, Felt, Task, fields_at_rest, judge
from fp3o_jax.envs.mamujoco.stepping import Layout, stepper


def c_engine(task: Task, num_features: int) -> Engine:
    """A robot in MuJoCo.

    Args:
        task: the robot.
        num_features: F, how many features there are.
    """
    import mujoco

    model, robot = task.model, task.robot
    # Bad physics end an episode, as on a device, and are not begun anew in the middle of it.
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    layout = Layout(model)
    step_physics = stepper(model, layout, robot.derived)
    at_rest = np.zeros(layout.size)
    at_rest[layout.parts["qpos"]] = model.qpos0

    def judged(states: np.ndarray, fields: dict[str, np.ndarray], before: np.ndarray | None) -> Any:
        fields |= {name: states[:, layout.parts[name]] for name in ("qpos", "qvel")}
        with np.errstate(all="ignore"):  # judged is what is not finite, too
            if before is None:
                before = robot.position(np, task, fields)
            felt = judge(np, task, before, fields, states[:, layout.parts["ctrl"]])
        bits = np.concatenate([states, felt.position], axis=-1).view(np.uint32)
        return bits, *felt[:-1]

    def begin(qpos: np.ndarray, qvel: np.ndarray) -> Any:
        states = np.tile(at_rest, (len(qpos), 1))
        states[:, layout.parts["qpos"]] += qpos
        states[:, layout.parts["qvel"]] += qvel
        return judged(*step_physics(states, 0), None)

    def advance(bits: np.ndarray, ctrl: np.ndarray) -> Any:
        rows = bits.view(np.float64)
        states, before = rows[:, : layout.size].copy(), rows[:, layout.size :]
        states[:, layout.parts["ctrl"]] = ctrl
        return judged(*step_physics(states, robot.frame_skip), before)

    num_positions = robot.position(np, task, fields_at_rest(task)).shape[-1]
    results = (
        jax.ShapeDtypeStruct((2 * (layout.size + num_positions),), jnp.uint32),
        jax.ShapeDtypeStruct((num_features,), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((), bool),
        jax.ShapeDtypeStruct((), bool),
    )

    def reset(qpos: Array, qvel: Array) -> tuple[Array, Felt]:
        state, *felt = host_call(begin, results, qpos, qvel)
        return state, Felt(*felt)

    def step(state: Array, ctrl: Array) -> tuple[Array, Felt]:
        state, *felt = host_call(advance, results, state, ctrl)
        return state, Felt(*felt)

    def moments(states: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(states).view(np.float64)
        return rows[..., layout.parts["qpos"]], rows[..., layout.parts["qvel"]]

    return Engine(reset, step, moments)


def host_call(
    function: Callable[..., Sequence[np.ndarray]], results: Sequence[jax.ShapeDtypeStruct], *args: Array
) -> Sequence[Array]:
    """What a pure function of NumPy makes of arrays [K], which it gets as [B, K]; ``vmap`` adds to B.

    On a CPU it works on the program's own buffers: JAX's ``pure_callback`` makes new arrays of its arguments,
    and large ones wait for a thread of the pool in which this program itself runs, at worst for ever.
    """

    def called(*args: Any) -> list[np.ndarray]:
        arrays = [np.asarray(x) for x in args]
        leading = arrays[0].shape[:-1]
        made = function(*(x.reshape(-1, x.shape[-1]) for x in arrays))
        return [
            np.asarray(x, one.dtype).reshape((*leading, *one.shape))
            for x, one in zip(made, results, strict=True)
        ]

    if jax.default_backend() != "cpu":
        return jax.pure_callback(called, results, *args, vmap_method="broadcast_all")

    def into(context: Any, out: Sequence[Any], *args: Any) -> None:
        for buffer, made in zip(out, called(*args), strict=True):
            np.asarray(buffer)[...] = made

    from jax.experimental.buffer_callback import buffer_callback

    return buffer_callback(into, results, vmap_method="broadcast_all")(*args)
