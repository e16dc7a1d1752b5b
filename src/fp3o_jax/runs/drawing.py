"""Figures: panels of lines, points and intervals, of a size that a page holds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.grouping import MAX_SCALE, Place, Settings, is_number, label, shown
from fp3o_jax.runs.scores import AGGREGATES, MAX_PAIRS, Comparison, Summary, strongest
from fp3o_jax.runs.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTERVAL = "95% stratified bootstrap interval"
#: What ``--output`` may end in, and what is written if it ends in none.
FORMATS, DEFAULT_FORMATS = (".png", ".pdf", ".svg"), (".png", ".pdf")

# Okabe and Ito's colours, which remain apart under colour blindness. The markers tell methods apart without
# any colour, and there are as many.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#BBBBBB"
#: So many rows of points are drawn in a panel, the best ones.
MAX_POINTS = 30

#: By line: its colour and marker, the same in every panel. A line that has none is one of many in grey.
Styles = Mapping[Settings, Mapping[str, Any]]
#: A panel: its environment and settings.
Key = tuple[str, Settings]


class Line(NamedTuple):
    """What is drawn at a place.

    Attributes:
        x: environment steps or values of a setting [N].
        estimates: at each of them [N].
        seeds: how many.
    """

    x: Sequence[float]
    estimates: Sequence[Estimate]
    seeds: int


def line_styles(best_first: Sequence[Settings], lines: Sequence[Settings]) -> Styles:
    """Colours and markers: one for each line, a scale for values of one number, or the best in colour.

    Args:
        best_first: all lines by merit.
        lines: all lines, in the order in which the legend has them.
    """
    from matplotlib import colormaps

    numbers = all(len(line) == 1 and is_number(line[0][1]) for line in lines)
    if numbers and 2 < len(lines) <= MAX_SCALE:
        colors = [colormaps["viridis"](x) for x in np.linspace(0, 0.9, len(lines))]
    else:
        colors = COLORS
        if len(lines) > len(COLORS):
            best = set(best_first[: len(COLORS)])
            lines = [line for line in lines if line in best]
    return {
        line: {"color": color, "marker": MARKERS[i % len(MARKERS)]}
        for i, (line, color) in enumerate(zip(lines, colors, strict=False))
    }


def draw_lines(
    lines: Mapping[Place, Line],
    styles: Styles,
    *,
    x_label: str,
    y_label: str,
    one_scale: bool,
    ticks: bool,
    chosen: Sequence[str] = (),
) -> Figure:
    """A panel for each environment and its settings, in it a line with its interval for each method.

    Args:
        lines: what is drawn.
        styles: of the lines; those that have none are drawn in grey, without an interval.
        x_label: what is on the abscissa.
        y_label: what is on the ordinate.
        one_scale: the ordinate is the same on all environments.
        ticks: the abscissa is a setting, of which each value is marked; else environment steps.
        chosen: settings of which the best value is drawn.
    """
    keys = _keys(lines)
    seeds = {line.seeds for line in lines.values()}
    names, entries = dict.fromkeys(place.line for place in lines), {}
    for name in names:
        if name in styles:
            mine = {line.seeds for place, line in lines.items() if place.line == name}
            entries[label(name) + (f" ({_seeds(mine)})" if len(seeds) > 1 else "")] = styles[name]
    if len(styles) < len(names):
        entries[f"the other {len(names) - len(styles)}"] = {"color": GREY}
    over = f"over {_seeds(seeds)}" if len(seeds) == 1 else "over seeds"
    intervals = "" if seeds == {1} else f", {INTERVAL}s"
    best = f", best {', '.join(chosen)} of each" if chosen else ""
    figure, panels = _grid(keys, entries, f"IQM {over}{intervals}{best}", one_scale)
    for axes in panels.values():
        # get_tick_params() has the names of the other axis up to Matplotlib 3.10.
        if axes.xaxis.get_major_ticks(1)[0].label1.get_visible():
            axes.set_xlabel(x_label, fontsize="small" if len(panels) > 9 else "medium")
    figure.supylabel(y_label, fontsize="medium")
    order = list(styles)
    for place, line in lines.items():
        axes, style = panels[place.env, place.panel], styles.get(place.line)
        middle, low, high = np.array(line.estimates).reshape(-1, 3).T
        if style is None:
            axes.plot(line.x, middle, color=GREY, linewidth=0.7, zorder=1)
            continue
        # A few markers per curve, and not at the same steps as on the other curves.
        gap = 1 if ticks else max(1, len(line.x) // 8)
        start = gap * order.index(place.line) // len(order)
        axes.plot(line.x, middle, markevery=(start, gap), markersize=4, linewidth=1.3, **style)
        axes.fill_between(line.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    for key, axes in panels.items():
        here = [line for place, line in lines.items() if (place.env, place.panel) == key]
        _abscissa(axes, sorted({x for line in here for x in line.x}), ticks, len(panels))
    return figure


def draw_scores(
    summaries: Mapping[Place, Summary], comparisons: Sequence[Comparison], styles: Styles, title: str
) -> Figure:
    """Points and intervals of final scores; below them, how probably one method is better than another.

    Few panels show all aggregates, many the IQM alone.
    """
    from matplotlib.figure import Figure

    keys, shown_ones = _keys(summaries), strongest(comparisons, MAX_PAIRS, MAX_PAIRS)
    rows = {key: _best_rows(summaries, key) for key in keys}
    names = list(AGGREGATES) if len(keys) <= 3 else list(AGGREGATES)[:1]
    panels = [(key, name) for key in keys for name in names]
    columns = len(names) if len(names) > 1 else _columns(keys)
    tall = [max(len(rows[key]) for key, _ in panels[i : i + columns]) for i in range(0, len(panels), columns)]
    heights = [0.55 + 0.24 * most for most in tall]
    below = 0.7 + 0.26 * len(shown_ones) if shown_ones else 0.0
    wide = _text_width(label(place.line) for place in summaries)
    figure = Figure(
        figsize=(min(14, max(7, wide + 2.1 * columns)), sum(heights) + below + 0.5), layout="constrained"
    )
    figure.suptitle(title, fontsize="medium")
    upper, lower = figure.subfigures(2, 1, height_ratios=[sum(heights), below]) if below else (figure, None)
    grid = upper.add_gridspec(len(heights), columns, height_ratios=heights)
    first: dict[str, Axes] = {}
    above, beside = _describe(keys, columns if len(names) == 1 else 1)
    for i, (key, name) in enumerate(panels):
        axes = upper.add_subplot(grid[divmod(i, columns)], sharex=first.get(key[0]))
        first.setdefault(key[0], axes)
        every = sum((place.env, place.panel) == key for place in summaries)
        best = f" (best {len(rows[key])} of {every})" if len(rows[key]) < every else ""
        which = f": {name}" if len(names) > 1 else ""
        _name(axes, above.get(key, "") + best + which, beside.get(key, ""), "small")
        points = [(label(p.line), summaries[p].estimates[name], styles.get(p.line, {})) for p in rows[key]]
        same = i % columns > 0 and [p.line for p in rows[key]] == [p.line for p in rows[panels[i - 1][0]]]
        _draw_points(axes, points)
        axes.tick_params(labelleft=not same)
    if lower is not None:
        axes = lower.add_subplot()
        some = f", highest {len(shown_ones)} of {len(comparisons)}" * (len(shown_ones) < len(comparisons))
        axes.set_title(f"probability of improvement P(X > Y){some}", fontsize="small")
        lines = {place.method: place.line for place in summaries}
        _draw_points(
            axes,
            [("  >  ".join(c.labels), c.estimate, styles.get(lines[c.method], {})) for c in shown_ones],
        )
        axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(-0.02, 1.02)
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
        return folder / name, DEFAULT_FORMATS
    if output.is_dir():
        return output / name, DEFAULT_FORMATS
    if output.suffix not in ("", *FORMATS):
        raise ConfigError(
            f"output={str(output)!r} must end in .png, .pdf or .svg, or in none of them to have the first two"
        )
    return output.with_suffix(""), (output.suffix,) if output.suffix else DEFAULT_FORMATS


def save_figure(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Writes a figure to ``stem`` with each ending; returns the files."""
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + ending) for ending in formats]
    for file in files:
        # Text remains text, which journals ask for.
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
            figure.savefig(file, dpi=150)
    return files


