"""Reads run directories back, finished or not, and tells which of them belong to one method."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp3o_jax.config import ConfigError, unknown

#: Columns of metrics.jsonl that say where a line belongs.
ROW_KEYS = ("seed", "update", "env_steps")
#: The file that makes a folder one of many runs, in ``runs/NAME``.
PLAN = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory holds so far.

    Attributes:
        path: the directory.
        config: the settings.
        rows: the lines of ``metrics.jsonl``, one per update and seed.
        final: per seed, what the evaluation at the end measured; empty before that.
    """

    path: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    final: Sequence[Mapping[str, Any]]

    @property
    def env(self) -> str:
        """Name of the environment, with its options if any are set."""
        options = self.config.get("env_kwargs") or {}
        return " ".join([self.config["env"], *(f"{k}={v}" for k, v in sorted(options.items()))])

    @property
    def seeds(self) -> list[int]:
        """The seeds that have logged something."""
        return sorted({row["seed"] for row in self.rows})

    def scalars(self) -> list[str]:
        """Names of the logged metrics that are one number per line."""
        names = dict.fromkeys(name for row in self.rows for name in row if name not in ROW_KEYS)
        return [n for n in names if all(isinstance(r.get(n), (int, float, type(None))) for r in self.rows)]


def in_sweep(run: Path) -> bool:
    """Whether a run that is not finished lies in a sweep's folder."""
    return (run.resolve().parent.parent / PLAN).is_file() and not (run / "summary.json").exists()


def run_dirs(path: Path) -> list[Path]:
    """The runs of a sweep's folder that have begun, in the order of its plan; a run directory as it is."""
    if not (path / PLAN).is_file():
        return [path]
    programs = _parse((path / PLAN).read_text(), str(path / PLAN))["programs"]
    runs = [path / "runs" / run["name"] for program in programs for run in program]
    return [run for run in runs if (run / "metrics.jsonl").is_file()]


def read_run(path: Path) -> Run:
    """Reads one run; a last line that is still being written is left out.

    Raises:
        ConfigError: the path is not a run directory, or a file in it is damaged.
    """
    if not ((path / "config.json").is_file() and (path / "metrics.jsonl").is_file()):
        hint = f"; did you mean {path}/*?" if any(path.glob("*/metrics.jsonl")) else ""
        raise ConfigError(
            f"run={str(path)!r} is not a run: expected a directory with config.json and metrics.jsonl, as "
            f"`fp3o train` writes it{hint}"
        )
    config = _parse((path / "config.json").read_text(), str(path / "config.json"))
    for name in ("env", "algorithm", "sharing"):
        if name not in config:
            raise ConfigError(f"{path / 'config.json'} has no {name!r}: expected the settings of a run")
    *lines, unfinished = (path / "metrics.jsonl").read_text().split("\n")
    rows = [_parse(line, f"{path / 'metrics.jsonl'}, line {i}") for i, line in enumerate(lines, 1) if line]
    if unfinished:
        # The trainer may be writing this line at the moment, or have been killed while it did.
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(unfinished))
    summary = path / "summary.json"
    final = _parse(summary.read_text(), str(summary))["seeds"] if summary.is_file() else []
    return Run(path, config, rows, final)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is damaged: expected JSON ({error})") from None


def choose_metric(runs: Sequence[Run], metric: str | None) -> str:
    """The metric asked for; by default the win rate where all runs have one, else the return.

    Raises:
        ConfigError: a run has no such metric, or it is not one number per update.
    """
    logged = [name for name in runs[0].scalars() if all(name in run.scalars() for run in runs)]
    metric = metric or ("win_rate" if "win_rate" in logged else "episode_return")
    if metric not in logged:
        raise unknown("metric", metric, logged)
    return metric


def name_methods(runs: Sequence[Run]) -> list[str]:
    """For each run the name of its method, so that runs with one name are seeds and tasks of one method.

    A method is an algorithm and a sharing, and the settings in which runs of these two differ on the same
    environment. What is set differently on different environments only, such as a learning rate tuned for
    each, does not make another method. Runs that differ in nothing but their seeds are one; if they also
    have a seed in common, they are the same experiment twice, and are told apart by their directories.
    """

    def base(run: Run) -> str:
        return f"{run.config['algorithm']}, sharing {run.config['sharing']}"

    names = []
    for run in runs:
        same = [other for other in runs if base(other) == base(run)]
        differing = sorted(
            name
            for name in run.config.keys() - {"seed", "num_seeds", "env", "env_kwargs"}
            if any(a.env == b.env and a.config.get(name) != b.config.get(name) for a in same for b in same)
        )
        names.append(", ".join([base(run), *(_setting(name, run.config[name]) for name in differing)]))

    def repeated(i: int) -> bool:
        return any(
            j != i
            and names[j] == names[i]
            and other.env == runs[i].env
            and set(other.seeds) & set(runs[i].seeds)
            for j, other in enumerate(runs)
        )

    return [f"{name} ({runs[i].path})" if repeated(i) else name for i, name in enumerate(names)]


def _setting(name: str, value: Any) -> str:
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


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
        {row["env_steps"]: row.get(metric) for row in run.rows if row["seed"] == seed}
        for run in runs
        for seed in run.seeds
    ]
    steps = sorted(set.intersection(*map(set, series)))
    values = np.array([[one[step] for step in steps] for one in series], float)
    if smooth > 1:
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
