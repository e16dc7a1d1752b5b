"""The first half of an iteration: collect a batch under the current policies."""

from __future__ import annotations

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
    select_observation,
)
from fp3o_jax.networks import ActorCritic
from fp3o_jax.sequences import Blocks, as_sequences, as_steps, make_blocks


@struct.dataclass
class RolloutState:
    """Where B parallel environments stand between two iterations.

    Attributes:
        env_state: environment states [B, ...].
        observation: what is seen now, agents first.
        starts: [B] bool, whether an episode begins here.
        actor_hidden: [n, B, H] recurrent states.
        critic_hidden: [c, B, H], c = 1 where all agents share a critic's values, else n.
        episode_return: [B] undiscounted team return so far.
        episode_length: [B] steps so far.
    """

    env_state: Any
    observation: Observation
    starts: Array
    actor_hidden: Array
    critic_hidden: Array
    episode_return: Array
    episode_length: Array


@struct.dataclass
class Trajectory:
    """T steps of B environments: what agents saw and did as N = T / L * B sequences of L steps each (see
    :mod:`fp3o_jax.sequences`), where the update reads it; the rest time first.

    Attributes:
        obs: [n, L, N, O], standardised, as the networks take it.
        critic_inputs: [v, L, N, S], likewise, v = 1 where all critics see the global state, n where each sees
            its agent's observation.
        action_mask: [n, L, N, A] bool, or None.
        alive: [n, L, N] bool.
        action: [n, L, N] int, or [n, L, N, A].
        log_prob: [n, L, N].
        starts, terminated, done, won: [T, B] bool.
        reward: [T, B].
        episode_return, episode_length: [T, B], of the episode up to and including this step.
        actor_hidden: [n, N, H], before each sequence.
        last_inputs: [v, B, S], what critics see after the last step.
        last_starts: [B] bool.
        cut_inputs: [K, v, B, S], what critics saw when a time limit cut an episode, before the reset; up
            to K times per environment. None where that cannot happen.
        cut_step: [K, B] int, the step of that cut; T where the slot is unused.
    """

    obs: Array
    critic_inputs: Array
    action_mask: Array | None
    alive: Array
    action: Array
    log_prob: Array
    starts: Array
    terminated: Array
    done: Array
    won: Array
    reward: Array
    episode_return: Array
    episode_length: Array
    actor_hidden: Array
    last_inputs: Array
    last_starts: Array
    cut_inputs: Array | None
    cut_step: Array | None


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
    actor_params: Any,
    state: RolloutState,
    key: Array,
    *,
    rollout_length: int,
    chunk_length: int,
    critics_see_state: bool,
    bootstrap_truncations: bool,
) -> tuple[RolloutState, Trajectory]:
    """Acts for T steps, sampling from the policies.

    An environment whose episode ends goes on from one of B initial states, drawn anew for each iteration:
    a fresh reset of every environment at every step would cost more than many environments' own step.

    Args:
        env: the environment.
        networks: the networks.
        actor_params: ``params["actor"]``.
        state: where the environments stand; its ``critic_hidden`` is left as it is.
        key: PRNG key.
        rollout_length: T.
        chunk_length: L, steps of a sequence; divides T.
        critics_see_state: critics see the global state (else their agent's observation).
        bootstrap_truncations: tell truncations from terminations.
    """
    num_envs = state.starts.shape[0]
    key, key_reset = jax.random.split(key)
    fresh_state, fresh_observation = batch_reset(env, jax.random.split(key_reset, num_envs))

    def critic_inputs(observation: Observation) -> Array:
        inputs = observation.global_state[None] if critics_see_state else observation.obs
        return networks.standardize_critic_inputs(inputs)

    cuts = None
    if env.truncates and bootstrap_truncations:
        # Two cuts of one environment lie at least a time limit apart.
        slots = -(-rollout_length // (env.time_limit or 1))
        inputs = critic_inputs(state.observation)
        cuts = (
            jnp.zeros((slots, *inputs.shape), inputs.dtype),
            jnp.full((slots, num_envs), rollout_length),
            jnp.zeros(num_envs, jnp.int32),
        )

    num_sequences = rollout_length // chunk_length * num_envs
    # Written in place: stacked by the scan, time first, all of it would have to be copied for the update.
    buffers = jax.tree.map(
        lambda x: jnp.zeros((x.shape[0], chunk_length, num_sequences, *x.shape[2:]), x.dtype),
        {
            "obs": networks.standardize_obs(state.observation.obs),
            "critic_inputs": critic_inputs(state.observation),
            "action_mask": state.observation.action_mask,
            "alive": state.observation.alive,
            "action": networks.no_action(num_envs),
            "log_prob": jnp.zeros((networks.num_agents, num_envs)),
        },
    )

    def act(carry: tuple[RolloutState, Any, dict[str, Array]], inputs: tuple[Array, ...]):
        s, cuts, buffers = carry
        t, key_action, keys_step, choice = inputs
        seen = s.observation
        mask = seen.action_mask
        obs = networks.standardize_obs(seen.obs)
        distribution, hidden = networks.policy(
            actor_params,
            obs[:, None],
            None if mask is None else mask[:, None],
            s.actor_hidden,
            s.starts[None],
        )
        action = distribution.sample(key_action)
        log_prob = distribution.log_prob(action)[:, 0]
        action = action[:, 0]
        env_state, observation, outcome = batch_step(env, keys_step, s.env_state, action)
        done = outcome.done
        if cuts is not None:
            cut_inputs, cut_step, count = cuts
            slot = jnp.where(outcome.truncated, count, cut_inputs.shape[0])
            at = (slot, slice(None), jnp.arange(num_envs))
            cuts = (
                cut_inputs.at[at].set(critic_inputs(observation).swapaxes(0, 1), mode="drop"),
                cut_step.at[slot, jnp.arange(num_envs)].set(t, mode="drop"),
                count + outcome.truncated,
            )
        env_state = jax.tree.map(
            lambda new, old: jnp.where(done.reshape((-1,) + (1,) * (old.ndim - 1)), new[choice], old),
            fresh_state,
            env_state,
        )
        fresh = Observation(
            obs=fresh_observation.obs[:, choice],
            global_state=fresh_observation.global_state[choice],
            action_mask=None if mask is None else fresh_observation.action_mask[:, choice],
            alive=fresh_observation.alive[:, choice],
        )
        episode_return = s.episode_return + outcome.reward
        episode_length = s.episode_length + 1
        recorded = {
            "obs": obs,
            "critic_inputs": critic_inputs(seen),
            "action_mask": mask,
            "alive": seen.alive,
            "action": action,
            "log_prob": log_prob,
        }
        place = (0, t % chunk_length, t // chunk_length * num_envs)

        def write(buffer: Array, x: Array) -> Array:
            return jax.lax.dynamic_update_slice(buffer, x[:, None], (*place, *[0] * (x.ndim - 2)))

        buffers = jax.tree.map(write, buffers, recorded)
        outcomes = {
            "starts": s.starts,
            "terminated": outcome.terminated if bootstrap_truncations else done,
            "done": done,
            "won": outcome.won,
            "reward": outcome.reward,
            "episode_return": episode_return,
            "episode_length": episode_length,
        }
        s = s.replace(
            env_state=env_state,
            observation=select_observation(done, fresh, observation),
            starts=done,
            actor_hidden=hidden[:, 0],
            episode_return=jnp.where(done, 0.0, episode_return),
            episode_length=jnp.where(done, 0, episode_length),
        )
        return (s, cuts, buffers), outcomes

    def chunk(carry: tuple[RolloutState, Any, dict[str, Array]], inputs: tuple[Array, ...]):
        hidden = carry[0].actor_hidden
        carry, outcomes = jax.lax.scan(act, carry, inputs)
        return carry, (outcomes, hidden)

    # Drawn at once: in small environments, what each draw costs by itself would take most of a step.
    key_action, key_step, key_choice = jax.random.split(key, 3)
    steps = (
        jnp.arange(rollout_length),
        jax.random.split(key_action, rollout_length),
        jax.random.split(key_step, (rollout_length, num_envs)),
        jax.random.randint(key_choice, (rollout_length, num_envs), 0, num_envs),
    )
    steps = jax.tree.map(lambda x: x.reshape((-1, chunk_length, *x.shape[1:])), steps)
    (state, cuts, buffers), (outcomes, hidden) = jax.lax.scan(chunk, (state, cuts, buffers), steps)
    return state, Trajectory(
        **buffers,
        **jax.tree.map(lambda x: x.reshape((rollout_length, num_envs)), outcomes),
        actor_hidden=as_sequences(hidden.swapaxes(0, 1), 1)[:, 0],
        last_inputs=critic_inputs(state.observation),
        last_starts=state.starts,
        cut_inputs=None if cuts is None else cuts[0],
        cut_step=None if cuts is None else cuts[1],
    )


def evaluate_states(
    networks: ActorCritic,
    critic_params: Any,
    trajectory: Trajectory,
    hidden: Array,
    block_size: int | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Values of a whole trajectory, and of the states behind the ends.

    Args:
        networks: the networks.
        critic_params: ``params["critic"]``.
        trajectory: what was collected.
        hidden: [c, B, H] the critics' states before the first step.
        block_size: samples that feed-forward critics take at a time; recurrent ones take sequence after
            sequence.

    Returns:
        - [c, T, B] values of the states acted in, in the critic's units.
        - [c, T, B] values of the states that followed: the next one, or the one at which a time limit cut
          the episode (undefined behind a termination).
        - [c, N, H] recurrent states before each sequence.
        - [c, B, H] recurrent states after the last step.
    """
    num_envs, cut_step = hidden.shape[1], trajectory.cut_step
    _, length, count, _ = trajectory.critic_inputs.shape
    starts = as_sequences(trajectory.starts[None], length)[0]
    if networks.state_size:
        blocks, first = Blocks(1, len(hidden), count // num_envs, num_envs), hidden
    else:
        blocks = make_blocks((len(hidden), length, count), block_size)
        first = networks.initial_critic_hidden(blocks.sequences)[: blocks.rows]
    at_cut = None if cut_step is None else jnp.zeros((hidden.shape[0], *cut_step.shape, hidden.shape[2]))

    def evaluate(carry: tuple[Array, Array | None], i: Array):
        before, at_cut = carry
        values, states = networks.value(
            critic_params,
            blocks.cut(i, trajectory.critic_inputs, 2),
            before,
            blocks.of_sequences(i, starts, 1),
            blocks.indices(i, None),
        )
        if at_cut is not None and networks.state_size:
            there = states[:, cut_step % length, jnp.arange(num_envs)]
            at_cut = jnp.where((cut_step // length == i)[..., None], there, at_cut)
        return (states[:, -1], at_cut), (values, before)

    (last, at_cut), (values, before) = jax.lax.scan(evaluate, (first, at_cut), jnp.arange(blocks.count))
    values = as_steps(blocks.joined(values), num_envs)
    before = before.swapaxes(0, 1).reshape((hidden.shape[0], count, networks.state_size))
    last = last if networks.state_size else hidden

    ends, end_hidden, end_starts = trajectory.last_inputs, last, trajectory.last_starts
    if cut_step is not None:
        # All the ends as one batch of (1 + K) * B states.
        ends = jnp.concatenate([ends[None], trajectory.cut_inputs])
        ends = ends.swapaxes(0, 1).reshape((ends.shape[1], -1, ends.shape[-1]))
        end_hidden = jnp.concatenate([last[:, None], at_cut], axis=1)
        end_hidden = end_hidden.reshape((last.shape[0], ends.shape[1], last.shape[-1]))
        end_starts = jnp.concatenate([end_starts, jnp.zeros(cut_step.size, bool)])
    end_values, _ = networks.value(critic_params, ends[:, None], end_hidden, end_starts[None])
    end_values = end_values[:, 0]

    following = jnp.concatenate([values[:, 1:], end_values[:, None, :num_envs]], axis=1)
    if cut_step is not None:
        cut_values = end_values[:, num_envs:].reshape((-1, *cut_step.shape))
        following = following.at[:, cut_step, jnp.arange(num_envs)].set(cut_values, mode="drop")
    return values, following, before, last
