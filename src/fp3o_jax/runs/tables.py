"""Tables of final scores: on the terminal, as CSV, and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fp3o_jax.runs.directory import write_whole
from fp3o_jax.runs.grouping import Group, Place, Settings, label, shown
from fp3o_jax.runs.scores import AGGREGATES, Comparison, Summary, strongest
from fp3o_jax.runs.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

#: So many rows the terminal shows of one table, and if there are more so many of them.
MAX_ROWS, SHOWN_ROWS = 40, 20


def score_tables(summaries: Mapping[Place, Summary], groups: Mapping[Place, Group]) -> list[Table]:
    """A table for each environment: a line per method, its settings, seeds, IQM and interval."""
    tables = []
    for env in dict.fromkeys(place.env for place in summaries):
        here = [place for place in summaries if place.env == env]
        caption = None
        if len(here) > MAX_ROWS:
            caption = f"the best {SHOWN_ROWS} of {len(here)}; --csv FILE has all"
            here = sorted(here, key=lambda place: -summaries[place].estimates["IQM"].value)[:SHOWN_ROWS]
        settings = {place: _settings(place, groups) for place in here}
        names = _names(settings.values())
        view = Table(title=Text(env, "table.title"), caption=caption)
        for name in names:
            view.add_column(Text(name))
        view.add_column("seeds", justify="right", no_wrap=True)
        view.add_column("IQM", justify="right", no_wrap=True)
        for place in here:
            seeds, estimates = summaries[place]
            cells = [Text(_cell(settings[place].get(name))) for name in names]
            view.add_row(*cells, str(seeds), Text(text(estimates["IQM"])))
        tables.append(view)
    return tables


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A line per pair of methods."""
    shown_ones = strongest(comparisons, MAX_ROWS, SHOWN_ROWS)
    view = Table(title="probability of improvement")
    if len(shown_ones) < len(comparisons):
        view.caption = f"the highest {len(shown_ones)} of {len(comparisons)}; --csv FILE has all"
    for name in ("X", "Y"):
        view.add_column(name)
    for name in ("envs", "P(X > Y)"):
        view.add_column(name, justify="right", no_wrap=True)
    for comparison in shown_ones:
        x, y = comparison.labels
        view.add_row(Text(x), Text(y), str(comparison.envs), Text(text(comparison.estimate)))
    return view


def frame(
    summaries: Mapping[Place, Summary],
    groups: Mapping[Place, Group],
    metric: str,
    comparisons: Sequence[Comparison] = (),
    over: str | None = None,
) -> pd.DataFrame:
    """A row for each environment and method.

    Args:
        summaries: of the final scores.
        groups: with the values that were chosen.
        metric: what the scores are of.
        comparisons: with a baseline; their estimates are over all environments.
        over: the setting after ``Place.at``.

    Returns:
        Columns ``env``, the settings that tell methods apart, ``metric``, ``seeds``, and for each aggregate
        its value and the ends of its interval (``iqm``, ``iqm_low``, ``iqm_high``), empty for none.
    """
    import pandas as pd

    settings = {place: _settings(place, groups, over) for place in summaries}
    names = _names(settings.values())
    against = {c.method: c for c in comparisons}
    rows = []
    for place, summary in summaries.items():
        row = {"env": place.env} if place.env else {}
        row |= {name: settings[place].get(name) for name in names}
        row |= {"metric": metric, "seeds": summary.seeds}
        for name, estimate in summary.estimates.items():
            row |= _columns(name.lower(), estimate)
        if comparisons:
            found = against.get(place.method)
            row["baseline"] = label(found.other) if found else None
            estimate = found.estimate if found else Estimate(np.nan, np.nan, np.nan)
            row |= _columns("improvement", estimate)
        rows.append(row)
    # Whole numbers beside nothing remain whole numbers.
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in rows[0]})


def write_csv(table: pd.DataFrame, file: Path) -> Path:
    """Writes a :func:`frame`; returns the file, which is there as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, table.to_csv(index=False, lineterminator="\n"))
    return file


def write_latex(table: pd.DataFrame, file: Path) -> Path:
    """Writes a :func:`frame` as a tabular for the package booktabs: numbers with their intervals."""
    import pandas as pd

    aggregates = [name for name in AGGREGATES if name.lower() in table]
    measured = {**{name.lower(): name for name in aggregates}, "improvement": "P(better)"}
    cells: dict[str, list[str]] = {}
    for name in table:
        if name in measured:
            cells[measured[name]] = _intervals(table, name)
        elif name != "metric" and name.removesuffix("_low").removesuffix("_high") not in measured:
            cells[name] = [_cell(value) for value in table[name]]
    if "env" in cells:
        # Each environment is named once.
        before = ["", *cells["env"][:-1]]
        cells["env"] = ["" if a == b else b for a, b in zip(before, cells["env"], strict=True)]
    right = ("seeds", *measured.values())
    style = pd.DataFrame(cells).style.hide(axis="index")
    style = style.format(escape="latex").format_index(escape="latex", axis=1)
    body = style.to_latex(hrules=True, column_format="".join("r" if n in right else "l" for n in cells))
    said = str(table["metric"].iloc[0]).replace("_", " ")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"% {said}, 95% intervals; \\usepackage{{booktabs}}\n{body}")
    return file


def text(estimate: Estimate) -> str:
    """``0.512 [0.480, 0.541]``; without an interval the value alone."""
    if np.isnan(estimate.low):
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _cell(value: Any) -> str:
    return "" if value is None else shown(value)


def _settings(place: Place, groups: Mapping[Place, Group], over: str | None = None) -> dict[str, Any]:
    """All that a row says of its method; what was chosen on some environment is not that of all."""
    at: Settings = () if over is None else ((over, place.at),)
    chosen = groups[place].chosen if place in groups else ()
    return dict((*place.method, *at, *chosen))


def _names(rows: Any) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    values = zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True)
    return {column: None if np.isnan(value) else value for column, value in values}


def _intervals(table: pd.DataFrame, name: str) -> list[str]:
    columns = (table[f"{name}{end}"].tolist() for end in ("", "_low", "_high"))
    estimates = [
        Estimate(*(np.nan if v is None else v for v in values)) for values in zip(*columns, strict=True)
    ]
    return ["" if np.isnan(estimate.value) else text(estimate) for estimate in estimates]
