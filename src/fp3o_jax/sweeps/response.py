"""``fp3o plot SWEEP --over actor_lr``: the final score against a setting, a line for each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fp3o_jax.config import ConfigError, Hyperparams, unknown
from fp3o_jax.runs.figures import INTERVAL, draw_responses, figure_path, save_figure
from fp3o_jax.runs.outcome import CURVES
from fp3o_jax.runs.progress import tell
from fp3o_jax.runs.statistics import Estimate, iqm, pooled, stratified_bootstrap
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.results import results

#: By panel and line: values of the axis, and the score at each.
Responses = Mapping[str, Mapping[str, tuple[list[float], list[Estimate]]]]


def plot_response(
    path: Path,
    *,
    over: str,
    by: str = "algorithm",
    within: str | None = None,
    metric: str | None = None,
    output: Path | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Draws what a continuous setting does to the final greedy score: the IQM over seeds, and its interval.

    Args:
        path: folder of a sweep, finished or not: what is finished is drawn.
        over: the setting, a hyperparameter that the sweep varies.
        by: the setting that tells lines apart.
        within: the setting that tells panels apart; by default there is one.
        metric: ``win_rate`` or ``episode_return``; by default the first that there is.
        output: path of the figure, or a directory; with the ending .png or .pdf only that format is written.
        console: where the paths go; by default the terminal.

    Returns:
        The files written.

    Raises:
        ConfigError: there is no sweep, no such axis or metric, nothing is finished, or settings that neither
            ``by`` nor ``within`` names would be thrown together.
    """
    folder = SweepFolder(path)
    content = folder.plan()
    with folder.locked():
        rows = results(folder)
    axes = list(
        dict.fromkeys(n for program in content["programs"] for run in program for n in run["changes"])
    )
    continuous = [name for name in axes if name in Hyperparams._fields]
    if over not in continuous:
        raise unknown("over", over, continuous)
    for name, value in (("by", by), ("within", within)):
        if value is not None and value not in rows[0]:
            raise unknown(name, value, axes)
    if metric is not None and metric not in CURVES:
        raise unknown("metric", metric, CURVES)
    metric = metric or next((m for m in reversed(CURVES) if f"greedy_{m}" in rows[0]), CURVES[0])
    rows = [row for row in rows if row.get(f"greedy_{metric}") is not None]
    if not rows:
        raise ConfigError(f"{str(path)!r} has no run that is finished and has a final {metric} yet")
    _refuse_mixtures(rows, [name for name in axes if name not in (over, by, within)], over, by, within)
    responses: dict[str, dict[str, tuple[list[float], list[Estimate]]]] = {}
    for panel, line, value in sorted({(_of(row, within), _of(row, by), row[over]) for row in rows}):
        scores = [
            row[f"greedy_{metric}"]
            for row in rows
            if (_of(row, within), _of(row, by), row[over]) == (panel, line, value)
        ]
        values, estimates = responses.setdefault(panel, {}).setdefault(line, ([], []))
        values.append(value)
        estimates.append(stratified_bootstrap(pooled(iqm), [np.array(scores, float)]))
    label = f"final {metric.replace('_', ' ')}, IQM over seeds, {INTERVAL}s"
    figure = draw_responses(responses, over, label)
    written = save_figure(figure, *figure_path(output, path / "figures", f"{metric}_over_{over}"))
    for file in written:
        tell(console or Console(), f"written to {file}")
    return written


def _of(row: Mapping[str, Any], name: str | None) -> str:
    return "" if name is None else f"{name}={row[name]}"


def _refuse_mixtures(
    rows: Sequence[Mapping[str, Any]], others: Sequence[str], over: str, by: str, within: str | None
) -> None:
    """Whether a point of a line is one configuration; settings that walk with the axis do not matter."""
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        here = {name: row[name] for name in others}
        there = seen.setdefault((row[over], _of(row, by), _of(row, within)), here)
        for name in others:
            if here[name] != there[name]:
                raise ConfigError(
                    f"{name} is {there[name]!r} and {here[name]!r} at {over}={row[over]!r}: name it with "
                    "--by or --within, or runs that differ would be one point"
                )
