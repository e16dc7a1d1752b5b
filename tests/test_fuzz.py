"""Files that somebody altered: a sample of what ``tests/checks/fuzz_check.py`` does by the thousand."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from rich.console import Console

import fuzzing
from fp3o_jax import ConfigError, envs, load_policy, registry
from fp3o_jax.cli import main
from fp3o_jax.files import NAME, read_json
from fp3o_jax.runs import RunOptions, evaluate_run, load_run, run_training
from fp3o_jax.runs.checkpoints import Checkpoints
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.reading import read_rows
from fp3o_jax.runs.sinks import WandbOptions, make_sinks
from fp3o_jax.sweeps.folder import SweepFolder
from store import Store

NUMBER = 150


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "originals"
    fuzzing.write_originals(path)
    return path


def test_what_is_not_altered_reads(originals, tmp_path):
    """Or no error below would tell anything."""
    for kind in fuzzing.KINDS.values():
        path = tmp_path / kind.read.__name__
        shutil.copytree(originals / kind.place, path, dirs_exist_ok=True)
        assert kind.read(path)


@pytest.mark.parametrize("part", range(3))
def test_altered_files_are_read_or_refused(part, originals, tmp_path):
    done = {}
    for kind, number in fuzzing.cases(NUMBER)[part::3]:
        outcome, said = fuzzing.run_case(originals, tmp_path, kind, number, seed=1)
        assert outcome != "BUG", f"{kind}, case {number}: {said}"
        assert "(UNNAMED)" not in said and "(LONG)" not in said, said
        done.setdefault(outcome, []).append(number)
    assert len(done["error"]) > NUMBER / 6
    assert done.get("the same") or done.get("else, valid")


@pytest.fixture
def given(originals, tmp_path):
    """A run that somebody hands over, and how to change a file of it."""
    path = tmp_path / "given"
    shutil.copytree(originals / "run", path)

    def change(name, **changes):
        file = path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return path, change


def test_a_run_chooses_no_code(given, tmp_path, monkeypatch):
    """`os:system` with a command for an option was called as an environment's factory is."""
    monkeypatch.setattr(registry, "_import", lambda module: pytest.fail(f"{module} was imported"))
    path, change = given
    change("config.json", env="os:system", env_kwargs={"command": f"touch {tmp_path / 'ran'}"})
    for use in (load_run, load_policy, evaluate_run):
        with pytest.raises(ConfigError, match="If you trust it, name it: --env os:system"):
            use(path)
    with pytest.raises(ConfigError, match="If you trust it"):
        new = RunOptions(run_dir=tmp_path / "new", init_from=path, eval_episodes=4)
        run_training(fuzzing.CONFIG, new, console=Console(quiet=True))
    assert main(["train", "--resume", str(path)]) == 2
    change("config.json", env="matrix/xor", env_kwargs={}, algorithm="os:system")
    with pytest.raises(ConfigError, match="If you trust it"):
        load_run(path)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_written_through_links(given, tmp_path):
    """A run with a link for its metrics had what it led to cut off and written over."""
    path, _ = given
    mine = tmp_path / "mine"
    for name in ("metrics.jsonl", "lock", "config.json.part"):
        shutil.copytree(path, tmp_path / "other", symlinks=True)
        (tmp_path / "other" / name).unlink(missing_ok=True)
        mine.write_text("mine")
        (tmp_path / "other" / name).symlink_to(mine)
        with pytest.raises(ConfigError, match=f"{name} is a link"):
            directory = RunDirectory(tmp_path / "other", fuzzing.CONFIG)
            directory.write("config.json", {})
        assert mine.read_text() == "mine"
        shutil.rmtree(tmp_path / "other")


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", "", "a/b", "a\0b", "a" * 300, ".hidden"])
def test_names_stay_in_their_folder(name, originals, tmp_path):
    shutil.copytree(originals / "sweep", tmp_path / "sweep")
    plan = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    plan["programs"][0][0]["name"] = name
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=r"sweep\.json: programs\[0\]\[0\]\.name is .*, expected a name"):
        SweepFolder(tmp_path / "sweep").plan()
    bundle = tmp_path / "bundle"
    bundle.write_text(json.dumps({"name": name}) + "\n")
    with pytest.raises(ConfigError, match="bundle, line 1: name is"):
        Store(tmp_path / "cells").merge(bundle)
    assert {each.name for each in tmp_path.iterdir()} == {"sweep", "bundle", "cells"}


