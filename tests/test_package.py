"""Importing the package, and the guard against XLA's deadlock."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fp3o_jax import xla

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_import_prints_nothing_and_starts_nothing():
    done = run("import fp3o_jax, sys; assert 'jax' not in sys.modules; fp3o_jax.Config()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_attribute():
    import fp3o_jax

    with pytest.raises(AttributeError, match="no attribute 'make_trian'"):
        _ = fp3o_jax.make_trian


def test_version_is_that_of_the_project():
    import fp3o_jax

    assert fp3o_jax.__version__ == PROJECT["version"]


def test_version_of_sources_that_were_never_installed(monkeypatch):
    import fp3o_jax

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(fp3o_jax.metadata, "version", missing)
    assert fp3o_jax.__version__ == "0+unknown"


def test_pythons_are_the_same_everywhere():
    """Those tested are classified; one more is let in, whose locked wheels exist."""
    tested = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    first, last = tested[0], tested[-1]
    beyond = f"3.{int(last.removeprefix('3.')) + 1}"
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    assert PROJECT["requires-python"] == f">={first}"
    assert f"Python {first} to {last} (on {beyond}" in readme
    assert f"Python {first} to {beyond}" in (ROOT / "requirements.lock").read_text().splitlines()[0]
    low, high = (version.replace(".", ", ") for version in (first, beyond))
    assert f"({low}) <= sys.version_info[:2] <= ({high})" in makefile
    assert makefile.count(f"Python {first} to {beyond}") == 2


def test_setup_takes_the_python_asked_for_or_none(tmp_path):
    command = ["make", "setup", "PYTHON=false", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "with venv was found as PYTHON=false; set PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_lock_is_within_the_ranges():
    locked = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]]
    extras = PROJECT["optional-dependencies"]
    asked = map(Requirement, PROJECT["dependencies"] + extras["dev"] + extras["video"] + extras["slurm"])
    for wanted in asked:
        pins = [pin for pin in locked if pin.name == wanted.name.lower()]
        assert pins, wanted.name
        for pin in pins:
            (version,) = (part.version for part in pin.specifier)
            assert wanted.specifier.contains(version), f"{pin} is not {wanted}"


def test_the_citation_has_the_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {PROJECT['version']}" in lines
    assert f"license: {PROJECT['license']}" in lines


def declared(*extras):
    """Names of the dependencies, and of those of some extras, as they are imported."""
    lines = PROJECT["dependencies"] + [d for extra in extras for d in PROJECT["optional-dependencies"][extra]]
    names = {re.match(r"[\w-]+", line).group().lower().replace("-", "_") for line in lines}
    called = {"mujoco_mjx": "mujoco", "orbax_checkpoint": "orbax", "pillow": "pil", "pyyaml": "yaml"}
    return {called.get(name, name) for name in names}


def test_what_is_imported_is_declared():
    imported = {
        name.split(".")[0]
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    theirs = {name.lower() for name in imported - {"fp3o_jax"} if name not in sys.stdlib_module_names}
    assert theirs - declared() == {"av", "jax2onnx", "submitit"}
    assert theirs <= declared("video", "onnx", "slurm")


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", "", f"--{xla.FLAG}=false"),
        ("0.10.2", "--a=b", f"--a=b --{xla.FLAG}=false"),
        ("0.10.2", f"--{xla.FLAG}=true", f"--{xla.FLAG}=true"),
        ("0.11.2", "--a=b", "--a=b"),
        ("0.9.0", "", ""),
    ],
)
def test_guard_sets_the_flag_only_where_it_is_needed(monkeypatch, version, before, after):
    monkeypatch.setattr(xla.metadata, "version", lambda name: version)
    monkeypatch.setattr(xla, "_devices_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", before)
    xla.guard()
    assert os.environ["XLA_FLAGS"] == after


def test_guard_tells_a_user_who_started_jax_first(monkeypatch):
    monkeypatch.setattr(xla.metadata, "version", lambda name: "0.10.2")
    monkeypatch.setattr(xla, "_devices_started", lambda: True)
    monkeypatch.setattr(xla, "_in_time", True)
    monkeypatch.setenv("XLA_FLAGS", "")
    xla.guard()
    assert os.environ["XLA_FLAGS"] == ""
    with pytest.warns(RuntimeWarning, match="Import fp3o_jax first"):
        xla.warn_if_unprotected()


def test_guarded_jax_still_starts():
    done = run("import fp3o_jax, jax; print(jax.devices()[0].platform)", JAX_PLATFORMS="cpu")
    assert done.stdout.strip() == "cpu", done.stderr


@pytest.mark.parametrize(("width", "samples"), [(64, 2048), (128, 1024), (2**18, 1)])
def test_a_block_fits_the_cache(width, samples):
    assert xla.block_size(width) == samples
