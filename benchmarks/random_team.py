"""Whole pipeline updates of a team on random data, for benchmarks that need no environment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax import Config, xla
from fp3o_jax.config import Hyperparams
from fp3o_jax.method.advantages import normalize_advantages
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.schedules import CONDITIONS, make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import make_sharing
from harness import Repeated, compiled

# Too small to move a policy: every timed update works on the same numbers, and no ratio overflows.
LEARNING_RATE = 1e-9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What an update works on."""

    num_agents: int = 8
    """agents"""
    rollout_length: int = 400
    """steps of a rollout"""
    num_envs: int = 8
    """environments; with the steps, the samples of each agent"""
    obs_size: int = 128
    """features of an observation"""
    state_size: int = 200
    """features of what a critic sees"""
    num_actions: int = 10
    """discrete actions"""
    hidden_size: int = 64
    """width of every layer"""
    epochs: int = 5
    """epochs of each stage, one minibatch"""


def team_networks(sharing: str, sizes: Sizes, state_per_agent: bool = True) -> ActorCritic:
    """Feed-forward networks of a team whose agents see and do equally much."""
    n = sizes.num_agents
    return ActorCritic(
        sharing=make_sharing(sharing, None, n),
        obs_sizes=(sizes.obs_size,) * n,
        critic_sizes=(sizes.state_size,) * n,
        action_sizes=(sizes.num_actions,) * n,
        discrete=True,
        trunk=Trunk((sizes.hidden_size,) * 2),
        agent_id=False,
        one_critic=not state_per_agent,
    )


def random_batch(key: Array, networks: ActorCritic, sizes: Sizes, state_per_agent: bool) -> Batch:
    """Noise for every agent, as feed-forward networks take it; 80 % of the samples are of living agents.

    Args:
        key: PRNG key.
        networks: that are to learn from it.
        sizes: of the arrays.
        state_per_agent: whether the states are an array for each agent, or one for all of them.
    """
    n, count = sizes.num_agents, sizes.rollout_length * sizes.num_envs
    samples, keys = (n, 1, count), iter(jax.random.split(key, 7))
    valued = (networks.num_critics, 1, count)
    return Batch(
        obs=jax.random.normal(next(keys), (*samples, sizes.obs_size)),
        critic_inputs=jax.random.normal(
            next(keys), (n if state_per_agent else 1, 1, count, sizes.state_size)
        ),
        action_mask=jnp.ones((*samples, sizes.num_actions), bool),
        alive=jax.random.bernoulli(next(keys), 0.8, samples).astype(jnp.float32),
        starts=jnp.zeros((1, 1, count), bool),
        action=jax.random.randint(next(keys), samples, 0, sizes.num_actions),
        # Fresh policies are all but uniform.
        log_prob=jnp.full(samples, -jnp.log(float(sizes.num_actions))),
        advantage=jax.random.normal(next(keys), samples),
        value=jax.random.normal(next(keys), valued),
        target=jax.random.normal(next(keys), valued),
        actor_hidden=None,
        critic_hidden=None,
    )


class Team(NamedTuple):
    """What is the same for every algorithm.

    Attributes:
        networks: of a team.
        begin: key -> their first state.
        draw: key -> a batch.
    """

    networks: ActorCritic
    begin: Callable[[Array], Any]
    draw: Callable[[Array], Batch]


@functools.cache
def random_team(sharing: str, sizes: Sizes, state_per_agent: bool) -> Team:
    """A team and its data, as functions that are jitted."""
    networks = team_networks(sharing, sizes, state_per_agent)

    @jax.jit
    def begin(key: Array) -> tuple[Any, Any, Array]:
        key, key_init = jax.random.split(key)
        params = networks.init(key_init)
        return params, {part: optimizer.init(params[part]) for part in params}, key

    return Team(networks, begin, jax.jit(lambda key: random_batch(key, networks, sizes, state_per_agent)))


@functools.lru_cache(maxsize=1)
def drawn(sharing: str, sizes: Sizes, state_per_agent: bool) -> Batch:
    """One batch for every algorithm."""
    return random_team(sharing, sizes, state_per_agent).draw(jax.random.key(1))


def update_of(
    networks: ActorCritic, algorithm: str, sizes: Sizes
) -> Callable[[tuple[Any, Any, Array], Batch, Any], tuple[Any, Any]]:
    """One whole update: all stages of a new schedule, and the advantages' normalisation.

    Args:
        networks: of the team.
        algorithm: fp3o, mappo or happo.
        sizes: of team, networks and data.

    Returns:
        ``step(state, batch, hyperparams) -> (state, metrics)``.
    """
    chosen = make_algorithm(algorithm)
    update = PipelineUpdate(
        networks,
        chosen,
        epochs=sizes.epochs,
        num_minibatches=1,
        condition=CONDITIONS["joint"],
        # As a training run has it.
        block_size=xla.block_size(sizes.hidden_size),
    )

    def step(state: tuple[Any, Any, Array], batch: Batch, hyperparams: Any) -> tuple[Any, Any]:
        params, opt_state, key = state
        key, key_schedule, key_update = jax.random.split(key, 3)
        schedule = chosen.schedule(key_schedule, sizes.num_agents)
        advantage = jnp.broadcast_to(batch.target - batch.value, batch.alive.shape)
        batch = batch.replace(advantage=normalize_advantages(advantage, batch.alive))
        params, opt_state, metrics = update(params, opt_state, batch, schedule, key_update, hyperparams)
        return (params, opt_state, key), metrics

    return step


def rates() -> Hyperparams:
    """The continuous settings of every update here."""
    config = Config(actor_lr=LEARNING_RATE, critic_lr=LEARNING_RATE)
    return jax.tree.map(jnp.float32, config.hyperparams)


def random_update(
    algorithm: str, sharing: str, sizes: Sizes, state_per_agent: bool = True
) -> tuple[Repeated, float]:
    """:func:`update_of` a team on random data, compiled.

    Args:
        algorithm: fp3o, mappo or happo.
        sharing: full, partial or none.
        sizes: of team, networks and data.
        state_per_agent: see :func:`random_batch`.

    Returns:
        A program without arguments, each call of which goes on from the last, and the seconds that its
        compilation took.
    """
    networks, begin, _ = random_team(sharing, sizes, state_per_agent)
    step, hyperparams = update_of(networks, algorithm, sizes), rates()
    batch = drawn(sharing, sizes, state_per_agent)
    state = begin(jax.random.key(0))
    # Batch and rates are arguments, not constants: XLA must not work anything out beforehand.
    program, seconds = compiled(step, state, batch, hyperparams, donate_argnums=0)
    return Repeated(lambda state: program(state, batch, hyperparams), state), seconds
