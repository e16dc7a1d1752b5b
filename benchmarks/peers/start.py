"""A start of `fp3o train` up to its first update, in a fresh process; what took how long, as JSON."""

import json
import sys
import time

begin = time.perf_counter()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from fp3o_jax import Config, make_train  # noqa: E402
from fp3o_jax.runs import RunOptions  # noqa: E402
from fp3o_jax.runs.programs import Programs  # noqa: E402

COMPILING = "/jax/core/compile/backend_compile_duration"


def main() -> None:
    seconds = {"import_s": time.perf_counter() - begin}
    compiling = 0.0

    def listen(event: str, duration: float, **_: object) -> None:
        nonlocal compiling
        # Reading the cache counts as well: the event spans both.
        compiling += duration * (event == COMPILING)

    jax.monitoring.register_event_duration_secs_listener(listen)

    start = time.perf_counter()
    trainer = make_train(Config(**json.loads(sys.argv[1])))
    seconds["environment_s"] = time.perf_counter() - start

    start, before = time.perf_counter(), compiling
    keys = jnp.stack([jax.random.key(0)])
    programs = Programs(trainer, keys, RunOptions())
    programs.compile()
    state = jax.block_until_ready(programs.init())
    seconds["compile_s"] = compiling - before
    seconds["trace_s"] = time.perf_counter() - start - seconds["compile_s"]

    start = time.perf_counter()
    state, _ = jax.block_until_ready(programs.update(state))
    seconds["first_update_s"] = time.perf_counter() - start

    start = time.perf_counter()
    state, _ = jax.block_until_ready(programs.update(state))
    seconds["second_update_s"] = time.perf_counter() - start

    before = compiling
    jax.block_until_ready(programs.play("greedy", state, 0))
    seconds["evaluation_compile_s"] = compiling - before
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
