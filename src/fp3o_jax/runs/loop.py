"""The host loop: compile, train update by update, save, evaluate, write. A run can end anywhere and go on."""

from __future__ import annotations

import dataclasses
import errno
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from fp3o_jax.config import Config, ConfigError
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints, SaveError
from fp3o_jax.runs.directory import RunDirectory, about, read_config
from fp3o_jax.runs.progress import TrainingProgress, phase
from fp3o_jax.runs.signals import Interrupted, deferred
from fp3o_jax.train import Trainer, TrainState, make_train

#: metric -> its label in the progress display.
SHOWN = {"episode_return": "return", "win_rate": "win rate"}


class RunError(RuntimeError):
    """A run could not go on; what is on the disk is whole."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What is done around the training, which does not depend on it."""

    run_dir: Path | None = None
    """directory to write to, or to go on with; by default the one below runs/ that belongs to the settings"""
    eval_episodes: int = 512
    """episodes that the policy of each seed is evaluated on"""
    eval_every: int = 0
    """evaluate after every so many updates, greedily and sampling; 0: greedily at the end alone"""
    checkpoint_seconds: float = 60.0
    """save the whole state at least this often; 0: after every update"""
    keep_checkpoints: int = 3
    """newest checkpoints to keep, besides the best one"""

    def __post_init__(self) -> None:
        for name, least in (("eval_episodes", 1), ("eval_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.checkpoint_seconds >= 0:
            raise ConfigError(f"checkpoint_seconds={self.checkpoint_seconds} must be at least 0")

    def to_dict(self) -> dict[str, Any]:
        """All but the place, as JSON holds it."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "run_dir"}


class Programs:
    """What is compiled for a run: everything over a leading axis of seeds.

    Attributes:
        init: keys -> state.
        update: state -> (state, metrics); the state that comes in is used up.
        evaluate: "greedy" or "sampled" -> (params, keys) -> results [num_seeds, episodes].
    """

    def __init__(self, trainer: Trainer, keys: Array, options: RunOptions):
        template = jax.eval_shape(jax.vmap(trainer.init), keys)
        self.init = jax.jit(jax.vmap(trainer.init)).lower(keys).compile()
        step = jax.vmap(keep_last_good(trainer.update))
        self.update = jax.jit(step, donate_argnums=0).lower(template).compile()
        modes = {"greedy": True} | ({"sampled": False} if options.eval_every else {})
        self.evaluate = {
            name: jax.jit(jax.vmap(make_evaluate(trainer, options.eval_episodes, greedy)))
            .lower(template.params, keys)
            .compile()
            for name, greedy in modes.items()
        }


def keep_last_good(
    update: Callable[[TrainState], tuple[TrainState, dict[str, Array]]],
) -> Callable[[TrainState], tuple[TrainState, dict[str, Array]]]:
    """``update``, but a state that would cease to be finite stays as it is; the metric ``finite`` tells.

    The same state makes the same update: a seed that has stopped once stays where it is, others go on.
    """

    def guarded(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        new, metrics = update(state)
        learnt = jax.tree.leaves((new.params, new.opt_state, new.value_norm))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in learnt]).all()
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return kept, metrics | {"finite": finite}

    return guarded


def run_training(
    config: Config,
    options: RunOptions | None = None,
    *,
    env: Any = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains all seeds of a config side by side, evaluates them and writes a run directory.

    A directory that holds the same run, unfinished, is gone on with, bit by bit as if it had never stopped;
    of a finished one the summary is returned.

    Args:
        config: what to train.
        options: where to write, and what is done around the training.
        env: an environment object in place of ``config.env``.
        console: where progress goes; by default the terminal.

    Returns:
        What is written to ``summary.json``, and ``run_dir``.

    Raises:
        ConfigError: settings that cannot be used, before anything is compiled or written.
        RunError: the run cannot go on, such as for want of disk space; its checkpoints are whole.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    options = options or RunOptions()
    console = console or Console()
    trainer = make_train(config, env)
    config = config.replace(env=trainer.env.name)
    directory = RunDirectory(options.run_dir, config, options.to_dict())
    try:
        if directory.summary is None:
            directory.finish(_train(trainer, config, options, directory, console))
        else:
            console.print(f"{directory.path} is finished; another --seed or --run-dir makes a new run")
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
    trainer: Trainer, config: Config, options: RunOptions, directory: RunDirectory, console: Console
) -> dict[str, Any]:
    """From wherever the run is to its end; returns the summary."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    console.print(
        f"{config.algorithm} on {trainer.env.name}, sharing {config.sharing}, "
        f"{trainer.env.num_agents} agents, {config.num_seeds} seed(s), on {jax.devices()[0].device_kind}"
    )
    checkpoints = Checkpoints(directory.path / "checkpoints", options.keep_checkpoints)
    saved = checkpoints.restore(jax.eval_shape(jax.vmap(trainer.init), keys))
    if saved:
        _tell_of_resuming(console, directory, saved, config)
    start = time.monotonic()
    with phase(console, "compiling"):
        programs = Programs(trainer, keys, options)
    compile_seconds = time.monotonic() - start

    saved = saved or Checkpoint(0, programs.init(keys), {"metrics_bytes": 0, "seconds": 0.0, "frozen": {}})
    checkpoints.drop_after(saved.update)
    directory.cut_metrics(saved.record["metrics_bytes"])
    journal = Journal(directory, console, config, seeds, dict(saved.record["frozen"]))
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
        while done < config.num_updates and stop.signum is None:
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
    if stop.signum is not None and done < config.num_updates:
        console.print(
            f"stopped after update {done} of {config.num_updates}, which is saved. To go on, run the same "
            f"command again, or: fp3o train --resume {directory.path}",
            soft_wrap=True,
        )
        raise Interrupted(stop.signum)
    train_seconds = seconds()

    with phase(console, f"evaluating over {options.eval_episodes} episodes"):
        # Keys of their own: an evaluation never replays the training's episodes.
        play = programs.evaluate["greedy"]
        results = {
            k: np.asarray(v, float).mean(-1) for k, v in play(state.params, _eval_keys(keys, 0)).items()
        }
    env_steps = config.num_updates * config.steps_per_update
    return {name: values.mean() for name, values in results.items()} | {
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


class Journal:
    """Writes the metrics of each update down, shows them, and tells of seeds that failed.

    Attributes:
        frozen: seed -> the update at which it would have ceased to be finite.
        score: of the last update, what the best checkpoint has most of: win rate or return, mean over seeds.
    """

    def __init__(
        self, directory: RunDirectory, console: Console, config: Config, seeds: range, frozen: dict[str, int]
    ):
        self._directory, self._console, self._config, self._seeds = directory, console, config, seeds
        self.frozen = frozen
        self.score = float("nan")

    def write(self, update: int, metrics: dict[str, Any], progress: TrainingProgress) -> None:
        """Appends the metrics [num_seeds, ...] of one update and moves the display on."""
        metrics = jax.device_get(metrics)
        finite = metrics.pop("finite")
        steps = update * self._config.steps_per_update
        self._directory.log(
            {"seed": seed, "update": update}
            | {name: value[i] for name, value in metrics.items()}
            | {"env_steps": steps}
            for i, seed in enumerate(self._seeds)
            if finite[i]
        )
        for seed, good in zip(self._seeds, finite, strict=True):
            if not good and str(seed) not in self.frozen:
                self.frozen[str(seed)] = update
                self._console.print(
                    f"[bold red]warning:[/] seed {seed} ceased to be finite in update {update}: it stays at "
                    "its last good state, the others go on"
                )
        shown = {
            name: float(metrics[name][finite].mean()) if finite.any() else float("nan")
            for name in SHOWN
            if name in metrics
        }
        self.score = shown.get("win_rate", shown["episode_return"])
        labelled = {SHOWN[name]: value for name, value in shown.items()}
        progress.update(update, steps * len(self._seeds), labelled)


def _evaluate(programs: Programs, state: TrainState, keys: Array, update: int) -> dict[str, Array]:
    """Mean results [num_seeds] of the policies as they are, as metrics."""
    return {
        f"{mode}_{name}": values.mean(-1)
        for mode, play in programs.evaluate.items()
        for name, values in play(state.params, _eval_keys(keys, update)).items()
    }


def _eval_keys(keys: Array, update: int) -> Array:
    """Keys for playing after ``update``; 0 for the end."""
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), update))(keys)


