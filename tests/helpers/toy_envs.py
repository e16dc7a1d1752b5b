"""Environments that show one thing each."""

import jax
import jax.numpy as jnp

from fp3o_jax import Environment
from fp3o_jax.envs import Observation, Outcome


def _environment(name, reset, step, obs_size, state_size, num_actions=3, truncates=True, **settings):
    return Environment(
        name=name,
        agents=("agent_0", "agent_1"),
        obs_sizes=(obs_size,) * 2,
        action_sizes=(num_actions,) * 2,
        discrete=True,
        state_size=state_size,
        time_limit=settings.pop("time_limit", None),
        truncates=truncates,
        reports_wins=False,
        agent_types=("agent",) * 2,
        reset=reset,
        step=step,
        **settings,
    )


def mortal(seen_by_the_dead, dead_at=(1, 2, 3, 4, 5), **settings):
    """Episodes of 5 steps, after those of which in ``dead_at`` agent 1 is dead. Dead it sees
    ``seen_by_the_dead``, and is free to act; the reward is what the living do."""
    dead = jnp.zeros(6, bool).at[jnp.array(dead_at)].set(True)

    def observe(t, features):
        alive = jnp.array([True, False]) | ~dead[t]
        obs = jnp.where(alive[:, None], features, seen_by_the_dead)
        state = obs.ravel() if settings.get("joint_state") else features[0]
        return Observation(obs, state, jnp.ones((2, 3), bool), alive)

    def features(key):
        return jax.random.normal(key, (2, 4))

    def reset(key):
        return jnp.zeros((), jnp.int32), observe(0, features(key))

    def step(key, t, actions):
        right = actions == jnp.array([0, 2])
        reward = right[0] + jnp.where(dead[t], 0, right[1])
        outcome = Outcome(reward.astype(jnp.float32), jnp.zeros((), bool), t == 4, jnp.zeros((), bool))
        return t + 1, observe(t + 1, features(key)), outcome

    return _environment("mortal", reset, step, 4, **{"state_size": 4, **settings})


def state_of(start, t):
    """The global state of :func:`dated`."""
    return jnp.stack([start, t / 10.0, jnp.sin(1.0 * t), jnp.ones_like(start)], -1)


def dated(shortest, longest):
    """Each episode has a number of its own, which is its reward, and is cut after ``shortest`` to ``longest``
    steps; the state is the number and the time."""

    def observe(state):
        seen = state_of(state["start"], state["t"])
        return Observation(jnp.stack([seen, seen]), seen, jnp.ones((2, 3), bool), jnp.ones(2, bool))

    def reset(key):
        key_start, key_limit = jax.random.split(key)
        state = {
            "start": jax.random.uniform(key_start),
            "limit": jax.random.randint(key_limit, (), shortest, longest + 1),
            "t": jnp.zeros((), jnp.int32),
        }
        return state, observe(state)

    def step(key, state, actions):
        state = state | {"t": state["t"] + 1}
        cut = state["t"] >= state["limit"]
        return state, observe(state), Outcome(state["start"], jnp.zeros((), bool), cut, jnp.zeros((), bool))

    return _environment("dated", reset, step, 4, 4, time_limit=100)
