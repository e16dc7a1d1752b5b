"""Everything that is to be known of an accelerator, in one process and a given time.

    python benchmarks/gpu.py --minutes 9
    python benchmarks/gpu.py --minutes 9 --jaxmarl jaxmarl
    python benchmarks/gpu.py --minutes 5 --small --only 'phases*'
    python benchmarks/gpu.py --report docs/performance.md

The cells of ``gpu_cells.py``, the most important first: as many as the machine's cores can compile side by
side are traced, compiled in threads, and then timed, program by program in turn, while nothing else is
done; then the next ones. Each finished cell is one line of ``--out``, written at once, so that a cut loses
those in the making alone. A process that is started again goes on with the cells that are missing on this
kind of device; what failed is tried again, last. Ratios are of programs of one cell. On a CPU everything has
its smallest size, for a look at whether all of it works.

``--jaxmarl`` is a checkout of JaxMARL, whose scripts run in this process and need what
``against_jaxmarl.py`` says. Programs that were compiled before come out of JAX's cache, and have no seconds
of compilation. ``--again`` measures what is there already once more: the cell `resume` then tells whether
another process comes to the same bits. XLA_FLAGS are part of what was measured: with
``--xla_gpu_deterministic_ops=true`` in them cells are measured anew, and reported apart.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import tyro

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "paper"))

import gpu_programs
from fp3o_jax import ConfigError, xla
from fp3o_jax.runs.origin import about
from gpu_cells import Cell, cells
from gpu_measures import MEASURES, NoTime, failure
from gpu_programs import Prepared, prepare, watch_the_cache
from gpu_report import Lines, Origin, include, markdown
from run import Log, rounded
from training import Compiler

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
#: Seconds that are kept free at the end; and those of a cell's timing, before one was timed.
RESERVE, FIRST_TIMING = 5.0, 5.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, for how long, and where the results go."""

    minutes: float = 9.0
    """time to fill, from the end of the imports to the end of the process"""
    out: Path = RESULTS
    """a line of JSON for each finished cell is added here"""
    only: str = "*"
    """cells whose name matches this pattern"""
    small: bool = False
    """the smallest sizes; on a CPU always"""
    jaxmarl: Path | None = None
    """checkout of github.com/FLAIROx/JaxMARL, for the cells that compare with it"""
    again: bool = False
    """measure what is there already once more"""
    compilers: int | None = None
    """programs compiled side by side; by default one on a CPU, else two fewer than there are cores"""
    list: bool = False
    """do nothing but print the cells and where each stands"""
    report: Path | None = None
    """do nothing but write what is known, of full sizes or of small ones, between this page's marks"""


