"""A run whose environments are in shards: what is said of all samples together is the same as of the whole.

The update's own part of it is in ``test_invariances``, several devices in ``test_devices``.
"""

import jax
import numpy as np
import pytest

from finite import assert_allclose
from fp3o_jax import Config, ConfigError, make_train
from fp3o_jax.kernels.shards import over_shards, own_key, total
from fp3o_jax.train import TrainState, _episode_metrics

ENVS, STEPS, SHARDS = 4, 6, 2
CONFIG = Config(
    **{"env": "mpe/simple_spread", "num_envs": ENVS, "rollout_length": STEPS, "hidden_sizes": (8,)},
    normalize_obs="running",
)


def cut(trajectory):
    """[SHARDS, ...] of each array the part that concerns half of the environments."""
    halves = np.split(np.arange(ENVS), SHARDS)

    def of_shard(name, x):
        if name in ("obs", "critic_inputs", "action_mask", "alive", "action", "log_prob"):
            return np.stack([x[:, :, (np.arange(STEPS)[:, None] * ENVS + half).ravel()] for half in halves])
        axis = 2 if name in ("value", "next_value") else 1
        return np.stack([np.take(x, half, axis) for half in halves])

    fields = {name: getattr(trajectory, name) for name in trajectory.__dataclass_fields__}
    cut = {n: of_shard(n, np.asarray(x)) for n, x in fields.items() if x is not None and n != "statistics"}
    return trajectory.replace(**cut)


def test_targets_and_metrics_of_shards_are_those_of_the_whole():
    trainer = make_train(CONFIG)
    state = jax.jit(trainer.init)(jax.random.key(0))
    _, trajectory = jax.jit(trainer.collect)(state, jax.random.key(1))
    rng = np.random.default_rng(0)
    # Of another mean in each half, and dead agents and ends in some places alone.
    trajectory = trajectory.replace(
        reward=rng.normal(np.array([0, 1, 5, 9]), size=(STEPS, ENVS)),
        alive=rng.random(trajectory.alive.shape) < 0.7,
        done=rng.random((STEPS, ENVS)) < 0.3,
        episode_return=rng.normal(np.array([0, 1, 5, 9]), size=(STEPS, ENVS)),
    )
    trajectory = jax.tree.map(lambda x: np.asarray(x, np.float32) if x.dtype == float else x, trajectory)

    def said(trajectory):
        targets = trainer.targets(state, trajectory)
        metrics = _episode_metrics(trajectory, state.episodes)
        return targets.batch.advantage, (targets.value_norm, targets.explained_variance, metrics)

    whole_advantage, whole = jax.jit(said)(trajectory)
    shards = cut(trajectory)
    axes = jax.tree.map(lambda _: 0, shards).replace(statistics=None)
    advantage, of_shards = jax.jit(over_shards(said, SHARDS, (axes,), (0, None)))(shards)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=2e-5), of_shards, whole)
    index = np.arange(STEPS * ENVS).reshape((STEPS, ENVS))
    for shard, envs in enumerate(np.split(np.arange(ENVS), SHARDS)):
        mine = np.asarray(whole_advantage)[:, :, index[:, envs].ravel()]
        assert_allclose(advantage[shard], mine, rtol=2e-5, atol=2e-5)


def test_what_shards_have_seen_counts_together():
    trainer = make_train(CONFIG)
    networks, rng = trainer.networks, np.random.default_rng(0)
    params = jax.jit(trainer.init)(jax.random.key(0)).params
    n, sizes = networks.num_agents, (max(trainer.env.obs_sizes), trainer.env.state_size)
    obs = rng.normal(3.0, 2.0, (n, ENVS, sizes[0])).astype(np.float32)
    state = rng.normal(-5.0, 3.0, (1, ENVS, sizes[1])).astype(np.float32)
    alive = rng.random((n, ENVS)) < 0.7

    def see(obs, state, alive):
        return networks.with_seen(params, networks.see(networks.nothing_seen(), obs, state, alive))

    halves = [np.stack(np.split(x, SHARDS, axis=1)) for x in (obs, state, alive)]
    of_shards = jax.jit(over_shards(see, SHARDS, (0, 0, 0), None))(*halves)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-5, atol=1e-5), of_shards, see(obs, state, alive))


def test_a_state_in_shards():
    """Each shard has environments of its own, and all else is one; three updates change all of it."""
    trainer = make_train(CONFIG.replace(env_shards=SHARDS, total_env_steps=3 * ENVS * STEPS))
    state = jax.jit(trainer.init)(jax.random.key(0))
    obs = np.asarray(state.rollout.observation.obs)
    assert obs.shape[:3] == (SHARDS, 3, ENVS // SHARDS)
    assert len(np.unique(obs.round(6), axis=None)) > obs.size // 2  # no shard repeats another one
    new = jax.jit(trainer)(jax.random.key(0))
    shapes = [jax.tree.map(np.shape, tree) for tree in (state, new["state"])]
    assert shapes[0] == shapes[1]
    assert new["metrics"]["env_steps"].tolist() == [24, 48, 72]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new["state"].params))
    assert TrainState.layout("run", "shard").rollout == "shard"


def test_without_shards_nothing_is_mapped():
    key = jax.random.key(0)
    assert own_key(key) is key
    assert total(key) is key
    assert over_shards(total, 1, None, None) is total
    keys = jax.jit(over_shards(own_key, 4, None, 0))(key)
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 4


def test_shards_that_do_not_come_out_even_are_refused():
    with pytest.raises(ConfigError, match="env_shards=3 must divide num_envs=4: 2 or 4 would"):
        CONFIG.replace(env_shards=3)
    with pytest.raises(
        ConfigError, match="num_minibatches=8 must divide the 12 samples of each of env_shards=2"
    ):
        CONFIG.replace(env_shards=2, num_minibatches=8)
