"""The wheel and the source distribution: what they hold, and that they work outside the checkout."""

import email
import json
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import fp3o_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
OURS = MODULES | {"fp3o_jax/py.typed"}
NAME = f"fp3o_jax-{PROJECT['version']}"


@pytest.fixture(scope="module")
def metadata(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        return email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))


def test_the_wheel_holds_the_package_alone(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
        assert archive.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    beside = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert names == OURS | {f"{NAME}.dist-info/{name}" for name in beside}


def test_the_source_distribution_holds_what_builds_the_wheel(installed):
    with tarfile.open(installed.sdist) as archive:
        names = {member.name.removeprefix(f"{NAME}/") for member in archive.getmembers() if member.isfile()}
    names = {name for name in names if ".egg-info/" not in name}
    beside = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    written = {"MANIFEST.in", "PKG-INFO", "setup.cfg"}
    assert names == {f"src/{name}" for name in OURS} | beside | written


def test_metadata(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("fp3o-jax", fp3o_jax.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# fp3o-jax")
    assert "reinforcement learning" in metadata["Keywords"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert set(metadata.get_all("Provides-Extra")) == {*PROJECT["optional-dependencies"]}


def test_the_wheel_is_what_is_imported(installed, tmp_path):
    code = (
        "import fp3o_jax, json, sys; print(json.dumps([fp3o_jax.__file__, fp3o_jax.__version__, sys.path]))"
    )
    done = installed.run("python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    file, version, path = json.loads(done.stdout)
    assert Path(file) == installed.site_packages / "fp3o_jax" / "__init__.py"
    assert version == PROJECT["version"]
    assert str(ROOT / "src") not in path


def test_the_wheel_trains(installed, tmp_path):
    small = ["--num-envs", "4", "--rollout-length", "8", "--total-env-steps", "32", "--num-minibatches", "1"]
    small += ["--hidden-sizes", "8", "--no-layer-norm", "--eval-episodes", "4"]
    done = installed.run(
        "fp3o", "train", "--env", "matrix/climbing", *small, "--run-dir", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["versions"]["fp3o-jax"] == PROJECT["version"]
    assert about["git_commit"] is None
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 1
