"""What an update learns from: its rows, its rollouts, what counts of it, and its minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_array_equal
from fp3o_jax.kernels.blocks import make_blocks
from fp3o_jax.method.batch import Batch, minibatches
from fp3o_jax.method.sequences import as_sequences

# All sizes differ: no axis is taken for another.
N, STEPS, ENVS, LENGTH = 3, 10, 2, 5
COUNT = STEPS // LENGTH * ENVS


def rollout(seed=0):
    """Arrays [n or 1, T, B, ...] by name, and a recurrent state before each of a rollout's steps."""
    rng = np.random.default_rng(seed)
    steps = (STEPS, ENVS)
    arrays = {
        "obs": rng.normal(size=(N, *steps, 4)),
        "critic_inputs": rng.normal(size=(1, *steps, 5)),
        "action_mask": rng.random((N, *steps, 2)) < 0.5,
        "alive": (rng.random((N, *steps)) < 0.6).astype(float),
        "starts": rng.random((1, *steps)) < 0.2,
        "action": rng.integers(1, 9, (N, *steps)),
        "log_prob": rng.normal(size=(N, *steps)),
        "advantage": rng.normal(size=(N, *steps)),
        "value": rng.normal(size=(1, *steps)),
        "target": rng.normal(size=(1, *steps)),
        "valued": (rng.random((N, *steps)) < 0.6).astype(float),
    }
    # Nobody is there in one step; in another one all are.
    for name in ("alive", "valued"):
        arrays[name][:, 1, 0], arrays[name][:, 2, 1] = 0.0, 1.0
    return arrays, rng.normal(size=(N, *steps, 7)), rng.normal(size=(1, *steps, 7))


def make_batch(**changes):
    arrays, *hidden = rollout()
    rows = {name: as_sequences(x, LENGTH) for name, x in arrays.items()}
    actor_hidden, critic_hidden = (as_sequences(h, LENGTH)[:, :1] for h in hidden)
    return Batch(**rows, actor_hidden=actor_hidden, critic_hidden=critic_hidden).replace(**changes)


def test_rows_of_agents():
    batch, agents = make_batch(), np.array([2, 0])
    ours = batch.of_agents(agents)
    assert_array_equal(ours.agents, [[[2]], [[0]]])
    for name in ("obs", "action_mask", "alive", "action", "valued", "actor_hidden"):
        assert_array_equal(getattr(ours, name), getattr(batch, name)[[2, 0]], err_msg=name)
    for name in ("critic_inputs", "starts", "value", "target", "critic_hidden"):
        assert_array_equal(getattr(ours, name), getattr(batch, name), err_msg=name)
    assert batch.of_agents(None) is batch and batch.agents is None
    apart, whole = (make_blocks((3, *batch.alive.shape[1:]), size) for size in (1, None))
    assert ours.named(apart) is ours and batch.named(whole) is batch
    named = batch.named(apart)
    assert_array_equal(named.agents, [[[0]], [[1]], [[2]]])
    assert_array_equal(named.row_agents, [0, 1, 2])
    assert batch.row_agents is None


def test_what_networks_take():
    batch = make_batch()
    obs, mask, hidden, starts, agents = batch.actor_view
    assert obs is batch.obs and mask is batch.action_mask and agents is None
    assert_array_equal(hidden, batch.actor_hidden[:, 0])
    assert_array_equal(starts, batch.starts[0])
    inputs, hidden, starts, agents = batch.of_agents(np.array([1, 2])).critic_view
    assert_array_equal(inputs, batch.critic_inputs)
    assert_array_equal(hidden, batch.critic_hidden[:, 0])
    assert_array_equal(agents, [1, 2])
    without = batch.replace(actor_hidden=None, critic_hidden=None)
    assert without.actor_view[2] is None and without.critic_view[1] is None


def test_sequences_are_rollouts_again():
    arrays, actor_hidden, critic_hidden = rollout()
    batch = make_batch(clip_eps=np.ones((N, 1, 1)), weights=np.ones((N, 1, 1, N), bool))
    ours = batch.as_rollout(ENVS)
    for name, x in arrays.items():
        assert_array_equal(getattr(ours, name), x, err_msg=name)
    assert_array_equal(ours.actor_hidden, actor_hidden[:, :1])
    assert_array_equal(ours.critic_hidden, critic_hidden[:, :1])
    assert ours.clip_eps is batch.clip_eps and ours.weights is batch.weights
    without = batch.replace(actor_hidden=None, critic_hidden=None).as_rollout(ENVS)
    assert without.actor_hidden is None and without.critic_hidden is None


@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("rows", [1, N])
def test_what_the_dead_did_is_zeros(rows, valued):
    values = np.random.default_rng(1).normal(size=(2, rows, LENGTH, COUNT))
    batch = make_batch(value=values[0], target=values[1])
    batch = batch if valued else batch.replace(valued=None)
    ours = batch.of_the_living()
    for name in ("action", "log_prob", "advantage"):
        x = getattr(batch, name)
        assert getattr(ours, name).dtype == jnp.asarray(x).dtype
        assert_array_equal(getattr(ours, name), np.where(batch.alive > 0, x, 0).astype(np.float32))
    counted = (batch.valued if valued else batch.alive) > 0
    counted = counted if rows == N else counted.any(0, keepdims=True)
    assert not counted.all() and counted.any()
    for name in ("value", "target"):
        assert_array_equal(getattr(ours, name), np.where(counted, getattr(batch, name), 0).astype(np.float32))
    assert ours.obs is batch.obs and ours.alive is batch.alive
    # Continuous actions have an axis more.
    ours = batch.replace(action=batch.obs).of_the_living()
    assert_array_equal(ours.action, np.where(batch.alive[..., None] > 0, batch.obs, 0).astype(np.float32))


def test_what_counts_for_critics():
    batch = make_batch()
    assert batch.for_critics().alive is batch.valued
    without = batch.replace(valued=None)
    assert without.for_critics() is without


def test_minibatches_are_every_sequence_once_in_each_epoch():
    assert minibatches(jax.random.key(0), 12, 3, 1) is None
    ours = np.asarray(minibatches(jax.random.key(0), 12, 3, 4))
    assert ours.shape == (12, 3)
    epochs = [tuple(epoch.ravel()) for epoch in ours.reshape((3, 4, 3))]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len(set(epochs)) == 3