def _keys(places: Mapping[Place, Any]) -> list[Key]:
    return list(dict.fromkeys((place.env, place.panel) for place in places))


def _describe(keys: Sequence[Key], columns: int) -> tuple[dict[Key, str], dict[Key, str]]:
    """What stands above panels and beside them.

    Where all panels of a column have one value in common, and all of a row the rest, these are said once:
    above the first row, and to the right of the last column.
    """
    several = len({env for env, _ in keys}) > 1
    parts = [((("env", env),) if several or not panel else ()) + panel for env, panel in keys]
    in_columns = all(part[-1] == parts[i % columns][-1] for i, part in enumerate(parts))
    in_rows = all(part[:-1] == parts[i - i % columns][:-1] for i, part in enumerate(parts))
    wide = {1: 60, 2: 40, 3: 32}.get(columns, 26)
    if in_columns and in_rows and len(parts[0]) > 1 and columns > 1:
        above = {key: label(part[-1:]) for key, part in zip(keys[:columns], parts, strict=False)}
        last = range(columns - 1, len(keys), columns)
        return above, {keys[i]: textwrap.fill(label(parts[i][:-1]), 18) for i in last}
    above = zip(keys, parts, strict=True)
    return {key: textwrap.fill(label(part), wide, break_long_words=False) for key, part in above}, {}


