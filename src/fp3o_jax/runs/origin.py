"""Who makes a run."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import subprocess
import uuid
from pathlib import Path
from typing import Any

PACKAGES = ("fp3o-jax", "jax", "jaxlib", "jaxmarl", "brax", "flax", "optax", "orbax-checkpoint")


def about() -> dict[str, Any]:
    """Who made the run: an identity, versions, commit and device."""
    import jax

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "run_id": uuid.uuid4().hex[:12],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "git_commit": _commit(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _commit() -> str | None:
    """The commit of the checkout that the package runs from; None if it runs from none."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD")
    return None
