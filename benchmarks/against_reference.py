"""One whole FP3O update: the reference's, in PyTorch, against ours, on the same processor.

    git clone https://github.com/an-anony/fp3o-icml23 reference
    python3.11 -m venv torch-venv && torch-venv/bin/pip install torch numpy gym tensorboardX
    python benchmarks/against_reference.py --reference reference --reference-python torch-venv/bin/python

Both steps, the independent and the dependent one, of feed-forward networks on one minibatch. Of the reference
the ``train`` of its runner is timed, on random data in its buffers: the advantages' normalisation, the
ratios, the condition, its shuffling and all gradient steps. Of ours the same, on a batch that JAX holds
already; it does not shuffle, since the whole batch is one minibatch. In neither: the rollout, GAE, and the
normalisation of values (``--popart`` adds PopArt to the reference, whose default it is). The dependent step
always runs, whatever the condition says. Critics see a state of each agent's own, as in the reference's
buffers. The reference has a process of its own and takes turns with ours, and with a program of nothing but
the update's matrix products, each layer over all samples at once: a yardstick for what is left to gain.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from harness import CONSOLE, Options, Peer, Ratio, Report, Timing, timed
from products import plain_products
from random_team import Sizes, random_update, team_networks

SCRIPT = Path(__file__).parent / "peers" / "reference_update.py"
GOAL = 5.0
# Seconds between turns: threads that wait for work spin for a while, and would take a core from the other.
PAUSE = 0.3
# Other programs slow PyTorch's threads down far more than ours, which would pass for a speed-up: beyond this
# factor between the rounds of a ratio nothing is concluded from it.
DISTURBED = 2.0


@dataclasses.dataclass(frozen=True)
class AgainstReference(Options):
    """What to measure."""

    reference: Path | None = None
    """checkout of github.com/an-anony/fp3o-icml23"""
    reference_python: Path = Path(sys.executable)
    """interpreter with PyTorch, NumPy, gym and tensorboardX; by default this one"""
    sharings: tuple[str, ...] = ("full", "partial", "none")
    """parameter sharing"""
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    popart: bool = False
    """let the reference normalise values by PopArt"""
    state_per_agent: bool = True
    """off: one array of states for all agents, as in a training run: a critic that all agents share is then
    computed once for all of them, and no longer does the same work as the reference's"""
    updates: int = 2
    """updates in each turn: they follow one another, as in a training run"""
    rounds: int | None = None
    """turns of both; by default 3, in full mode 15"""


def measure(options: AgainstReference, sharing: str, report: Report) -> None:
    """Adds the row of one sharing."""
    rounds = options.rounds or (3 if options.mode == "quick" else 15)
    update, compile_seconds = random_update("fp3o", sharing, options.sizes, options.state_per_agent)
    products = products_of(sharing, options)
    theirs, ours, bare = [], [], []
    spec = dataclasses.asdict(options.sizes) | {
        "checkout": str(options.reference.resolve()),
        "sharing": sharing,
        "popart": options.popart,
    }
    with Peer(options.reference_python, SCRIPT, spec) as reference:
        # The first round is a warm-up.
        for _ in range(rounds + 1):
            theirs.append(np.mean([reference.run() for _ in range(options.updates)]))
            time.sleep(PAUSE)
            ours.append(np.mean([timed(update) for _ in range(options.updates)]))
            time.sleep(PAUSE)
            bare.append(timed(products))
            time.sleep(PAUSE)
        about = reference.about
    reference_time, our_time, bare_time = (Timing(np.array(x[1:])) for x in (theirs, ours, bare))
    speed_up = reference_time.over(our_time)
    report.add(
        sharing=sharing,
        reference_s=reference_time.median,
        ours_s=our_time.median,
        speed_up=speed_up,
        products_s=bare_time.median,
        ours_over_products=our_time.over(bare_time),
        rounds=rounds,
        compile_s=compile_seconds,
        torch=about["torch"],
        torch_threads=about["threads"],
    )
    report.note(
        f"{sharing}: {speed_up} times as fast, goal of {GOAL:g} {judge(speed_up)}; an update of nothing but "
        f"its matrix products would be {reference_time.over(bare_time)} times as fast"
    )


def products_of(sharing: str, options: AgainstReference) -> Callable[[], Any]:
    """The matrix products of one update, both steps, as a program of nothing else."""
    sizes = options.sizes
    networks = team_networks(sharing, sizes, options.state_per_agent)
    each = sizes.rollout_length * sizes.num_envs
    samples = {"actor": each * sizes.num_agents, "critic": each * networks.num_critics}
    params = jax.eval_shape(networks.init, jax.random.key(0))
    return plain_products(params, samples, 2 * sizes.epochs)[0]


def judge(speed_up: Ratio) -> str:
    """Whether the goal was met; left open where the rounds do not agree."""
    if speed_up.high > DISTURBED * speed_up.low:
        return "not judged: the rounds differ too much, something else was running"
    return "met" if speed_up.median >= GOAL else "missed"


def missing(options: AgainstReference) -> str | None:
    """What the benchmark cannot run without."""
    if options.reference is None or not (options.reference / "algorithms" / "fp3o_trainer.py").is_file():
        return (
            f"--reference {options.reference} is no checkout of the reference: "
            "git clone https://github.com/an-anony/fp3o-icml23 and give its path"
        )
    try:
        needs = [options.reference_python, "-c", "import torch, numpy, gym, tensorboardX"]
        found = subprocess.run(needs, capture_output=True, text=True)
    except OSError as error:
        return f"--reference-python {options.reference_python} cannot be run: {error}"
    if found.returncode:
        return (
            f"--reference-python {options.reference_python} lacks what the reference needs (torch, numpy, "
            f"gym, tensorboardX): {found.stderr.strip().splitlines()[-1]}"
        )
    return None


def main(options: AgainstReference) -> int:
    if what := missing(options):
        CONSOLE.print(what, style="bold red", soft_wrap=True)
        return 2
    report = Report("against_reference", "One FP3O update against the reference's", options)
    sizes = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(options.sizes).items())
    states = "one for each agent" if options.state_per_agent else "one for all agents (ours alone)"
    report.note(f"{sizes}; states: {states}; PopArt in the reference: {'on' if options.popart else 'off'}")
    for sharing in options.sharings:
        measure(options, sharing, report)
    report.show()
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(AgainstReference, description=__doc__)))
