"""The sections about what FP3O is made of: variants beside the one that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fp3o_jax.runs.drawing import COLORS, MARKERS
from fp3o_jax.runs.statistics import probability_of_improvement, stratified_bootstrap
from measured import Measured, judged, number, of_seeds, save, seeds_text, table, text

HEAD = (
    *("environment", "sharing", "method", "seeds", "final, greedy", "P(better)", ""),
    *("mean of all evaluations", "P(better)", "", "joint KL", "condition held"),
)
#: What is compared, by name.
SCORES: dict[str, Callable[[Measured], np.ndarray]] = {
    "the final score": lambda m: m.final,
    "the mean of all evaluations": lambda m: m.evaluations[1].mean(1),
}


def question_section(question: str, group: Sequence[Measured], figure: Path) -> list[str]:
    """A question, its answer so far in a sentence, a figure and the table behind it.

    Args:
        question: in words.
        group: its cells; the first method of all is what the others are compared with.
        figure: drawn here if anything is finished.
    """
    done = [m for m in group if m.result]
    lines = [f"### {question}", ""]
    lines += [answer(group), ""]
    if not any(compared(group, score) for score in SCORES):
        return lines
    draw_dots(done, figure)
    lines += [f"![Final scores](figures/{figure.name})", ""]
    verdicts = {name: {id(m): verdict for m, verdict in compared(group, name)} for name in SCORES}
    rows = []
    for m in done:
        line = [where(m), m.cell.sharing, m.cell.method, seeds_text(m)]
        for name, score in SCORES.items():
            line += [text(of_seeds(score(m))), *verdicts[name].get(id(m), ["", ""])]
        held = m.curve("condition_held")
        line += [number(float(np.nanmean(m.curve("joint_kl"))))]
        rows.append([*line, "-" if np.isnan(held).all() else f"{100 * np.nanmean(held):.1f}%"])
    return [*lines, *table(rows, HEAD), ""]


def where(m: Measured) -> str:
    """The environment, the size of its team where that is chosen, and whether the cell is a small one."""
    team = f", n = {m.cell.num_agents}" if m.cell.num_agents else ""
    return m.cell.env + team + ", small" * m.cell.small


def compared(group: Sequence[Measured], score: str) -> list[tuple[Measured, list[str]]]:
    """Each finished cell of another method beside that of the first method: P(a seed scores higher)."""
    first, of = group[0].cell.method, SCORES[score]
    done = [m for m in group if m.result]
    base = {(where(m), m.cell.sharing): m for m in done if m.cell.method == first}
    pairs = [(m, base.get((where(m), m.cell.sharing))) for m in done if m.cell.method != first]
    return [
        (m, judged(stratified_bootstrap(probability_of_improvement, [of(m)], [of(other)])))
        for m, other in pairs
        if other is not None
    ]


def answer(group: Sequence[Measured]) -> str:
    """In a sentence for each score, from what the intervals allow to say."""
    first, said = group[0].cell.method, []
    for score in SCORES:
        verdicts = [
            (f"{m.cell.method} ({where(m)}, {m.cell.sharing})", v) for m, (_, v) in compared(group, score)
        ]
        if not verdicts:
            return "Not measured yet."
        told = {v: [name for name, each in verdicts if each == v] for v in ("better", "worse")}
        parts = [f"**{verdict}**: {', '.join(names)}" for verdict, names in told.items() if names]
        parts += ["the others are not told apart" if parts else "**none is told apart**"]
        compared_with = f"{len(verdicts)} comparison{'s' * (len(verdicts) > 1)} with `{first}`"
        said.append(f"By {score}, of {compared_with}, {'; '.join(parts)}.")
    missing = sum(m.result is None for m in group)
    return " ".join(
        [*said, f"{missing} cell{'s are' if missing > 1 else ' is'} missing." * bool(missing)]
    ).strip()


def draw_dots(done: Sequence[Measured], file: Path) -> None:
    """A panel for each environment: final scores with their intervals, by sharing; a colour is a method."""
    from matplotlib.figure import Figure

    envs, methods = (list(dict.fromkeys(each)) for each in (map(where, done), (m.cell.method for m in done)))
    sharings = list(dict.fromkeys(m.cell.sharing for m in done))
    figure = Figure(figsize=(3.6 * max(2, len(envs)), 3.0), layout="constrained")
    handles = {}
    for axes, env in zip(figure.subplots(1, len(envs), squeeze=False)[0], envs, strict=True):
        for m in done:
            if where(m) != env:
                continue
            style, estimate = methods.index(m.cell.method), of_seeds(m.final)
            place = sharings.index(m.cell.sharing) + 0.6 * ((style + 0.5) / len(methods) - 0.5)
            spread = np.nan_to_num([[estimate.value - estimate.low], [estimate.high - estimate.value]])
            handles[m.cell.method] = axes.errorbar(
                [place], [estimate.value], spread, fmt=MARKERS[style % 7], color=COLORS[style % 7], capsize=2
            )
        axes.set_xticks(range(len(sharings)), sharings)
        axes.set_title(env, fontsize="medium")
        axes.grid(alpha=0.3, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("final score, greedy")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, file)


def signs_section(group: Sequence[Measured], figure: Path) -> list[str]:
    """What tells of seeds that fail, and of steps that the theory has no word for, in all that is finished.

    Joint KL is taken of each of a curve's points (the mean of its updates), the highest of single updates.
    """
    done = [m for m in group if m.result]
    draw_signs(done, figure)
    lines = ["### How often does training leave what the theory speaks of, and which seeds fail?", ""]
    rows, held = [], []
    for sharing, method in dict.fromkeys((m.cell.sharing, m.cell.method) for m in done):
        mine = [m for m in done if (m.cell.sharing, m.cell.method) == (sharing, method)]
        kl = np.concatenate([m.curve("joint_kl").ravel() for m in mine])
        condition = np.concatenate([m.curve("condition_held").ravel() for m in mine])
        held.append(condition[np.isfinite(condition)])
        spread = np.mean([_spread(m.final, m.evaluations[1]) for m in mine])
        highest = max(np.nanmax(m.curve("joint_kl_max")) for m in mine)
        stopped = sum(len(m.result["stopped"]) for m in mine)
        line = [sharing, method, str(len(mine)), *map(number, [*np.nanpercentile(kl, [50, 99]), highest])]
        line += [f"{100 * held[-1].mean():.2f}%" if len(held[-1]) else "-", f"{100 * spread:.0f}%"]
        rows.append([*line, f"{stopped} of {sum(len(m.final) for m in mine)}"])
    together = np.concatenate([*held, []])
    if len(together):
        lines += [
            f"FP3O's condition held in {100 * together.mean():.2f}% of all updates; in the others its "
            "dependent step was left out. The theory also bounds the size of steps, which training does not: "
            "the joint KL tells it.",
            "",
        ]
    largest = max(done, key=lambda m: np.nanmedian(m.curve("joint_kl")))
    median = number(float(np.nanmedian(largest.curve("joint_kl"))))
    lines += [
        f"Policies drift most on {where(largest)} ({largest.cell.method}, sharing {largest.cell.sharing}), "
        f"by a median joint KL of {median} in an update.",
        *("", f"![Joint KL of an update](figures/{figure.name})", ""),
    ]
    head = ["sharing", "method", "environments", "joint KL, median", "99th percentile", "highest"]
    head += ["condition held", "spread of seeds", "ceased to be finite"]
    lines += [*table(rows, head), ""]
    return [
        *lines,
        "The spread is the interquartile range of final scores over the range of all scores met. Teams of "
        "growing size are not among these cells: their section has the same numbers.",
        "",
    ]


def draw_signs(done: Sequence[Measured], file: Path, most: int = 4) -> None:
    """A panel for each sharing: the joint KL of updates on each environment, median and 99th percentile, of
    the methods with ``most`` cells at least."""
    from matplotlib.figure import Figure

    sharings = list(dict.fromkeys(m.cell.sharing for m in done))
    envs = list(dict.fromkeys(map(where, done)))
    named = [m.cell.method for m in done]
    methods = [name for name in dict.fromkeys(named) if named.count(name) >= most] or list(
        dict.fromkeys(named)
    )
    figure = Figure(figsize=(3.2 * max(2, len(sharings)), 1.6 + 0.3 * len(envs)), layout="constrained")
    handles = {}
    panels = figure.subplots(1, len(sharings), squeeze=False, sharex=True, sharey=True)[0]
    for axes, sharing in zip(panels, sharings, strict=True):
        for m in done:
            if m.cell.sharing != sharing or m.cell.method not in methods:
                continue
            style = methods.index(m.cell.method)
            middle, high = np.nanpercentile(m.curve("joint_kl"), [50, 99])
            place = envs.index(where(m)) + 0.6 * ((style + 0.5) / len(methods) - 0.5)
            handles[m.cell.method] = axes.errorbar(
                *([middle], [place]),
                xerr=[[0], [high - middle]],
                fmt=MARKERS[style % 7],
                color=COLORS[style % 7],
            )
        axes.set_title(f"sharing: {sharing}", fontsize="medium")
        axes.set_xscale("symlog", linthresh=1e-3)
        axes.set_xlabel("joint KL of an update")
        axes.set_yticks(range(len(envs)), envs)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False)
    save(figure, file)


def _spread(final: np.ndarray, evaluations: np.ndarray) -> float:
    low, high = np.percentile(final, [25, 75])
    scale = max(evaluations.max(), final.max()) - min(evaluations.min(), final.min())
    return float((high - low) / scale) if scale > 0 else 0.0
