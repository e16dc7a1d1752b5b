"""The table of results that fills itself: its cells, its store, the program that fills it, and the page."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import numpy as np
import pytest

import agents
import report
import run
import training
from cells import PROTOCOL, SMALL, read_blocks, read_protocol
from finite import assert_allclose
from fp3o_jax import Config, ConfigError, make_train
from fp3o_jax.runs.statistics import Estimate
from sensitivity import sensitivity_section
from store import Store
from tuning import Point, read_tuning, tuning_section

ROOT = Path(__file__).parent.parent
TINY = """
[evaluation]
seeds = 2
first_seed = 7
times = 2
episodes = 4
final_episodes = 8
points = 4

[settings.matrix]
total_env_steps = 512
num_envs = 4
rollout_length = 16
epochs = 1
hidden_sizes = [8]

[methods.mappo-2x]
algorithm = "mappo"
epochs_factor = 2

[[cells]]
envs = ["matrix/climbing"]
methods = ["fp3o", "mappo", "mappo-2x"]
sharings = ["full", "none"]
"""


@pytest.fixture
def protocol(tmp_path):
    path = tmp_path / "protocol.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def small(protocol):
    """The same at half the size, with the first one's methods."""
    text = TINY.split("[methods")[0].replace("= 512", "= 256") + "[[cells]]" + TINY.split("[[cells]]")[1]
    path = protocol.with_name("small.toml")
    path.write_text(f'small = true\nmethods = "{protocol.name}"\n{text}')
    return path


@pytest.fixture
def fill(protocol, tmp_path):
    """``main`` of the program, on the tiny protocol and a store of its own."""
    return lambda **options: run.main(
        run.Options(**{"protocol": protocol, "store": tmp_path / "results"} | options)
    )


def measured_of(cell, seed=0):
    """What training a cell gives, made up."""
    rng = np.random.default_rng(seed)
    seeds, points, times = cell.evaluation.seeds, cell.points, cell.evaluation.times
    steps = cell.updates_per_point * cell.config.steps_per_update
    every = points // times
    return {
        "env_steps": [steps * (i + 1) for i in range(points)],
        "curves": {
            "win_rate": np.tile(np.linspace(0, 1, points), (seeds, 1)),
            "joint_kl": rng.random((seeds, points)),
            "joint_kl_max": 1 + rng.random((seeds, points)),
        },
        "evaluations": {
            "env_steps": [steps * every * (i + 1) for i in range(times)],
            "win_rate": rng.random((seeds, times)),
        },
        "final": {"win_rate": rng.random(seeds)},
        "stopped": {},
        "seconds": {
            "init": 0.0,
            "train": 2.0,
            "evaluate": 1.0,
            "per_update": 0.1,
            "lower": 0.0,
            "compile": {"chunk": 0.0},
        },
    }


def result_of(cell, seed=0, **changes):
    """A finished cell, made up."""
    origin = run.origin(run.Options(commit="0123456789"))
    return run.record(cell, measured_of(cell, seed), origin | {"device": "1 x cpu"}) | changes


# --- cells ---


def test_the_protocol_can_be_read():
    full, small = read_protocol(PROTOCOL), read_protocol(SMALL)
    names = [cell.name for cell in full + small]
    assert len(set(names)) == len(names)
    assert [cell.small for cell in full + small] == [False] * len(full) + [True] * len(small)
    # A question has the same words in both, and the small one leaves out no method of it on an environment.
    asked, here = (
        {b.question: {(c.env, c.method, c.sharing) for c in b.cells} for b in blocks if b.question}
        for blocks in map(read_blocks, (PROTOCOL, SMALL))
    )
    for question, cells in here.items():
        envs = {env for env, *_ in cells}
        assert cells == {cell for cell in asked[question] if cell[0] in envs}, question
    # What is done first is a comparison under one sharing, and then under all, on the first map.
    first = [(cell.env, cell.sharing, cell.method) for cell in full[:9]]
    sharings = ("full", "partial", "none")
    assert first == [("smax/6h_vs_8z", s, m) for s in sharings for m in ("fp3o", "mappo", "happo")]
    for cell in full + small:
        assert cell.evaluation.seeds >= 10 and cell.points % cell.evaluation.times == 0
        asked = cell.settings["total_env_steps"]
        assert abs(cell.config.total_env_steps / asked - 1) < 0.06, cell.name


