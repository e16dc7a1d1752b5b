"""What is compiled for a run: everything over a leading axis of seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax import xla
from fp3o_jax.config import Hyperparams
from fp3o_jax.evaluation import make_evaluate
from fp3o_jax.runs.options import RunOptions
from fp3o_jax.train import Trainer, TrainState


class Programs:
    """What is compiled for a run: everything over a leading axis of seeds.

    Args:
        trainer: the run as pure functions.
        keys: [num_seeds].
        options: what is evaluated, and when.
        init: ``initialiser(trainer, num_seeds)``, if it has been traced already.
        hyperparams: leaves [num_seeds]; None for those of the trainer's config.

    Attributes:
        init: keys, and hyperparams if they were given -> state.
        update: state -> (state, metrics); the state that comes in is used up.
        evaluate: "greedy" or "sampled" -> (params, keys) -> results [num_seeds, episodes]; traced and
            compiled by the first call, so that the first update need not wait for it.
    """

    def __init__(
        self,
        trainer: Trainer,
        keys: Array,
        options: RunOptions,
        init: Callable[..., TrainState] | None = None,
        hyperparams: Hyperparams | None = None,
    ):
        num_seeds = len(keys)
        init = init or initialiser(trainer, num_seeds)
        start = (keys,) if hyperparams is None else (keys, hyperparams)
        step = over_seeds(keep_last_good(trainer.update), num_seeds)
        # XLA compiles the one while Python traces the other.
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(xla.compile_for_one_run, init.lower(*start))
            self.update = jax.jit(step, donate_argnums=0).lower(jax.eval_shape(init, *start)).compile()
            self.init = compiling.result()
        modes = {"greedy": True} | ({"sampled": False} if options.eval_every or options.eval_sampled else {})
        self.evaluate = {
            name: jax.jit(over_seeds(make_evaluate(trainer, options.eval_episodes, greedy), num_seeds))
            for name, greedy in modes.items()
        }


def initialiser(trainer: Trainer, num_seeds: int) -> Callable[..., TrainState]:
    """``trainer.init`` over keys and hyperparameters [num_seeds], traced once however often it is asked."""
    return jax.jit(over_seeds(trainer.init, num_seeds))


def over_seeds(fn: Callable[..., Any], num_seeds: int) -> Callable[..., Any]:
    """``jax.vmap(fn)``; one seed goes without, for which XLA compiles a quarter less."""
    if num_seeds > 1:
        return jax.vmap(fn)

    @functools.wraps(fn)
    def alone(*args: Any) -> Any:
        result = fn(*jax.tree.map(lambda x: jax.lax.squeeze(x, (0,)), args))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), result)

    return alone


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
