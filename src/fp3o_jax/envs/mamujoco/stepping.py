"""MuJoCo in C for many states at once, on the host's cores; NumPy alone."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

#: (states [B, R], steps) -> states after so many steps of the physics, and fields of ``MjData``, [B, ...]
#: each, as the last step left them. No steps: what follows from the states is computed.
Stepper = Callable[[np.ndarray, int], tuple[np.ndarray, dict[str, np.ndarray]]]


class Layout:
    """Where things stand in a state of the physics of an ``MjModel``: all that its next step depends on.

    Attributes:
        spec: the ``mjtState`` of it.
        size: R, its length.
        parts: field of ``MjData`` -> its place.

    Raises:
        NotImplementedError: the model has a state of other kinds.
    """

    def __init__(self, model: Any):
        import mujoco

        bits = mujoco.mjtState
        parts = {
            "time": (bits.mjSTATE_TIME, 1),
            "qpos": (bits.mjSTATE_QPOS, model.nq),
            "qvel": (bits.mjSTATE_QVEL, model.nv),
            "act": (bits.mjSTATE_ACT, model.na),
            "qacc_warmstart": (bits.mjSTATE_WARMSTART, model.nv),
            "ctrl": (bits.mjSTATE_CTRL, model.nu),
        }
        self.spec = sum(int(bit) for bit, _ in parts.values())
        self.size = sum(size for _, size in parts.values())
        physics = 1 + model.nq + model.nv + model.na
        if mujoco.mj_stateSize(model, int(bits.mjSTATE_FULLPHYSICS)) != physics:
            raise NotImplementedError("physics whose state is more than position, velocity and activation")
        ends = np.cumsum([size for _, size in parts.values()])
        starts = [0, *ends[:-1]]
        self.parts = {name: slice(a, b) for name, a, b in zip(parts, starts, ends, strict=True) if a < b}


def stepper(model: Any, layout: Layout, derived: Sequence[str]) -> Stepper:
    """The faster way to step a model that gives all the fields that are asked for.

    Args:
        model: an ``MjModel``.
        layout: of its states.
        derived: fields of ``MjData`` beyond ``qpos`` and ``qvel``.
    """
    return (_one_by_one if "cfrc_ext" in derived else _in_batches)(model, layout, derived)


def _in_batches(model: Any, layout: Layout, derived: Sequence[str]) -> Stepper:
    """In MuJoCo's own threads."""
    from mujoco.batch import Batch, SimulationError

    batches: dict[int, tuple[Batch, dict[str, np.ndarray], dict[str, np.ndarray]]] = {}
    lock = threading.Lock()

    def of_size(count: int) -> tuple[Batch, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """So many simulations, and views of their states and of what is derived."""
        if count not in batches:
            batch = Batch(model, count, num_cores())
            parts = {part: batch.bind(part).reshape(count, -1) for part in layout.parts}
            batches[count] = batch, parts, {name: batch.bind(name) for name in derived}
        return batches[count]

    def step(states: np.ndarray, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        states = states.copy()
        with lock:  # several devices may ask at a time
            batch, parts, fields = of_size(len(states))
            for part, place in layout.parts.items():
                parts[part][:] = states[:, place]
            failed: Any = []
            try:
                batch.step(nstep=steps) if steps else batch.forward()
            except SimulationError as error:
                failed = error.ids
            for part, place in layout.parts.items():
                states[:, place] = parts[part]
            states[failed] = np.nan
            return states, {name: field.copy() for name, field in fields.items()}

    return step


def _one_by_one(model: Any, layout: Layout, derived: Sequence[str]) -> Stepper:
    """In threads of Python's, where forces between bodies are wanted, which MuJoCo computes when it is asked
    to alone. A step of the physics holds no lock."""
    import mujoco

    threads = num_cores()
    pool = ThreadPoolExecutor(threads)
    data = [mujoco.MjData(model) for _ in range(threads)]
    views = [[getattr(one, name) for name in derived] for one in data]
    lock = threading.Lock()

    def work(j: int, states: np.ndarray, results: list[np.ndarray], steps: int) -> None:
        one = data[j]
        for i, state in enumerate(states):
            mujoco.mj_setState(model, one, state, layout.spec)
            try:
                if steps:
                    mujoco.mj_step(model, one, nstep=steps)
                    mujoco.mj_rnePostConstraint(model, one)
                else:
                    one.cfrc_ext[:] = 0.0  # a reset knows of no forces
                    mujoco.mj_forward(model, one)
                mujoco.mj_getState(model, one, state, layout.spec)
            except mujoco.FatalError:
                state[:] = np.nan
            for result, view in zip(results, views[j], strict=True):
                result[i] = view

    def step(states: np.ndarray, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        states = np.ascontiguousarray(states).copy()
        results = [np.empty((len(states), *view.shape)) for view in views[0]]
        with lock:
            bounds = np.linspace(0, len(states), threads + 1).astype(int)
            parts = [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]
            jobs = [
                pool.submit(work, j, states[part], [result[part] for result in results], steps)
                for j, part in enumerate(parts)
            ]
            for job in jobs:
                job.result()
        return states, dict(zip(derived, results, strict=True))

    return step


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
