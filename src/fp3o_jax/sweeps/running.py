"""Training the programs of a sweep, one after another; while one trains, XLA compiles the next."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from fp3o_jax.runs.checkpoints import Checkpoint, Checkpoints
from fp3o_jax.runs.directory import RunDirectory, write_whole
from fp3o_jax.runs.journal import parts
from fp3o_jax.runs.loop import programs_of, train_together
from fp3o_jax.runs.members import Member, run_records
from fp3o_jax.runs.memory import TooLarge
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.packing import without_keys
from fp3o_jax.runs.programs import Programs
from fp3o_jax.runs.progress import tell
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.plan import PlannedRun, compiled_in, told
from fp3o_jax.train import Trainer, make_train

#: Called with a run and the rows of one of its updates, one for each seed.
OnRunUpdate = Callable[[PlannedRun, Sequence[Mapping[str, Any]]], None]


class Runner:
    """The programs of a sweep.

    Args:
        folder: where they are written.
        programs: the runs of each.
        options: what is done around the training.
        console: where progress goes.
        on_update: called with a run and the rows of each of its updates.
    """

    def __init__(
        self,
        folder: SweepFolder,
        programs: Sequence[list[PlannedRun]],
        options: RunOptions,
        console: Console,
        on_update: OnRunUpdate | None = None,
    ):
        self._folder, self._programs, self._options, self._console = folder, programs, options, console
        self._on_update = on_update
        # Runs that are compiled ahead.
        self._ahead: tuple[list[PlannedRun], Trainer, Programs] | None = None

    def run(self, index: int, numbers: Sequence[int]) -> bool:
        """Trains a program, unless it is finished or with another process.

        Args:
            index: its number.
            numbers: of all programs that are run one after another.

        Returns:
            Whether it has not failed.
        """
        runs, folder = self._programs[index], self._folder
        names = [run.name for run in runs]
        said = f"program {index} of {len(self._programs)}: {program_label(runs)}"
        lock = folder.take(index)
        if lock is None and not folder.is_finished(names):
            tell(self._console, f"{said} is with another process")
            return True
        error_file = folder.program(index) / "error.txt"
        with lock or contextlib.nullcontext():
            if folder.is_finished(names):
                tell(self._console, f"{said} is finished")
                return True
            tell(self._console, said)
            try:
                self._train(index, numbers)
                error_file.unlink(missing_ok=True)
                return True
            except Exception as error:
                with contextlib.suppress(OSError):  # a full disk may be what it failed of
                    write_whole(error_file, "".join(traceback.format_exception(error)))
                tell(self._console, f"{said} failed: {error}", "error:", "bold red")
                return False
            except BaseException:
                if self._ahead is not None:
                    self._ahead[2].cancel()  # or the process would end when it is compiled
                raise

    def _train(self, index: int, numbers: Sequence[int]) -> None:
        """In several rounds, where not all runs fit the device at once."""
        runs, number = self._programs[index], 0
        while number < len(rounds := self._folder.rounds(index, runs)):
            now = rounds[number]
            try:
                if not self._is_finished(now):
                    self._train_round(index, sum(map(len, rounds[:number])), now, numbers)
                number += 1
            except TooLarge as error:
                most = min(error.fitting // max(run.num_seeds for run in now), len(now) - 1)
                if most < 1:
                    raise
                tell(self._console, f"{error}. So {most} configuration(s) train at a time")
                self._folder.split_round(index, rounds, number, most)

    def _train_round(self, index: int, first: int, runs: list[PlannedRun], numbers: Sequence[int]) -> None:
        """Trains runs side by side and leaves in the directory of each what ``run_training`` leaves."""
        checkpoints = self._folder.program(index) / (f"checkpoints_{first}" if first else "checkpoints")
        trainer, programs = self._compiled(runs)
        with contextlib.ExitStack() as stack:
            members = []
            for run in runs:
                config = run.config.replace(env=trainer.env.name)
                options = self._options_of(run)
                directory = RunDirectory(options.run_dir, config, options.to_dict())
                stack.callback(directory.close)
                on_update = None if self._on_update is None else functools.partial(self._on_update, run)
                members.append(Member(config, directory, options, run.name, on_update))
            trained = train_together(
                trainer,
                members,
                checkpoints,
                self._options,
                self._console,
                programs,
                meanwhile=lambda: self._look_ahead(index, numbers),
            )
            _hand_out(trained.checkpoint, members, trained.scores)
            for member, summary in zip(members, trained.summaries, strict=True):
                member.directory.write("summary.json", summary)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def _compiled(self, runs: list[PlannedRun]) -> tuple[Trainer, Programs]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == runs:
            return ahead[1:]
        trainer = make_train(runs[0].config)
        return trainer, programs_of(trainer, [run.config for run in runs], self._options)

    def _look_ahead(self, index: int, numbers: Sequence[int]) -> None:
        """Has the next program compiled that is not finished."""
        for following in (number for number in numbers if number > index):
            rounds = self._folder.rounds(following, self._programs[following])
            runs = next((runs for runs in rounds if not self._is_finished(runs)), None)
            if runs is None:
                continue
            # What fails here fails again in its own turn, and is told of then.
            with contextlib.suppress(Exception):
                trainer, programs = self._compiled(runs)
                programs.begin()
                tell(self._console, f"program {following} is compiled meanwhile")
                self._ahead = runs, trainer, programs
            return

    def _is_finished(self, runs: Sequence[PlannedRun]) -> bool:
        return self._folder.is_finished([run.name for run in runs])

    def _options_of(self, run: PlannedRun) -> RunOptions:
        """In W&B each configuration is a group, and the sweep a tag."""
        given, sweep = self._options.wandb, self._folder.path.resolve().name
        wandb = dataclasses.replace(
            given, tags=(*given.tags, sweep[:64]), name=f"{given.name or sweep}_{run.name}"[:100]
        )
        return dataclasses.replace(self._options, run_dir=self._folder.run(run.name), wandb=wandb)


def _hand_out(checkpoint: Checkpoint, members: Sequence[Member], scores: Sequence[float]) -> None:
    """Each run directory gets the last state of its seeds, as a checkpoint of its own."""
    state = without_keys(checkpoint.state)
    records = run_records(checkpoint)
    sizes = [member.config.num_seeds for member in members]
    for member, record, score, mine in zip(members, records, scores, parts(sizes), strict=True):
        own = Checkpoints(member.directory.path / "checkpoints")
        own.drop_after(-1)
        own.save(
            checkpoint.update,
            jax.tree.map(lambda leaf, mine=mine: leaf[mine], state),
            {"seconds": checkpoint.record.get("seconds", 0.0), "runs": [record]},
            score,
        )
        own.close()


def program_label(runs: Sequence[PlannedRun]) -> str:
    """What is compiled into a program, as far as it is an axis, and how many runs it trains."""
    static = compiled_in(runs[0].point.changes)
    return f"{told(static)}, " * bool(static) + f"{sum(run.num_seeds for run in runs)} runs"
