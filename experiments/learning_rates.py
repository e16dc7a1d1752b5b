"""How much each sharing depends on the learning rate: a sweep of one algorithm on one environment.

    python experiments/learning_rates.py --run-dir sweeps/learning_rates
    python experiments/learning_rates.py --run-dir /tmp/quick --quick

Killed, the same command goes on. At the end stands a table: mean final return by sharing and learning rate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

from fp3o_jax import Config, Sweep
from fp3o_jax.presets import PRESETS


def main(run_dir: Path, algorithm: str = "fp3o", num_seeds: int = 8, quick: bool = False) -> None:
    """Trains what is missing and prints the table; ``quick`` is a matrix game for a moment."""
    small = Config(env="matrix/climbing", num_envs=4, rollout_length=8, total_env_steps=64, hidden_size=8)
    config = (small if quick else PRESETS["mpe-spread"].config).replace(algorithm=algorithm)
    study = Sweep(
        config,
        grid={
            "sharing": ["full", "none"] if quick else ["full", "partial", "none"],
            "actor_lr,critic_lr": [1e-3, 1e-2] if quick else list(np.geomspace(1e-4, 1e-2, 7).round(6)),
        },
        num_seeds=2 if quick else num_seeds,
    )
    study.run(run_dir)
    table = study.frame().pivot_table("greedy_episode_return", "actor_lr", "sharing", aggfunc="mean")
    print(table.round(2).to_string())


if __name__ == "__main__":
    tyro.cli(main)
