"""Many runs as one thing: ``Sweep(config, grid={...}, num_seeds=8).run("sweeps/first")``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs.loop import RunError
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.progress import tell
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.plan import (
    PlannedRun,
    make_points,
    make_programs,
    missing_runs,
    program_key,
)
from fp3o_jax.sweeps.results import results, write_results
from fp3o_jax.sweeps.running import OnRunUpdate, Runner
from fp3o_jax.train import make_train

if TYPE_CHECKING:
    import pandas as pd


class Sweep:
    """Points of settings, each with several seeds: ``grid`` x ``zip`` x ``random`` x ``points``.

    What is compiled into a program (algorithm, sharing, environment, sizes) makes programs, which are trained
    one after another. Everything in :class:`~fp3o_jax.Hyperparams`, and the seeds, lies side by side in one.

    Args:
        config: settings that no axis changes, or a mapping of them.
        grid: axis -> values; all combinations. An axis is a setting, or several that take the same value,
            joined by commas: ``{"actor_lr,critic_lr": [3e-4, 1e-3]}``.
        zip: axis -> values; these axes walk together, so they have equally many.
        random: axis -> ``("uniform" or "log", low, high)``, drawn ``samples`` times.
        samples: how many points are drawn; with more of them the first stay what they are.
        sample_seed: of the draws.
        points: a list of points, each a mapping from settings to values.
        num_seeds: of each point, from ``config.seed`` on; by default the config's.
        runs_per_program: most runs that train side by side; what is beyond becomes another program. By
            default all that can.
        options: what is done around the training; where it is written is said to :meth:`run`. Final policies
            are played greedily and sampling, whatever ``eval_sampled`` is.

    Attributes:
        points: all of them.

    Raises:
        ConfigError: an axis, a point or its environment cannot be used; nothing has been compiled then.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | None = None,
        *,
        grid: Mapping[str, Sequence[Any]] | None = None,
        zip: Mapping[str, Sequence[Any]] | None = None,
        random: Mapping[str, Sequence[Any]] | None = None,
        samples: int = 0,
        sample_seed: int = 0,
        points: Sequence[Mapping[str, Any]] = (),
        num_seeds: int | None = None,
        runs_per_program: int | None = None,
        options: RunOptions | None = None,
    ):
        config = config if isinstance(config, Config) else Config.from_dict(config or {})
        self.config = config if num_seeds is None else config.replace(num_seeds=num_seeds)
        self.points = make_points(
            self.config,
            grid=grid or {},
            zip=zip or {},
            random=random or {},
            samples=samples,
            sample_seed=sample_seed,
            points=points,
        )
        self.runs_per_program = runs_per_program
        self.options = dataclasses.replace(options or RunOptions(), eval_sampled=True)
        if self.options.init_from is not None:
            raise ConfigError(
                f"init_from={str(self.options.init_from)!r} is for single runs, `fp3o train`: a sweep's runs "
                "begin with weights of their own"
            )
        if self.options.distributed:
            raise ConfigError(
                "distributed=True is for single runs, `fp3o train`: programs of a sweep are independent, so "
                "start a process for each (`--index`, `--on slurm`)"
            )
        self._folder: SweepFolder | None = None
        self.programs()  # or a number of runs that is too small would be found out too late
        self._check_environments()

    def _check_environments(self) -> None:
        """What only the environment tells, such as the number of agents that a partition is for."""
        checked = set()
        for number, point in enumerate(self.points):
            key = program_key(point.config)
            if key in checked:
                continue
            checked.add(key)
            try:
                make_train(point.config)
            except ConfigError as error:
                raise ConfigError(f"point {number} ({point.label}): {error}") from None

    def programs(self, run_dir: Path | str | None = None) -> list[list[PlannedRun]]:
        """Which runs train side by side, in the order of their numbers; nothing is written.

        Args:
            run_dir: with what is planned there already.
        """
        if run_dir is None:
            return make_programs(missing_runs(self.points, self.config.seeds, {}), self.runs_per_program)
        return SweepFolder(Path(run_dir)).preview(self.config, self.points, self.runs_per_program)

    def unfinished(self, run_dir: Path | str) -> list[int]:
        """Numbers of the programs that are not finished there; nothing is written."""
        folder, programs = SweepFolder(Path(run_dir)), self.programs(run_dir)
        return [i for i, runs in enumerate(programs) if not folder.is_finished([run.name for run in runs])]

    def write_plan(self, run_dir: Path | str) -> list[list[PlannedRun]]:
        """Writes ``sweep.json``, or adds to it what it lacks, and trains nothing; returns all programs.

        Raises:
            ConfigError: the folder holds another plan.
        """
        self._folder = SweepFolder(Path(run_dir))
        return self._folder.extend(self.config, self.points, self.runs_per_program)

    def describe(self, run_dir: Path | str | None = None) -> str:
        """How much it is, in a sentence."""
        programs = self.programs(run_dir)
        sizes = [sum(run.num_seeds for run in program) for program in programs]
        steps = sum(run.num_seeds * _env_steps(run.config) for program in programs for run in program)
        fewest, most = min(sizes), max(sizes)
        beside = f"{most} side by side in each" if fewest == most else f"{fewest} to {most} side by side"
        return f"{len(programs)} programs, {sum(sizes)} runs, {beside}; {steps:,} env steps"

    def run(
        self,
        run_dir: Path | str,
        *,
        index: int | None = None,
        on_update: OnRunUpdate | None = None,
        console: Console | None = None,
    ) -> list[dict[str, Any]]:
        """Trains what is missing, program after program, and writes ``results.csv``.

        What is finished is left alone, what was begun goes on from its checkpoint, what another process is at
        work on is skipped. A program that fails is told of and does not stop the others.

        Args:
            run_dir: the sweep's folder; the same plan goes on there, as does one with more points or seeds.
            index: of one program alone, counted from 0, for jobs on a cluster.
            on_update: called for each run and update, with the run (its ``name`` and ``config``, and what
                its ``point.changes``) and the rows that :func:`~fp3o_jax.run_training` would hand over. What
                it raises is what the program fails of.
            console: where progress goes; by default the terminal.

        Returns:
            What ``results.csv`` holds: a row for each run and seed.

        Raises:
            ConfigError: the folder holds another plan, or there is no such program.
            RunError: at least one program has failed; the others have been trained.
            Interrupted: SIGINT or SIGTERM came; the state is saved.
        """
        console = console or Console()
        xla.keep_compiled()
        programs = self.write_plan(run_dir)
        folder = SweepFolder(Path(run_dir))
        if index is not None and not 0 <= index < len(programs):
            raise ConfigError(f"index={index} must be 0 to {len(programs) - 1}: so many programs there are")
        runner = Runner(folder, programs, self.options, console, on_update)
        numbers = range(len(programs)) if index is None else [index]
        failed = [number for number in numbers if not runner.run(number, numbers)]
        try:
            tell(console, f"written to {write_results(folder)}")
        except OSError as error:
            raise RunError(
                f"{folder.path}: results.csv cannot be written: {error.strerror or error}"
            ) from error
        if failed:
            raise RunError(
                f"{len(failed)} of {len(programs)} programs failed: {', '.join(map(str, failed))}. "
                f"{folder.program(failed[0]) / 'error.txt'} says why; the same command tries them again"
            )
        with folder.locked():
            return results(folder)

    def frame(self, run_dir: Path | str | None = None) -> pd.DataFrame:
        """The rows of ``results.csv`` as they stand now.

        Args:
            run_dir: the sweep's folder; by default the one of the last :meth:`run`.
        """
        import pandas as pd

        folder = self._folder if run_dir is None else SweepFolder(Path(run_dir))
        if folder is None:
            raise ConfigError("run_dir=None: this sweep has not been run yet, so say where it is")
        folder.plan()  # or a folder would be made of any path
        with folder.locked():
            return pd.DataFrame(results(folder))


def _env_steps(config: Config) -> int:
    return config.num_updates * config.steps_per_update
