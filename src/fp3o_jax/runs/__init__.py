"""The host's side of a run: loop, progress, what is written. Nothing here is traced."""

from fp3o_jax.runs.crossplay import cross_play_runs
from fp3o_jax.runs.loop import RunError, run_training
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.runs.signals import Interrupted
from fp3o_jax.runs.teams import Source, evaluate_team
from fp3o_jax.runs.trained import evaluate_run, load_params, load_run, render_run

__all__ = [
    "Interrupted",
    "RunError",
    "RunOptions",
    "Source",
    "cross_play_runs",
    "evaluate_run",
    "evaluate_team",
    "load_params",
    "load_run",
    "render_run",
    "run_training",
]
