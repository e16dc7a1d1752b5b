"""Fills the table: runs the most important missing cells of the protocol, as many as fit the time.

    python experiments/paper/run.py --minutes 9
    python experiments/paper/run.py --minutes 60 --protocol experiments/paper/two_cores.toml
    python experiments/paper/run.py --list
    python experiments/paper/run.py --merge cells.jsonl

Each finished cell is one JSON file below `experiments/paper/results/`; `report.py` makes the page of them. A
cell is never run twice, several processes share the work, and a process may be killed at any time: what was
finished stays, what was not is begun anew by the next one. While one cell trains, the programs of the next
ones are compiled.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from cells import PROTOCOL, Cell, read_protocol
from fp3o_jax import ConfigError
from fp3o_jax.runs.origin import about
from fp3o_jax.runs.signals import deferred
from store import RESULTS, Claim, Store, source
from training import Abandoned, Compiler, Prepared, prepare, train

#: Seconds that are kept free at the end, and the factor by which a prediction may be short.
RESERVE, SLACK = 3.0, 1.1


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, for how long, and where the results go."""

    minutes: float = 9.0
    """time to fill, from the start of this process to its end"""
    store: Path = RESULTS
    """folder of the results"""
    only: str = "*"
    """cells whose name matches this pattern, or has it in it"""
    protocol: Path = PROTOCOL
    """the cells; two_cores.toml and many_agents.toml beside it are for two CPU cores"""
    ahead: int | None = None
    """cells to compile ahead; by default 1 on a CPU, else what the machine's cores bear"""
    alone: bool = False
    """compile nothing while a cell trains: its time is then its own, also where cores are few"""
    bundle: Path | None = None
    """append each finished cell to this file as well, as one line"""
    merge: Path | None = None
    """do nothing but add the cells of such a file to the store"""
    list: bool = False
    """do nothing but print the cells and where each stands"""
    until_update: int | None = None
    """end each cell after so many updates and store nothing: a look at the speed"""
    commit: str | None = None
    """what the results say they come from, where git cannot tell"""
    beside: int = 1
    """how many such processes share the device: small programs leave an accelerator room, and their times,
    which are then longer, are told apart"""


