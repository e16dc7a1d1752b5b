"""Playing whole episodes with a trained policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.envs.base import batch_reset, batch_step
from fp3o_jax.train import Trainer

STEP_LIMIT = 10_000


def make_evaluate(
    trainer: Trainer, episodes: int, greedy: bool = True
) -> Callable[[Any, Array], dict[str, Array]]:
    """The function that plays ``episodes`` episodes side by side, each from a fresh reset to its end.

    Args:
        trainer: what ``make_train`` returned.
        episodes: E.
        greedy: take the most probable action (else sample).

    Returns:
        ``evaluate(state.params, key)`` -> per episode [E]: ``episode_return`` (undiscounted team return),
        ``episode_length`` (steps) and, where the environment knows victories, ``win_rate`` (1 if won).
        An episode without an end is cut after ``STEP_LIMIT`` steps.
    """
    env, networks = trainer.env, trainer.networks

    def evaluate(params: Any, key: Array) -> dict[str, Array]:
        key, key_reset = jax.random.split(key)
        state, observation = batch_reset(env, jax.random.split(key_reset, episodes))
        starts = jnp.zeros((1, episodes), bool)

        def unfinished(carry: tuple) -> Array:
            step, *_, done = carry
            return ~done.all() & (step < STEP_LIMIT)

        def act(carry: tuple) -> tuple:
            step, key, state, seen, hidden, results, done = carry
            key, key_action, key_step = jax.random.split(key, 3)
            mask = seen.action_mask
            distribution, hidden = networks.policy(
                params["actor"],
                seen.obs[:, None],
                None if mask is None else mask[:, None],
                hidden,
                starts,
            )
            action = (distribution.mode() if greedy else distribution.sample(key_action))[:, 0]
            state, seen, outcome = batch_step(env, jax.random.split(key_step, episodes), state, action)
            results = {
                "episode_return": results["episode_return"] + jnp.where(done, 0.0, outcome.reward),
                "episode_length": results["episode_length"] + ~done,
                "win_rate": results["win_rate"] + (~done & outcome.won),
            }
            return step + 1, key, state, seen, hidden[:, 0], results, done | outcome.done

        results = {
            "episode_return": jnp.zeros(episodes),
            "episode_length": jnp.zeros(episodes, jnp.int32),
            "win_rate": jnp.zeros(episodes),
        }
        start = (jnp.zeros((), jnp.int32), key, state, observation)
        start += (networks.initial_hidden(episodes), results, jnp.zeros(episodes, bool))
        *_, results, _ = jax.lax.while_loop(unfinished, act, start)
        if not env.reports_wins:
            del results["win_rate"]
        return results

    return evaluate
