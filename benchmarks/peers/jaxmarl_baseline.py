"""Runs a training script of JaxMARL's baselines, for ``against_jaxmarl.py``. Made to be started by it."""

from __future__ import annotations

import inspect
import re
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import protocol


def their_train(script: Path, told: dict[str, Any], key: jax.Array) -> Callable[[jax.Array], Any]:
    """The training function that a script makes of its own configuration, changed as it is told."""
    import wandb
    from omegaconf import OmegaConf

    wandb.init(mode="disabled")
    settings = re.search(r'config_name="(.+)"', script.read_text(encoding="utf-8")).group(1)
    config = OmegaConf.load(script.parent / "config" / f"{settings}.yaml")
    config = OmegaConf.to_container(config, resolve=False) | told
    make_train = runpy.run_path(str(script), run_name="peer")["make_train"]
    # Some of their scripts want a key when the program is made.
    wanted = len(inspect.signature(make_train).parameters)
    return make_train(config, key) if wanted > 1 else make_train(config)


def main() -> None:
    spec = protocol.begin()
    key = jax.random.PRNGKey(0)
    train = their_train(Path(spec["script"]), spec["config"], key)
    start = time.perf_counter()
    compiled = jax.jit(train).lower(key).compile()
    compile_seconds = time.perf_counter() - start
    protocol.serve(
        lambda _: jax.block_until_ready(compiled(key)), compile_seconds=compile_seconds, jax=jax.__version__
    )


if __name__ == "__main__":
    main()
