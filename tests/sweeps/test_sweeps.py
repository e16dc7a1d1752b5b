"""Many runs as one thing: points, programs, folders; and what comes of them."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from finite import assert_allclose
from fp3o_jax import Config, ConfigError, Hyperparams, Sweep, xla
from fp3o_jax.cli import main
from fp3o_jax.runs import RunError, RunOptions, evaluate_run, load_run, run_training
from fp3o_jax.runs.checkpoints import Checkpoint
from fp3o_jax.runs.devices import spread
from fp3o_jax.runs.directory import RunDirectory
from fp3o_jax.runs.members import run_records
from fp3o_jax.seeds import seed_keys
from fp3o_jax.sweeps import running
from fp3o_jax.sweeps.folder import SweepFolder
from fp3o_jax.sweeps.study import read_study, take_axes
from fp3o_jax.train import make_train
from timeless import without_times

CONFIG = Config(
    env="matrix/climbing",
    num_envs=4,
    rollout_length=8,
    total_env_steps=256,
    hidden_sizes=(8,),
    layer_norm=False,
    epochs=1,
    seed=3,
)
OPTIONS = RunOptions(eval_episodes=4, checkpoint_seconds=0)
AXES = {"grid": {"algorithm": ["mappo", "ippo"]}, "zip": {"actor_lr,critic_lr": [1e-3, 1e-2]}}
#: The same, as a command.
FLAGS = [
    *("--env", "matrix/climbing", "--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "256"),
    *("--hidden-sizes", "8", "--no-layer-norm", "--epochs", "1", "--seed", "3", "--num-seeds", "2"),
    *("--eval-episodes", "4", "--checkpoint-seconds", "0"),
    *("--grid.algorithm", "mappo", "ippo", "--zip", "actor_lr,critic_lr=1e-3,1e-2"),
]
QUIET = Console(quiet=True)


def make(num_seeds=2, config=CONFIG, **changes):
    return Sweep(config, num_seeds=num_seeds, options=OPTIONS, **(AXES | changes))


def measured(path):
    """The rows of results.csv without what no two runs have in common."""
    with (path / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def times(path):
    return {file.parent.name: file.stat().st_mtime_ns for file in path.glob("runs/*/summary.json")}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "first"
    make().run(path, console=QUIET)
    return path


def run_of(path, **wanted):
    """The directory of the run with these settings."""
    found = [
        file.parent
        for file in path.glob("runs/*/config.json")
        if wanted.items() <= json.loads(file.read_text()).items()
    ]
    (run,) = found
    return run


def test_a_sweep_is_ordinary_runs(first, capsys):
    rows = measured(first)
    assert len(rows) == 8
    assert [row["program"] for row in rows] == ["0"] * 4 + ["1"] * 4
    assert [(row["algorithm"], row["actor_lr"], row["critic_lr"], row["seed"]) for row in rows] == [
        (algorithm, lr, lr, seed)
        for algorithm in ("mappo", "ippo")
        for lr in ("0.001", "0.01")
        for seed in ("3", "4")
    ]
    for row in rows:
        assert (row["status"], row["env_steps"], row["side_by_side"]) == ("finished", "256", "4")
        for name in ("greedy_episode_return", "sampled_episode_return", "auc_episode_return"):
            assert np.isfinite(float(row[name]))
    assert not list(first.glob("programs/*/checkpoints"))

    run = run_of(first, algorithm="ippo", actor_lr=1e-2)
    trainer, state = load_run(run)
    assert trainer.config.critic_lr == 1e-2
    assert_allclose(state.hyperparams.actor_lr, np.full(2, 1e-2), rtol=1e-6)
    assert list(state.num_updates) == [8, 8]
    summary = json.loads((run / "summary.json").read_text())
    played = evaluate_run(run, episodes=4, console=QUIET)
    for row, again in zip(summary["seeds"], played, strict=True):
        assert_allclose(row["episode_return"], again["episode_return"], rtol=1e-6)
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["seed"]) for row in written] == [(u, s) for u in range(1, 9) for s in (3, 4)]
    returns = [row["episode_return"] for row in written if row["seed"] == 3]
    assert_allclose(summary["seeds"][0]["auc_episode_return"], np.mean(returns), rtol=1e-6)
    ((method, seeds),) = json.loads((run / "marl_eval.json").read_text())["matrix"]["climbing"].items()
    assert method.startswith("ippo, sharing full, ") and "actor_lr=0.01, critic_lr=0.01" in method
    assert set(seeds) == {"seed_3", "seed_4"}

    with (first / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["algorithm"], row["actor_lr"], row["seeds"]) for row in table] == [
        (algorithm, lr, "2") for algorithm in ("mappo", "ippo") for lr in ("0.001", "0.01")
    ]
    for row, *pair in zip(table, rows[::2], rows[1::2], strict=True):
        mean = np.mean([float(each["greedy_episode_return"]) for each in pair])
        assert_allclose([float(row["iqm"]), float(row["mean"])], mean, rtol=1e-6)
    assert (first / "table.tex").read_text().count("matrix/climbing") == 1

    frame = make().frame(first)
    assert list(frame["seed"]) == [3, 4] * 4 and set(frame["status"]) == {"finished"}
    assert main(["status", str(first)]) == 0
    assert "2 of 2 programs, 8 of 8 runs are finished" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished" in " ".join(capsys.readouterr().out.split())


def test_a_run_of_a_sweep_is_that_of_train(first, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(xla, "keep_compiled", lambda: kept.append("programs"))
    config = CONFIG.replace(algorithm="mappo", actor_lr=1e-2, critic_lr=1e-2, num_seeds=2)
    run_training(config, dataclasses.replace(OPTIONS, run_dir=tmp_path / "alone"), console=QUIET)
    assert kept == ["programs"]
    there = run_of(first, algorithm="mappo", actor_lr=1e-2)
    assert json.loads((tmp_path / "alone" / "config.json").read_text()) == json.loads(
        (there / "config.json").read_text()
    )
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "alone", there)
    ]
    for alone, beside in zip(*rows, strict=True):
        assert alone.keys() == beside.keys()
        for name, value in alone.items():
            assert_allclose(np.array(value, float), np.array(beside[name], float), rtol=1e-4, atol=1e-6)
    ours, theirs = (load_run(run)[1] for run in (tmp_path / "alone", there))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours.params, theirs.params)


def test_figures_of_a_sweep(first, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    sweep.symlink_to(first)
    assert main(["plot", str(sweep), "--output", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves_final.png").stat().st_size > 5000
    figure = tmp_path / "response.png"
    assert main(["plot", str(sweep), "--over", "actor_lr", "--output", str(figure)]) == 0
    assert figure.stat().st_size > 5000
    capsys.readouterr()
    for args, said in (
        (["--over", "gamma"], "over='gamma' is unknown"),
        (["--over", "actor_lr", "--by", "sharing"], "algorithm is 'mappo' and 'ippo' at sharing full"),
        (["--over", "actor_lr", "--metric", "win_rate"], "metric='win_rate' is unknown"),
    ):
        assert main(["plot", str(sweep), *args]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_one_compilation_serves_all_learning_rates():
    """What the persistent cache goes by is the program's text."""
    texts = set()
    for actor_lr in (1e-3, 1e-2):
        trainer = make_train(CONFIG.replace(actor_lr=actor_lr))
        start = seed_keys([3]), Hyperparams(*np.float32(trainer.config.hyperparams)[:, None])
        init = spread(1).jit(trainer.init)
        update = jax.jit(trainer.update).lower(jax.eval_shape(trainer.init, start[0][0]))
        texts.add((init.lower(*start).as_text(), update.as_text()))
    assert len(texts) == 1


