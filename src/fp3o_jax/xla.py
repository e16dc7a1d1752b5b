"""What XLA needs to be told: for safety, for speed, and so that nothing is compiled twice.

The guard is against a deadlock of its CPU backend in jaxlib 0.10. A jitted scan that holds batched matrix
products (weights of each agent's own, or a ``vmap`` over seeds) can stop for ever in the thread pool of the
concurrency-optimised CPU scheduler: CPU use falls to 0 and ``block_until_ready`` never returns. Switching
that scheduler off costs no speed here and ends it. Later jaxlib does not need it; the flag concerns the CPU
backend alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.stages import Compiled, Lowered

FLAG = "xla_cpu_enable_concurrency_optimized_scheduler"
# XLA ends the process at a flag that it does not know, so it is set for the versions known to have it.
AFFECTED = re.compile(r"0\.10\.")

_in_time = True


def needs_guard() -> bool:
    """Whether the installed jaxlib is one that can deadlock."""
    return AFFECTED.match(metadata.version("jaxlib")) is not None


def guard() -> None:
    """Adds the flag to ``XLA_FLAGS``, after what is there; a choice that the user made is kept.

    Called when the package is imported, since XLA reads the variable when its first device starts.
    """
    global _in_time
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG in flags or not needs_guard():
        return
    _in_time = not _devices_started()
    if _in_time:
        os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}=false".strip()


def block_size(width: int) -> int | None:
    """Samples that a gradient takes at a time: on a CPU as many as fit its cache, else all (None).

    Args:
        width: of the networks' layers, that is floats per sample in each of their intermediate results.
    """
    import jax

    # 512 KiB for each result: the fastest of 256 KiB to 8 MiB with 1 MiB of second-level cache per core.
    return max(1, 2**17 // width) if jax.default_backend() == "cpu" else None


def steps_wait() -> bool:
    """Whether a small step of a loop takes the time that its kernels take to start, whatever they do.

    So it is on accelerators. A CPU's take the time of what they do: one loop for two gains nothing there.
    """
    import jax

    return jax.default_backend() != "cpu"


def matmul_precision(name: str) -> contextlib.AbstractContextManager[Any]:
    """What is traced within has products of this precision, where they do not ask for one themselves.

    Args:
        name: as ``Config.matmul_precision``; "default" leaves it to the settings of JAX.
    """
    import jax

    return contextlib.nullcontext() if name == "default" else jax.default_matmul_precision(name)


def compile_for_one_run(lowered: Lowered) -> Compiled:
    """Compiles a program that runs once: on a CPU unoptimised, in half the time."""
    import jax

    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return lowered.compile(compiler_options=options)


def keep_compiled() -> None:
    """Compiled programs are kept in the user's cache folder, and found there by the next process.

    Nothing changes where JAX was told of a folder already (``JAX_COMPILATION_CACHE_DIR``).
    """
    import jax
    import platformdirs

    if jax.config.jax_compilation_cache_dir is None:
        folder = platformdirs.user_cache_path("fp3o-jax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def warn_if_unprotected() -> None:
    """Tells the user what to do where the package was imported after JAX had started its CPU device."""
    import jax

    if not _in_time and jax.default_backend() == "cpu":
        warnings.warn(
            f"JAX's CPU device was started before fp3o_jax was imported, and jaxlib "
            f"{metadata.version('jaxlib')} can hang there with per-agent networks or several seeds. Import "
            f"fp3o_jax first, or set XLA_FLAGS=--{FLAG}=false before the program starts.",
            RuntimeWarning,
            stacklevel=3,
        )


def _devices_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()
