"""A job for each program, through submitit: in processes of this machine, and as Slurm would get it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from fp3o_jax import ConfigError
from fp3o_jax.cli import main
from fp3o_jax.sweeps.cluster import JobOptions
from slurm import stand_in

TINY = """
run_dir = "{folder}"
[settings]
env = "matrix/climbing"
num_envs = 4
rollout_length = 8
total_env_steps = {steps}
hidden_sizes = [4]
epochs = 1
num_minibatches = 1
[options]
eval_episodes = 4
[grid]
algorithm = ["mappo", "ippo"]
[jobs]
gpus = 0
cpus = 1
minutes = {minutes}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a study of two programs; its path and the sweep's folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def write(steps=64, minutes=5):
        folder, file = tmp_path / "sweep", tmp_path / "study.toml"
        file.write_text(TINY.format(folder=folder, steps=steps, minutes=minutes))
        return str(file), folder

    return write


def test_local_jobs_train_the_programs(study, capsys):
    file, folder = study()
    assert main(["sweep", file, "--on", "local"]) == 0
    assert capsys.readouterr().out.count("its output in") == 2
    finished = sorted(
        json.loads(path.read_text())["env_steps"] for path in folder.glob("runs/*/summary.json")
    )
    assert finished == [64, 64]
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    assert main(["sweep", file, "--on", "local"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_local_jobs_that_fail_are_told(study, capsys, monkeypatch):
    file, _ = study()
    monkeypatch.setenv("JAX_PLATFORMS", "nowhere")  # of the jobs: this process has its device
    assert main(["sweep", file, "--on", "local"]) == 1
    assert "2 of 2 jobs failed" in " ".join(capsys.readouterr().err.split())


def test_a_job_that_is_warned_saves_and_is_queued_again(study):
    """As Slurm does before a job's time is over, to the process that trains."""
    from fp3o_jax.sweeps.cluster import submit
    from fp3o_jax.sweeps.study import read_study

    file, folder = study(steps=32 * 3000)
    made, _ = read_study([file])
    (job, _) = submit(made.sweep(), folder, "local", made.jobs)
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size for path in folder.glob("runs/*mappo*/metrics.jsonl")):
        assert time.monotonic() < deadline and job.state not in ("FAILED", "FINISHED"), job.stderr()
        time.sleep(0.05)
    submitter = job._process.pid  # it starts the job and hands it no signal but SIGTERM
    (pid,) = Path(f"/proc/{submitter}/task/{submitter}/children").read_text().split()
    os.kill(int(pid), signal.SIGUSR2)
    assert job.result() is None
    said = job.stdout() + job.stderr()
    assert "which is saved" in said and "Requeued job" in said and "going on after update" in said, said
    (run,) = folder.glob("runs/*mappo*")
    updates = [json.loads(line)["update"] for line in (run / "metrics.jsonl").open()]
    assert updates == list(range(1, 3001))


def test_what_slurm_would_get(study, tmp_path, monkeypatch, capsys):
    """From a stand-in for ``sbatch``."""
    stand_in(tmp_path, monkeypatch)
    file, folder = study(minutes=90)
    arguments = ["--jobs.partition", "gpu", "--jobs.gpus", "1", "--jobs.account", "lab"]
    arguments += ["--jobs.at-once", "1"]
    assert main(["sweep", file, "--on", "slurm", *arguments]) == 0
    assert "job 12_0" in capsys.readouterr().out
    script = (tmp_path / "sbatch.sh").read_text()
    for line in (
        "--array=0-1%1",
        "--partition=gpu",
        "--account=lab",
        "--gpus-per-node=1",
        "--cpus-per-task=1",
        "--time=90",
        "--signal=USR2@90",
        "--open-mode=append",
        "--job-name=sweep",
    ):
        assert f"#SBATCH {line}\n" in script, script
    assert json.loads((folder / "sweep.json").read_text())["programs"]
    assert not (folder / "runs").exists()


def test_bad_input(study, monkeypatch, capsys):
    file, folder = study()
    monkeypatch.setenv("PATH", "")
    for arguments, said in (
        (["--on", "slurm"], "there is no `sbatch` on this machine"),
        (["--on", "local", "--index", "0"], "--on local submits all"),
    ):
        assert main(["sweep", file, *arguments]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", file, "--on", "local", "--jobs.minutes", "0"])
    assert "jobs.minutes=0 must be at least 1" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["sweep", file, "--on", "local"]) == 2
    assert "pip install 'fp3o-jax[slurm]'" in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()
    with pytest.raises(ConfigError, match=r"jobs.memory_gb=0 must be at least 1"):
        JobOptions(memory_gb=0)