KILLED = """
import os, signal, sys
from fp3o_jax.cli import main
from fp3o_jax.runs.journal import Journals

write, calls = Journals.write, []


def deadly(self, update, *args):
    write(self, update, *args)
    calls.append(update)
    if len(calls) == 8 + 5:  # in the second program
        os.kill(os.getpid(), signal.SIGKILL)


Journals.write = deadly
sys.exit(main(sys.argv[1:]))
"""


def test_killed_it_goes_on_and_repeats_nothing(first, tmp_path, capsys):
    path = tmp_path / "sweep"
    command = ["sweep", *FLAGS, "--run-dir", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = times(path)
    assert len(before) == 2 and not (path / "results.csv").exists()
    assert main(["status", str(path)]) == 0
    assert "1 of 2 programs, 4 of 8 runs are finished" in " ".join(capsys.readouterr().out.split())
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "program 0 of 2: algorithm=mappo, 4 runs is finished" in said
    assert "going on after update" in said
    assert times(path).items() > before.items()
    assert measured(path) == measured(first)
    for run in path.glob("runs/*"):
        assert without_times(run) == without_times(first / "runs" / run.name)


def test_a_plan_may_grow(first, tmp_path, monkeypatch):
    path, trained = tmp_path / "sweep", []
    path.mkdir()
    (path / "sweep.json").write_text((first / "sweep.json").read_text())
    (path / "runs").symlink_to(first / "runs")

    def train_together(trainer, members, *_, **__):
        trained.append([(m.config.algorithm, m.config.actor_lr, *m.config.seeds) for m in members])
        raise ValueError("not today")

    monkeypatch.setattr(running, "train_together", train_together)
    monkeypatch.setattr(running, "RunDirectory", lambda *_: SimpleNamespace(close=lambda: None))
    make().run(path, console=QUIET)
    assert trained == []
    more = {"zip": {"actor_lr,critic_lr": [1e-3, 1e-2, 3e-3]}, "num_seeds": 4}
    assert make(**more).describe(path).startswith("4 programs, 24 runs, 4 to 8 side by side")
    with pytest.raises(RunError, match="2 of 4 programs failed: 2, 3"):
        make(**more).run(path, console=QUIET)
    assert trained == [
        [(algorithm, 1e-3, 5, 6), (algorithm, 1e-2, 5, 6), (algorithm, 3e-3, 3, 4, 5, 6)]
        for algorithm in ("mappo", "ippo")
    ]
    assert "not today" in (path / "programs" / "2" / "error.txt").read_text()
    assert len(json.loads((path / "sweep.json").read_text())["programs"]) == 4
    trained.clear()
    with pytest.raises(RunError, match="failed: 3"):
        make(**more).run(path, index=3, console=QUIET)
    assert [members[0][0] for members in trained] == ["ippo"]


def test_more_seeds_are_runs_beside_the_others(first, tmp_path):
    """What was added is trained alone, and equals what a larger plan would have trained at once."""
    path = tmp_path / "sweep"
    config = CONFIG.replace(algorithm="mappo", actor_lr=1e-2, critic_lr=1e-2)
    Sweep(config, options=OPTIONS).run(path, console=QUIET)
    rows = Sweep(config, num_seeds=2, options=OPTIONS).run(path, console=QUIET)
    assert [(row["program"], row["seed"], row["status"]) for row in rows] == [
        (0, 3, "finished"),
        (1, 4, "finished"),
    ]
    expected = [row for row in measured(first) if row["algorithm"] == "mappo" and row["actor_lr"] == "0.01"]
    for row, other in zip(rows, expected, strict=True):
        assert_allclose(row["auc_episode_return"], float(other["auc_episode_return"]), rtol=1e-4)


def test_a_failing_program_does_not_stop_the_others(first, tmp_path, monkeypatch, capsys):
    path, train_together = tmp_path / "sweep", running.train_together

    def failing(trainer, *args, **options):
        if trainer.config.algorithm == "mappo":
            raise ValueError("out of luck")
        return train_together(trainer, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(running, "train_together", failing)
        assert main(["sweep", *FLAGS, "--run-dir", str(path)]) == 1
    said = capsys.readouterr()
    assert "out of luck" in said.out
    assert "1 of 2 programs failed: 0." in " ".join(said.err.split())
    assert [row["status"] for row in measured(path)] == ["failed"] * 4 + ["finished"] * 4
    before = times(path)
    make().run(path, console=QUIET)
    assert times(path).items() > before.items()
    assert measured(path) == measured(first)


def test_a_run_that_is_not_finite_stops_alone(tmp_path):
    """A learning rate that is no number's: its runs stay where they were, the others go on."""
    sweep = make(grid={"algorithm": ["mappo"]}, zip={"actor_lr,critic_lr": [1e-3, 1e38]})
    rows = sweep.run(tmp_path / "sweep", console=QUIET)
    assert [row["status"] for row in rows[:2]] == ["finished"] * 2
    for row in rows[2:]:
        update = int(row["status"].removeprefix("not finite in update "))
        assert 1 <= update <= 8 and row["env_steps"] == 32 * (update - 1)
    state = load_run(run_of(tmp_path / "sweep", actor_lr=1e38))[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_checkpoint_of_one_run_reads_as_that_of_a_program():
    """As runs wrote them before there were sweeps."""
    record = {"metrics_bytes": 7, "seconds": 1.5, "frozen": {"3": 2}}
    assert run_records(Checkpoint(4, None, record)) == [record]


def test_two_processes_never_take_one_program(first, tmp_path, capsys):
    path = tmp_path / "sweep"
    folder = SweepFolder(path)
    folder.extend(make().config, make().points, None)
    with folder.take(1):
        assert folder.take(1) is None
        assert main(["sweep", *FLAGS, "--run-dir", str(path), "--index", "1"]) == 0
        assert "with another process" in " ".join(capsys.readouterr().out.split())
        assert main(["status", str(path)]) == 0
        assert "running" in capsys.readouterr().out
    folder.take(1).close()
    assert not (path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": CONFIG.replace(gamma=0.9)}, r"gamma is 0\.99 there and 0\.9 here"),
        (
            {"grid": {"algorithm": ["mappo", "happo"]}},
            "algorithm is 'mappo' and 'ippo' there and 'mappo' and 'happo' here",
        ),
        ({"zip": {"actor_lr,critic_lr": [1e-3]}}, r"actor_lr is 0\.001 and 0\.01 there and 0\.001 here"),
        ({"num_seeds": 1}, "seeds 4 are there, and those here are 3 to 3"),
        (
            {
                "grid": {},
                "zip": {},
                "points": [
                    {"algorithm": "mappo", "actor_lr": 1e-3, "critic_lr": 1e-3},
                    {"algorithm": "ippo", "actor_lr": 1e-2, "critic_lr": 1e-2},
                ],
            },
            r"algorithm=mappo, actor_lr=0\.01, critic_lr=0\.01 is there and not here",
        ),
    ],
)
def test_another_plan_is_refused(changes, said, first):
    before = (first / "sweep.json").read_bytes()
    with pytest.raises(ConfigError, match=said):
        make(**changes).run(first, console=QUIET)
    assert (first / "sweep.json").read_bytes() == before


def test_what_is_no_sweep_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ConfigError, match="is not a sweep"):
        make().run(tmp_path, console=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
    assert main(["status", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"grid": {"actor_lrs": [1e-3]}}, "axis='actor_lrs' is unknown: did you mean 'actor_lr'"),
        ({"grid": {"seed": [1, 2]}}, "axis='seed' cannot be one"),
        ({"grid": {"gamma": []}}, r"axis gamma=\[\] has no values"),
        ({"grid": {"sharing": "full"}}, "axis sharing='full' must be a list"),
        ({"grid": {"gamma": [0.9, 0.9]}}, r"point 1 \(gamma=0\.9\) is there twice"),
        ({"grid": {"gamma": [0.9]}, "zip": {"gamma": [0.99]}}, "axis='gamma' is changed twice"),
        ({"zip": {"gamma": [0.9], "actor_lr": [1e-3, 1e-2]}}, "gamma has 1, actor_lr has 2"),
        (
            {"grid": {"algorithm": ["fp3o", "happo"], "actor_lr": [1e-3, -1.0]}},
            r"point 1 \(algorithm=fp3o, actor_lr=-1\): actor_lr=-1\.0 must be a number above 0",
        ),
        (
            {"grid": {"advantage_split": ["uniform", [0.5, 0.25, 0.25]]}},
            r"point 1 \(advantage_split=\[0\.5, 0\.25, 0\.25\]\): .*must hold one weight for each of the 2",
        ),
        ({"random": {"gamma": ("normal", 0, 1)}, "samples": 2}, "must be uniform or log"),
        ({"random": {"actor_lr": ("log", 0, 1)}, "samples": 2}, "0 < lower end < upper end"),
        ({"random": {"actor_lr": ("log", 1e-4, 1)}}, "samples=0 with 1 random axes"),
        ({"points": [{"gama": 0.9}]}, "axis='gama' is unknown"),
        ({"points": [{"actor_lr,critic_lr": 1e-3, "actor_lr": 1e-2}]}, "axis='actor_lr' is changed twice"),
        ({"runs_per_program": 1, "num_seeds": 2}, "runs_per_program=1 must be at least num_seeds=2"),
    ],
)
def test_what_cannot_be_used_is_refused(axes, said):
    with pytest.raises(ConfigError, match=said):
        Sweep(CONFIG, **axes)


