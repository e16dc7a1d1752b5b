"""``fp3o plot``: what it reads, how it groups runs, what it draws and says."""

import csv
import io
import itertools
import json
import re

import pytest
from PIL import Image
from rich.console import Console

from fake_runs import write_run
from finite import assert_allclose
from fp3o_jax.cli import main
from fp3o_jax.config import ConfigError
from fp3o_jax.runs.figures import plot_response, plot_runs
from fp3o_jax.runs.reading import choose_metric, curve, read_run

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
            magic = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[file.suffix]
            assert file.read_bytes().startswith(magic)
            assert file.stat().st_size > 5000
        return [str(file) for file in written], console.file.getvalue()

    return call


def lines_of(table):
    """The rows of tables as they were printed."""
    rows = [re.split("[│┃]", line)[1:-1] for line in table.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in row] for row in rows]


def files(stem):
    return [f"{stem}.png", f"{stem}.pdf"]


def test_one_run_is_drawn_into_its_directory(plot, tmp_path):
    run = write_run(tmp_path / "run", CURVES, final=FINAL)
    written, said = plot(run)
    assert written == files(run / "figures" / "win_rate")
    assert "smax/3m" in said
    # Two seeds: the IQM is the mean, and the bootstrap can draw either seed twice.
    assert said.count("0.500 [0.250, 0.750]") == 1
    assert "probability" not in said
    assert "note" not in said


def test_several_runs_are_compared(plot, tmp_path):
    better = write_run(tmp_path / "a", CURVES, final={0: 0.8, 1: 0.6, 2: 0.7})
    worse = write_run(tmp_path / "b", CURVES, final={0: 0.6, 1: 0.5}, algorithm="mappo", sharing="none")
    written, said = plot(better, worse)
    assert written == files("figures/win_rate") + files("figures/win_rate_final")
    table, improvement = said.split("probability of improvement")
    assert lines_of(table) == [
        ["algorithm", "sharing", "seeds", "IQM"],
        ["fp3o", "full", "3", "0.700 [0.600, 0.800]"],
        ["mappo", "none", "2", "0.550 [0.500, 0.600]"],
    ]
    # Of six pairs five are won and one is tied.
    pair = ["fp3o, sharing full", "mappo, sharing none", "1", f"{5.5 / 6:.3f} [0.667, 1.000]"]
    assert lines_of(improvement) == [["X", "Y", "envs", "P(X > Y)"], pair]


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
    assert [row[2] for row in lines_of(together)] == ["IQM", *["0.500 [0.500, 0.500]"] * 2]
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
    assert f"{unfinished}: not finished" in said
    assert f"{empty}: has logged nothing yet" in said
    assert "ippo" not in said
    with pytest.raises(ConfigError, match="wait for the first update"):
        plot(empty)


def test_one_seed_has_no_interval(plot, tmp_path):
    _, said = plot(write_run(tmp_path / "run", {3: [0.5, 0.6]}, final={3: 0.5}))
    assert "one seed, so there is no interval" in said
    assert lines_of(said)[1] == ["fp3o", "full", "1", "0.500"]


