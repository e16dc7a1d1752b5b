"""A sweep on disk: which programs there are, which runs each trains, and who is at work on which.

::

    sweep.json            the config, and the list of programs with their runs; it only ever grows
    programs/0/           lock, checkpoints/ while it trains, error.txt if it failed, rounds.json if it does
                          not fit the device at once
    runs/NAME/            ordinary run directories
    results.csv           a row for each run and seed
    table.csv, table.tex  a row for each configuration: final scores with intervals
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fp3o_jax.config import Config, ConfigError
from fp3o_jax.files import COUNT, read_json
from fp3o_jax.runs.directory import plain, take_lock, write_whole
from fp3o_jax.runs.reading import PLAN, read_plan
from fp3o_jax.sweeps.plan import SEEDS, PlannedRun, Point, make_programs, missing_runs, settings_key, told

#: What may lie in a folder before it is a sweep's: traces of a start that was cut short.
_OWN = {"lock", f"{PLAN}.part"}


class SweepFolder:
    """One sweep on disk.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No two processes change the plan, take a program or write results at the same moment."""
        self.path.mkdir(parents=True, exist_ok=True)
        with take_lock(self.path / "lock", wait=True):
            yield

    def plan(self) -> dict[str, Any]:
        """What ``sweep.json`` holds.

        Raises:
            ConfigError: there is no sweep, or its plan is damaged.
        """
        if not (self.path / PLAN).exists():
            raise ConfigError(f"{str(self.path)!r} is not a sweep: it has no {PLAN}")
        return read_plan(self.path)

    def preview(
        self, config: Config, points: Sequence[Point], runs_per_program: int | None
    ) -> list[list[PlannedRun]]:
        """All programs that :meth:`extend` would write down, in their order; nothing is written.

        Raises:
            ConfigError: the folder holds another plan, or something that is no sweep.
        """
        return self._merged(config, points, runs_per_program)[1]

    def extend(
        self, config: Config, points: Sequence[Point], runs_per_program: int | None
    ) -> list[list[PlannedRun]]:
        """Writes down what the plan has and the folder lacks, as programs after those that are there.

        Args:
            config: of the sweep; its seeds are those of every point.
            points: of the plan.
            runs_per_program: as :func:`~fp3o_jax.sweeps.plan.make_programs` takes it.

        Returns:
            All programs, in the order of their numbers.

        Raises:
            ConfigError: the folder holds another plan, or something that is no sweep.
        """
        self._refuse_what_is_no_sweep()
        with self.locked():
            content, programs = self._merged(config, points, runs_per_program)
            write_whole(self.path / PLAN, json.dumps(content, indent=2) + "\n")
        return programs

    def program(self, index: int) -> Path:
        return self.path / "programs" / str(index)

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def take(self, index: int) -> Any:
        """The lock of a program, to be closed; None if another process holds it."""
        folder = self.program(index)
        with self.locked():
            folder.mkdir(parents=True, exist_ok=True)
            return take_lock(folder / "lock")

    def rounds(self, index: int, runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
        """The runs of a program as they train one after another: all at once, as long as they fit.

        Raises:
            ConfigError: the file that says so is damaged.
        """
        file = self.program(index) / "rounds.json"
        sizes = read_json(file, [COUNT]) if file.exists() else [len(runs)]
        if sum(sizes) != len(runs):
            raise ConfigError(
                f"{file} is damaged: its rounds have {sum(sizes)} runs, and the plan {len(runs)}"
            )
        ends = itertools.accumulate(sizes)
        return [list(runs[end - size : end]) for size, end in zip(sizes, ends, strict=True)]

    def split_round(self, index: int, rounds: Sequence[Sequence[PlannedRun]], number: int, most: int) -> None:
        """Writes down that a round becomes several of at most so many runs."""
        sizes = [len(runs) for runs in rounds]
        full, rest = divmod(sizes[number], most)
        sizes[number : number + 1] = [most] * full + [rest] * bool(rest)
        write_whole(self.program(index) / "rounds.json", json.dumps(sizes) + "\n")

    def is_finished(self, names: Sequence[str]) -> bool:
        """Whether each of these runs has its summary."""
        return all((self.run(name) / "summary.json").exists() for name in names)

    def _merged(
        self, config: Config, points: Sequence[Point], runs_per_program: int | None
    ) -> tuple[dict[str, Any], list[list[PlannedRun]]]:
        self._refuse_what_is_no_sweep()
        seeds = config.seeds
        programs: list[list[PlannedRun]] = []
        content: dict[str, Any] = {"config": plain(config.to_dict()), "programs": []}
        there: dict[str, set[int]] = {}
        if (self.path / PLAN).exists():
            content = self.plan()
            known = {point.key: point for point in points}
            _refuse_another_plan(self.path, content, known, seeds)
            for program in content["programs"]:
                programs.append(
                    [
                        PlannedRun(r["name"], known[_key(content, r)], r["seed"], r["num_seeds"])
                        for r in program
                    ]
                )
                for run in programs[-1]:
                    there.setdefault(run.point.key, set()).update(range(run.seed, run.seed + run.num_seeds))
        new = make_programs(missing_runs(points, seeds, there), runs_per_program)
        content["programs"] += [[_as_json(run, content["config"]) for run in program] for program in new]
        return content, programs + new

    def _refuse_what_is_no_sweep(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir={str(self.path)!r} is a file: choose a directory")
        if not self.path.exists() or (self.path / PLAN).exists():
            return
        names = {entry.name for entry in self.path.iterdir()}
        # Another process may have begun the sweep in between.
        if not names <= _OWN and not (self.path / PLAN).exists():
            raise ConfigError(
                f"run_dir={str(self.path)!r} exists and is not a sweep, and nothing is ever overwritten: "
                "choose another directory"
            )


def settings_of(content: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run that ``sweep.json`` lists."""
    return content["config"] | run["changes"] | {name: run[name] for name in SEEDS}


