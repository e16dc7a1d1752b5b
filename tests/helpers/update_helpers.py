"""A small team, a random batch for it, and compiled updates that tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from finite import assert_allclose, assert_finite
from fp3o_jax import Config
from fp3o_jax.method.advantages import TDErrors
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.schedules import CONDITIONS, make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import make_sharing

STEPS, ENVS, OBS, STATE, ACTIONS = 6, 4, 4, 5, 3
LENGTH, COUNT = 1, STEPS * ENVS
HP = Config(actor_lr=3e-3, critic_lr=3e-3).hyperparams


@functools.cache
def networks(sharing, n=3, agent_id=True, obs=OBS, actions=ACTIONS, one_critic=False, critics="actors"):
    """``obs`` and ``actions``: the size for each agent, or for all."""
    types = ("a", "a", "b")[:n] if n <= 3 else None
    return ActorCritic(
        sharing=make_sharing(sharing, types, n, critic_sharing=critics),
        obs_sizes=(obs,) * n if isinstance(obs, int) else obs,
        critic_sizes=(STATE,) * n,
        action_sizes=(actions,) * n if isinstance(actions, int) else actions,
        discrete=True,
        trunk=Trunk((8,)),
        agent_id=agent_id,
        one_critic=one_critic,
    )


@functools.cache
def compiled(nets, algorithm="fp3o", condition="joint", epochs=2):
    """The update; FP3O's also runs the schedules of those that differ from it in nothing else."""
    return jax.jit(
        PipelineUpdate(
            nets,
            make_algorithm(algorithm),
            epochs=epochs,
            num_minibatches=1,
            condition=CONDITIONS.get(condition, condition),
        )
    )


def start(nets):
    """Parameters and optimiser states, in JAX's working precision."""
    return _start(nets, jnp.result_type(float))


@functools.cache
def _start(nets, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), jax.jit(nets.init)(jax.random.key(1)))
    return params, {part: optimizer.init(params[part]) for part in params}


@functools.cache
def _log_prob(nets):
    return jax.jit(
        lambda params, batch: nets.policy(params["actor"], *batch.actor_view)[0].log_prob(batch.action)
    )


def log_prob_of(params, nets, batch):
    """Of the batch's actions under the policies of ``params``."""
    return _log_prob(nets)(params, batch)


def make_batch(params, nets, seed=0):
    n = nets.num_agents
    rng = np.random.default_rng(seed)
    dtype = jnp.result_type(float)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    samples = (n, LENGTH, COUNT)
    obs, action = normal(*samples, OBS), jnp.asarray(rng.integers(0, ACTIONS, samples))
    batch = Batch(
        obs=obs,
        critic_inputs=normal(1, LENGTH, COUNT, STATE),
        action_mask=None,
        alive=jnp.asarray(rng.random(samples) < 0.8, dtype),
        starts=jnp.asarray(np.zeros((1, LENGTH, COUNT), bool)),
        action=action,
        log_prob=jnp.asarray(np.zeros(samples), dtype),
        advantage=normal(*samples),
        value=normal(*samples),
        target=normal(*samples),
        actor_hidden=None,
        critic_hidden=None,
    )
    return batch.replace(log_prob=log_prob_of(params, nets, batch))


def make_errors(n, seed=0):
    """What advantages are summed up from, [n, T, B]."""
    rng, dtype = np.random.default_rng(seed), jnp.result_type(float)
    delta, decay = rng.normal(size=(n, STEPS, ENVS)), 0.9 * (rng.random((STEPS, ENVS)) < 0.8)
    return TDErrors(jnp.asarray(delta, dtype), jnp.asarray(decay, dtype))


def drawn(algorithm, seed, n=3, **settings):
    """A schedule."""
    return _draw(algorithm, n, tuple(sorted(settings.items())))(jax.random.key(seed))


@functools.cache
def _draw(algorithm, n, settings):
    member = make_algorithm(algorithm, **dict(settings))
    return jax.jit(lambda key: member.schedule(key, n))


def assert_same(a, b, atol=2e-6):
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=atol), a, b)


def differs(a, b):
    assert_finite(a, b)
    return any(np.abs(x - y).max() > 1e-4 for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
