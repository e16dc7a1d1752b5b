"""What a run ended with: its summary, written and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fp3o_jax.config import Config
from fp3o_jax.runs.progress import tell

#: Metrics of which a run's summary has the area under the learning curve.
CURVES = ("episode_return", "win_rate")


def summarised(
    config: Config,
    results: Mapping[str, np.ndarray],
    rows: Sequence[Mapping[str, Any]],
    frozen: Mapping[str, int],
    side_by_side: int,
    seconds: Mapping[str, float],
    episodes: int,
) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Args:
        config: of the run.
        results: [seeds of the run].
        rows: of its ``metrics.jsonl``.
        frozen: seed -> the update in which it stopped.
        side_by_side: seeds of all members, which the seconds are of.
        seconds: of training and compiling.
        episodes: that the results are means of.
    """
    env_steps = config.num_updates * config.steps_per_update
    areas = _areas_under_curves(rows)
    return {name: values.mean() for name, values in results.items()} | {
        "env_steps": env_steps,
        **seconds,
        "env_steps_per_second": env_steps * side_by_side / seconds["train_seconds"],
        "eval_episodes": episodes,
        "side_by_side": side_by_side,
        "seeds": [
            {"seed": seed}
            | {name: values[i] for name, values in results.items()}
            | areas.get(seed, {})
            | ({"stopped_at_update": frozen[str(seed)]} if str(seed) in frozen else {})
            for i, seed in enumerate(config.seeds)
        ],
    }


def _areas_under_curves(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """By seed, the area under each learning curve divided by its length: its mean over the updates.

    Updates without a value, before the first episode has ended, do not count.
    """
    values: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        for name in CURVES:
            if row.get(name) is not None:
                values.setdefault(row["seed"], {}).setdefault(f"auc_{name}", []).append(row[name])
    return {
        seed: {name: float(np.mean(each)) for name, each in curves.items()} for seed, curves in values.items()
    }


def print_summary(console: Console, summary: dict[str, Any], path: Path) -> None:
    """A table of the final greedy policies, and what they cost."""
    names = [
        name
        for name in ("win_rate", "episode_return", "episode_length")
        if all(row.get(name) is not None for row in summary["seeds"])
    ]
    console.print(f"greedy evaluation over {summary['eval_episodes']} episodes per seed")
    table = Table()
    for column in ("seed", *(name.replace("_", " ") for name in names)):
        table.add_column(column, justify="right")
    for row in summary["seeds"]:
        table.add_row(str(row["seed"]), *(f"{row[name]:.3f}" for name in names))
    if len(summary["seeds"]) > 1:
        table.add_section()
        for label, reduce in (("mean", np.mean), ("std", np.std)):
            values = [reduce([row[name] for row in summary["seeds"]]) for name in names]
            table.add_row(label, *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print(
        f"{summary['env_steps']:,} env steps per seed in {summary['train_seconds']:.1f} s "
        f"({summary['env_steps_per_second']:,.0f} per second), "
        f"compiled in {summary['compile_seconds']:.1f} s"
    )
    tell(console, f"written to {path}")
