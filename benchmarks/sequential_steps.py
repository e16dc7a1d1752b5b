"""How many steps learning takes one after another, by the text of the compiled program.

    python benchmarks/sequential_steps.py
    python benchmarks/sequential_steps.py --mode full

With a GRU each gradient step is a loop over the steps of a chunk and one back again, for policies and for
critics. They are counted apart, and in one loop, as accelerators have them (`fp3o_jax.kernels.loops`),
whatever device this runs on; and the memory of temporaries, as XLA plans it here. Nothing is timed.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from unittest import mock

import jax
import tyro

from fp3o_jax import Config, make_train, xla
from harness import Options, Report

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
#: A loop, or what else is made of another computation.
CALLED = re.compile(r"\b(body|to_apply|calls|(?:true|false)_computation)=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class SequentialSteps(Options):
    """What to count."""

    num_envs: int = 0
    """environments; by default 4, and 128 in full mode"""


def steps_of(text: str) -> int:
    """Steps of all loops of a compiled program one after another, those of loops within once for each step.

    Args:
        text: of the program, ``compiled.as_text()``. A loop whose steps XLA does not know counts as one.
    """
    within: dict[str, list[tuple[int, str]]] = {}
    counted: dict[str, int] = {}
    here = entry = ""
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            here, entry = begins[2], begins[2] if begins[1] else entry
            within[here] = []
        for how, name in CALLED.findall(line):
            trips = TRIPS.search(line)
            within[here].append(((int(trips[1]) if trips else 1) if how == "body" else 0, name))

    def steps(name: str) -> int:
        if name not in counted:
            counted[name] = sum(trips + (trips or 1) * steps(called) for trips, called in within[name])
        return counted[name]

    return steps(entry)


def learning(config: Config, together: bool) -> tuple[int, float]:
    """Steps and MiB of one call of the third phase of an iteration, the loops of policies and critics
    ``together`` or apart."""
    trainer = make_train(config)

    def arguments(key: jax.Array) -> tuple[Any, ...]:
        state = trainer.init(key)
        _, trajectory = trainer.collect(state, key)
        targets = trainer.targets(state, trajectory)
        batch = targets.batch
        return state, targets, trainer.algorithm.draw(key, batch.advantage, batch.value, batch.alive), key

    with mock.patch.object(xla, "steps_wait", lambda: together):
        lowered = jax.jit(trainer.learn).lower(*jax.eval_shape(arguments, jax.random.key(0)))
    compiled = xla.compile_for_one_run(lowered)
    return steps_of(compiled.as_text()), compiled.memory_analysis().temp_size_in_bytes / 2**20


def main(options: SequentialSteps) -> None:
    full = options.mode == "full"
    report = Report("sequential_steps", "steps of loops in one update, one after another", options)
    for algorithm in ("mappo", "fp3o"):
        for sharing in ("full", "partial", "none") if full else ("full",):
            config = Config(
                env="smax/3m" if full else "mpe/simple_spread",
                algorithm=algorithm,
                sharing=sharing,
                recurrent=True,
                num_envs=options.num_envs or (128 if full else 4),
                rollout_length=128 if full else 16,
                chunk_length=128 if full else 8,
                epochs=4,
                num_minibatches=4,
                hidden_size=128 if full else 8,
                # All at once, as on an accelerator.
                block_size=2**40,
            )
            steps, memory = zip(*(learning(config, together) for together in (False, True)), strict=True)
            counted = {"apart": steps[0], "together": steps[1], "ratio": steps[1] / steps[0]}
            counted |= {"apart_mib": memory[0], "together_mib": memory[1]}
            report.add(algorithm=algorithm, sharing=sharing, **counted)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(SequentialSteps, description=__doc__))
