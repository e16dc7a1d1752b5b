"""The one interface through which the trainer sees an environment: stacked arrays, agents first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from fp3o_jax.envs.scenes import Scene
from fp3o_jax.envs.spaces import Bounds, existing_actions, playable


@struct.dataclass
class Observation:
    """What n agents and their critics see at one moment.

    Attributes:
        obs: [n, O] each agent's observation, zero-padded to the largest.
        global_state: [S] the state that centralised critics see; [0] where the environment has none.
        action_mask: [n, A] bool, which discrete actions are available; None if actions are continuous.
        alive: [n] bool, whether the agent can act.
    """

    obs: Array
    global_state: Array
    action_mask: Array | None
    alive: Array


@struct.dataclass
class Outcome:
    """What one step led to; each a scalar.

    Attributes:
        reward: the team's reward; or [n] each agent's own, where the environment says so.
        terminated: the episode reached its end: no value lies beyond.
        truncated: the episode was cut by a time limit.
        won: the episode ended with a victory, where the environment knows such a thing.
        diverged: the episode ended since the simulation was not finite any more, where an environment looks.
    """

    reward: Array
    terminated: Array
    truncated: Array
    won: Array
    diverged: Array | None = None

    @property
    def done(self) -> Array:
        return self.terminated | self.truncated

    @property
    def team_reward(self) -> Array:
        """The mean over agents where each has its own reward."""
        own = self.reward.ndim > self.terminated.ndim
        return self.reward.mean(-1) if own else self.reward


@dataclasses.dataclass(frozen=True)
class Environment:
    """One cooperative environment: sizes, and two pure functions for one copy of it.

    ``step`` never resets: the observation that it returns with the end of an episode is the last of that
    episode. Starting anew is the rollout's business.

    Attributes:
        name: as in ``Config.env``.
        agents: [n] names.
        obs_sizes: [n] observation features of each agent.
        action_sizes: [n] number of actions of each agent, or of action dimensions.
        discrete: kind of action: int [n], or float [n, A] padded to the largest.
        state_size: features of the global state; 0 if there is none.
        time_limit: no episode is longer than this many steps plus one; None if not known. It says how many
            initial states are worth drawing, and where the playing of a single episode gives up.
        truncates: whether ``truncated`` can ever be set.
        reports_wins: whether ``won`` means anything.
        agent_types: [n] type of each agent; None where types change from episode to episode.
        reset: key -> (state, Observation).
        step: (key, state, actions) -> (state, Observation, Outcome).
        scenes: states [T+1, ...] of an episode, as NumPy arrays -> T+1 pictures of them; None if there is
            nothing to draw, or if ``html`` or ``frames`` does it.
        html: such states -> an HTML page that plays them.
        frames: such states -> as many images [H, W, 3] uint8, one after another, for environments that draw
            themselves.
        step_seconds: how long a step is in the world that is shown; None if it has no such time.
        action_low, action_high: [n] of [A_i], the bounds to which ``step`` maps continuous actions (see
            :func:`~fp3o_jax.envs.spaces.to_bounds`); None where it takes them as they are.
        joint_state: the global state is all observations side by side, of the living: nothing else is known.
        own_rewards: each agent has its own reward, and no team has one (for independent learners alone).
    """

    name: str
    agents: tuple[str, ...]
    obs_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    discrete: bool
    state_size: int
    time_limit: int | None
    truncates: bool
    reports_wins: bool
    agent_types: tuple[Hashable, ...] | None
    reset: Callable[[Array], tuple[Any, Observation]]
    step: Callable[[Array, Any, Array], tuple[Any, Observation, Outcome]]
    scenes: Callable[[Any], list[Scene]] | None = None
    html: Callable[[Any], str] | None = None
    frames: Callable[[Any], Iterator[np.ndarray]] | None = None
    step_seconds: float | None = None
    action_low: Bounds | None = None
    action_high: Bounds | None = None
    joint_state: bool = False
    own_rewards: bool = False

    @property
    def num_agents(self) -> int:
        return len(self.agents)


def _batched(discrete: bool) -> Observation:
    """``out_axes`` that put the environment axis after the agent axis: [n, B, ...] and [B, ...]."""
    return Observation(obs=1, global_state=0, action_mask=1 if discrete else None, alive=1)


def batch_reset(env: Environment, keys: Array) -> tuple[Any, Observation]:
    """Resets one environment per key [B]; leaves of the state [B, ...], of the observation [n, B, ...]
    (the global state [B, S])."""
    state, observation = jax.vmap(env.reset, out_axes=(0, _batched(env.discrete)))(keys)
    # Of firm types, as steps return them: a weak one would have a program compiled again for its own result.
    state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
    return state, _seen(env, observation)


def batch_step(
    env: Environment, keys: Array, states: Any, actions: Array, alive: Array
) -> tuple[Any, Observation, Outcome]:
    """Steps one environment per key [B], with actions [n, B] or [n, B, A]; results as ``batch_reset``.

    Args:
        env: the environment.
        keys: [B].
        states: [B, ...].
        actions: of all agents.
        alive: [n, B] who acts. Where an episode ends and everyone is said to be done, as many environments
            do, which does not tell the dead, they see its last observation.
    """
    step = jax.vmap(env.step, in_axes=(0, 0, 1), out_axes=(0, _batched(env.discrete), 0))
    with jax.named_scope("environment"):  # as profiles show it
        states, observation, outcome = step(keys, states, actions)
    told = observation.alive | ~observation.alive.any(0)
    alive = jnp.where(outcome.done, alive & told, observation.alive)
    return states, _seen(env, observation.replace(alive=alive)), outcome


def of_living(x: Array, alive: Array) -> Array:
    """Zeros in place of what dead agents see; x [n, B, ...], alive [n, B]."""
    return jnp.where(alive.reshape(alive.shape + (1,) * (x.ndim - 2)), x, 0.0)


def _seen(env: Environment, observation: Observation) -> Observation:
    """What an environment shows [n, B, ...], as agents and critics may take it.

    Zeros for dead agents, whatever an environment fills in (Yu et al., 2022, mask death the same way): masks
    of a loss multiply, and a NaN times 0 is NaN. Where an agent has no action available, all that it has are:
    else padded ones could be drawn.
    """
    obs = of_living(observation.obs, observation.alive)
    state, mask = observation.global_state, observation.action_mask
    if env.joint_state:
        state = jnp.concatenate([obs[i, :, :size] for i, size in enumerate(env.obs_sizes)], axis=-1)
    if mask is not None:
        mask = playable(mask, existing_actions(env.action_sizes)[:, None])
    return observation.replace(obs=obs, global_state=state, action_mask=mask)


def take_observation(observation: Observation, index: Array) -> Observation:
    """Those of the environments ``index`` [B]."""
    axes = _batched(observation.action_mask is not None)
    return jax.tree.map(lambda x, axis: jnp.take(x, index, axis=axis), observation, axes)


def select_observation(done: Array, new: Observation, old: Observation) -> Observation:
    """``new`` in those of the B environments where ``done`` [B], else ``old``."""

    def select(x: Array, y: Array, env_axis: int) -> Array:
        shape = (1,) * env_axis + done.shape + (1,) * (x.ndim - env_axis - 1)
        return jnp.where(done.reshape(shape), x, y)

    axes = _batched(old.action_mask is not None)
    return jax.tree.map(select, new, old, axes)


def pad_last(x: Array, size: int) -> Array:
    """Zero-pads the last axis to ``size``."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])
