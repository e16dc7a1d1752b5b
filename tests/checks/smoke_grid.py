"""Trains every algorithm under every sharing for a few updates and checks that all numbers are finite.

    python tests/checks/smoke_grid.py --envs matrix/climbing mpe/simple_spread
    python tests/checks/smoke_grid.py --envs smax/3s5z --recurrent both

Prints a line per combination; the exit status is 1 if anything was not finite. Most of the time is
compilation: XLA_FLAGS=--xla_backend_optimization_level=0 makes a large grid faster to check.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Literal, get_args

import jax
import numpy as np
import tyro

from fp3o_jax import Config, Environment, make_env, make_train
from fp3o_jax.config import AlgorithmName


@dataclasses.dataclass
class Grid:
    """Which combinations to train."""

    envs: tuple[str, ...] = ("matrix/climbing", "mpe/simple_spread", "smax/3m")
    """environments"""
    algorithms: tuple[str, ...] = get_args(AlgorithmName)
    """algorithms"""
    sharings: tuple[str, ...] = ("full", "partial", "none")
    """parameter sharing"""
    recurrent: Literal["no", "yes", "both"] = "both"
    """feed-forward networks, a GRU, or both"""
    num_updates: int = 2
    """updates of each run"""


def train(env: Environment, algorithm: str, sharing: str, recurrent: bool, num_updates: int) -> list[str]:
    """Trains one combination; returns the names of what was not finite."""
    config = Config(
        env=env.name,
        algorithm=algorithm,
        sharing=sharing,
        recurrent=recurrent,
        num_envs=4,
        rollout_length=16,
        chunk_length=8,
        epochs=2,
        num_minibatches=2,
        hidden_size=32,
        total_env_steps=64 * num_updates,
    )
    trainer = make_train(config, env)
    state = jax.jit(trainer.init)(jax.random.key(0))
    update = jax.jit(trainer.update)
    for _ in range(num_updates):
        state, metrics = update(state)
    # Episode statistics are NaN until an episode ends, which a short run may not see.
    numbers = {"params": state.params, "opt_state": state.opt_state} | {
        name: value for name, value in metrics.items() if name not in state.episodes
    }
    return [
        name
        for name, tree in numbers.items()
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))
    ]


def main(grid: Grid) -> int:
    failures = 0
    networks = {"no": [False], "yes": [True], "both": [False, True]}[grid.recurrent]
    for env in map(make_env, grid.envs):
        for algorithm in grid.algorithms:
            for sharing in grid.sharings:
                for recurrent in networks:
                    start = time.monotonic()
                    bad = train(env, algorithm, sharing, recurrent, grid.num_updates)
                    failures += bool(bad)
                    verdict = f"NOT FINITE: {', '.join(bad)}" if bad else "finite"
                    print(
                        f"{env.name:24} {algorithm:6} {sharing:8} {'gru' if recurrent else 'mlp'}  "
                        f"{time.monotonic() - start:5.1f} s  {verdict}",
                        flush=True,
                    )
    print(f"{failures} of the combinations had numbers that are not finite")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Grid, description=__doc__)))
