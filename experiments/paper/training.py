"""What a cell runs on the device: three programs of all its seeds, and the loop around them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.stages import Lowered

from cells import Cell
from fp3o_jax import Environment, make_env, make_evaluate, make_train, xla
from fp3o_jax.runs.devices import over_seeds
from fp3o_jax.runs.memory import needed_bytes
from fp3o_jax.runs.programs import evaluation_keys, keep_last_good

#: Curves that are kept, of those that an update reports.
CURVES = (
    "win_rate",
    "episode_return",
    "joint_kl",
    "approx_kl",
    "entropy",
    "clip_fraction",
    "explained_variance",
    "condition_held",
    "condition_sums",
    "log_weight_std",
)


class Abandoned(Exception):
    """A cell was given up before its end; nothing of it is kept."""


class Compiler:
    """Compiles in threads, and the same program once."""

    def __init__(self, pool: Executor):
        self._pool = pool
        self._programs: dict[tuple[str, ...], Future] = {}

    def __call__(
        self,
        of: tuple[str, ...],
        lowered: Lowered,
        compile_: Callable[[Lowered], Any] = Lowered.compile,
    ) -> Future:
        """In the future: the compiled program and the seconds that it took.

        Args:
            of: what tells apart programs of one text, which does not tell the constants that JAX hands to
                them as arguments.
            lowered: what is to be compiled.
            compile_: how.
        """
        key = (*of, hashlib.sha256(lowered.as_text().encode()).hexdigest())
        if key not in self._programs:
            self._programs[key] = self._pool.submit(_timed, compile_, lowered)
        return self._programs[key]


def _timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    start = time.monotonic()
    return fn(*args), time.monotonic() - start


@dataclasses.dataclass
class Prepared:
    """A cell whose programs are being compiled.

    Attributes:
        cell: which.
        keys: [S] one for each seed.
        programs: ``init``: keys -> state; ``chunk``: state -> (state, means over its updates); ``evaluate``:
            (params, keys, number of the evaluation) -> means over episodes.
        lower_seconds: of tracing all three.
    """

    cell: Cell
    keys: Array
    programs: dict[str, Future]
    lower_seconds: float

    @property
    def ready(self) -> bool:
        return all(future.done() for future in self.programs.values())


@functools.cache
def environment(name: str, options: tuple[tuple[str, Any], ...]) -> Environment:
    """``make_env``, once: JAX traces the steps of one object once for all cells that use it."""
    return make_env(name, dict(options))


def prepare(cell: Cell, compile_: Compiler) -> Prepared:
    """Traces a cell's programs here, and has them compiled elsewhere.

    Raises:
        ConfigError: settings that do not fit, or an environment that is not there.
    """
    start = time.monotonic()
    config = cell.config
    env = environment(config.env, tuple(sorted(config.env_kwargs.items())))
    # Its options are in the environment, which is made already.
    trainer, seeds = make_train(config.replace(env_kwargs={}), env), config.num_seeds
    keys = jnp.stack([jax.random.key(config.seed + i) for i in range(seeds)])
    init = jax.jit(over_seeds(trainer.init, seeds))
    step = over_seeds(keep_last_good(trainer.update), seeds)
    play = over_seeds(make_evaluate(trainer, cell.evaluation.episodes), seeds)

    def chunk(state: Any) -> tuple[Any, dict[str, Array]]:
        state, metrics = jax.lax.scan(lambda s, _: step(s), state, length=cell.updates_per_point)
        point = {name: jnp.nanmean(metrics[name], axis=0) for name in CURVES if name in metrics}
        point |= {"joint_kl_max": metrics["joint_kl"].max(0), "finite": metrics["finite"].all(0)}
        return state, point

    def evaluate(params: Any, keys: Array, number: Array) -> dict[str, Array]:
        results = play(params, evaluation_keys(keys, number))
        return {name: value.astype(float).mean(-1) for name, value in results.items()}

    shapes, of = jax.eval_shape(init, keys), (cell.env, cell.sharing)
    # The longest compilation first.
    programs = {
        "chunk": compile_(of, jax.jit(chunk, donate_argnums=0).lower(shapes)),
        "evaluate": compile_(of, jax.jit(evaluate).lower(shapes.params, keys, np.int32(0))),
        "init": compile_(of, init.lower(keys), xla.compile_for_one_run),
    }
    return Prepared(cell, keys, programs, time.monotonic() - start)


def train(
    prepared: Prepared, progress: Callable[[int, float, float], None], until: int | None = None
) -> dict[str, Any]:
    """Runs a cell.

    Args:
        prepared: the cell with its programs.
        progress: called after each chunk with their number, the seconds that the cell took so far and those
            that are still to come; raises :class:`Abandoned` to give the cell up.
        until: end after so many updates, for a look at the speed.

    Returns:
        What was measured: points of the curves, evaluations, the final scores, seconds.
    """
    cell, config = prepared.cell, prepared.cell.config
    programs = {name: future.result() for name, future in prepared.programs.items()}
    init, chunk, play = (programs[name][0] for name in ("init", "chunk", "evaluate"))
    start = time.monotonic()
    state = jax.block_until_ready(init(prepared.keys))
    init_seconds = time.monotonic() - start

    def evaluate(number: int) -> dict[str, np.ndarray]:
        return jax.device_get(play(state.params, prepared.keys, np.int32(number)))

    points: list[dict[str, np.ndarray]] = []
    chunk_seconds: list[float] = []
    evaluations: list[dict[str, np.ndarray]] = []
    eval_seconds: list[float] = []
    every = cell.points // cell.evaluation.times
    repeats = cell.evaluation.final_episodes // cell.evaluation.episodes
    for i in range(1, cell.points + 1):
        begin = time.monotonic()
        state, point = chunk(state)
        points.append(jax.device_get(point))
        chunk_seconds.append(time.monotonic() - begin)
        if i % every == 0:
            begin = time.monotonic()
            evaluations.append(evaluate(len(evaluations)))
            eval_seconds.append(time.monotonic() - begin)
        if until is not None and i * cell.updates_per_point >= until:
            break
        # The first chunk warms the device up. Before the first evaluation, one is taken for two updates.
        pace = float(np.mean(chunk_seconds[1:] or chunk_seconds))
        one = float(np.median(eval_seconds)) if eval_seconds else 2 * pace / cell.updates_per_point
        playing = (cell.evaluation.times - len(evaluations) + repeats - 1) * one
        progress(i, time.monotonic() - start, pace * (cell.points - i) + playing)
    begin = time.monotonic()
    last = evaluations[-1:]
    if until is None:
        last += [evaluate(len(evaluations) + k) for k in range(repeats - 1)]
    eval_seconds.append(time.monotonic() - begin)

    steps = cell.updates_per_point * config.steps_per_update
    curves = _stack(points)
    finite = curves.pop("finite")
    return {
        "env_steps": [steps * (i + 1) for i in range(len(points))],
        "curves": curves,
        "evaluations": {"env_steps": [steps * every * (i + 1) for i in range(len(evaluations))]}
        | _stack(evaluations),
        "final": {name: np.mean([each[name] for each in last], axis=0) for name in (last[0] if last else ())},
        "stopped": {
            str(config.seed + i): int(steps * np.argmin(row)) for i, row in enumerate(finite) if not row.all()
        },
        "bytes": needed_bytes(chunk),
        "seconds": {
            "lower": prepared.lower_seconds,
            "compile": {name: seconds for name, (_, seconds) in programs.items()},
            "init": init_seconds,
            "train": sum(chunk_seconds),
            "evaluate": sum(eval_seconds),
            "per_update": float(np.median(chunk_seconds)) / cell.updates_per_point,
        },
    }


def _stack(points: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Point by point -> by name, [S, points]; pairs of sums as two names."""
    curves = {
        name: np.stack([point[name] for point in points], axis=1) for name in (points[0] if points else ())
    }
    if "condition_sums" in curves:
        sums = curves.pop("condition_sums")
        if sums.any():
            curves |= {"condition_corrected": sums[..., 0], "condition_plain": sums[..., 1]}
        else:  # no stage has a condition
            del curves["condition_held"]
    return curves
