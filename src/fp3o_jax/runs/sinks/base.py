"""What a sink is, what sinks share, and the guard around each."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fp3o_jax.runs.reading import ROW_KEYS
from fp3o_jax.runs.statistics import iqm

#: Called with the rows of one update, one for each seed.
OnUpdate = Callable[[Sequence[Mapping[str, Any]]], None]


class Sink(Protocol):
    """A place that metrics are sent to."""

    destination: str
    """where a user finds what was logged: an address or a path"""

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of one update, one per seed, in the order of the seeds.

        Args:
            rows: each with ``seed``, ``update`` (counted from 1), ``env_steps``, ``time`` (seconds since
                1970), and metrics: numbers or small NumPy arrays. NaN stands for nothing to report yet. A run
                that resumes sends updates again, from the one after its checkpoint on.
        """

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Takes the summary of the whole run, the last thing before ``close``.

        Args:
            summary: what ``summary.json`` holds; ``seeds`` is a list of one mapping per seed.
        """

    def close(self, exit_code: int) -> None:
        """Writes what is buffered and lets go of files and connections.

        Args:
            exit_code: 0 if the run reached its end.
        """


class Callback:
    """A user's function as a sink; what it raises comes through."""

    destination = ""

    def __init__(self, log: OnUpdate):
        self.log = log

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Nothing: who calls has it returned."""

    def close(self, exit_code: int) -> None:
        """Nothing is open."""


def guarded(name: str, open_sink: Callable[[], Sink]) -> Sink:
    """A sink that never raises: its first error becomes a warning, and it takes nothing from then on.

    Args:
        name: what the warning calls it.
        open_sink: makes the sink; errors here are caught as well.
    """
    return _Guarded(name, open_sink)


class _Guarded:
    def __init__(self, name: str, open_sink: Callable[[], Sink]):
        self._name, self._sink, self.destination = name, None, ""
        self._attempt("opening", lambda: self._open(open_sink))

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._sink is not None:
            self._attempt("logging", lambda: self._sink.log(rows))

    def summary(self, summary: Mapping[str, Any]) -> None:
        if self._sink is not None:
            self._attempt("writing the summary", lambda: self._sink.summary(summary))

    def close(self, exit_code: int) -> None:
        if self._sink is not None:
            self._attempt("closing", lambda: self._sink.close(exit_code))
            self._sink = None

    def _open(self, open_sink: Callable[[], Sink]) -> None:
        self._sink = open_sink()
        self.destination = self._sink.destination

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            warnings.warn(
                f"{self._name} is switched off, the run goes on: {what} failed with "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
            sink, self._sink, self.destination = self._sink, None, ""
            if sink is not None and what != "closing":
                # What it has taken so far may still be saved; there is no second warning if not.
                with contextlib.suppress(Exception):
                    sink.close(1)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row as numbers, without those that are NaN.

    Args:
        metrics: numbers or arrays by name; ``ROW_KEYS`` are left out.

    Returns:
        name -> value, where an array [n] became ``name/0`` to ``name/<n-1>``.
    """
    return {
        "/".join([name, *map(str, index)]): number
        for name, value in metrics.items()
        if name not in ROW_KEYS
        for index, element in np.ndenumerate(value)
        if not np.isnan(number := float(element))
    }


def over_seeds(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Statistics of each metric over the seeds that report it.

    Args:
        rows: one per seed, name -> value.

    Returns:
        ``name/mean``, ``name/iqm`` (interquartile mean: without the lowest and the highest quarter, rounded
        down), ``name/min`` and ``name/max``.
    """
    statistics = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([row[name] for row in rows if name in row])
        statistics |= {
            f"{name}/mean": float(values.mean()),
            f"{name}/iqm": float(iqm(values)),
            f"{name}/min": float(values.min()),
            f"{name}/max": float(values.max()),
        }
    return statistics
