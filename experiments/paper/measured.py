"""A cell with what came of it, and how that is told in a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cells import Cell
from fp3o_jax.runs.statistics import Estimate, iqm, pooled, stratified_bootstrap


@dataclasses.dataclass(frozen=True)
class Measured:
    """A finished cell, or one that is missing (``result`` None)."""

    cell: Cell
    result: dict[str, Any] | None

    @property
    def metric(self) -> str:
        return "win_rate" if "win_rate" in self.result["final"] else "episode_return"

    @property
    def final(self) -> np.ndarray:
        """[S] greedy scores after the last update."""
        return np.array(self.result["final"][self.metric], float)

    @property
    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Env steps [E] and greedy scores [S, E] while training."""
        told = self.result["evaluations"]
        return np.array(told["env_steps"]), np.array(told[self.metric], float)

    def curve(self, name: str) -> np.ndarray:
        """[S, points] of a training curve; all NaN where there is none."""
        curves = self.result["curves"]
        return np.array(curves.get(name, np.full((len(self.final), 1), np.nan)), float)

    def steps_to(self, level: float) -> np.ndarray:
        """[S] env steps until the sampled win rate reaches a level; twice the budget where it does not."""
        steps, rates = np.array(self.result["env_steps"], float), np.nan_to_num(self.curve("win_rate"))
        reached = rates >= level
        return np.where(reached.any(1), steps[reached.argmax(1)], 2 * steps[-1])

    def at_seconds(self, seconds: float) -> np.ndarray:
        """[S] greedy scores after so much training time, between two evaluations in proportion."""
        steps, scores = self.evaluations
        times = steps / self.cell.config.steps_per_update * self.result["seconds"]["per_update"]
        return np.array([np.interp(seconds, times, row) for row in scores])

    @property
    def train_seconds(self) -> float:
        return self.result["updates"] * self.result["seconds"]["per_update"]


def number(value: float) -> str:
    """Short, as for a table."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def text(estimate: Estimate, form: Any = number) -> str:
    """A value and its interval."""
    if np.isnan(estimate.low):
        return form(estimate.value)
    return f"{form(estimate.value)} [{form(estimate.low)}, {form(estimate.high)}]"


def of_seeds(scores: np.ndarray, statistic: Any = iqm) -> Estimate:
    """A statistic over seeds [S] with its interval."""
    return stratified_bootstrap(pooled(statistic), [scores])


def steps_text(measured: Measured, level: float) -> str:
    """Median over seeds of the env steps to a win rate, and how many seeds reach it."""
    if measured.metric != "win_rate":
        return "-"
    steps, budget = measured.steps_to(level), measured.result["env_steps"][-1]

    def form(value: float) -> str:
        return f"{value / 1e6:.2f} M" if value <= budget else "never"

    missed = int((steps > budget).sum())
    told = text(of_seeds(steps, np.median), form)
    return told + (f", {missed} of {len(steps)} seeds never" if missed else "")


def seeds_text(measured: Measured) -> str:
    """How many seeds there are, and how many of them ceased to be finite."""
    stopped = len(measured.result["stopped"])
    return f"{len(measured.final)}" + (f", {stopped} ceased to be finite" if stopped else "")


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def judged(estimate: Estimate) -> list[str]:
    """An estimate of P(X > Y) and what it allows to say."""
    if estimate.low > 0.5:
        verdict = "better"
    elif estimate.high < 0.5:
        verdict = "worse"
    else:
        verdict = "not told apart"
    return [text(estimate), verdict]


def save(figure: Any, file: Path) -> None:
    """Without a date or version in the file: the same results make the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100, metadata={"Software": None})
