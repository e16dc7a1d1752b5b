"""Memory of an update by part, from XLA's own analysis, and how many environments fit a budget.

    python benchmarks/memory.py
    python benchmarks/memory.py --mode full
    python benchmarks/memory.py --envs smax/3m smax/3s5z --budget-gib 16

Nothing is run and nothing allocated: the update is compiled for shapes, and XLA says what it needs.

- params: weights and Adam's statistics;
- envs: where the environments stand, and the agents' recurrent states;
- obs, states, other: the rollout. Observations are one per agent; the global state is one for all agents,
  unless critics see something of each agent's own;
- temp(oraries): all that the program needs beside its input and output. The rollout lies in there: its excess
  over the rollout is what learning takes, and any hidden copy;
- peak: input, output that does not take the input's place, temporaries.

For each setting, the peak of two numbers of environments makes a line, from which follows how many fit
the budget; the update of that many is compiled as well, to see whether it does. All this is of one seed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import tyro
from jax.stages import Compiled

from fp3o_jax import Config, make_train
from harness import Options, Report, compiled

MIB = 2**20
#: (environment, recurrent, numbers of environments, steps of a rollout)
QUICK = (("smax/3m", False, (64, 128), (128,)),)
FULL = (
    ("smax/3m", False, (64, 128, 256), (128, 256)),
    ("smax/3m", True, (64, 128, 256), (128,)),
    ("smax/3s5z", False, (64, 128, 256), (128,)),
    ("smax/27m_vs_30m", False, (64, 128), (128,)),
    ("mabrax/halfcheetah_6x1", False, (64, 128), (128,)),
    ("mpe/simple_spread", False, (64, 128, 256), (128,)),
)
# Environments come in multiples of this: batches that divide evenly.
STEP = 64
# Blocks and padding bend the line: where its end misses the budget, it is drawn again through that point.
ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Memory(Options):
    """What to measure."""

    envs: tuple[str, ...] = ()
    """environments, feed-forward, at 64 and 128 copies; by default smax/3m, in full mode each family"""
    algorithm: str = "fp3o"
    """algorithm"""
    sharing: str = "full"
    """parameter sharing"""
    hidden_size: int = 64
    """width of every layer"""
    budget_gib: float | None = None
    """memory to fill; by default the accelerator's, and 4 GiB on a CPU"""


def nbytes(tree: Any) -> int:
    """Bytes of all leaves, arrays or shapes; keys as the words they consist of."""
    words = jax.eval_shape(lambda tree: jax.tree.map(_plain, tree), tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(words))


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def needed(program: Compiled) -> dict[str, int]:
    """Bytes of a program's temporaries, and of all that is there at once."""
    analysis = program.memory_analysis()
    fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temp = analysis.temp_size_in_bytes
    return {"temp": temp, "peak": analysis.argument_size_in_bytes + fresh + temp}


def analyse(config: Config) -> dict[str, float]:
    """Bytes of each part of one update."""
    trainer = make_train(config)
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    _, trajectory = jax.eval_shape(trainer.collect, state, jax.random.key(0))
    update, _ = compiled(trainer.update, state, donate_argnums=0)
    parts = {"obs": nbytes(trajectory.obs), "states": nbytes(trajectory.critic_inputs)}
    rollout = nbytes(trajectory)
    return {
        "params": nbytes((state.params, state.opt_state)),
        "envs": nbytes(state.rollout),
        **parts,
        "other": rollout - sum(parts.values()),
        **needed(update),
        "rollout": rollout,
        "agents": trainer.env.num_agents,
    }


def budget(options: Memory) -> float:
    """Bytes to fill."""
    if options.budget_gib is not None:
        return options.budget_gib * 2**30
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 4 * 2**30)


def measure(
    options: Memory, report: Report, env: str, recurrent: bool, num_envs: tuple[int, ...], steps: int
) -> None:
    """Adds the rows of one environment and length of rollout."""
    label = f"{env}{' GRU' if recurrent else ''}"
    base = Config(
        env=env,
        algorithm=options.algorithm,
        sharing=options.sharing,
        recurrent=recurrent,
        hidden_size=options.hidden_size,
        rollout_length=steps,
    )

    def row(count: int) -> dict[str, float]:
        # So many steps that every number of environments makes a whole number of updates.
        bytes_of = analyse(base.replace(num_envs=count, total_env_steps=count * steps))
        report.add(
            env=label,
            agents=bytes_of.pop("agents"),
            num_envs=count,
            steps=steps,
            **{f"{name}_MiB": size / MIB for name, size in bytes_of.items() if name != "rollout"},
            temp_over_rollout=bytes_of["temp"] / bytes_of["rollout"],
        )
        return bytes_of

    rows = {count: row(count) for count in num_envs}
    few, many = min(rows), max(rows)
    small, large = rows[few], rows[many]
    slope = {name: (large[name] - small[name]) / (many - few) for name in small}
    report.note(
        f"{label}, {steps} steps: an environment more takes {slope['peak'] / MIB:.3f} MiB; temporaries grow "
        f"{slope['temp'] / slope['rollout']:.2f} times as fast as the rollout"
    )
    available = budget(options)
    for _ in range(ATTEMPTS):
        fitting = int(few + (available - small["peak"]) / slope["peak"]) // STEP * STEP
        if fitting < STEP:
            report.note(f"{label}, {steps} steps: not {STEP} environments fit {available / 2**30:.3g} GiB")
            return
        there = row(fitting)
        if there["peak"] <= available:
            break
        slope["peak"] = (there["peak"] - small["peak"]) / (fitting - few)
    share = there["peak"] / available
    report.note(
        f"{label}, {steps} steps: {fitting:,} environments need {share:.3f} of {available / 2**30:.3g} GiB"
    )


def main(options: Memory) -> None:
    report = Report("memory", f"Memory of an update by part: {options.algorithm}, {options.sharing}", options)
    chosen = QUICK if options.mode == "quick" else FULL
    if options.envs:
        chosen = tuple((env, False, (64, 128), (128,)) for env in options.envs)
    for env, recurrent, num_envs, lengths in chosen:
        for steps in lengths:
            measure(options, report, env, recurrent, num_envs, steps)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Memory, description=__doc__))
