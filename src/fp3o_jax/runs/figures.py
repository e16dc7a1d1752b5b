"""``fp3o plot``: learning curves and final scores of runs, as figures and on the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.progress import tell
from fp3o_jax.runs.reading import Run, choose_metric, curve, name_methods, read_run, run_dirs
from fp3o_jax.runs.statistics import (
    Estimate,
    iqm,
    pooled,
    probability_of_improvement,
    stratified_bootstrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGGREGATES = {"IQM": iqm, "mean": np.mean, "median": np.median}
INTERVAL = "95% stratified bootstrap interval"
FORMATS = (".png", ".pdf")

# Okabe and Ito's colours, which remain apart under colour blindness. The markers tell methods apart without
# any colour, and there are as many; when both begin again, the line style has changed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

# All by (environment, method): runs; environment steps [U] and values [S, U]; final scores [S].
Runs = Mapping[tuple[str, str], Sequence[Run]]
Curves = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
ScoresByTask = Mapping[tuple[str, str], np.ndarray]
#: By the two methods X and Y: P(X > Y), and the number of environments that both have scores on.
Improvements = Mapping[tuple[str, str], tuple[Estimate, int]]
#: By method: its colour, marker and line, the same in every panel.
Styles = Mapping[str, Mapping[str, str]]


class Summary(NamedTuple):
    """Final scores on one environment, or on all of them together."""

    title: str
    seeds: Mapping[str, int]
    """by method, the number of scores"""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """by aggregate and method"""


def plot_runs(
    paths: Sequence[Path],
    *,
    metric: str | None = None,
    smooth: int = 1,
    output: Path | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Draws the learning curves of runs, and compares the scores of their final policies.

    Args:
        paths: run directories, of finished runs or not, or folders of sweeps.
        metric: a scalar of ``metrics.jsonl``; by default the win rate, or the return where a run has none.
        smooth: draw each seed's mean over its last so many updates.
        output: where the figures go: a path whose ending, if any, is .png or .pdf, or a directory.
        console: where the tables go; by default the terminal.

    Returns:
        The files written.

    Raises:
        ConfigError: a path is not a run, or a setting cannot be used.
    """
    console = console or Console()
    if not paths:
        raise ConfigError("no run is given: `fp3o plot` needs at least one run directory")
    if smooth < 1:
        raise ConfigError(f"smooth={smooth} must be at least 1 (update)")

    def note(text: str) -> None:
        tell(console, f"note: {text}")

    runs = [read_run(path) for path in dict.fromkeys(run for path in paths for run in run_dirs(path))]
    for run in runs:
        if not run.rows:
            note(f"{run.path} has logged nothing yet and is left out")
    runs = [run for run in runs if run.rows]
    if not runs:
        raise ConfigError("none of the runs has logged anything yet: wait for the first update")
    metric = choose_metric(runs, metric)
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run, method in zip(runs, name_methods(runs), strict=True):
        grouped.setdefault((run.env, method), []).append(run)

    folder = (paths[0] if len(paths) == 1 else Path()) / "figures"
    stem, formats = figure_path(output, folder, metric)
    styles = _styles(method for _, method in grouped)

    curves = {key: curve(group, metric, smooth) for key, group in grouped.items()}
    for (env, method), (steps, values) in curves.items():
        last = max(row["env_steps"] for run in grouped[env, method] for row in run.rows)
        until = steps[-1] if len(steps) else 0
        if until < last:
            note(f"{method} on {env}: drawn to env step {until:,} of {last:,}, while all seeds have a value")
        if len(values) == 1:
            note(f"{method} on {env}: one seed, so there is no interval")
    label = _words(metric) + (f", mean of {smooth} updates" if smooth > 1 else "")
    written = save_figure(_draw_curves(curves, styles, label), stem, formats)

    scores = _final_scores(grouped, metric, note)
    summaries, improvements = _summarize(scores, metric), _improvements(scores)
    if scores:
        said = f"{_words(metric)} of the final greedy policies; in brackets: {INTERVAL}s"
        tell(console, said)
    for summary in summaries:
        console.print(_score_table(summary))
    if improvements:
        console.print(_improvement_table(improvements))
    if len(scores) > 1:
        figure = _draw_scores(summaries, improvements, styles, metric)
        written += save_figure(figure, stem.with_name(f"{stem.name}_final"), formats)
    for path in written:
        tell(console, f"written to {path}")
    return written


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _final_scores(grouped: Runs, metric: str, note: Callable[[str], None]) -> ScoresByTask:
    """What the final greedy policies scored, of those runs that have come so far."""
    scores = {}
    for key, runs in grouped.items():
        values = []
        for run in runs:
            measured = [row[metric] for row in run.final if row.get(metric) is not None]
            if not run.final:
                note(f"{run.path} is not finished: it has no final score yet")
            elif len(measured) < len(run.final):
                note(f"{run.path}: {metric} is in {len(measured)} of {len(run.final)} final evaluations")
            values += measured
        if values:
            scores[key] = np.array(values, float)
    return scores