class Fill:
    """One process that fills the table until its time is over."""

    def __init__(self, options: Options, origin: Origin, log: Log):
        self.options, self.origin, self.log = options, origin, log
        self.lines = Lines(options.out)
        on_cpu = jax.default_backend() == "cpu"
        workers = options.compilers or (1 if on_cpu else max(1, (os.cpu_count() or 1) - 2))
        self.pool, self.width = ThreadPoolExecutor(workers), workers
        self.compile = Compiler(self.pool)
        self.timing: list[float] = []

    @property
    def left(self) -> float:
        return 60 * self.options.minutes - self.log.seconds - RESERVE

    def missing(self) -> list[Cell]:
        """What is to be measured here, the most important first; what has failed already, last."""
        done = set() if self.options.again else self.lines.finished(self.origin)
        failed = set(self.lines.of(self.origin)) - done
        missing = [
            cell
            for cell in cells(self.origin.small)
            if cell.name not in done
            and fnmatch.fnmatchcase(cell.name, self.options.only)
            and (self.options.jaxmarl or not cell.needs_theirs)
        ]
        return sorted(missing, key=lambda cell: cell.name in failed and not self.options.again)

    def run(self) -> None:
        """Wave by wave: traced, compiled, timed."""
        missing = self.missing()
        self.log(f"{len(missing)} cells, {self.origin.device}, {self.width} compiled side by side")
        while missing and self.left > 0:
            wave = []
            while missing and self.left > 0 and sum(len(programs) for _, programs in wave) < self.width:
                cell = missing.pop(0)
                programs = self.prepared(cell)
                if programs:
                    wave.append((cell, programs))
            self.wait(wave)
            for cell, programs in wave:
                self.measure(cell, programs)
        names = [cell.name for cell in self.missing()] if not self.options.again else []
        self.log(f"missing: {', '.join(names) or 'nothing'}")

    def prepared(self, cell: Cell) -> list[Prepared]:
        """The programs of a cell, traced; none where it is not to be had here."""
        programs, start = [], self.log.seconds
        for program in cell.programs:
            try:
                programs.append(prepare(program, self.compile))
            except Exception as error:  # a script or an environment that is not there must not end the others
                self.write(cell, [failure(program.label, error)])
                return []
        self.log(f"{cell.name}: traced in {self.log.seconds - start:.1f} s")
        return programs

    def wait(self, wave: list[tuple[Cell, list[Prepared]]]) -> None:
        """Until a wave is compiled, or there is just time enough to measure it."""
        each = sum(self.timing) / len(self.timing) if self.timing else FIRST_TIMING
        futures = [f for _, programs in wave for one in programs for f in one.parts.values()]
        wait(futures, timeout=max(0.0, self.left - each * len(wave)))
        self.log(f"{sum(future.done() for future in futures)} of {len(futures)} programs compiled")

    def measure(self, cell: Cell, programs: list[Prepared]) -> None:
        """One cell, if it is compiled."""
        if not all(future.done() for one in programs for future in one.parts.values()) or self.left < 0:
            self.log(f"{cell.name}: no time left")
            return
        start = self.log.seconds
        try:
            rows = MEASURES[cell.how](cell, programs, lambda: self.left)
        except NoTime as reason:
            self.log(str(reason))
            return
        except Exception as error:  # one cell that does not fit the memory must not end the others
            rows = [failure(cell.name, error)]
        self.timing.append(self.log.seconds - start)
        self.write(cell, rows)

    def write(self, cell: Cell, rows: list[dict[str, Any]]) -> None:
        stats = jax.local_devices()[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        self.lines.add(
            self.origin,
            {
                "cell": cell.name,
                "base": cell.base,
                "rows": rounded(rows),
                "process_peak_MiB": peak and peak / 2**20,
                **{name: about()[name] for name in ("git_commit", "versions", "started")},
            },
        )
        failed = [row["label"] for row in rows if "error" in row]
        self.log(f"{cell.name}: " + (f"FAILED: {', '.join(failed)}" if failed else "done"))


def main(options: Options) -> None:
    log = Log()
    xla.keep_compiled()
    if options.report:
        include(options.report, markdown(Lines(options.out), cells(options.small), options.small))
        return
    small = options.small or jax.default_backend() == "cpu"
    if options.jaxmarl:
        if not (options.jaxmarl / "baselines").is_dir():
            raise ConfigError(f"jaxmarl={str(options.jaxmarl)!r} is not a checkout of JaxMARL")
        gpu_programs.checkout[:] = [options.jaxmarl.resolve()]
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    origin = Origin(device, small, os.environ.get("XLA_FLAGS", ""))
    fill = Fill(options, origin, log)
    if options.list:
        done = fill.lines.finished(origin)
        for cell in cells(small):
            print("finished" if cell.name in done else "missing ", cell.name)
        return
    watch_the_cache()
    fill.run()


def at_the_end(options: Options) -> threading.Timer:
    """Ends the process when its time is over, whatever it is at: what is finished is written."""

    def end() -> None:
        print("the time is over", flush=True)
        os._exit(0)

    timer = threading.Timer(60 * options.minutes - 1.0, end)
    timer.daemon = True
    return timer


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    at_the_end(chosen).start()
    try:
        main(chosen)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    sys.stdout.flush()
    # Not through the end of the interpreter, which waits for compilations that nobody needs any more.
    os._exit(0)
