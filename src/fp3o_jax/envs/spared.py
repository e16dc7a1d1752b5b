"""JaxMARL without those of its environments that nobody asked for.

Whichever of its modules is imported, its packages import all environments before, and with them Brax, MuJoCo
and Matplotlib, and run JAX programs: five seconds of processor time at each start.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

from fp3o_jax.envs.quiet import quiet

_lock = threading.RLock()


def jaxmarl_module(name: str) -> Any:
    """``jaxmarl.environments.<name>``, and of JaxMARL nothing that it does not import itself.

    The packages around it are the ordinary ones, but their own code runs when something of them is asked for;
    where they were imported before, nothing is different.
    """
    path = f"jaxmarl.environments.{name}"
    around = path.split(".")[:-1]
    with quiet():
        for depth in range(len(around)):
            _set_up(".".join(around[: depth + 1]))
        # A module that others import as ``from jaxmarl.environments import spaces``.
        importlib.import_module("jaxmarl.environments.spaces")
        return importlib.import_module(path)


class _Waiting(ModuleType):
    """A package whose modules can be imported, and whose own code runs at the first look at anything else."""

    def __getattr__(self, name: str) -> Any:
        # The import system and ``inspect`` look for others, which a package need not have.
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _run(self)
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        _run(self)
        return dir(self)


def _set_up(package: str) -> None:
    with _lock:
        if package in sys.modules:
            return
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Waiting
        sys.modules[package] = module
        parent, _, name = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, module)


def _run(module: ModuleType) -> None:
    """Once, whichever thread asks first; one that fails is tried again, as an import is."""
    with _lock:
        if type(module) is not _Waiting:
            return
        module.__class__ = ModuleType
        try:
            with quiet():
                module.__spec__.loader.exec_module(module)
        except BaseException:
            module.__class__ = _Waiting
            raise
