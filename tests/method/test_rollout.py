"""What is collected: ends have the values of their own states, and episodes beginnings of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose
from fp3o_jax import Config, make_train
from toy_envs import dated, state_of

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def collected(num_envs=4, rollout_length=32, limits=(3, 10), **settings):
    config = Config(
        num_envs=num_envs,
        rollout_length=rollout_length,
        total_env_steps=num_envs * rollout_length,
        hidden_sizes=(8,),
        chunk_length=8,
        **settings,
    )
    train = make_train(config, env=dated(*limits))

    @quick
    def run(key):
        state = train.init(key)
        rollout, first = train.collect(state, jax.random.key(1))
        _, second = train.collect(state.replace(rollout=rollout), jax.random.key(2))
        return state.params, first, second

    params, *trajectories = run(jax.random.key(0))
    return train, params, trajectories


@pytest.mark.parametrize("settings", [{}, {"recurrent": True}, {"algorithm": "ippo", "sharing": "none"}])
def test_every_end_has_the_value_of_its_own_state(settings):
    """Episodes are cut at random, far more often than ``time_limit`` says, in each of two rollouts."""
    train, params, trajectories = collected(**settings)
    networks, c = train.networks, train.networks.num_critics

    @quick
    def value_of_episode(start):  # [c, 11] at each time of the episode with this number
        inputs = state_of(jnp.full(11, start), jnp.arange(11))
        inputs = jnp.broadcast_to(inputs[None, :, None], (len(params["critic"]["trunk"]["bias_0"]), 11, 1, 4))
        starts = (jnp.arange(11) == 0)[:, None]
        inputs = networks.standardize_critic_inputs(None, inputs)
        return networks.value(params["critic"], inputs, networks.initial_critic_hidden(1), starts)[0][..., 0]

    cuts = 0
    for trajectory in trajectories:
        assert np.isfinite(trajectory.value).all() and np.isfinite(trajectory.next_value).all()
        done = np.asarray(trajectory.done)
        assert trajectory.value.shape == trajectory.next_value.shape == (c, *done.shape)
        on = ~done[:-1]
        same = np.asarray(trajectory.next_value)[:, :-1][:, on], np.asarray(trajectory.value)[:, 1:][:, on]
        assert_allclose(*same, rtol=1e-5, atol=1e-6)
        for t, b in np.argwhere(done):
            expected = value_of_episode(trajectory.reward[t, b])
            ours = trajectory.next_value[:, t, b], trajectory.value[:, t, b]
            length = int(trajectory.episode_length[t, b])
            assert_allclose(ours[0], expected[:, length], rtol=1e-4, atol=1e-5)
            assert_allclose(ours[1], expected[:, length - 1], rtol=1e-4, atol=1e-5)
            cuts += 1
    assert cuts > 4 * 2 * 32 / 10 - 8


@pytest.mark.parametrize(("num_envs", "rollout_length"), [(8, 400), (1, 100)])
def test_episodes_have_beginnings_of_their_own(num_envs, rollout_length):
    _, _, trajectories = collected(num_envs, rollout_length, limits=(16, 30))
    # What begins after the very last step is not seen.
    episodes = num_envs + np.concatenate([x.done for x in trajectories])[:-1].sum()
    starts = np.unique([x.reward for x in trajectories])
    assert len(starts) == episodes > 2 * num_envs * rollout_length / 30


def test_more_episodes_than_beginnings_go_round():
    _, _, (first, _) = collected(4, 32, limits=(2, 2), num_starts=3)
    assert len(np.unique(first.reward)) == 4 + 3
    assert int(first.done.sum()) == 4 * 16
