"""Many seeds of each algorithm on one task, each seed a run in Weights & Biases, and the figure.

    python experiments/many_seeds.py --run-dir sweeps/many_seeds --wandb online
    python experiments/many_seeds.py --run-dir /tmp/quick --quick

Killed, the same command goes on. On one GPU 64 seeds take less than three times as long as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from fp3o_jax import Config, RunOptions, Sweep, plot_runs
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs.sinks import WandbOptions


def main(
    run_dir: Path,
    preset: str = "smax-3m",
    num_seeds: int = 64,
    wandb: Literal["online", "offline", "disabled"] = "disabled",
    quick: bool = False,
) -> None:
    """Trains what is missing and draws learning curves and final scores into ``run_dir``."""
    small = Config(env="matrix/climbing", num_envs=4, rollout_length=8, total_env_steps=64, hidden_size=8)
    study = Sweep(
        small if quick else PRESETS[preset].config,
        grid={"algorithm": ["fp3o", "mappo"] if quick else ["fp3o", "mappo", "happo"]},
        num_seeds=2 if quick else num_seeds,
        options=RunOptions(eval_episodes=4 if quick else 512, wandb=WandbOptions(mode=wandb)),
    )
    study.run(run_dir)
    plot_runs([run_dir], output=run_dir / "curves.png")
    scores = study.frame().groupby("algorithm")["greedy_episode_return"]
    print(scores.agg(["count", "mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    tyro.cli(main)
