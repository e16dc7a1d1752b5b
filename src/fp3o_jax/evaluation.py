"""Playing whole episodes with a trained policy: many to judge it by, or one to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from fp3o_jax import xla
from fp3o_jax.envs import Observation, Outcome
from fp3o_jax.envs.base import batch_reset, batch_step
from fp3o_jax.kernels import shards
from fp3o_jax.train import Trainer
from fp3o_jax.values import as_count

STEP_LIMIT = 10_000


@struct.dataclass
class Play:
    """Where E episodes stand.

    Attributes:
        key: PRNG key of the next step.
        state: environment states [E, ...].
        observation: what is seen now, agents first.
        hidden: [n, E, H] recurrent states of the policies; None if feed-forward.
    """

    key: Array
    state: Any
    observation: Observation
    hidden: Array | None


def _begin(trainer: Trainer, key: Array, episodes: int) -> Play:
    key, key_reset = jax.random.split(key)
    with xla.matmul_precision(trainer.config.matmul_precision):
        state, observation = batch_reset(trainer.env, jax.random.split(key_reset, episodes))
    return Play(key, state, observation, trainer.networks.initial_hidden(episodes))


def _advance(trainer: Trainer, params: Any, play: Play, greedy: bool | Array) -> tuple[Play, Array, Outcome]:
    """One step of each episode; actions [n, E] or [n, E, A], outcomes [E]."""
    key, key_action, key_step = jax.random.split(play.key, 3)
    seen = play.observation
    decided = isinstance(greedy, bool)
    if decided and greedy:
        key_action = None
    keys = jax.random.split(key_step, seen.alive.shape[1])
    with xla.matmul_precision(trainer.config.matmul_precision):
        acted = trainer.networks.act(
            params["actor"], seen, play.hidden, key_action, greedy=None if decided else greedy
        )
        state, observation, outcome = batch_step(trainer.env, keys, play.state, acted.action, seen.alive)
    return Play(key, state, observation, acted.hidden), acted.action, outcome


def make_evaluate(
    trainer: Trainer, episodes: int, greedy: bool | Array = True
) -> Callable[[Any, Array], dict[str, Array]]:
    """The function that plays ``episodes`` episodes side by side, each from a fresh reset to its end.

    Args:
        trainer: what ``make_train`` returned.
        episodes: E, rounded up to a multiple of ``Config.env_shards``.
        greedy: take the most probable action (else sample); traced, in a program that can do both.

    Returns:
        ``evaluate(state.params, key)`` -> per episode [E]: ``episode_return`` (undiscounted team return),
        ``episode_length`` (steps) and, where the environment knows victories, ``win_rate`` (1 if won).
        An episode without an end is cut after ``STEP_LIMIT`` steps.

    Raises:
        ConfigError: fewer than one episode.
    """

    count = trainer.config.env_shards
    episodes = -(-as_count("episodes", episodes) // count)

    def evaluate(params: Any, key: Array) -> dict[str, Array]:
        key = shards.own_key(key)

        def unfinished(carry: tuple) -> Array:
            step, _, _, done = carry
            return ~done.all() & (step < STEP_LIMIT)

        def act(carry: tuple) -> tuple:
            step, play, results, done = carry
            play, _, outcome = _advance(trainer, params, play, greedy)
            results = {
                "episode_return": results["episode_return"] + jnp.where(done, 0.0, outcome.team_reward),
                "episode_length": results["episode_length"] + ~done,
                "win_rate": results["win_rate"] + (~done & outcome.won),
            }
            return step + 1, play, results, done | outcome.done

        results = {
            "episode_return": jnp.zeros(episodes),
            "episode_length": jnp.zeros(episodes, jnp.int32),
            "win_rate": jnp.zeros(episodes),
        }
        start = (jnp.zeros((), jnp.int32), _begin(trainer, key, episodes), results, jnp.zeros(episodes, bool))
        *_, results, _ = jax.lax.while_loop(unfinished, act, start)
        if not trainer.env.reports_wins:
            del results["win_rate"]
        return results

    def of_all_shards(params: Any, key: Array) -> dict[str, Array]:
        results = shards.over_shards(evaluate, count, (None, None), 0)(params, key)
        return results if count == 1 else jax.tree.map(jnp.ravel, results)

    return of_all_shards


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of T steps, as NumPy arrays.

    Attributes:
        states: environment states, leaves [T+1, ...]: the first and those after each step.
        actions: [T, n] int, or [T, n, A].
        outcomes: leaves [T].
    """

    states: Any
    actions: np.ndarray
    outcomes: Outcome

    @property
    def num_steps(self) -> int:
        return len(self.actions)


def record(trainer: Trainer, params: Any, key: Array, greedy: bool = True) -> Episode:
    """Plays one episode, from a fresh reset to its end, and keeps all of it.

    It is the episode that ``make_evaluate(trainer, 1, greedy)(params, key)`` plays, and as there one without
    an end is cut after ``STEP_LIMIT`` steps. Each call compiles anew.

    Args:
        trainer: what ``make_train`` returned.
        params: ``state.params`` of one seed.
        key: PRNG key.
        greedy: take the most probable action (else sample).
    """
    # Compiled for this call: a cache by trainer would keep every trainer that has played.
    play = jax.jit(lambda params, key: _play_one(trainer, params, key, greedy))
    states, actions, outcomes = jax.device_get(play(params, key))
    done = outcomes.done
    steps = int(done.argmax()) + 1 if done.any() else len(done)
    return Episode(
        states=jax.tree.map(lambda x: x[: steps + 1], states),
        actions=actions[:steps],
        outcomes=jax.tree.map(lambda x: x[:steps], outcomes),
    )


def _play_one(trainer: Trainer, params: Any, key: Array, greedy: bool) -> tuple[Any, Array, Outcome]:
    """States [L+1, ...], actions [L, n, ...] and outcomes [L] up to the step limit L, past the end."""
    limit = STEP_LIMIT if trainer.env.time_limit is None else trainer.env.time_limit + 1
    start = _begin(trainer, key, 1)

    def act(play: Play, _: None) -> tuple[Play, tuple[Any, Array, Outcome]]:
        play, action, outcome = _advance(trainer, params, play, greedy)
        return play, (play.state, action[:, 0], jax.tree.map(lambda x: x[0], outcome))

    _, (states, actions, outcomes) = jax.lax.scan(act, start, length=limit)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[:, 0], start.state, states)
    return states, actions, outcomes
