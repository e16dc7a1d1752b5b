"""Advantages, losses and normalisation against float64 NumPy, written from the formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finite import assert_allclose, assert_array_equal
from fp3o_jax.method import losses, metrics, normalization
from fp3o_jax.method.advantages import (
    TRACES,
    TDErrors,
    gae,
    normalize_advantages,
    preceding_agent_correction,
    relative_advantage,
    td_errors,
)

seeds = st.integers(0, 2**31 - 1)
#: Once for all examples: a scan outside of a compiled function is compiled at every call.
compiled = functools.cache(jax.jit)


def estimate(*inputs):
    return gae(td_errors(*inputs))


def gae_numpy(rewards, values, following, terminated, done, gamma, lam):
    n, steps, num_envs = values.shape
    out = np.zeros(values.shape)
    for i in range(n):
        for b in range(num_envs):
            advantage = 0.0
            for t in reversed(range(steps)):
                bootstrap = 0.0 if terminated[t, b] else following[i, t, b]
                delta = rewards[t, b] + gamma * bootstrap - values[i, t, b]
                advantage = delta + (0.0 if done[t, b] else gamma * lam * advantage)
                out[i, t, b] = advantage
    return out


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_gae(seed):
    rng = np.random.default_rng(seed)
    n, steps, num_envs = 3, 9, 4
    rewards = rng.normal(size=(steps, num_envs))
    values, following = rng.normal(size=(2, n, steps, num_envs))
    done = rng.random((steps, num_envs)) < 0.3
    terminated = done & (rng.random(done.shape) < 0.5)
    inputs = (rewards, values, following, terminated, done, 0.97, 0.9)
    expected = gae_numpy(*inputs)
    ours = compiled(estimate)(*inputs)
    assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_gae_with_lambda_one_is_the_return():
    rewards, zeros = np.ones((5, 1)), np.zeros((1, 5, 1))
    done = np.array([0, 0, 0, 0, 1], bool)[:, None]
    ours = gae(td_errors(*map(jnp.asarray, (rewards, zeros, zeros, done, done)), 0.5, 1.0))
    assert_allclose(ours[0, :, 0], [1.9375, 1.875, 1.75, 1.5, 1.0])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_preceding_agent_correction(seed):
    """Against the sum over all later steps that A2PO writes down."""
    rng = np.random.default_rng(seed)
    n, steps, num_envs = 2, 7, 3
    delta, log_weight = rng.normal(size=(2, n, steps, num_envs))
    decay = 0.9 * (rng.random((steps, num_envs)) > 0.2)
    ours = np.asarray(compiled(preceding_agent_correction)(TDErrors(delta, decay), log_weight))
    weight = np.minimum(1.0, np.exp(log_weight))
    for i, t, b in np.ndindex(n, steps, num_envs):
        expected = sum(
            np.prod([decay[t + j - 1, b] * weight[i, t + j, b] for j in range(1, k + 1)]) * delta[i, t + k, b]
            for k in range(steps - t)
        )
        assert_allclose(ours[i, t, b], expected, rtol=1e-4, atol=1e-5)
    plain = TDErrors(delta, decay)
    unmoved = compiled(preceding_agent_correction)(plain, np.zeros(delta.shape))
    assert_array_equal(unmoved, compiled(gae)(plain))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_advantages_are_normalised_per_agent_over_the_living(seed):
    rng = np.random.default_rng(seed)
    advantages = rng.normal(3.0, 5.0, (3, 6, 4))
    alive = rng.random(advantages.shape) < 0.6
    alive[0, 0, 0] = True
    alive[2] = False
    ours = np.asarray(normalize_advantages(jnp.asarray(advantages), jnp.asarray(alive, float)))
    for i in range(2):
        if alive[i].any():
            living = advantages[i][alive[i]]
            expected = (advantages[i] - living.mean()) / (living.std() + 1e-5)
            assert_allclose(ours[i], expected, rtol=1e-4, atol=1e-4)
    assert (ours[2] == 0).all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_clipped_surrogate(seed):
    rng = np.random.default_rng(seed)
    log_ratio, advantage = rng.normal(0, 0.5, 50), rng.normal(size=50)
    ratio = np.exp(log_ratio)
    expected = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    ours = losses.clipped_surrogate(jnp.asarray(log_ratio), jnp.asarray(advantage), 0.2)
    assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_weighted_surrogates(seed):
    rng = np.random.default_rng(seed)
    log_ratio, log_weight = rng.normal(0, 0.3, (2, 50))
    advantage = rng.normal(size=50)
    ratio, weight = np.exp(log_ratio), np.exp(log_weight)
    inputs = [jnp.asarray(x) for x in (log_ratio, log_weight, advantage)]
    outside = np.minimum(ratio * weight * advantage, np.clip(ratio, 0.8, 1.2) * weight * advantage)
    assert_allclose(losses.weighted_surrogate(*inputs, 0.2, 0.1), outside, rtol=1e-5, atol=1e-6)
    both = ratio * np.clip(weight, 0.9, 1.1)
    inside = np.minimum(both * advantage, np.clip(both, 0.8, 1.2) * advantage)
    ours = losses.double_clipped_surrogate(*inputs, 0.2, 0.1)
    assert_allclose(ours, inside, rtol=1e-5, atol=1e-6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_value_loss(seed):
    rng = np.random.default_rng(seed)
    value, old, target = rng.normal(0, 8, (3, 50))

    def huber(e):
        return np.where(np.abs(e) <= 10, e**2 / 2, 10 * (np.abs(e) - 5))

    clipped = old + np.clip(value - old, -0.2, 0.2)
    expected = np.maximum(huber(target - value), huber(target - clipped))
    ours = losses.clipped_value_loss(*map(jnp.asarray, (value, old, target)), 0.2, 10.0)
    assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_huber_is_symmetric():
    errors = jnp.array([0.5, 3.0, 12.0, 100.0])
    assert_array_equal(losses.huber(errors, 10.0), losses.huber(-errors, 10.0))


def test_explained_variance():
    targets, mask = jnp.array([1.0, 2.0, 3.0, 99.0]), jnp.array([1.0, 1.0, 1.0, 0.0])
    assert metrics.explained_variance(targets, targets, mask) == 1.0
    assert metrics.explained_variance(jnp.zeros(4), targets, mask) == pytest.approx(0.0, abs=1e-6)


def test_means_of_few_samples():
    """Of one alone it is that one; of none it is 0. So is the spread of either."""
    x = jnp.array([3.0, np.nan, np.nan])
    assert metrics.masked_mean(x, jnp.array([1.0, 0.0, 0.0])) == 3.0
    assert metrics.masked_mean(x, jnp.zeros(3)) == 0.0
    assert metrics.spread(x, jnp.array([1.0, 0.0, 0.0])) == metrics.spread(x, jnp.zeros(3)) == 0.0
    assert metrics.spread(x.at[1].set(5.0), jnp.array([1.0, 1.0, 0.0])) == 1.0


def test_explained_variance_where_there_is_nothing_to_explain():
    targets, mask = jnp.full(4, 2.0), jnp.ones(4)
    assert metrics.explained_variance(jnp.full(4, 5.0), targets, mask) == 1.0
    wrong = metrics.explained_variance(jnp.array([1.0, 2.0, 2.0, 2.0]), targets, mask)
    assert wrong == pytest.approx(1 - 0.1875 / 1e-8)


def test_value_norm():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 1])
    stats = normalization.init(2)
    mean, std = normalization.moments(stats, groups)
    assert_array_equal(mean, 0)
    assert_array_equal(std, 1)
    first = second = weight = np.zeros(2)
    for _ in range(5):
        targets = rng.normal(7, 3, (3, 10, 4)) + groups[:, None, None]
        mask = rng.random(targets.shape) < 0.7
        stats = normalization.update(
            stats, jnp.asarray(targets), jnp.asarray(mask, float), jnp.asarray(groups)
        )
        batch = [np.concatenate([targets[i][mask[i]] for i in np.flatnonzero(groups == g)]) for g in (0, 1)]
        decay = 0.99999
        first = decay * first + (1 - decay) * np.array([x.mean() for x in batch])
        second = decay * second + (1 - decay) * np.array([(x**2).mean() for x in batch])
        weight = decay * weight + (1 - decay)
    mean, std = normalization.moments(stats, jnp.asarray(groups))
    expected = first / weight
    assert_allclose(mean, expected[groups], rtol=1e-3)
    assert_allclose(std, np.sqrt(second / weight - expected**2)[groups], rtol=1e-2)


@given(seeds, st.sampled_from([0.0, 1e4, -1e5]))
@settings(max_examples=20, deadline=None)
def test_value_norm_keeps_a_small_deviation_beside_a_large_mean(seed, offset):
    rng = np.random.default_rng(seed)
    stats, groups = normalization.init(1), np.array([0, 0])
    weights, batches = [], []
    for _ in range(4):
        targets = (offset + rng.normal(0, 1.5, (2, 50, 8))).astype(np.float32)
        mask = rng.random(targets.shape) < 0.7
        poisoned = np.where(mask, targets, np.nan)
        stats = normalization.update(
            stats, jnp.asarray(poisoned), jnp.asarray(mask, float), jnp.asarray(groups)
        )
        batches.append(targets[mask].astype(np.float64))
        weights = [0.99999 * w for w in weights] + [0.00001]
    sizes = [len(b) for b in batches]
    weights = np.repeat([w / size for w, size in zip(weights, sizes, strict=True)], sizes)
    mean = np.average(np.concatenate(batches), weights=weights)
    std = np.sqrt(np.average((np.concatenate(batches) - mean) ** 2, weights=weights))
    ours = normalization.moments(stats, jnp.asarray(groups))
    assert_allclose(ours[0], mean, rtol=1e-6, atol=1e-5)
    assert_allclose(ours[1], std, rtol=2e-3)


def test_value_norm_pools_batches_of_different_means():
    """Batches of different sizes, for one critic a single sample each; a batch counts by its age alone."""
    rng = np.random.default_rng(0)
    groups, stats, batches = np.array([0, 1, 0]), normalization.init(2), [[], []]
    for mean in (3.0, -40.0, 0.5):
        targets = rng.normal(mean, 1.0 + abs(mean) / 9, (3, 4, 5)) * np.array([1, 7, 1])[:, None, None]
        mask = rng.random(targets.shape) < 0.6
        mask[1] = False
        mask[1, 2, 3] = True
        stats = normalization.update(stats, *map(jnp.asarray, (targets, mask.astype(float), groups)))
        batches[0].append(targets[[0, 2]][mask[[0, 2]]])
        batches[1].append(targets[1][mask[1]])
    mean, std = normalization.moments(stats, jnp.asarray(groups))
    age = 0.99999 ** np.arange(3)[::-1]
    for agent, group in enumerate(groups):
        first = np.average([x.mean() for x in batches[group]], weights=age)
        second = np.average([(x**2).mean() for x in batches[group]], weights=age)
        assert_allclose(mean[agent], first, rtol=1e-5)
        assert_allclose(std[agent], np.sqrt(second - first**2), rtol=1e-5)
    assert_allclose(stats.weight, 1 - 0.99999**3, rtol=1e-4)


def test_value_norm_of_more_samples_than_a_sum_can_tell_apart():
    """Their sum in float32 is off by more than their deviation."""
    targets = (1e6 + np.random.default_rng(0).normal(0, 1.5, (1, 400, 500))).astype(np.float32)
    stats = normalization.update(
        normalization.init(1), jnp.asarray(targets), jnp.ones(targets.shape), jnp.zeros(1, int)
    )
    mean, std = normalization.moments(stats, jnp.zeros(1, int))
    assert_allclose(mean, targets.astype(float).mean(), rtol=0, atol=0.1)
    assert_allclose(std, targets.astype(float).std(), rtol=1e-3)


def test_value_norm_divides_by_no_less_than_a_tenth():
    stats = normalization.update(
        normalization.init(1), jnp.full((1, 4), 5.0), jnp.ones((1, 4)), jnp.zeros(1, int)
    )
    assert_allclose(normalization.moments(stats, jnp.zeros(1, int)), [[5.0], [0.1]], rtol=1e-6)


def test_value_norm_of_a_critic_without_samples_stays():
    """Before it has had any, and after."""
    groups, rng = jnp.array([0, 1]), np.random.default_rng(0)

    def update(stats, *counted):
        targets = jnp.asarray(rng.normal(5.0, 2.0, (2, 8)), jnp.float32)
        mask = jnp.array(counted)[:, None] * jnp.ones((2, 8))
        return normalization.update(stats, jnp.where(mask > 0, targets, jnp.nan), mask, groups)

    stats = update(normalization.init(2), 1.0, 0.0)
    assert stats.weight[0] > 0
    assert [float(x[1]) for x in stats] == [0.0, 0.0, 0.0]
    both = update(stats, 1.0, 1.0)
    after = update(both, 1.0, 0.0)
    for new, old in zip(after, both, strict=True):
        assert_array_equal(new[1], old[1])
        assert new[0] != old[0] and old[1] != 0


@given(seeds, st.sampled_from(["gae_trace", "speedup"]))
@settings(max_examples=20, deadline=None)
def test_the_traces_of_a2pos_code(seed, name):
    """Against the sums over all later steps, factor by factor."""
    rng = np.random.default_rng(seed)
    steps, num_envs, lam = 7, 3, 0.8
    delta, log_weight = rng.normal(size=(2, 1, steps, num_envs))
    decay = 0.9 * (rng.random((steps, num_envs)) > 0.2)
    ours = np.asarray(compiled(TRACES[name])(TDErrors(delta, decay), log_weight, lam))
    for t, b in np.ndindex(steps, num_envs):
        expected, kept, decayed = delta[0, t, b], 1.0, 1.0
        for later in range(t + 1, steps):
            weight = np.exp(log_weight[0, later, b])
            kept = min(1.0, kept * weight) if name == "speedup" else kept * lam * min(1.0, weight)
            decayed *= decay[later - 1, b]
            expected += kept * decayed * delta[0, later, b]
        assert_allclose(ours[0, t, b], expected, rtol=1e-4, atol=1e-5)


def test_joint_normalisation_is_over_all_living_samples():
    rng = np.random.default_rng(0)
    advantages, alive = rng.normal(size=(3, 4, 5)) * [[[1]], [[3]], [[9]]], rng.random((3, 4, 5)) < 0.7
    ours = np.asarray(normalize_advantages(jnp.asarray(advantages), jnp.asarray(alive), "joint"))
    living = advantages[alive]
    assert_allclose(ours, (advantages - living.mean()) / (living.std() + 1e-5), rtol=1e-4, atol=1e-5)
    assert not normalize_advantages(jnp.asarray(advantages), jnp.zeros(alive.shape), "joint").any()


def test_small_advantages_are_divided_by_their_deviation_and_no_less_than_the_floor():
    advantages = 1e-5 * np.array([[1.0, -1.0, 3.0, 7.0], [2.0, 0.0, 0.0, 0.0]])
    alive = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    ours = normalize_advantages(jnp.asarray(advantages), jnp.asarray(alive))
    living = advantages[0, :3]
    assert_allclose(ours[0, :3], (living - living.mean()) / (living.std() + 1e-5), rtol=1e-4)
    # A single sample is its own mean.
    assert ours[1, 0] == 0


def test_each_agent_s_own_rewards():
    rng = np.random.default_rng(0)
    rewards, values, following = rng.normal(size=(3, 2, 6, 3))
    done = rng.random((6, 3)) < 0.3
    for i in range(2):
        own = rewards[i], values[i : i + 1], following[i : i + 1]
        expected = gae_numpy(*own, done, done, 0.9, 0.8)
        ours = compiled(estimate)(rewards, values, following, done, done, 0.9, 0.8)
        assert_allclose(ours[i], expected[0], rtol=1e-4, atol=1e-5)


def test_relative_advantages_of_few_samples():
    """Values that all agents share; one agent has a single living sample, and one value is nearly 0."""
    advantages, values = jnp.array([[2.0, 9.0, -3.0], [4.0, 5.0, 6.0]]), jnp.array([[4.0, 0.0, 1e-9]])
    alive = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    assert_allclose(relative_advantage(advantages, values, alive), [0.5, (1.0 + 6.0e8) / 2], rtol=1e-5)


def test_relative_advantages_are_of_living_samples():
    rng = np.random.default_rng(0)
    advantages, values = rng.normal(size=(2, 3, 4, 5))
    alive = rng.random((3, 4, 5)) < 0.7
    alive[2] = False
    ours = relative_advantage(jnp.asarray(advantages), jnp.asarray(values), jnp.asarray(alive))
    expected = [
        np.abs(a / v)[m].mean() if m.any() else 0.0 for a, v, m in zip(advantages, values, alive, strict=True)
    ]
    assert_allclose(ours, expected, rtol=1e-5)
    assert np.isfinite(relative_advantage(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones((1, 2)))).all()
