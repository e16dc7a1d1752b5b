"""Set before JAX starts: tests run on the CPU, and programs compiled once are reused."""

import gc
import os

import platformdirs

from installed_wheel import Installed, installed_package
from order import longest_first
from quick import compile_quickly

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# In the environment, so that commands run by tests do likewise; for the user, so that the next checkout does.
cache = platformdirs.user_cache_path("fp3o-jax") / "tests"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
compile_quickly()

# W&B's own variables are defaults of ours.
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]

import jax  # noqa: E402
import pytest  # noqa: E402

import remembered  # noqa: E402
from fp3o_jax import registry  # noqa: E402  (applies the XLA guard)

jax.devices()  # Reads the flags.
remembered.remember_programs()
# Tracing makes many objects and few cycles.
gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    items.sort(key=lambda item: longest_first(item.path))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Thousands of programs in one process exhaust the memory mappings that the kernel grants it."""
    yield
    if remembered.crowded():
        remembered.forget_programs()
        jax.clear_caches()


@pytest.fixture(autouse=True)
def forget_registrations(monkeypatch: pytest.MonkeyPatch):
    """What a test registers is known to it alone."""
    for kind in (*registry.OF_CONFIG, registry.sinks):
        monkeypatch.setattr(kind, "_registered", dict(kind._registered))
    monkeypatch.setattr(registry, "_asked_for", set(registry._asked_for))


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The package as others have it, built once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return installed_package(shared)
