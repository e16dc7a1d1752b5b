"""The results of ``gpu.py``: a file of lines, and a part of a page made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu_cells import Cell

BEGIN, END = "<!-- benchmarks/gpu.py: begin -->", "<!-- benchmarks/gpu.py: end -->"


class Origin(NamedTuple):
    """What results must share to stand beside one another.

    Attributes:
        device: how many, and of which kind.
        small: the smallest sizes.
        flags: of XLA.
    """

    device: str
    small: bool
    flags: str


class Lines:
    """Finished cells, a line of JSON each.

    A line that was cut off in the middle is a cell that was not finished.

    Args:
        path: of the file; made when the first cell is added.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All of them, in the order in which they were added."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def add(self, origin: Origin, cell: Mapping[str, Any]) -> None:
        """One finished cell, there when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(origin._asdict() | cell) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, origin: Origin) -> dict[str, list[dict[str, Any]]]:
        """Cell -> what was measured of it, the latest last."""
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self.read():
            if origin_of(line) == origin:
                found.setdefault(line["cell"], []).append(line)
        return found

    def finished(self, origin: Origin) -> set[str]:
        """Names of the cells of which nothing has failed."""
        return {
            name
            for name, lines in self.of(origin).items()
            if not any("error" in row for row in lines[-1]["rows"])
        }


def origin_of(line: Mapping[str, Any]) -> Origin:
    return Origin(*(line[name] for name in Origin._fields))


#: How a cell is measured -> (heading, columns: title and what stands there).
Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def number(name: str, unit: str = "") -> Callable[[Mapping[str, Any]], str]:
    """A column of a number, with three digits; empty where it was not measured."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(name)
        if value is None:
            return ""
        return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") + unit

    return cell


def _ms(row: Mapping[str, Any]) -> str:
    # The marker of a failure stands where the time would.
    if "error" in row:
        return f"failed: {row['error']}".replace("|", "\\|")
    return f"{row['ms']:.4g} ({row['low']:.4g}-{row['high']:.4g})"


def _over(row: Mapping[str, Any]) -> str:
    return "{:.2f} ({:.2f}-{:.2f})".format(*row["over"]) if "over" in row else ""


def _bits(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"failed: {row['error']}".replace("|", "\\|")
    return "the same bits" if row["equal"] else "other bits"


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "times": (
        "Milliseconds of an update or phase, the median and the range; times the cell's first; env steps per "
        "second; seconds of tracing and of compilation; MiB of temporaries and in all.",
        (
            ("ms", _ms),
            ("over the first", _over),
            ("env steps/s", number("env_steps_per_s")),
            ("trace", number("trace_s", " s")),
            ("compile", number("compile_s", " s")),
            ("temporaries", number("temp_MiB")),
            ("in all", number("peak_MiB")),
        ),
    ),
    "profile": (
        "One iteration under the profiler, by phase.",
        (
            ("ms without the profiler", number("ms")),
            ("kernels", number("kernels")),
            ("ms of kernels", number("kernel_ms")),
            ("share", number("share")),
            ("µs a kernel", number("mean_us")),
        ),
    ),
    "resume": (
        "Whether an end is the same to the bit; the beginning of its digest tells other processes.",
        (("", _bits), ("digest", lambda row: row.get("digest", "")[:12])),
    ),
}


def markdown(lines: Lines, cells: Sequence[Cell], small: bool) -> str:
    """What was measured on each kind of device; what is missing is named.

    Args:
        lines: the results.
        cells: the table.
        small: whether those of the smallest sizes are wanted, or those of the full ones.
    """
    origins = dict.fromkeys(origin_of(line) for line in lines.read())
    parts = [_of_one(origin, lines.of(origin), cells) for origin in origins if origin.small == small]
    return "\n\n".join(parts) or f"Not measured yet, on any accelerator: {_names(cells)}."


def _of_one(origin: Origin, found: Mapping[str, list[dict[str, Any]]], cells: Sequence[Cell]) -> str:
    latest = [lines[-1] for lines in found.values()]
    commits = dict.fromkeys((line["git_commit"] or "unknown")[:7] for line in latest)
    versions = dict.fromkeys(f"JAX {line['versions'].get('jax')}" for line in latest)
    flags = f", `XLA_FLAGS={origin.flags}`" if origin.flags else ""
    sizes = ", the smallest sizes" if origin.small else ""
    parts = [f"**{origin.device}**{flags}{sizes}; {', '.join(versions)}; commit {', '.join(commits)}."]
    for how, (text, columns) in TABLES.items():
        rows = [
            [cell.name, row["label"], *(show(row) for _, show in columns)]
            for cell in cells
            if cell.how == how
            # Another process may have come to other bits; times are the latest.
            for line in found.get(cell.name, [])[0 if how == "resume" else -1 :]
            for row in line["rows"]
        ]
        if rows:
            head = ["", "", *(title for title, _ in columns)]
            table = [head, ["---"] * len(head), *rows]
            parts += [text, "\n".join(f"| {' | '.join(row)} |" for row in table)]
    peaks = [
        f"{line['cell']} {line['process_peak_MiB']:,.0f}" for line in latest if line.get("process_peak_MiB")
    ]
    if peaks:
        parts.append(f"MiB of the device in use at most, until a cell was done: {'; '.join(peaks)}.")
    missing = [cell for cell in cells if cell.name not in found]
    if missing:
        parts.append(f"Missing: {_names(missing)}.")
    return "\n\n".join(parts)


def _names(cells: Sequence[Cell]) -> str:
    return "; ".join(cell.name for cell in cells)


def include(page: Path, text: str) -> None:
    """Puts a text between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} must hold the lines {BEGIN} and {END}, between which the results stand")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
