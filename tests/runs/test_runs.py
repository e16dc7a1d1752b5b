"""Runs that are stopped, damaged or starved, and go on."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from finite import assert_allclose, assert_array_equal
from fp3o_jax import Config, ConfigError
from fp3o_jax.cli import main
from fp3o_jax.runs import Interrupted, RunError, RunOptions, load_run, loop, run_training
from fp3o_jax.runs.checkpoints import Checkpoints
from fp3o_jax.runs.directory import RunDirectory, default_path
from fp3o_jax.runs.packing import digest, join, pack, split, unpack
from fp3o_jax.runs.progress import TrainingProgress
from fp3o_jax.runs.signals import deferred
from fp3o_jax.runs.sinks import WandbOptions
from fp3o_jax.runs.statistics import far_behind
from fp3o_jax.train import Trainer, make_train
from quick import compile_as_users
from timeless import without_times

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    env="matrix/climbing",
    num_envs=4,
    rollout_length=8,
    total_env_steps=4 * 8 * 10,
    hidden_sizes=(8,),
    layer_norm=False,
    num_seeds=2,
    epochs=1,
)
HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
OFTEN = RunOptions(eval_episodes=4, checkpoint_seconds=0)


def train(path, config=CONFIG, options=OFTEN, **kwargs):
    return run_training(
        config, dataclasses.replace(options, run_dir=path), console=Console(quiet=True), **kwargs
    )


def result(path, **kwargs):
    return without_times(path), digest(pack(load_run(path, **kwargs)[1]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(path)
    return path


@pytest.fixture(autouse=True)
def usual_handlers():
    """A shell's background jobs ignore SIGINT, and so may the process that runs these tests."""
    before = {signum: signal.signal(signum, handler) for signum, handler in HANDLERS.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def stop_after(monkeypatch, update, signum=signal.SIGTERM):
    """The process is sent a signal while update ``update`` is written down."""
    write = loop.Journal.write

    def stopping(self, number, *args):
        write(self, number, *args)
        if number == update:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(loop.Journal, "write", stopping)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_to_the_bit(signum, whole, tmp_path, monkeypatch):
    path = tmp_path / "run"
    seldom = dataclasses.replace(OFTEN, checkpoint_seconds=1e9)
    for update in (3, 7):
        with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
            stop_after(patch, update, signum)
            train(path, options=seldom)
        assert stop.value.code == 128 + signum
        assert not (path / "summary.json").exists()
    assert signal.getsignal(signum) == HANDLERS[signum]
    summary = train(path, options=seldom)
    assert result(path) == result(whole)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["update"], r["seed"]) for r in rows] == [(u, s) for u in range(1, 11) for s in (0, 1)]
    assert summary["seeds"] == json.loads((whole / "summary.json").read_text())["seeds"]


