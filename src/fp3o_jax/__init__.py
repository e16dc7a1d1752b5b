"""FP3O, MAPPO, IPPO, HAPPO, A2PO and CoPPO end to end in JAX: ``train = make_train(Config(...))``."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fp3o_jax import xla
from fp3o_jax.config import Config, ConfigError, Hyperparams
from fp3o_jax.registry import register_algorithm, register_env, register_sharing, register_sink

if TYPE_CHECKING:
    from fp3o_jax.envs import Environment, adapt, check_env, make_env
    from fp3o_jax.evaluation import make_evaluate
    from fp3o_jax.method.schedules import Algorithm, Schedule
    from fp3o_jax.policy import Policy, load_policy
    from fp3o_jax.runs import (
        Interrupted,
        RunError,
        RunOptions,
        Source,
        cross_play_runs,
        evaluate_run,
        evaluate_team,
        load_run,
        render_run,
        run_training,
    )
    from fp3o_jax.runs.figures import plot_runs
    from fp3o_jax.sweeps import Sweep
    from fp3o_jax.team.sharing import Sharing
    from fp3o_jax.train import Trainer, TrainState, make_train

__version__: str

__all__ = [
    "Algorithm",
    "Config",
    "ConfigError",
    "Environment",
    "Hyperparams",
    "Interrupted",
    "Policy",
    "RunError",
    "RunOptions",
    "Schedule",
    "Sharing",
    "Source",
    "Sweep",
    "TrainState",
    "Trainer",
    "__version__",
    "adapt",
    "check_env",
    "cross_play_runs",
    "evaluate_run",
    "evaluate_team",
    "load_policy",
    "load_run",
    "make_env",
    "make_evaluate",
    "make_train",
    "plot_runs",
    "register_algorithm",
    "register_env",
    "register_sharing",
    "register_sink",
    "render_run",
    "run_training",
]

xla.guard()

_LAZY = {
    "Environment": "envs",
    "adapt": "envs",
    "check_env": "envs",
    "make_env": "envs",
    "make_evaluate": "evaluation",
    "Algorithm": "method.schedules",
    "Schedule": "method.schedules",
    "Policy": "policy",
    "load_policy": "policy",
    "Interrupted": "runs",
    "RunError": "runs",
    "RunOptions": "runs",
    "Source": "runs",
    "cross_play_runs": "runs",
    "evaluate_run": "runs",
    "evaluate_team": "runs",
    "load_run": "runs",
    "render_run": "runs",
    "run_training": "runs",
    "plot_runs": "runs.figures",
    "Sweep": "sweeps",
    "Sharing": "team.sharing",
    "TrainState": "train",
    "Trainer": "train",
    "make_train": "train",
}
#: Old name -> its new one, for one release: it works, and warns.
_MOVED: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    # What needs JAX is imported on first use, so that importing the package stays instant.
    if name == "__version__":
        return _version()
    if name in _MOVED:
        said = f"fp3o_jax.{name} is fp3o_jax.{_MOVED[name]} now, and goes with the next release"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[__name__], _MOVED[name])
    if name in _LAZY:
        return getattr(importlib.import_module(f"fp3o_jax.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fp3o_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """As ``pyproject.toml`` has it: what the installation says of itself."""
    try:
        return metadata.version("fp3o-jax")
    except metadata.PackageNotFoundError:  # run from sources that were never installed
        return "0+unknown"
