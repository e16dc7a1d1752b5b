"""Pipeline updates on random batches, for benchmarks that need no environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fp3o_jax import Config, optimizer
from fp3o_jax.networks import ActorCritic
from fp3o_jax.schedules import CONDITIONS, make_algorithm
from fp3o_jax.sharing import make_sharing
from fp3o_jax.update import Batch, make_update


def random_update(
    algorithm: str,
    sharing: str,
    *,
    num_agents: int,
    samples: int,
    obs_size: int,
    state_size: int,
    num_actions: int,
    hidden_size: int = 64,
    epochs: int = 5,
) -> Callable[[], Any]:
    """A whole update of feed-forward networks, one minibatch, on ``samples`` random samples of each agent.

    Returns:
        A program of no arguments; every call updates the parameters that the one before left.
    """
    n, shape = num_agents, (num_agents, 1, samples)
    networks = ActorCritic(
        sharing=make_sharing(sharing, None, n),
        obs_sizes=(obs_size,) * n,
        critic_sizes=(state_size,) * n,
        action_sizes=(num_actions,) * n,
        discrete=True,
        hidden_size=hidden_size,
        recurrent=False,
        agent_id=False,
    )
    chosen = make_algorithm(algorithm)
    update = make_update(networks, chosen, epochs=epochs, num_minibatches=1, condition=CONDITIONS["off"])

    @jax.jit
    def begin(key: Any) -> tuple[Any, Any, Batch]:
        keys = iter(jax.random.split(key, 8))
        params = networks.init(next(keys))
        normal = lambda *size: jax.random.normal(next(keys), size)  # noqa: E731
        batch = Batch(
            obs=normal(*shape, obs_size),
            critic_inputs=normal(1, 1, samples, state_size),
            action_mask=jnp.ones((*shape, num_actions), bool),
            alive=jnp.ones(shape),
            starts=jnp.zeros(shape[1:], bool),
            action=jax.random.randint(next(keys), shape, 0, num_actions),
            log_prob=jnp.full(shape, -jnp.log(float(num_actions))),
            advantage=normal(*shape),
            value=normal(*shape),
            target=normal(*shape),
            actor_hidden=networks.initial_hidden(samples),
            critic_hidden=networks.initial_hidden(samples),
        )
        return params, {part: optimizer.init(params[part]) for part in params}, batch

    hp = jax.tree.map(jnp.float32, Config().hyperparams)

    def step(params: Any, opt_state: Any, key: Any, batch: Batch) -> tuple[Any, Any, Any, Any]:
        key, key_schedule, key_update = jax.random.split(key, 3)
        schedule = chosen.schedule(key_schedule, n)
        params, opt_state, metrics = update(params, opt_state, batch, schedule, key_update, hp)
        return params, opt_state, key, metrics

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    params, opt_state, batch = begin(jax.random.key(0))
    carry = (params, opt_state, jax.random.key(1))

    def run() -> Any:
        nonlocal carry
        *carry, metrics = compiled(*carry, batch)
        return carry[0], metrics

    return run
