"""What the benchmarks share: timing programs in turn, ratios, tables, JSON.

Every figure is a ratio of two things timed in one run, in turn, so that what else the machine does falls on
both. Compile time is measured apart and never part of a ratio, unless the benchmark is about it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=None if sys.stdout.isatty() else 140)
RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Options:
    """How much to measure; what every benchmark takes."""

    mode: Literal["quick", "full"] = "quick"
    """quick: at most three minutes on two cores; full: every size"""
    json: Path | None = None
    """where the figures go; by default results/NAME-DEVICE-MODE.json beside the benchmark"""


@dataclasses.dataclass(frozen=True)
class InParts(Options):
    """Of a benchmark that takes long, and can be run in parts."""

    minutes: float = float("inf")
    """begin no further row after so many"""
    go_on: bool = False
    """keep the rows that the file has, and measure those that are missing"""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one program, once per round."""

    seconds: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def over(self, other: Timing, each: float = 1) -> Ratio:
        """This program's time as a multiple of ``each`` runs of another that took turns with it."""
        ratios = self.seconds / (each * other.seconds)
        return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()))


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median of a ratio over the rounds, and its extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def timed(run: Callable[[], Any]) -> float:
    """Seconds until the results of ``run`` are there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def compiled(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Callable[..., Any], float]:
    """A function compiled for arguments, and the seconds that tracing and compiling it took.

    Args:
        function: what to compile.
        args: arrays or their shapes.
        options: of ``jax.jit``.
    """
    start = time.perf_counter()
    program = jax.jit(function, **options).lower(*args).compile()
    return program, time.perf_counter() - start


def take_turns(programs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Times programs in turn.

    Args:
        programs: name -> what to run; compiled already, or compiled by the first of the ``warm_up`` calls.
        rounds: timed calls of each.
        warm_up: calls before, not timed.

    Returns:
        name -> :class:`Timing` of ``rounds`` samples; round k of all programs ran side by side.
    """
    for run in programs.values():
        for _ in range(warm_up):
            jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for k in range(rounds):
        names = list(programs)
        # Every other round backwards: nobody always runs behind the same neighbour.
        for name in names if k % 2 == 0 else names[::-1]:
            seconds[name].append(timed(programs[name]))
    return {name: Timing(np.array(samples)) for name, samples in seconds.items()}


class Repeated:
    """A donating ``step(state) -> (state, ...)`` to be timed: each call goes on from the last."""

    def __init__(self, step: Callable[[Any], tuple[Any, Any]], state: Any):
        self._step, self._state = step, state

    def __call__(self) -> Any:
        self._state, rest = self._step(self._state)
        return self._state, rest


class Peer:
    """Somebody else's program in a process of its own (see ``peers/``), which waits while others run.

    Args:
        python: interpreter with what the peer needs.
        script: of ``peers/``.
        spec: what it is told, as JSON.

    Raises:
        RuntimeError: it ended instead of answering; what it printed stands above.
    """

    def __init__(self, python: Path, script: Path, spec: Mapping[str, Any]):
        self._process = subprocess.Popen(
            [str(python), str(script), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def run(self) -> float:
        """Seconds of one run of the peer."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args[1]} ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how to measure them again."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: metadata.version(name) for name in ("fp3o-jax", "jax", "jaxlib", "jaxmarl")},
        "python": platform.python_version(),
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


class Report:
    """A table for the terminal and for JSON.

    Args:
        name: of the benchmark, the stem of the JSON file.
        title: above the table.
        options: where the JSON goes, and whether what it has is kept.
    """

    def __init__(self, name: str, title: str, options: Options):
        self._title, self._options = title, options
        device = jax.default_backend()
        self.path = options.json or RESULTS / f"{name}-{device}-{options.mode}.json"
        self._rows: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._machine = machine()
        self._start = time.monotonic()
        if getattr(options, "go_on", False) and self.path.exists():
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self._rows = [
                {k: Ratio(**v) if isinstance(v, dict) else v for k, v in row.items()}
                for row in content["rows"]
            ]
            self._notes = content["notes"]

    def wants(self, **cells: Any) -> bool:
        """Whether there is no such row yet, and time is left for it."""
        if any(all(row.get(name) == cell for name, cell in cells.items()) for row in self._rows):
            return False
        left = time.monotonic() - self._start < 60 * getattr(self._options, "minutes", float("inf"))
        if not left:
            CONSOLE.print(f"left: {cells}", highlight=False)
        return left

    def add(self, **row: Any) -> None:
        """One row, shown at once, since a benchmark takes a while; ratios as :class:`Ratio`."""
        self._rows.append(row)
        cells = ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in row.items())
        CONSOLE.print(f"[dim]{cells}[/]", highlight=False)
        self._write()

    def note(self, text: str) -> None:
        """A line below the table: whether a goal was met, or what could not be measured."""
        self._notes.append(text)
        self._write()

    def show(self) -> None:
        """Prints the table."""
        table = Table(title=self._title)
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        for name in columns:
            text = all(isinstance(row.get(name, ""), str) for row in self._rows)
            table.add_column(name.replace("_", " "), justify="left" if text else "right")
        for row in self._rows:
            table.add_row(*(_cell(row.get(name, "")) for name in columns))
        CONSOLE.print(table)
        for line in self._notes:
            CONSOLE.print(line, highlight=False)
        CONSOLE.print(
            f"{self._machine['device']} ({self._machine['processor']}, {self._machine['cores']} cores), "
            f"JAX {self._machine['versions']['jax']}; written to {self.path}",
            highlight=False,
            soft_wrap=True,
        )

    def _write(self) -> None:
        rows = [
            {k: dataclasses.asdict(v) if isinstance(v, Ratio) else v for k, v in r.items()}
            for r in self._rows
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"title": self._title, "machine": self._machine, "rows": rows, "notes": self._notes}
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
