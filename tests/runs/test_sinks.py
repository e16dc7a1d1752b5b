"""Metric sinks, read back from the files that they write."""

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fp3o_jax.config import Config, ConfigError
from fp3o_jax.runs import RunOptions
from fp3o_jax.runs.marl_eval import marl_eval
from fp3o_jax.runs.sinks import WandbOptions, guarded, make_sinks
from fp3o_jax.runs.sinks.base import over_seeds, scalars
from wandb_server import wandb_server

SECRET = "5ec7e7" * 7
CONFIG = Config(env="smax/3m", algorithm="happo", sharing="partial", seed=3, num_seeds=4, gamma=0.97)
SEEDS = [3, 4, 5, 6]
OFFLINE = WandbOptions(mode="offline", project="checks", tags=("a", "b"))


def rows(update, config=CONFIG):
    """One update's rows; no episode has ended in the first, and a metric is a value per agent."""
    return [
        {
            "seed": seed,
            "update": update,
            "env_steps": np.int32(32 * update),
            "episode_return": np.float32(np.nan if update == 1 else seed + update / 4),
            "agent_kl": np.array([0.5, 0.25 * seed, update], np.float32),
            "condition_held": True,
        }
        for seed in range(config.seed, config.seed + config.num_seeds)
    ]


def expected(seed, update):
    row = {"env_steps": 32 * update, "agent_kl/0": 0.5, "agent_kl/1": 0.25 * seed, "agent_kl/2": update}
    return row | {"condition_held": 1} | ({"episode_return": seed + update / 4} if update > 1 else {})


SUMMARY = {
    "episode_return": 10.0,
    "env_steps": 96,
    "train_seconds": 1.5,
    "seeds": [{"seed": seed, "episode_return": np.float64(2 * seed)} for seed in SEEDS],
}


def write(run_dir, updates=(1, 2, 3), run_id="run7", config=CONFIG, **options):
    """What the host loop does."""
    sinks = make_sinks(config, run_dir, run_id, **options)
    destinations = [sink.destination for sink in sinks]
    for sink in sinks:
        for update in updates:
            sink.log(rows(update, config))
        sink.summary(SUMMARY)
        sink.close(0)
    return destinations


@pytest.fixture(autouse=True)
def client(monkeypatch):
    """A W&B client that has a key and, before and after the test, no memory."""
    import wandb

    # First, since it takes the address of its service out of the environment, where it would be put back.
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    yield
    wandb.teardown()


def wandb_records(path):
    """The records of a ``.wandb`` file: LevelDB's log format, a protobuf in each record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, block, position, parts = path.read_bytes(), 32768, 7, []
    assert data[:4] == b":W&B"
    while position < len(data):
        if block - position % block < 7:  # too short for a header: padding
            position += block - position % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(b"".join(parts))
            parts = []


def value(item):
    """A key and the value of a history, config or summary item."""
    key = item.key or "/".join(item.nested_key)
    return key, json.loads(item.value_json)


def wandb_runs(run_dir, kind="offline-run"):
    """W&B's runs below a directory, in order: id -> the parts of their records."""
    import wandb

    wandb.teardown()  # the client's own process writes the files, and has now ended
    runs = {}
    for path in sorted(Path(run_dir).glob(f"wandb/{kind}-*/*.wandb")):
        records = list(wandb_records(path))
        (run,) = (r.run for r in records if r.HasField("run"))
        runs[run.run_id] = {
            "run": run,
            "config": dict(value(item) for item in run.config.update),
            "axes": {
                r.metric.name or r.metric.glob_name: r.metric.step_metric
                for r in records
                if r.HasField("metric")
            },
            "history": [dict(value(i) for i in r.history.item) for r in records if r.HasField("history")],
            "summary": dict(value(i) for r in records if r.HasField("summary") for i in r.summary.update),
            "exit_code": [r.exit.exit_code for r in records if r.HasField("exit")],
        }
    return dict(sorted(runs.items()))


