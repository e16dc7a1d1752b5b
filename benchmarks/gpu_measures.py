"""How a cell is measured: times of programs that take turns, a profile, or whether resuming is exact."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import gpu_profile
from fp3o_jax.runs.checkpoints import Checkpoints, digest, pack
from gpu_cells import Cell
from gpu_programs import Prepared
from harness import take_turns, timed
from memory import MIB, needed

#: Timed calls of each program, where there is time for them.
ROUNDS = 5
#: Updates of each half of a training run that is resumed.
HALF = 3


class NoTime(Exception):
    """What is left does not suffice for one call of each program."""


def times(cell: Cell, prepared: Sequence[Prepared], left: Callable[[], float]) -> list[dict[str, Any]]:
    """Milliseconds of an update of each program, and as a multiple of the cell's base.

    A program that fails, such as for want of memory, is told and leaves the others be.

    Args:
        cell: which.
        prepared: its programs, compiled.
        left: seconds that there are.

    Raises:
        NoTime: the first calls used it up.
    """
    rows, runs, first = {}, {}, 0.0
    for one in prepared:
        label = one.program.label
        with _failing(rows, label):
            rows[label] = compilation(one)
            run = one.start()
            timed(run)
            first += timed(run)
            runs[label] = run
        if left() < first:
            raise NoTime(f"{cell.name}: one round takes {first:.1f} s, there are {left():.1f}")
    took = take_turns(runs, max(1, min(ROUNDS, int(left() / max(first, 1e-9)))), warm_up=0)
    for one in prepared:
        label = one.program.label
        if label not in took:
            continue
        chain, seconds = one.chain, took[label].seconds / one.chain.updates
        rows[label] |= {
            "ms": 1e3 * took[label].median / chain.updates,
            "low": 1e3 * float(seconds.min()),
            "high": 1e3 * float(seconds.max()),
            "rounds": len(seconds),
        }
        if chain.env_steps:
            rows[label]["env_steps_per_s"] = chain.env_steps / took[label].median
        if cell.base in took:
            ratio = took[label].over(took[cell.base], each=chain.updates)
            rows[label]["over"] = [ratio.median, ratio.low, ratio.high]
    return list(rows.values())


def compilation(one: Prepared) -> dict[str, Any]:
    """What is known of a program before it runs."""
    (program, cached), seconds = one.parts[one.timed].result()
    row = {"label": one.program.label, "trace_s": one.trace_s, "compile_s": None if cached else seconds}
    with contextlib.suppress(AttributeError, jax.errors.JaxRuntimeError):  # not every backend tells
        row |= {f"{name}_MiB": size / MIB for name, size in needed(program).items()}
    return row


def profile(cell: Cell, prepared: Sequence[Prepared], left: Callable[[], float]) -> list[dict[str, Any]]:
    """Kernels of one iteration by phase, and their time beside that of the iteration without a profiler."""
    del left
    (one,) = prepared
    run = one.start()
    for _ in range(2):
        seconds = timed(run)
    counted = gpu_profile.count(gpu_profile.profiled(run), one.compiled.as_text())
    whole = {"label": cell.base, "ms": 1e3 * seconds, "kernels": sum(row["kernels"] for row in counted)}
    return [whole, *counted]


def resume(cell: Cell, prepared: Sequence[Prepared], left: Callable[[], float]) -> list[dict[str, Any]]:
    """Whether the same updates give the same bits: again, and from a checkpoint in the middle.

    The digest of the end tells other processes what came out here, which compile anew.
    """
    del cell, left
    (one,) = prepared
    update = one.compiled

    def go_on(state: Any, updates: int) -> Any:
        for _ in range(updates):
            state, _ = update(state)
        return state

    def from_the_start(updates: int) -> Any:
        return go_on(one.inputs()[0], updates)

    whole = digest(pack(from_the_start(2 * HALF)))
    again = digest(pack(from_the_start(2 * HALF)))
    half = from_the_start(HALF)
    template = jax.eval_shape(lambda: half)
    with tempfile.TemporaryDirectory() as folder:
        saving = Checkpoints(Path(folder) / "checkpoints")
        saving.save(HALF, half, {}, 0.0)
        saving.close()
        reading = Checkpoints(Path(folder) / "checkpoints", reading=True)
        restored = reading.restore(template).state
        reading.close()
    resumed = digest(pack(go_on(restored, HALF)))
    return [
        {"label": "the same run again", "equal": again == whole, "digest": whole},
        {"label": "stopped in the middle and resumed", "equal": resumed == whole, "digest": resumed},
    ]


@contextlib.contextmanager
def _failing(rows: dict[str, dict[str, Any]], label: str) -> Iterator[None]:
    """What a program raises becomes its row."""
    try:
        yield
    except Exception as error:
        rows[label] = rows.get(label, {}) | failure(label, error)


def failure(label: str, error: Exception) -> dict[str, Any]:
    """The row of what raised an error."""
    first = str(error).partition("\n")[0][:200]
    return {"label": label, "error": f"{type(error).__name__}: {first}"}


MEASURES = {"times": times, "profile": profile, "resume": resume}
