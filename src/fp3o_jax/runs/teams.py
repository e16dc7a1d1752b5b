"""Teams of agents from several runs, and the runs' being of one environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from fp3o_jax.config import ConfigError
from fp3o_jax.runs.devices import spread
from fp3o_jax.runs.programs import evaluation_keys, modes, player
from fp3o_jax.runs.progress import phase, tell
from fp3o_jax.runs.trained import load_params, pick_seeds, score_table, scores
from fp3o_jax.seeds import seed_keys
from fp3o_jax.team.learners import agent_indices
from fp3o_jax.team.mixed import MixedTeam
from fp3o_jax.team.trunks import Trunks
from fp3o_jax.train import Trainer
from fp3o_jax.values import as_count

#: What all runs must have in common to play together.
SEEN = ("name", "agents", "obs_sizes", "action_sizes", "discrete", "state_size")
SPELLING = "RUN:AGENT,AGENT or, for another seed than the first, RUN@SEED_INDEX:AGENT,AGENT"


class Source(NamedTuple):
    """Agents of a team that act by the policies of a run.

    Attributes:
        path: run directory.
        agents: names, or numbers counted from 0.
        seed_index: whose policies, counted from 0.
        trunk: the flax module, or the pair of them, that the run was given, if it was given one.
    """

    path: Path
    agents: tuple[int | str, ...]
    seed_index: int = 0
    trunk: Trunks | None = None

    @classmethod
    def of(cls, text: str) -> Source:
        """What ``RUN:AGENT,AGENT`` or ``RUN@SEED_INDEX:AGENT,AGENT`` says.

        Raises:
            ConfigError: it is written in another way.
        """
        path, _, agents = text.rpartition(":")
        names = tuple(name.strip() for name in agents.split(","))
        if not path or not all(names):
            raise ConfigError(f"team={text!r} must be {SPELLING}")
        run, _, index = path.rpartition("@")
        # A directory may have such a name itself.
        if run and index.isdecimal() and not Path(path).is_dir():
            return cls(Path(run), names, int(index))
        return cls(Path(path), names)


def evaluate_team(
    team: Sequence[str | Source],
    *,
    episodes: int = 512,
    sampled: bool = False,
    best: bool = False,
    env: Any = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Plays a team whose agents come from several runs, or from several seeds of one, and prints how well it
    did.

    Each agent acts by the whole network of its own run: runs may differ in algorithm, sharing, sizes and
    cell. A team that is wholly of one run plays the episodes that :func:`evaluate_run` plays.

    Args:
        team: for each run who comes from it, as :class:`Source` or as its text; every agent once.
        episodes: how many.
        sampled: draw actions instead of taking the most probable ones.
        best: the checkpoints with the highest win rate or return, instead of the newest.
        env: the environment object that the runs were given, if they were given one.
        console: where the table goes; by default the terminal.

    Returns:
        Mean and standard deviation over episodes of each result.

    Raises:
        ConfigError: a run cannot be played, the runs are not of one environment, or an agent comes from no
            run or from two.
    """
    console = console or Console()
    sources = [Source.of(each) if isinstance(each, str) else each for each in team]
    if not sources:
        raise ConfigError(f"team={team!r} names no run: each agent comes from one, {SPELLING}")
    episodes = as_count("episodes", episodes)
    loaded = [load_params(each.path, best, env, each.trunk) for each in sources]
    trainers = [trainer for trainer, _ in loaded]
    check_one_environment(
        [each.path for each in sources], trainers, by_name=env is None or isinstance(env, str)
    )
    chosen = [
        pick_seeds(trainer.config, each.seed_index) for trainer, each in zip(trainers, sources, strict=True)
    ]
    first = trainers[0]
    params = {
        "teams": tuple(
            jax.tree.map(lambda x, rows=rows: x[np.array(rows)], params["actor"])
            for (_, params), rows in zip(loaded, chosen, strict=True)
        ),
        "source": np.array([source_of_agents([each.agents for each in sources], first.env.agents)]),
    }
    mixed = dataclasses.replace(first, networks=MixedTeam([trainer.networks for trainer in trainers]))
    axis = spread(1, env_shards=first.config.env_shards)
    keys = evaluation_keys(seed_keys([first.config.seed + chosen[0][0]]), 0)
    with phase(console, f"playing {episodes} episodes"):
        play = player(mixed, axis, episodes)
        played = axis.real(play(*axis.place(({"actor": params}, keys, modes(axis, not sampled)))))
        results = {name: np.asarray(values, float)[:, :episodes] for name, values in played.items()}
    for agent, number in zip(first.env.agents, params["source"][0], strict=True):
        seed = trainers[number].config.seed + chosen[number][0]
        tell(console, f"{agent}: {sources[number].path}, seed {seed}")
    row = scores(results, 0)
    console.print(score_table("team", {"mixed": row}, sampled, episodes))
    return row


def source_of_agents(chosen: Sequence[Sequence[int | str]], agents: Sequence[str]) -> list[int]:
    """For each agent the position of the source that it comes from.

    Args:
        chosen: for each source its agents, names or numbers.
        agents: names of all.

    Raises:
        ConfigError: an agent has no source or two, or there is no such agent.
    """
    found: dict[int, int] = {}
    for number, names in enumerate(chosen):
        for agent in agent_indices("team", names, agents):
            if agent in found:
                raise ConfigError(f"team: {agents[agent]!r} comes from two runs: each agent comes from one")
            found[agent] = number
    if missing := [name for i, name in enumerate(agents) if i not in found]:
        raise ConfigError(f"team: {', '.join(map(repr, missing))} must come from a run as well: {SPELLING}")
    return [found[i] for i in range(len(agents))]


def check_one_environment(paths: Sequence[Path], trainers: Sequence[Trainer], by_name: bool = True) -> None:
    """Whether the agents of several runs can meet.

    Args:
        paths: the run directories, for the error.
        trainers: theirs.
        by_name: each run made its environment by the name and the options in its config.

    Raises:
        ConfigError: the environments differ.
    """
    facts = [
        ({"env": t.config.env, "env_kwargs": dict(t.config.env_kwargs)} if by_name else {})
        | {f"the environment's {name}": getattr(t.env, name) for name in SEEN}
        for t in trainers
    ]
    for path, own in zip(paths[1:], facts[1:], strict=True):
        if differences := _differences(facts[0], own):
            raise ConfigError(
                f"{str(paths[0])!r} and {str(path)!r} are not of one environment, so their agents cannot "
                f"play together: {'; '.join(differences)}"
            )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [f"{name} is {one[name]!r} and {other[name]!r}" for name in one if one[name] != other[name]]
