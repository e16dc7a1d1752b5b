"""What a user is told as training begins."""

from __future__ import annotations

import warnings

from rich.console import Console

from fp3o_jax.config import Config
from fp3o_jax.runs.devices import RunAxis
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.origin import about
from fp3o_jax.runs.progress import tell
from fp3o_jax.train import Trainer


def tell_of_growth(console: Console, before: int, config: Config) -> None:
    """A run that goes on beyond the end that it was going to have."""
    falls = config.lr_schedule == "linear"
    higher = "so from here on they are higher than they were going to be"
    then = f": learning rates fall linearly to 0 at the new end, {higher}" * falls
    tell(console, f"total_env_steps grows from {before:,} to {config.total_env_steps:,}{then}")


def tell_of_starting(console: Console, trainer: Trainer, num_members: int, axis: RunAxis) -> None:
    """What trains, how much of it, and on what."""
    config, num_runs, devices = trainer.config, axis.num_runs, axis.devices
    many = f"{num_runs} seed(s)" if num_members == 1 else f"{num_runs} runs of {num_members} configurations"
    tell(
        console,
        f"{config.algorithm} on {trainer.env.name}, sharing {config.sharing}, "
        f"{trainer.env.num_agents} agents, {many}, "
        f"on {f'{len(devices)} x ' * (len(devices) > 1)}{devices[0].device_kind}",
    )
    if axis.idle:
        there = axis.idle + len(devices)
        remedy = f"env_shards={there // num_runs} would spread the environments of each run over them"
        tell(console, f"{axis.idle} of {there} devices have nothing to do: {remedy}")


def tell_of_resuming(
    console: Console, directory: RunDirectory, update: int, num_updates: int, alone: bool
) -> None:
    """From where a run goes on; ``alone`` if nothing trains beside it.

    Warns:
        It began with other versions of what decides its numbers.
    """
    where = f" in {directory.path}" * alone
    tell(console, f"going on after update {update} of {num_updates}{where}")
    there, here = directory.about["versions"], about()["versions"]
    other = [
        f"{name} {there.get(name)} then, {here[name]} now" for name in here if there.get(name) != here[name]
    ]
    if other:
        warnings.warn(
            f"the run began with other versions ({'; '.join(other)}): it goes on, but not to the bit",
            stacklevel=3,
        )
