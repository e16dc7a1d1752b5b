"""The section about tuning: one grid for each method that takes part, and the one choice that is made of it.

The rule, written before the results. A point's score for a method (algorithm × sharing) is the mean over
seeds of the greedy return after the last update. Its regret is what it lacks of the method's best point,
as a part of the range of all methods' scores. The family's choice is the point with the least mean
regret over the methods, each of which counts the same; of equal ones that with fewer epochs, then with
the smaller learning rate.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from measured import number, table

#: Which presets take a family's choice.
FAMILIES = {"smax": "the preset `smax` takes", "mamujoco": "the presets `mamujoco` and `mabrax` take"}
SCORE = "greedy_episode_return"
CAUTION = (
    "With two seeds of each point most of what lies between points of a row is chance: no row says which "
    "method is better, and that is why one choice is made for all."
)


class Point(NamedTuple):
    """Of the grid, ordered as the rule prefers; the learning rate is that of actor and critic."""

    epochs: int
    actor_lr: float

    def __str__(self) -> str:
        return f"{self.epochs} epochs at {self.actor_lr:g}"


class Tuning(NamedTuple):
    """What a family's sweep came to.

    Attributes:
        env: what was played.
        env_steps: of each run.
        seeds: of each point.
        points: of the grid.
        methods: (sharing, algorithm).
        scores: [methods, points] means over seeds; NaN where a run is missing.
    """

    env: str
    env_steps: int
    seeds: int
    points: list[Point]
    methods: list[tuple[str, str]]
    scores: np.ndarray

    @property
    def regret(self) -> np.ndarray:
        """[methods, points], of methods that have all points."""
        scores = self.scores[np.isfinite(self.scores).all(1)]
        return (scores.max(1, keepdims=True) - scores) / (np.ptp(scores) or 1.0)

    @property
    def chosen(self) -> Point:
        """By the rule."""
        return self.points[int(self.regret.mean(0).argmin())]


def read_tuning(file: Path) -> Tuning:
    """From a sweep's `results.csv`."""
    with file.open(encoding="utf-8", newline="") as lines:
        every = list(csv.DictReader(lines))
    rows = [row for row in every if row["status"] == "finished"]

    def point(row: dict[str, str]) -> Point:
        return Point(int(row["epochs"]), float(row["actor_lr"]))

    points = sorted({point(row) for row in every})
    methods = list(dict.fromkeys((row["sharing"], row["algorithm"]) for row in every))
    seeds = len({row["seed"] for row in every})
    scores = np.full((len(methods), len(points)), np.nan)
    for i, method in enumerate(methods):
        for j, each in enumerate(points):
            mine = [r for r in rows if (r["sharing"], r["algorithm"]) == method and point(r) == each]
            if len(mine) == seeds:
                scores[i, j] = np.mean([float(row[SCORE]) for row in mine])
    return Tuning(rows[0]["env"], int(rows[0]["env_steps"]), seeds, points, methods, scores)


def tuning_section(folder: Path) -> list[str]:
    """For each family what was chosen in a sentence, and the table behind it.

    Args:
        folder: of the sweeps' results; what is not there is not measured.
    """
    rule = " ".join(__doc__.split("The rule, ")[1].split())
    lines = ["## Tuning", "", f"The rule, {rule}", "", CAUTION, ""]
    for family, presets in FAMILIES.items():
        name = f"tuning_{family}"
        lines += [f"### {family}", ""]
        command = f"`fp3o sweep experiments/paper/{name}.toml --run-dir sweeps/{name}`"
        file = folder / f"{name}.csv"
        if not file.exists():
            lines += [f"Not measured yet: {command}.", ""]
            continue
        tuning = read_tuning(file)
        lines += [said(tuning, presets), "", *table(*rows_and_head(tuning)), ""]
        lines += [f"Mean greedy return of {tuning.seeds} seeds, the best of a row in bold; by {command}.", ""]
    return lines


def said(tuning: Tuning, presets: str) -> str:
    """What was chosen, what it costs a method, and where the grid was too small."""
    chosen, regret = tuning.chosen, tuning.regret
    column = tuning.points.index(chosen)
    whole = [m for m, row in zip(tuning.methods, tuning.scores, strict=True) if np.isfinite(row).all()]
    bests = [tuning.points[i] for i in regret.argmin(1)]
    worst = int(regret[:, column].argmax())
    rates = sorted({point.actor_lr for point in tuning.points})
    edge = sum(best.actor_lr in (rates[0], rates[-1]) for best in bests)
    words = [
        f"On `{tuning.env}`, {tuning.env_steps:,} env steps a run, the choice is **{chosen}**, "
        f"which {presets}. It is the best point of {sum(best == chosen for best in bests)} of "
        f"{len(whole)} methods, and lacks {100 * regret[:, column].mean():.0f}% of the range of scores on "
        f"average, at most {100 * regret[worst, column]:.0f}% ({' '.join(reversed(whole[worst]))})."
    ]
    if edge:
        words.append(f"The best learning rate of {edge} of them is an end of the grid.")
    if missing := len(tuning.methods) - len(whole):
        words.append(f"Methods that are not finished do not count: {missing}.")
    return " ".join(words)


def rows_and_head(tuning: Tuning) -> tuple[list[list[str]], Sequence[str]]:
    """Of the table: a method in each row, a point in each column."""
    rows = []
    for method, scores in zip(tuning.methods, tuning.scores, strict=True):
        best = np.nanmax(scores) if np.isfinite(scores).any() else np.nan
        rows.append([*method, *(f"**{number(s)}**" if s == best else number(s) for s in scores)])
    return rows, ["sharing", "method", *map(str, tuning.points)]