def own(row):
    """A history row without W&B's columns."""
    return {name: number for name, number in row.items() if not name.startswith("_")}


def test_wandb_run_per_seed(tmp_path):
    (where,) = write(tmp_path, wandb=OFFLINE)
    assert where == f"`wandb sync {tmp_path}/wandb/offline-run-*`"
    runs = wandb_runs(tmp_path)
    assert list(runs) == [f"run7-seed{seed}" for seed in SEEDS]
    for seed, got in zip(SEEDS, runs.values(), strict=True):
        run = got["run"]
        assert (run.project, run.run_group) == ("checks", "smax-3m_happo_partial_run7")
        assert (run.display_name, list(run.tags)) == (f"smax-3m_happo_partial_seed{seed}", ["a", "b"])
        config = {name: setting for name, setting in got["config"].items() if name != "_wandb"}
        assert config == CONFIG.to_dict() | {"seed": seed}
        assert got["axes"] == {"env_steps": "", "*": "env_steps"}
        assert [own(row) for row in got["history"]] == [expected(seed, update) for update in (1, 2, 3)]
        assert [row["_step"] for row in got["history"]] == [1, 2, 3]
        assert got["summary"]["eval/episode_return"] == 2 * seed
        assert got["summary"]["train_seconds"] == 1.5
        assert got["exit_code"] == [0]


def test_wandb_aggregate(tmp_path):
    write(tmp_path, wandb=WandbOptions(mode="offline", layout="aggregate", group="g", name="n"))
    ((run_id, got),) = wandb_runs(tmp_path).items()
    assert (run_id, got["run"].run_group, got["run"].display_name) == ("run7", "g", "n")
    assert got["config"]["num_seeds"] == 4
    first, second, _ = (own(row) for row in got["history"])
    assert not any(name.startswith("episode_return") for name in first)
    # Of 3.5, 4.5, 5.5 and 6.5 the middle two are the interquartile range.
    statistics = {"mean": 5.0, "iqm": 5.0, "min": 3.5, "max": 6.5}
    assert {name: second[f"episode_return/{name}"] for name in statistics} == statistics
    assert second["env_steps"] == 64
    assert got["summary"]["eval/episode_return/max"] == 12.0