def _name(axes: Axes, above: str, beside: str, size: str) -> None:
    axes.set_title(above, fontsize=size)
    axes.text(
        1.03, 0.5, beside, transform=axes.transAxes, rotation=270, ha="left", va="center", fontsize=size
    )


def _columns(keys: Sequence[Key]) -> int:
    """Panels in a row: rows are full and alike if that can be, and there are at most six."""
    total = len(keys)
    most = min(total, 6)
    wanted = (1.4 * total) ** 0.5
    last = {panel[-1] for _, panel in keys if panel} or {env for env, _ in keys}
    fitting = [c for c in range(1, most + 1) if total % c == 0 and c % len(last) == 0]
    fitting = fitting or [c for c in range(2, most + 1) if total % c == 0] or [most]
    return min(fitting, key=lambda c: abs(c - wanted))


def _grid(
    keys: Sequence[Key], entries: Mapping[str, Mapping[str, Any]], legend: str, one_scale: bool
) -> tuple[Figure, dict[Key, Axes]]:
    """Panels, and below them a legend."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = _columns(keys)
    rows = -(-len(keys) // columns)
    width = max(5.5, min(13, {1: 5.5, 2: 3.4, 3: 2.9}.get(columns, 2.15) * columns))
    height = {1: 2.9, 2: 2.4, 3: 2.1}.get(columns, 1.55)
    in_row = max(1, int(width / (_text_width(entries) + 0.55)))
    lines_of_legend = -(-len(entries) // in_row) + 1
    figure = Figure(figsize=(width, height * rows + 0.5 + 0.2 * lines_of_legend), layout="constrained")
    (above, beside), panels, first = _describe(keys, columns), {}, {}
    for i, key in enumerate(keys):
        scale = "" if one_scale else key[0]
        axes = figure.add_subplot(rows, columns, i + 1, sharex=first.get(key[0]), sharey=first.get(scale))
        first.setdefault(key[0], axes)
        first.setdefault(scale, axes)
        size = "medium" if columns <= 3 else "small"
        _name(axes, above.get(key, ""), beside.get(key, ""), size)
        axes.tick_params(labelsize=size)
        _frame(axes)
        panels[key] = axes
        axes.tick_params(
            labelleft=i % columns == 0 or not (one_scale or len({env for env, _ in keys}) == 1),
            labelbottom=i + columns >= len(keys) or len({env for env, _ in keys}) > 1,
        )
    figure.legend(
        [Line2D([], [], linewidth=1.3, markersize=4, **style) for style in entries.values()],
        list(entries),
        loc="outside lower center",
        title=legend,
        title_fontsize="small",
        fontsize="small",
        frameon=False,
        ncols=min(in_row, len(entries)),
    )
    return figure, panels


def _text_width(texts: Any) -> float:
    """Inches that the longest of some texts takes, in a small font."""
    return 0.075 * max(map(len, texts))


def _abscissa(axes: Axes, values: Sequence[float], ticks: bool, panels: int) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    if not ticks:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(4 if panels > 3 else 6))
        return
    if values[0] > 0 and values[-1] > 5 * values[0]:
        axes.set_xscale("log")
    axes.margins(x=0.12)  # or the outer labels of neighbouring panels would touch
    if len(values) <= 7:
        axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(float(value))))


def _best_rows(summaries: Mapping[Place, Summary], key: Key) -> list[Place]:
    """The places of a panel in their order; of very many, those with the highest IQM."""
    places = [place for place in summaries if (place.env, place.panel) == key]
    best = sorted(places, key=lambda place: -summaries[place].estimates["IQM"].value)[:MAX_POINTS]
    return places if len(places) <= MAX_POINTS else best


def _seeds(counts: set[int]) -> str:
    few, many = min(counts), max(counts)
    if many == 1:
        return "1 seed, no interval"
    return f"{few} seeds" if few == many else f"{few} to {many} seeds"


def _draw_points(axes: Axes, points: Sequence[tuple[str, Estimate, Mapping[str, Any]]]) -> None:
    for height, (_, estimate, style) in enumerate(points):
        color, marker = style.get("color", "#777777"), style.get("marker", "o")
        axes.plot([estimate.low, estimate.high], [height, height], color=color, linewidth=2)
        axes.plot(estimate.value, height, color=color, marker=marker, markersize=6)
    axes.set_yticks(range(len(points)), [name for name, *_ in points], fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    axes.set_ylim(len(points) - 0.5, -0.5)
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