def _summarize(scores: ScoresByTask, metric: str) -> list[Summary]:
    """One summary per environment, and one of all together where they have a common scale."""
    envs = list(dict.fromkeys(env for env, _ in scores))
    methods = list(dict.fromkeys(method for _, method in scores))
    tables = [(env, {m: [scores[env, m]] for m in methods if (env, m) in scores}) for env in envs]
    # Returns of different environments cannot be averaged; nor can methods be compared on different ones.
    if len(envs) > 1 and metric == "win_rate":
        complete = [m for m in methods if all((env, m) in scores for env in envs)]
        if complete:
            everywhere = {m: [scores[env, m] for env in envs] for m in complete}
            tables.append((f"all {len(envs)} environments", everywhere))
    return [
        Summary(
            title,
            {m: sum(map(len, tasks)) for m, tasks in table.items()},
            {
                name: {m: stratified_bootstrap(pooled(statistic), tasks) for m, tasks in table.items()}
                for name, statistic in AGGREGATES.items()
            },
        )
        for title, table in tables
    ]


def _improvements(scores: ScoresByTask) -> Improvements:
    """Per pair of methods, the probability that the first is better, and on how many environments."""
    result = {}
    for x, y in itertools.combinations(dict.fromkeys(method for _, method in scores), 2):
        envs = [env for env, method in scores if method == x and (env, y) in scores]
        if envs:
            tasks = ([scores[env, method] for env in envs] for method in (x, y))
            result[x, y] = stratified_bootstrap(probability_of_improvement, *tasks), len(envs)
    return result


def _text(estimate: Estimate) -> str:
    low, high = _number(estimate.low), _number(estimate.high)
    return f"{_number(estimate.value)}\n" + ("no interval" if np.isnan(estimate.low) else f"[{low}, {high}]")


