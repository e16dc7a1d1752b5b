"""Reads run directories back, finished or not."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp3o_jax.config import Config, ConfigError, unknown
from fp3o_jax.files import COUNT, MAX_ROWS, NAME, NUMBER, SEED, SIZE, checked, parsed, read_json, read_text

#: Columns of metrics.jsonl that say where a line belongs and when it was written.
ROW_KEYS = ("seed", "update", "env_steps", "time")
#: The file that makes a folder one of many runs, in ``runs/NAME``.
PLAN = "sweep.json"
#: Settings, as far as they are read without being validated: any version may have written them.
SETTINGS = {
    "env?": str,
    "env_kwargs?": ({str: object}, None),
    "algorithm?": str,
    "sharing?": str,
    "num_envs?": COUNT,
    "rollout_length?": COUNT,
    "total_env_steps?": COUNT,
    str: (None, bool, NUMBER, str, [(bool, NUMBER, str)]),
}
#: What a plan holds.
PLANNED = {
    "config": {name.removesuffix("?") if name is not str else str: SETTINGS[name] for name in SETTINGS},
    "programs": [[{"name": NAME, "changes": SETTINGS, "seed": SEED, "num_seeds": COUNT}]],
}
#: So many runs at most in a plan, seeds counted: more are a slip, not told of before memory ends.
MAX_RUNS = 100_000
#: What is read of a line of metrics, and of a summary.
ROW = {"seed": SEED, "update?": SIZE, "env_steps": range(2**53)}
FINAL = {"seeds": [{"seed": SEED, str: (NUMBER, None)}]}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory holds so far.

    Attributes:
        path: the directory.
        config: the settings; those that an earlier version did not have are what they are by default.
        series: by seed, the scalars of ``metrics.jsonl`` by name, one value per update [U], NaN for none.
        final: per seed, what the evaluation at the end measured; empty before that.
    """

    path: Path
    config: Mapping[str, Any]
    series: Mapping[int, Mapping[str, np.ndarray]]
    final: Sequence[Mapping[str, Any]]

    @property
    def env(self) -> str:
        """Name of the environment, with its options if any are set."""
        options = self.config.get("env_kwargs") or {}
        return " ".join([self.config["env"], *(f"{k}={v}" for k, v in sorted(options.items()))])

    @property
    def seeds(self) -> list[int]:
        """The seeds that something is known of."""
        return sorted({*self.series, *(row["seed"] for row in self.final)})

    @property
    def last_step(self) -> int:
        """Environment steps of the newest update."""
        return int(max(one["env_steps"].max() for one in self.series.values()))

    def only(self, seeds: Container[int]) -> Run:
        """The same run without its other seeds."""
        return dataclasses.replace(
            self,
            series={seed: one for seed, one in self.series.items() if seed in seeds},
            final=[row for row in self.final if row["seed"] in seeds],
        )


def in_sweep(run: Path) -> bool:
    """Whether a run that is not finished lies in a sweep's folder."""
    return (run.resolve().parent.parent / PLAN).is_file() and not (run / "summary.json").exists()


def run_dirs(path: Path) -> list[Path]:
    """The runs that a path means.

    Args:
        path: a run directory, which is taken as it is; a sweep's folder: those of its runs that have begun,
            in the order of its plan; or a folder of runs and sweeps.
    """
    if _is_run(path) or not path.is_dir():
        return [path]
    if (path / PLAN).is_file():
        programs = read_plan(path)["programs"]
        return [run for runs in programs for each in runs if _is_run(run := path / "runs" / each["name"])]
    inside = [each for each in path.iterdir() if _is_run(each) or (each / PLAN).is_file()]
    return [run for each in sorted(inside, key=_natural) for run in run_dirs(each)] or [path]


