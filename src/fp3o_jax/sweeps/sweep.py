"""Many runs as one thing: ``Sweep(config, grid={...}, num_seeds=8).run("sweeps/first")``."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints, without_keys
from fp3o_jax.runs.directory import RunDirectory, write_whole
from fp3o_jax.runs.journal import parts
from fp3o_jax.runs.loop import Member, RunError, run_records, train_together
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.progress import tell
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.plan import (
    PlannedRun,
    compiled_in,
    make_points,
    make_programs,
    missing_runs,
    program_key,
    told,
)
from fp3o_jax.sweeps.results import results, write_results
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
            seeds = range(self.config.seed, self.config.seed + self.config.num_seeds)
            return make_programs(missing_runs(self.points, seeds, {}), self.runs_per_program)
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
        self, run_dir: Path | str, *, index: int | None = None, console: Console | None = None
    ) -> list[dict[str, Any]]:
        """Trains what is missing, program after program, and writes ``results.csv``.

        What is finished is left alone, what was begun goes on from its checkpoint, what another process is at
        work on is skipped. A program that fails is told of and does not stop the others.

        Args:
            run_dir: the sweep's folder; the same plan goes on there, as does one with more points or seeds.
            index: of one program alone, counted from 0, for jobs on a cluster.
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
        failed = []
        for number in range(len(programs)) if index is None else [index]:
            if not self._run_one(folder, number, programs, console):
                failed.append(number)
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

    def _run_one(
        self, folder: SweepFolder, index: int, programs: list[list[PlannedRun]], console: Console
    ) -> bool:
        """Whether the program has not failed."""
        runs = programs[index]
        names = [run.name for run in runs]
        said = f"program {index} of {len(programs)}: {program_label(runs)}"
        lock = folder.take(index)
        if lock is None and not folder.is_finished(names):
            tell(console, f"{said} is with another process")
            return True
        error_file = folder.program(index) / "error.txt"
        with lock or contextlib.nullcontext():
            if folder.is_finished(names):
                tell(console, f"{said} is finished")
                return True
            tell(console, said)
            try:
                self._train(folder, index, runs, console)
                error_file.unlink(missing_ok=True)
                return True
            except Exception as error:
                with contextlib.suppress(OSError):  # a full disk may be what it failed of
                    write_whole(error_file, "".join(traceback.format_exception(error)))
                tell(console, f"{said} failed: {error}", "error:", "bold red")
                return False

    def _train(self, folder: SweepFolder, index: int, runs: list[PlannedRun], console: Console) -> None:
        """Trains a program and leaves in each of its run directories what ``run_training`` leaves."""
        checkpoints = folder.program(index) / "checkpoints"
        trainer = make_train(runs[0].config)
        with contextlib.ExitStack() as stack:
            members = []
            for run in runs:
                config = run.config.replace(env=trainer.env.name)
                options = self._options_of(folder, run)
                directory = RunDirectory(options.run_dir, config, options.to_dict())
                stack.callback(directory.close)
                members.append(Member(config, directory, options, run.name))
            trained = train_together(trainer, members, checkpoints, self.options, console)
            _hand_out(trained.checkpoint, members, trained.scores)
            for member, summary in zip(members, trained.summaries, strict=True):
                member.directory.write("summary.json", summary)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def _options_of(self, folder: SweepFolder, run: PlannedRun) -> RunOptions:
        """In W&B each configuration is a group, and the sweep a tag."""
        given = self.options.wandb
        wandb = dataclasses.replace(
            given,
            tags=(*given.tags, folder.path.resolve().name[:64]),
            name=f"{given.name or folder.path.resolve().name}_{run.name}"[:100],
        )
        return dataclasses.replace(self.options, run_dir=folder.run(run.name), wandb=wandb)


def _hand_out(checkpoint: Checkpoint, members: Sequence[Member], scores: Sequence[float]) -> None:
    """Each run directory gets the last state of its seeds, as a checkpoint of its own."""
    state = without_keys(checkpoint.state)
    records = run_records(checkpoint)
    sizes = [len(member.seeds) for member in members]
    for member, record, score, mine in zip(members, records, scores, parts(sizes), strict=True):
        own = Checkpoints(member.directory.path / "checkpoints")
        own.drop_after(-1)
        own.save(
            checkpoint.update,
            jax.tree.map(lambda leaf, mine=mine: leaf[mine], state),
            {"seconds": checkpoint.record["seconds"], "runs": [record]},
            score,
        )
        own.close()


def program_label(runs: Sequence[PlannedRun]) -> str:
    """What is compiled into a program, as far as it is an axis, and how many runs it trains."""
    static = compiled_in(runs[0].point.changes)
    return f"{told(static)}, " * bool(static) + f"{sum(run.num_seeds for run in runs)} runs"


def _env_steps(config: Config) -> int:
    return config.num_updates * config.steps_per_update
