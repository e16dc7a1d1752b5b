"""What scripts and people expect of any command."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from fp3o_jax import Config, ConfigError, __main__, cli, make_env
from fp3o_jax.cli import main
from fp3o_jax.commands import playing
from fp3o_jax.commands.help import grouped, help_texts
from fp3o_jax.config import Config as Settings
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs import RunOptions, loop, run_training
from fp3o_jax.runs.journal import Journal
from fp3o_jax.runs.options import RunOptions as Options
from fp3o_jax.sweeps import Sweep
from fp3o_jax.train import make_train
from fp3o_jax.values import field_types
from quick import users_environment
from starting import started

SMALL = [
    *("--env", "matrix/xor", "--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "64"),
    *("--hidden-sizes", "8", "--no-layer-norm", "--eval-episodes", "4", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as the command line leaves it, under a umask that lets the group read."""
    path, before = tmp_path_factory.mktemp("habits") / "run", os.umask(0o027)
    try:
        assert main(["train", *SMALL, "--run-dir", str(path), "--quiet", "--tensorboard"]) == 0
        assert main(["export", str(path), "--quiet"]) == 0
        write_figure = [
            "plot",
            str(path),
            "--quiet",
            "--csv",
            str(path / "t.csv"),
            "--latex",
            str(path / "t.tex"),
        ]
        assert main(write_figure) == 0
    finally:
        os.umask(before)
    return path


def test_version(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"fp3o-jax \S+, jax \d\S+, jaxlib \d\S+, Python 3\.\S+\n", said)


