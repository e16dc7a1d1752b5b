"""The command line and what a run leaves behind."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import platformdirs
import pytest
from rich.console import Console

from fp3o_jax import Config, cli, envs, xla
from fp3o_jax.cli import main
from fp3o_jax.commands import playing
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs import RunOptions, run_training

SMALL = [
    *("--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "96"),
    *("--hidden-sizes", "8", "--no-layer-norm", "--eval-episodes", "16", "--num-minibatches", "1"),
]


def test_train_writes_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["train", "--env", "matrix/xor", "--algorithm", "happo", "--num-seeds", "2", "--seed", "3"]
    assert main([*args, *SMALL]) == 0
    out = capsys.readouterr().out
    for said in ("compiling", "update 3/3", "env steps/s", "evaluating", "greedy evaluation", "written to"):
        assert said in out
    (run,) = (tmp_path / "runs").iterdir()
    config = Config.from_dict(json.loads((run / "config.json").read_text()))
    assert (config.algorithm, config.num_seeds, config.seed) == ("happo", 2, 3)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["update"], r["seed"], r["env_steps"]) for r in rows] == [
        (u, s, 32 * u) for u in (1, 2, 3) for s in (3, 4)
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert [row["seed"] for row in summary["seeds"]] == [3, 4]
    assert summary["env_steps"] == 96
    for name in ("episode_return", "train_seconds", "compile_seconds", "env_steps_per_second"):
        assert np.isfinite(summary[name]) and summary[name] >= 0
    mean = sum(row["episode_return"] for row in summary["seeds"]) / 2
    assert summary["episode_return"] == pytest.approx(mean)

    # The same command again changes nothing, another seed makes another run.
    before = (run / "summary.json").read_bytes()
    assert main([*args, *SMALL]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (run / "summary.json").read_bytes() == before
    assert list((tmp_path / "runs").iterdir()) == [run]


def test_evaluate(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "--env", "matrix/xor", "--num-seeds", "2", "--run-dir", run, *SMALL]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "16", "--seed-index", "1"]) == 0
    out = capsys.readouterr().out
    # The newest checkpoint is the end of the run, and the keys are those of its evaluation.
    assert f"{summary['seeds'][1]['episode_return']:.3f}" in out
    assert main(["evaluate", run, "--episodes", "16", "--sampled", "--best"]) == 0
    assert "sampled" in capsys.readouterr().out
    assert main(["evaluate", run, "--seed-index", "2"]) == 2
    assert "seed_index=2 must be 0 to 1" in capsys.readouterr().err


def test_an_existing_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert main(["train", "--env", "matrix/xor", "--run-dir", str(tmp_path), *SMALL]) == 2
    assert "nothing is ever overwritten" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "smax-4m"], "did you mean 'smax-3m'"),
        (["train", "--env", "smax/3n"], "smax/3m"),
        (["train", "--clip-eps", "-1"], "clip_eps=-1.0 must be a number above 0"),
        (["train", "--eval-episodes", "0"], "eval_episodes=0"),
        (["train", "--checkpoint-seconds", "-1"], "checkpoint_seconds=-1.0"),
        (["train", "--resume"], "--resume needs"),
        (["train", "--resume=nowhere"], "'nowhere' is not a run"),
        (["train", "--seed", "-1"], "seed=-1 must be"),
    ],
)
def test_errors_name_the_setting(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def settings_of(args, monkeypatch):
    """What `fp3o train` would train with, without training."""
    given = []
    monkeypatch.setattr(cli, "run_training", lambda config, options, **_: given.append((config, options)))
    assert main(["train", *args]) == 0
    return given[0]


def test_switches_and_numbers_in_every_style(monkeypatch):
    """As people write them, and as W&B's sweeps do: --name=True."""
    usual = Config()
    for args, changes in (
        (["--recurrent"], {"recurrent": True}),
        (["--recurrent=True"], {"recurrent": True}),
        (["--recurrent", "true"], {"recurrent": True}),
        (["--no-recurrent"], {}),
        (["--recurrent=False"], {}),
        (["--normalize-values=False"], {"normalize_values": False}),
        (
            ["--normalize_values=false", "--critic_agent_id=true"],
            {"normalize_values": False, "critic_agent_id": True},
        ),
        (["--no-normalize-values", "--seed", "3"], {"normalize_values": False, "seed": 3}),
        (["--total-env-steps", "1e6"], {"total_env_steps": 1_000_000}),
        (["--total_env_steps=2.5e6", "--num-envs=8.0"], {"total_env_steps": 2_500_000, "num_envs": 8}),
        (["--block-size", "1e3", "--num-seeds", "2"], {"block_size": 1000, "num_seeds": 2}),
        (["--block-size", "None"], {}),
        (["--hidden-sizes", "1e2", "64.0"], {"hidden_sizes": (100, 64)}),
        (
            ["--env-kwargs", "a", "1e1", "b", "1.0", "c", "true", "d", "1e-1", "e", "x"],
            {"env_kwargs": {"a": 10, "b": 1.0, "c": True, "d": 0.1, "e": "x"}},
        ),
        ([f"--seed={2**64 - 1}"], {"seed": 2**64 - 1}),
        (["--gamma", "1", "--advantage-split", "uniform"], {"gamma": 1.0}),
        (
            ["--hidden-sizes", "256", "128", "--critic-hidden-sizes", "64", "--no-layer-norm"],
            {"hidden_sizes": (256, 128), "critic_hidden_sizes": (64,), "layer_norm": False},
        ),
    ):
        config, options = settings_of(args, monkeypatch)
        assert (config, options) == (usual.replace(**changes), RunOptions()), args
        kinds = [type(value) for value in config.env_kwargs.values()]
        assert kinds in ([], [int, float, bool, float, str])
    _, options = settings_of(
        ["--tensorboard=True", "--eval-every=1e1", "--wandb.tags", "True", "1e3"], monkeypatch
    )
    assert (options.tensorboard, options.eval_every, options.wandb.tags) == (True, 10, ("True", "1e3"))
    config, _ = settings_of(["smax-3m", "--recurrent=True"], monkeypatch)
    assert config == PRESETS["smax-3m"].config.replace(recurrent=True)


