"""Kills a run again and again, resumes it until it ends, and compares it with one that was never stopped.

    python tests/checks/kill_check.py --kills 20
    python tests/checks/kill_check.py --kills 5 --signal SIGTERM

Each run saves its state after every update, so that kills also fall into the writing of checkpoints. At the
end its parameters, optimiser, environments and keys must be the uninterrupted run's bit by bit, and so must
its metrics file. The exit status is the number of runs that differ.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import tyro

from fp3o_jax.runs import load_run
from fp3o_jax.runs.packing import digest, pack

SETTINGS = (
    "--env mpe/simple_spread --sharing partial --num-seeds 2 --num-envs 4 --rollout-length 8"
    " --hidden-sizes 8 --no-layer-norm"
)


@dataclasses.dataclass
class Check:
    """How often, and what."""

    kills: int = 20
    """in all, over as many runs as it takes"""
    signal: Literal["SIGKILL", "SIGTERM"] = "SIGKILL"
    """what they are sent"""
    updates: int = 60
    """of each run"""
    settings: str = SETTINGS
    """of each run"""
    longest: float = 4.0
    """seconds: a run is killed at a random moment up to so long after it has saved its first state"""
    seed: int = 0
    """of the moments"""


def start(check: Check, run: Path, cache: Path) -> subprocess.Popen:
    settings = check.settings.split()
    sizes = {name: int(settings[settings.index(name) + 1]) for name in ("--num-envs", "--rollout-length")}
    steps = check.updates * sizes["--num-envs"] * sizes["--rollout-length"]
    command = [sys.executable, "-m", "fp3o_jax.cli", "train", *settings, "--total-env-steps", str(steps)]
    command += ["--run-dir", str(run), "--checkpoint-seconds", "0", "--eval-episodes", "4"]
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR=str(cache))
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def saved(run: Path) -> list[str]:
    """Names in the folder of checkpoints; those being written have longer ones."""
    folder = run / "checkpoints"
    return [p.name for p in folder.iterdir()] if folder.exists() else []


def stop_at_random(check: Check, process: subprocess.Popen, run: Path, moments: random.Random) -> bool:
    """Whether it was stopped before it ended."""
    before = set(saved(run))
    while process.poll() is None and set(saved(run)) <= before:
        time.sleep(0.01)
    try:
        process.wait(moments.uniform(0, check.longest))
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, check.signal))
        process.wait()
    # Before and after the training itself, SIGTERM ends the process at once.
    if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise RuntimeError(f"the run failed with status {process.returncode}:\n{process.stderr.read()}")
    return process.returncode != 0


def result(run: Path) -> tuple[bytes, str]:
    # All but the time at which a row was written.
    rows = re.sub(rb', "time": [\d.]+\}', b"}", (run / "metrics.jsonl").read_bytes())
    # Those of episodes are null before the first one ends.
    told = re.sub(rb'"(episode_return|episode_length|win_rate)": null', b"", rows)
    if not told or b"null" in told:
        raise RuntimeError(f"{run} has no metrics, or some that are not finite")
    return rows, digest(pack(load_run(run)[1]))


def main(check: Check) -> int:
    moments = random.Random(check.seed)
    kills = differing = number = while_writing = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole = root / "whole"
        if (process := start(check, whole, root / "cache")).wait():
            raise RuntimeError(process.stderr.read())
        expected = result(whole)
        while kills < check.kills:
            number += 1
            run = root / f"run{number}"
            updates = []
            while True:
                if not stop_at_random(check, start(check, run, root / "cache"), run, moments):
                    break
                kills += 1
                while_writing += any(not name.isdigit() for name in saved(run))
                updates.append(max((int(name) for name in saved(run) if name.isdigit()), default=0))
            same = result(run) == expected
            differing += not same
            verdict = "identical" if same else "DIFFERENT"
            print(
                f"run {number}: stopped {len(updates)} times, after updates {updates}: {verdict}", flush=True
            )
    print(f"{kills} x {check.signal}, {while_writing} of them into the writing of a checkpoint; "
          f"{differing} of {number} runs differ")  # fmt: skip
    return differing


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check, description=__doc__)))
