"""A job for each program of a sweep, through submitit: ``fp3o sweep STUDY.toml --on slurm``."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fp3o_jax.config import ConfigError, settle_types
from fp3o_jax.runs.signals import Interrupted

if TYPE_CHECKING:
    from fp3o_jax.sweeps.sweep import Sweep


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """What each job asks for, and what Slurm is told besides."""

    partition: str | None = None
    """Slurm's partition; by default the cluster's own choice"""
    gpus: int = 1
    """per job"""
    cpus: int = 4
    """per job"""
    memory_gb: int | None = None
    """per job; by default the cluster's own choice"""
    minutes: int = 240
    """of a job. Before they are over Slurm warns it: it saves, and is queued again"""
    requeues: int = 10
    """how often a job whose time was over is queued again"""
    at_once: int = 64
    """most jobs of the array that run at the same time"""
    account: str | None = None
    """Slurm's account"""

    def __post_init__(self) -> None:
        settle_types(self, "jobs.")
        for name, least in (("gpus", 0), ("cpus", 1), ("minutes", 1), ("requeues", 0), ("at_once", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"jobs.{name}={getattr(self, name)} must be at least {least}")
        if self.memory_gb is not None and self.memory_gb < 1:
            raise ConfigError(f"jobs.memory_gb={self.memory_gb} must be at least 1")


class ProgramJob:
    """Trains one program in a job of its own, which is queued again when its time is over.

    Args:
        sweep: the plan.
        run_dir: the sweep's folder, which all machines see.
    """

    def __init__(self, sweep: Sweep, run_dir: Path):
        self._sweep, self._run_dir = sweep, run_dir

    def __call__(self, index: int) -> None:
        try:
            self._sweep.run(self._run_dir, index=index)
        except Interrupted as stop:
            # The state is saved: now a warning may do what submitit has set up for it. A job that is
            # cancelled (SIGTERM) ends.
            if stop.signum in (signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), stop.signum)
            raise

    def checkpoint(self, index: int) -> Any:
        """What submitit queues again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, index)


def submit(sweep: Sweep, run_dir: Path, where: Literal["slurm", "local"], jobs: JobOptions) -> list[Any]:
    """Submits a job for each program that is not finished.

    Args:
        sweep: the plan, which is written down at once.
        run_dir: the sweep's folder, which all machines must see; what jobs print goes to ``jobs/`` in it.
        where: ``slurm``, or ``local`` for processes of this machine.
        jobs: what each asks for.

    Returns:
        submitit's jobs.

    Raises:
        ConfigError: submitit or Slurm is not there, or the folder holds another plan.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            f"--on {where} needs submitit, which is not installed: pip install 'fp3o-jax[slurm]'. "
            "Without it, --print-commands prints a command for each job"
        ) from None
    if where == "slurm" and not shutil.which("sbatch"):
        raise ConfigError("--on slurm: there is no `sbatch` on this machine; submit from a login node")
    run_dir = Path(run_dir).absolute()
    sweep.write_plan(run_dir)
    programs = sweep.unfinished(run_dir)
    executor = submitit.AutoExecutor(run_dir / "jobs", where, slurm_max_num_timeout=jobs.requeues)
    asked = {
        "mem_gb": jobs.memory_gb,
        "slurm_partition": jobs.partition,
        "slurm_account": jobs.account,
    }
    executor.update_parameters(
        name=run_dir.name,
        timeout_min=jobs.minutes,
        gpus_per_node=jobs.gpus,
        cpus_per_task=jobs.cpus,
        slurm_array_parallelism=jobs.at_once,
        **{name: value for name, value in asked.items() if value is not None},
    )
    return executor.map_array(ProgramJob(sweep, run_dir), programs) if programs else []
