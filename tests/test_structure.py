"""The rooms of the package: imports go one way, and files stay readable."""

import ast
from pathlib import Path

import pytest

import fp3o_jax

PACKAGE = Path(fp3o_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Each knows itself and those before it.
ROOMS = (
    *(
        "values",
        "files",
        "hyperparams",
        "registry",
        "config",
        "presets",
        "xla",
        "seeds",
        "kernels",
        "envs",
        "team",
        "method",
        "train",
    ),
    *("evaluation", "exports", "policy", "runs", "sweeps", "arguments", "commands", "cli", "__main__"),
)
#: Beyond that: what acting needs of a run is read when it is asked for; kernels and environments know less.
MORE = {"policy": {"runs"}}
LESS = {"kernels": {"kernels"}, "envs": {"config", "registry", "values", "envs"}}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Rooms that a file imports from, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fp3o_jax":
            parts = node.module.split(".")
            yield from parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (parts[1] for parts in names if parts[0] == "fp3o_jax" and len(parts) > 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    here = room(path)
    if here == "__init__":
        return
    known = LESS.get(here, {*ROOMS[: ROOMS.index(here) + 1], *MORE.get(here, ())})
    assert set(imported(path)) <= known


def test_all_rooms_are_there():
    assert {room(path) for path in FILES} == {*ROOMS, "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = (x for x in ast.walk(ast.parse(text)) if isinstance(x, ast.FunctionDef))
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 80} == {}
