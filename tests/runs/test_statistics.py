"""Statistics against closed forms, brute force and SciPy's own."""

import itertools

import numpy as np
import pytest
from scipy import stats

from finite import assert_allclose
from fp3o_jax.runs.statistics import iqm, pooled, probability_of_improvement, stratified_bootstrap


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_iqm_closed_forms():
    assert iqm(np.arange(1, 9)) == 4.5
    # 3, 4, 5, 6 remain: neither an outlier nor the order matters.
    assert iqm(np.array([1000.0, 2, 3, 4, 5, 6, 7, -1000])[[3, 0, 7, 5, 1, 2, 4, 6]]) == 4.5
    # Five: one is cut at each end. Three: none.
    assert iqm(np.array([0.0, 1, 2, 6, 100])) == 3
    assert iqm(np.array([0.0, 1, 8])) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 13])
def test_iqm_is_the_trimmed_mean(size, rng):
    scores = rng.normal(size=(4, size, 3))
    assert_allclose(iqm(scores, axis=1), stats.trim_mean(scores, 0.25, axis=1))


def test_pooled_takes_all_tasks_together():
    assert pooled(np.median)([np.array([1.0, 2]), np.array([3.0, 4, 100])]) == 3


def test_probability_of_improvement_by_brute_force(rng):
    # Small whole numbers, so that there are ties; as many seeds as one likes on either side.
    x = [rng.integers(0, 4, size) for size in (5, 3)]
    y = [rng.integers(0, 4, size) for size in (4, 6)]
    assert any(a == b for a in x[0] for b in y[0])
    per_task = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(*task)])
        for task in zip(x, y, strict=True)
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(per_task))
    assert probability_of_improvement(y, x) == pytest.approx(1 - np.mean(per_task))


def test_probability_of_improvement_is_mann_whitney(rng):
    x, y = rng.normal(size=6), rng.normal(size=9)
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([x], [y]) == pytest.approx(u / (6 * 9))


def test_probability_of_improvement_keeps_leading_axes(rng):
    x, y = rng.normal(size=(10, 2, 5)), rng.normal(size=(10, 2, 4))
    each = [probability_of_improvement(list(a), list(b)) for a, b in zip(x, y, strict=True)]
    together = probability_of_improvement([x[:, 0], x[:, 1]], [y[:, 0], y[:, 1]])
    assert_allclose(together, each)


def test_probability_of_improvement_needs_the_same_tasks():
    with pytest.raises(ValueError, match="shorter"):
        probability_of_improvement([np.zeros(2), np.zeros(2)], [np.zeros(2)])


@pytest.mark.parametrize("statistic", [iqm, np.mean, np.median])
def test_bootstrap_agrees_with_scipy(statistic, rng):
    scores = rng.normal(size=20)
    ours = stratified_bootstrap(pooled(statistic), [scores], resamples=20_000)
    theirs = stats.bootstrap(
        (scores,), statistic, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == statistic(scores)
    assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.03)


def test_bootstrap_of_two_methods_agrees_with_scipy(rng):
    x, y = rng.normal(0.5, 1, 12), rng.normal(size=15)

    def statistic(x, y, axis):
        return probability_of_improvement([x], [y])

    ours = stratified_bootstrap(probability_of_improvement, [x], [y], resamples=20_000)
    theirs = stats.bootstrap(
        (x, y), statistic, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.015)


def test_bootstrap_draws_within_each_task():
    """Tasks without spread leave no interval, however far apart they are."""
    interval = stratified_bootstrap(pooled(np.mean), [np.zeros(3), np.full(3, 10.0)])
    assert interval == (5, 5, 5)


def test_bootstrap_of_one_task_and_confidence(rng):
    scores = [rng.normal(size=10)]
    narrow = stratified_bootstrap(pooled(iqm), scores, confidence=0.5)
    wide = stratified_bootstrap(pooled(iqm), scores)
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high
    assert wide == stratified_bootstrap(pooled(iqm), scores)
    assert wide != stratified_bootstrap(pooled(iqm), scores, seed=1)


def test_no_interval_from_a_single_seed():
    value, low, high = stratified_bootstrap(pooled(iqm), [np.array([1.0, 2]), np.array([6.0])])
    assert value == 3
    assert np.isnan([low, high]).all()


def test_coverage(rng):
    """Of many repetitions, about 95% of the intervals hold the true mean; percentiles, a few less."""
    held = []
    for _ in range(300):
        tasks = [rng.normal(0, 1, 20), rng.normal(4, 2, 20)]
        _, low, high = stratified_bootstrap(pooled(np.mean), tasks, resamples=500)
        held.append(low < 2 < high)
    assert 0.89 < np.mean(held) < 0.99
