"""One run that two processes share, over the loopback."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from rich.console import Console

from finite import assert_allclose
from fp3o_jax import Config, ConfigError, Sweep
from fp3o_jax.runs import RunOptions, run_training

CONFIG = Config(
    **{"env": "matrix/climbing", "num_envs": 4, "rollout_length": 8, "total_env_steps": 320},
    **{"hidden_sizes": (8,), "layer_norm": False, "epochs": 1, "env_shards": 2},
)
FLAGS = [
    *("--env", "matrix/climbing", "--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "320"),
    *("--hidden-sizes", "8", "--no-layer-norm", "--epochs", "1", "--env-shards", "2", "--distributed"),
    *("--eval-episodes", "4", "--checkpoint-seconds", "0"),
]
#: Stops after its third update until it is killed.
STALLING = """
import sys, time
from fp3o_jax.runs.processes import Shared
update, count = Shared.update, 0
def stalling(self, state):
    global count
    count += 1
    if count > 3:
        print("stalled", flush=True)
        time.sleep(600)
    return update(self, state)
Shared.update = stalling
from fp3o_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(run, port, index, program=("-m", "fp3o_jax.cli")):
    command = [sys.executable, *program, "train", *FLAGS, "--run-dir", str(run)]
    env = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def test_two_processes_share_a_run_and_one_is_killed(tmp_path):
    """The other one ends; both go on where they were, and come to what one process comes to."""
    run = tmp_path / "run"
    port = free_port()
    leader, other = start(run, port, 0), start(run, port, 1, ("-c", STALLING))
    for line in other.stdout:
        if "stalled" in line:
            break
    assert list(run.glob("checkpoints/[0-9]*"))
    os.kill(other.pid, signal.SIGKILL)
    said = leader.communicate(timeout=200)[0]
    other.communicate()
    assert leader.returncode != 0
    assert "start all of them again: they go on after the last checkpoint" in " ".join(said.split())
    assert not (run / "summary.json").exists()

    port = free_port()
    both = [start(run, port, index) for index in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][-2000:] + said[1][-2000:]
    assert "going on after update" in said[0]
    alone = tmp_path / "alone"
    run_training(CONFIG, RunOptions(alone, eval_episodes=4), console=Console(quiet=True))
    for ours, theirs in zip(rows(run), rows(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)
    ours, theirs = (json.loads((path / "summary.json").read_text())["seeds"] for path in (run, alone))
    assert ours[0]["episode_return"] == pytest.approx(theirs[0]["episode_return"], rel=1e-4)


def test_what_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    options = RunOptions(tmp_path / "run", distributed=True)
    with pytest.raises(ConfigError, match=r"distributed=True: .* say who there is by"):
        run_training(CONFIG, options, console=Console(quiet=True))
    assert not RunOptions.from_dict(options.to_dict(), tmp_path / "run").distributed  # gone on with alone
    with pytest.raises(ConfigError, match=r"takes all devices \(devices=1\)"):
        RunOptions(tmp_path / "run", distributed=True, devices=1)
    with pytest.raises(ConfigError, match="is for single runs"):
        Sweep(CONFIG, grid={"sharing": ["full", "none"]}, options=options)
    assert not (tmp_path / "run").exists()