def test_switches_of_other_commands(monkeypatch, tmp_path):
    calls = []
    for module, name in ((playing, "evaluate_run"), (cli, "render_run")):
        monkeypatch.setattr(module, name, lambda run, console, **settings: calls.append((run, settings)))
    run = str(tmp_path / "run")
    assert main(["evaluate", "--sampled=True", run, "--best=False", "--episodes", "1e3"]) == 0
    assert calls[-1] == (
        Path(run),
        {"episodes": 1000, "seed_index": None, "sampled": True, "best": False, "env": None},
    )
    assert main(["render", "--best", "True", run, "--seed_index=1.0", "--no-sampled"]) == 0
    assert calls[-1][1]["best"] is True
    assert (calls[-1][1]["seed_index"], calls[-1][1]["sampled"]) == (1, False)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--num-envs", "1.5"], "--num-envs 1.5 must be a whole number"),
        (["--recurrent=maybe"], "--recurrent=maybe must be True or False"),
        (["--seed=nan"], "--seed nan must be a whole number"),
        (["--epochs", "inf"], "--epochs inf must be a whole number"),
        (["--hidden-sizes", "64", "6.5"], "--hidden-sizes 6.5 must be a whole number"),
        (["--jobs.gpus", "half"], "--jobs.gpus half must be a whole number"),
    ],
)
def test_what_is_neither_is_refused(args, said, capsys):
    assert main(["sweep" if "jobs" in args[0] else "train", *args]) == 2
    assert said in capsys.readouterr().err


