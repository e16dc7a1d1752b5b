"""Commands that play what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from fp3o_jax.commands.output import USUALLY, Said
from fp3o_jax.config import ConfigError
from fp3o_jax.runs import cross_play_runs, evaluate_run, evaluate_team


def evaluate(
    run: tyro.conf.Positional[Path | None] = None,
    team: tuple[str, ...] = (),
    episodes: int = 512,
    seed_index: int | None = None,
    sampled: bool = False,
    best: bool = False,
    env: str | None = None,
    said: Said = USUALLY,
) -> None:
    """Play the trained policies: `fp3o evaluate RUN`, or `fp3o evaluate --team RUN:AGENT ...`.

    Args:
        run: run directory, finished or not
        team: in place of a run, a team whose agents come from several: RUN:AGENT,AGENT for each, or
            RUN@SEED_INDEX:AGENT,AGENT for another seed than the first; agents by name or number
        episodes: per seed
        seed_index: one seed alone, counted from 0; by default all
        sampled: draw actions instead of taking the most probable ones
        best: the checkpoint with the highest win rate or return, instead of the newest
        env: module:factory again, if the run was trained on it, or a name of what makes the object that it
            was given
    """
    if (run is None) == (not team):
        raise ConfigError("evaluate plays the policies of one RUN or those of a --team: one of the two")
    common: dict[str, Any] = {"episodes": episodes, "sampled": sampled, "best": best}
    place: dict[str, Any] = {"env": env, "console": said.console}
    if run is not None:
        seeds = evaluate_run(run, seed_index=seed_index, **common, **place)
        said.result(run_dir=run, **common, seeds=seeds)
    elif seed_index is not None:
        raise ConfigError(f"seed_index={seed_index} is said of each run of a team: RUN@{seed_index}:AGENT")
    else:
        said.result(team=team, **common, **evaluate_team(team, **common, **place))


def crossplay(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    episodes: int = 512,
    sampled: bool = False,
    best: bool = False,
    env: str | None = None,
    output: Path | None = None,
    said: Said = USUALLY,
) -> None:
    """Play each seed in the teams of all: `fp3o crossplay RUN [RUN ...]`.

    One agent of a seed joins a team of another, in each place in turn. What seeds earn with themselves and
    not with one another is convention, the rest is skill.

    Args:
        runs: run directories of one environment, with two seeds or more together, finished or not
        episodes: for each pair of seeds
        sampled: draw actions instead of taking the most probable ones
        best: the checkpoints with the highest win rate or return, instead of the newest
        env: module:factory again, if the runs were trained on it, or a name of what makes the object that
            they were given
        output: path of the heat map, .png, .pdf or .svg, and of the table, .csv; by default figures/crossplay
            in the run, or for several here
    """
    common: dict[str, Any] = {"episodes": episodes, "sampled": sampled, "best": best}
    played = cross_play_runs(runs, **common, env=env, output=output, console=said.console)
    conventions = played.conventions._asdict()
    said.result(runs=runs, **common, **played._asdict() | {"conventions": conventions})
