"""Makes the tables and figures of `docs/results.md` from the finished cells.

    python experiments/paper/report.py

Replaces what stands between the page's two markers, and draws one figure for each environment beside it.
What is not finished is shown as missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from agents import agents_section
from cells import AGENTS, PROTOCOL, SMALL, read_blocks
from fp3o_jax.runs.drawing import COLORS, INTERVAL, MARKERS
from fp3o_jax.runs.statistics import probability_of_improvement, stratified_bootstrap
from measured import Measured, judged, of_seeds, save, seeds_text, steps_text, table, text
from questions import question_section, signs_section
from sensitivity import sensitivity_section
from store import RESULTS, Store, source
from tuning import tuning_section

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
PERFORMANCE = PAGE.with_name("performance.md")
BEGIN, END = "<!-- report.py: begin -->", "<!-- report.py: end -->"
#: Win rates, the env steps to which are told.
LEVELS = (0.5, 0.9)
OTHER = "†"
HOW = (
    "Where a section names no command, `python experiments/paper/run.py --minutes 60` runs what is missing "
    "of its cells, and then, with `--protocol experiments/paper/two_cores.toml`, the small ones."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the results are and where the page goes."""

    store: Path = RESULTS
    """folder of the results"""
    protocol: Path = PROTOCOL
    """the cells"""
    small: Path = SMALL
    """those for two CPU cores"""
    agents: Path = AGENTS
    """the cells of large teams"""
    page: Path = PAGE
    """the page; its figures go to the folder `figures` beside it"""


def score_table(group: Sequence[Measured], here: str) -> list[str]:
    """One line for each cell of an environment; of small ones, which run beside other work, no times."""
    done = [m for m in group if m.result]
    timed = not group[0].cell.small
    one_device = len({m.result["device"] for m in done}) == 1
    seconds = min(m.train_seconds for m in done) if timed and one_device else None
    head = ["sharing", "method", "seeds", "final, greedy", "mean of all evaluations"]
    head += [f"steps to win rate {level:g}" for level in LEVELS] if done[0].metric == "win_rate" else []
    head += [f"score after {seconds:.0f} s"] if seconds else []
    head += ["joint KL", "highest", "condition held", *["ms an update"] * timed, "code"]
    rows = []
    for m in group:
        line = [m.cell.sharing, m.cell.method]
        if not m.result:
            rows.append([*line, "missing", *[""] * (len(head) - 3)])
            continue
        line += [seeds_text(m), text(of_seeds(m.final)), text(of_seeds(m.evaluations[1].mean(1)))]
        line += [steps_text(m, level) for level in LEVELS] if m.metric == "win_rate" else []
        line += [text(of_seeds(m.at_seconds(seconds)))] if seconds else []
        held = m.curve("condition_held")
        line += [f"{np.nanmean(m.curve('joint_kl')):.3g}", f"{np.nanmax(m.curve('joint_kl_max')):.3g}"]
        line += ["-" if np.isnan(held).all() else f"{100 * np.nanmean(held):.1f}%"]
        line += [f"{1e3 * m.result['seconds']['per_update']:.1f}"] * timed
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


def draw(group: Sequence[Measured], file: Path) -> None:
    """A panel for each sharing, a curve for each method: greedy evaluations while training."""
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
    save(figure, file)


class Everything(NamedTuple):
    """What there is to tell.

    Attributes:
        tables: cells by environment, the small ones by themselves.
        questions: the cells of each, small ones too.
        agents: those about large teams.
        others: names of results that belong to no cell.
    """

    tables: dict[str, list[Measured]]
    questions: dict[str, list[Measured]]
    agents: dict[str, list[Measured]]
    others: list[str]


def read_everything(options: Options) -> Everything:
    """The protocol with what is finished."""
    results = Store(options.store).results()
    tables: dict[str, dict[str, Measured]] = {}
    questions: dict[str, list[Measured]] = {}
    known = set()
    for protocol in (options.protocol, options.small):
        for question, cells in read_blocks(protocol):
            known |= {cell.name for cell in cells}
            all_of_it = [Measured(cell, results.get(cell.name)) for cell in cells]
            if question:
                questions.setdefault(question, []).extend(all_of_it)
                continue
            for m in all_of_it:
                tables.setdefault(m.cell.env + ", small" * m.cell.small, {}).setdefault(m.cell.name, m)
    agents: dict[str, list[Measured]] = {}
    for question, cells in read_blocks(options.agents):
        known |= {cell.name for cell in cells}
        agents.setdefault(question, []).extend(Measured(cell, results.get(cell.name)) for cell in cells)
    groups = {env: list(group.values()) for env, group in tables.items()}
    return Everything(groups, questions, agents, sorted(set(results) - known))


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
    groups, questions, agents, others = read_everything(options)
    here = source()
    together = [*groups.values(), *questions.values()]
    everyone = {m.cell.name: m for group in together for m in group}.values()
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
    for title, some in (("### FP3O against the others", full), ("### The same, small cells", None)):
        some = some or {env: g for env, g in groups.items() if g[0].cell.small}
        if any(m.result for g in some.values() for m in g):
            lines += [title, "", *comparisons(some), ""]
    for env, group in groups.items():
        if any(m.result for m in group):
            name = env.replace("/", "-").replace("|", "_").replace(", ", "-")
            figure = options.page.parent / "figures" / f"results-{name}.png"
            draw(group, figure)
            lines += section(env, group, figure, here)
    lines += ["## Questions", "", HOW, ""]
    for number, (question, group) in enumerate(questions.items(), 1):
        figure = options.page.parent / "figures" / f"results-question-{number}.png"
        lines += question_section(question, group, figure)
    for question, group in agents.items():
        figure = options.page.parent / "figures" / "results-agents.png"
        lines += agents_section(question, group, figure)
    lines += sensitivity_section(
        options.store / "sensitivity.csv", options.page.parent / "figures" / "results-sensitivity.png"
    )
    lines += overhead_section()
    if finished:
        lines += signs_section(finished, options.page.parent / "figures" / "results-signs.png")
    lines += tuning_section(options.store)
    return "\n".join(lines)


def overhead_section(page: Path = PERFORMANCE) -> list[str]:
    """What an update costs: the table of `docs/performance.md`, measured by `benchmarks/pipelines.py`."""
    told = page.read_text(encoding="utf-8").split("\n## The pipelines\n")[1].split("\n## ")[0]
    rows = [line for line in told.splitlines() if line.startswith("|")]
    highest = max(float(row.split("|")[3].split()[0]) for row in rows[2:])
    return [
        *("### What do the pipelines cost beside MAPPO and HAPPO?", ""),
        f"At equal epochs of each step an update of FP3O takes at most {highest} times as long as MAPPO's, "
        "whose one step it takes twice; per agent none of the three grows with the team. From "
        f"[performance](performance.md#the-pipelines), by `{told.split('`')[1]}` on the machine that the "
        "page calls the Xeon, two cores:",
        *("", *rows, ""),
        *("![Time of an update per agent](pipelines.png)", ""),
    ]


def main(options: Options) -> None:
    page = options.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    options.page.write_text(f"{before}{BEGIN}\n\n{generate(options)}\n{END}{after}", encoding="utf-8")
    print(f"written to {options.page}; intervals are {INTERVAL}s")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
