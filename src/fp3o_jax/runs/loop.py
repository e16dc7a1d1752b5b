"""The host loop: compile, train update by update, evaluate, write."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from fp3o_jax.config import Config, ConfigError
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.progress import TrainingProgress, phase
from fp3o_jax.train import make_train

#: metric -> its label in the progress display.
SHOWN = {"episode_return": "return", "win_rate": "win rate"}


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What is done around the training, which it does not depend on."""

    run_dir: Path | None = None
    """directory to write to; by default a new one below runs/"""
    eval_episodes: int = 512
    """episodes that the final, greedy policy of each seed is evaluated on"""

    def __post_init__(self) -> None:
        if self.eval_episodes < 1:
            raise ConfigError(f"eval_episodes={self.eval_episodes} must be at least 1")


def run_training(
    config: Config,
    options: RunOptions | None = None,
    *,
    env: Any = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains all seeds of a config side by side, evaluates them and writes a run directory.

    Args:
        config: what to train.
        options: where to write, and how to evaluate.
        env: an environment object in place of ``config.env``.
        console: where progress goes; by default the terminal.

    Returns:
        What is written to ``summary.json``, and ``run_dir``.

    Raises:
        ConfigError: settings that cannot be used, before anything is compiled or written.
    """
    options = options or RunOptions()
    console = console or Console()
    trainer = make_train(config, env)
    config = config.replace(env=trainer.env.name)
    directory = RunDirectory(options.run_dir, config)
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    evaluate = make_evaluate(trainer, options.eval_episodes, greedy=True)
    console.print(
        f"{config.algorithm} on {trainer.env.name}, sharing {config.sharing}, "
        f"{trainer.env.num_agents} agents, {config.num_seeds} seed(s), on {jax.devices()[0].device_kind}"
    )

    start = time.monotonic()
    with phase(console, "compiling"):
        init = jax.jit(jax.vmap(trainer.init)).lower(keys).compile()
        shapes = jax.eval_shape(jax.vmap(trainer.init), keys)
        update = jax.jit(jax.vmap(trainer.update), donate_argnums=0).lower(shapes).compile()
        play = jax.jit(jax.vmap(evaluate)).lower(shapes.params, keys).compile()
    compile_seconds = time.monotonic() - start

    start = time.monotonic()
    state = init(keys)
    pending = None
    with TrainingProgress(console, config.num_updates) as progress:
        for done in range(1, config.num_updates + 1):
            state, metrics = update(state)
            # The device works on this update while the host writes down the one before.
            if pending:
                _report(directory, progress, config, seeds, *pending)
            pending = (done - 1, metrics)
        _report(directory, progress, config, seeds, *pending)
        jax.block_until_ready(state)
    train_seconds = time.monotonic() - start

    with phase(console, f"evaluating over {options.eval_episodes} episodes"):
        # Keys of their own: an evaluation never replays the training's episodes.
        eval_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 1))(keys)
        results = {k: np.asarray(v, float).mean(-1) for k, v in play(state.params, eval_keys).items()}

    env_steps = config.num_updates * config.steps_per_update
    summary = {name: values.mean() for name, values in results.items()} | {
        "env_steps": env_steps,
        "train_seconds": train_seconds,
        "compile_seconds": compile_seconds,
        "env_steps_per_second": env_steps * config.num_seeds / train_seconds,
        "eval_episodes": options.eval_episodes,
        "seeds": [
            {"seed": seed} | {name: values[i] for name, values in results.items()}
            for i, seed in enumerate(seeds)
        ],
    }
    directory.finish(summary)
    _print_summary(console, summary, directory.path)
    return summary | {"run_dir": directory.path}


def _report(
    directory: RunDirectory,
    progress: TrainingProgress,
    config: Config,
    seeds: range,
    index: int,
    metrics: dict[str, jax.Array],
) -> None:
    """Logs the metrics [num_seeds, ...] of one update and moves the display on."""
    metrics = jax.device_get(metrics)
    steps = (index + 1) * config.steps_per_update
    for i, seed in enumerate(seeds):
        row = {name: value[i] for name, value in metrics.items()}
        directory.log({"seed": seed, "update": index + 1} | row | {"env_steps": steps})
    shown = {label: float(metrics[name].mean()) for name, label in SHOWN.items() if name in metrics}
    progress.update(index + 1, steps * len(seeds), shown)


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
        table.add_row("mean", *(f"{summary[name]:.3f}" for name in names))
    console.print(table)
    console.print(
        f"{summary['env_steps']:,} env steps per seed in {summary['train_seconds']:.1f} s "
        f"({summary['env_steps_per_second']:,.0f} per second), "
        f"compiled in {summary['compile_seconds']:.1f} s"
    )
    console.print(f"written to {path}", soft_wrap=True)
