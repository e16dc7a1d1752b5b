"""What the pipelines cost: updates of FP3O, MAPPO and HAPPO at equal epochs per stage, as teams grow.

    python benchmarks/pipelines.py
    python benchmarks/pipelines.py --mode full --figure pipelines.png

FP3O has two stages that own every agent, MAPPO one, HAPPO one for each agent that owns it alone. An update of
each runs on the same random data, an equal number of samples for each agent, feed-forward networks, one
minibatch; critics see a state of each agent's own and of fixed size, so that the work per agent does not
depend on the size of the team. The three take turns, with one another and with those of the smallest team:
growth is the time per agent as a multiple of that team's.

A long measurement can be made in parts, say a sharing at a time: ``--earlier PART.json ...`` takes over the
rows of earlier runs, and measures what they lack.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from harness import Options, Ratio, Report, take_turns
from random_team import Sizes, random_update

ALGORITHMS = ("fp3o", "mappo", "happo")
QUICK = (2, 16)
FULL = (2, 4, 8, 16, 32, 64, 128)
SHARINGS = {"quick": ("full", "none"), "full": ("full", "partial", "none")}
# FP3O's two steps are the 2.
COST_GOAL = 2.1
FLAT_GOAL = 0.2
# Steps of a rollout; of quick and full mode.
STEPS = {"quick": 50, "full": 400}
STYLES = {"fp3o": ("o", "-"), "mappo": ("s", "--"), "happo": ("^", ":")}


@dataclasses.dataclass(frozen=True)
class Pipelines(Options):
    """What to measure."""

    agents: tuple[int, ...] = ()
    """sizes of the team; by default 2 and 16, in full mode 2 to 128"""
    sharings: tuple[str, ...] = ()
    """parameter sharing; by default full and none, in full mode partial too"""
    rollout_length: int | None = None
    """steps of a rollout; by default 50, in full mode 400"""
    num_envs: int = 8
    """environments; with the steps, the samples of each agent"""
    hidden_size: int = 64
    """width of every layer"""
    epochs: int = 5
    """epochs of each stage"""
    rounds: int = 5
    """timed updates of each algorithm"""
    earlier: tuple[Path, ...] = ()
    """JSON of earlier runs, whose rows are taken over"""
    figure: Path | None = None
    """where a figure of the time per agent goes"""


def sizes_of(options: Pipelines, num_agents: int) -> Sizes:
    return Sizes(
        num_agents=num_agents,
        rollout_length=options.rollout_length or STEPS[options.mode],
        num_envs=options.num_envs,
        hidden_size=options.hidden_size,
        epochs=options.epochs,
    )


class Teams:
    """The compiled updates of one sharing, by the size of the team and the algorithm."""

    def __init__(self, options: Pipelines, sharing: str):
        self.options, self.sharing = options, sharing
        self.agents = options.agents or (QUICK if options.mode == "quick" else FULL)

    @functools.cached_property
    def _smallest(self) -> dict[str, tuple[Any, float]]:
        """Used again and again, and made when a row is first measured: all may come from earlier runs."""
        return self._make(min(self.agents))

    def _make(self, num_agents: int) -> dict[str, tuple[Any, float]]:
        sizes = sizes_of(self.options, num_agents)
        return {name: random_update(name, self.sharing, sizes) for name in ALGORITHMS}

    def measure(self, num_agents: int) -> dict[str, Any]:
        """One row: milliseconds of each algorithm's update per agent, its growth, and ratios to MAPPO's."""
        least, small = min(self.agents), self._smallest
        made = small if num_agents == least else self._make(num_agents)
        programs = {(name, least): update for name, (update, _) in small.items()}
        programs |= {(name, num_agents): update for name, (update, _) in made.items()}
        times = take_turns(programs, self.options.rounds)
        own = {name: times[name, num_agents] for name in ALGORITHMS}
        row: dict[str, Any] = {"sharing": self.sharing, "agents": num_agents}
        row |= {f"{name}_ms": 1e3 * own[name].median / num_agents for name in ALGORITHMS}
        row |= {f"{name}_over_mappo": own[name].over(own["mappo"]) for name in ("fp3o", "happo")}
        row |= {
            f"{name}_growth": own[name].over(times[name, least], each=num_agents / least)
            for name in ALGORITHMS
        }
        row["compile_s"] = sum(seconds for _, seconds in made.values())
        return row


def read(paths: tuple[Path, ...]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of earlier runs by sharing and number of agents."""
    rows = {}
    for path in paths:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            row |= {name: Ratio(**value) for name, value in row.items() if isinstance(value, dict)}
            rows[row["sharing"], row["agents"]] = row
    return rows


