"""The package as others have it: built, and installed outside the checkout.

Nothing is downloaded: the build backend of the test environment builds, and its site-packages, named in a
``.pth`` file, are where dependencies come from. A folder named there is searched, but its own ``.pth`` files,
an editable install of the checkout among them, are not read; the wheel stands before it in ``sys.path``.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Of the checkout, what a build could take files from.
SOURCES = ("src", "tests", "docs")
HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@dataclasses.dataclass(frozen=True)
class Installed:
    """An environment that holds wheels, and the way to run what is in it.

    Attributes:
        root: of the environment.
        dist: folder of what was built: the sdist and the wheel.
    """

    root: Path
    dist: Path

    @property
    def wheel(self) -> Path:
        (path,) = self.dist.glob("*.whl")
        return path

    @property
    def sdist(self) -> Path:
        (path,) = self.dist.glob("*.tar.gz")
        return path

    @property
    def site_packages(self) -> Path:
        (path,) = self.root.glob("lib/python*/site-packages")
        return path

    def run(self, command: str, *args: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment, ``python`` or ``fp3o``.

        Args:
            command: its name.
            args: of the command.
            cwd: where; outside the checkout.
            variables: of the process, beside those of this one.
        """
        path = str(self.root / "bin" / command)
        return _run([path, *args], cwd, **variables)


def installed_package(shared: Path) -> Installed:
    """The package, built and installed once for all processes that share the folder."""
    done = shared / "installed" / "done"
    with (shared / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(done.parent, ignore_errors=True)
            build(ROOT, done.parent / "dist")
            environment(done.parent / "env", list((done.parent / "dist").glob("*.whl")))
            done.touch()
    return Installed(done.parent / "env", done.parent / "dist")


def build(project: Path, dist: Path) -> None:
    """Builds the sdist from a copy of the project and the wheel from the sdist, like ``python -m build``."""
    copy, unpacked = dist.parent / f"{dist.name}-copy", dist.parent / f"{dist.name}-sdist"
    dist.mkdir(parents=True)
    copy.mkdir()
    for path in project.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, copy)
        elif path.name in SOURCES:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(path, copy / path.name, ignore=ignored)
    _hook(copy, "build_sdist", dist)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (inner,) = unpacked.iterdir()
    _hook(inner, "build_wheel", dist)
    shutil.rmtree(copy)
    shutil.rmtree(unpacked)


def environment(root: Path, wheels: Sequence[Path]) -> None:
    """Makes an environment of these wheels, whose dependencies are those of the tests."""
    venv.create(root, symlinks=True, with_pip=False)
    # pip must not see what the test environment has: it would take an older build for the one asked for.
    pip = [sys.executable, "-m", "pip", "--python", str(root / "bin" / "python"), "install", "--quiet"]
    alone = ["--no-deps", "--no-index", "--disable-pip-version-check", "--no-compile"]
    _must([*pip, *alone, *map(str, wheels)], root)
    (packages,) = root.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")


def _hook(project: Path, name: str, dist: Path) -> None:
    _must([sys.executable, "-c", HOOK, name, str(dist)], project)


def _must(command: Sequence[str], cwd: Path) -> None:
    done = _run(command, cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def _run(command: Sequence[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | variables
    # The checkout may be on it.
    env.pop("PYTHONPATH", None)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
