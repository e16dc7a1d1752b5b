"""How much of the time logging may take, of all sinks of a process together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds that logging may take in any case, and its share of the time beyond.
GRACE, SHARE = 2.0, 0.03


class Budget:
    """Time spent, and time allowed; it begins anew when something is opened while nothing is."""

    def __init__(self) -> None:
        self._open = 0

    def opened(self) -> None:
        if not self._open:
            self._begin, self._spent = time.monotonic(), 0.0
            self._update, self._answer = -1, True
        self._open += 1

    def closed(self) -> None:
        self._open -= 1

    def allows(self, update: int) -> bool:
        """Whether an update is logged: of runs that train side by side all are, or none."""
        if update != self._update:
            self._update = update
            self._answer = self._spent <= GRACE + SHARE * (time.monotonic() - self._begin)
        return self._answer

    @contextmanager
    def spending(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - begin


#: Of W&B, whose client takes a millisecond for a row.
WANDB = Budget()
