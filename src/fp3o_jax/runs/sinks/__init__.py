"""Where metrics go besides the run directory: W&B, TensorBoard. None of them can end a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fp3o_jax import registry
from fp3o_jax.config import Config
from fp3o_jax.runs.sinks.base import Callback, OnUpdate, Sink, guarded
from fp3o_jax.runs.sinks.tensorboard import TensorboardSink
from fp3o_jax.runs.sinks.wandb import WandbOptions, WandbSink

__all__ = ["Callback", "OnUpdate", "Sink", "WandbOptions", "guarded", "make_sinks"]


def make_sinks(
    config: Config,
    run_dir: Path,
    run_id: str,
    *,
    wandb: WandbOptions | None = None,
    tensorboard: bool = False,
    others: Iterable[str] = (),
) -> list[Sink]:
    """Opens the sinks that are asked for, each guarded: what fails warns once and is switched off.

    Args:
        config: the resolved settings of the run.
        run_dir: an existing directory, below which all files of the sinks lie.
        run_id: names this run for good: a run that resumes gives the id that it started with. At most 100
            characters out of ``A-Z a-z 0-9 _ -``.
        wandb: how to log to W&B; by default not at all.
        tensorboard: whether to write TensorBoard event files.
        others: names of sinks that others bring (:func:`fp3o_jax.register_sink`).

    Returns:
        The open sinks, none if none is asked for. Whoever opened them calls ``close`` in the end, also after
        an error.
    """
    sinks = []
    if wandb is not None and wandb.mode != "disabled":
        sinks.append(guarded("W&B", lambda: WandbSink(wandb, config, run_dir, run_id)))
    if tensorboard:
        sinks.append(guarded("TensorBoard", lambda: TensorboardSink(run_dir)))
    for name in others:
        make = registry.sinks.find(name)
        sinks.append(guarded(f"sink {name!r}", lambda make=make: make(config, run_dir, run_id)))
    return sinks
