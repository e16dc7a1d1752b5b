"""FP3O, MAPPO, IPPO, HAPPO, A2PO and CoPPO end to end in JAX: ``train = make_train(Config(...))``."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError, Hyperparams

if TYPE_CHECKING:
    from fp3o_jax.envs import Environment, adapt, check_env, make_env
    from fp3o_jax.evaluation import make_evaluate
    from fp3o_jax.policy import load_policy
    from fp3o_jax.sweeps import Sweep
    from fp3o_jax.train import TrainState, make_train

__version__: str

__all__ = [
    "Config",
    "ConfigError",
    "Environment",
    "Hyperparams",
    "Sweep",
    "TrainState",
    "__version__",
    "adapt",
    "check_env",
    "load_policy",
    "make_env",
    "make_evaluate",
    "make_train",
]

xla.guard()

_LAZY = {
    "Environment": "envs",
    "adapt": "envs",
    "check_env": "envs",
    "make_env": "envs",
    "make_evaluate": "evaluation",
    "load_policy": "policy",
    "Sweep": "sweeps",
    "TrainState": "train",
    "make_train": "train",
}


def __getattr__(name: str) -> Any:
    # What needs JAX is imported on first use, so that importing the package stays instant.
    if name == "__version__":
        return _version()
    if name in _LAZY:
        return getattr(importlib.import_module(f"fp3o_jax.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fp3o_jax' has no attribute {name!r}")


def _version() -> str:
    """As ``pyproject.toml`` has it: what the installation says of itself."""
    try:
        return metadata.version("fp3o-jax")
    except metadata.PackageNotFoundError:  # run from sources that were never installed
        return "0+unknown"
