"""Environments of the kind that people bring: small, and each with one thing that is its own."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxmarl.environments import spaces
from jaxmarl.environments.multi_agent_env import MultiAgentEnv

from fp3o_jax.envs.matrix import payoff_game

STEPS = 5


@struct.dataclass
class State:
    done: jax.Array
    step: jax.Array
    sign: jax.Array


class Toy(MultiAgentEnv):
    """Two agents see a sign, and how far the episode is; action 0 or 1 is right for it, and 2 never."""

    def __init__(self, **spaces_of_actions):
        super().__init__(num_agents=2)
        self.action_spaces = {a: spaces.Discrete(3) for a in self.agents} | spaces_of_actions

    def reset(self, key):
        state = State(jnp.zeros((), bool), jnp.zeros((), jnp.int32), jax.random.rademacher(key, (), float))
        return self.get_obs(state), state

    def step_env(self, key, state, actions):
        right = [actions[a] == (state.sign > 0) for a in self.agents]
        step = state.step + 1
        done = step >= STEPS
        state = State(done, step, state.sign)
        rewards = {a: r.astype(float) for a, r in zip(self.agents, right, strict=True)}
        return self.get_obs(state), state, rewards, dict.fromkeys([*self.agents, "__all__"], done), {}

    def get_obs(self, state):
        seen = jnp.stack([state.sign, -state.sign, state.step.astype(float)])
        return dict.fromkeys(self.agents, seen)

    def get_world_state(self, state):
        return jnp.stack([state.sign, state.step.astype(float)])


class Aim(MultiAgentEnv):
    """One step, one agent, one continuous action: the reward is what lies between it and a target."""

    def __init__(self, low, high, target):
        super().__init__(num_agents=1)
        self.action_spaces = {a: spaces.Box(low, high, (1,)) for a in self.agents}
        self.target, self.scale = target, 1.0

    def reset(self, key):
        return self.get_obs(None), State(jnp.zeros((), bool), jnp.zeros((), jnp.int32), jnp.ones(()))

    def step_env(self, key, state, actions):
        (action,) = actions.values()
        reward = -jnp.abs(action[0] - self.target) * self.scale
        done = jnp.ones((), bool)
        info = {"action": action[0]}
        return (
            self.get_obs(None),
            state.replace(done=done),
            dict.fromkeys(self.agents, reward),
            dict.fromkeys([*self.agents, "__all__"], done),
            info,
        )

    def get_obs(self, state):
        return {a: jnp.array([1.0, 2.0]) for a in self.agents}

    def get_world_state(self, state):
        return jnp.ones(2)


def make(**options):
    """For ``brought_envs:make``."""
    return Toy(**options)


def make_game(bonus=0.0):
    """Four agents of two actions; with another bonus a game of the same sizes."""
    return payoff_game(lambda key, actions: bonus + actions[0].astype(float), 4, 2)


def make_broken():
    """For ``brought_envs:make_broken``: what agents see soon becomes NaN."""

    class Broken(Toy):
        def get_obs(self, state):
            return {a: jnp.where(state.step > 2, jnp.nan, x) for a, x in super().get_obs(state).items()}

    return Broken()