def test_lists_walk_together_too():
    study, left = take_axes(read_study([])[0], ["--zip", "hidden_sizes=[8,8],[16,16]", "gamma=0.9,0.99"])
    assert study.zip == {"hidden_sizes": [[8, 8], [16, 16]], "gamma": [0.9, 0.99]} and not left


def test_a_run_of_a_sweep_is_gone_on_with_by_the_sweep(tmp_path):
    """Alone it would begin anew, and take from the sweep what it has logged."""
    SweepFolder(tmp_path).extend(CONFIG, make().points, None)
    with pytest.raises(ConfigError, match="is one of a sweep's"):
        run_training(CONFIG, dataclasses.replace(OPTIONS, run_dir=tmp_path / "runs" / "one"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_metrics_shorter_than_their_checkpoint_are_refused(tmp_path):
    directory = RunDirectory(tmp_path / "run", CONFIG, {})
    with pytest.raises(ConfigError, match="has 0 bytes and its checkpoint is of 9"):
        directory.cut_metrics(9)
    directory.close()


def test_a_sweep_that_begins_meanwhile_is_no_stranger(tmp_path, monkeypatch):
    folder, listing = SweepFolder(tmp_path), type(tmp_path).iterdir

    def begun(path):
        monkeypatch.undo()
        SweepFolder(tmp_path / "other").extend(make().config, make().points, None)
        (tmp_path / "other" / "sweep.json").rename(tmp_path / "sweep.json")
        return listing(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", begun)
    assert len(folder.preview(make().config, make().points, None)) == 2


def test_points_are_drawn_listed_and_combined():
    random = {"actor_lr": ("log", 1e-5, 1e-1), "gae_lambda": ("uniform", 0.9, 1.0)}
    few, many = (
        Sweep(CONFIG, grid={"sharing": ["full", "none"]}, random=random, samples=n) for n in (2, 200)
    )
    drawn = [p.changes for p in many.points if p.changes["sharing"] == "full"]
    assert [p.changes for p in few.points if p.changes["sharing"] == "full"] == drawn[:2]
    rates = np.array([changes["actor_lr"] for changes in drawn])
    assert rates.min() >= 1e-5 and rates.max() <= 1e-1
    # Each decade has its quarter.
    shares = np.histogram(np.log10(rates), [-5, -4, -3, -2, -1])[0] / 200
    assert (np.abs(shares - 0.25) < 0.1).all()
    listed = Sweep(CONFIG, points=[{"gamma": np.float32(0.5)}, {"sharing": "none", "num_envs": 8.0}])
    assert [p.changes for p in listed.points] == [{"gamma": 0.5}, {"sharing": "none", "num_envs": 8}]
    assert [len(program) for program in listed.programs()] == [1, 1]
    assert Sweep(CONFIG).points[0].changes == {}


def test_programs_are_split_where_they_are_too_large():
    zip_ = {"gamma": [0.9, 0.95, 0.99]}
    split = Sweep(CONFIG, zip=zip_, num_seeds=2, runs_per_program=5).programs()
    assert [[run.num_seeds for run in program] for program in split] == [[2, 2], [2]]
    assert len(Sweep(CONFIG, zip=zip_, num_seeds=2).programs()) == 1


STUDY = """
run_dir = "there"
[settings]
env = "matrix/climbing"
num_envs = 4
rollout_length = 8
total_env_steps = 256
hidden_sizes = [8]
layer_norm = false
epochs = 1
seed = 3
num_seeds = 2
[options]
eval_episodes = 4
checkpoint_seconds = 0
[grid]
algorithm = ["mappo", "ippo"]
[zip]
"actor_lr,critic_lr" = [1e-3, 1e-2]
"""


def test_a_file_says_the_same_as_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY)
    axes = ["--grid.sharing", "full", "none", "--zip=gamma=0.9,1"]
    study, rest = take_axes(*read_study(["study.toml", *axes, "--dry-run"]))
    assert study.zip == {"actor_lr,critic_lr": [1e-3, 1e-2], "gamma": [0.9, 1]}
    assert rest == ["--dry-run"]
    assert study.grid == {"algorithm": ["mappo", "ippo"], "sharing": ["full", "none"]}
    assert (study.config, str(study.options.run_dir)) == (CONFIG.replace(num_seeds=2), "there")
    assert main(["sweep", "study.toml", "--dry-run", "--num-seeds", "4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "program 1: algorithm=ippo, 8 runs" in said
    assert "2 programs, 16 runs, 8 side by side in each; 4,096 env steps" in said
    assert main(["sweep", "study.toml", "--print-commands"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"fp3o sweep study.toml --index {k}" for k in range(2)]
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]
    for text, wrong in (
        ("gird = 1", "study.toml='gird' is unknown: did you mean 'grid'"),
        ("[settings]\nalgoritm = 'fp3o'", "did you mean 'algorithm'"),
        ("[options]\neval_episode = 3", "did you mean 'eval_episodes'"),
        ("[grid", "cannot be read"),
        ("grid = ['sharing']", "must be a table of axes"),
        ("samples = '3'", "samples='3' must be a whole number"),
    ):
        (tmp_path / "study.toml").write_text(text)
        assert main(["sweep", "study.toml"]) == 2
        assert wrong in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--grid.sharing", "full"], "say where the sweep shall be"),
        (["--grid.sharing", "--run-dir", "x"], "--grid.sharing needs values"),
        (["--zip", "gamma", "--run-dir", "x"], "must be SETTING=VALUE,VALUE"),
        (["smax-3n", "--run-dir", "x"], "did you mean 'smax-3m'"),
        ([*FLAGS, "--run-dir", "x", "--index", "2"], "index=2 must be 0 to 1"),
    ],
)
def test_commands_that_cannot_be_used(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *args]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--over", "actor_lr", "--smooth", "3"], "--over draws final scores"),
        (["--by", "sharing"], "algorithm is 'mappo' and 'ippo' at sharing full: name it with --by"),
        (["--over", "actor_lr", "--metric", "foo"], "metric='foo' is unknown"),
        (["--over", "actor_lr", "--output", "x.eps"], "must end in .png, .pdf or .svg"),
    ],
)
def test_plots_that_cannot_be_drawn(args, said, first, capsys):
    assert main(["plot", str(first), *args]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
