"""The host loop: compile, train update by update, save, evaluate, write. A run can end anywhere and go on."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints, SaveError
from fp3o_jax.runs.directory import RunDirectory, about, plain
from fp3o_jax.runs.marl_eval import marl_eval
from fp3o_jax.runs.progress import TrainingProgress, phase
from fp3o_jax.runs.signals import Interrupted, deferred
from fp3o_jax.runs.sinks import Sink, WandbOptions, make_sinks
from fp3o_jax.runs.statistics import far_behind
from fp3o_jax.train import Trainer, TrainState, make_train

#: metric -> its label in the progress display.
SHOWN = {"episode_return": "return", "win_rate": "win rate"}
#: A joint KL so many times the median of the last 50 updates is told.
KL_ALARM = 10.0
#: A seed that is far behind the others in so many updates on end is told.
BEHIND_ALARM = 20


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
    wandb: WandbOptions = dataclasses.field(default_factory=WandbOptions)
    tensorboard: bool = False
    """write TensorBoard event files to the run directory as well"""

    def __post_init__(self) -> None:
        for name, least in (("eval_episodes", 1), ("eval_every", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.checkpoint_seconds >= 0:
            raise ConfigError(f"checkpoint_seconds={self.checkpoint_seconds} must be at least 0")

    def to_dict(self) -> dict[str, Any]:
        """All but the place, as JSON holds it."""
        return plain({k: v for k, v in dataclasses.asdict(self).items() if k != "run_dir"})

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], run_dir: Path) -> RunOptions:
        """The inverse of ``to_dict``."""
        wandb = options["wandb"] | {"tags": tuple(options["wandb"]["tags"])}
        return cls(run_dir, **{**options, "wandb": WandbOptions(**wandb)})


class Programs:
    """What is compiled for a run: everything over a leading axis of seeds.

    Args:
        trainer: the run as pure functions.
        keys: [num_seeds].
        options: what is evaluated, and when.
        init: ``initialiser(trainer, num_seeds)``, if it has been traced already.

    Attributes:
        init: keys -> state.
        update: state -> (state, metrics); the state that comes in is used up.
        evaluate: "greedy" or "sampled" -> (params, keys) -> results [num_seeds, episodes]; traced and
            compiled by the first call, so that the first update need not wait for it.
    """

    def __init__(
        self,
        trainer: Trainer,
        keys: Array,
        options: RunOptions,
        init: Callable[[Array], TrainState] | None = None,
    ):
        num_seeds = len(keys)
        init = init or initialiser(trainer, num_seeds)
        step = over_seeds(keep_last_good(trainer.update), num_seeds)
        # XLA compiles the one while Python traces the other.
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(xla.compile_for_one_run, init.lower(keys))
            self.update = jax.jit(step, donate_argnums=0).lower(jax.eval_shape(init, keys)).compile()
            self.init = compiling.result()
        modes = {"greedy": True} | ({"sampled": False} if options.eval_every else {})
        self.evaluate = {
            name: jax.jit(over_seeds(make_evaluate(trainer, options.eval_episodes, greedy), num_seeds))
            for name, greedy in modes.items()
        }


def initialiser(trainer: Trainer, num_seeds: int) -> Callable[[Array], TrainState]:
    """``trainer.init`` over keys [num_seeds], traced once however often it is asked."""
    return jax.jit(over_seeds(trainer.init, num_seeds))


def over_seeds(fn: Callable[..., Any], num_seeds: int) -> Callable[..., Any]:
    """``jax.vmap(fn)``; one seed goes without, for which XLA compiles a quarter less."""
    if num_seeds > 1:
        return jax.vmap(fn)

    @functools.wraps(fn)
    def alone(*args: Any) -> Any:
        result = fn(*jax.tree.map(lambda x: jax.lax.squeeze(x, (0,)), args))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), result)

    return alone


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
            with contextlib.ExitStack() as stack:
                summary = _train(trainer, config, options, directory, console, stack)
            directory.write("summary.json", summary)
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
    trainer: Trainer,
    config: Config,
    options: RunOptions,
    directory: RunDirectory,
    console: Console,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """From wherever the run is to its end; returns the summary. ``stack`` closes what is opened."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    console.print(
        f"{config.algorithm} on {trainer.env.name}, sharing {config.sharing}, "
        f"{trainer.env.num_agents} agents, {config.num_seeds} seed(s), on {jax.devices()[0].device_kind}"
    )
    checkpoints = Checkpoints(directory.path / "checkpoints", options.keep_checkpoints)
    init = initialiser(trainer, len(keys))
    saved = checkpoints.restore(jax.eval_shape(init, keys))
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
            console.print(f"logging to {sink.destination}", soft_wrap=True)
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


