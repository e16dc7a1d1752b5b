"""One whole FP3O update: the reference's, in PyTorch, against ours, on the same processor.

    git clone https://github.com/an-anony/fp3o-icml23 reference
    python3.11 -m venv torch-venv && torch-venv/bin/pip install torch numpy tensorboardX
    python benchmarks/against_reference.py --reference reference --reference-python torch-venv/bin/python

Both steps, independent and dependent, a number of epochs each on one minibatch. Of the reference the
``train`` of its runner is timed, with random data in its buffers: the ratios, the condition, the gradient
steps; no rollout, no returns, no value normalisation. Ours is the same update on a batch that is on the
device already. The reference runs in a process of its own and takes turns with ours; the other waits.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tyro

from harness import CONSOLE, Options, Peer, Report, Timing, timed
from random_updates import random_update

SCRIPT = Path(__file__).parent / "peers" / "reference_update.py"
GOAL = 5.0


@dataclasses.dataclass(frozen=True)
class AgainstReference(Options):
    """What to measure."""

    reference: Path | None = None
    """checkout of github.com/an-anony/fp3o-icml23"""
    reference_python: Path = Path(sys.executable)
    """interpreter that has PyTorch; by default this one"""
    sharings: tuple[str, ...] = ("full", "partial", "none")
    """parameter sharing"""
    num_agents: int = 8
    """agents"""
    rollout_length: int = 400
    """steps"""
    num_envs: int = 8
    """environments"""
    obs_size: int = 128
    """features of an observation"""
    state_size: int = 200
    """features of the global state"""
    num_actions: int = 10
    """actions"""
    hidden_size: int = 64
    """width of every layer"""
    epochs: int = 5
    """epochs of each step"""
    rounds: int = 0
    """timed updates of both; by default 5, and 15 in full mode"""


def main(options: AgainstReference) -> int:
    if options.reference is None or not (options.reference / "algorithms" / "fp3o_trainer.py").exists():
        CONSOLE.print(
            f"--reference {options.reference} is not a checkout of the reference: git clone "
            "https://github.com/an-anony/fp3o-icml23 and pass its path",
            style="bold red",
            soft_wrap=True,
        )
        return 2
    report = Report("against_reference", "One FP3O update against the reference's", options)
    rounds = options.rounds or (5 if options.mode == "quick" else 15)
    names = ("num_agents", "obs_size", "state_size", "num_actions", "hidden_size", "epochs")
    sizes = {name: getattr(options, name) for name in names}
    rows = {"rollout_length": options.rollout_length, "num_envs": options.num_envs}
    for sharing in options.sharings:
        spec = sizes | rows | {"checkout": str(options.reference.resolve()), "sharing": sharing}
        ours = random_update("fp3o", sharing, samples=options.rollout_length * options.num_envs, **sizes)
        compile_seconds = timed(ours)
        ours()
        with Peer(options.reference_python, SCRIPT, spec) as peer:
            seconds = [(peer.run(), timed(ours)) for _ in range(rounds)]
            threads = peer.about["threads"]
        theirs, own = (Timing(np.array(column)) for column in zip(*seconds, strict=True))
        ratio = theirs.over(own)
        report.add(
            sharing=sharing,
            reference_s=theirs.median,
            ours_s=own.median,
            speed_up=ratio,
            compile_s=compile_seconds,
            torch_threads=threads,
        )
        met = "met" if ratio.median >= GOAL else "missed"
        report.note(f"{sharing}: {ratio.median:.1f} times as fast; goal of {GOAL:g}: {met}")
    report.show()
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(AgainstReference, description=__doc__)))
