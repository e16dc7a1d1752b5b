"""Many runs as one thing: points, programs, and a folder of ordinary runs."""

from fp3o_jax.sweeps.results import show_status
from fp3o_jax.sweeps.sweep import Sweep

__all__ = ["Sweep", "show_status"]
