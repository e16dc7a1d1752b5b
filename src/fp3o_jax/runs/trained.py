"""What can be done with the policies of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints
from fp3o_jax.runs.devices import spread
from fp3o_jax.runs.directory import (
    check_environment,
    check_trunk,
    check_trust,
    described,
    read_config,
    takes_object,
)
from fp3o_jax.runs.programs import evaluation_keys, modes, player
from fp3o_jax.runs.progress import phase, tell
from fp3o_jax.seeds import seed_key, seed_keys
from fp3o_jax.team.trunks import Trunks
from fp3o_jax.team.trunks import described as described_trunk
from fp3o_jax.train import Trainer, TrainState, make_train
from fp3o_jax.values import as_count


def load_run(
    path: Path, best: bool = False, env: Any = None, trunk: Trunks | None = None
) -> tuple[Trainer, TrainState]:
    """The trainer of a run and its newest state, or its best: all that is needed to go on.

    Args:
        path: run directory.
        best: the checkpoint with the highest win rate or return.
        env: the environment object that the run was given, if it was given one, or a name of what makes it;
            the name of one that is imported, ``module:factory``, if it was given that.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.

    Returns:
        The trainer, and the state with a leading axis of seeds.

    Raises:
        ConfigError: there is no run, or it has no checkpoint yet, or was saved by another version or under
            other settings of JAX; or it was given an environment object or a trunk, and ``env`` or ``trunk``
            is not such a one.
    """
    return load_parts(path, env, trunk, lambda checkpoints, template: checkpoints.restore(template, best))


def load_params(
    path: Path, best: bool = False, env: Any = None, trunk: Trunks | None = None
) -> tuple[Trainer, Any]:
    """The trainer of a run and its newest parameters, or its best: all that is needed to act.

    Unlike :func:`load_run` it asks nothing of the rest of the state, which another JAX or a newer version of
    the environment may have made in another way.

    Args:
        path: run directory.
        best: of the checkpoint with the highest win rate or return.
        env: the environment object that the run was given, if it was given one, or a name of what makes it;
            the name of one that is imported, ``module:factory``, if it was given that.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.

    Returns:
        The trainer, and ``state.params`` with a leading axis of seeds.

    Raises:
        ConfigError: as in :func:`load_run`, but of the parameters alone.
    """
    return load_parts(
        path, env, trunk, lambda checkpoints, template: checkpoints.restore_part(template, "params", best)
    )


def load_parts(
    path: Path, env: Any, trunk: Trunks | None, restore: Callable[[Checkpoints, Any], Any]
) -> tuple[Trainer, Any]:
    path = Path(path)
    config = read_config(path)
    if env is None or (isinstance(env, str) and not takes_object(path)):
        check_environment(path, None)  # or its name would be looked for in vain
        check_trust(path, config.env, env)
        env = None
    check_trunk(path, described_trunk(trunk))
    try:
        trainer = make_train(config, env, trunk)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if env is not None:
        check_environment(path, described(env, trainer.env))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
    checkpoints = Checkpoints(path / "checkpoints", reading=True)
    try:
        saved = restore(checkpoints, jax.eval_shape(jax.vmap(trainer.init), keys))
    finally:
        checkpoints.close()
    if saved is None:
        raise ConfigError(f"{str(path)!r} has no whole checkpoint yet")
    return trainer, saved.state if isinstance(saved, Checkpoint) else saved


def evaluate_run(
    path: Path,
    *,
    episodes: int = 512,
    seed_index: int | None = None,
    sampled: bool = False,
    best: bool = False,
    env: Any = None,
    trunk: Trunks | None = None,
    console: Console | None = None,
) -> list[dict[str, float]]:
    """Plays the policies of a run and prints how well they did.

    Args:
        path: run directory.
        episodes: per seed.
        seed_index: of one seed alone, counted from 0; by default all.
        sampled: draw actions instead of taking the most probable ones.
        best: the checkpoint with the highest win rate or return, instead of the newest.
        env: the environment object that the run was given, if it was given one, or a name of what makes it;
            the name of one that is imported, ``module:factory``, if it was given that.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.
        console: where the table goes; by default the terminal.

    Returns:
        Per seed: mean and standard deviation over episodes of each result.

    Raises:
        ConfigError: there is no run, no checkpoint, no such seed, or fewer than one episode.
    """
    console = console or Console()
    episodes = as_count("episodes", episodes)
    trainer, params = load_params(path, best, env, trunk)
    chosen = pick_seeds(trainer.config, seed_index)
    seeds = [trainer.config.seed + i for i in chosen]
    params = jax.tree.map(lambda x: x[np.array(chosen)], params)
    axis = spread(len(seeds), env_shards=trainer.config.env_shards)
    play = player(trainer, axis, episodes)
    with phase(console, f"playing {episodes} episodes"):
        keys = evaluation_keys(seed_keys(seeds), 0)
        played = axis.real(play(*axis.place((params, keys, modes(axis, not sampled)))))
        results = {name: np.asarray(values, float)[:, :episodes] for name, values in played.items()}
    rows = [{"seed": seed} | scores(results, i) for i, seed in enumerate(seeds)]
    console.print(score_table("seed", {str(row["seed"]): row for row in rows}, sampled, episodes))
    return rows


def scores(results: Mapping[str, np.ndarray], i: int) -> dict[str, float]:
    """Of results [S, E], mean and standard deviation over the episodes of row ``i``."""
    means = {name: values[i].mean() for name, values in results.items()}
    return means | {f"{name}_std": values[i].std() for name, values in results.items()}


def score_table(what: str, rows: Mapping[str, Mapping[str, float]], sampled: bool, episodes: int) -> Table:
    """A line for each of ``rows``, which are :func:`scores` by what they are of."""
    names = [name for name in next(iter(rows.values())) if f"{name}_std" in next(iter(rows.values()))]
    how = "sampled" if sampled else "greedy"
    table = Table(what, *(name.replace("_", " ") for name in names), title=f"{how}, {episodes} episodes")
    for who, row in rows.items():
        table.add_row(who, *(f"{row[name]:.3f} (std {row[f'{name}_std']:.3f})" for name in names))
    return table


def render_run(
    path: Path,
    *,
    seed_index: int = 0,
    episode_seed: int = 0,
    sampled: bool = False,
    best: bool = False,
    output: Path | None = None,
    env: Any = None,
    trunk: Trunks | None = None,
    console: Console | None = None,
) -> Path:
    """Plays one episode with a policy of a run and writes it as a GIF or MP4 (SMAX, MPE) or a page (MABrax).

    Args:
        path: run directory.
        seed_index: which seed's policy, counted from 0.
        episode_seed: another number is another episode.
        sampled: draw actions instead of taking the most probable ones.
        best: the checkpoint with the highest win rate or return, instead of the newest.
        output: file to write, whose suffix tells the kind; by default in the run's ``figures/``.
        env: the environment object that the run was given, if it was given one, or a name of what makes it;
            the name of one that is imported, ``module:factory``, if it was given that.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.
        console: where the path is printed; by default the terminal.

    Returns:
        What was written.

    Raises:
        ConfigError: there is no run, no checkpoint, no such seed, or the environment cannot be drawn
            or not in a file of this kind.
    """
    from fp3o_jax.runs.playback import render_policy

    console = console or Console()
    key = seed_key(episode_seed, "episode_seed")
    trainer, params = load_params(path, best, env, trunk)
    (index,) = pick_seeds(trainer.config, seed_index)
    output = output or Path(path) / "figures" / f"seed{trainer.config.seed + index}_episode{episode_seed}"
    with phase(console, "playing an episode"):
        written = render_policy(
            trainer,
            jax.tree.map(lambda x: x[index], params),
            key=key,
            greedy=not sampled,
            output=output,
        )
    tell(console, f"written to {written}")
    return written


def pick_seeds(config: Config, seed_index: int | None) -> list[int]:
    """Positions of the seeds that are meant: one, or all if None."""
    if seed_index is None:
        return list(range(config.num_seeds))
    if not 0 <= seed_index < config.num_seeds:
        raise ConfigError(f"seed_index={seed_index} must be 0 to {config.num_seeds - 1}: that many seeds ran")
    return [seed_index]
