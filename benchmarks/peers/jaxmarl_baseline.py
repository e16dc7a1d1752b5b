"""Runs a training script of JaxMARL's baselines, for ``against_jaxmarl.py``. Made to be started by it."""

from __future__ import annotations

import inspect
import re
import runpy
import time
from pathlib import Path

import jax
import protocol
import wandb
from omegaconf import OmegaConf


def main() -> None:
    spec = protocol.begin()
    script = Path(spec["script"])
    wandb.init(mode="disabled")
    settings = re.search(r'config_name="(.+)"', script.read_text(encoding="utf-8")).group(1)
    config = OmegaConf.load(script.parent / "config" / f"{settings}.yaml")
    config = OmegaConf.to_container(config, resolve=False) | spec["config"]
    make_train = runpy.run_path(str(script), run_name="peer")["make_train"]
    key = jax.random.PRNGKey(0)
    # Some of their scripts want a key when the program is made.
    train = (
        make_train(config, key) if len(inspect.signature(make_train).parameters) > 1 else make_train(config)
    )
    start = time.perf_counter()
    compiled = jax.jit(train).lower(key).compile()
    compile_seconds = time.perf_counter() - start
    protocol.serve(
        lambda _: jax.block_until_ready(compiled(key)), compile_seconds=compile_seconds, jax=jax.__version__
    )


if __name__ == "__main__":
    main()
