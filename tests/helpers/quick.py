"""Programs that are compiled once and run for a moment: quickly, though they compute the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: Kernels by LLVM's own code generator, not by way of MLIR, all in one module.
FLAGS = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
_VARIABLES = {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip(),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # Where in Python an operation comes from is looked up for each of them, a hundred frames deep.
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}
_BEFORE = {name: os.environ.get(name) for name in _VARIABLES}


def compile_quickly() -> None:
    """In this process, if JAX has not started, and in those that it starts. They find its programs in the
    persistent cache, whose keys are made of the flags."""
    os.environ.update(_VARIABLES)


def users_environment(**more: str) -> dict[str, str]:
    """The variables for a process whose programs are compiled as users have them."""
    others = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    return others | {name: value for name, value in _BEFORE.items() if value is not None} | more


def compile_as_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all processes that the test starts."""
    for name, value in _BEFORE.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
