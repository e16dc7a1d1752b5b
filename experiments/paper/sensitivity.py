"""The section about learning rate, clip range and λ: response curves from the sweep `sensitivity.toml`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fp3o_jax.runs.drawing import COLORS, MARKERS
from fp3o_jax.runs.statistics import Estimate
from measured import of_seeds, save, table, text

SETTINGS = {"actor_lr": "learning rate", "clip_eps": "clip range", "gae_lambda": "λ"}
SCORE = "greedy_episode_return"
COMMAND = "fp3o sweep experiments/paper/sensitivity.toml --run-dir sweeps/sensitivity"


class Curve(NamedTuple):
    """The final scores of one algorithm × sharing, where one setting moves and the others stay.

    Attributes:
        values: of the setting.
        scores: at each of them.
        common: the value where the others' curves cross this one.
    """

    values: list[float]
    scores: list[Estimate]
    common: float

    @property
    def loss(self) -> float:
        """Between the best and the worst value."""
        middle = [score.value for score in self.scores]
        return max(middle) - min(middle)

    @property
    def best(self) -> float:
        return self.values[int(np.argmax([score.value for score in self.scores]))]


def read_curves(file: Path) -> dict[tuple[str, str, str], Curve]:
    """(sharing, algorithm, setting) -> its curve, from a sweep's `results.csv`.

    The point that all curves have in common is the first of the file.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["status"] == "finished"]
    base = {name: rows[0][name] for name in SETTINGS}
    curves = {}
    for sharing, algorithm in dict.fromkeys((row["sharing"], row["algorithm"]) for row in rows):
        mine = [row for row in rows if (row["sharing"], row["algorithm"]) == (sharing, algorithm)]
        for name in SETTINGS:
            others = [other for other in SETTINGS if other != name]
            line = [row for row in mine if all(row[other] == base[other] for other in others)]
            values = sorted({float(row[name]) for row in line})
            scores = [[float(row[SCORE]) for row in line if float(row[name]) == value] for value in values]
            estimates = [of_seeds(np.array(each)) for each in scores]
            curves[sharing, algorithm, name] = Curve(values, estimates, float(base[name]))
    return curves


def sensitivity_section(file: Path, figure: Path) -> list[str]:
    """What was found in a sentence, the curves, and the table behind them.

    Args:
        file: the sweep's `results.csv`; what is not there is not measured.
        figure: drawn here.
    """
    lines = ["### How much do learning rate, clip range and λ matter?", ""]
    command = f"By `{COMMAND}`, whose `results.csv` is kept beside the cells"
    if not file.exists():
        return [*lines, "Not measured yet.", "", f"{command}.", ""]
    curves = read_curves(file)
    methods = list(dict.fromkeys(key[:2] for key in curves))
    said = []
    for name, what in SETTINGS.items():
        losses = {method: curves[*method, name].loss for method in methods}
        most, least = (pick(losses, key=losses.get) for pick in (max, min))
        said.append(
            f"Between its best and its worst {what} {' '.join(reversed(least))} loses least "
            f"({losses[least]:.1f} of return) and {' '.join(reversed(most))} most ({losses[most]:.1f})."
        )
    draw(curves, figure)
    lines += [" ".join(said), "", f"![Final returns](figures/{figure.name})", ""]
    rows = []
    for sharing, algorithm in methods:
        row = [sharing, algorithm]
        for name in SETTINGS:
            curve = curves[sharing, algorithm, name]
            row += [f"{curve.best:g}", f"{curve.loss:.1f}"]
        rows.append([*row, text(curve.scores[curve.values.index(curve.common)])])
    head = [
        *("sharing", "method"),
        *(x for what in SETTINGS.values() for x in (f"best {what}", "best - worst")),
    ]
    lines += [*table(rows, [*head, "return at the common point"]), ""]
    return [*lines, f"{command}: IQM of three seeds and intervals; one setting moves at a time.", ""]


def draw(curves: dict[tuple[str, str, str], Curve], file: Path) -> None:
    """A row for each sharing, a column for each setting, a curve with its band for each algorithm."""
    from matplotlib.figure import Figure

    sharings, algorithms = (list(dict.fromkeys(key[i] for key in curves)) for i in (0, 1))
    figure = Figure(figsize=(3.4 * len(SETTINGS), 2.6 * len(sharings)), layout="constrained")
    panels = figure.subplots(len(sharings), len(SETTINGS), squeeze=False, sharex="col", sharey=True)
    handles = {}
    for (sharing, algorithm, name), curve in curves.items():
        axes = panels[sharings.index(sharing), list(SETTINGS).index(name)]
        style = algorithms.index(algorithm) % 7
        middle, low, high = np.array(curve.scores).T
        (line,) = axes.plot(curve.values, middle, color=COLORS[style], marker=MARKERS[style], markersize=4)
        axes.fill_between(curve.values, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        handles[algorithm] = line
        axes.set_title(f"sharing: {sharing}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if name != "gae_lambda":
            axes.set_xscale("log")
        axes.set_xticks(curve.values, [f"{value:g}" for value in curve.values])
        axes.minorticks_off()
    for axes, what in zip(panels[-1], SETTINGS.values(), strict=True):
        axes.set_xlabel(what)
    for row in panels:
        row[0].set_ylabel("final return, greedy")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, file)