class Log:
    """Lines with the seconds since the start, at once."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{self.seconds:7.1f} s  {text}", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


class Forecast:
    """How long cells take on this device, from those that were run on it."""

    def __init__(self, store: Store, device: str):
        # By env with its options, budget, method and sharing.
        self._known: dict[tuple, float] = {}
        for result in store.results().values():
            if result["device"] == device:
                seconds = result["seconds"]
                key = (_place(result), result["small"], result["method"], result["sharing"])
                self._known[key] = seconds["init"] + seconds["train"] + seconds["evaluate"]

    def learn(self, cell: Cell, seconds: float) -> None:
        self._known[_place(cell.identity), cell.small, cell.method, cell.sharing] = seconds

    def __call__(self, cell: Cell) -> float | None:
        """Seconds for a cell: its own, else the longest of its method on the environment, else of any."""
        place = _place(cell.identity)
        exact = self._known.get((place, cell.small, cell.method, cell.sharing))
        if exact is not None:
            return exact
        here = {key: s for key, s in self._known.items() if key[:2] == (place, cell.small)}
        same = [s for key, s in here.items() if key[2] == cell.method]
        return max(same or here.values(), default=None)


def _place(told: dict[str, Any]) -> str:
    """The environment of a cell or result, with its options: teams of other sizes take other times."""
    return f"{told['env']} {told['settings'].get('env_kwargs', {})}"


class Fill:
    """One process that fills the table until its time is over.

    The main thread traces, one thread runs cells, and a pool compiles.
    """

    def __init__(self, options: Options, cells: list[Cell], store: Store, log: Log):
        self.options, self.cells, self.store, self.log = options, cells, store, log
        self.origin = origin(options)
        self.forecast = Forecast(store, self.origin["device"])
        cores = os.cpu_count() or 1
        on_cpu = jax.default_backend() == "cpu"
        cores = max(1, cores // options.beside)
        self.ahead = options.ahead or (1 if on_cpu else max(1, cores // 2))
        # An accelerator waits for the thread that launches its work: compilers leave it a core.
        self.pool = ThreadPoolExecutor(1 if on_cpu else max(1, cores - 2))
        self.runner = ThreadPoolExecutor(1)
        self.compile = Compiler(self.pool)
        self.waiting: list[tuple[Prepared, Claim]] = []
        self.running: tuple[Prepared, Claim, Future] | None = None
        self.passed_over: set[str] = set()
        self.finished: list[str] = []
        self.failed: list[str] = []
        self.stopping = False
        #: Seconds that the running cell still needs.
        self.rest = 0.0

    @property
    def left(self) -> float:
        return 60 * self.options.minutes - self.log.seconds - RESERVE

    def fits(self, cell: Cell, others: float = 0.0) -> bool:
        """Whether the cell can end in time; one of which nothing is known may try."""
        return others + SLACK * (self.forecast(cell) or 0.0) < self.left

    def run(self) -> int:
        """Runs cells; returns the exit status."""
        # The thread that runs a cell needs the interpreter for moments, which tracing must not keep from it.
        sys.setswitchinterval(1e-3)
        with deferred() as stop:
            while True:
                self.stopping = stop.signum is not None
                if self.running and self.running[2].done():
                    self._end()
                for _, claim in self.waiting:
                    claim.touch()
                over = self.stopping or self.left <= 0
                if over:
                    self._give_back()
                if not self.running:
                    self._begin()
                more = len(self.waiting) < self.ahead and not (self.options.alone and self.running)
                if not over and more and self._prepare():
                    continue
                if not (self.running or self.waiting):
                    break
                self._wait()
        if self.stopping:
            self.log(f"stopped by signal {stop.signum}")
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.runner.shutdown(wait=False)
        missing = [cell.name for cell in self.cells if not self.store.has(cell.name)]
        self.log(
            f"{len(self.finished)} cells finished, {len(self.failed)} failed, {len(missing)} still missing"
        )
        return 128 + stop.signum if stop.signum is not None else int(bool(self.failed))

    def _prepare(self) -> bool:
        """Claims and traces the most important cell that fits; False if there is none."""
        others = [prepared.cell for prepared, _ in self.waiting]
        queued = self.rest + sum(self.forecast(cell) or 0.0 for cell in others)
        for cell in self.cells:
            if cell.name in self.passed_over or self.store.has(cell.name) or not self.fits(cell, queued):
                continue
            claim = self.store.claim(cell.name)
            if claim is None:
                continue
            # Whatever becomes of it, this process does not take it again.
            self.passed_over.add(cell.name)
            try:
                prepared = prepare(cell, self.compile)
            except (ConfigError, ImportError) as error:
                self.log(f"{cell.name}: not to be had here: {error}")
                claim.release()
                continue
            self.log(f"{cell.name}: traced in {prepared.lower_seconds:.1f} s")
            self.waiting.append((prepared, claim))
            return True
        return False

    def _begin(self) -> None:
        """Starts the most important cell that is compiled and fits; gives back those that do not fit."""
        for pair in list(self.waiting):
            prepared, claim = pair
            cell = prepared.cell
            if not self.fits(cell):
                self.log(f"{cell.name}: {self.forecast(cell):.0f} s do not fit the {self.left:.0f} s left")
                self.waiting.remove(pair)
                claim.release()
            elif prepared.ready:
                self.waiting.remove(pair)
                self.rest = self.forecast(cell) or 0.0
                self.running = (prepared, claim, self.runner.submit(self._run, prepared, claim))
                return

    def _run(self, prepared: Prepared, claim: Claim) -> None:
        """In the runner's thread: from the first update to the file, whatever the main thread traces."""
        told = functools.partial(self._progress, prepared.cell, claim)
        self._store(prepared.cell, train(prepared, told, self.options.until_update))

    def _progress(self, cell: Cell, claim: Claim, chunks: int, spent: float, rest: float) -> None:
        """In the runner's thread, after each chunk."""
        claim.touch()
        if chunks in (1, 2, 5) or chunks % 25 == 0:
            self.log(f"{cell.name}: {chunks} of {cell.points} chunks in {spent:.1f} s, {rest:.1f} s to come")
        if self.stopping:
            raise Abandoned("asked to stop")
        # What the first chunk took tells little.
        if chunks > 1 and self.options.until_update is None:
            self.forecast.learn(cell, spent + rest)
            self.rest = rest
            if rest > self.left:
                raise Abandoned(f"{rest:.0f} s to come do not fit the {self.left:.0f} s left")

    def _end(self) -> None:
        """Tells what became of a cell and lets go of it."""
        prepared, claim, future = self.running
        self.running, self.rest = None, 0.0
        cell = prepared.cell
        try:
            future.result()
        except Abandoned as reason:
            self.log(f"{cell.name}: given up: {reason}")
        except Exception as error:  # one cell that does not fit the memory must not end the others
            self.failed.append(cell.name)
            self.log(f"{cell.name}: FAILED: {type(error).__name__}: {str(error)[:500]}")
        finally:
            claim.release()

    def _store(self, cell: Cell, measured: dict[str, Any]) -> None:
        seconds = measured["seconds"]
        final = {name: round(float(np.mean(values)), 3) for name, values in measured["final"].items()}
        self.log(
            f"{cell.name}: compiled in {max(seconds['compile'].values()):.1f} s, trained in "
            f"{seconds['train']:.1f} s ({1e3 * seconds['per_update']:.1f} ms an update), evaluated in "
            f"{seconds['evaluate']:.1f} s, {final}"
            + (f", STOPPED {measured['stopped']}" if measured["stopped"] else "")
        )
        if self.options.until_update is not None:
            return
        result = record(cell, measured, self.origin)
        if self.store.write(cell.name, result):
            self.finished.append(cell.name)
            if self.options.bundle:
                with self.options.bundle.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                    file.flush()
                    os.fsync(file.fileno())

    def _give_back(self) -> None:
        for _, claim in self.waiting:
            claim.release()
        self.waiting.clear()

    def _wait(self) -> None:
        """Until something is done, or for a moment."""
        futures = [self.running[2]] if self.running else []
        if not self.running:
            futures = [f for prepared, _ in self.waiting for f in prepared.programs.values() if not f.done()]
        if futures:
            wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)