def test_seeds_of_different_lengths(plot, tmp_path):
    _, said = plot(write_run(tmp_path / "run", {0: [0.1, 0.2, 0.3], 1: [0.3, 0.4]}))
    assert "to env step 200 of 300: drawn while all seeds have a value" in said


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
        (["."], "run='.' is not a run"),
        (["runs/a", "--metric", "winrate"], "did you mean 'win_rate'?"),
        (["runs/a", "--smooth", "0"], "smooth=0 must be a whole number of at least 1"),
        (["runs/a", "--output", "a.eps"], "output='a.eps' must end in .png, .pdf or .svg"),
        (["runs/a", "--by", "algoritm"], "by='algoritm' is unknown: did you mean 'algorithm'?"),
        (["runs/a", "--within", "seed"], "within='seed' is unknown"),
        (["runs/a", "--by", "sharing", "--within", "sharing"], "within='sharing' is by='sharing' already"),
        (["runs/a", "--best-of", "actor_lr"], "best_of='actor_lr' is unknown"),
        (["runs/a", "--over", "actor_lr"], "none of the 1 runs has a final score yet"),
        (["runs/a", "--over", "actor_lr", "--smooth", "3"], "--over draws final scores"),
        (["runs/a", "--over", "actor_lr", "--baseline", "mappo"], "baseline='mappo' compares methods"),
        (["runs/a", "--baseline", "mappo"], "baseline='mappo' compares final scores, and no run has one"),
        (["runs/a", "--csv", "a.csv"], "--csv and --latex hold final scores, and no run has one yet"),
    ],
)
def test_errors_say_what_was_expected(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs" / "a", CURVES)
    assert main(["plot", *args]) == 2
    assert said in capsys.readouterr().err
    assert not {"summary.json", "a.csv"} & {path.name for path in run.iterdir()}


def test_command_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", CURVES, final=FINAL)
    assert main(["plot", str(run), "--output", str(tmp_path / "curves.png"), "--smooth", "2"]) == 0
    assert "written to" in capsys.readouterr().out
    assert (tmp_path / "curves.png").exists()
    assert not (tmp_path / "curves.pdf").exists()


def sweep(tmp_path, metric="win_rate", seeds=4, rates=(1e-3, 1e-4, 3e-4), final=True):
    """Runs of three algorithms, two sharings and some learning rates in one folder."""
    for i, (algorithm, sharing, lr) in enumerate(
        itertools.product(("fp3o", "mappo", "happo"), ("full", "none"), rates)
    ):
        values = {seed: [None, 0.1, 0.01 * i + 0.02 * seed] for seed in range(seeds)}
        config = {"algorithm": algorithm, "sharing": sharing, "actor_lr": lr, "critic_lr": lr}
        last = {seed: v[-1] for seed, v in values.items()} if final else None
        write_run(tmp_path / "runs" / f"r{i}", values, final=last, metric=metric, **config)
    return tmp_path / "runs"


def size(file):
    with Image.open(file) as image:
        return image.size


def test_many_methods_are_few_lines_and_a_figure_of_a_page(plot, tmp_path):
    runs = sweep(tmp_path)
    written, said = plot(runs)
    assert written == files(runs / "figures" / "win_rate") + files(runs / "figures" / "win_rate_final")
    assert "18 methods: drawn as by --by algorithm --within sharing,actor_lr" in said
    assert "18 methods are too many to compare all with all: --baseline METHOD" in said
    assert len(said.splitlines()) < 18 + 15
    rows = lines_of(said)
    assert rows[0] == ["sharing", "actor_lr", "algorithm", "seeds", "IQM"]
    assert [row[1] for row in rows[1::3]] == ["1e-4", "3e-4", "1e-3"] * 2
    for file in written[::2]:
        assert max(size(file)) < 1600
    _, said = plot(runs, baseline="mappo")
    compared = lines_of(said.split("probability of improvement")[1])
    # All pairs are lost. Of Y stands what is not the same.
    assert compared[1] == ["fp3o, sharing full, actor_lr=1e-4", "mappo", "1", "0.000 [0.000, 0.000]"]
    assert len(compared) == 1 + 12


def test_panels_that_nobody_could_read(plot, tmp_path):
    runs = sweep(tmp_path, seeds=1, rates=[round(1e-4 + 1e-5 * i, 6) for i in range(19)])
    with pytest.raises(ConfigError, match=r"within='actor_lr,sharing' makes 38 panels, and 36 can be read"):
        plot(runs, within="actor_lr,sharing")


def test_hundreds_of_methods_are_a_figure_of_a_page_too(plot, tmp_path):
    """Random draws: no setting makes few lines, so the best are in colour."""
    rates = [round(1e-4 + 1e-5 * i, 6) for i in range(25)]
    written, said = plot(sweep(tmp_path, seeds=1, rates=rates), by="algorithm,sharing,actor_lr")
    for file in written[::2]:
        assert max(size(file)) < 2400
    assert "the best 20 of 150; --csv FILE has all" in said
    assert len(said.splitlines()) < 60
    assert (
        "fp3o, sharing full, actor_lr=1e-4, smax/3m and 149 more: one seed, so there is no interval" in said
    )
    assert [row[2] for row in lines_of(said)][:3] == ["actor_lr", "3.4e-4", "3.3e-4"]


@pytest.fixture
def compared(plot, tmp_path):
    """A figure of some of a sweep, and the tables of it."""
    choice = {"by": "algorithm", "within": "sharing", "best_of": "actor_lr", "baseline": "mappo"}
    tables = {"csv": tmp_path / "t" / "table.csv", "latex": tmp_path / "t" / "table.tex"}
    console = Console(width=100, file=io.StringIO())
    written = plot_runs([sweep(tmp_path)], **choice, **tables, output=tmp_path / "x.svg", console=console)
    assert [file.name for file in written] == ["x.svg", "x_final.svg", "table.csv", "table.tex"]
    return written, console.file.getvalue()


def test_by_within_best_of_and_baseline(compared):
    (curves, final, table, _), said = compared
    # Text remains text.
    assert (
        ">sharing none</text>" in curves.read_text() and "best actor_lr of each</text>" in curves.read_text()
    )
    assert "probability of improvement" in final.read_text()
    assert "actor_lr is chosen on 2 seeds, and the others are shown" in said
    assert len(lines_of(said.split("probability")[1])) == 1 + 4
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["sharing"], row["actor_lr"]) for row in rows] == [
        (algorithm, sharing, "0.0003")
        for sharing in ("full", "none")
        for algorithm in ("fp3o", "mappo", "happo")
    ]
    # Seeds 2 and 3 of the third run.
    assert_allclose([float(rows[0][name]) for name in ("iqm", "mean", "median")], 0.07)
    assert_allclose([float(rows[0][f"iqm_{end}"]) for end in ("low", "high")], [0.06, 0.08])
    assert {row["seeds"] for row in rows} == {"2"} and {row["metric"] for row in rows} == {"win_rate"}
    of_full, of_none = (
        [f"mappo, sharing {sharing}", "", f"mappo, sharing {sharing}"] for sharing in ("full", "none")
    )
    assert [row["baseline"] for row in rows] == [*of_full, *of_none]
    assert [row["improvement"] for row in rows[:3]] == ["0.0", "", "1.0"]


