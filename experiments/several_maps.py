"""Algorithms × sharings on several maps: a table of final scores and of the areas under learning curves.

    python experiments/several_maps.py --run-dir sweeps/maps
    python experiments/several_maps.py --run-dir /tmp/quick --quick

Killed, the same command goes on. Each map, algorithm and sharing is a program of its own: start this on as
many machines as you like, or submit a job for each with `fp3o sweep STUDY.toml --on slurm`.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from fp3o_jax import Config, Sweep
from fp3o_jax.presets import PRESETS

MAPS = ["smax/3m", "smax/5m_vs_6m", "smax/3s5z", "smax/6h_vs_8z"]


def main(run_dir: Path, num_seeds: int = 10, quick: bool = False) -> None:
    """Trains what is missing and prints the table; ``quick`` is two matrix games for a moment."""
    small = Config(env="matrix/climbing", num_envs=4, rollout_length=8, total_env_steps=64, hidden_size=8)
    study = Sweep(
        small if quick else PRESETS["smax-3m"].config,
        grid={
            "env": ["matrix/climbing", "matrix/xor"] if quick else MAPS,
            "algorithm": ["fp3o"] if quick else ["fp3o", "mappo", "happo"],
            "sharing": ["full", "none"] if quick else ["full", "partial", "none"],
        },
        num_seeds=2 if quick else num_seeds,
    )
    study.run(run_dir)
    score = "episode_return" if quick else "win_rate"
    table = study.frame().pivot_table(
        [f"greedy_{score}", f"auc_{score}"], ["env", "sharing"], "algorithm", aggfunc="mean"
    )
    print(table.round(3).to_string())


if __name__ == "__main__":
    tyro.cli(main)
