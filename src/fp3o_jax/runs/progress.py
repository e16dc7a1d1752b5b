"""What a user sees while a run goes on: a live bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


def tell(console: Console, text: str, label: str = "", style: str = "bold yellow") -> None:
    """Prints a line as it stands: in paths, names and errors Rich would find markup and emoji.

    Args:
        console: where to print.
        text: the line.
        label, style: what is put before it, and how that looks.
    """
    console.print(Text.assemble((label, style), " " if label else "", text), soft_wrap=True)


class Notes:
    """Says a thing once, of however many runs it is true."""

    def __init__(self) -> None:
        self._who: dict[str, list[str]] = {}

    def add(self, who: str, text: str) -> None:
        """Keeps a sentence about somebody."""
        if who not in self._who.setdefault(text, []):
            self._who[text].append(who)

    def tell(self, console: Console) -> None:
        """Prints what was kept, and forgets it."""
        for text, who in self._who.items():
            others = f" and {len(who) - 1} more" if len(who) > 1 else ""
            tell(console, f"note: {who[0]}{others}: {text}")
        self._who.clear()


@contextmanager
def phase(console: Console, name: str) -> Iterator[None]:
    """Names a phase without a known length, such as compiling."""
    if console.is_terminal:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        ) as progress:
            progress.add_task(name, total=None)
            yield
    else:
        console.print(f"{name} ...")
        yield


def _all_known(values: np.ndarray) -> bool:
    return len(values) > 0 and bool(np.isfinite(values).all())


def _rounded(value: float, digits: int) -> str:
    """To so many significant digits, without the exponent that large returns would get."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def _over_seeds(values: np.ndarray) -> str:
    """Mean and, with several seeds, standard deviation."""
    return _rounded(values.mean(), 3) + (f"±{_rounded(values.std(), 2)}" if len(values) > 1 else "")


class TrainingProgress:
    """Update, env steps/s, return, win rate (mean ± standard deviation over seeds) and time left.

    Args:
        console: where to print.
        num_updates: length of the run.
        done: updates that lie behind it already.
    """

    def __init__(self, console: Console, num_updates: int, done: int = 0):
        self._console, self._total, self._before = console, num_updates, done
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            # On 80 columns the numbers need all of them.
            *([BarColumn(bar_width=10)] if console.width >= 100 else []),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=num_updates, completed=done)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, done: int, env_steps: int, shown: Mapping[str, np.ndarray]) -> float:
        """Shows that ``done`` updates, or ``env_steps`` steps over all seeds, are behind us.

        Args:
            done, env_steps: so far, with what an earlier process did.
            shown: label -> a value for each seed.

        Returns:
            Env steps per second of this process, over all seeds.
        """
        now = time.monotonic()
        here = done - self._before  # speed and time left are those of this process
        speed = env_steps * here / done / max(now - self._start, 1e-9)
        text = "  ".join(
            [f"{speed:,.0f} env steps/s"]
            # Before the first episode has ended there is nothing to show.
            + [f"{name} {_over_seeds(values)}" for name, values in shown.items() if _all_known(values)]
        )
        self._bar.update(self._task, completed=done, description=text)
        if not self._console.is_terminal and (
            now - self._last_line >= SECONDS_BETWEEN_LINES or done == self._total
        ):
            self._last_line = now
            left = (now - self._start) / here * (self._total - done)
            tell(self._console, f"update {done}/{self._total}  {text}  left {left:.0f} s")
        return speed
