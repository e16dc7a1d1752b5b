"""``fp3o plot``: learning curves and final scores of runs, as figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from fp3o_jax.config import ConfigError
from fp3o_jax.runs import tables
from fp3o_jax.runs.drawing import (
    INTERVAL,
    Line,
    Styles,
    draw_lines,
    draw_scores,
    figure_path,
    line_styles,
    save_figure,
)
from fp3o_jax.runs.grouping import MAX_PANELS, Choice, Group, Place, arrange, label, layout
from fp3o_jax.runs.progress import Notes, tell
from fp3o_jax.runs.reading import Run, choose_metric, curve, read_run, run_dirs
from fp3o_jax.runs.scores import (
    Comparison,
    Summary,
    by_merit,
    choose_best,
    compare,
    scores_of,
    summarize,
)
from fp3o_jax.runs.statistics import iqm, pooled, stratified_bootstrap
from fp3o_jax.values import as_count

#: Steps at which a curve is drawn: as many as can be told apart.
MAX_STEPS = 100
#: Setting or settings: a name, several joined by commas, or a list.
Names = str | Sequence[str] | None


def plot_runs(
    paths: Sequence[Path],
    *,
    metric: str | None = None,
    smooth: int = 1,
    by: Names = None,
    within: Names = None,
    best_of: Names = None,
    baseline: str | None = None,
    output: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Draws the learning curves of runs, and compares the scores of their final policies.

    Args:
        paths: run directories, of finished runs or not, folders of them, or folders of sweeps.
        metric: a scalar of ``metrics.jsonl``; by default the win rate, or the return where a run has none.
        smooth: draw each seed's mean over its last so many updates.
        by: settings that tell lines apart; by default all in which runs differ, and if these are many lines
            some of them tell panels apart.
        within: settings that tell panels apart, besides the environment.
        best_of: settings whose best value is chosen within each method, see
            :func:`~fp3o_jax.runs.scores.choose_best`.
        baseline: the method that all are compared with, see :func:`~fp3o_jax.runs.scores.compare`; by default
            all are compared with all, if they are few.
        output: where the figures go: a path whose ending, if any, is .png, .pdf or .svg, or a directory.
        csv: where a table of the final scores goes.
        latex: the same, for LaTeX.
        console: where the tables go; by default the terminal.

    Returns:
        The files written.

    Raises:
        ConfigError: a path is not a run, or a setting cannot be used.
    """
    console, notes = console or Console(), Notes()
    smooth = as_count("smooth", smooth)
    choice = Choice.of(by, within, best_of=best_of)
    figure_path(output, Path(), "")  # or a wrong ending would be found out after all the reading
    every = _read(paths, curves=True)
    runs = _those_with("series", every, "has logged nothing yet and is left out", notes)
    if not runs:
        raise ConfigError("none of the runs has logged anything yet: wait for the first update")
    metric = choose_metric(runs, metric)
    groups = _groups(runs, choice, metric, notes)
    scores = scores_of(groups, metric, notes)
    if baseline is not None and not scores:
        raise ConfigError(f"baseline={baseline!r} compares final scores, and no run has one yet")
    comparisons = compare(scores, baseline)
    summaries = summarize(scores, metric)
    curves = _curves(groups, metric, smooth, notes)
    notes.tell(console)
    styles = _styles(curves, {place: summaries[place].estimates["IQM"].value for place in scores})
    smoothed = f", mean of {smooth} updates" if smooth > 1 else ""
    stem, formats = figure_path(output, _folder(paths), metric)
    figure = draw_lines(
        curves,
        styles,
        x_label="environment steps",
        y_label=_words(metric) + smoothed,
        one_scale=metric == "win_rate",
        ticks=False,
        chosen=choice.best_of,
    )
    written = save_figure(figure, stem, formats)
    _tell_scores(console, summaries, groups, comparisons, metric)
    if len(scores) > 1:
        figure = draw_scores(summaries, comparisons or [], styles, f"{_described(metric)}, {INTERVAL}s")
        written += save_figure(figure, stem.with_name(f"{stem.name}_final"), formats)
    shown = comparisons if baseline is not None and comparisons else ()
    written += _write_tables(summaries, groups, metric, csv, latex, shown)
    for path in written:
        tell(console, f"written to {path}")
    return written