def judge(rows: list[dict[str, Any]], report: Report) -> None:
    """Says of one sharing whether FP3O's goals were met."""
    cost = max(rows, key=lambda row: row["fp3o_over_mappo"].median)
    growth = [row["fp3o_growth"].median - 1.0 for row in rows]
    far = max(growth, key=abs)
    report.note(
        f"{rows[0]['sharing']}: FP3O costs at most {cost['fp3o_over_mappo']} times MAPPO "
        f"(n = {cost['agents']}), goal of {COST_GOAL} "
        f"{'met' if cost['fp3o_over_mappo'].median <= COST_GOAL else 'missed'}; its time per agent moves by "
        f"{min(growth):+.0%} to {max(growth):+.0%}, goal of ±{FLAT_GOAL:.0%} "
        f"{'met' if abs(far) <= FLAT_GOAL else 'missed'}"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time per agent against the size of the team: a panel per sharing, a line per algorithm."""
    # Only here, so that measuring does without it.
    from matplotlib.figure import Figure

    sharings = list(dict.fromkeys(row["sharing"] for row in rows))
    figure = Figure(figsize=(3.2 * len(sharings) + 0.6, 3.0), layout="constrained")
    axes = figure.subplots(1, len(sharings), sharey=True, squeeze=False)[0]
    for axis, sharing in zip(axes, sharings, strict=True):
        mine = [row for row in rows if row["sharing"] == sharing]
        agents = [row["agents"] for row in mine]
        for name in ALGORITHMS:
            marker, line = STYLES[name]
            growth = [row[f"{name}_growth"] for row in mine]
            middle = np.array([ratio.median for ratio in growth])
            extremes = np.array([[ratio.low, ratio.high] for ratio in growth]).T
            axis.errorbar(
                agents,
                middle,
                np.abs(extremes - middle),
                marker=marker,
                linestyle=line,
                capsize=2,
                label=name.upper(),
            )
        axis.set_xscale("log", base=2)
        axis.axhspan(1.0 - FLAT_GOAL, 1.0 + FLAT_GOAL, color="0.9", zorder=0)
        axis.set_xticks(agents, [str(n) for n in agents])
        axis.set_title(f"sharing: {sharing}")
        axis.set_xlabel("agents")
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("time per agent,\nmultiple of the smallest team's")
    # Outside: no line may hide behind it.
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(options: Pipelines) -> None:
    report = Report("pipelines", "What the pipelines cost: ms of an update per agent", options)
    sizes = sizes_of(options, 1)
    report.note(
        f"{sizes.rollout_length * sizes.num_envs} samples per agent, width {sizes.hidden_size}, "
        f"{sizes.epochs} epochs per stage; growth: time per agent as a multiple of the smallest team's"
    )
    earlier, rows = read(options.earlier), []
    for sharing in options.sharings or SHARINGS[options.mode]:
        teams, mine = Teams(options, sharing), []
        for num_agents in teams.agents:
            row = earlier.get((sharing, num_agents)) or teams.measure(num_agents)
            report.add(**row)
            mine.append(row)
        judge(mine, report)
        rows += mine
    report.show()
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main(tyro.cli(Pipelines, description=__doc__))