def test_settings_make_the_name(protocol):
    before = {cell.method: cell for cell in read_protocol(protocol, only="*full*")}
    assert before["mappo-2x"].config.epochs == 2 and before["mappo-2x"].config.algorithm == "mappo"
    assert before["fp3o"].config == Config(
        env="matrix/climbing",
        algorithm="fp3o",
        total_env_steps=512,
        num_envs=4,
        rollout_length=16,
        epochs=1,
        hidden_sizes=(8,),
        seed=7,
        num_seeds=2,
    )
    protocol.write_text(TINY.replace("hidden_sizes = [8]", "hidden_sizes = [16]"))
    after = {cell.method: cell for cell in read_protocol(protocol, only="*full*")}
    assert before["fp3o"].name != after["fp3o"].name


def test_a_small_protocol_takes_the_methods_of_another(protocol, small):
    full, small = read_protocol(protocol), read_protocol(small)
    assert [(c.method, c.sharing, c.config.epochs) for c in small] == [
        (c.method, c.sharing, c.config.epochs) for c in full
    ]
    assert small[0].config.total_env_steps == 256 and small[0].name.startswith(
        "matrix-climbing.fp3o.full.small."
    )


def test_what_the_protocol_cannot_mean_is_refused(protocol):
    protocol.write_text(TINY.replace("epochs = 1", "epoch = 1"))
    with pytest.raises(ConfigError, match="setting='epoch'"):
        read_protocol(protocol)
    protocol.write_text(TINY.replace("final_episodes = 8", "final_episodes = 6"))
    with pytest.raises(ConfigError, match=r"final_episodes=6 must be a multiple of episodes=4"):
        read_protocol(protocol)
    protocol.write_text(TINY.replace('envs = ["matrix/climbing"]', 'envs = ["mpe/simple_spread"]'))
    with pytest.raises(ConfigError, match="settings='mpe'"):
        read_protocol(protocol)


def test_results_come_from_the_code_that_was_there_at_the_start(protocol, tmp_path, monkeypatch):
    """Not from what stands on the disk when they are written."""
    store, cells = Store(tmp_path / "results"), read_protocol(protocol)
    filled = run.Fill(run.Options(commit="0123456789", beside=2), cells, store, run.Log())
    before = run.source()
    monkeypatch.setattr(run, "source", lambda: "changed since")
    filled._store(cells[0], measured_of(cells[0]))
    (result,) = store.results().values()
    assert (result["source"], result["commit"]) == (before, "0123456789")
    assert result["device"].endswith("shared by 2 processes") and result["written"][:2] == "20"


# --- store ---


def claim_all(folder, names, start, taken):
    store = Store(folder)
    start.wait()
    taken.put((os.getpid(), [name for name in names if store.claim(name)]))
    time.sleep(30)  # holds what it has until it is ended


def test_processes_never_take_the_same_cell(tmp_path):
    """Nor one whose former owner was killed: each cell is one process's, stale locks included."""
    names = [f"cell{i}" for i in range(40)]
    store = Store(tmp_path)
    context = multiprocessing.get_context("fork")
    dead = context.Process(target=lambda: [store.claim(name) for name in names[:20]])
    dead.start()
    dead.join()
    assert not any(store.busy(name) for name in names)
    start, taken = context.Event(), context.Queue()
    workers = [context.Process(target=claim_all, args=(tmp_path, names, start, taken)) for _ in range(4)]
    try:
        for worker in workers:
            worker.start()
        start.set()
        claims = dict(taken.get(timeout=60) for _ in workers)
        assert sorted(name for mine in claims.values() for name in mine) == sorted(names)
        assert all(store.busy(name) and store.claim(name) is None for name in names)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    assert all(store.claim(name) for name in names)


