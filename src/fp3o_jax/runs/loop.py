"""The host loop: compile, train update by update, save, evaluate, write. A run can end anywhere and go on."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from rich.console import Console

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError, Hyperparams
from fp3o_jax.runs.announce import tell_of_growth, tell_of_resuming, tell_of_starting
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints, SaveError
from fp3o_jax.runs.directory import RunDirectory, check_environment, described
from fp3o_jax.runs.journal import Journal, Journals, all_stopped
from fp3o_jax.runs.members import Member, open_sinks, run_records, summaries_of
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.outcome import print_summary
from fp3o_jax.runs.processes import Leader, Shared, dismiss, follow, join_processes
from fp3o_jax.runs.programs import Programs
from fp3o_jax.runs.progress import TrainingProgress, phase, tell
from fp3o_jax.runs.reading import in_sweep
from fp3o_jax.runs.signals import Interrupted, deferred
from fp3o_jax.runs.sinks import OnUpdate
from fp3o_jax.runs.warm_start import check_start, load_weights
from fp3o_jax.seeds import seed_keys
from fp3o_jax.team.trunks import Trunks
from fp3o_jax.team.trunks import described as described_trunk
from fp3o_jax.train import Trainer, TrainState, make_train


class RunError(RuntimeError):
    """A run could not go on; what is on the disk is whole."""


def run_training(
    config: Config,
    options: RunOptions | None = None,
    *,
    env: Any = None,
    trunk: Trunks | None = None,
    on_update: OnUpdate | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains all seeds of a config side by side, evaluates them and writes a run directory.

    A directory that holds the same run, unfinished, is gone on with, bit by bit as if it had never stopped;
    of a finished one the summary is returned. With a larger ``total_env_steps`` either goes on to the new
    end; the summary of the old one is kept beside the new as ``summary_STEPS.json``.

    Args:
        config: what to train.
        options: where to write, and what is done around the training.
        env: an environment object, or a name, in place of ``config.env``. An object's settings are unknown,
            so ``options`` must say where the run shall be.
        trunk: a flax module, or a pair of them, in place of the layers of the config, as for
            :func:`fp3o_jax.make_train`. ``options`` must say where the run shall be, likewise.
        on_update: called with the rows that each update adds to ``metrics.jsonl``, one for each seed, once
            the next update is under way. What it raises ends the run, which can be gone on with.
        console: where progress goes; by default the terminal.

    Returns:
        What is written to ``summary.json``, and ``run_dir``; nothing from processes that follow
        (``options.distributed``).

    Raises:
        ConfigError: settings that cannot be used, before anything is compiled or written.
        RunError: the run cannot go on, for want of disk space or because no seed is finite any more; its
            checkpoints are whole.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    options = options or RunOptions()
    console = console or Console()
    xla.keep_compiled()
    if isinstance(env, str):
        config, env = config.replace(env=env), None
    if env is None and options.run_dir is not None and (options.run_dir / "config.json").exists():
        check_environment(options.run_dir, None)  # or its name would be looked for in vain
    if options.run_dir is not None and in_sweep(options.run_dir):
        raise ConfigError(
            f"run_dir={str(options.run_dir)!r} is one of a sweep's, whose programs train it: go on with the "
            "command of the sweep, `fp3o sweep`"
        )
    check_start(options)
    if options.distributed:
        join_processes()
    trainer = make_train(config, env, trunk)
    config = config.replace(env=trainer.env.name)
    if options.distributed and jax.process_index() > 0:
        with _explained("this run", options):
            follow(programs_of(trainer, [config], options, Shared))
        return {}
    environment = None if env is None else described(env, trainer.env)
    directory = RunDirectory(options.run_dir, config, options.to_dict(), environment, described_trunk(trunk))
    try:
        if directory.grows_from is not None:
            tell_of_growth(console, directory.grows_from, config)
        if directory.summary is None:
            members = [Member(config, directory, options, on_update=on_update)]
            with _explained(str(directory.path), options):
                trained = train_together(trainer, members, directory.path / "checkpoints", options, console)
                directory.write("summary.json", trained.summaries[0])
        else:
            if options.distributed:
                dismiss()
            tell(console, f"{directory.path} is finished; another --seed or --run-dir makes a new run")
        summary = directory.summary
    except Interrupted:
        named = f" --env {config.env}" if ":" in config.env else ""
        tell(console, f"or: fp3o train --resume {directory.path}{named}")
        raise
    finally:
        directory.close()
    print_summary(console, summary, directory.path)
    return summary | {"run_dir": directory.path}


@contextlib.contextmanager
def _explained(run: str, options: RunOptions) -> Iterator[None]:
    """A full disk, and a process that is gone, as a sentence."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, SaveError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"{run}: {error.strerror or error}. The checkpoints written before are whole: make room and run "
            "the same command again"
        ) from error
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not options.distributed or isinstance(error, ConfigError):
            raise
        raise RunError(
            f"{run}, process {jax.process_index()} of {jax.process_count()}: {str(error).splitlines()[0]}. "
            "Where another has ended, start all of them again: they go on after the last checkpoint"
        ) from error


