"""Runs the program that deadlocks jaxlib 0.10's CPU backend again and again, each time in a new process.

    python tests/checks/hang_check.py --runs 20              # guarded, as everybody has it
    python tests/checks/hang_check.py --runs 4 --unguarded   # what happens without the guard

Four vmapped seeds of FP3O with networks of each agent's own on SMAX 3m, 64 environments, 128 steps. A run
that has not ended after ``--timeout`` seconds counts as hung. The exit status is the number of hung runs.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import tyro

from fp3o_jax import xla

PROGRAM = """
from fp3o_jax import Config, make_train
import jax
jax.config.update("jax_compilation_cache_dir", {cache!r})
train = make_train(Config(sharing="none", total_env_steps=64 * 128 * {updates}))
run = jax.jit(jax.vmap(train))
for i in range({repeats}):
    jax.block_until_ready(run(jax.random.split(jax.random.key(i), 4)))
    print("    finished", i + 1, flush=True)
"""


@dataclasses.dataclass
class Check:
    """How often and how long."""

    runs: int = 20
    """processes, one after another"""
    repeats: int = 1
    """times that each process runs the program"""
    updates: int = 3
    """iterations of each"""
    timeout: float = 180.0
    """seconds after which a run counts as hung"""
    unguarded: bool = False
    """leave the scheduler that deadlocks switched on"""
    cache: str = os.path.join(os.path.expanduser("~"), ".cache", "fp3o-jax", "hang-check")
    """where the compiled program is kept between the runs"""


def main(check: Check) -> int:
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    flags = env.get("XLA_FLAGS", "").replace(f"--{xla.FLAG}=false", "")
    env["XLA_FLAGS"] = f"{flags} --{xla.FLAG}=true" if check.unguarded else flags
    program = PROGRAM.format(cache=check.cache, updates=check.updates, repeats=check.repeats)
    hung = 0
    for run in range(1, check.runs + 1):
        start = time.monotonic()
        try:
            subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=check.timeout)
            verdict = "finished"
        except subprocess.TimeoutExpired:
            hung, verdict = hung + 1, "HUNG"
        print(f"run {run:3}  {time.monotonic() - start:6.1f} s  {verdict}", flush=True)
    print(f"{hung} of {check.runs} runs hung")
    return hung


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check, description=__doc__)))
