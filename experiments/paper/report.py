"""Makes the tables and figures of `docs/results.md` from the finished cells.

    python experiments/paper/report.py

Replaces what stands between the page's two markers, and draws one figure for each environment beside it.
What is not finished is shown as missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from cells import PROTOCOL, Cell, read_protocol
from fp3o_jax.runs.drawing import COLORS, INTERVAL, MARKERS
from fp3o_jax.runs.statistics import (
    Estimate,
    iqm,
    pooled,
    probability_of_improvement,
    stratified_bootstrap,
)
from store import RESULTS, Store, source

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
BEGIN, END = "<!-- report.py: begin -->", "<!-- report.py: end -->"
#: Win rates, the env steps to which are told.
LEVELS = (0.5, 0.9)
OTHER = "†"


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the results are and where the page goes."""

    store: Path = RESULTS
    """folder of the results"""
    protocol: Path = PROTOCOL
    """the cells"""
    page: Path = PAGE
    """the page; its figures go to the folder `figures` beside it"""


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


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def score_table(group: Sequence[Measured], here: str) -> list[str]:
    """One line for each cell of an environment."""
    done = [m for m in group if m.result]
    devices = {m.result["device"] for m in done}
    seconds = min(m.train_seconds for m in done) if len(devices) == 1 else None
    head = ["sharing", "method", "seeds", "final, greedy", "mean of all evaluations"]
    head += [f"steps to win rate {level:g}" for level in LEVELS] if done[0].metric == "win_rate" else []
    head += [f"score after {seconds:.0f} s"] if seconds else []
    head += ["joint KL", "highest", "condition held", "ms an update", "code"]
    rows = []
    for m in group:
        line = [m.cell.sharing, m.cell.method]
        if not m.result:
            rows.append([*line, "missing", *[""] * (len(head) - 3)])
            continue
        stopped = len(m.result["stopped"])
        line += [f"{len(m.final)}" + (f", {stopped} ceased to be finite" if stopped else "")]
        line += [text(of_seeds(m.final)), text(of_seeds(m.evaluations[1].mean(1)))]
        line += [steps_text(m, level) for level in LEVELS] if m.metric == "win_rate" else []
        line += [text(of_seeds(m.at_seconds(seconds)))] if seconds else []
        held = m.curve("condition_held")
        line += [f"{np.nanmean(m.curve('joint_kl')):.3g}", f"{np.nanmax(m.curve('joint_kl_max')):.3g}"]
        line += ["-" if np.isnan(held).all() else f"{100 * np.nanmean(held):.1f}%"]
        line += [f"{1e3 * m.result['seconds']['per_update']:.1f}"]
        line += [(m.result["commit"] or "unknown")[:7] + OTHER * (m.result["source"] != here)]
        rows.append(line)
    return table(rows, head)


def comparisons(groups: dict[str, list[Measured]], first: str = "fp3o") -> list[str]:
    """P(first > other) for each sharing, of final scores and of the mean of all evaluations.

    Over all environments that both have finished; each counts the same.
    """
    everyone = [m for group in groups.values() for m in group]
    done = {(env, m.cell.sharing, m.cell.method): m for env, g in groups.items() for m in g if m.result}
    rows = []
    for sharing in dict.fromkeys(m.cell.sharing for m in everyone):
        for other in dict.fromkeys(m.cell.method for m in everyone if m.cell.method != first):
            envs = [e for e in groups if (e, sharing, first) in done and (e, sharing, other) in done]
            if not envs:
                continue
            pairs = [(done[e, sharing, first], done[e, sharing, other]) for e in envs]
            line = [sharing, other, str(len(envs))]
            for score in (lambda m: m.final, lambda m: m.evaluations[1].mean(1)):
                x, y = ([score(pair[side]) for pair in pairs] for side in (0, 1))
                line += judged(stratified_bootstrap(probability_of_improvement, x, y))
            rows.append(line)
    if not rows:
        return ["No pair of methods is finished yet."]
    what = ["final, greedy", "", "mean of all evaluations", ""]
    return table(rows, ["sharing", f"{first} against", "environments", *what])


def judged(estimate: Estimate) -> list[str]:
    """An estimate of P(X > Y) and what it allows to say."""
    if estimate.low > 0.5:
        verdict = "better"
    elif estimate.high < 0.5:
        verdict = "worse"
    else:
        verdict = "not told apart"
    return [text(estimate), verdict]


