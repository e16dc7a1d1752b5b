"""Seeds in one program: the time of S vmapped seeds over S times the time of one.

    python benchmarks/seeds.py
    python benchmarks/seeds.py --mode full

One whole iteration, rollout and update, of S seeds in one program, as `fp3o train --num-seeds S` runs it. A
ratio of 1 means that seeds side by side cost what they would one after another; on an accelerator, which one
seed does not fill, it falls well below. The programs take turns.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import tyro

from fp3o_jax import Config, make_train
from harness import Options, Repeated, Report, Timing, compiled, take_turns

SEEDS = {"quick": (1, 2, 4), "full": (1, 2, 4, 8, 16, 32, 64)}
# Of S seeds over S times one, on a CPU; and of 64 seeds over one, on an accelerator.
CPU_GOAL = 1.05
ACCELERATOR_GOAL = (64, 8.0)


@dataclasses.dataclass(frozen=True)
class Seeds(Options):
    """What to measure."""

    seeds: tuple[int, ...] = ()
    """numbers of seeds; by default 1 to 4, in full mode to 64. One seed is always measured"""
    env: str = "smax/3m"
    """environment"""
    algorithm: str = "fp3o"
    """algorithm"""
    sharing: str = "full"
    """parameter sharing"""
    recurrent: bool = False
    """a GRU in every network"""
    num_envs: int = 64
    """environments stepped in parallel, of each seed"""
    rollout_length: int = 128
    """steps per environment and update"""
    rounds: int = 5
    """timed iterations of each number of seeds"""


def judge(times: dict[int, Timing]) -> str:
    """Whether the goal of this kind of device was met."""
    if jax.default_backend() == "cpu":
        ratios = {seeds: time.over(times[1], each=seeds) for seeds, time in times.items()}
        worst = max(sorted(ratios)[1:] or ratios, key=lambda seeds: ratios[seeds].median)
        met = "met" if ratios[worst].median <= CPU_GOAL else "missed"
        return (
            f"at most {ratios[worst]} times as long as one after another (S = {worst}), "
            f"goal of {CPU_GOAL} {met}"
        )
    seeds, goal = ACCELERATOR_GOAL
    if seeds not in times:
        return f"the goal is about {seeds} seeds: --mode full"
    ratio = times[seeds].over(times[1])
    met = "met" if ratio.median <= goal else "missed"
    return f"{seeds} seeds take {ratio} times as long as one, goal of {goal:g} {met}"


def main(options: Seeds) -> None:
    trainer = make_train(
        Config(
            env=options.env,
            algorithm=options.algorithm,
            sharing=options.sharing,
            recurrent=options.recurrent,
            num_envs=options.num_envs,
            rollout_length=options.rollout_length,
        )
    )
    report = Report("seeds", f"Seeds in one program: an iteration on {options.env}", options)
    programs, compile_seconds = {}, {}
    counts = sorted({1, *(options.seeds or SEEDS[options.mode])})
    most = jax.jit(jax.vmap(trainer.init))(jax.random.split(jax.random.key(0), max(counts)))
    for seeds in counts:
        # Copies: each program overwrites its own.
        state = jax.tree.map(lambda leaf, seeds=seeds: jnp.copy(leaf[:seeds]), most)
        update, compile_seconds[seeds] = compiled(jax.vmap(trainer.update), state, donate_argnums=0)
        programs[seeds] = Repeated(update, state)
    times = take_turns(programs, options.rounds)
    for seeds, time in times.items():
        report.add(
            seeds=seeds,
            ms=1e3 * time.median,
            env_steps_per_s=seeds * trainer.config.steps_per_update / time.median,
            over_one=time.over(times[1]),
            over_one_after_another=time.over(times[1], each=seeds),
            compile_s=compile_seconds[seeds],
        )
    report.note(judge(times))
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Seeds, description=__doc__))