def plot_response(
    paths: Sequence[Path],
    *,
    over: str,
    by: Names = None,
    within: Names = None,
    best_of: Names = None,
    metric: str | None = None,
    output: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Draws what a setting does to the scores of the final policies: the IQM over seeds, and its interval.

    Args:
        paths: as :func:`plot_runs` takes them: what is finished is drawn.
        over: the setting, a number in which the runs differ.
        by, within, best_of, output, csv, latex, console: as :func:`plot_runs` takes them.
        metric: of the final scores, such as ``win_rate``, ``sampled_episode_return`` or ``auc_win_rate``; by
            default the win rate, or the return where a run has none.

    Returns:
        The files written.

    Raises:
        ConfigError: there are no runs, no such setting or metric, nothing is finished, or runs that differ
            would be one point.
    """
    console, notes = console or Console(), Notes()
    choice = Choice.of(by, within, over, best_of)
    figure_path(output, Path(), "")
    every = _read(paths, curves=False)
    runs = _those_with("final", every, "not finished, so it is left out", notes)
    if not runs:
        raise ConfigError(
            f"none of the {len(every)} runs has a final score yet: wait for the first to finish"
        )
    metric = choose_metric(runs, metric)
    groups = _groups(runs, choice, metric, notes)
    scores = scores_of(groups, metric, notes)
    notes.tell(console)
    summaries = {place: summary for place, summary in summarize(scores, metric).items() if place in scores}
    if not summaries:
        raise ConfigError(f"metric={metric!r} is no number in any run")
    lines: dict[Place, list[Place]] = {}
    for place in summaries:
        lines.setdefault(place._replace(at=None), []).append(place)
    drawn = {
        place: Line(
            [point.at for point in points],
            [summaries[point].estimates["IQM"] for point in points],
            max(summaries[point].seeds for point in points),
        )
        for place, points in lines.items()
    }
    styles = _styles(drawn, {})
    figure = draw_lines(
        drawn,
        styles,
        x_label=over,
        y_label=f"final {_words(metric)}",
        one_scale=metric.endswith("win_rate"),
        ticks=True,
        chosen=choice.best_of,
    )
    written = save_figure(figure, *figure_path(output, _folder(paths), f"{metric}_over_{over}"))
    written += _write_tables(summaries, groups, metric, csv, latex, over=over)
    for file in written:
        tell(console, f"written to {file}")
    return written


def write_score_tables(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Writes ``table.csv`` and ``table.tex``: final scores of finished runs, a row for each configuration.

    Args:
        runs: run directories, all finished.
        folder: where the tables go.

    Returns:
        The files written.
    """
    if not runs:
        return []
    read, notes = [read_run(run, curves=False) for run in runs], Notes()
    metric = choose_metric(read, None)
    groups = choose_best(arrange(read, Choice()), metric, (), notes)
    summaries = summarize(scores_of(groups, metric, notes), metric)
    if not summaries:
        return []
    return _write_tables(summaries, groups, metric, folder / "table.csv", folder / "table.tex")


def _read(paths: Sequence[Path], curves: bool) -> list[Run]:
    if not paths:
        raise ConfigError("no run is given: `fp3o plot` needs at least one run directory")
    dirs = dict.fromkeys(run for path in paths for run in run_dirs(path))
    return [read_run(path, curves) for path in dirs]


def _those_with(what: str, runs: Sequence[Run], otherwise: str, notes: Notes) -> list[Run]:
    for run in runs:
        if not getattr(run, what):
            notes.add(str(run.path), otherwise)
    return [run for run in runs if getattr(run, what)]


def _folder(paths: Sequence[Path]) -> Path:
    return (paths[0] if len(paths) == 1 else Path()) / "figures"


def _groups(runs: Sequence[Run], choice: Choice, metric: str, notes: Notes) -> dict[Place, Group]:
    """The runs at their places; many methods are spread over panels unless the user said how."""
    places = arrange(runs, choice)
    if choice.by is None and not choice.within and (spread := layout(places)):
        lines, panels = spread
        many = len({place.method for place in places})
        notes.add(f"{many} methods", f"drawn as by --by {','.join(lines)} --within {','.join(panels)}")
        places = arrange(runs, Choice(lines, panels, choice.over, choice.best_of))
    panels = {(place.env, place.panel) for place in places}
    if choice.within and len(panels) > MAX_PANELS:
        raise ConfigError(
            f"within={','.join(choice.within)!r} makes {len(panels)} panels, and {MAX_PANELS} can be read: "
            "name fewer settings, or choose among their values with --best-of"
        )
    return choose_best(places, metric, choice.best_of, notes)


def _curves(groups: Mapping[Place, Group], metric: str, smooth: int, notes: Notes) -> dict[Place, Line]:
    curves = {}
    for place, (runs, _) in groups.items():
        steps, values = curve(runs, metric, smooth)
        last = max(run.last_step for run in runs)
        until = int(steps[-1]) if len(steps) else 0
        who = ", ".join(part for part in (label(place.method), place.env) if part)
        if until < last:
            notes.add(f"{who} to env step {until:,} of {last:,}", "drawn while all seeds have a value")
        if len(values) == 1:
            notes.add(who, "one seed, so there is no interval")
        if len(steps) > 2 * MAX_STEPS:
            kept = np.unique(np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int))
            steps, values = steps[kept], values[:, kept]
        estimates = [stratified_bootstrap(pooled(iqm), [at_step]) for at_step in values.T]
        curves[place] = Line(steps.tolist(), estimates, len(values))
    return curves


