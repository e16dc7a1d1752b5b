"""What the run around the training costs: checkpoints, metrics on disk, progress, sinks.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --mode full

The same updates on smax/3m, once as `fp3o train` makes them, and once by the compiled program alone, in a
bare loop that waits for nothing but its end. Compilation and the final evaluation are part of neither. The
settings are those of a user: a checkpoint after every minute, or, in the second row, after every update.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from fp3o_jax import Config, make_train
from fp3o_jax.runs import RunOptions, run_training
from fp3o_jax.runs.programs import Programs
from harness import Options, Report, Timing, timed


@dataclasses.dataclass(frozen=True)
class LoopOverhead(Options):
    """What to measure."""

    env: str = "smax/3m"
    """environment"""
    num_envs: int = 64
    """environments stepped in parallel"""
    num_seeds: int = 1
    """seeds side by side"""
    updates: int = 0
    """updates of each run; by default 20, and 200 in full mode"""
    rounds: int = 0
    """runs of each kind; by default 1, and 3 in full mode"""


def main(options: LoopOverhead) -> None:
    # The runs compile the same programs: once is enough.
    with tempfile.TemporaryDirectory() as compiled:
        jax.config.update("jax_compilation_cache_dir", compiled)
        measure(options)


def measure(options: LoopOverhead) -> None:
    """Adds a row for each kind of run, and shows the table."""
    full = options.mode == "full"
    updates, rounds = options.updates or (200 if full else 20), options.rounds or (3 if full else 1)
    config = Config(env=options.env, num_envs=options.num_envs, num_seeds=options.num_seeds)
    config = config.replace(total_env_steps=updates * config.steps_per_update)
    trainer = make_train(config)
    keys = jnp.stack([jax.random.key(seed) for seed in range(options.num_seeds)])
    programs = Programs(trainer, keys, RunOptions(eval_episodes=1))
    programs.compile()

    def bare() -> Any:
        state = programs.init()
        for _ in range(updates):
            state, metrics = programs.update(state)
        return state, metrics

    def whole(**extra: Any) -> float:
        with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as nowhere:
            run = RunOptions(Path(folder) / "run", eval_episodes=1, **extra)
            return run_training(config, run, console=Console(file=nowhere))["train_seconds"]

    report = Report(
        "loop_overhead", f"{updates} updates on {options.env}, with all that surrounds them", options
    )
    timed(bare)
    kinds = {
        "a checkpoint a minute": {},
        "a checkpoint an update": {"checkpoint_seconds": 0.0},
        "... and TensorBoard": {"checkpoint_seconds": 0.0, "tensorboard": True},
    }
    for name, extra in kinds.items():
        pairs = np.array([(whole(**extra), timed(bare)) for _ in range(rounds)])
        with_all, alone = Timing(pairs[:, 0]), Timing(pairs[:, 1])
        report.add(run=name, with_s=with_all.median, without_s=alone.median, ratio=with_all.over(alone))
    report.show()


if __name__ == "__main__":
    main(tyro.cli(LoopOverhead, description=__doc__))