def _number(value: float) -> str:
    """Short, so that a terminal of 80 columns has room for the methods' names."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _score_table(summary: Summary) -> Table:
    view = Table(title=Text(summary.title, "table.title"), show_lines=True)
    view.add_column("method")
    for name in ("seeds", *AGGREGATES):
        view.add_column(name, justify="right", no_wrap=True)
    for method, seeds in summary.seeds.items():
        view.add_row(
            Text(method), str(seeds), *(Text(_text(of[method])) for of in summary.estimates.values())
        )
    return view


def _improvement_table(improvements: Improvements) -> Table:
    view = Table(title="probability of improvement", show_lines=True)
    for name in ("X", "Y"):
        view.add_column(name)
    for name in ("environments", "P(X > Y)"):
        view.add_column(name, justify="right", no_wrap=True)
    for (x, y), (estimate, environments) in improvements.items():
        view.add_row(Text(x), Text(y), str(environments), Text(_text(estimate)))
    return view


def _styles(methods: Iterable[str]) -> Styles:
    return {
        method: {
            "color": COLORS[i % len(COLORS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
        }
        for i, method in enumerate(dict.fromkeys(methods))
    }


def _draw_curves(curves: Curves, styles: Styles, label: str) -> Figure:
    """One panel per environment, in it one curve per method: the IQM over seeds, and its interval."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    envs = list(dict.fromkeys(env for env, _ in curves))
    columns = min(len(envs), 3)
    rows = -(-len(envs) // columns)
    figure = Figure(
        figsize=(max(6, 3.6 * columns), 2.8 * rows + 0.4 + 0.2 * len(styles)), layout="constrained"
    )
    panels = {}
    for i, env in enumerate(envs):
        axes = panels[env] = figure.add_subplot(rows, columns, i + 1)
        axes.set_title(env, fontsize="medium")
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if i % columns == 0:
            axes.set_ylabel(label)
        _frame(axes)
    handles = {}
    for (env, method), (steps, values) in curves.items():
        estimates = [stratified_bootstrap(pooled(iqm), [at_step]) for at_step in values.T]
        middle, low, high = np.array(estimates).reshape(-1, 3).T
        # A few markers per curve, and not at the same steps as on the other curves.
        gap = max(1, len(steps) // 8)
        start = gap * list(styles).index(method) // len(styles)
        (line,) = panels[env].plot(steps, middle, markevery=(start, gap), markersize=5, **styles[method])
        panels[env].fill_between(steps, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        handles.setdefault(f"{method} ({_seeds(curves, method)})", line)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        title=f"IQM over seeds while training, {INTERVAL}s",
        title_fontsize="small",
        frameon=False,
        handlelength=4,
    )
    return figure


def _seeds(curves: Curves, method: str) -> str:
    counts = [len(values) for (_, name), (_, values) in curves.items() if name == method]
    few, many = min(counts), max(counts)
    if many == 1:
        return "1 seed, no interval"
    return f"{few} seeds" if few == many else f"{few} to {many} seeds"


def _draw_scores(
    summaries: Sequence[Summary], improvements: Improvements, styles: Styles, metric: str
) -> Figure:
    """Points and intervals: a row of panels per summary, one panel per aggregate; below, all pairs."""
    from matplotlib.figure import Figure

    heights = [0.75 + 0.35 * len(summary.seeds) for summary in summaries]
    if improvements:
        heights.append(0.75 + 0.45 * len(improvements))
    figure = Figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(f"{_words(metric)} of the final greedy policies, {INTERVAL}s", fontsize="medium")
    grid = figure.add_gridspec(len(heights), len(AGGREGATES), height_ratios=heights)
    for row, summary in enumerate(summaries):
        first = None
        for column, (name, points) in enumerate(summary.estimates.items()):
            axes = figure.add_subplot(grid[row, column], sharex=first)
            first = first or axes
            axes.set_title(f"{summary.title}: {name}", fontsize="medium")
            _draw_points(axes, points, [styles[method] for method in points])
            axes.tick_params(labelleft=column == 0)
    if improvements:
        axes = figure.add_subplot(grid[-1, :])
        axes.set_title("probability of improvement P(X > Y)", fontsize="medium")
        points = {f"X: {x}\nY: {y}": estimate for (x, y), (estimate, _) in improvements.items()}
        _draw_points(axes, points, [styles[x] for x, _ in improvements])
        axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(-0.02, 1.02)
    return figure


def _draw_points(axes: Axes, points: Mapping[str, Estimate], styles: Sequence[Mapping[str, str]]) -> None:
    for height, (estimate, style) in enumerate(zip(points.values(), styles, strict=True)):
        axes.plot([estimate.low, estimate.high], [height, height], color=style["color"], linewidth=2)
        axes.plot(estimate.value, height, color=style["color"], marker=style["marker"], markersize=7)
    axes.set_yticks(range(len(points)), list(points), fontsize="small")
    axes.set_ylim(len(points) - 0.5, -0.5)
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_responses(
    responses: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[Estimate]]]], axis: str, label: str
) -> Figure:
    """A panel for each key, in it a line for each key of its own: values of the axis, and a score at each."""
    from matplotlib.figure import Figure

    styles = _styles(line for lines in responses.values() for line in lines)
    width = max(5, 3.2 * len(responses))
    figure = Figure(figsize=(width, 3.2 + 0.2 * len(styles)), layout="constrained")
    figure.suptitle(label, fontsize="small")
    handles, first = {}, None
    for i, (panel, lines) in enumerate(responses.items()):
        axes = first = figure.add_subplot(1, len(responses), i + 1, sharey=first)
        axes.set_title(panel, fontsize="medium")
        axes.set_xlabel(axis)
        every = [value for values, _ in lines.values() for value in values]
        if min(every) > 0 and max(every) > 5 * min(every):
            axes.set_xscale("log")
        for name, (values, estimates) in lines.items():
            middle, low, high = np.array(estimates).reshape(-1, 3).T
            (line,) = axes.plot(values, middle, markersize=5, **styles[name])
            axes.fill_between(values, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
            handles.setdefault(name, line)
        _frame(axes)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, handlelength=4)
    return figure


def figure_path(output: Path | None, folder: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    """Where a figure goes, without its ending, and in which formats.

    Args:
        output: what the user said: a path with or without an ending, a directory, or nothing.
        folder: by default.
        name: of the figure, where it is not said.

    Raises:
        ConfigError: another ending.
    """
    if output is None:
        return folder / name, FORMATS
    if output.is_dir():
        return output / name, FORMATS
    if output.suffix not in ("", *FORMATS):
        raise ConfigError(f"output={str(output)!r} must end in .png or .pdf, or in neither to have both")
    return output.with_suffix(""), (output.suffix,) if output.suffix else FORMATS


def save_figure(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Writes a figure to ``stem`` with each ending; returns the files."""
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + ending) for ending in formats]
    for file in files:
        # Type 42: text in the PDF remains text, which journals ask for.
        with matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(file, dpi=150)
    return files