def test_seeds_under_an_agent_are_one_run(tmp_path, monkeypatch):
    """W&B gives the process one id: the second seed's run was refused, and W&B switched off."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    with pytest.warns(RuntimeWarning, match="a process is one run: the 4 seeds are logged as"):
        write(tmp_path, wandb=WandbOptions(mode="offline"))
    ((run_id, got),) = wandb_runs(tmp_path).items()
    assert run_id == "agents"
    assert own(got["history"][1])["episode_return/iqm"] == 5.0
    assert got["exit_code"] == [0]


def test_statistics_over_seeds():
    values = [0.0, 1.0, 2.0, 3.0, 100.0]
    got = over_seeds([{"x": x} for x in values] + [{"y": 1.0}])
    assert got == {"x/mean": 21.2, "x/iqm": 2.0, "x/min": 0.0, "x/max": 100.0} | {
        f"y/{name}": 1.0 for name in ("mean", "iqm", "min", "max")
    }


def test_scalars_keep_infinity_but_not_nan():
    row = {"update": 1, "loss": np.float32(np.inf), "kl": np.array([np.nan, 2.0])}
    assert scalars(row) == {"loss": np.inf, "kl/1": 2.0}


def test_wandb_resumes_the_same_runs_offline(tmp_path):
    write(tmp_path, updates=(1, 2, 3), wandb=OFFLINE)
    before = set(tmp_path.glob("wandb/*/*.wandb"))
    time.sleep(1.1)  # the client's directories are named by the second
    write(tmp_path, updates=(3, 4), wandb=OFFLINE)
    after = set(tmp_path.glob("wandb/*/*.wandb")) - before
    assert {path.name for path in before} == {path.name for path in after}
    assert len(after) == len(SEEDS)
    # What both hold has the same step and the same values.
    got = wandb_runs(tmp_path)["run7-seed3"]
    assert [row["_step"] for row in got["history"]] == [3, 4]


def steps_of(runs):
    return {name: [row["_step"] for row in run["history"]] for name, run in runs.items()}


def test_wandb_updates_that_are_behind_are_dropped(tmp_path, capfd):
    write(tmp_path, updates=(1, 2, 3, 2, 3, 4), wandb=OFFLINE)
    assert steps_of(wandb_runs(tmp_path)) == {f"run7-seed{seed}": [1, 2, 3, 4] for seed in SEEDS}
    assert "monotonically" not in capfd.readouterr().err


def test_wandb_resumes_the_same_runs_online(tmp_path, monkeypatch, capfd):
    """A server gets each update once, whatever the resumed process sends again."""
    online = WandbOptions(mode="online", entity="team", init_timeout=10.0)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        (where,) = write(tmp_path, updates=(1, 2, 3), wandb=online)
        assert where == f"{server.address}/team/fp3o-jax/groups/smax-3m_happo_partial_run7"
        longer = CONFIG.replace(total_env_steps=2_000_000)
        write(tmp_path, updates=(2, 3, 4, 5), config=longer, wandb=online)
    assert list(server.runs) == [f"run7-seed{seed}" for seed in SEEDS]
    for seed, got in zip(SEEDS, server.runs.values(), strict=True):
        assert [row["_step"] for row in got["history"]] == [1, 2, 3, 4, 5]
        assert [own(row) for row in got["history"]] == [expected(seed, update) for update in range(1, 6)]
        assert got["group"] == "smax-3m_happo_partial_run7"
        assert json.loads(got["config"])["total_env_steps"] == {"value": 2_000_000}
    assert "monotonically" not in capfd.readouterr().err
    assert not files_with_secrets(tmp_path)


def test_a_server_that_dies_delays_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fp3o_jax.runs.sinks.wandb.FINISH_TIMEOUT", 1.0)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        (sink,) = make_sinks(CONFIG, tmp_path, "run7", wandb=WandbOptions(mode="online"))
        sink.log(rows(1))
    start = time.monotonic()
    for update in (2, 3):
        sink.log(rows(update))
    assert time.monotonic() - start < 2
    sink.close(0)
    assert time.monotonic() - start < 5
    # What the server did not get is on disk.
    assert steps_of(wandb_runs(tmp_path, "run")) == {f"run7-seed{seed}": [1, 2, 3] for seed in SEEDS}


def test_many_seeds(tmp_path):
    config = CONFIG.replace(num_seeds=20)
    (sink,) = make_sinks(config, tmp_path, "run7", wandb=OFFLINE)
    sink.log(rows(2, config))
    sink.close(1)
    runs = wandb_runs(tmp_path)
    assert len(runs) == 20
    for seed in range(3, 23):
        got = runs[f"run7-seed{seed}"]
        assert [own(row) for row in got["history"]] == [expected(seed, 2)]
        assert got["exit_code"] == [1]


def test_an_unreachable_server_falls_back_to_offline(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        start = time.monotonic()
        with pytest.warns(RuntimeWarning) as warned:
            write(tmp_path, wandb=WandbOptions(mode="online", init_timeout=1.5))
        assert time.monotonic() - start < 15
    (warning,) = warned
    assert "logging offline" in str(warning.message)
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in str(warning.message)
    runs = wandb_runs(tmp_path)
    assert list(runs) == [f"run7-seed{seed}" for seed in SEEDS]
    for seed, got in zip(SEEDS, runs.values(), strict=True):
        assert [own(row) for row in got["history"]] == [expected(seed, update) for update in (1, 2, 3)]
    assert not files_with_secrets(tmp_path)


def test_a_missing_key_falls_back_to_offline(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.warns(RuntimeWarning, match="No API key.*logging offline") as warned:
        write(tmp_path, wandb=WandbOptions(mode="online", init_timeout=1.5))
    assert len(warned) == 1
    assert len(wandb_runs(tmp_path)) == 4


def files_with_secrets(path):
    return [p for p in Path(path).rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_no_environment_variable_reaches_the_run_directory(tmp_path, monkeypatch):
    """In a process of its own, with the secret in variables that are nobody's and on the command line."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_sinks as t;"
        "t.write(Path(sys.argv[2]), wandb=t.OFFLINE, tensorboard=True)"
    )
    environment = os.environ | {"WANDB_API_KEY": SECRET, "SOME_TOKEN": SECRET}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "helpers")
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), SECRET],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(wandb_runs(tmp_path)) == 4
    assert not files_with_secrets(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"wandb", "tensorboard"}
    # Nothing is recorded about the machine or the code either.
    assert not [p for p in tmp_path.rglob("*") if p.name in ("wandb-metadata.json", "requirements.txt")]


