"""What the README shows works."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from fake_runs import write_run
from finite import assert_finite
from fp3o_jax.cli import main
from slurm import stand_in

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
SMALL = {
    "num_envs": 4,
    "rollout_length": 8,
    "total_env_steps": 64,
    "hidden_sizes": (8,),
    "num_minibatches": 1,
}


#: The same, as flags.
FLAGS = [
    part
    for name, value in SMALL.items()
    for part in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value]))
]
SWEPT = ["--env", "matrix/xor", "--eval-episodes", "4", *FLAGS]


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_python_block(capsys):
    (code,) = blocks("python")
    small = ", ".join(f"{name}={value}" for name, value in SMALL.items())
    assert 'env="smax/3m"' in code
    code = code.replace('env="smax/3m"', f'env="matrix/xor", {small}')
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    state, metrics = names["out"]["state"], names["out"]["metrics"]
    assert_finite((state.params, metrics))
    assert metrics["episode_return"].shape[-1] == names["train"].config.num_updates


IMPORTS = sorted(
    {
        statement
        for page in (README, *(page.read_text() for page in DOCS))
        for statement in re.findall(
            r"^((?:from \S+ )?import [\w., ]+)$", "".join(blocks("python", page)), re.M
        )
        + re.findall(r"`((?:from \S+ )?import [\w., ]+)`", page)
    }
)


@pytest.mark.parametrize("statement", IMPORTS)
def test_imports(statement):
    """In a fresh install: a dependency that is missing would be found here."""
    exec(statement, {})


def test_all_imports_are_found():
    assert "from jaxmarl.wrappers.baselines import load_params" in IMPORTS
    assert sum("fp3o_jax" in statement for statement in IMPORTS) >= 4


#: Each once.
COMMANDS = [
    *dict.fromkeys(
        line.split("#")[0].strip()
        for text in (README, *(page.read_text() for page in DOCS))
        for block in blocks("bash", text)
        for line in block.splitlines()
        if line.startswith("fp3o ")
    )
]


def test_all_commands_are_found():
    verbs = {"train", "sweep", "status", "evaluate", "crossplay", "render", "export", "plot", "check-env"}
    assert {command.split()[1] for command in COMMANDS} >= verbs
    assert len(COMMANDS) >= 30


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small sweep, trained."""
    path = tmp_path_factory.mktemp("swept") / "sweep"
    axes = ["--grid.sharing", "full", "none", "--zip", "actor_lr,critic_lr=1e-3,1e-2"]
    assert main(["sweep", *SWEPT, *axes, "--run-dir", str(path)]) == 0
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path, monkeypatch, request):
    """Each as it stands, but short and on a small environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lights.py").write_text(blocks("python", (ROOT / "docs" / "environments.md").read_text())[0])
    (tmp_path / "my_team.py").write_text(
        "\n".join(blocks("python", (ROOT / "docs" / "extending.md").read_text()))
    )
    args = shlex.split(command)[1:]
    if args[0] == "status" or args[:2] == ["plot", "sweeps/first"]:
        shutil.copytree(request.getfixturevalue("swept"), tmp_path / args[1])
        assert main(args) == 0
        return
    if args[0] == "plot":
        for i, run in enumerate(args[1:]):
            write_run(tmp_path / run, {0: [0.1, 0.2], 1: [0.2, 0.3]}, final={0: 0.2, 1: 0.3}, recurrent=i > 0)
        assert main(args) == 0
        assert (tmp_path / "figures" / "win_rate_final.pdf").exists()
        return
    if args[0] == "crossplay" or {"--team", "--init-from"} & {*args}:
        # Of three agents, as the page has them.
        spread = ["--env", "mpe/simple_spread", "--sharing", "none", "--eval-episodes", "4", *FLAGS]
        new = args[args.index("--run-dir") + 1] if "--run-dir" in args else None
        for run in sorted({*re.findall(r"\bruns/\w+", command)} - {new}):
            assert main(["train", *spread, "--num-seeds", "2", "--run-dir", run]) == 0
        assert main([*args, *(["--num-seeds", "2", *spread] if new else ["--episodes", "4"])]) == 0
        assert len([*tmp_path.rglob("crossplay.csv")]) == (args[0] == "crossplay")
        return
    if args[0] in ("evaluate", "render", "export") or "--resume" in args:
        run, env = (
            args[1 + ("--resume" in args)],
            "mpe/simple_spread" if args[0] == "render" else "matrix/xor",
        )
        assert main(["train", "--env", env, "--run-dir", run, "--eval-episodes", "4", *FLAGS]) == 0
        assert main(args) == 0
        if args[0] == "render":
            assert [path.suffix for path in (tmp_path / run / "figures").iterdir()] == [".gif"]
        return
    if args[0] == "sweep":
        (study,) = blocks("toml", (ROOT / "docs" / "sweeps.md").read_text())
        (tmp_path / "study.toml").write_text(study)
        if "--on" in args:
            stand_in(tmp_path, monkeypatch)
            assert main(args) == 0
            assert "--array=0-1%2" in (tmp_path / "sbatch.sh").read_text()
            return
        args += [*([] if {"--index", "--dry-run"} & {*args} else ["--index", "0"])]
        args += ["--env", "matrix/xor", "--num-seeds", "1", "--eval-episodes", "4", *FLAGS]
        assert main(args) == 0
        assert (tmp_path / "sweeps" / "first" / "results.csv").exists() == ("--dry-run" not in args)
        return
    if args[0] == "train" and "--help" not in args:
        # There is no server here.
        args = ["offline" if arg == "online" else arg for arg in args]
        args += ["--env", "matrix/xor", "--num-seeds", "1", "--eval-episodes", "4", *FLAGS]
    try:
        assert main(args) == 0
    except SystemExit as stop:
        assert stop.code == 0
    assert (tmp_path / "runs").exists() == ("--eval-episodes" in args)


def test_figure_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"`\.venv/bin/fp3o (plot[^`]*)`", README)
    args = shlex.split(command)
    write_run(tmp_path / args[1], {0: [0.1, 0.2], 1: [0.2, 0.3]}, final={0: 0.2, 1: 0.3})
    assert main(args) == 0
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["smax_3m.png"]


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *DOCS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, part = target.partition("#")
        other = page.parent / name if name else page
        assert target.startswith("https://") or other.exists(), target
        if part and not target.startswith("https://"):
            headings = re.findall(r"^#+ (.*)", other.read_text(), re.MULTILINE)
            assert part in [heading.lower().replace(" ", "-") for heading in headings], target


def test_tests_that_fidelity_names_exist():
    page = (ROOT / "docs" / "fidelity.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"(test_\w+)", page))
    assert len(names) > 20
    for name in names:
        assert f"def {name}(" in sources or any((ROOT / "tests").rglob(f"{name}.py")), name


def test_smoke_grid(capsys, monkeypatch):
    script = str(ROOT / "tests" / "checks" / "smoke_grid.py")
    args = ["--envs", "matrix/climbing", "--algorithms", "fp3o", "--sharings", "partial", "--recurrent", "no"]
    monkeypatch.setattr(sys, "argv", [script, *args])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(script, run_name="__main__")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert re.search(r"^matrix/climbing +fp3o +partial +mlp .* finite *$", out, re.MULTILINE), out


def test_learning_rates(tmp_path, capsys):
    module = runpy.run_path(str(ROOT / "experiments" / "learning_rates.py"))
    module["main"](tmp_path / "sweep", algorithm="mappo", quick=True)
    assert re.search(r"0\.010 +-?\d+\.\d+ +-?\d+\.\d+$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "programs", "runs"),
    [
        ("swimmer.toml", 3, 9),
        ("paper/sensitivity.toml", 9, 243),
        ("paper/tuning_smax.toml", 18, 108),
        ("paper/tuning_mamujoco.toml", 18, 108),
    ],
)
def test_a_study_can_be_read(tmp_path, capsys, file, programs, runs):
    """It is what the pages say."""
    study = ["sweep", str(ROOT / "experiments" / file), "--run-dir", str(tmp_path / "study")]
    assert main([*study, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{programs} programs" in said and f"{runs} runs" in said and not (tmp_path / "study").exists()


def test_deliberate_errors_fit_the_code():
    module = runpy.run_path(str(ROOT / "tests" / "checks" / "deliberate_errors.py"))
    assert len(module["MISTAKES"]) >= 5
    for name, mistake in module["MISTAKES"].items():
        assert (module["PACKAGE"] / mistake.file).read_text().count(mistake.right) == 1, name
        assert mistake.wrong != mistake.right


def test_theory_example(tmp_path, monkeypatch, capsys):
    script = ROOT / "experiments" / "theory" / "sequential_against_pipelines.py"
    figure = tmp_path / "theory.png"
    small = ["--iterations", "4", "--games", "50", "--output", str(figure)]
    monkeypatch.setattr(sys, "argv", [str(script), *small])
    runpy.run_path(str(script), run_name="__main__")
    assert "full pipeline (FP3O): the return fell in 0 of 50 games" in capsys.readouterr().out
    assert figure.stat().st_size > 5000


def test_many_seeds(tmp_path, capsys):
    module = runpy.run_path(str(ROOT / "experiments" / "many_seeds.py"))
    module["main"](tmp_path / "study", quick=True)
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[:2] for line in table] == [["algorithm"], ["fp3o", "2"], ["mappo", "2"]]
    assert (tmp_path / "study" / "curves.png").exists()


def test_several_maps(tmp_path, capsys):
    module = runpy.run_path(str(ROOT / "experiments" / "several_maps.py"))
    module["main"](tmp_path / "study", quick=True)
    table = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [row[:-2] for row in table] == [
        ["matrix/climbing", "full"],
        ["none"],
        ["matrix/xor", "full"],
        ["none"],
    ]