def test_seeds_of_64_bits(tmp_path, capsys):
    """Seeds that agree in their lower half are different runs; a 65th bit is refused in time."""
    runs = [tmp_path / name for name in ("small", "large")]
    for run, seed in zip(runs, (5, 2**32 + 5), strict=True):
        assert main(["train", "--env", "matrix/xor", "--run-dir", str(run), f"--seed={seed}", *SMALL]) == 0
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    assert [row["seed"] for row in rows[1]] == [2**32 + 5] * 3
    assert [row["entropy"] for row in rows[0]] != [row["entropy"] for row in rows[1]]
    assert all(np.isfinite(row["entropy"]) for run in rows for row in run)
    assert main(["train", "--env", "matrix/xor", "--run-dir", str(tmp_path / "none"), f"--seed={2**64}"]) == 2
    assert f"seed={2**64} must be" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_paths_that_look_like_markup(tmp_path, capsys, monkeypatch):
    """Rich finds tags in brackets and emoji in colons: [/a] ended with a traceback, [b] was swallowed."""
    monkeypatch.chdir(tmp_path)
    run = "runs/lr[/a] [b] :x:"
    train = ["train", "--env", "matrix/xor", "--run-dir", run, "--tensorboard", *SMALL]
    for args in (
        train,
        train,  # finished
        ["export", run],
        ["plot", run, "--output", "figures[/b]/c"],
        ["evaluate", run, "--episodes", "4"],
    ):
        assert main(args) == 0
        said = capsys.readouterr().out
        if args[0] == "plot":
            assert "written to figures[/b]/c.png" in said
        elif args[0] != "evaluate":
            assert run in said
    for args in (
        ["evaluate", "no[/a]"],
        ["render", run, "--output", "x[/a].gif"],
        ["train", "[/a]"],
        ["plot", "[/a]"],
    ):
        assert main(args) == 2
        assert "error: " in (said := capsys.readouterr().err)
        assert args[0] == "render" or args[1] in said


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], []])
def test_help(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    assert "train" in capsys.readouterr().out


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "smax-3m" in out
    assert "mabrax/humanoid_9|8" in out


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_themselves(name):
    preset = PRESETS[name]
    assert preset.summary
    assert Config.from_dict(preset.config.to_dict()) == preset.config


def test_the_readme_says_what_presets_reach():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", readme, re.MULTILINE))
    told = {name: rows[name] for name in PRESETS if name in rows}
    assert told == {name: preset.reaches for name, preset in PRESETS.items() if preset.reaches}


def test_run_from_python_with_an_environment_object(tmp_path):
    from fp3o_jax import make_env

    config = Config(num_envs=4, rollout_length=8, total_env_steps=32, hidden_sizes=(8,))
    summary = run_training(
        config,
        RunOptions(run_dir=tmp_path / "run", eval_episodes=4),
        env=make_env("matrix/penalty"),
        console=Console(quiet=True),
    )
    assert summary["run_dir"] == tmp_path / "run"
    assert (tmp_path / "run" / "summary.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env"] == "matrix/penalty"


def test_compiled_programs_are_kept(tmp_path, monkeypatch):
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen is not None
    xla.keep_compiled()
    assert jax.config.jax_compilation_cache_dir == chosen
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        xla.keep_compiled()
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(platformdirs.user_cache_path())
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)


def test_check_env(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "helpers")
    assert main(["check-env", "brought_envs:make", "--steps", "20"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "brought_envs:make",
        "agents        2: agent_0, agent_1",
        "global state  2 features",
        "actions       discrete, 3 each",
        "after 5 to 5 steps, 0 cut by a time limit",
        "unknown: every end counts as a termination",
    ):
        assert line in printed
    assert main(["check-env", "brought_envs:make_broken", "--steps", "20"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "what 'agent_0' sees is not finite, first after step 3 of an episode" in said
    assert main(["check-env", "brought_envs:nothing"]) == 1
    assert "must be module:name" in " ".join(capsys.readouterr().err.split())


def test_an_environment_of_ones_own_by_name(tmp_path, capsys, monkeypatch):
    """It trains, goes on, and is played without handing over an object; but code that a run's files name is
    imported only if whoever reads them names it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "helpers"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--env", "brought_envs:make", *SMALL]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert ":" not in run.name
    named = ["--env", "brought_envs:make"]
    assert main(["train", "--resume", str(run), *named]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--episodes", "4", *named]) == 0
    assert "greedy, 4 episodes" in capsys.readouterr().out
    monkeypatch.setattr(envs, "_from_factory", lambda *_: pytest.fail("code was imported"))
    for command in (
        ["train", "--resume", str(run)],
        ["evaluate", str(run)],
        ["export", str(run)],
        ["render", str(run)],
    ):
        assert main(command) == 2
        assert "If you trust it, name it: --env brought_envs:make" in " ".join(
            capsys.readouterr().err.split()
        )
        assert main([*command, "--env", "brought_envs:make_broken"]) == 2
        assert "was trained on env='brought_envs:make'" in " ".join(capsys.readouterr().err.split())
