"""From axes to points, from points to programs: everything is validated before anything is compiled."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fp3o_jax.config import Config, ConfigError, Hyperparams, unknown
from fp3o_jax.runs.directory import plain
from fp3o_jax.runs.reading import MAX_RUNS
from fp3o_jax.values import as_count

#: Which seeds there are is no axis: all points have the same.
SEEDS = ("seed", "num_seeds")
#: Digits of a number that is drawn: enough to search with, few enough to read.
DIGITS = 4


class Point(NamedTuple):
    """One configuration of a sweep.

    Attributes:
        changes: setting -> value, where it differs from the sweep's config.
        config: all of its settings; its seeds are the sweep's.
    """

    changes: dict[str, Any]
    config: Config

    @property
    def key(self) -> str:
        """Its settings but for the seeds, by which it is known again."""
        return settings_key(plain(self.config.to_dict()))

    @property
    def label(self) -> str:
        """What tells it from the others, to be read."""
        return told(self.changes)


class PlannedRun(NamedTuple):
    """One run directory: seeds of a point.

    Attributes:
        name: of the directory.
        point: its settings.
        seed, num_seeds: which seeds.
    """

    name: str
    point: Point
    seed: int
    num_seeds: int

    @property
    def config(self) -> Config:
        return self.point.config.replace(seed=self.seed, num_seeds=self.num_seeds)


def told(changes: Mapping[str, Any]) -> str:
    """Settings as a reader wants them: ``algorithm=happo, actor_lr=0.001``."""
    return ", ".join(f"{name}={_short(value)}" for name, value in changes.items()) or "the config"


def compiled_in(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the changes that make a program another one."""
    return {name: value for name, value in changes.items() if name not in Hyperparams._fields}


def program_key(config: Config) -> str:
    """The settings that are compiled into a program; configs of one key train side by side."""
    return settings_key(plain(config.to_dict()), (*SEEDS, *Hyperparams._fields))


def settings_key(settings: Mapping[str, Any], without: Sequence[str] = SEEDS) -> str:
    """Settings as one text. Those that an earlier version did not have are what they are by default."""
    every = _defaults() | dict(settings)
    return json.dumps({name: value for name, value in every.items() if name not in without}, sort_keys=True)


@functools.cache
def _defaults() -> dict[str, Any]:
    return plain(Config().to_dict())


def make_points(
    config: Config,
    *,
    grid: Mapping[str, Sequence[Any]],
    zip: Mapping[str, Sequence[Any]],
    random: Mapping[str, Sequence[Any]],
    samples: int,
    sample_seed: int,
    points: Sequence[Mapping[str, Any]],
) -> list[Point]:
    """All points: every combination of the grid's axes, the zipped axes' steps, the draws and the list.

    Args:
        config: what no axis changes.
        grid: axis -> its values, each with each. An axis is a setting, or several joined by commas, which
            take the same value.
        zip: axis -> its values; these axes walk together.
        random: axis -> ``("uniform" or "log", low, high)``.
        samples: draws of the random axes, all of them at once.
        sample_seed: of the draws; the first ones do not depend on how many there are.
        points: setting -> value, for each point of a list.

    Raises:
        ConfigError: an axis is no setting or has no values, two of them change one setting, a value cannot be
            used (the error names the point), or two points are the same.
    """
    if samples > MAX_RUNS:
        raise ConfigError(f"samples={samples} must be at most {MAX_RUNS}")
    factors = [
        *(
            [_changes(axis, value) for value in _values("grid", axis, values)]
            for axis, values in grid.items()
        ),
        _walk_together(zip),
        _draws(random, samples, sample_seed),
        _listed(points),
    ]
    factors = [factor for factor in factors if factor]
    _refuse_twice(factors)
    if (number := math.prod(map(len, factors))) * config.num_seeds > MAX_RUNS:
        raise ConfigError(
            f"grid, zip, random and points make {number} points of num_seeds={config.num_seeds}, and at most "
            f"{MAX_RUNS} runs can be"
        )
    made: dict[str, Point] = {}
    for number, parts in enumerate(itertools.product(*factors)):
        changes = {name: value for part in parts for name, value in part.items()}
        try:
            settled = config.replace(**changes)
        except ConfigError as error:
            raise ConfigError(f"point {number} ({told(changes)}): {error}") from None
        # As the config means them: 1e-3 of NumPy, "64.0" whole.
        point = Point({name: plain(settled.to_dict()[name]) for name in changes}, settled)
        if point.key in made:
            raise ConfigError(f"point {number} ({point.label}) is there twice")
        made[point.key] = point
    return list(made.values())


def missing_runs(points: Iterable[Point], seeds: range, there: Mapping[str, set[int]]) -> list[PlannedRun]:
    """The runs that a plan still lacks: for each point its seeds, as far as they are not there.

    Args:
        points: of the plan.
        seeds: of every point.
        there: seeds that have been planned, by ``Point.key``.
    """
    runs = []
    for point in points:
        lacking = [seed for seed in seeds if seed not in there.get(point.key, ())]
        # A run directory has seeds that follow one another.
        for _, block in itertools.groupby(enumerate(lacking), lambda pair: pair[1] - pair[0]):
            block = [seed for _, seed in block]
            runs.append(PlannedRun(_name(point, block[0], len(block)), point, block[0], len(block)))
    return runs