class Failing:
    destination = "somewhere"

    def __init__(self, where):
        self.where, self.calls = where, []

    def _call(self, name):
        self.calls.append(name)
        if name == self.where:
            raise OSError("disk full")

    def log(self, rows):
        self._call("log")

    def summary(self, summary):
        self._call("summary")

    def close(self, exit_code):
        self._call(f"close {exit_code}")


@pytest.mark.parametrize(
    ("where", "what", "calls"),
    [
        ("log", "logging", ["log", "close 1"]),
        ("summary", "writing the summary", ["log", "log", "summary", "close 1"]),
        ("close 0", "closing", ["log", "log", "summary", "close 0"]),
    ],
)
def test_a_sink_that_raises_is_switched_off(where, what, calls):
    inner = Failing(where)
    sink = guarded("Sink X", lambda: inner)
    assert sink.destination == "somewhere"
    with pytest.warns(RuntimeWarning) as warned:
        sink.log([])
        sink.log([])
        sink.summary({})
        sink.close(0)
        sink.close(0)
    (warning,) = warned
    message = f"Sink X is switched off, the run goes on: {what} failed with OSError: disk full"
    assert str(warning.message) == message
    assert warning.filename == __file__
    assert inner.calls == calls


def test_a_sink_that_cannot_be_opened_is_switched_off(tmp_path):
    (tmp_path / "tensorboard").write_text("a file is in the way")
    with pytest.warns(RuntimeWarning, match="TensorBoard is switched off") as warned:
        write(tmp_path, tensorboard=True)
    assert len(warned) == 1


def test_the_guard_lets_an_interrupt_through():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("Sink X", interrupted)


