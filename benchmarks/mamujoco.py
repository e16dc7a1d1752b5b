"""Multi-agent MuJoCo: env steps per second of the bare environment, beside what else there is.

    python benchmarks/mamujoco.py
    python benchmarks/mamujoco.py --mode full --go-on --minutes 8   # again, until nothing is left
    python benchmarks/mamujoco.py --physics mjx --robots halfcheetah_6x1 --num-envs 1024

Random actions, episodes that go on when they are over. Beside ours, a scan over steps in one jitted program:
`mujoco.rollout` alone, from Python, with as many threads as there are cores, which knows neither rewards nor
observations; Gymnasium's vector environment, a process for each core, with the same number of steps
in all; and MABrax, where it has the robot. Compile times stand apart.
What MJX takes to compile, and what less effort changes: `mjx_effort.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from fp3o_jax import make_env
from fp3o_jax.envs import Environment
from fp3o_jax.envs.base import batch_reset, batch_step
from fp3o_jax.envs.mamujoco.make import parts_of
from fp3o_jax.envs.mamujoco.stepping import num_cores
from harness import InParts, Report, compiled, take_turns

#: Our task -> MABrax's.
MABRAX = {
    "halfcheetah_6x1": "mabrax/halfcheetah_6x1",
    "ant_4x2": "mabrax/ant_4x2",
    "hopper_3x1": "mabrax/hopper_3x1",
    "walker2d_2x3": "mabrax/walker2d_2x3",
    "humanoid_9|8": "mabrax/humanoid_9|8",
}
QUICK = ("halfcheetah_6x1",)
FULL = (
    *MABRAX,
    "humanoidstandup_9|8",
    "swimmer_2x1",
    "reacher_2x1",
    "pusher_3p",
    "manysegmentswimmer_8x2",
    "manysegmentant_2x3",
    "coupledhalfcheetah_1p1",
)
#: At least so many times as fast as each.
GOALS = {"rollout": 0.8, "gymnasium": 1.0, "mabrax": 5.0}


@dataclasses.dataclass(frozen=True)
class MaMuJoCo(InParts):
    """What to measure."""

    robots: tuple[str, ...] = ()
    """tasks; by default halfcheetah_6x1, in full mode one of each robot"""
    num_envs: tuple[int, ...] = ()
    """environments side by side; by default 64, in full mode 64 and 512"""
    steps: int = 50
    """of each of 64 environments in each call; as many fewer of more, more of fewer"""
    physics: Literal["mujoco", "mjx"] = "mujoco"
    """engine"""
    rounds: int = 0
    """timed calls of each; by default 3, in full mode 5"""
    mabrax: bool = True
    """also MABrax, which takes half a minute to compile"""


def ours(env: Environment, num_envs: int, steps: int) -> tuple[Callable[[], Any], float]:
    """The scan of an environment, and the seconds that it took to compile."""
    keys = jax.random.split(jax.random.key(0), num_envs)
    alive = jnp.ones((env.num_agents, num_envs), bool)

    def step(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        actions = jax.random.uniform(key, (env.num_agents, num_envs, max(env.action_sizes)), minval=-1.0)
        states, seen, outcome = batch_step(env, keys, states, actions, alive)
        return states, (outcome.reward.mean(), seen.obs.mean())

    states, _ = jax.jit(lambda: batch_reset(env, keys))()
    program, seconds = compiled(
        lambda states, key: jax.lax.scan(step, states, jax.random.split(key, steps)),
        states,
        jax.random.key(1),
    )
    return lambda: program(states, jax.random.key(1)), seconds


def bare(task: str, num_envs: int, steps: int) -> Callable[[], Any]:
    """``mujoco.rollout`` of the same robot, a call for each step of the environment."""
    import mujoco
    from mujoco import rollout

    robot, model = parts_of(task).task[:2]
    threads = num_cores()
    pool, data = rollout.Rollout(nthread=threads), [mujoco.MjData(model) for _ in range(threads)]
    state = np.zeros((num_envs, mujoco.mj_stateSize(model, int(mujoco.mjtState.mjSTATE_FULLPHYSICS))))
    state[:, 1 : 1 + model.nq] = model.qpos0
    low, high = model.actuator_ctrlrange.T
    shape = (steps, num_envs, 1, model.nu)
    ctrl = np.random.default_rng(0).uniform(low, high, shape).repeat(robot.frame_skip, axis=2)

    def run() -> np.ndarray:
        now = state
        for t in range(steps):
            states, _ = pool.rollout([model] * num_envs, data, now, ctrl[t])
            now = states[:, -1]
        return now

    return run


def gymnasiums(task: str, num_envs: int, steps: int) -> Callable[[], Any] | None:
    """Gymnasium's vector environment, a process for each core; None where it has no such robot."""
    import gymnasium

    scenario = parts_of(task).task.robot.scenario
    if scenario.startswith(("Many", "Coupled")):
        return None
    # Not forked: JAX has threads.
    envs = gymnasium.make_vec(
        f"{scenario}-v5",
        num_envs=num_cores(),
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
    )
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(num_envs * steps // envs.num_envs)]

    def run() -> float:
        return sum(float(envs.step(action)[1].sum()) for action in actions)

    return run


def measure(options: MaMuJoCo, report: Report, task: str, num_envs: int) -> None:
    """Adds the row of one robot and number of environments."""
    env = make_env(f"mamujoco/{task}", {"physics": options.physics})
    steps = max(1, options.steps * 64 // num_envs)
    program, compile_s = ours(env, num_envs, steps)
    programs = {"ours": program}
    if options.physics == "mujoco":
        programs["rollout"] = bare(task, num_envs, steps)
    if (vector := gymnasiums(task, num_envs, steps)) is not None:
        programs["gymnasium"] = vector
    if options.mabrax and task in MABRAX:
        programs["mabrax"], _ = ours(make_env(MABRAX[task]), num_envs, steps)
    rounds = options.rounds or (3 if options.mode == "quick" else 5)
    times = take_turns(programs, rounds)
    count = num_envs * steps
    row: dict[str, Any] = {"robot": task, "envs": num_envs, "compile_s": compile_s}
    row |= {f"{name}_per_s": count / timing.median for name, timing in times.items()}
    for name, goal in GOALS.items():
        if name in times:
            ratio = times[name].over(times["ours"])
            row[f"over_{name}"] = ratio
            word = "reached" if ratio.median >= goal else "missed"
            report.note(f"{task}, {num_envs} environments: {goal} x {name} {word}: {ratio}")
    report.add(**row)


def main(options: MaMuJoCo) -> None:
    full = options.mode == "full"
    report = Report("mamujoco", f"env steps per second, physics={options.physics}", options)
    for task in options.robots or (FULL if full else QUICK):
        for num_envs in options.num_envs or ((64, 512) if full else (64,)):
            if report.wants(robot=task, envs=num_envs):
                measure(options, report, task, num_envs)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(MaMuJoCo, description=__doc__))
