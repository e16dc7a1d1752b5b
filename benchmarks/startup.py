"""Start-up: how long until the first update is done, without and with a cache of compiled programs.

    python benchmarks/startup.py
    python benchmarks/startup.py --mode full

Each start is a process of its own, which makes and compiles what `fp3o train` does, in the same order. Cold:
the cache folder is empty. Warm: the same again, with what the cold start left there. Trace covers everything
in Python, the lowering to XLA's language as well; compile is XLA, or reading the cache. The goals are about
trace, compile and first update; imports and the making of the environment come on top, and are the same in
any program that uses JAX and JaxMARL. The initial state is compiled while Python traces the update; what both
take side by side counts as compilation. The evaluation is traced and compiled when it is first needed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from harness import Options, Report, Timing

SCRIPT = Path(__file__).parent / "peers" / "start.py"
# Seconds of trace, compile and first update.
GOALS = {"cold": 15.0, "warm": 6.0}
GOAL_ENV = "smax/3m"
QUICK = ((GOAL_ENV, False),)
FULL = (
    *QUICK,
    (GOAL_ENV, True),
    ("smax/3s5z", False),
    ("mabrax/halfcheetah_6x1", False),
    ("mpe/simple_spread", False),
)
COUNTED = ("trace_s", "compile_s", "first_update_s")


@dataclasses.dataclass(frozen=True)
class Startup(Options):
    """What to measure."""

    envs: tuple[str, ...] = ()
    """environments, feed-forward; by default smax/3m; in full mode with a GRU too, and each family"""
    algorithm: str = "fp3o"
    """algorithm"""
    sharing: str = "full"
    """parameter sharing"""
    rounds: int | None = None
    """cold and warm starts; by default 2, in full mode 3"""


def start(setting: dict[str, Any], cache: Path) -> dict[str, float]:
    """Seconds of each part of one start."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(setting)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: Startup, report: Report, env: str, recurrent: bool) -> None:
    """Adds the rows of one environment: a cold and a warm start."""
    setting = {
        "env": env,
        "recurrent": recurrent,
        "algorithm": options.algorithm,
        "sharing": options.sharing,
    }
    starts: dict[str, list[dict[str, float]]] = {kind: [] for kind in GOALS}
    for _ in range(options.rounds or (2 if options.mode == "quick" else 3)):
        with tempfile.TemporaryDirectory() as cache:
            for kind in GOALS:
                starts[kind].append(start(setting, Path(cache)))
    totals = {
        kind: Timing(np.array([sum(one[name] for name in COUNTED) for one in those]))
        for kind, those in starts.items()
    }
    label = f"{env}{' GRU' if recurrent else ''}"
    for kind, those in starts.items():
        parts = {name: float(np.median([one[name] for one in those])) for name in those[0]}
        report.add(
            env=label,
            cache=kind,
            **parts,
            to_first_update_s=totals[kind].median,
            over_cold=totals[kind].over(totals["cold"]),
        )
        if env == GOAL_ENV and not recurrent:
            met = "met" if totals[kind].median <= GOALS[kind] else "missed"
            report.note(
                f"{label}, {kind}: {totals[kind].median:.1f} s ({totals[kind].seconds.min():.1f}-"
                f"{totals[kind].seconds.max():.1f}) of trace, compile and first update, goal of "
                f"{GOALS[kind]:g} s {met}"
            )


def main(options: Startup) -> None:
    report = Report("startup", "Start-up: seconds until the first update is done", options)
    chosen = tuple((env, False) for env in options.envs) or (QUICK if options.mode == "quick" else FULL)
    for env, recurrent in chosen:
        measure(options, report, env, recurrent)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Startup, description=__doc__))