def make_programs(runs: Iterable[PlannedRun], runs_per_program: int | None = None) -> list[list[PlannedRun]]:
    """Which runs train side by side: those that differ in hyperparameters and seeds alone.

    Args:
        runs: in the order of the plan.
        runs_per_program: seeds that fit one program; what is beyond them becomes another.

    Raises:
        ConfigError: so many do not hold the seeds of one point.
    """
    together: dict[str, list[PlannedRun]] = {}
    for run in runs:
        together.setdefault(program_key(run.point.config), []).append(run)
    if runs_per_program is None:
        return list(together.values())
    runs_per_program = as_count("runs_per_program", runs_per_program)
    programs = []
    for group in together.values():
        room = 0
        for run in group:
            if run.num_seeds > runs_per_program:
                raise ConfigError(
                    f"runs_per_program={runs_per_program} must be at least num_seeds={run.num_seeds}: the "
                    "seeds of one configuration train together"
                )
            if room < run.num_seeds:
                programs.append([])
                room = runs_per_program
            programs[-1].append(run)
            room -= run.num_seeds
    return programs


def _changes(axis: str, value: Any) -> dict[str, Any]:
    """What one value of an axis sets."""
    names = [name.strip().replace("-", "_") for name in axis.split(",")]
    for name in names:
        if name in SEEDS:
            raise ConfigError(
                f"axis={axis!r} cannot be one: say which seeds every point has by seed and num_seeds"
            )
        if name not in Config.__dataclass_fields__:
            raise unknown("axis", name, set(Config.__dataclass_fields__) - set(SEEDS))
    return dict.fromkeys(names, value)


def _values(kind: str, axis: str, values: Sequence[Any]) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{kind}: axis {axis}={values!r} must be a list of values")
    values = list(values)
    if not values:
        raise ConfigError(f"{kind}: axis {axis}=[] has no values")
    return values


def _walk_together(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    values = {axis: _values("zip", axis, each) for axis, each in axes.items()}
    lengths = {axis: len(each) for axis, each in values.items()}
    if len(set(lengths.values())) > 1:
        one_of_each = {length: axis for axis, length in lengths.items()}
        told_lengths = ", ".join(f"{axis[:60]} has {n}" for n, axis in list(one_of_each.items())[:8])
        raise ConfigError(f"zip: axes that walk together have equally many values: {told_lengths}")
    each = [[_changes(axis, value) for value in column] for axis, column in values.items()]
    _refuse_twice(each)
    return [{n: v for part in step for n, v in part.items()} for step in itertools.zip_longest(*each)]


def _draws(axes: Mapping[str, Sequence[Any]], samples: int, seed: int) -> list[dict[str, Any]]:
    samples, seed = as_count("samples", samples, 0), as_count("sample_seed", seed, 0)
    if bool(axes) != bool(samples):
        raise ConfigError(
            f"samples={samples} with {len(axes)} random axes: random axes need a number of samples of at "
            "least 1, and samples need random axes"
        )
    for axis, law in axes.items():
        known = isinstance(law, (list, tuple)) and len(law) == 3 and law[0] in ("uniform", "log")
        if not known or not all(isinstance(end, (int, float)) and math.isfinite(end) for end in law[1:]):
            raise ConfigError(f"random: axis {axis}={law!r} must be uniform or log, a lower and an upper end")
        if not law[1] < law[2] or (law[0] == "log" and law[1] <= 0):
            above = "0 < " * (law[0] == "log")
            raise ConfigError(f"random: axis {axis}={list(law)!r} must have {above}lower end < upper end")
    draws = []
    for number in range(samples):
        # Each draw has a generator of its own: the first ones stay what they are when there are more.
        rng = np.random.default_rng((seed, number))
        draws.append({})
        for axis, (law, low, high) in axes.items():
            drawn = np.exp(rng.uniform(np.log(low), np.log(high))) if law == "log" else rng.uniform(low, high)
            draws[-1] |= _changes(axis, float(f"{drawn:.{DIGITS}g}"))
    if axes:
        _refuse_twice([[_changes(axis, None)] for axis in axes])
    return draws


def _listed(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    listed = []
    for point in points:
        if not isinstance(point, Mapping):
            raise ConfigError(f"points: {point!r} must be a mapping from settings to values")
        _refuse_twice([[_changes(axis, value)] for axis, value in point.items()])
        listed.append({n: v for axis, value in point.items() for n, v in _changes(axis, value).items()})
    return listed


def _refuse_twice(factors: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Whether each setting is changed by one axis alone."""
    seen: set[str] = set()
    for factor in factors:
        names = {name for changes in factor for name in changes}
        if twice := sorted(seen & names):
            raise ConfigError(f"axis={twice[0]!r} is changed twice: by one axis, please")
        seen |= names


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _name(point: Point, seed: int, num_seeds: int) -> str:
    """A directory's name: what the point changes, and a mark of all its settings and seeds."""
    words = "_".join(f"{name}-{_short(value)}" for name, value in point.changes.items()) or "config"
    mark = hashlib.sha256(f"{point.key} {seed} {num_seeds}".encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', words)[:100]}_seed{seed}_{mark}"
