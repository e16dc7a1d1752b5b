"""The host loop: compile, train update by update, save, evaluate, write. A run can end anywhere and go on."""

from __future__ import annotations

import contextlib
import errno
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from fp3o_jax.config import Config
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints, SaveError
from fp3o_jax.runs.directory import RunDirectory, about, check_environment, described
from fp3o_jax.runs.journal import Journal, all_stopped
from fp3o_jax.runs.marl_eval import marl_eval
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.programs import Programs, evaluation_keys, initialiser
from fp3o_jax.runs.progress import TrainingProgress, phase, tell
from fp3o_jax.runs.signals import Interrupted, deferred
from fp3o_jax.runs.sinks import make_sinks
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
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains all seeds of a config side by side, evaluates them and writes a run directory.

    A directory that holds the same run, unfinished, is gone on with, bit by bit as if it had never stopped;
    of a finished one the summary is returned.

    Args:
        config: what to train.
        options: where to write, and what is done around the training.
        env: an environment object in place of ``config.env``. Its settings are unknown, so ``options`` must
            say where the run shall be.
        trunk: a flax module, or a pair of them, in place of the layers of the config, as for
            :func:`fp3o_jax.make_train`. ``options`` must say where the run shall be, likewise.
        console: where progress goes; by default the terminal.

    Returns:
        What is written to ``summary.json``, and ``run_dir``.

    Raises:
        ConfigError: settings that cannot be used, before anything is compiled or written.
        RunError: the run cannot go on, for want of disk space or because no seed is finite any more; its
            checkpoints are whole.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    options = options or RunOptions()
    console = console or Console()
    if env is None and options.run_dir is not None and (options.run_dir / "config.json").exists():
        check_environment(options.run_dir, None)  # or its name would be looked for in vain
    trainer = make_train(config, env, trunk)
    config = config.replace(env=trainer.env.name)
    environment = None if env is None else described(env, trainer.env)
    directory = RunDirectory(options.run_dir, config, options.to_dict(), environment, described_trunk(trunk))
    try:
        if directory.summary is None:
            with contextlib.ExitStack() as stack:
                summary = _train(trainer, config, options, directory, console, stack)
            directory.write("summary.json", summary)
        else:
            tell(console, f"{directory.path} is finished; another --seed or --run-dir makes a new run")
        summary = directory.summary
    except OSError as error:
        if not isinstance(error, SaveError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"{directory.path}: {error.strerror or error}. The checkpoints written before are whole: make "
            "room and run the same command again"
        ) from error
    finally:
        directory.close()
    _print_summary(console, summary, directory.path)
    return summary | {"run_dir": directory.path}