def test_locks_of_other_machines_go_stale_with_time(tmp_path):
    store = Store(tmp_path)
    lock = tmp_path / "cell.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "time": 0}))
    assert store.busy("cell") and store.claim("cell") is None
    os.utime(lock, (time.time() - 7200,) * 2)
    claim = store.claim("cell")
    assert claim is not None and json.loads(lock.read_text())["pid"] == os.getpid()
    claim.release()
    assert not lock.exists() and not store.busy("cell")


def test_a_result_is_written_once_and_whole(tmp_path):
    store = Store(tmp_path)
    assert store.write("cell", {"name": "cell", "curves": {"a": [[1.0, None]]}, "seconds": 2})
    assert not store.write("cell", {"name": "cell", "seconds": 3})
    assert store.results() == {"cell": {"name": "cell", "curves": {"a": [[1.0, None]]}, "seconds": 2}}
    assert store.claim("cell") is None
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    bundle = tmp_path / "bundle.jsonl"
    bundle.write_text('{"name": "cell", "seconds": 9}\n{"name": "new", "seconds": 1}\n{"name": "cut", "sec')
    assert store.merge(bundle) == ["new"]
    assert store.results()["cell"]["seconds"] == 2 and set(store.results()) == {"cell", "new"}


# --- filling ---


@pytest.fixture
def pretend(monkeypatch):
    return pretended(monkeypatch)


def pretended(monkeypatch):
    """Cells that cost nothing but the seconds they are told to take; returns the names of those trained."""
    trained = []
    seconds = {}

    def prepare(cell, compile_):
        done = Future()
        done.set_result(None)
        return training.Prepared(cell, None, {"chunk": done}, 0.0)

    def train(prepared, progress, until=None):
        cell = prepared.cell
        trained.append((cell.method, cell.sharing))
        one = seconds.get((cell.method, cell.sharing), 0.0) / cell.points
        for i in range(1, cell.points + 1):
            progress(i, one * i, one * (cell.points - i))
        if (cell.method, cell.sharing) == ("happo", "none"):
            raise RuntimeError("out of memory")
        made = result_of(cell)
        measured = {key: made[key] for key in ("env_steps", "curves", "evaluations", "final", "stopped")}
        return measured | {"seconds": made["seconds"] | {"compile": {"chunk": 0.0}}}

    monkeypatch.setattr(run, "prepare", prepare)
    monkeypatch.setattr(run, "train", train)
    return trained, seconds


ORDER = [(method, sharing) for sharing in ("full", "none") for method in ("fp3o", "mappo", "mappo-2x")]


def test_the_most_important_missing_cells_come_first(fill, pretend, tmp_path, capsys):
    trained, _ = pretend
    bundle = tmp_path / "cells.jsonl"
    assert fill(only="*none*", bundle=bundle) == 0
    assert trained == ORDER[3:]
    assert fill() == 0 and trained == ORDER[3:] + ORDER[:3]
    assert fill() == 0 and len(trained) == 6, "a cell was run twice"
    assert "0 still missing" in capsys.readouterr().out
    # What came over a line at a time is the same as what was written here.
    assert fill(store=tmp_path / "there", merge=bundle) == 0
    here, there = Store(tmp_path / "results").results(), Store(tmp_path / "there").results()
    assert len(there) == 3 and there.items() <= here.items()
    fill(list=True)
    assert capsys.readouterr().out.count("finished") == 6