def tensorboard_events(path):
    """The events of one directory, oldest file first: records with their length in front."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(path.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, position = file.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            yield Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16


def tensorboard_scalars(path):
    """step -> metric -> value, as TensorBoard shows them: a session hides older steps from its start on."""
    steps = {}
    for event in tensorboard_events(path):
        if event.HasField("session_log"):
            steps = {step: got for step, got in steps.items() if step < event.step}
        for item in event.summary.value:
            steps.setdefault(event.step, {})[item.tag] = item.simple_value
    return steps


def test_tensorboard(tmp_path):
    (where,) = write(tmp_path, tensorboard=True)
    assert where == str(tmp_path / "tensorboard")
    assert {path.name for path in Path(where).iterdir()} == {f"seed_{seed}" for seed in SEEDS}
    for seed in SEEDS:
        want = {32 * update: expected(seed, update) for update in (1, 2, 3)}
        for row in want.values():
            del row["env_steps"]
        want[96]["eval/episode_return"] = 2 * seed
        assert tensorboard_scalars(Path(where) / f"seed_{seed}") == want


def test_tensorboard_resumed(tmp_path):
    write(tmp_path, updates=(1, 2, 3), tensorboard=True)
    time.sleep(1.1)  # event files are named by the second
    write(tmp_path, updates=(2, 4), tensorboard=True)
    assert list(tensorboard_scalars(tmp_path / "tensorboard" / "seed_3")) == [32, 64, 128]


def test_marl_eval_layout():
    """Against the layout written out by hand."""
    config = Config(env="smax/3m", algorithm="fp3o", seed=7, num_seeds=2)
    nan = float("nan")
    log = [
        # Before an episode has ended there is nothing to report, as NaN or read back as null.
        {"seed": 7, "update": 1, "env_steps": 10, "win_rate": None, "episode_return": None, "entropy": 1.0},
        {"seed": 8, "update": 1, "env_steps": 10, "win_rate": nan, "episode_return": nan, "entropy": 1.0},
        # One seed alone does not make a step: all runs have the same.
        {"seed": 7, "update": 2, "env_steps": 20, "win_rate": 0.25, "episode_return": 1.0, "entropy": 1.0},
        {"seed": 8, "update": 2, "env_steps": 20, "win_rate": nan, "episode_return": nan, "entropy": 1.0},
        {"seed": 7, "update": 3, "env_steps": 30, "win_rate": 0.5, "episode_return": 2.0, "entropy": 1.0},
        {"seed": 8, "update": 3, "env_steps": 30, "win_rate": 0.0, "episode_return": 3.0, "entropy": 1.0},
        {"seed": 7, "update": 4, "env_steps": 40, "win_rate": 9.0, "episode_return": 9.0, "entropy": 1.0},
        {"seed": 8, "update": 4, "env_steps": 40, "win_rate": 1.0, "episode_return": 5.0, "entropy": 1.0},
        # Sent again after a resumption: the last one counts.
        {"seed": 7, "update": 4, "env_steps": 40, "win_rate": 0.75, "episode_return": 4.0, "entropy": 1.0},
    ]
    for row in log:
        row["elapsed_time"] = row["update"] / 2
    summary = {
        "win_rate": 0.75,
        "seeds": [
            {"seed": 7, "win_rate": np.float64(0.5), "episode_return": np.float64(6.0), "only_here": 1.0},
            {"seed": 8, "win_rate": np.float64(1.0), "episode_return": np.float64(7.0), "only_here": 1.0},
        ],
    }
    text = """
    {"smax": {"3m": {"fp3o, sharing full": {
      "seed_7": {
        "step_0": {"step_count": 30, "elapsed_time": 1.5, "win_rate": [0.5], "episode_return": [2.0]},
        "step_1": {"step_count": 40, "elapsed_time": 2.0, "win_rate": [0.75], "episode_return": [4.0]},
        "absolute_metrics": {"win_rate": [0.5], "episode_return": [6.0]}},
      "seed_8": {
        "step_0": {"step_count": 30, "elapsed_time": 1.5, "win_rate": [0.0], "episode_return": [3.0]},
        "step_1": {"step_count": 40, "elapsed_time": 2.0, "win_rate": [1.0], "episode_return": [5.0]},
        "absolute_metrics": {"win_rate": [1.0], "episode_return": [7.0]}}}}}}
    """
    got = marl_eval(config, log, summary)
    assert json.loads(json.dumps(got, allow_nan=False)) == json.loads(text)
    # A name without a family, such as that of an environment object, is its own task.
    assert list(marl_eval(config.replace(env="mine"), log, summary)["mine"]) == ["mine"]
    options = config.replace(env="mpe/simple_spread", env_kwargs={"num_agents": 4})
    assert list(marl_eval(options, log, summary)["mpe"]) == ["simple_spread num_agents=4"]


def test_marl_eval_files_merge():
    """As many series as runs: 27 configurations of 4 seeds."""

    def merge(a, b):
        return (
            b if not isinstance(a, dict) else a | {k: merge(a[k], v) if k in a else v for k, v in b.items()}
        )

    merged = {}
    for algorithm, sharing, lr in itertools.product(
        ("fp3o", "mappo", "happo"), ("full", "partial", "none"), (1e-4, 5e-4, 1e-3)
    ):
        config = Config(algorithm=algorithm, sharing=sharing, actor_lr=lr, critic_lr=lr, num_seeds=4)
        rows = [{"seed": s, "update": 1, "env_steps": 10, "win_rate": 0.5} for s in range(4)]
        summary = {"seeds": [{"seed": s, "win_rate": 0.5} for s in range(4)]}
        merged = merge(merged, marl_eval(config, rows, summary))
    methods = merged["smax"]["3m"]
    assert sum(map(len, methods.values())) == 108
    assert {"fp3o, sharing full", "happo, sharing none, actor_lr=1e-3, critic_lr=1e-3"} <= set(methods)


def test_nothing_is_opened_unless_asked(tmp_path):
    assert make_sinks(CONFIG, tmp_path, "run7") == []
    assert make_sinks(CONFIG, tmp_path, "run7", wandb=WandbOptions()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "onlin"}, "wandb.mode='onlin' is unknown: did you mean 'online'"),
        ({"layout": "seeds"}, "wandb.layout='seeds' is unknown"),
        ({"init_timeout": 0.0}, r"wandb.init_timeout=0.0 must be a number of seconds above 0"),
    ],
)
def test_options_that_cannot_be_used(options, said):
    with pytest.raises(ConfigError, match=said):
        WandbOptions(**options)


VARIABLES = {
    "WANDB_MODE": "dryrun",
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_TAGS": "x,y",
    "WANDB_NAME": "their-name",
    "WANDB_INIT_TIMEOUT": "70",
}


def test_wandbs_own_variables_hold_where_a_setting_is_not_given(tmp_path, monkeypatch):
    for name, text in (VARIABLES | {"WANDB_NOTES": "their notes"}).items():
        monkeypatch.setenv(name, text)
    options = WandbOptions()
    assert options.init_timeout == 70.0
    # A run that is resumed goes where it began.
    assert RunOptions.from_dict(json.loads(json.dumps(RunOptions().to_dict())), tmp_path).wandb == options
    write(tmp_path, wandb=options)
    for seed, got in zip(SEEDS, wandb_runs(tmp_path).values(), strict=True):
        run = got["run"]
        assert (run.project, run.run_group, run.entity) == ("their-project", "their-group", "their-team")
        assert (list(run.tags), run.notes) == (["x", "y"], "their notes")
        assert run.display_name == f"their-name_seed{seed}"


def test_settings_hold_against_wandbs_own_variables(tmp_path, monkeypatch):
    for name, text in VARIABLES.items():
        monkeypatch.setenv(name, text)
    given = WandbOptions("offline", "ours", "our-team", "our-group", ("a",), "our-name")
    write(tmp_path, wandb=given)
    for seed, got in zip(SEEDS, wandb_runs(tmp_path).values(), strict=True):
        run = got["run"]
        assert (run.project, run.run_group, run.entity) == ("ours", "our-group", "our-team")
        assert (list(run.tags), run.display_name) == (["a"], f"our-name_seed{seed}")
    assert make_sinks(CONFIG, tmp_path, "run7", wandb=WandbOptions(mode="disabled")) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("WANDB_MODE", "onlin", "WANDB_MODE='onlin' is unknown: did you mean 'online'"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT='soon' cannot be used"),
    ],
)
def test_variables_that_cannot_be_used(name, text, said, monkeypatch):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=said):
        WandbOptions()


def test_importing_the_sinks_imports_no_client():
    code = "import sys, fp3o_jax.runs.sinks; assert not {'wandb', 'tensorboardX'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