def _other_names(run, number):
    return [run | {"name": f"run_{i}", "changes": {"actor_lr": 1.0 + i}} for i in range(number)]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda run: [run] * 5000, "the run '.*' comes twice"),
        (lambda run: [run | {"num_seeds": 2**62}], "runs with all seeds, and at most 100000 can be"),
        (
            lambda run: [run | {"num_seeds": 60_000}, run | {"name": "b", "num_seeds": 60_000}],
            "at most 100000",
        ),
        (lambda run: _other_names(run, 4000), "holds a sweep of another plan"),
        (lambda run: [run | {"name": "b", "num_seeds": 90_000}], r"seeds 1, 2, 3 and 89996 more are there"),
    ],
)
def test_an_absurd_plan_is_refused_at_once(make, said, originals, tmp_path):
    """A run that stood in it many times was read as often, and its settings compared as often."""
    shutil.copytree(originals / "sweep", tmp_path / "sweep")
    plan = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    plan["programs"] = [make(plan["programs"][0][0])]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(plan))
    start = time.monotonic()
    with fuzzing.limits(), pytest.raises(ConfigError, match=said) as refused:
        fuzzing.use_sweep(tmp_path / "sweep")
    assert time.monotonic() - start < 5
    assert len(str(refused.value)) < 1000


def test_names_that_are_given_are_names(originals):
    names = [run.name for run in (originals / "sweep" / "runs").iterdir()]
    assert names and all(map(NAME.fullmatch, names))


def test_a_checkpoint_that_claims_more_than_its_files_hold(given):
    """Arrays of a terabyte were made room for before they were looked for."""
    path, _ = given
    step = path / "checkpoints" / "2"
    record = json.loads((step / "run" / "metadata").read_text())
    record["arrays"] = [[name, [10**12] if name == ".key" else s, d] for name, s, d in record["arrays"]]
    del record["record"]
    (step / "run" / "metadata").write_text(json.dumps(record))
    checkpoints = Checkpoints(path / "checkpoints", reading=True)
    with fuzzing.limits(), pytest.warns(UserWarning, match="is damaged; falling back"):
        assert checkpoints.restore_part(fuzzing._template(), "params") is not None
    checkpoints.close()


def test_what_lies_beside_a_state_is_hashed_too(given):
    """A flipped bit in the length of the metrics cut lines off that were whole."""
    path, _ = given
    file = path / "checkpoints" / "2" / "run" / "metadata"
    file.write_text(file.read_text().replace('"seconds": 1.5', '"seconds": 1.6'))
    checkpoints = Checkpoints(path / "checkpoints", reading=True)
    with pytest.warns(UserWarning, match="is damaged; falling back"):
        assert checkpoints.restore(fuzzing._template()).update == 1
    checkpoints.close()


def test_absurd_sizes_are_refused_before_anything_is_made():
    for changes in (
        {"num_seeds": 10**9},
        {"num_envs": 10**15},
        {"rollout_length": 2**53, "num_envs": 2**53},
        {"hidden_size": 10**12},
        {"hidden_sizes": [8] * 10_000},
        {"num_envs": 2**31 - 1, "rollout_length": 1, "num_minibatches": 2**30},
        {"total_env_steps": 10**400},
        {"seed": 10**400},
    ):
        said = "at most|too large|must divide|0 to 2"
        with fuzzing.limits(), pytest.raises(ConfigError, match=said) as refused:
            fuzzing.CONFIG.from_dict(fuzzing.CONFIG.to_dict() | changes)
        assert len(str(refused.value)) < 5000
    for name, options in (
        ("matrix/xor", {"num_agents": 10**9}),
        ("mpe/simple_spread", {"num_agents": 10**9}),
    ):
        with pytest.raises(ConfigError, match="at most"):
            envs.make_env(name, options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with fuzzing.limits(), pytest.raises(ConfigError, match=r"run\.json is not a file"):
        read_json(tmp_path / "run.json", object)


@pytest.mark.parametrize("damaged", ['{"custom_metadata": "x"}', "[" * 5000])
def test_what_orbax_cannot_read_is_told(damaged, tmp_path):
    """It reads all checkpoints' metadata as soon as it looks at a directory."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": np.ones(3)}, {}, 1.0)
    checkpoints.close()
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_text(damaged)
    with pytest.raises(ConfigError, match="_CHECKPOINT_METADATA is damaged"):
        Checkpoints(tmp_path, reading=True)


def test_a_key_of_wandb_is_in_no_file_and_no_word(tmp_path, monkeypatch, capfd):
    """From a run's beginning to its summary, offline, the key in the environment and in W&B's settings."""
    secret = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    import wandb

    wandb.teardown()
    wandb.setup(wandb.Settings(api_key=secret))
    try:
        config, path = fuzzing.CONFIG.replace(num_seeds=1), tmp_path / "run"
        fuzzing._write_run(path, config)
        (sink,) = make_sinks(config, path, "run7", wandb=WandbOptions(mode="offline"))
        rows = read_rows(path / "metrics.jsonl")
        # As they are logged, without nulls.
        sink.log([{name: value for name, value in row.items() if value is not None} for row in rows[:1]])
        sink.summary(read_json(path / "summary.json", object))
        sink.close(0)
    finally:
        wandb.teardown()
    said = capfd.readouterr()
    assert "switched off" not in said.out + said.err
    assert secret not in said.out + said.err
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert [file for file in files if file.suffix == ".wandb"]
    assert not [file for file in files if secret.encode() in file.read_bytes()]
