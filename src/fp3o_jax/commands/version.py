"""``fp3o --version``: which version this is, and on what it runs."""

from __future__ import annotations

import platform
from importlib import metadata


def version() -> str:
    """The version of this package, of JAX and of Python, on one line."""
    names = ("fp3o-jax", "jax", "jaxlib")
    return ", ".join(
        [*(f"{name} {_installed(name)}" for name in names), f"Python {platform.python_version()}"]
    )


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from sources
        return "not installed"