def test_a_cell_that_does_not_fit_is_not_begun_or_given_up(fill, pretend, protocol, tmp_path, capsys):
    trained, seconds = pretend
    seconds.update(dict.fromkeys(ORDER[:3], 3600.0))
    # Nothing is known at first: the first is begun and given up, and tells about those like it.
    assert fill(minutes=1.0) == 0
    assert trained == ORDER[:1]
    assert "given up: " in capsys.readouterr().out
    store = Store(tmp_path / "results")
    assert store.results() == {} and not any(map(store.busy, (c.name for c in read_protocol(protocol))))
    # Known from finished ones: not even begun.
    trained.clear()
    for cell in read_protocol(protocol, only="*mappo.none*"):
        device = run.about()["device"]
        made = result_of(cell, device=device, seconds={"init": 0.0, "train": 3600.0, "evaluate": 0.0})
        store.write(cell.name, made)
    assert fill(minutes=1.0) == 0 and trained == []
    assert "0 cells finished, 0 failed, 5 still missing" in capsys.readouterr().out


def test_a_cell_that_fails_does_not_end_the_others(fill, pretend, protocol, capsys):
    trained, _ = pretend
    protocol.write_text(TINY.replace('"mappo-2x"]', '"happo"]'))
    assert fill() == 1 and len(trained) == 6
    assert "FAILED: RuntimeError: out of memory" in capsys.readouterr().out
    assert fill() == 1 and len(trained) == 7, "it is missing still"


def test_a_signal_gives_the_cell_up(fill, pretend, monkeypatch, tmp_path):
    trained, _ = pretend
    cells, begun = run.train, threading.Event()

    def slow(prepared, progress, until=None):
        begun.set()
        for _ in range(1000):
            time.sleep(0.02)
            progress(1, 0.0, 0.0)
        return cells(prepared, progress, until)

    monkeypatch.setattr(run, "train", slow)
    threading.Thread(target=lambda: begun.wait(30) and os.kill(os.getpid(), signal.SIGTERM)).start()
    assert fill() == 128 + signal.SIGTERM
    assert Store(tmp_path / "results").results() == {} and trained == []


KILLED = """
import os, run, test_paper
from pathlib import Path

with test_paper.pytest.MonkeyPatch.context() as patch:
    trained, _ = test_paper.pretended(patch)
    true = run.train
    run.train = lambda *args: os.kill(os.getpid(), 9) if len(trained) == 2 else true(*args)
    run.main(run.Options(protocol=Path("protocol.toml"), store=Path("results")))
"""


