"""The first half of an iteration: collect a batch under the current policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from fp3o_jax.envs.base import (
    Environment,
    Observation,
    batch_reset,
    batch_step,
    of_living,
    select_observation,
    take_observation,
)
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.inputs import Statistics


@struct.dataclass
class RolloutState:
    """Where B parallel environments stand between two iterations.

    Attributes:
        env_state: environment states [B, ...].
        observation: what is seen now, agents first.
        starts: [B] bool, whether an episode begins here.
        actor_hidden: [n, B, H] recurrent states; None if feed-forward.
        critic_hidden: [c, B, H] before the critics have seen the observation, c = 1 where all agents share a
            critic's values, else n; None if feed-forward.
        episode_return: [B] undiscounted team return so far.
        episode_length: [B] steps so far.
    """

    env_state: Any
    observation: Observation
    starts: Array
    actor_hidden: Array | None
    critic_hidden: Array | None
    episode_return: Array
    episode_length: Array


@struct.dataclass
class Trajectory:
    """T steps of B environments: what agents saw and did as N = T / L * B sequences of L steps each (see
    :mod:`fp3o_jax.method.sequences`), where the update reads it; the rest time first.

    Attributes:
        obs: [n, L, N, O], standardised, as the networks take it.
        critic_inputs: [v, L, N, S], likewise, v = 1 where all critics see the global state, n where each sees
            its agent's observation.
        action_mask: [n, L, N, A] bool, or None.
        alive: [n, L, N] bool.
        action: [n, L, N] int, or [n, L, N, A].
        log_prob: [n, L, N].
        value: [c, T, B] of the states acted in, in the critic's units.
        next_value: [c, T, B] of the states that the steps led to, before any reset: where a time limit cuts
            an episode, of the state that was cut.
        starts, terminated, done, won: [T, B] bool.
        reward: [T, B]; or [T, B, n], each agent's own.
        episode_return, episode_length: [T, B], of the episode up to and including this step.
        actor_hidden: [n, 1, N, H], before each sequence; None if feed-forward.
        critic_hidden: [c, 1, N, H], likewise.
        statistics: of what actors and critics saw, for ``normalize_obs="running"``; else empty.
    """

    obs: Array
    critic_inputs: Array
    action_mask: Array | None
    alive: Array
    action: Array
    log_prob: Array
    value: Array
    next_value: Array
    starts: Array
    terminated: Array
    done: Array
    won: Array
    reward: Array
    episode_return: Array
    episode_length: Array
    actor_hidden: Array | None
    critic_hidden: Array | None
    statistics: dict[str, Statistics]


@struct.dataclass
class Judgement:
    """What critics say of an observation.

    Attributes:
        value: [c, B], in the critic's units.
        hidden: [c, B, H] their recurrent states behind it; None if feed-forward.
    """

    value: Array
    hidden: Array | None


@struct.dataclass
class Beginnings:
    """P initial states for the episodes that begin within an iteration."""

    env_state: Any
    observation: Observation
    judgement: Judgement


#: Between two steps: where the environments stand, what critics say of it, how many episodes have begun, the
#: statistics of what was seen, and what was recorded.
Carry = tuple[RolloutState, Judgement, Array, dict[str, Statistics], dict[str, Array]]


def init_rollout(env: Environment, networks: ActorCritic, key: Array, num_envs: int) -> RolloutState:
    """B environments, freshly reset."""
    env_state, observation = batch_reset(env, jax.random.split(key, num_envs))
    return RolloutState(
        env_state=env_state,
        observation=observation,
        starts=jnp.ones(num_envs, bool),
        actor_hidden=networks.initial_hidden(num_envs),
        critic_hidden=networks.initial_critic_hidden(num_envs),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def collect(
    env: Environment,
    networks: ActorCritic,
    params: Any,
    state: RolloutState,
    key: Array,
    *,
    rollout_length: int,
    chunk_length: int,
    num_starts: int,
    critics_see_state: bool,
) -> tuple[RolloutState, Trajectory]:
    """Acts for T steps, sampling from the policies.

    Critics judge what a step leads to before an episode that is over gives way to a new one. So every end
    has the value of its own state, wherever it lies, and each state is judged once.

    Args:
        env: the environment.
        networks: the networks.
        params: ``{"actor", "critic"}``.
        state: where the environments stand.
        key: PRNG key.
        rollout_length: T.
        chunk_length: L, steps of a sequence; divides T.
        num_starts: P, initial states drawn at once: a fresh reset of every environment at every step would
            cost more than many environments' own step. Each serves one episode; if more begin, they go round.
        critics_see_state: critics see the global state (else their agent's observation).
    """
    num_envs = state.starts.shape[0]
    key_starts, key_action, key_step = jax.random.split(key, 3)

    def shown(observation: Observation) -> Array:
        return observation.global_state[None] if critics_see_state else observation.obs

    def critic_inputs(observation: Observation) -> Array:
        x = networks.standardize_critic_inputs(params["critic"], shown(observation))
        return of_living(x, observation.alive) if len(x) == networks.num_agents else x

    def judge(observation: Observation, hidden: Array | None, starts: Array) -> Judgement:
        inputs = critic_inputs(observation)[:, None]
        value, hidden = networks.value(params["critic"], inputs, hidden, starts[None])
        return Judgement(value[:, 0], jax.tree.map(lambda x: x[:, 0], hidden))

    beginnings = _draw(env, networks, judge, key_starts, num_starts)

    def act(carry: Carry, inputs: tuple[Array, ...]):
        s, judgement, begun, statistics, buffers = carry
        t, key_action, keys_step = inputs
        seen = s.observation
        acted = networks.act(params["actor"], seen, s.actor_hidden, key_action, s.starts)
        recorded = {
            "obs": acted.obs,
            "critic_inputs": critic_inputs(seen),
            "action_mask": seen.action_mask,
            "alive": seen.alive,
            "action": acted.action,
            "log_prob": acted.log_prob,
        }
        env_state, observation, outcome = batch_step(env, keys_step, s.env_state, acted.action, seen.alive)
        ahead = judge(observation, judgement.hidden, jnp.zeros_like(s.starts))
        outcomes = {
            "value": judgement.value,
            "next_value": ahead.value,
            "starts": s.starts,
            "terminated": outcome.terminated,
            "done": outcome.done,
            "won": outcome.won,
            "reward": outcome.reward,
            "episode_return": s.episode_return + outcome.team_reward,
            "episode_length": s.episode_length + 1,
        }
        s = s.replace(
            env_state=env_state,
            observation=observation,
            starts=outcome.done,
            actor_hidden=acted.hidden,
            critic_hidden=judgement.hidden,
            episode_return=jnp.where(outcome.done, 0.0, outcomes["episode_return"]),
            episode_length=jnp.where(outcome.done, 0, outcomes["episode_length"]),
        )
        statistics = networks.see(statistics, seen.obs, shown(seen), seen.alive)
        s, judgement, begun = _begin(s, ahead, begun, beginnings)
        return (s, judgement, begun, statistics, _write(buffers, recorded, t)), outcomes

    def chunk(carry: Carry, inputs: tuple[Array, ...]):
        hidden = carry[0].actor_hidden, carry[0].critic_hidden
        carry, outcomes = jax.lax.scan(act, carry, inputs)
        return carry, (outcomes, hidden)

    # Drawn at once: in small environments, what each draw costs by itself would take most of a step.
    steps = (
        jnp.arange(rollout_length),
        jax.random.split(key_action, rollout_length),
        jax.random.split(key_step, (rollout_length, num_envs)),
    )
    steps = jax.tree.map(lambda x: x.reshape((-1, chunk_length, *x.shape[1:])), steps)
    carry = (
        state,
        judge(state.observation, state.critic_hidden, state.starts),
        jnp.zeros_like(state.episode_length[0]),
        networks.nothing_seen(),
        _buffers(networks, params["actor"], state.observation, critic_inputs, rollout_length, chunk_length),
    )
    (state, _, _, statistics, buffers), (outcomes, hidden) = jax.lax.scan(chunk, carry, steps)
    outcomes = jax.tree.map(lambda x: x.reshape((rollout_length, *x.shape[2:])), outcomes)
    of_critics = {name: outcomes.pop(name).swapaxes(0, 1) for name in ("value", "next_value")}
    hidden = jax.tree.map(lambda x: as_sequences(x.swapaxes(0, 1), 1), hidden)
    return state, Trajectory(
        **buffers,
        **of_critics,
        **outcomes,
        actor_hidden=hidden[0],
        critic_hidden=hidden[1],
        statistics=statistics,
    )


def _draw(
    env: Environment, networks: ActorCritic, judge: Callable[..., Judgement], key: Array, count: int
) -> Beginnings:
    """``count`` initial states, judged."""
    env_state, observation = batch_reset(env, jax.random.split(key, count))
    judgement = judge(observation, networks.initial_critic_hidden(count), jnp.ones(count, bool))
    return Beginnings(env_state, observation, judgement)


def _begin(
    s: RolloutState, ahead: Judgement, begun: Array, beginnings: Beginnings
) -> tuple[RolloutState, Judgement, Array]:
    """New episodes where the last ones are over (``s.starts``), each from the next initial state.

    Args:
        s: where the environments stand.
        ahead: what critics say of it.
        begun: how many episodes have begun before.
        beginnings: P initial states.
    """
    over = s.starts
    counts = begun + jnp.cumsum(over, dtype=begun.dtype)
    choice = (counts - 1) % beginnings.observation.alive.shape[1]

    def renew(axis: int) -> Callable[[Array, Array], Array]:
        def select(new: Array, old: Array) -> Array:
            new = jnp.take(new, choice, axis=axis, mode="clip")
            return jnp.where(over.reshape((-1,) + (1,) * (old.ndim - axis - 1)), new, old)

        return select

    s = s.replace(
        env_state=jax.tree.map(renew(0), beginnings.env_state, s.env_state),
        observation=select_observation(over, take_observation(beginnings.observation, choice), s.observation),
    )
    return s, jax.tree.map(renew(1), beginnings.judgement, ahead), counts[-1]


def _buffers(
    networks: ActorCritic,
    actor_params: Any,
    observation: Observation,
    critic_inputs: Callable[[Observation], Array],
    rollout_length: int,
    chunk_length: int,
) -> dict[str, Array | None]:
    """Room for what is written step by step, in the layout of the update.

    Written in place: stacked by the scan, time first, all of it would have to be copied for the update.
    """
    num_envs = observation.alive.shape[1]
    one = {
        "obs": networks.standardize_obs(actor_params, observation.obs),
        "critic_inputs": critic_inputs(observation),
        "action_mask": observation.action_mask,
        "alive": observation.alive,
        "action": networks.no_action(num_envs),
        "log_prob": jnp.zeros((networks.num_agents, num_envs)),
    }
    count = rollout_length // chunk_length * num_envs
    return jax.tree.map(lambda x: jnp.zeros((x.shape[0], chunk_length, count, *x.shape[2:]), x.dtype), one)


def _write(buffers: dict[str, Any], recorded: dict[str, Any], t: Array) -> dict[str, Any]:
    """Step ``t`` of all environments, [n, B, ...], into the buffers [n, L, N, ...]."""

    def write(buffer: Array, x: Array) -> Array:
        length, num_envs = buffer.shape[1], x.shape[1]
        place = (0, t % length, t // length * num_envs, *[0] * (x.ndim - 2))
        return jax.lax.dynamic_update_slice(buffer, x[:, None], place)

    return jax.tree.map(write, buffers, recorded)