def _tell_of_resuming(console: Console, directory: RunDirectory, saved: Checkpoint, config: Config) -> None:
    console.print(f"going on after update {saved.update} of {config.num_updates} in {directory.path}")
    there, here = directory.about["versions"], about()["versions"]
    other = [
        f"{name} {there.get(name)} then, {here[name]} now" for name in here if there.get(name) != here[name]
    ]
    if other:
        warnings.warn(
            f"the run began with other versions ({'; '.join(other)}): it goes on, but not to the bit",
            stacklevel=2,
        )


def load_run(path: Path, best: bool = False, env: Any = None) -> tuple[Trainer, TrainState]:
    """The trainer of a run and its newest state, or its best.

    Args:
        path: run directory.
        best: the checkpoint with the highest win rate or return.
        env: the environment object that the run was given, if it was given one.

    Returns:
        The trainer, and the state with a leading axis of seeds.

    Raises:
        ConfigError: there is no run, or it has no checkpoint yet.
    """
    config = read_config(path)
    trainer = make_train(config, env)
    keys = jnp.stack([jax.random.key(seed) for seed in range(config.seed, config.seed + config.num_seeds)])
    checkpoints = Checkpoints(Path(path) / "checkpoints")
    saved = checkpoints.restore(jax.eval_shape(jax.vmap(trainer.init), keys), best)
    checkpoints.close()
    if saved is None:
        raise ConfigError(f"{str(path)!r} has no whole checkpoint yet")
    return trainer, saved.state


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
    console.print(f"written to {path}", soft_wrap=True)
