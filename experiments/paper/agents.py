"""The section about teams of growing size: the spread of log W, the condition, scores, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fp3o_jax.runs.drawing import COLORS, MARKERS
from measured import Measured, number, of_seeds, save, seeds_text, table, text
from questions import answer, where

HEAD = (
    *("environment", "sharing", "method", "updates", "seeds", "final, greedy", "std of log W", "exp(-std²)"),
    *("condition held", "joint KL", "ms an update and seed", "MiB of the program"),
)
COMMAND = "python experiments/paper/run.py --protocol experiments/paper/many_agents.toml --alone --minutes 30"


def agents_section(question: str, group: Sequence[Measured], figure: Path) -> list[str]:
    """A question about large teams: what was found in sentences, a figure, the table, and what is missing.

    Args:
        question: in words.
        group: cells of teams of several sizes; the first method is what the others are compared with.
        figure: drawn here if anything is finished.
    """
    lines = [f"### {question}", "", f"`{COMMAND}` runs what is missing.", ""]
    done = [m for m in group if m.result]
    if not done:
        return [*lines, "Not measured yet.", ""]
    missing = [f"{where(m)}, {m.cell.sharing}, {m.cell.method}" for m in group if not m.result]
    lines += [" ".join([*grown(done), answer(group)]), ""]
    draw_teams(done, figure)
    lines += [f"![What grows with the team](figures/{figure.name})", ""]
    rows = [row(m) for m in sorted(done, key=lambda m: (m.cell.env, m.cell.num_agents, m.cell.sharing))]
    lines += [*table(rows, HEAD), ""]
    lines += [
        "Means over all updates. Where log W is normal, samples weighed by W "
        "are as good as a share of exp(-std²) of them. Memory is XLA's count for all seeds together."
    ]
    return [*lines, *(["", f"Missing: {'; '.join(missing)}."] if missing else []), ""]


def spread(m: Measured) -> float:
    """Mean over seeds and updates of the standard deviation of log W."""
    return float(np.nanmean(m.curve("log_weight_std")))


def milliseconds(m: Measured) -> float:
    """Of an update and a seed."""
    return 1e3 * m.result["seconds"]["per_update"] / len(m.final)


def row(m: Measured) -> list[str]:
    """Of the table."""
    held, std = m.curve("condition_held"), spread(m)
    return [
        *(where(m), m.cell.sharing, m.cell.method, str(m.result["updates"]), seeds_text(m)),
        text(of_seeds(m.final)),
        *([number(std), number(float(np.exp(-(std**2))))] if std > 0 else ["-", "-"]),
        "-" if np.isnan(held).all() else f"{100 * np.nanmean(held):.1f}%",
        *(number(float(np.nanmean(m.curve("joint_kl")))), number(milliseconds(m))),
        number(m.result["bytes"] / 2**20) if m.result.get("bytes") else "-",
    ]


def grown(done: Sequence[Measured]) -> list[str]:
    """For each environment and sharing in a sentence: the first method's smallest team beside its largest."""
    first, said = done[0].cell.method, []
    for env, sharing in dict.fromkeys((m.cell.env, m.cell.sharing) for m in done):
        mine = [m for m in done if (m.cell.env, m.cell.sharing, m.cell.method) == (env, sharing, first)]
        if len(mine) < 2:
            continue
        small, large = (pick(mine, key=lambda m: m.cell.num_agents) for pick in (min, max))
        held = np.nanmean(large.curve("condition_held"))
        per_agent = [milliseconds(m) / m.cell.num_agents for m in mine]
        times = [each / (milliseconds(small) / small.cell.num_agents) for each in per_agent]
        stds = f"from {number(spread(small))} to {number(spread(large))}"
        said.append(
            f"On {env}, sharing {sharing}, from {small.cell.num_agents} to {large.cell.num_agents} agents "
            f"the std of {first}'s log W went {stds}, the time of an agent's update was at most "
            f"{max(times):.2f} times the smallest team's, and the condition then held "
            f"in {100 * held:.0f}% of updates."
        )
    return said


def draw_teams(done: Sequence[Measured], file: Path) -> None:
    """A column for each environment; spread of log W, score and time against the size of the team."""
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(m.cell.env for m in done))
    methods = list(dict.fromkeys(m.cell.method for m in done))
    sharings = list(dict.fromkeys(m.cell.sharing for m in done))
    told = (
        ("std of log W", spread),
        ("final score, greedy", lambda m: of_seeds(m.final).value),
        ("ms an update and seed", milliseconds),
    )
    figure = Figure(figsize=(3.6 * max(2, len(envs)), 7.2), layout="constrained")
    panels, handles = figure.subplots(len(told), len(envs), squeeze=False, sharex="col"), {}
    for column, env in enumerate(envs):
        sizes = sorted({m.cell.num_agents for m in done if m.cell.env == env})
        for line, (name, of) in enumerate(told):
            axes = panels[line, column]
            for method, sharing in dict.fromkeys((m.cell.method, m.cell.sharing) for m in done):
                what = (env, method, sharing)
                mine = [m for m in done if (m.cell.env, m.cell.method, m.cell.sharing) == what]
                mine = [m for m in mine if line or spread(m) > 0]
                if not mine:
                    continue
                style = methods.index(method) % 7
                (drawn,) = axes.plot(
                    [m.cell.num_agents for m in mine],
                    [of(m) for m in mine],
                    color=COLORS[style],
                    marker=MARKERS[style],
                    linestyle=("-", "--", ":")[sharings.index(sharing) % 3],
                )
                handles[f"{method}, {sharing}"] = drawn
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axes.set_ylabel(name)
            if line != 1:
                axes.set_yscale("log")
        panels[0, column].set_title(env, fontsize="medium")
        panels[-1, column].set_xlabel("agents")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, file)
