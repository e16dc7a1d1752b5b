"""Draws the learning curves of runs: one line per run, the mean over its seeds, and their range.

python experiments/learning_curves.py runs/A runs/B --metric win_rate --output curves.png
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import matplotlib
import numpy as np
import tyro

from fp3o_jax import ConfigError

STYLES = ("-", "--", ":", "-.")


@dataclasses.dataclass
class Curves:
    """What to draw."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """run directories"""
    metric: str = "win_rate"
    """name in metrics.jsonl"""
    output: Path = Path("curves.png")
    """image to write"""


def read(run: Path, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps [U] and the metric [S, U] of a run; NaN before the first episode ended.

    Raises:
        ConfigError: the run has no such metric.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if metric not in rows[0]:
        raise ConfigError(f"metric={metric!r} is not in {run}: it has {', '.join(rows[0])}")
    seeds = sorted({row["seed"] for row in rows})
    values = [[row[metric] for row in rows if row["seed"] == seed] for seed in seeds]
    steps = [row["env_steps"] for row in rows if row["seed"] == seeds[0]]
    return np.array(steps), np.array(values, float)


def main(curves: Curves) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for i, run in enumerate(curves.runs):
        steps, values = read(run, curves.metric)
        config = json.loads((run / "config.json").read_text())
        label = f"{config['algorithm']}, sharing {config['sharing']}, {len(values)} seeds"
        (line,) = axes.plot(steps, values.mean(0), STYLES[i % len(STYLES)], label=label)
        axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"{curves.metric.replace('_', ' ')} while sampling")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    curves.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(curves.output, dpi=110)
    print(f"written to {curves.output}")


if __name__ == "__main__":
    main(tyro.cli(Curves, description=__doc__))
