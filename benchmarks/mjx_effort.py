"""MJX: seconds to compile a robot's step, its speed, and what less effort of its solver changes.

    python benchmarks/mjx_effort.py
    python benchmarks/mjx_effort.py --mode full --go-on --minutes 8   # again, until nothing is left

One step of 16 environments is compiled, and called from Python with random actions; episodes go on when they
are over. Another effort than the full one is compared with it, by how much of 1 + the value positions and
velocities differ: after one step from each state of the full one's trajectories (the most of all, and the
median of each state's worst), and after 20 steps of its own (the median over environments of the worst
position). In the row of the full one that is what a millionth more of the initial velocities makes of it: how
far chaos alone leads.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from fp3o_jax import make_env
from fp3o_jax.envs import Environment
from harness import InParts, Report, take_turns
from mamujoco import FULL

QUICK = ("halfcheetah_6x1", "ant_4x2", "humanoid_9|8")
LATER = 20


@dataclasses.dataclass(frozen=True)
class Effort(InParts):
    """What to measure."""

    robots: tuple[str, ...] = ()
    """tasks; by default half-cheetah, ant and humanoid, in full mode one of each robot"""
    efforts: tuple[str, ...] = ("full", "fast")
    """of the solver, the full one first"""
    num_envs: int = 16
    """environments side by side"""
    steps: int = 50
    """of each environment in a timed round, 20 at least"""
    rounds: int = 3
    """timed rounds of each"""


@dataclasses.dataclass(frozen=True)
class Built:
    """A step that is compiled: (states, actions) -> states; and how that went."""

    step: Callable[[Any, jax.Array], Any]
    reset: Callable[[], Any]
    about: dict[str, Any]


def build(env: Environment, num_envs: int) -> Built:
    """Compiles the step of so many environments."""
    keys = jax.random.split(jax.random.key(0), num_envs)
    reset = jax.jit(lambda: jax.vmap(env.reset)(keys)[0])
    states = jax.eval_shape(reset)
    actions = jax.ShapeDtypeStruct((num_envs, env.num_agents, max(env.action_sizes)), jnp.float32)
    start = time.perf_counter()
    lowered = jax.jit(lambda states, actions: jax.vmap(env.step)(keys, states, actions)).lower(
        states, actions
    )
    traced = time.perf_counter()
    program = lowered.compile()
    loops = len(re.findall(r"stablehlo\.while", lowered.as_text()))
    about = {"trace_s": traced - start, "compile_s": time.perf_counter() - traced, "loops": loops}
    return Built(lambda states, actions: program(states, actions)[0], reset, about)


def follow(built: Built, states: Any, actions: np.ndarray) -> list[Any]:
    """States of a trajectory, the first one included."""
    trajectory = [states]
    for action in actions:
        trajectory.append(built.step(trajectory[-1], action))
    return jax.block_until_ready(trajectory)


def apart(a: Any, b: Any, part: str) -> np.ndarray:
    """By how much of 1 + the value a position or velocity differs at most, for each environment."""
    x, y = (np.asarray(getattr(state.physics, part), np.float64) for state in (a, b))
    return (np.abs(x - y) / (1 + np.abs(x))).max(-1)


def measure(options: Effort, report: Report, task: str) -> None:
    """Adds the rows of a robot, one for each effort."""
    env = make_env(f"mamujoco/{task}", {"physics": "mjx"})
    shape = (max(options.steps, LATER), options.num_envs, env.num_agents, max(env.action_sizes))
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    built = {
        e: build(make_env(f"mamujoco/{task}", {"physics": "mjx", "effort": e}), options.num_envs)
        for e in options.efforts
    }
    full = built[options.efforts[0]]
    start = full.reset()
    trajectory = follow(full, start, actions)
    times = take_turns(
        {e: lambda b=b: follow(b, start, actions) for e, b in built.items()}, options.rounds, warm_up=0
    )
    for effort, one in built.items():
        row: dict[str, Any] = {"robot": task, "effort": effort, **one.about}
        row["steps_per_s"] = shape[0] * options.num_envs / times[effort].median
        begun = start
        if one is full:
            begun = start.replace(physics=start.physics.replace(qvel=start.physics.qvel * (1 + 1e-6)))
        else:
            row["speed_up"] = times[options.efforts[0]].over(times[effort])
            once = [(one.step(s, a), t) for s, a, t in zip(trajectory, actions, trajectory[1:], strict=False)]
            for part in ("qpos", "qvel"):
                worst = np.array([apart(after, mine, part) for mine, after in once])
                row |= {f"{part}_step": float(worst.max()), f"{part}_median": float(np.median(worst))}
        later = follow(one, begun, actions[:LATER])[-1]
        row[f"after_{LATER}"] = float(np.median(apart(trajectory[LATER], later, "qpos")))
        report.add(**row)


def main(options: Effort) -> None:
    report = Report("mjx_effort", "a step of MJX", options)
    for task in options.robots or (FULL if options.mode == "full" else QUICK):
        if report.wants(robot=task):
            measure(options, report, task)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Effort, description=__doc__))
