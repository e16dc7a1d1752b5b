"""Programs that stand in for Slurm's."""

import os
import stat

import submitit  # noqa: F401  (logs to what is stdout when it is first imported, which must not be a test's)


def stand_in(folder, monkeypatch):
    """Puts them on the path; ``sbatch`` leaves the script that it gets as ``sbatch.sh`` in the folder."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun", "scontrol", "squeue", "sacct"):
        tool = programs / name
        tool.write_text(f'#!/bin/sh\ncp "$1" {folder}/{name}.sh\necho "Submitted batch job 12"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