def read_plan(path: Path) -> dict[str, Any]:
    """What the ``sweep.json`` of a sweep's folder holds.

    Raises:
        ConfigError: it is damaged: a program has no runs, a run is there twice, or there are too many.
    """
    file = path / PLAN
    content = read_json(file, PLANNED)
    if not content["programs"] or not all(content["programs"]):
        raise ConfigError(f"{file} is damaged: expected programs of one run or more")
    seen: set[str] = set()
    for run in (run for program in content["programs"] for run in program):
        if run["name"] in seen:
            raise ConfigError(f"{file} is damaged: the run {run['name']!r} comes twice")
        seen.add(run["name"])
    total = sum(run["num_seeds"] for program in content["programs"] for run in program)
    if total > MAX_RUNS:
        raise ConfigError(
            f"{file} is damaged: it has {total} runs with all seeds, and at most {MAX_RUNS} can be"
        )
    return content


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "metrics.jsonl").is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    """By which ``lr10`` comes after ``lr9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_run(path: Path, curves: bool = True) -> Run:
    """Reads one run; a last line that is still being written is left out.

    Args:
        path: the directory.
        curves: off: leave ``metrics.jsonl``, which may be long, alone.

    Raises:
        ConfigError: the path is not a run directory, or a file in it is damaged.
    """
    if not _is_run(path):
        raise ConfigError(
            f"run={str(path)!r} is not a run: expected a directory with config.json and metrics.jsonl, as "
            "`fp3o train` writes it, or a folder of runs or of a sweep"
        )
    config = read_json(path / "config.json", SETTINGS)
    for name in ("env", "algorithm", "sharing"):
        if name not in config:
            raise ConfigError(f"{path / 'config.json'} has no {name!r}: expected the settings of a run")
    summary = path / "summary.json"
    final = read_json(summary, FINAL)["seeds"] if summary.is_file() else []
    return Run(path, Config().to_dict() | config, _series(path / "metrics.jsonl") if curves else {}, final)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without a last one that is still being written.

    Raises:
        ConfigError: it cannot be read, or a line is damaged.
    """
    *lines, unfinished = read_text(file, MAX_ROWS).split("\n")
    rows = [
        checked(parsed(line, f"{file}, line {i}"), ROW, f"{file}, line {i}")
        for i, line in enumerate(lines, 1)
        if line
    ]
    if unfinished:
        # The trainer may be writing this line at the moment, or have been killed while it did.
        with contextlib.suppress(ConfigError):
            rows.append(checked(parsed(unfinished, str(file)), ROW, str(file)))
    return rows


def _series(file: Path) -> dict[int, dict[str, np.ndarray]]:
    rows = read_rows(file)
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row)
    columns: dict[int, dict[str, np.ndarray]] = {seed: {} for seed in sorted(by_seed)}
    for name in dict.fromkeys(name for row in rows for name in row if name != "seed"):
        found = {seed: _numbers([row.get(name) for row in own]) for seed, own in by_seed.items()}
        if all(column is not None for column in found.values()):
            for seed, column in found.items():
                columns[seed][name] = column
    return columns


def _numbers(values: Sequence[Any]) -> np.ndarray | None:
    """[U], NaN for null; None if these are no numbers, but one per agent for example."""
    try:
        column = np.array(values, float)
    except (TypeError, ValueError, OverflowError):
        return None
    return column if column.ndim == 1 else None


def choose_metric(runs: Sequence[Run], metric: str | None) -> str:
    """The metric asked for; by default the win rate where all runs have one, else the return.

    Args:
        runs: read with their curves: it is one of these; without: one of their final scores.
        metric: its name.

    Raises:
        ConfigError: a run has no such metric, or it is not one number per update.
    """
    known = [_curve_names(run) if run.series else _final_names(run) for run in runs]
    shared = [name for name in known[0] if all(name in names for names in known)]
    if not shared:
        raise ConfigError(f"{runs[-1].path} and the other runs have no metric in common that is a number")
    metric = metric or ("win_rate" if "win_rate" in shared else "episode_return")
    if metric not in shared:
        raise unknown("metric", metric, shared)
    return metric


def _curve_names(run: Run) -> list[str]:
    return [name for one in list(run.series.values())[:1] for name in one if name not in ROW_KEYS]


def _final_names(run: Run) -> list[str]:
    return [name for row in run.final[:1] for name in row if name not in ("seed", "stopped_at_update")]


def curve(runs: Sequence[Run], metric: str, smooth: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A metric over the seeds of all given runs, wherever every seed has a value; nothing is interpolated.

    Args:
        runs: runs of one method on one environment.
        metric: a logged scalar.
        smooth: each value becomes the mean of its seed's last so many updates.

    Returns:
        Environment steps [U] and values [S, U].
    """
    series = [
        dict(zip(one["env_steps"].astype(int).tolist(), one[metric].tolist(), strict=True))
        for run in runs
        for one in run.series.values()
    ]
    steps = sorted(set.intersection(*map(set, series)))
    values = np.array([[one[step] for step in steps] for one in series], float)
    if smooth > 1 and steps:
        values = np.array([_trailing_mean(one, smooth) for one in values])
    complete = np.isfinite(values).all(0)
    return np.array(steps)[complete], values[:, complete]


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` values [U] that are numbers; NaN where none is."""
    numbers = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(numbers, values, 0.0), kernel)[: len(values)]
    count = np.convolve(numbers, kernel)[: len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
