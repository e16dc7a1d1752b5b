"""TensorBoard event files, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp3o_jax.runs.sinks.base import scalars


class TensorboardSink:
    """One sub-directory of event files per seed, over environment steps.

    Args:
        run_dir: the event files go to ``run_dir/tensorboard/seed_<seed>``.
    """

    def __init__(self, run_dir: Path):
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import Summary

        self._open, self._summary = SummaryWriter, Summary
        self._path = Path(run_dir) / "tensorboard"
        self._writers: dict[int, SummaryWriter] = {}
        self._env_steps = 0
        self.destination = str(self._path)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of one update, one per seed."""
        for row in rows:
            seed, self._env_steps = int(row["seed"]), int(row["env_steps"])
            if seed not in self._writers:
                # What an interrupted run wrote from here on is sent again: TensorBoard then hides the old.
                self._writers[seed] = self._open(str(self._path / f"seed_{seed}"), purge_step=self._env_steps)
            self._write(seed, scalars(row))

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Writes the final evaluation of each seed as ``eval/...``."""
        for row in summary["seeds"]:
            results = {f"eval/{name}": value for name, value in scalars(row).items()}
            self._write(int(row["seed"]), results)

    def close(self, exit_code: int) -> None:
        """Writes what is buffered."""
        for writer in self._writers.values():
            writer.close()

    def _write(self, seed: int, metrics: Mapping[str, float]) -> None:
        # One event for all metrics: an event for each costs several times as much.
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writers[seed].file_writer.add_summary(self._summary(value=values), self._env_steps)
