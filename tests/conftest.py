"""Set before JAX starts: tests run on the CPU, and programs compiled once are reused."""

import os

import platformdirs

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# In the environment, so that commands run by tests do likewise; for the user, so that the next checkout does.
cache = platformdirs.user_cache_path("fp3o-jax") / "tests"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

# W&B's own variables are defaults of ours.
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]

import jax  # noqa: E402
import pytest  # noqa: E402

import fp3o_jax  # noqa: E402, F401  (applies the XLA guard)

# What is computed is the same and compiles in a tenth of the time. In this process alone: commands that tests
# run are compiled as users have them.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Thousands of programs in one process exhaust the memory mappings that the kernel grants it."""
    yield
    jax.clear_caches()