def _as_json(run: PlannedRun, config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``sweep.json`` says of a run: its changes to the config there, maybe that of an earlier plan."""
    settings = plain(run.point.config.to_dict())
    other = {n: v for n, v in settings.items() if n not in SEEDS and config.get(n) != v}
    changes = {**run.point.changes, **other}
    return {"name": run.name, "changes": changes, "seed": run.seed, "num_seeds": run.num_seeds}


def _key(content: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return settings_key(settings_of(content, run))


def _refuse_another_plan(
    path: Path, content: Mapping[str, Any], known: Mapping[str, Point], seeds: range
) -> None:
    """Whether every run that was planned is in this plan too; it may have more."""
    runs = [run for program in content["programs"] for run in program]
    keys = [_key(content, run) for run in runs]
    differences = []
    strange = [run for run, key in zip(runs, keys, strict=True) if key not in known]
    if strange:
        there, here = ([json.loads(key) for key in each] for each in (keys, known))
        for name in here[0]:
            before, now = (dict.fromkeys(repr(each.get(name)) for each in all_) for all_ in (there, here))
            if any(value not in now for value in before):
                differences.append(f"{name} is {_some(before)} there and {_some(now)} here")
        if not differences:
            differences.append(f"{_some([told(strange[0]['changes'])])} is there and not here")
    lost = sorted({s for r in runs for s in range(r["seed"], r["seed"] + r["num_seeds"])} - set(seeds))
    if lost:
        here = f"{seeds[0]} to {seeds[-1]}"
        differences.append(f"seeds {_some(map(str, lost), ', ')} are there, and those here are {here}")
    if differences:
        raise ConfigError(
            f"run_dir={str(path)!r} holds a sweep of another plan ({'; '.join(differences)}). A plan may "
            "grow, by points and seeds; for another one choose another directory"
        )


def _some(values: Iterable[str], between: str = " and ") -> str:
    """Values as a reader wants them: the first few, and how many there are besides."""
    said = [value if len(value) <= 100 else f"{value[:97]}..." for value in values]
    return between.join(said) if len(said) <= 4 else f"{between.join(said[:3])} and {len(said) - 3} more"