def test_quiet_prints_nothing_but_errors(run, capsys):
    for args in (["evaluate", str(run), "--episodes", "4"], ["list"], ["train", "--resume", str(run)]):
        assert main([*args, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")
    assert main(["evaluate", "nowhere", "--quiet"]) == 2
    assert "'nowhere' is not a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "holds"),
    [
        (["train", "--resume", "RUN"], {"env_steps": 64, "run_dir": "RUN"}),
        (["evaluate", "RUN", "--episodes", "4"], {"episodes": 4, "run_dir": "RUN"}),
        (["plot", "RUN", "--output", "TMP/curves.png"], {"written": ["TMP/curves.png"]}),
        (["export", "RUN", "--output", "TMP/policy"], {"written": "TMP/policy"}),
        (["sweep", *SMALL, "--grid.sharing", "full", "none", "--run-dir", "TMP/sweep", "--dry-run"], {}),
        (["check-env", "matrix/xor", "--steps", "9"], {"env": "matrix/xor", "agents": "2: agent_0, agent_1"}),
        (["list"], {"sharings": ["full", "partial", "none", "by_type", "groups"]}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_the_last_line_and_all_else_goes_elsewhere(args, holds, run, tmp_path, capsys):
    def real(value):
        return json.loads(json.dumps(value).replace("RUN", str(run)).replace("TMP", str(tmp_path)))

    assert main([*real(args), "--json"]) == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    result = json.loads(line, parse_constant=pytest.fail)
    assert {name: result[name] for name in holds} == real(holds)
    assert err
    if "seeds" in result:
        assert np.isfinite([row["episode_return"] for row in result["seeds"]]).all()
    assert main([*real(args), "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and not err


def test_json_of_a_sweep(tmp_path, capsys):
    args = ["sweep", *SMALL, "--grid.sharing", "full", "none", "--run-dir", str(tmp_path / "s"), "--json"]
    assert main([*args, "--print-commands"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert [command.split()[-2:] for command in commands] == [["--index", "0"], ["--index", "1"]]
    assert not any("--json" in command for command in commands)
    assert main(args) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["sharing"], row["status"]) for row in runs] == [("full", "finished"), ("none", "finished")]
    assert np.isfinite([row["greedy_episode_return"] for row in runs]).all()
    assert main(["status", str(tmp_path / "s"), "--json"]) == 0
    programs = json.loads(capsys.readouterr().out)["programs"]
    assert [(each["state"], each["update"], each["num_updates"]) for each in programs] == [
        ("finished", 2, 2)
    ] * 2


def test_an_environment_in_the_place_of_a_preset(monkeypatch, capsys):
    assert started(["train", "mpe/simple_spread"], monkeypatch) == Config(env="mpe/simple_spread")
    assert started(["sweep", "brought:make", "--seed", "1"], monkeypatch) == Config(
        env="brought:make", seed=1
    )
    assert main(["train", "simple_spread"]) == 2
    assert "did you mean the environment mpe/simple_spread?" in " ".join(capsys.readouterr().err.split())
    monkeypatch.undo()
    assert main(["train", "mpe/simple_spred", "--run-dir", "/nonexistent/run"]) == 2
    assert "did you mean 'mpe/simple_spread'" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--seed", "1", "smax-3m"]) == 2
    assert "'smax-3m' must come first" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "plot", None])
def test_help_fits_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*[command][: command is not None], "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join("\n".join(lines).split())
    if command in ("train", "sweep"):
        for group in ("environment", "team", "batch", "learning", "network", "algorithm", "seed", "wandb"):
            assert f"{group} options" in text
        for flag in ("--env ", "--actor-lr ", "--config ", "--quiet", "--json", "--wandb.mode "):
            assert flag in text


def test_every_setting_is_in_a_group_and_explained():
    assert [name for names in grouped() for name in names] == list(field_types(Settings))
    for settings in (Settings, Options):
        texts = help_texts(settings)
        assert all(texts.get(name) for name in field_types(settings) if name != "wandb")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", shell])
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    for word in ("check-env", "actor-lr", "quiet", "random_derangement"):
        assert word in said


def test_list_names_what_there_is(capsys):
    assert main(["list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in (*PRESETS, "a2po", "by_type", "mpe/simple_spread", "0.86, 0.90 and 0.88", "win rate"):
        assert word in said


def test_rows_have_the_time_at_which_they_were_written(tmp_path):
    before, options = time.time(), RunOptions(tmp_path / "run", eval_episodes=4)
    config = Config(
        env="matrix/xor",
        num_envs=4,
        rollout_length=8,
        total_env_steps=96,
        hidden_sizes=(8,),
        layer_norm=False,
        epochs=1,
    )
    seen = []
    run_training(config, options, on_update=lambda rows: seen.extend(rows), console=Console(quiet=True))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    times = [row["time"] for row in rows]
    assert times == sorted(times) == [row["time"] for row in seen]
    assert before - 0.001 <= times[0] and times[-1] <= time.time() + 0.001


def test_others_can_read_what_a_command_writes(run):
    """Mode by umask, of every file and folder: the weights of an exported policy were for the user alone."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in run.rglob("*")}
    assert {"policy.safetensors", "policy.json", "config.json", "metrics.jsonl", "t.csv", "t.tex"} <= {
        path.name for path in modes
    }
    wrong = {str(path.relative_to(run)): oct(mode) for path, mode in modes.items()
             if mode & 0o777 != (0o750 if path.is_dir() else 0o640)}  # fmt: skip
    assert wrong == {}


def test_a_step_from_nearly_nothing_is_no_far_step(capsys):
    """In a game that is solved the usual KL is 0, and any step is infinitely larger."""
    said = Console(record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    journal = Journal(None, [], said, Config(env="matrix/xor"), range(1), {})
    for update, joint_kl in enumerate([0.0] * 20 + [1e-7, 0.0, 3e-3, 0.0, 0.009, 1e-12], start=1):
        journal._watch(update, joint_kl)
    assert said.export_text(clear=False) == ""
    journal._watch(27, 0.02)
    assert "KL of 0.02 in update 27" in " ".join(said.export_text().split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["evaluate", "RUN", "--episodes", "0"], "episodes=0"),
        (["evaluate", "RUN", "--episodes=-3"], "episodes=-3"),
        (["check-env", "matrix/xor", "--steps", "0"], "steps=0"),
        (["plot", "RUN", "--smooth", "0"], "smooth=0"),
        (["train", "--eval-episodes", "0"], "eval_episodes=0"),
        (["train", "--num-seeds", "0"], "num_seeds=0"),
        (["sweep", "--samples=-1", "--random.gamma", "uniform", "0.9", "1", "--run-dir", "s"], "samples=-1"),
        (["sweep", "--runs-per-program", "0", "--run-dir", "s"], "runs_per_program=0"),
        (
            [
                "sweep",
                "--samples=1",
                "--sample-seed=-1",
                "--random.gamma",
                "log",
                "0.9",
                "1",
                "--run-dir",
                "s",
            ],
            "sample_seed=-1",
        ),
    ],
)
def test_counts_that_cannot_be(args, said, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if arg == "RUN" else arg for arg in args]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "must be" in error and "at least" in error
    assert list(tmp_path.iterdir()) == []


def test_counts_from_python():
    trainer = make_train(Config(env="matrix/xor"))
    for episodes in (0, 1.5, "many", None):
        with pytest.raises(ConfigError, match=r"episodes=.* must be a whole number of at least 1"):
            make_evaluate(trainer, episodes)
    with pytest.raises(ConfigError, match=r"jobs.gpus='two' must be a whole number"):
        cli.JobOptions(gpus="two")
    with pytest.raises(ConfigError, match="runs_per_program=0"):
        Sweep(Config(env="matrix/xor"), runs_per_program=0)


def test_wandbs_variables_stop_only_those_who_train(capsys, monkeypatch):
    for name, text in {"WANDB_MODE": "bogus", "WANDB_INIT_TIMEOUT": "soon"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            assert main(["list", "--quiet"]) == 0
            assert main(["--version"]) == 0
            with pytest.raises(SystemExit) as stop:
                main(["--help"])
            assert stop.value.code == 0
            capsys.readouterr()
            assert main(["train", "--env", "matrix/xor"]) == 2
            assert f"{name}='{text}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ("smax/3m", {"scenario": "x"}, "env_kwargs scenario='x' is no option"),
        ("mabrax/ant_4x2", {"auto_reset": True}, "env_kwargs auto_reset=True is no option"),
        ("mabrax/ant_4x2", {"env_name": "x"}, "env_kwargs env_name='x' is no option"),
        ("mabrax/ant_4x2", {"backend": "bogus"}, "env_kwargs={'backend': 'bogus'} do not fit MABraxEnv"),
        ("matrix/xor", {"name": 1}, "env_kwargs={'name': 1} do not fit matrix/xor"),
        ("matrix/xor", {"maker": 1}, "env_kwargs={'maker': 1} do not fit matrix/xor"),
        ("matrix/xor", {"game": "penalty"}, "env_kwargs={'game': 'penalty'} do not fit matrix/xor"),
        ("mpe/simple_spread", {"cls": 1}, "env_kwargs of mpe/simple_spread='cls' is unknown"),
        ("mpe/simple_spread", {"num_agens": 4}, "did you mean 'num_agents'"),
        ("mpe/simple_spread", {"num_agents": "x"}, "env_kwargs={'num_agents': 'x'} do not fit"),
    ],
)
def test_options_that_are_not_the_users(env, options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_env(env, options)


def test_ctrl_c_is_one_line(monkeypatch, capsys, tmp_path):
    """Wherever it comes: while a run is compiled, while its policies are played, in a sweep."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Programs, "compile", interrupted)
    for i, args in enumerate((["train", *SMALL], ["sweep", *SMALL, "--grid.sharing", "full", "none"])):
        assert main([*args, "--quiet", "--run-dir", str(tmp_path / str(i))]) == 130
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(playing, "evaluate_run", interrupted)
    assert main(["evaluate", "run"]) == 130
    assert capsys.readouterr().err.startswith("stopped. What was written is whole")
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(sys, "argv", ["fp3o", "evaluate", "run"])
    __main__.run()
    assert left == [130]
    monkeypatch.setitem(sys.modules, "fp3o_jax.cli", None)
    monkeypatch.setattr("builtins.__import__", interrupted)
    __main__.run()
    assert left == [130, 130]


def test_a_process_that_is_interrupted_while_it_compiles(tmp_path):
    """Without waiting for XLA: it ends at once, and the next start goes on."""
    # Commands that a shell starts in the background ignore it, and so do these tests, and what they start.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; import sys; from fp3o_jax.__main__ import run; sys.exit(run())"
    args = ["train", "smax-3m", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=users_environment(JAX_ENABLE_COMPILATION_CACHE="false"),
    )  # fmt: skip
    for line in process.stdout:
        if "compiling" in line:
            break
    # One that comes while Python collects garbage is lost, so whoever wants it to end presses again.
    for _ in range(10):
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err or "Exception ignored" in err
    assert err.splitlines()[-1] == (
        "stopped. What was written is whole, and the same command goes on or begins again"
    )
