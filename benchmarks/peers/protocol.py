"""What a peer's process says to the benchmark that started it. Standard library alone."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def begin() -> dict[str, Any]:
    """The specification that the benchmark passed on; from now on what peers print goes to stderr."""
    global _answers
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return json.loads(sys.argv[1])


def serve(run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, **about: Any) -> None:
    """Answers every line on stdin with the seconds of one ``run(prepare())``, ``prepare`` not counted.

    Says ``about`` when it is ready.
    """
    print(json.dumps(about), file=_answers, flush=True)
    for _ in sys.stdin:
        prepared = prepare()
        start = time.perf_counter()
        run(prepared)
        print(json.dumps({"seconds": time.perf_counter() - start}), file=_answers, flush=True)