class Journal:
    """Writes the metrics of each update down, shows them, and tells of seeds that failed.

    Attributes:
        frozen: seed -> the update at which it would have ceased to be finite.
        score: of the last update, what the best checkpoint has most of: win rate or return, mean over seeds.
    """

    def __init__(
        self,
        directory: RunDirectory,
        sinks: Sequence[Sink],
        console: Console,
        config: Config,
        seeds: range,
        frozen: dict[str, int],
    ):
        self._directory, self._sinks, self._console = directory, sinks, console
        self._config, self._seeds = config, seeds
        self._usual_kl: collections.deque[float] = collections.deque(maxlen=50)
        self._far = False
        self._behind: collections.Counter[int] = collections.Counter()
        self.frozen = frozen
        self.score = float("nan")

    def write(self, update: int, metrics: dict[str, Any], progress: TrainingProgress) -> None:
        """Appends the metrics [num_seeds, ...] of one update and moves the display on."""
        metrics = jax.device_get(metrics)
        finite = metrics.pop("finite")
        steps = update * self._config.steps_per_update
        rows = [
            {"seed": seed, "update": update}
            | ({name: value[i] for name, value in metrics.items()} if finite[i] else {})
            | {"env_steps": steps}
            for i, seed in enumerate(self._seeds)
        ]
        self._directory.log(row for row, good in zip(rows, finite, strict=True) if good)
        for seed, good in zip(self._seeds, finite, strict=True):
            if not good and str(seed) not in self.frozen:
                self.frozen[str(seed)] = update
                self._console.print(
                    f"[bold red]warning:[/] seed {seed} ceased to be finite in update {update}: it stays at "
                    "its last good state, the others go on"
                )
        shown = {label: metrics[name][finite] for name, label in SHOWN.items() if name in metrics}
        speed = progress.update(update, steps * len(self._seeds), shown)
        label = "win rate" if "win rate" in shown else "return"
        self.score = float(shown[label].mean()) if finite.any() else float("nan")
        if finite.any():
            self._watch(update, float(metrics["joint_kl"][finite].max()))
        going = [seed for seed, good in zip(self._seeds, finite, strict=True) if good]
        self._watch_seeds(update, label, dict(zip(going, shown[label], strict=True)))
        # Not in the metrics file: a run that was resumed has the same one, to the bit.
        for sink in self._sinks:
            sink.log([row | {"env_steps_per_second": speed} for row in rows])

    def _watch(self, update: int, joint_kl: float) -> None:
        """Warns, once each time, of steps far larger than this run's are."""
        usual = float(np.median(self._usual_kl)) if len(self._usual_kl) >= 10 else math.inf
        far = joint_kl > KL_ALARM * usual
        if far and not self._far:
            self._console.print(
                f"[bold yellow]warning:[/] the joint policy moved by a KL of {joint_kl:.3g} in update "
                f"{update}, usually by {usual:.3g}: a lower actor_lr or clip_eps takes smaller steps"
            )
        self._far = far
        self._usual_kl.append(joint_kl)

    def _watch_seeds(self, update: int, label: str, scores: Mapping[int, float]) -> None:
        """Warns, once each, of seeds that stay far behind the others."""
        known = {seed: score for seed, score in scores.items() if math.isfinite(score)}
        values = np.array(list(known.values()))
        behind = {seed for seed, far in zip(known, far_behind(values), strict=True) if far}
        for seed in self._seeds:
            if self._behind[seed] >= BEHIND_ALARM:
                continue  # told
            self._behind[seed] = self._behind[seed] + 1 if seed in behind else 0
            if self._behind[seed] == BEHIND_ALARM:
                self._console.print(
                    f"[bold yellow]warning:[/] seed {seed} has been far behind the others for {BEHIND_ALARM} "
                    f"updates: in update {update} its {label} is {known[seed]:.3g}, the median "
                    f"{np.median(values):.3g}"
                )


def _evaluate(programs: Programs, state: TrainState, keys: Array, update: int) -> dict[str, Array]:
    """Mean results [num_seeds] of the policies as they are, as metrics."""
    return {
        f"{mode}_{name}": values.mean(-1)
        for mode, play in programs.evaluate.items()
        for name, values in play(state.params, evaluation_keys(keys, update)).items()
    }


def evaluation_keys(keys: Array, update: int) -> Array:
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