def test_latex(compared):
    text = compared[0][3].read_text().splitlines()
    assert text[0] == r"% win rate, 95% intervals; \usepackage{booktabs}"
    assert text[1:5] == [
        r"\begin{tabular}{llllrrrrlr}",
        r"\toprule",
        "env & sharing & algorithm & actor\\_lr & seeds & IQM & mean & median & baseline & P(better) \\\\",
        r"\midrule",
    ]
    assert text[5].startswith("smax/3m & full & fp3o & 3e-4 & 2 & 0.070 [0.060, 0.080] & ")
    assert text[6].startswith(" & full & mappo & ")
    assert text[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_scores_against_a_setting(plot, tmp_path):
    runs = sweep(tmp_path)
    settings = {"over": "actor_lr", "within": "sharing", "console": Console(file=io.StringIO())}
    (file, table) = plot_response([runs], **settings, output=tmp_path / "r.svg", csv=tmp_path / "r.csv")
    drawn = file.read_text()
    assert all(f">{text}</text>" in drawn for text in ("1e-4", "3e-4", "1e-3", "fp3o", "sharing none"))
    with table.open() as rows:
        rows = list(csv.DictReader(rows))
    assert len(rows) == 18
    assert [row["actor_lr"] for row in rows[:3]] == ["0.0001", "0.0003", "0.001"]
    (file,) = plot_response(
        [runs],
        over="actor_lr",
        metric="episode_length",
        output=tmp_path / "r.png",
        console=settings["console"],
    )
    assert file.stat().st_size > 5000
    with pytest.raises(ConfigError, match=r"metric='entropy' is unknown: .*valid are episode_length, "):
        plot_response([runs], over="actor_lr", metric="entropy")


def test_seeds_that_ceased_to_be_finite(plot, tmp_path):
    """One writes no more rows after its second update, one none at all; their last good policies count."""
    run = write_run(
        tmp_path / "run", {0: [0.1] * 4, 1: [0.2] * 2, 2: [0.3] * 4}, final={0: 0.1, 1: 0.2, 2: 0.3}
    )
    summary = json.loads((run / "summary.json").read_text())
    summary["seeds"][1]["stopped_at_update"] = 3
    (run / "summary.json").write_text(json.dumps(summary))
    other = write_run(tmp_path / "other", {0: [None] * 3}, final={0: 0.5, 1: None}, algorithm="mappo")
    _, said = plot(run, other)
    assert "to env step 200 of 400 and 1 more: drawn while all seeds have a value" in said
    assert f"{run} (seeds 1): seeds ceased to be finite; their scores are those of their last good" in said
    assert f"{other}: win_rate is in 1 of 2 final evaluations" in said
    assert [row[1:] for row in lines_of(said)[1:3]] == [["3", "0.200 [0.100, 0.300]"], ["1", "0.500"]]