def test_a_killed_process_leaves_whole_cells_and_the_next_goes_on(fill, pretend, protocol, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = Store(tmp_path / "results")
    assert [(r["method"], r["sharing"]) for r in store.results().values()] == ORDER[:2]
    # It held the third and the fourth when it was killed.
    assert len([path for path in store.folder.glob("*.lock") if path.name != "all.lock"]) >= 1
    assert fill() == 0 and pretend[0] == ORDER[2:]


def test_a_cell_is_plain_training(fill, protocol, tmp_path):
    """The curves are means of what training logs, point by point; the only cell that is really run."""
    assert fill(only="*fp3o.full*") == 0
    (result,) = Store(tmp_path / "results").results().values()
    (cell,) = read_protocol(protocol, only="*fp3o.full*")
    trainer = make_train(cell.config)
    state, logged = trainer.init(jax.random.key(8)), []
    update = jax.jit(trainer.update)
    for _ in range(cell.config.num_updates):
        state, metrics = update(state)
        logged.append(metrics)
    for name in ("episode_return", "joint_kl", "entropy", "condition_held"):
        expected = np.array([metrics[name] for metrics in logged]).reshape(4, 2).mean(1)
        assert np.isfinite(expected).all()
        curve = result["curves"][name][1]
        assert_allclose(curve, expected, rtol=2e-4, atol=1e-7, err_msg=name)
    plain = np.array([metrics["condition_sums"][1] for metrics in logged]).reshape(4, 2).mean(1)
    assert_allclose(result["curves"]["condition_plain"][1], plain, rtol=2e-3, atol=1e-5)
    assert result["env_steps"] == [128, 256, 384, 512]
    assert result["evaluations"]["env_steps"] == [256, 512]
    assert np.isfinite(result["evaluations"]["episode_return"]).all()
    assert np.shape(result["evaluations"]["episode_return"]) == (2, 2)
    assert (
        np.isfinite(result["final"]["episode_return"]).all() and len(result["final"]["episode_return"]) == 2
    )
    assert result["stopped"] == {} and result["settings"] == cell.settings


def test_teams_of_any_size(protocol, small, tmp_path):
    """A cell of each size is really run, and the page tells what grew."""
    teams = protocol.with_name("teams.toml")
    teams.write_text(
        TINY.split("[[cells]]")[0]
        + """
[[cells]]
question = "What do many agents do?"
envs = ["matrix/xor"]
teams = [{ num_agents = 2 }, { num_agents = 4 }]
methods = ["fp3o"]
sharings = ["none"]
settings = { total_env_steps = 256 }
"""
    )
    options = run.Options(protocol=teams, store=tmp_path / "results", alone=True)
    assert run.main(options) == 0
    cells = read_protocol(teams)
    assert [cell.name[:13] for cell in cells] == ["matrix-xor-2.", "matrix-xor-4."]
    results = Store(tmp_path / "results").results()
    few, many = (np.array(results[cell.name]["curves"]["log_weight_std"]) for cell in cells)
    assert np.isfinite(few).all() and (few > 0).all() and many.mean() > few.mean()
    page = tmp_path / "results.md"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    report.main(report.Options(tmp_path / "results", protocol, small, teams, page))
    said = page.read_text().split("### What do many agents do?")[1]
    stds = " to ".join(agents.number(float(curve.mean())) for curve in (few, many))
    assert f"sharing none, from 2 to 4 agents the std of fp3o's log W went from {stds}" in said
    assert "| matrix/xor, n = 4 | none | fp3o | 4 |" in said and "other settings now" not in page.read_text()
    assert (tmp_path / "figures" / "results-agents.png").stat().st_size > 5000


# --- the page ---


def test_the_page(protocol, small, tmp_path):
    store = Store(tmp_path / "results")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    options = report.Options(store.folder, protocol, small, page=page)
    report.main(options)
    assert "0 of 12 cells are finished." in page.read_text()

    fp3o, mappo, twice = read_protocol(protocol, only="*full*")
    always = {"final": {"win_rate": [1.0, 1.0]}, "stopped": {"8": 64}}
    store.write(fp3o.name, result_of(fp3o) | always)
    store.write(mappo.name, result_of(mappo, 1, source="other", commit="fedcba9876"))
    store.write(twice.name.replace("full", "gone"), result_of(twice))
    report.main(options)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "2 of 12 cells are finished." in text
    lines = text.split("## Questions")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    of = {tuple(row[:2]): row for row in rows if row[0] in ("full", "none")}
    assert of["full", "mappo-2x"][2] == "missing" and of["none", "fp3o"][2] == "missing"
    assert "1.000 [1.000, 1.000]" in of["full", "fp3o"] and "2, 1 ceased to be finite" in of["full", "fp3o"]
    assert of["full", "fp3o"][-1] == "0123456" and of["full", "mappo"][-1] == "fedcba9" + report.OTHER
    assert "gone" in text.split("other settings now")[1].splitlines()[0]
    comparison = next(row for row in rows if row[:3] == ["full", "mappo", "1"])
    assert comparison[3:5] == ["1.000 [1.000, 1.000]", "better"]
    figure = page.parent / "figures" / "results-matrix-climbing.png"
    assert 5000 < figure.stat().st_size < 200_000 and f"figures/{figure.name}" in text

    # Small cells stand apart, and their times are not told.
    one = read_protocol(small)[0]
    store.write(one.name, result_of(one))
    report.main(options)
    full, apart = page.read_text().split("### matrix/climbing, small")
    assert (
        "ms an update" in full and "score after" in full and full.split("### matrix/climbing")[1].count("†")
    )
    assert "ms an update" not in apart and "score after" not in apart and "| full | fp3o | 2 |" in apart
    assert "256 env steps a seed (4 updates of 4 x 16)" in apart
    signs = page.read_text().split("### How often does training leave")[1]
    largest = max(np.median(result["curves"]["joint_kl"]) for result in store.results().values())
    assert f"by a median joint KL of {largest:.3f} in an update" in signs and "results-signs.png" in signs
    assert (page.parent / "figures" / "results-signs.png").stat().st_size > 5000


def test_questions_are_answered_by_what_is_finished(protocol, small, tmp_path):
    """In a section of its own; its cells stand in no other table unless a block of those names them too."""
    text = (
        protocol.read_text()
        + """
[methods.fp3o-off]
algorithm = "fp3o"
condition = "off"

[[cells]]
question = "Does the condition help?"
envs = ["matrix/climbing"]
methods = ["fp3o", "fp3o-off"]
sharings = ["full", "none"]
"""
    )
    protocol.write_text(text)
    cells = {(cell.method, cell.sharing): cell for cell in read_protocol(protocol)}
    assert len(cells) == 8  # fp3o is in both blocks, and once here
    store, page = Store(tmp_path / "results"), tmp_path / "results.md"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    options = report.Options(store.folder, protocol, small, page=page)
    report.main(options)
    asked = page.read_text().split("### Does the condition help?")[1]
    assert asked.split("\n")[2] == "Not measured yet." and "fp3o-off" not in page.read_text()
    higher = {"final": {"win_rate": [1.0, 1.0]}}
    store.write(cells["fp3o", "full"].name, result_of(cells["fp3o", "full"]))
    store.write(cells["fp3o-off", "full"].name, result_of(cells["fp3o-off", "full"]) | higher)
    report.main(options)
    tables, asked = page.read_text().split("### Does the condition help?")
    said = asked.split("\n")[2]
    assert said.startswith("By the final score, of 1 comparison with `fp3o`, **better**: fp3o-off")
    assert "By the mean of all evaluations, of 1 comparison with `fp3o`, **none is told apart**" in said
    assert said.endswith("2 cells are missing.") and "fp3o-off" not in tables
    assert (tmp_path / "figures" / "results-question-1.png").stat().st_size > 5000
    (line,) = [line for line in asked.splitlines() if line.startswith("| full | fp3o-off |")]
    assert "0 of 2 |" in line


def test_sensitivity_is_told_from_a_sweep(tmp_path):
    """Of made-up scores: FP3O loses 4 by its learning rate and nothing else, MAPPO 1 by its clip range."""
    header = "env,algorithm,sharing,actor_lr,clip_eps,gae_lambda,seed,greedy_episode_return,status"
    lines = [header]
    for algorithm, worst in (("fp3o", {"5e-3": 4.0}), ("mappo", {"0.4": 1.0})):
        for point in ("2e-3,0.2,0.95", "5e-3,0.2,0.95", "2e-3,0.4,0.95", "2e-3,0.2,1.0"):
            lost = sum(worst.get(word, 0.0) for word in point.split(","))
            lines += [f"mpe/x,{algorithm},full,{point},{seed},{-10 - lost + s},finished" for seed, s in SEEDS]
    lines.append("mpe/x,fp3o,full,5e-3,0.2,0.95,9,1000.0,stopped")  # does not count
    file, figure = tmp_path / "sensitivity.csv", tmp_path / "figures" / "x.png"
    assert sensitivity_section(file, figure)[2] == "Not measured yet."
    file.write_text("\n".join(lines))
    section = "\n".join(sensitivity_section(file, figure))
    first = "Between its best and its worst"
    assert (
        f"{first} learning rate mappo full loses least (0.0 of return) and fp3o full most (4.0)." in section
    )
    assert f"{first} clip range fp3o full loses least (0.0 of return) and mappo full most (1.0)." in section
    (row,) = [line for line in section.splitlines() if line.startswith("| full | fp3o |")]
    cells = [cell.strip() for cell in row.split("|")[3:-1]]
    assert cells[:2] == ["0.002", "4.0"] and cells[3] == cells[5] == "0.0"
    assert cells[6] == "-10.0 [-10.5, -9.500]"
    assert figure.stat().st_size > 5000


def test_tuning_chooses_for_all_methods_together(tmp_path):
    """Of made-up scores: both are nearly as good at (3, 1e-3) as at their own best."""
    scores = {
        "fp3o": {(3, 1e-3): 9.0, (3, 4e-3): 10.0, (8, 1e-3): 4.0, (8, 4e-3): 0.0},
        "mappo": {(3, 1e-3): 8.0, (3, 4e-3): 2.0, (8, 1e-3): 9.0, (8, 4e-3): 1.0},
        "happo": {(3, 1e-3): 0.0, (3, 4e-3): 0.0, (8, 1e-3): 0.0, (8, 4e-3): 9999.0},
    }
    lines = ["env,algorithm,sharing,epochs,actor_lr,critic_lr,seed,greedy_episode_return,env_steps,status"]
    for method, points in scores.items():
        for (epochs, lr), score in points.items():
            for seed, more in ((0, -0.5), (1, 0.5)):
                # A method of which a run is missing does not count.
                status = "training" if (method, epochs, seed) == ("happo", 3, 1) else "finished"
                lines.append(f"smax/x,{method},none,{epochs},{lr},{lr},{seed},{score + more},640,{status}")
    assert tuning_section(tmp_path)[-2].startswith("Not measured yet: `fp3o sweep")
    file = tmp_path / "tuning_smax.csv"
    file.write_text("\n".join(lines))
    tuning = read_tuning(file)
    assert tuning.chosen == Point(3, 1e-3)
    assert_allclose(tuning.regret, [[0.1, 0.0, 0.6, 1.0], [0.1, 0.7, 0.0, 0.8]], atol=1e-12)
    section = "\n".join(tuning_section(tmp_path))
    assert "640 env steps a run, the choice is **3 epochs at 0.001**, which the preset `smax`" in section
    assert "the best point of 0 of 2 methods, and lacks 10% of the range of scores on average" in section
    assert "learning rate of 2 of them is an end of the grid." in section
    assert "Methods that are not finished do not count: 1." in section
    assert "| none | fp3o | 9.000 | **10.0** | 4.000 | 0.000 |" in section
    assert "| none | happo | - | - | 0.000 | **9999.0** |" in section


#: Seeds and what each adds to a score.
SEEDS = ((0, -0.5), (1, 0.0), (2, 0.5))


def test_steps_to_a_win_rate_say_never(protocol):
    cell = read_protocol(protocol)[0]
    made = result_of(cell)
    made["curves"]["win_rate"] = [[0.0, 0.6, 0.7, 1.0], [None, 0.1, 0.2, 0.3]]
    measured = report.Measured(cell, made)
    assert list(measured.steps_to(0.5)) == [256, 1024]
    assert report.steps_text(measured, 0.5).endswith("1 of 2 seeds never")
    assert report.steps_text(measured, 2.0).startswith("never [never, never]")


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.6, 0.9, "better"), (0.1, 0.4, "worse"), (0.4, 0.9, "not told apart")]
)
def test_differences_are_real_only_where_the_interval_says_so(low, high, verdict):
    assert report.judged(Estimate((low + high) / 2, low, high))[1] == verdict


def test_the_page_has_its_markers():
    text = report.PAGE.read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1