def _train(
    trainer: Trainer,
    config: Config,
    options: RunOptions,
    directory: RunDirectory,
    console: Console,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """From wherever the run is to its end; returns the summary. ``stack`` closes what is opened."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = seed_keys(seeds)
    tell(
        console,
        f"{config.algorithm} on {trainer.env.name}, sharing {config.sharing}, "
        f"{trainer.env.num_agents} agents, {config.num_seeds} seed(s), on {jax.devices()[0].device_kind}",
    )
    checkpoints = Checkpoints(directory.path / "checkpoints", options.keep_checkpoints)
    init = initialiser(trainer, len(keys))
    saved = checkpoints.restore(jax.eval_shape(init, keys))
    if saved and (why := all_stopped(saved.record["frozen"], config)):
        raise RunError(f"{directory.path}: {why}")
    if saved:
        _tell_of_resuming(console, directory, saved, config)
    start = time.monotonic()
    with phase(console, "compiling"):
        programs = Programs(trainer, keys, options, init)
    compile_seconds = time.monotonic() - start

    saved = saved or Checkpoint(0, programs.init(keys), {"metrics_bytes": 0, "seconds": 0.0, "frozen": {}})
    checkpoints.drop_after(saved.update)
    directory.cut_metrics(saved.record["metrics_bytes"])
    sinks = make_sinks(
        config,
        directory.path,
        directory.about["run_id"],
        wandb=options.wandb,
        tensorboard=options.tensorboard,
    )

    def close(kind: type[BaseException] | None, *_: Any) -> None:
        for sink in sinks:
            sink.close(0 if kind is None else 1)

    stack.push(close)
    for sink in sinks:
        if sink.destination:
            tell(console, f"logging to {sink.destination}")
    journal = Journal(directory, sinks, console, config, seeds, dict(saved.record["frozen"]))
    state, done = saved.state, saved.update
    start = last_saved = time.monotonic()

    def seconds() -> float:
        return saved.record["seconds"] + time.monotonic() - start

    def save() -> None:
        record = {"metrics_bytes": directory.synced_size(), "seconds": seconds(), "frozen": journal.frozen}
        checkpoints.save(done, state, record, journal.score)

    # The device works on an update while the host writes down the one before.
    pending: dict[str, Any] | None = None
    with deferred() as stop, TrainingProgress(console, config.num_updates, done) as progress:
        while done < config.num_updates and stop.signum is None and not journal.all_stopped:
            state, metrics = programs.update(state)
            if pending:
                journal.write(done, pending, progress)
            pending, done = metrics, done + 1
            if options.eval_every and done % options.eval_every == 0:
                pending |= _evaluate(programs, state, keys, done)
            if time.monotonic() - last_saved >= options.checkpoint_seconds:
                journal.write(done, pending, progress)
                pending = None
                save()
                last_saved = time.monotonic()
            checkpoints.check()
        if pending:
            journal.write(done, pending, progress)
            save()
        jax.block_until_ready(state)
        checkpoints.close()
    if why := all_stopped(journal.frozen, config):
        raise RunError(f"{directory.path}: {why}")
    if stop.signum is not None and done < config.num_updates:
        tell(
            console,
            f"stopped after update {done} of {config.num_updates}, which is saved. To go on, run the same "
            f"command again, or: fp3o train --resume {directory.path}",
        )
        raise Interrupted(stop.signum)
    train_seconds = seconds()

    with phase(console, f"evaluating over {options.eval_episodes} episodes"):
        # Keys of their own: an evaluation never replays the training's episodes.
        play = programs.evaluate["greedy"]
        results = {
            k: np.asarray(v, float).mean(-1) for k, v in play(state.params, evaluation_keys(keys, 0)).items()
        }
    env_steps = config.num_updates * config.steps_per_update
    summary = {name: values.mean() for name, values in results.items()} | {
        "env_steps": env_steps,
        "train_seconds": train_seconds,
        "compile_seconds": compile_seconds,
        "env_steps_per_second": env_steps * config.num_seeds / train_seconds,
        "eval_episodes": options.eval_episodes,
        "seeds": [
            {"seed": seed}
            | {name: values[i] for name, values in results.items()}
            | ({"stopped_at_update": journal.frozen[str(seed)]} if str(seed) in journal.frozen else {})
            for i, seed in enumerate(seeds)
        ],
    }
    for sink in sinks:
        sink.summary(summary)
    directory.write("marl_eval.json", marl_eval(config, directory.rows(), summary))
    return summary


def _evaluate(programs: Programs, state: TrainState, keys: Array, update: int) -> dict[str, Array]:
    """Mean results [num_seeds] of the policies as they are, as metrics."""
    return {
        f"{mode}_{name}": values.mean(-1)
        for mode, play in programs.evaluate.items()
        for name, values in play(state.params, evaluation_keys(keys, update)).items()
    }


def _tell_of_resuming(console: Console, directory: RunDirectory, saved: Checkpoint, config: Config) -> None:
    tell(console, f"going on after update {saved.update} of {config.num_updates} in {directory.path}")
    there, here = directory.about["versions"], about()["versions"]
    other = [
        f"{name} {there.get(name)} then, {here[name]} now" for name in here if there.get(name) != here[name]
    ]
    if other:
        warnings.warn(
            f"the run began with other versions ({'; '.join(other)}): it goes on, but not to the bit",
            stacklevel=2,
        )


def _print_summary(console: Console, summary: dict[str, Any], path: Path) -> None:
    names = [name for name in ("win_rate", "episode_return", "episode_length") if name in summary]
    console.print(f"greedy evaluation over {summary['eval_episodes']} episodes per seed")
    table = Table()
    for column in ("seed", *(name.replace("_", " ") for name in names)):
        table.add_column(column, justify="right")
    for row in summary["seeds"]:
        table.add_row(str(row["seed"]), *(f"{row[name]:.3f}" for name in names))
    if len(summary["seeds"]) > 1:
        table.add_section()
        for label, reduce in (("mean", np.mean), ("std", np.std)):
            values = [reduce([row[name] for row in summary["seeds"]]) for name in names]
            table.add_row(label, *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print(
        f"{summary['env_steps']:,} env steps per seed in {summary['train_seconds']:.1f} s "
        f"({summary['env_steps_per_second']:,.0f} per second), "
        f"compiled in {summary['compile_seconds']:.1f} s"
    )
    tell(console, f"written to {path}")
