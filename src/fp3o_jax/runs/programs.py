"""What is compiled for a run: everything over a leading axis of seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax import xla
from fp3o_jax.config import Hyperparams
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.devices import RUN, SHARD, RunAxis, spread
from fp3o_jax.runs.memory import check_memory
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.train import Trainer, TrainState

#: Of a state, over the axis of runs.
LAYOUT = TrainState.layout(RUN, SHARD)


class Programs:
    """What is compiled for a run: everything over a leading axis of seeds.

    Python traces in the thread of the caller, whose settings of JAX hold; XLA compiles in another one, in the
    order in which things are asked for.

    Args:
        trainer: the run as pure functions.
        keys: [num_seeds].
        options: on how many devices, what is evaluated, and when.
        hyperparams: leaves [num_seeds]; by default those of the trainer's config.

    Attributes:
        axis: the seeds, and where they are.
        modes: how policies can be played: "greedy", and "sampled" if that was asked for.
    """

    def __init__(
        self, trainer: Trainer, keys: Array, options: RunOptions, hyperparams: Hyperparams | None = None
    ):
        self._trainer, self._episodes = trainer, options.eval_episodes
        self.axis = axis = spread(len(keys), options.devices, trainer.config.env_shards, options.distributed)
        self._start = axis.place((keys,) if hyperparams is None else (keys, hyperparams))
        self._init = axis.jit(trainer.init, outputs=LAYOUT)
        self.modes = ["greedy"] + ["sampled"] * bool(options.eval_every or options.eval_sampled)
        self._compiled: dict[str, Future[Any]] = {}

    @property
    def template(self) -> TrainState:
        """What ``jax.eval_shape`` says of a state, leaves [num_seeds, ...]."""
        return jax.eval_shape(self.axis.real, self._state)

    @property
    def _state(self) -> TrainState:
        return jax.eval_shape(self._init, *self._start)

    def begin(self) -> None:
        """Traces what training needs, and has it compiled meanwhile."""
        if "update" in self._compiled:
            return
        step = self.axis.jit(keep_last_good(self._trainer.update), (LAYOUT,), (LAYOUT, RUN), donate_argnums=0)
        # XLA compiles the one while Python traces the other.
        self._compiled["init"] = _submit(xla.compile_for_one_run, self._init.lower(*self._start))
        self._compiled["update"] = _submit(step.lower(self._state).compile)

    def begin_playing(self) -> None:
        """The same for :meth:`play`, which the first update need not wait for."""
        if "play" not in self._compiled:
            play = player(self._trainer, self.axis, self._episodes)
            lowered = play.lower(self._state.params, self._start[0], self._mode("greedy"))
            self._compiled["play"] = _submit(lowered.compile)

    def compile(self) -> None:
        """Waits for what training needs.

        Raises:
            TooLarge: it does not fit the device.
        """
        self.begin()
        self._compiled["init"].result()
        compiled, axis = self._compiled["update"].result(), self.axis
        check_memory(compiled, self._trainer.config, jax.local_devices()[0], axis.per_device)

    def cancel(self) -> None:
        """Nothing is compiled any more that XLA has not begun with."""
        for future in self._compiled.values():
            future.cancel()

    def init(self) -> TrainState:
        """The state before the first update, as :meth:`update` takes it."""
        return self._compiled["init"].result()(*self._start)

    def place(self, state: TrainState) -> TrainState:
        """A state with leaves [num_seeds, ...] as :meth:`update` takes it."""
        return self.axis.place(state, LAYOUT)

    def gather(self, state: TrainState) -> TrainState:
        """The inverse of :meth:`place`, which may give keys as their data."""
        return self.whole(state)

    def whole(self, tree: Any) -> Any:
        """Leaves [num_seeds, ...] that this process can read, of what programs return."""
        return self.axis.real(tree)

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """The next state, and metrics. The state that comes in is used up."""
        return self._compiled["update"].result()(state)

    def play(self, mode: str, state: TrainState, update: int) -> dict[str, Array]:
        """Results [num_seeds, episodes] of the policies in a state of :meth:`update`'s.

        Args:
            mode: one of :attr:`modes`.
            state: whose policies.
            update: after which they are played, for the keys; 0 for the end.
        """
        self.begin_playing()
        keys = evaluation_keys(self._start[0], update)
        played = self._compiled["play"].result()(state.params, keys, self._mode(mode))
        return jax.tree.map(lambda x: x[:, : self._episodes], self.whole(played))

    def _mode(self, mode: str) -> Array:
        return self.axis.place(modes(self.axis, mode == "greedy"))


def player(trainer: Trainer, axis: RunAxis, episodes: int) -> Any:
    """``make_evaluate`` over an axis, jitted: parameters, keys and :func:`modes`, as the axis has them, ->
    results [size, E], of as many episodes or a few more, so that shards come out even."""

    def play(params: Any, key: Array, greedy: Array) -> dict[str, Array]:
        return make_evaluate(trainer, episodes, greedy)(params, key)

    return axis.jit(play, outputs=SHARD)


def modes(axis: RunAxis, greedy: bool) -> np.ndarray:
    """[num_runs] how each run's policies are played. One program plays them either way."""
    return np.full(axis.num_runs, greedy)


@functools.cache
def _compiler() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="fp3o-compiler")


def _submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
    return _compiler().submit(fn, *args)


def keep_last_good(
    update: Callable[[TrainState], tuple[TrainState, dict[str, Array]]],
) -> Callable[[TrainState], tuple[TrainState, dict[str, Array]]]:
    """``update``, but a state that would cease to be finite stays as it is; the metric ``finite`` tells.

    The same state makes the same update: a seed that has stopped once stays where it is, others go on.
    """

    def guarded(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        new, metrics = update(state)
        learnt = jax.tree.leaves((new.params, new.opt_state, new.value_norm))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in learnt]).all()
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return kept, metrics | {"finite": finite}

    return guarded


def evaluation_keys(keys: Array, update: int) -> Array:
    """Keys for playing after ``update``; 0 for the end."""
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), update))(keys)
