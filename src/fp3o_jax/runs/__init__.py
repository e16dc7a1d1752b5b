"""The host's side of a run: loop, progress, what is written. Nothing here is traced."""

from fp3o_jax.runs.loop import RunError, RunOptions, load_run, run_training
from fp3o_jax.runs.signals import Interrupted

__all__ = ["Interrupted", "RunError", "RunOptions", "load_run", "run_training"]