def test_the_command_line_says_how_to_go_on_and_does(whole, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"
    args = ["--env", "matrix/climbing", "--num-envs", "4", "--rollout-length", "8", "--num-seeds", "2"]
    args += ["--total-env-steps", "320", "--hidden-sizes", "8", "--no-layer-norm"]
    args += ["--epochs", "1", "--eval-episodes", "4"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        stop_after(patch, 4)
        main(["train", *args, "--run-dir", str(path)])
    assert stop.value.code == 143
    assert f"fp3o train --resume {path}" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", str(path)]) == 0
    assert "going on after update" in capsys.readouterr().out
    assert result(path) == result(whole)
    assert main(["train", "--resume", str(path)]) == 0
    assert "is finished" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", str(path), "--actor-lr", "1"]) == 2
    assert "actor_lr is 0.0005 there and 1.0 here" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "is not a run" in " ".join(capsys.readouterr().err.split())


def test_a_run_begins_with_the_weights_of_another(whole, tmp_path, capsys):
    """With settings of its own, its learning rate above all, which lives in the state."""
    path, source = tmp_path / "run", load_run(whole)[1]
    other = CONFIG.replace(algorithm="mappo", total_env_steps=32, actor_lr=1e-12, critic_lr=1e-12)
    options = dataclasses.replace(OFTEN, init_from=whole)
    train(path, other, options)
    trainer, state = load_run(path)
    assert trainer.config.algorithm == "mappo"
    assert_array_equal(state.hyperparams.actor_lr, np.float32([1e-12, 1e-12]))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6), state.params, source.params)
    kernel = state.params["actor"]["trunk"]["dense_0"]
    assert not np.array_equal(kernel[0], kernel[1])

    single = tmp_path / "single"
    train(single, other.replace(num_seeds=1, total_env_steps=64), OFTEN)
    train(tmp_path / "of one", other, dataclasses.replace(OFTEN, init_from=single))
    ours, one = load_run(tmp_path / "of one")[1].params, load_run(single)[1].params
    jax.tree.map(lambda a, b: assert_allclose(a, np.repeat(b, 2, 0), atol=1e-6), ours, one)

    for name, config, start, said in (
        (
            "a",
            other.replace(hidden_sizes=(16,)),
            whole,
            "head.logits.kernel is [1, 8, 3] there and [1, 16, 3] here",
        ),
        ("b", other.replace(num_seeds=3), whole, "has 2 seeds and this run 3"),
        ("c", other, tmp_path, "is not a run"),
        ("run", other, None, "began with init_from="),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            train(tmp_path / name, config, dataclasses.replace(OFTEN, init_from=start))
    with pytest.raises(ConfigError, match="say where the run shall be"):
        run_training(other, options)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_with_more_env_steps_goes_on(finished, whole, tmp_path, monkeypatch, capsys):
    """To the bit as if it had been that long from the start; what its old end was stays there."""
    path = tmp_path / "run"
    if finished:
        train(path, CONFIG.replace(total_env_steps=160))
    else:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_after(patch, 3)
            train(path, CONFIG.replace(total_env_steps=160))
    assert main(["train", "--total-env-steps", "320", f"--resume={path}"]) == 0
    assert "total_env_steps grows from 160 to 320" in " ".join(capsys.readouterr().out.split())
    assert result(path) == result(whole)
    assert json.loads((path / "summary.json").read_text())["env_steps"] == 320
    assert (path / "summary_160.json").exists() == finished
    for args, said in (
        (["--resume", str(path), "--total-env-steps", "160"], "total_env_steps is 320 there and 160 here"),
        (["--resume", str(path), "--run-dir", str(tmp_path / "other")], "leave --run-dir out"),
        (["mpe-spread", "--resume", str(path)], "leave the preset out"),
        (["--eval-episodes", "4", "--resume", "--num-seeds"], "--resume needs the directory"),
    ):
        assert main(["train", *args]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # noise of threads
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, whole, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 6)
        train(path)
    newest = max((path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for file in [p for p in (newest / "state").rglob("*") if p.is_file() and p.parent.name == "d"]:
        data = bytearray(file.read_bytes())
        if damage == "flip":
            for i in range(len(data) // 2, len(data), 7):
                data[i] ^= 0x55
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
        if damage == "remove":
            file.unlink()
    with pytest.warns(UserWarning, match=f"checkpoints/{newest.name} is damaged"):
        train(path)
    assert result(path) == result(whole)


def test_start_cut_short_is_started_again(whole, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name in ("lock", "run.json", "config.json.part"):
        (path / name).write_text("{")
    train(path)
    assert result(path) == result(whole)


def test_a_run_is_never_overwritten(whole, tmp_path):
    before = result(whole)
    with pytest.raises(ConfigError, match=r"gamma is 0\.99 there and 0\.9 here"):
        train(whole, CONFIG.replace(gamma=0.9))
    assert train(whole)["env_steps"] == 320  # finished: its summary
    assert result(whole) == before
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ConfigError, match="is not a run"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_two_processes_cannot_write_to_one_run(tmp_path):
    first = RunDirectory(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match="another process"):
        RunDirectory(tmp_path / "run", CONFIG)
    first.close()
    RunDirectory(tmp_path / "run", CONFIG).close()


def test_settings_have_directories_of_their_own():
    paths = {default_path(config) for config in (CONFIG, CONFIG.replace(gamma=0.9), CONFIG.replace(seed=1))}
    assert len(paths) == 3
    assert default_path(CONFIG) == default_path(Config.from_dict(CONFIG.to_dict()))


def test_a_checkpoint_that_does_not_fit(whole):
    trainer = make_train(CONFIG.replace(hidden_sizes=(16,)))
    template = jax.eval_shape(jax.vmap(trainer.init), jnp.stack([jax.random.key(0)] * 2))
    checkpoints = Checkpoints(whole / "checkpoints")
    with pytest.raises(ConfigError, match="does not fit this config"):
        checkpoints.restore(template)
    checkpoints.close()


def test_the_last_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    scores = [0.1, 0.9, 0.3, float("nan"), 0.2, 0.4]
    for update, score in enumerate(scores):
        checkpoints.save(update, {"x": jnp.full(3, update), "key": jax.random.key(update)}, {}, score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    template = jax.eval_shape(lambda: {"x": jnp.zeros(3, int), "key": jax.random.key(0)})
    last, best = checkpoints.restore(template), checkpoints.restore(template, best=True)
    checkpoints.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [1, 4, 5]
    assert (last.update, best.update) == (5, 1)
    assert list(best.state["x"]) == [1, 1, 1]
    assert (jax.random.key_data(best.state["key"]) == jax.random.key_data(jax.random.key(1))).all()


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b?", "[", "with space :x:"])
def test_directories_of_any_name(name, tmp_path):
    """Below a name that reads as a pattern, orbax wrote checkpoints that it could not read."""
    path = tmp_path / name / "checkpoints"
    template = jax.eval_shape(lambda: {"x": jnp.zeros(3, int)})
    checkpoints = Checkpoints(path)
    for update in (1, 2):
        checkpoints.save(update, {"x": jnp.full(3, update)}, {}, float(update))
    checkpoints.close()
    checkpoints = Checkpoints(path)
    checkpoints.drop_after(1)
    last = checkpoints.restore(template)
    checkpoints.close()
    assert last.update == 1
    assert list(last.state["x"]) == [1, 1, 1]
    assert [p.name for p in path.iterdir()] == ["1"]


def test_packing_is_lossless():
    state = {"a": jnp.arange(3), "b": jnp.array([True]), "empty": jnp.zeros((2, 0)), "z": jnp.float32(2)}
    state |= {"half": jnp.ones((2, 2), jnp.bfloat16), "key": jax.random.split(jax.random.key(0), 2)}
    back = unpack(pack(state), jax.eval_shape(lambda: state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(), back, state)
    assert digest(pack(back)) == digest(pack(state))
    again = split(join(pack(state)), pack(state))
    assert list(again) == sorted(pack(state)) and digest(again) == digest(pack(state))


def test_a_seed_that_ceases_to_be_finite_is_left_behind(whole, tmp_path, monkeypatch):
    """Seed 1 gets a NaN into its parameters in update 4; the others know nothing of it."""
    init, update = Trainer.init, Trainer.update

    def marked(self, key, hyperparams=None):
        state = init(self, key, hyperparams)
        return state.replace(episodes={**state.episodes, "poisoned": key == jax.random.key(1)})

    def poisoned(self, state):
        episodes = dict(state.episodes)
        mark = episodes.pop("poisoned")
        new, metrics = update(self, state.replace(episodes=episodes))
        bad = jnp.where(mark & (state.num_updates == 3), jnp.nan, 0.0)
        params = jax.tree.map(lambda x: x + bad.astype(x.dtype), new.params)
        return new.replace(params=params, episodes={**new.episodes, "poisoned": mark}), metrics

    path, said = tmp_path / "run", Console(record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    monkeypatch.setattr(Trainer, "init", marked)
    monkeypatch.setattr(Trainer, "update", poisoned)
    summary = run_training(CONFIG, dataclasses.replace(OFTEN, run_dir=path), console=said)
    assert "seed 1 ceased to be finite in update 4" in " ".join(said.export_text().split())
    assert summary["seeds"][1]["stopped_at_update"] == 4
    assert "stopped_at_update" not in summary["seeds"][0]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    undisturbed = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    expected = [row for row in undisturbed if row["seed"] == 0 or row["update"] < 4]
    assert [(r["seed"], r["update"]) for r in rows] == [(r["seed"], r["update"]) for r in expected]
    for row, other in zip(rows, expected, strict=True):
        assert_allclose(row["entropy"], other["entropy"], rtol=1e-5)
    state = load_run(path)[1]
    assert list(state.num_updates) == [10, 3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_run_ends_when_no_seed_is_finite(tmp_path, monkeypatch, capsys):
    """It claims no step that it did not make, and says the same again when it is resumed."""
    update, path = Trainer.update, tmp_path / "run"

    def poisoned(self, state):
        new, metrics = update(self, state)
        bad = jnp.where(state.num_updates == 3, jnp.nan, 0.0)
        return new.replace(params=jax.tree.map(lambda x: x + bad.astype(x.dtype), new.params)), metrics

    said = r"every seed has ceased to be finite: seed 0 in update 4, seed 1 in update 4 of 10"
    with monkeypatch.context() as patch, pytest.raises(RunError, match=said):
        patch.setattr(Trainer, "update", poisoned)
        train(path)
    rows = (path / "metrics.jsonl").read_bytes()
    written = [json.loads(line) for line in rows.decode().splitlines()]
    assert [(row["update"], row["seed"]) for row in written] == [(u, s) for u in (1, 2, 3) for s in (0, 1)]
    assert all(np.isfinite(row["entropy"]) for row in written)
    state = load_run(path)[1]
    assert list(state.num_updates) == [3, 3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    with pytest.raises(RunError, match=said):
        train(path)
    assert main(["train", "--resume", str(path)]) == 1
    assert "every seed has ceased to be finite" in capsys.readouterr().err
    assert (path / "metrics.jsonl").read_bytes() == rows
    assert not (path / "summary.json").exists()


def test_evaluation_during_the_run(tmp_path):
    train(tmp_path / "run", options=dataclasses.replace(OFTEN, eval_every=5))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["seed"]) for row in rows] == [(u, s) for u in range(1, 11) for s in (0, 1)]
    for row in rows:
        assert (
            ("greedy_episode_return" in row)
            == ("sampled_episode_return" in row)
            == (row["update"] in (5, 10))
        )


@pytest.mark.parametrize(("limit", "said"), [(20_000, "No space left"), (2_500, "could not be written")])
def test_no_space_left(limit, said, tmp_path):
    """A limit on the size of files, met while the metrics grow, or by the first checkpoint."""
    run = tmp_path / "run"
    args = ["train", "--env", "matrix/climbing", "--num-envs", "4", "--rollout-length", "8", "--epochs", "1"]
    args += ["--total-env-steps", "6400", "--hidden-sizes", "8", "--eval-episodes", "4"]
    args += ["--run-dir", str(run)]
    program = f"""
import resource, sys
from fp3o_jax.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main({[*args, "--checkpoint-seconds", "0"]!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(re.findall(rf"^error: .*{said}", done.stderr, re.MULTILINE)) == 1
    if limit > 10_000:
        state = load_run(run)[1]
        assert 0 < int(state.num_updates[0]) < 200
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # With room again it goes on.
    assert main([*args, "--checkpoint-seconds", "60"]) == 0
    updates = [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert updates == list(range(1, 201))


@pytest.fixture
def small_disk(tmp_path):
    """A file system that holds a few checkpoints."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes Linux and its administrator")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # noise of threads
def test_a_full_disk(small_disk, whole, tmp_path):
    often = dataclasses.replace(OFTEN, keep_checkpoints=100)
    with pytest.raises(RunError, match="No space left on device"):
        train(small_disk / "run", options=often)
    assert 0 < load_run(small_disk / "run")[1].num_updates[0] < 10
    with pytest.raises(RunError, match="No space left on device"):
        train(small_disk / "run", options=often)  # still full
    shutil.copytree(small_disk / "run", tmp_path / "large")
    train(tmp_path / "large", options=often)
    assert result(tmp_path / "large") == result(whole)


def test_metrics_go_wherever_they_are_wanted(whole, tmp_path, monkeypatch):
    """Interrupted and resumed: a W&B run per seed in one group, events, and marl-eval's layout."""
    path = tmp_path / "run"
    options = dataclasses.replace(OFTEN, wandb=WandbOptions(mode="offline"), tensorboard=True)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 5)
        train(path, options=options)
    train(path, options=options)
    assert result(path) == result(whole)
    run_id = json.loads((path / "run.json").read_text())["run_id"]
    ids = {p.stem.removeprefix("run-") for p in (path / "wandb").glob("offline-run-*/run-*.wandb")}
    assert ids == {f"{run_id}-seed0", f"{run_id}-seed1"}
    assert len(list((path / "tensorboard").glob("*/events*"))) >= 2
    ((method, seeds),) = json.loads((path / "marl_eval.json").read_text())["matrix"]["climbing"].items()
    assert method.startswith("fp3o, sharing full, ")
    assert [step["step_count"] for step in seeds["seed_0"].values() if "step_count" in step] == [
        32 * update for update in range(1, 11)
    ]


def test_a_far_step_is_told():
    said = Console(record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    journal = loop.Journal(None, [], said, CONFIG, range(1), {})
    for update, joint_kl in enumerate([0.01] * 20 + [0.5, 0.5, 0.01], start=1):
        journal._watch(update, joint_kl)
    text = " ".join(said.export_text().split())
    assert text.count("warning") == 1
    assert "KL of 0.5 in update 21, usually by 0.01" in text


def test_the_spread_over_seeds_is_shown_and_a_seed_far_behind_told(tmp_path):
    """Five seeds: one is far behind but for update 15, another one for a moment."""
    said = Console(record=True, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
    directory = RunDirectory(tmp_path / "run", CONFIG)
    journal = loop.Journals([loop.Journal(directory, [], said, CONFIG, range(5), {})])
    with TrainingProgress(said, 60) as progress:
        for update in range(1, 61):
            returns = np.array([4.0, 4.1, 3.9, 4.0 if update == 15 else 1.0, 0.0 if update < 20 else 4.2])
            metrics = {"finite": np.ones(5, bool), "joint_kl": np.zeros(5), "episode_return": returns}
            journal.write(update, metrics, progress)
    directory.close()
    text = " ".join(said.export_text().split())
    assert text.count("warning") == 1
    assert "seed 3 has been far behind the others for 20 updates" in text
    assert "in update 35 its return is 1, the median 4" in text
    assert "return 3.44±1.2 left" in text


def test_large_returns_are_shown_without_exponents():
    said = Console(record=True, file=open(os.devnull, "w"), width=200)  # noqa: SIM115
    with TrainingProgress(said, 1) as progress:
        progress.update(1, 100, {"return": np.array([-1234.5, -1100, -900]), "win rate": np.array([0.5])})
    assert "return -1,080±140  win rate 0.5  left" in said.export_text()


def test_far_behind():
    assert far_behind(np.array([0.9, 0.95, 0.92, 0.1, 0.94])).tolist() == [False] * 3 + [True, False]
    assert far_behind(np.array([-20.0, -21.0, -90.0, -19.0])).tolist() == [False, False, True, False]
    for usual in ([1.0, 1.0, 1.0, 0.95], [0.9, 0.1, 0.8, 0.2], [5.0, 5.0, 0.0], [0.0] * 4, []):
        assert not far_behind(np.array(usual)).any()
    noise = np.random.default_rng(0).normal(size=(1000, 8))
    assert np.mean([far_behind(scores).any() for scores in noise]) < 0.15


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "summary.json").exists()


def test_kill_check(monkeypatch, capsys):
    """Killed for real, in processes of their own, that compile as users' do; the script does so as often as
    one likes."""
    script = str(ROOT / "tests" / "checks" / "kill_check.py")
    settings = "--env matrix/climbing --num-seeds 2 --num-envs 4 --rollout-length 8 --hidden-sizes 8"
    args = ["--kills", "3", "--updates", "40", "--longest", "2", f"--settings={settings}"]
    monkeypatch.setattr(sys, "argv", [script, *args])
    compile_as_users(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(script, run_name="__main__")
    assert stop.value.code == 0
    assert "identical" in capsys.readouterr().out


def test_one_seed_trains_as_one_of_several():
    """It is not batched, but its metrics and its state keep the axis of seeds."""
    trainer = make_train(CONFIG)
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])

    def trained(keys):
        programs = loop.Programs(trainer, keys, RunOptions(eval_episodes=1))
        programs.compile()
        state, metrics = programs.update(programs.init())
        return jax.tree.map(np.asarray, (state.params, state.rollout.env_state, metrics))

    alone, beside = trained(keys[:1]), trained(keys)
    assert jax.tree.structure(alone) == jax.tree.structure(beside)
    for one, two in zip(jax.tree.leaves(alone), jax.tree.leaves(beside), strict=True):
        assert one.shape == (1, *two.shape[1:])
        assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-5)