def origin(options: Options) -> dict[str, Any]:
    """Where results come from: to be asked at the start, before the code on the disk becomes another."""
    told = about()
    beside = f" shared by {options.beside} processes" if options.beside > 1 else ""
    return {
        "commit": options.commit or told["git_commit"],
        "source": source(),
        "versions": told["versions"],
        "device": told["device"] + beside,
    }


def record(cell: Cell, measured: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    """What is written of a finished cell: who it is, what was measured, where it comes from."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    config = {"config": cell.config.to_dict(), "updates": cell.config.num_updates}
    return {"name": cell.name} | cell.identity | rounded(measured) | config | origin | {"written": now}


def rounded(value: Any, digits: int = 5) -> Any:
    """Numbers to so many digits, and NaN as None."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.{digits}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def show(cells: list[Cell], store: Store) -> None:
    """Prints where each cell stands."""
    for cell in cells:
        state = "finished" if store.has(cell.name) else "running" if store.busy(cell.name) else "missing"
        size = f"{cell.config.total_env_steps:,} env steps x {cell.config.num_seeds} seeds"
        print(f"{state:8} {cell.name}  {size}")


def main(options: Options) -> int:
    log = Log()
    store = Store(options.store)
    if options.merge:
        print("\n".join(store.merge(options.merge)) or "nothing new")
        return 0
    cells = read_protocol(options.protocol, options.only)
    if not cells:
        raise ConfigError(f"only={options.only!r} matches no cell of {options.protocol}: --list names them")
    if options.list:
        show(cells, store)
        return 0
    fill = Fill(options, cells, store, log)
    log(f"{len(cells)} cells, {fill.origin['device']}, {os.cpu_count()} cores, {fill.ahead} compiled ahead")
    return fill.run()


if __name__ == "__main__":
    code = main(tyro.cli(Options, description=__doc__))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the end of the interpreter, which waits for compilations that nobody needs any more.
    os._exit(code)
