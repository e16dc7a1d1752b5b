"""Cross-play: agents that learnt apart in one team, which tells what is a convention from what is skill.

Each entry of the matrix is a team of one seed with one newcomer of another: its score is the mean over the
place that the newcomer takes. So ad hoc teamwork is judged (Stone et al., 2010): one agent joins a team that
it did not learn with. With two agents it is the cross-play of Hu et al. (2020, "Other-Play", zero-shot
coordination), the mean over who sits where. On the diagonal the newcomer is of the team itself: self-play.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fp3o_jax.config import ConfigError
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.drawing import figure_path, save_figure
from fp3o_jax.runs.programs import evaluation_keys
from fp3o_jax.runs.progress import phase, tell
from fp3o_jax.runs.statistics import Estimate
from fp3o_jax.runs.tables import text, write_csv
from fp3o_jax.runs.teams import check_one_environment
from fp3o_jax.runs.trained import load_params
from fp3o_jax.seeds import seed_keys
from fp3o_jax.team.mixed import MixedTeam
from fp3o_jax.train import Trainer
from fp3o_jax.values import as_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many episodes are played side by side; more pairs wait for their turn.
SIDE_BY_SIDE = 2**14
#: Policies of a matrix whose entries a figure or a terminal still shows as numbers.
READABLE = 12


class Conventions(NamedTuple):
    """What seeds earn with themselves and with one another.

    Attributes:
        self_play: the mean of the diagonal.
        cross_play: the mean of what is off it.
        gap: the one less the other: what agents owe to conventions of their own team.
    """

    self_play: Estimate
    cross_play: Estimate
    gap: Estimate


class CrossPlay(NamedTuple):
    """What came of it.

    Attributes:
        policies: [P] run and seed of each policy.
        metric: that the matrix and the conventions are of.
        matrix: [P, P] mean score by newcomer and team.
        conventions: of the matrix.
        files: what was written.
    """

    policies: list[tuple[Path, int]]
    metric: str
    matrix: np.ndarray
    conventions: Conventions
    files: list[Path]


def cross_play_runs(
    paths: Sequence[Path],
    *,
    episodes: int = 512,
    sampled: bool = False,
    best: bool = False,
    output: Path | None = None,
    env: Any = None,
    console: Console | None = None,
) -> CrossPlay:
    """Plays each seed of each run as a newcomer in the team of each, prints the matrix, draws and writes it.

    Args:
        paths: run directories of one environment, with two seeds or more together.
        episodes: for each entry of the matrix, rounded up to as many for each place of the newcomer.
        sampled: draw actions instead of taking the most probable ones.
        best: the checkpoints with the highest win rate or return, instead of the newest.
        output: where figure and table (.csv) go: a path whose ending, if any, is .png, .pdf or .svg, or a
            directory; by default ``figures/crossplay`` in the run, or for several here.
        env: the environment object that the runs were given, if they were given one.
        console: where the matrix goes; by default the terminal.

    Raises:
        ConfigError: a run cannot be played, runs are not of one environment, or nobody is there to be
            exchanged: a single seed, or agents that are alone.
    """
    console, paths = console or Console(), [Path(path) for path in paths]
    if not paths:
        raise ConfigError("no run is given: `fp3o crossplay` needs at least one run directory")
    episodes = as_count("episodes", episodes)
    folder = (paths[0] if len(paths) == 1 else Path()) / "figures"
    stem, formats = figure_path(output, folder, "crossplay")
    loaded = [load_params(path, best, env) for path in paths]
    trainers = [trainer for trainer, _ in loaded]
    check_one_environment(paths, trainers, by_name=env is None or isinstance(env, str))
    counts, n = [trainer.config.num_seeds for trainer in trainers], trainers[0].env.num_agents
    if sum(counts) < 2:
        raise ConfigError(f"{str(paths[0])!r} has a single seed: name a second run, or train with num_seeds")
    if n < 2:
        raise ConfigError(f"env={trainers[0].env.name!r} has a single agent, which has nobody to play with")
    policies = [(p, seed) for p, t in zip(paths, trainers, strict=True) for seed in t.config.seeds]
    (key,) = evaluation_keys(seed_keys([trainers[0].config.seed]), 0)
    each = -(-episodes // n)
    sides = [(trainer, params["actor"]) for trainer, params in loaded]
    with phase(console, f"playing {sum(counts) ** 2} pairs of policies, {each * n} episodes each"):
        blocks = [[play_pairs(one, other, key, each, not sampled) for other in sides] for one in sides]
    played = {
        name: np.concatenate([np.concatenate([block[name] for block in row], 1) for row in blocks])
        for name in blocks[0][0]
    }
    metric = "win_rate" if "win_rate" in played else "episode_return"
    matrix = played[metric].mean((2, 3))
    result = CrossPlay(policies, metric, matrix, conventions(matrix, counts), [])
    names = [str(seed) if len(paths) == 1 else f"{path}, seed {seed}" for path, seed in policies]
    _tell(console, result, names, f"{'sampled' if sampled else 'greedy'}, {each * n} episodes each")
    files = [write_csv(_frame(policies, played), stem.with_name(stem.name + ".csv"))]
    files += save_figure(draw_matrix(result, names), stem, formats)
    for file in files:
        tell(console, f"written to {file}")
    return result._replace(files=files)


def play_pairs(
    newcomers: tuple[Trainer, Any], teams: tuple[Trainer, Any], key: Array, episodes: int, greedy: bool = True
) -> dict[str, np.ndarray]:
    """Each newcomer in each place of each team: one program.

    Args:
        newcomers: trainer and ``params["actor"]``, leaves [S, ...], of whom one agent is taken.
        teams: trainer and ``params["actor"]``, leaves [S', ...], of whom the others are.
        key: PRNG key. Every team meets the same beginnings, others for each place of the newcomer.
        episodes: E, of each newcomer in each place of each team.
        greedy: take the most probable action (else sample).

    Returns:
        By result [S, S', n, E].
    """
    (trainer, own), (host, others) = newcomers, teams
    n, team = host.env.num_agents, MixedTeam([host.networks, trainer.networks])
    evaluate = make_evaluate(dataclasses.replace(host, networks=team), episodes, greedy)
    shape = (*(jax.tree.leaves(params)[0].shape[0] for params in (own, others)), n)

    @jax.jit
    def play(own: Any, others: Any, key: Array) -> dict[str, Array]:
        def one(pair: Array) -> dict[str, Array]:
            row, column, place = pair
            picked = jax.tree.map(lambda x: x[column], others), jax.tree.map(lambda x: x[row], own)
            actors = {"teams": picked, "source": (jnp.arange(n) == place).astype(int)}
            return evaluate({"actor": actors}, jax.random.fold_in(key, place))

        pairs = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape), indexing="ij"), -1).reshape((-1, 3))
        return jax.lax.map(one, pairs, batch_size=min(len(pairs), max(1, SIDE_BY_SIDE // episodes)))

    played = jax.device_get(play(own, others, key))
    return {name: np.asarray(x, float)[:, :episodes].reshape((*shape, -1)) for name, x in played.items()}


def conventions(
    matrix: np.ndarray, counts: Sequence[int], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Conventions:
    """The diagonal against the rest, with percentile bootstrap intervals over seeds.

    Seeds are drawn anew within each run, rows and columns together, for the entries of a seed depend on one
    another. A seed that is drawn twice is no pair with itself.

    Args:
        matrix: [P, P].
        counts: of the seeds of each run, P in all.
        confidence: probability mass of the intervals.
        resamples: how often seeds are drawn.
        seed: of the draws.

    Returns:
        Each mean with its interval, which is NaN with fewer than three seeds: of two there is one pair.
    """

    def means(chosen: np.ndarray) -> np.ndarray:
        """[3, R] of policies [R, P]; NaN where all are the same."""
        entries = matrix[chosen[:, :, None], chosen[:, None, :]]
        apart = chosen[:, :, None] != chosen[:, None, :]
        pairs = apart.sum((1, 2))
        with np.errstate(invalid="ignore"):
            off = np.where(apart, entries, 0.0).sum((1, 2)) / np.where(pairs > 0, pairs, np.nan)
        on = matrix[chosen, chosen].mean(1)
        return np.stack([on, off, on - off])

    total = len(matrix)
    values = means(np.arange(total)[None])[:, 0]
    low, high = np.full((2, 3), np.nan)
    if total > 2:
        rng, starts = np.random.default_rng(seed), np.cumsum([0, *counts])
        drawn = [a + rng.integers(c, size=(resamples, c)) for a, c in zip(starts, counts, strict=False)]
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(means(np.concatenate(drawn, 1)), [tail, 1 - tail], axis=1)
    return Conventions(*(Estimate(*map(float, ends)) for ends in zip(values, low, high, strict=True)))


def draw_matrix(result: CrossPlay, names: Sequence[str]) -> Figure:
    """The matrix as a heat map, a row for each newcomer and a column for each team."""
    from matplotlib.figure import Figure

    matrix, metric, size = result.matrix, result.metric.replace("_", " "), len(result.matrix)
    side = min(9.0, max(3.2, 0.45 * size + 1.2) + 0.04 * max(map(len, names)))
    figure = Figure(figsize=(side + 1.2, side + 0.6), layout="constrained")
    axes = figure.add_subplot()
    limits = {"vmin": 0.0, "vmax": 1.0} if result.metric == "win_rate" else {}
    image = axes.imshow(matrix, cmap="viridis", **limits)
    figure.colorbar(image, label=metric, shrink=0.8)
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(size), names, fontsize="small", **slanted)
    axes.set_yticks(range(size), names, fontsize="small")
    axes.set_xlabel("team of seed")
    axes.set_ylabel("one newcomer of seed")
    if size <= READABLE:
        for row, column in np.ndindex(matrix.shape):
            value = matrix[row, column]
            dark = image.norm(value) < 0.6
            axes.text(
                column,
                row,
                f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}",
                ha="center",
                va="center",
                fontsize="small",
                color="white" if dark else "black",
            )
    self_play, cross_play, gap = map(text, result.conventions)
    axes.set_title(f"self-play {self_play}\ncross-play {cross_play}\ngap {gap}", fontsize="small")
    return figure


def _tell(console: Console, result: CrossPlay, names: Sequence[str], how: str) -> None:
    if len(names) <= READABLE:
        title = f"{result.metric.replace('_', ' ')} of one newcomer (row) in a team (column); {how}"
        table = Table("", title=title)
        for name in names:
            table.add_column(Text(name))
        for name, row in zip(names, result.matrix, strict=True):
            table.add_row(Text(name), *(f"{x:.3f}" for x in row))
        console.print(table)
    for name, estimate in result.conventions._asdict().items():
        tell(console, f"{name.replace('_', '-')} {text(estimate)}")


def _frame(policies: Sequence[tuple[Path, int]], played: dict[str, np.ndarray]) -> Any:
    """A row for each entry: who, and mean and standard deviation of each result over places and episodes."""
    import pandas as pd

    rows = []
    for (i, (run, seed)), (j, (host, host_seed)) in (
        (a, b) for a in enumerate(policies) for b in enumerate(policies)
    ):
        row = {"newcomer": str(run), "newcomer_seed": seed, "team": str(host), "team_seed": host_seed}
        for name, values in played.items():
            row |= {name: values[i, j].mean(), f"{name}_std": values[i, j].std()}
        rows.append(row | {"episodes": next(iter(played.values()))[i, j].size})
    return pd.DataFrame(rows)