def _styles(lines: Mapping[Place, Line], scores: Mapping[Place, float]) -> Styles:
    """By merit, which is the final score, or without any the highest point of the line."""
    highest = {place: max(e.value for e in line.estimates) for place, line in lines.items() if line.estimates}
    return line_styles(by_merit(scores or highest), list(dict.fromkeys(place.line for place in lines)))


def _tell_scores(
    console: Console,
    summaries: Mapping[Place, Summary],
    groups: Mapping[Place, Group],
    comparisons: Sequence[Comparison] | None,
    metric: str,
) -> None:
    if summaries:
        tell(console, f"{_described(metric)}; in brackets: {INTERVAL}s")
    for table in tables.score_tables(summaries, groups):
        console.print(table)
    if comparisons:
        console.print(tables.comparison_table(comparisons))
    if comparisons is None:
        methods = list(dict.fromkeys(place.method for place in groups))
        tell(
            console,
            f"{len(methods)} methods are too many to compare all with all: --baseline METHOD (such as "
            f"{label(methods[0])!r}, or some of it) compares each with one",
        )


def _write_tables(
    summaries: Mapping[Place, Summary],
    groups: Mapping[Place, Group],
    metric: str,
    csv: Path | None,
    latex: Path | None,
    comparisons: Sequence[Comparison] = (),
    over: str | None = None,
) -> list[Path]:
    if csv is None and latex is None:
        return []
    if not summaries:
        raise ConfigError("--csv and --latex hold final scores, and no run has one yet")
    table = tables.frame(summaries, groups, metric, comparisons, over)
    written = [tables.write_csv(table, csv)] if csv else []
    return written + ([tables.write_latex(table, latex)] if latex else [])


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _described(metric: str) -> str:
    return f"{_words(metric)} of the final greedy policies"