class Trained(NamedTuple):
    """How a program ended.

    Attributes:
        checkpoint: the last state, leaves [seeds of all members, ...], and its record.
        scores: of each member, what checkpoints are compared by.
        summaries: of each member, what ``summary.json`` shall hold.
    """

    checkpoint: Checkpoint
    scores: list[float]
    summaries: list[dict[str, Any]]


def train_together(
    trainer: Trainer,
    members: Sequence[Member],
    folder: Path,
    options: RunOptions,
    console: Console,
    programs: Programs | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Trained:
    """Trains the seeds of all members in one program, from wherever it is to its end, and evaluates them.

    Args:
        trainer: of the members' configs.
        members: their seeds, one after another, are the program's leading axis.
        folder: its checkpoints.
        options: when it saves and evaluates.
        console: where progress goes.
        programs: what :func:`programs_of` made of the members' configs.
        meanwhile: called while XLA is at work.

    Raises:
        RunError: no seed of any member is finite any more.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        TooLarge: the program does not fit the device.
    """
    if programs is None:
        kind = Leader if options.distributed else Programs
        programs = programs_of(trainer, [member.config for member in members], options, kind)
    axis = programs.axis
    tell_of_starting(console, trainer, len(members), axis)
    checkpoints = Checkpoints(folder, options.keep_checkpoints)
    saved = checkpoints.restore(programs.template)
    if saved:
        _refuse_if_all_stopped(members, [record["frozen"] for record in run_records(saved)])
        tell_of_resuming(
            console,
            members[0].directory,
            saved.update,
            members[0].config.num_updates,
            alone=not members[0].name,
        )
    begin_with = {}
    if not saved and options.init_from is not None:
        begin_with = axis.place(load_weights(options.init_from, programs.template, trainer.env.name))
    start = time.monotonic()
    with phase(console, "compiling"):
        programs.begin()
        meanwhile()
        programs.compile()
    compile_seconds = time.monotonic() - start
    if saved:
        saved = saved._replace(state=programs.place(saved.state))
    else:
        record = {"seconds": 0.0, "runs": [{"metrics_bytes": 0, "frozen": {}} for _ in members]}
        saved = Checkpoint(0, programs.init().replace(**begin_with), record)
    checkpoints.drop_after(saved.update)

    with contextlib.ExitStack() as stack:
        stack.callback(programs.cancel)
        stack.callback(checkpoints.abandon)
        sinks = [
            open_sinks(member, record["metrics_bytes"], console, stack)
            for member, record in zip(members, run_records(saved), strict=True)
        ]
        journals = Journals(
            [
                Journal(m.directory, to, console, m.config, m.config.seeds, dict(record["frozen"]), m.name)
                for m, to, record in zip(members, sinks, run_records(saved), strict=True)
            ]
        )
        last = _train(programs, saved, members, journals, checkpoints, options, console)
        seconds = {"train_seconds": last.record.get("seconds", 0.0), "compile_seconds": compile_seconds}
        with phase(console, f"evaluating over {options.eval_episodes} episodes"):
            results = _final_results(programs, last.state, options.eval_sampled)
        summaries = summaries_of(members, journals, results, seconds, options.eval_episodes)
        for to, summary in zip(sinks, summaries, strict=True):
            for sink in to:
                sink.summary(summary)
        whole = last._replace(state=programs.gather(last.state))
    return Trained(whole, [journal.score for journal in journals], summaries)


def _train(
    programs: Programs,
    saved: Checkpoint,
    members: Sequence[Member],
    journals: Journals,
    checkpoints: Checkpoints,
    options: RunOptions,
    console: Console,
) -> Checkpoint:
    """From a checkpoint to the end; returns the last one."""
    num_updates = members[0].config.num_updates
    state, done = saved.state, saved.update
    start = last_saved = time.monotonic()

    def record() -> dict[str, Any]:
        runs = [
            {"metrics_bytes": member.directory.synced_size(), "frozen": journal.frozen}
            for member, journal in zip(members, journals, strict=True)
        ]
        return {"seconds": saved.record.get("seconds", 0.0) + time.monotonic() - start, "runs": runs}

    def write(update: int, metrics: dict[str, Any]) -> None:
        journals.write(update, programs.axis.real(metrics), progress)

    def save() -> None:
        checkpoints.save(done, programs.gather(state), record(), journals.score)

    # The device works on an update while the host writes down the one before.
    pending: dict[str, Any] | None = None
    with deferred() as stop, TrainingProgress(console, num_updates, done) as progress:
        while done < num_updates and stop.signum is None and not journals.all_stopped:
            state, metrics = programs.update(state)
            if jax.default_backend() != "cpu":  # there it would take cores from the training
                programs.begin_playing()
            if pending:
                write(done, pending)
            pending, done = metrics, done + 1
            if options.eval_every and done % options.eval_every == 0:
                pending |= _evaluate(programs, state, done)
            if time.monotonic() - last_saved >= options.checkpoint_seconds:
                write(done, pending)
                pending = None
                save()
                last_saved = time.monotonic()
            checkpoints.check()
        if pending:
            write(done, pending)
            save()
        jax.block_until_ready(state)
        checkpoints.close()
    _refuse_if_all_stopped(members, [journal.frozen for journal in journals])
    if stop.signum is not None:
        tell(
            console,
            f"stopped after update {done} of {num_updates}, which is saved. To go on, run the same "
            "command again",
        )
        raise Interrupted(stop.signum)
    return Checkpoint(done, state, record())


def programs_of(
    trainer: Trainer, configs: Sequence[Config], options: RunOptions, kind: type[Programs] = Programs
) -> Programs:
    """What is compiled for the seeds of all configs, one after another; they differ in ``Hyperparams`` and
    seeds alone."""
    keys = seed_keys(seed for config in configs for seed in config.seeds)
    rows = [config.hyperparams for config in configs for _ in config.seeds]
    hyperparams = Hyperparams(*(np.array(column, np.float32) for column in zip(*rows, strict=True)))
    return kind(trainer, keys, options, hyperparams)


def _evaluate(programs: Programs, state: TrainState, update: int) -> dict[str, Array]:
    """Mean results [num_seeds] of the policies as they are, as metrics."""
    return {
        f"{mode}_{name}": values.mean(-1)
        for mode in programs.modes
        for name, values in programs.play(mode, state, update).items()
    }


def _final_results(programs: Programs, state: TrainState, sampled: bool) -> dict[str, np.ndarray]:
    """Mean results [num_seeds] of the greedy policies, and if asked for of the sampling ones."""
    # Keys of their own: an evaluation never replays the training's episodes.
    modes = ["greedy"] + ["sampled"] * sampled
    played = {mode: programs.play(mode, state, 0) for mode in modes}
    return {
        name if mode == "greedy" else f"{mode}_{name}": np.asarray(values, float).mean(-1)
        for mode, results in played.items()
        for name, values in results.items()
    }


def _refuse_if_all_stopped(members: Sequence[Member], frozen: Sequence[Mapping[str, int]]) -> None:
    said = [
        (why, member)
        for member, stopped in zip(members, frozen, strict=True)
        if (why := all_stopped(stopped, member.config))
    ]
    if len(said) == len(members):
        why, member = said[0]
        raise RunError(f"{member.directory.path}: {why}")
