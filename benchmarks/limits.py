"""How close an iteration is to what the machine can do, phase by phase.

    python benchmarks/limits.py
    python benchmarks/limits.py --recurrent
    python benchmarks/limits.py --mode full

An iteration collects a rollout, turns it into a batch (values, advantages, targets) and learns from it. Each
phase is timed by itself, beside the whole. Two yardsticks take turns with them:

- the bare environment: the same number of steps with random actions, no network, no record;
- plain matrix products: those that the update cannot do without (forward, and both gradients), with the
  same shapes, as often as the update does them. Their FLOP/s is what these shapes can reach here, and the
  update's FLOP/s is those products' count over the update's time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from fp3o_jax import Config, Environment, make_train
from fp3o_jax.envs.base import batch_reset, batch_step
from harness import Options, Repeated, Report, take_turns
from products import plain_products

QUICK = ("smax/3m",)
FULL = (
    ("smax/3m", False),
    ("smax/3m", True),
    ("smax/3s5z", False),
    ("smax/3s5z", True),
    ("mabrax/halfcheetah_6x1", False),
    ("mpe/simple_spread", False),
)


@dataclasses.dataclass(frozen=True)
class Limits(Options):
    """What to measure."""

    envs: tuple[str, ...] = ()
    """environments; by default smax/3m; in full mode each family, SMAX with and without a GRU"""
    recurrent: bool = False
    """a GRU in every network, in the environments named and in quick mode"""
    algorithm: str = "fp3o"
    """algorithm"""
    sharing: str = "full"
    """parameter sharing"""
    num_envs: int = 64
    """environments stepped in parallel"""
    rollout_length: int = 128
    """steps per environment and update"""
    hidden_size: int = 64
    """width of every layer"""
    rounds: int = 5
    """timed calls of everything"""


def random_actions(env: Environment, num_envs: int, steps: int) -> Callable[[Any, Array], Any]:
    """The environment with random actions: what is left of a rollout without networks and record."""
    actions = max(env.action_sizes)

    def act(state: Any, key: Array) -> tuple[Any, Array]:
        key_action, key_step = jax.random.split(key)
        if env.discrete:
            action = jax.random.randint(key_action, (env.num_agents, num_envs), 0, actions)
        else:
            action = jax.random.uniform(key_action, (env.num_agents, num_envs, actions), minval=-1.0)
        keys, alive = jax.random.split(key_step, num_envs), jnp.ones((env.num_agents, num_envs), bool)
        state, observation, outcome = batch_step(env, keys, state, action, alive)
        # Sums, so that no part of the observation is left out of the program.
        return state, sum(leaf.sum() for leaf in jax.tree.leaves((observation, outcome)))

    def play(state: Any, key: Array) -> Any:
        return jax.lax.scan(act, state, jax.random.split(key, steps))

    return play


def bare_environment(env: Environment, num_envs: int, steps: int) -> Callable[[], Any]:
    """:func:`random_actions`, compiled, from a fresh state."""
    play = jax.jit(random_actions(env, num_envs, steps))
    state, _ = jax.jit(lambda key: batch_reset(env, jax.random.split(key, num_envs)))(jax.random.key(0))
    return lambda: play(state, jax.random.key(1))


def measure(limits: Limits, report: Report, env: str, recurrent: bool) -> None:
    """Adds the rows of one environment: a phase each."""
    trainer = make_train(
        Config(
            env=env,
            algorithm=limits.algorithm,
            sharing=limits.sharing,
            recurrent=recurrent,
            num_envs=limits.num_envs,
            rollout_length=limits.rollout_length,
            hidden_size=limits.hidden_size,
        )
    )
    config, key = trainer.config, jax.random.key(0)
    state = jax.jit(trainer.init)(key)
    schedule = trainer.algorithm.schedule(key, trainer.env.num_agents)
    _, trajectory = jax.jit(trainer.collect)(state, key)
    targets = jax.jit(trainer.targets)(state, trajectory)
    stages = schedule.owners.shape[0]
    share = schedule.owners.shape[1] / trainer.env.num_agents
    repetitions = round(stages * share * config.epochs)
    steps = config.num_envs * config.rollout_length
    samples = {"actor": steps * trainer.env.num_agents, "critic": steps * trainer.networks.num_critics}
    products, flops = plain_products(state.params, samples, repetitions)

    collect, make_targets, learn = map(jax.jit, (trainer.collect, trainer.targets, trainer.learn))
    programs = {
        "iteration": Repeated(jax.jit(trainer.update, donate_argnums=0), jax.tree.map(jnp.copy, state)),
        "collect": lambda: collect(state, key),
        "targets": lambda: make_targets(state, trajectory),
        "learn": lambda: learn(state, targets, schedule, key),
        "bare environment": bare_environment(trainer.env, config.num_envs, config.rollout_length),
        "plain products": products,
    }
    times = take_turns(programs, limits.rounds)
    whole = times["iteration"]
    label = f"{env}{' GRU' if recurrent else ''}"
    for name, time in times.items():
        row: dict[str, Any] = {
            "env": label,
            "phase": name,
            "ms": 1e3 * time.median,
            "over_iteration": time.over(whole),
        }
        row["env_steps_per_s"] = config.steps_per_update / time.median
        if name in ("learn", "plain products"):
            row["GFLOP_per_s"] = flops / time.median / 1e9
        report.add(**row)
    report.note(
        f"{label}: an iteration runs at {times['bare environment'].over(whole)} of the bare environment's "
        f"speed; learning at {times['plain products'].over(times['learn'])} of the plain products'"
    )


def main(limits: Limits) -> None:
    report = Report("limits", "How close to the limit", limits)
    named = limits.envs or (QUICK if limits.mode == "quick" else ())
    for env, recurrent in tuple((env, limits.recurrent) for env in named) or FULL:
        measure(limits, report, env, recurrent)
    report.show()


if __name__ == "__main__":
    main(tyro.cli(Limits, description=__doc__))
