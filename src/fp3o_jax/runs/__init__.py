"""The host's side of a run: loop, progress, what is written. Nothing here is traced."""

from fp3o_jax.runs.loop import RunError, run_training
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.signals import Interrupted
from fp3o_jax.runs.trained import evaluate_run, load_params, load_run, render_run

__all__ = [
    "Interrupted",
    "RunError",
    "RunOptions",
    "evaluate_run",
    "load_params",
    "load_run",
    "render_run",
    "run_training",
]
