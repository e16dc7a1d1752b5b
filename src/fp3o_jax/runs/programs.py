"""What is compiled for a run: everything over a leading axis of seeds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax import xla
from fp3o_jax.config import Hyperparams
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.devices import RUN, SHARD, RunAxis, spread
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.train import Trainer, TrainState

#: Of a state, over the axis of runs.
LAYOUT = TrainState.layout(RUN, SHARD)


class Programs:
    """What is compiled for a run: everything over a leading axis of seeds.

    Args:
        trainer: the run as pure functions.
        keys: [num_seeds].
        options: on how many devices, what is evaluated, and when.
        hyperparams: leaves [num_seeds]; by default those of the trainer's config.

    Attributes:
        axis: the seeds, and where they are.
        update: state -> (state, metrics); the state that comes in is used up. There once :meth:`compile` ran.
    """

    def __init__(
        self, trainer: Trainer, keys: Array, options: RunOptions, hyperparams: Hyperparams | None = None
    ):
        self._trainer = trainer
        self.axis = axis = spread(len(keys), options.devices, trainer.config.env_shards)
        self._start = axis.place((keys,) if hyperparams is None else (keys, hyperparams))
        self._init = axis.jit(trainer.init, outputs=LAYOUT)
        self.update: Callable[[TrainState], tuple[TrainState, dict[str, Array]]]
        modes = {"greedy": True} | ({"sampled": False} if options.eval_every or options.eval_sampled else {})
        # Traced and compiled by the first call, so that the first update need not wait for it.
        self._play = {
            mode: player(trainer, axis, options.eval_episodes, greedy) for mode, greedy in modes.items()
        }

    @property
    def template(self) -> TrainState:
        """What ``jax.eval_shape`` says of a state, leaves [num_seeds, ...]."""
        return jax.eval_shape(self.axis.real, jax.eval_shape(self._init, *self._start))

    @property
    def modes(self) -> list[str]:
        """How policies can be played: "greedy", and "sampled" if that was asked for."""
        return list(self._play)

    def compile(self) -> None:
        """What takes long."""
        step = self.axis.jit(keep_last_good(self._trainer.update), (LAYOUT,), (LAYOUT, RUN), donate_argnums=0)
        # XLA compiles the one while Python traces the other.
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(xla.compile_for_one_run, self._init.lower(*self._start))
            self.update = step.lower(jax.eval_shape(self._init, *self._start)).compile()
            self._init_compiled = compiling.result()

    def init(self) -> TrainState:
        """The state before the first update, as :attr:`update` takes it."""
        return self._init_compiled(*self._start)

    def play(self, mode: str, state: TrainState, update: int) -> dict[str, Array]:
        """Results [num_seeds, episodes] of the policies in a state of :attr:`update`'s.

        Args:
            mode: one of :attr:`modes`.
            state: whose policies.
            update: after which they are played, for the keys; 0 for the end.
        """
        keys = evaluation_keys(self._start[0], update)
        return self._play[mode](state.params, keys)


def player(
    trainer: Trainer, axis: RunAxis, episodes: int, greedy: bool
) -> Callable[[Any, Array], dict[str, Array]]:
    """``make_evaluate`` over an axis: parameters and keys as it has them -> results [num_runs, episodes]."""
    play = axis.jit(make_evaluate(trainer, episodes, greedy), outputs=SHARD)
    return lambda params, keys: jax.tree.map(lambda x: x[:, :episodes], axis.real(play(params, keys)))


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
