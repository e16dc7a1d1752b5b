"""The host's side of a run: loop, progress, what is written. Nothing here is traced."""

from fp3o_jax.runs.loop import RunOptions, run_training

__all__ = ["RunOptions", "run_training"]
