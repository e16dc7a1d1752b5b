"""The first phase of an iteration: collect a batch under the current policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    :mod:`fp3o_jax.method.sequences`), where the update reads it; the rest as T steps.

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
        diverged: likewise; None where the environment does not say.
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
    diverged: Array | None
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
        hidden: [c, B, H] their recurrent states after it; None if feed-forward.
    """

    value: Array
    hidden: Array | None


@struct.dataclass
class Beginnings:
    """P initial states for the episodes that begin within an iteration."""

    env_state: Any
    observation: Observation
    judgement: Judgement


class Carry(NamedTuple):
    """What one step hands to the next.

    Attributes:
        state: where the environments stand.
        judgement: what critics say of it.
        begun: how many episodes have begun.
        statistics: of what was seen.
        recorded: what was seen and done so far, in the layout of the update.
    """

    state: RolloutState
    judgement: Judgement
    begun: Array
    statistics: dict[str, Statistics]
    recorded: dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Critics:
    """The value functions of a team, and what they are shown.

    Attributes:
        networks: the networks.
        params: ``params["critic"]``.
        see_state: the global state (else their agent's observation).
    """

    networks: ActorCritic
    params: Any
    see_state: bool

    def shown(self, observation: Observation) -> Array:
        """What critics are shown, [1 or n, B, S], as the environment gives it."""
        return observation.global_state[None] if self.see_state else observation.obs

    def inputs(self, observation: Observation) -> Array:
        """[1 or n, B, S], standardised, and nothing of the dead."""
        x = self.networks.standardize_critic_inputs(self.params, self.shown(observation))
        return of_living(x, observation.alive) if len(x) == self.networks.num_agents else x

    def judge(self, observation: Observation, hidden: Array | None, starts: Array) -> Judgement:
        """What critics say of an observation, with states ``hidden`` [c, B, H] before it."""
        inputs = self.inputs(observation)[:, None]
        value, hidden = self.networks.value(self.params, inputs, hidden, starts[None])
        return Judgement(value[:, 0], jax.tree.map(lambda x: x[:, 0], hidden))


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
    critics = Critics(networks, params["critic"], critics_see_state)
    beginnings = _draw(env, critics, key_starts, num_starts)
    step = partial(_step, env, params["actor"], critics, beginnings)

    def chunk(carry: Carry, inputs: tuple[Array, ...]):
        hidden = carry.state.actor_hidden, carry.state.critic_hidden
        carry, outcomes = jax.lax.scan(step, carry, inputs)
        return carry, (outcomes, hidden)

    # Drawn at once: in small environments, what each draw costs by itself would take most of a step.
    steps = (
        jnp.arange(rollout_length),
        jax.random.split(key_action, rollout_length),
        jax.random.split(key_step, (rollout_length, num_envs)),
    )
    steps = jax.tree.map(lambda x: x.reshape((-1, chunk_length, *x.shape[1:])), steps)
    carry = Carry(
        state=state,
        judgement=critics.judge(state.observation, state.critic_hidden, state.starts),
        begun=jnp.zeros_like(state.episode_length[0]),
        statistics=networks.nothing_seen(),
        recorded=_buffers(critics, params["actor"], state.observation, rollout_length, chunk_length),
    )
    carry, (outcomes, hidden) = jax.lax.scan(chunk, carry, steps)
    outcomes = jax.tree.map(lambda x: x.reshape((rollout_length, *x.shape[2:])), outcomes)
    of_critics = {name: outcomes.pop(name).swapaxes(0, 1) for name in ("value", "next_value")}
    hidden = jax.tree.map(lambda x: as_sequences(x.swapaxes(0, 1), 1), hidden)
    return carry.state, Trajectory(
        **carry.recorded,
        **of_critics,
        **outcomes,
        actor_hidden=hidden[0],
        critic_hidden=hidden[1],
        statistics=carry.statistics,
    )


def _step(
    env: Environment,
    actor_params: Any,
    critics: Critics,
    beginnings: Beginnings,
    carry: Carry,
    inputs: tuple[Array, ...],
) -> tuple[Carry, dict[str, Array]]:
    """Everyone acts once, critics judge where that leads, and episodes that are over begin anew."""
    t, key_action, keys_step = inputs
    s, networks = carry.state, critics.networks
    seen = s.observation
    acted = networks.act(actor_params, seen, s.actor_hidden, key_action, s.starts)
    recorded = {
        "obs": acted.obs,
        "critic_inputs": critics.inputs(seen),
        "action_mask": seen.action_mask,
        "alive": seen.alive,
        "action": acted.action,
        "log_prob": acted.log_prob,
    }
    env_state, observation, outcome = batch_step(env, keys_step, s.env_state, acted.action, seen.alive)
    ahead = critics.judge(observation, carry.judgement.hidden, jnp.zeros_like(s.starts))
    outcomes = {
        "value": carry.judgement.value,
        "next_value": ahead.value,
        "starts": s.starts,
        "terminated": outcome.terminated,
        "done": outcome.done,
        "won": outcome.won,
        "diverged": outcome.diverged,
        "reward": outcome.reward,
        "episode_return": s.episode_return + outcome.team_reward,
        "episode_length": s.episode_length + 1,
    }
    s = s.replace(
        env_state=env_state,
        observation=observation,
        starts=outcome.done,
        actor_hidden=acted.hidden,
        critic_hidden=carry.judgement.hidden,
        episode_return=jnp.where(outcome.done, 0.0, outcomes["episode_return"]),
        episode_length=jnp.where(outcome.done, 0, outcomes["episode_length"]),
    )
    statistics = networks.see(carry.statistics, seen.obs, critics.shown(seen), seen.alive)
    state, judgement, begun = _begin(s, ahead, carry.begun, beginnings)
    return Carry(state, judgement, begun, statistics, _write(carry.recorded, recorded, t)), outcomes


def _draw(env: Environment, critics: Critics, key: Array, count: int) -> Beginnings:
    """``count`` initial states, judged."""
    env_state, observation = batch_reset(env, jax.random.split(key, count))
    hidden = critics.networks.initial_critic_hidden(count)
    return Beginnings(env_state, observation, critics.judge(observation, hidden, jnp.ones(count, bool)))


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
    critics: Critics,
    actor_params: Any,
    observation: Observation,
    rollout_length: int,
    chunk_length: int,
) -> dict[str, Array | None]:
    """Room for what is written step by step, in the layout of the update.

    Written in place: stacked by the scan, time first, all of it would have to be copied for the update.
    """
    num_envs, networks = observation.alive.shape[1], critics.networks
    one = {
        "obs": networks.standardize_obs(actor_params, observation.obs),
        "critic_inputs": critics.inputs(observation),
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
