"""``fp3o plot``: what it reads, how it groups runs, what it draws and says."""

import io
import json

import pytest
from rich.console import Console

from fake_runs import write_run
from finite import assert_allclose
from fp3o_jax.cli import main
from fp3o_jax.config import ConfigError
from fp3o_jax.runs.figures import plot_runs
from fp3o_jax.runs.reading import choose_metric, curve, name_methods, read_run

CURVES = {0: [None, 0.1, 0.2], 1: [None, 0.3, 0.4]}
FINAL = {0: 0.25, 1: 0.75}


@pytest.fixture
def plot(tmp_path, monkeypatch):
    """Plots runs from an empty directory; returns the names of the files and what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(*runs, **settings):
        console = Console(width=100, file=io.StringIO())
        written = plot_runs(runs, console=console, **settings)
        for file in written:
            magic = {".png": b"\x89PNG", ".pdf": b"%PDF"}[file.suffix]
            assert file.read_bytes().startswith(magic)
            assert file.stat().st_size > 5000
        return [str(file) for file in written], console.file.getvalue()

    return call


def files(stem):
    return [f"{stem}.png", f"{stem}.pdf"]


def test_one_run_is_drawn_into_its_directory(plot, tmp_path):
    run = write_run(tmp_path / "run", CURVES, final=FINAL)
    written, said = plot(run)
    assert written == files(run / "figures" / "win_rate")
    assert "smax/3m" in said
    # Two seeds: every aggregate is the mean, and the bootstrap can draw either seed twice.
    assert said.count("0.500") == 3
    assert said.count("[0.250, 0.750]") == 3
    assert "probability" not in said
    assert "note" not in said


def test_several_runs_are_compared(plot, tmp_path):
    better = write_run(tmp_path / "a", CURVES, final={0: 0.8, 1: 0.6, 2: 0.7})
    worse = write_run(tmp_path / "b", CURVES, final={0: 0.6, 1: 0.5}, algorithm="mappo", sharing="none")
    written, said = plot(better, worse)
    assert written == files("figures/win_rate") + files("figures/win_rate_final")
    table, improvement = said.split("probability of improvement")
    assert "fp3o, sharing full" in table
    assert "mappo, sharing none" in table
    assert "0.700" in table
    assert "[0.500, 0.600]" in table
    # Of six pairs five are won and one is tied.
    assert f"{5.5 / 6:.3f}" in improvement


def test_environments_are_tasks_of_a_method(plot, tmp_path):
    runs = [
        write_run(tmp_path / "a3", CURVES, final={0: 0.2, 1: 0.2}),
        write_run(tmp_path / "a8", CURVES, final={0: 0.8, 1: 0.8}, env="smax/8m", actor_lr=1e-3),
        write_run(tmp_path / "b3", CURVES, final={0: 0.1, 1: 0.1}, algorithm="happo"),
        write_run(tmp_path / "b8", CURVES, final={0: 0.9, 1: 0.9}, env="smax/8m", algorithm="happo"),
    ]
    written, said = plot(*runs, output=tmp_path / "out" / "compared.pdf")
    assert written == [str(tmp_path / "out" / name) for name in ("compared.pdf", "compared_final.pdf")]
    assert "actor_lr" not in said
    together, improvement = said.split("all 2 environments")[1].split("probability of improvement")
    # No spread within the tasks, so none in the stratified bootstrap.
    assert together.count("[0.500, 0.500]") == 6
    assert "[0.500, 0.500]" in improvement


def test_returns_are_not_averaged_over_environments(plot, tmp_path):
    runs = [
        write_run(tmp_path / "a", CURVES, final=FINAL, metric="other"),
        write_run(tmp_path / "b", CURVES, final=FINAL, metric="other", env="mpe/simple_spread"),
    ]
    written, said = plot(*runs)
    assert written[0] == "figures/episode_return.png"
    assert "mpe/simple_spread" in said
    assert "all 2 environments" not in said


def test_unfinished_runs_are_drawn_as_far_as_they_are(plot, tmp_path):
    finished = write_run(tmp_path / "a", CURVES, final=FINAL)
    unfinished = write_run(tmp_path / "b", CURVES, algorithm="ippo")
    with (unfinished / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"seed": 0, "update": 4, "env_')
    empty = write_run(tmp_path / "c", CURVES)
    (empty / "metrics.jsonl").write_text("")
    written, said = plot(finished, unfinished, empty)
    assert written == files("figures/win_rate")
    assert f"{unfinished} is not finished" in said
    assert f"{empty} has logged nothing yet" in said
    assert "ippo" not in said
    with pytest.raises(ConfigError, match="wait for the first update"):
        plot(empty)


def test_one_seed_has_no_interval(plot, tmp_path):
    _, said = plot(write_run(tmp_path / "run", {3: [0.5, 0.6]}, final={3: 0.5}))
    assert "one seed, so there is no interval" in said
    assert said.count("no interval") == 4


def test_seeds_of_different_lengths(plot, tmp_path):
    _, said = plot(write_run(tmp_path / "run", {0: [0.1, 0.2, 0.3], 1: [0.3, 0.4]}))
    assert "drawn to env step 200 of 300" in said


def test_a_metric_without_final_scores(plot, tmp_path):
    run = write_run(tmp_path / "run", CURVES, final=FINAL, metric="entropy")
    (run / "summary.json").write_text(json.dumps({"seeds": [{"seed": 0, "episode_return": 1.0}]}))
    written, said = plot(run, metric="entropy")
    assert written == files(run / "figures" / "entropy")
    assert "entropy is in 0 of 1 final evaluations" in said


def test_output_directory(plot, tmp_path):
    (tmp_path / "v1.2").mkdir()
    written, _ = plot(write_run(tmp_path / "run", CURVES), output=tmp_path / "v1.2")
    assert written == files(tmp_path / "v1.2" / "win_rate")


def test_curve_holds_what_was_logged(tmp_path):
    one = read_run(write_run(tmp_path / "a", {0: [None, 1, 2, 3], 1: [4, 5, None, 7]}))
    steps, values = curve([one], "win_rate")
    assert steps.tolist() == [200, 400]
    assert values.tolist() == [[1, 3], [5, 7]]
    two = read_run(write_run(tmp_path / "b", {2: [6, 7, 8]}))
    steps, values = curve([one, two], "win_rate")
    assert steps.tolist() == [200]
    assert values.tolist() == [[1], [5], [7]]


def test_smoothing_is_a_trailing_mean_of_each_seed(tmp_path):
    run = read_run(write_run(tmp_path / "a", {0: [None, 1, 2, 6], 1: [4, 5, None, 7]}))
    steps, values = curve([run], "win_rate", smooth=2)
    assert steps.tolist() == [200, 300, 400]
    assert_allclose(values, [[1, 1.5, 4], [4.5, 5, 7]])


def test_methods_are_told_apart_by_what_differs(tmp_path):
    def run(name, seed=0, **config):
        return read_run(write_run(tmp_path / name, {seed: [0.5]}, **config))

    same_method = [run("a"), run("b", env="smax/8m", actor_lr=1e-3), run("c", seed=1)]
    assert set(name_methods(same_method)) == {"fp3o, sharing full"}
    other = run("d", recurrent=True, env_kwargs={"num_agents": 4})
    assert set(name_methods([*same_method, other])) == {"fp3o, sharing full"}, "another environment"
    rates = [run("e", actor_lr=1e-3), run("f", algorithm="mappo", actor_lr=1e-2)]
    assert name_methods([same_method[0], *rates]) == [
        "fp3o, sharing full, actor_lr=0.0005",
        "fp3o, sharing full, actor_lr=0.001",
        "mappo, sharing full",
    ]
    again = run("g")
    assert name_methods([same_method[0], again]) == [
        f"fp3o, sharing full ({one.path})" for one in (same_method[0], again)
    ]


def test_default_metric(tmp_path):
    wins = read_run(write_run(tmp_path / "a", CURVES))
    returns = read_run(write_run(tmp_path / "b", CURVES, metric="other"))
    assert choose_metric([wins], None) == "win_rate"
    assert choose_metric([wins, returns], None) == "episode_return"
    with pytest.raises(
        ConfigError, match=r"metric='agent_kl' is unknown: .*valid are episode_return, win_rate"
    ):
        choose_metric([wins], "agent_kl")


def test_damaged_runs(tmp_path):
    run = write_run(tmp_path / "a", CURVES)
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"seed":\n{"seed": 0}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 7 is damaged"):
        read_run(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no 'env'"):
        read_run(run)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "at least one run directory"),
        (["nowhere"], "run='nowhere' is not a run: expected a directory with config.json and metrics.jsonl"),
        (["runs"], "did you mean runs/*?"),
        (["runs/a", "--metric", "winrate"], "did you mean 'win_rate'?"),
        (["runs/a", "--smooth", "0"], "smooth=0 must be at least 1"),
        (["runs/a", "--output", "a.svg"], "output='a.svg' must end in .png or .pdf"),
    ],
)
def test_errors_say_what_was_expected(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs" / "a", CURVES)
    assert main(["plot", *args]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "metrics.jsonl"]


def test_command_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", CURVES, final=FINAL)
    assert main(["plot", str(run), "--output", str(tmp_path / "curves.png"), "--smooth", "2"]) == 0
    assert "written to" in capsys.readouterr().out
    assert (tmp_path / "curves.png").exists()
    assert not (tmp_path / "curves.pdf").exists()
