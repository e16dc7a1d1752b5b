"""The runs that train side by side in one program: what each has of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fp3o_jax.config import Config
from fp3o_jax.runs.checkpoints import Checkpoint
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.journal import Journals, parts
from fp3o_jax.runs.marl_eval import marl_eval
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.outcome import summarised
from fp3o_jax.runs.progress import tell
from fp3o_jax.runs.sinks import Callback, OnUpdate, Sink, make_sinks


class Member(NamedTuple):
    """One of the runs that train side by side in one program: the seeds of a config.

    Attributes:
        config: its settings; the members of a program differ in ``Hyperparams`` and seeds alone.
        directory: where it is written.
        options: which sinks it has.
        name: what tells it from the others, for warnings; empty if it is alone.
        on_update: called with the metrics of each update, a row for each of its seeds.
    """

    config: Config
    directory: RunDirectory
    options: RunOptions
    name: str = ""
    on_update: OnUpdate | None = None


def open_sinks(
    member: Member, metrics_bytes: int, console: Console, stack: contextlib.ExitStack
) -> list[Sink]:
    """The sinks of a run that goes on after so much of its metrics; ``stack`` closes them."""
    member.directory.cut_metrics(metrics_bytes)
    sinks = make_sinks(
        member.config,
        member.directory.path,
        member.directory.about["run_id"],
        wandb=member.options.wandb,
        tensorboard=member.options.tensorboard,
        others=member.options.sinks,
    )
    if member.on_update is not None:
        sinks.append(Callback(member.on_update))

    def close(kind: type[BaseException] | None, *_: Any) -> None:
        for sink in sinks:
            sink.close(0 if kind is None else 1)

    stack.push(close)
    for sink in sinks:
        if sink.destination:
            tell(console, f"logging to {sink.destination}")
    return sinks


def summaries_of(
    members: Sequence[Member],
    journals: Journals,
    results: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
    episodes: int,
) -> list[dict[str, Any]]:
    """What ``summary.json`` of each member shall hold; each gets its ``marl_eval.json``.

    Args:
        members: in their order on the program's leading axis.
        journals: theirs.
        results: [seeds of all members].
        seconds: of training and compiling.
        episodes: that the results are means of.
    """
    summaries, num_seeds = [], [member.config.num_seeds for member in members]
    for member, journal, mine in zip(members, journals, parts(num_seeds), strict=True):
        own = {name: values[mine] for name, values in results.items()}
        rows = member.directory.rows()
        summary = summarised(member.config, own, rows, journal.frozen, sum(num_seeds), seconds, episodes)
        member.directory.write("marl_eval.json", marl_eval(member.config, rows, summary))
        summaries.append(summary)
    return summaries


def run_records(saved: Checkpoint) -> list[dict[str, Any]]:
    """What a checkpoint says of each member; those of earlier versions are of one run alone."""
    return saved.record.get("runs", [saved.record])
