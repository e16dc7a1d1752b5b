"""How many kernels an iteration starts on a GPU that is not there, by XLA's compiler for it.

    pip install 'jax[cuda12]'
    python benchmarks/kernels.py

A small kernel takes a GPU the time that it takes to start, so their number bounds how fast small teams step
and learn. They are counted in the compiled text, those within loops as often as they run: of collecting for
each step of the environments, of values and learning for each update. Nothing is run, and nothing timed;
kernels are not tuned for the device, which changes what one of them does, and hardly their number.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from typing import Any
from unittest import mock

import jax
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from fp3o_jax import Config, make_train
from harness import CONSOLE, Options, Report
from sequential_steps import CALLED, COMPUTATION, TRIPS

#: What XLA asks of a device before it compiles for it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 1 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*?\s([\w-]+)\(")
#: What starts nothing; the end of what is started elsewhere; loops and calls, of which what is within counts.
FREE = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast", "after-all", "opt-barrier"}
FREE |= {"while", "call", "conditional", "fusion-done", "copy-done", "async-done"}


@dataclasses.dataclass(frozen=True)
class Kernels(Options):
    """What to count."""

    num_envs: int = 128
    """environments"""
    top: int = 0
    """print this many places in the program that start most kernels as well"""


def kernels_of(text: str) -> collections.Counter[str]:
    """Kernels of a compiled program by the place that they come from, those in loops once for each step.

    Args:
        text: of the program, ``compiled.as_text()``. A loop whose steps XLA does not know counts as one.
    """
    own: dict[str, collections.Counter[str]] = {}
    within: dict[str, list[tuple[int, str]]] = {}
    here = entry = ""
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            here, entry = begins[2], begins[2] if begins[1] else entry
            own[here], within[here] = collections.Counter(), []
        elif found := INSTRUCTION.match(line):
            if found[1] not in FREE:
                place = re.search(r'op_name="([^"]*)"', line)
                own[here][place[1] if place else found[1]] += 1
            elif found[1] in ("while", "call", "conditional"):
                trips = TRIPS.search(line)
                for how, name in CALLED.findall(line):
                    within[here].append((int(trips[1]) if trips and how == "body" else 1, name))

    def total(name: str) -> collections.Counter[str]:
        counted = collections.Counter(own[name])
        for times, called in within[name]:
            for place, number in total(called).items():
                counted[place] += times * number
        return counted

    return total(entry)


def compile_for(device: Any, fn: Any, *shapes: Any) -> str:
    """The text of the program that XLA makes of ``fn`` for a device that is not there."""
    place = SingleDeviceSharding(device)
    there = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    lowered = jax.jit(fn).trace(*there).lower(lowering_platforms=("cuda",))
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text()


def count(device: Any, config: Config) -> dict[str, collections.Counter[str]]:
    """Kernels of the three phases of an iteration."""
    trainer, key = make_train(config), jax.random.key(0)
    state = jax.eval_shape(trainer.init, key)
    _, trajectory = jax.eval_shape(trainer.collect, state, key)
    targets = jax.eval_shape(trainer.targets, state, trajectory)

    def learn(state: Any, targets: Any, key: jax.Array) -> Any:
        batch = targets.batch
        schedule = trainer.algorithm.draw(key, batch.advantage, batch.value, batch.alive)
        return trainer.learn(state, targets, schedule, key)

    programs = {
        "collect": (trainer.collect, state, key),
        "targets": (trainer.targets, state, trajectory),
        "learn": (learn, state, targets, key),
    }
    return {name: kernels_of(compile_for(device, *program)) for name, program in programs.items()}


def main(options: Kernels) -> None:
    # The compiler needs no driver, which the plug-in would otherwise ask for.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    (device,) = topologies.get_topology_desc("", "cuda", target_config=H100, topology="1x1x1").devices
    full = options.mode == "full"
    report = Report("kernels", "kernels of an iteration, compiled for an H100 that is not there", options)
    for env, algorithm, sharing, recurrent in (
        ("smax/3m", "mappo", "full", False),
        ("smax/3m", "mappo", "full", True),
        *((("smax/3m", "fp3o", "none", True), ("mpe/simple_spread", "mappo", "full", False)) * full),
    ):
        config = Config(
            env=env,
            algorithm=algorithm,
            sharing=sharing,
            recurrent=recurrent,
            num_envs=options.num_envs,
            rollout_length=32,
            chunk_length=32,
            epochs=4,
            num_minibatches=4,
        )
        # What is chosen by the kind of device is chosen for that one.
        with mock.patch.object(jax, "default_backend", lambda: "gpu"):
            phases = count(device, config)
        counted = {name: sum(kernels.values()) for name, kernels in phases.items()}
        counted["collect"] /= config.rollout_length
        report.add(env=env, algorithm=algorithm, sharing=sharing, gru=recurrent, **counted)
        for name, kernels in phases.items() if options.top else ():
            CONSOLE.print(name, kernels.most_common(options.top))
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Kernels, description=__doc__))
