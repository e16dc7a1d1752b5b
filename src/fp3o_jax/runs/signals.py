"""Stopping between two updates instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(SystemExit):
    """A run was asked to stop and has saved its state.

    Left alone, it ends the process with the status that a shell gives for the signal (130 or 143), so that a
    script can tell that the run is not finished.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class Stop:
    """Which signal has asked the run to stop, if any."""

    signum: int | None = None


@contextmanager
def deferred() -> Iterator[Stop]:
    """Keeps SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 for later; a second one acts at once.

    The last two are how Slurm warns of the end of a job's time. Signals that are ignored, as SIGINT is in a
    shell's background jobs, stay ignored. Outside the main thread, where handlers cannot be set, signals stay
    as they are.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {}

    def handler(signum: int, frame: object) -> None:
        stop.signum = signum
        for each, action in previous.items():
            signal.signal(each, action)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(signum) != signal.SIG_IGN:
            previous[signum] = signal.signal(signum, handler)
    try:
        yield stop
    finally:
        for signum, action in previous.items():
            signal.signal(signum, action)