def draw(group: Sequence[Measured], file: Path) -> None:
    """A panel for each sharing, a curve for each method: greedy evaluations while training."""
    import matplotlib
    from matplotlib.figure import Figure

    done = [m for m in group if m.result]
    sharings = list(dict.fromkeys(m.cell.sharing for m in done))
    methods = list(dict.fromkeys(m.cell.method for m in group))
    figure = Figure(figsize=(3.2 * max(2, len(sharings)), 3.2), layout="constrained")
    handles = {}
    panels = figure.subplots(1, len(sharings), squeeze=False, sharey=True)[0]
    for axes, sharing in zip(panels, sharings, strict=True):
        for m in done:
            if m.cell.sharing != sharing:
                continue
            style = methods.index(m.cell.method)
            steps, scores = m.evaluations
            middle, low, high = np.array([of_seeds(at) for at in scores.T]).T
            (line,) = axes.plot(
                steps / 1e6, middle, color=COLORS[style % 7], marker=MARKERS[style % 7], markersize=4
            )
            axes.fill_between(steps / 1e6, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
            handles.setdefault(m.cell.method, line)
        axes.set_title(f"sharing: {sharing}", fontsize="medium")
        axes.set_xlabel("millions of env steps")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{done[0].metric.replace('_', ' ')}, greedy")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=7, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "results"}):
        # No date or version in the file: the same results make the same bytes.
        figure.savefig(file, dpi=100, metadata={"Software": None})


def grouped(options: Options) -> tuple[dict[str, list[Measured]], list[str]]:
    """Cells by environment, those of the small budgets where any is finished; and results of no cell."""
    results = Store(options.store).results()
    groups: dict[str, list[Measured]] = {}
    for small in (False, True):
        for cell in read_protocol(options.protocol, small):
            measured = Measured(cell, results.pop(cell.name, None))
            groups.setdefault(cell.env + ", small" * small, []).append(measured)
    done = {env: g for env, g in groups.items() if any(m.result for m in g) or not g[0].cell.small}
    return done, sorted(results)


def section(env: str, group: Sequence[Measured], figure: Path, here: str) -> list[str]:
    """The text about one environment that has any result."""
    done = [m for m in group if m.result]
    cell, devices = done[0].cell, sorted({m.result["device"] for m in done})
    config = cell.config
    width = config.hidden_size if config.hidden_sizes is None else config.hidden_sizes
    lines = [f"### {env}", ""]
    lines += [
        f"{config.total_env_steps:,} env steps a seed ({config.num_updates} updates of {config.num_envs} x "
        f"{config.rollout_length}), {len(done[0].final)} seeds, {'GRU' if config.recurrent else 'MLP'} "
        f"{width}; on {', '.join(devices)}.",
        "",
        f"![Greedy scores while training on {env}](figures/{figure.name})",
        "",
    ]
    return [*lines, *score_table(group, here), ""]


def generate(options: Options) -> str:
    """What stands between the markers; draws the figures."""
    groups, others = grouped(options)
    here = source()
    everyone = [m for group in groups.values() for m in group]
    finished = [m for m in everyone if m.result]
    lines = [f"{len(finished)} of {len(everyone)} cells are finished.", ""]
    rows = []
    for env, group in groups.items():
        missing = [f"{m.cell.method} {m.cell.sharing}" for m in group if not m.result]
        rows.append([env, str(len(group) - len(missing)), ", ".join(missing) or "none"])
    lines += [*table(rows, ["environment", "finished", "missing"]), ""]
    if any(m.result["source"] != here for m in finished):
        lines += [f"{OTHER}: measured with other code than that of `src/` beside this page.", ""]
    if others:
        lines += [f"Not in the tables, since the protocol has other settings now: {', '.join(others)}.", ""]
    full = {env: g for env, g in groups.items() if not g[0].cell.small}
    for title, some in (("### FP3O against the others", full), ("### The same, small budgets", None)):
        some = some or {env: g for env, g in groups.items() if g[0].cell.small}
        if any(m.result for g in some.values() for m in g):
            lines += [title, "", *comparisons(some), ""]
    for env, group in groups.items():
        if any(m.result for m in group):
            name = env.replace("/", "-").replace("|", "_").replace(", ", "-")
            figure = options.page.parent / "figures" / f"results-{name}.png"
            draw(group, figure)
            lines += section(env, group, figure, here)
    return "\n".join(lines)


def main(options: Options) -> None:
    page = options.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    options.page.write_text(f"{before}{BEGIN}\n\n{generate(options)}\n{END}{after}", encoding="utf-8")
    print(f"written to {options.page}; intervals are {INTERVAL}s")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
