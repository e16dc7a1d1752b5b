"""Statistics over seeds and tasks that a few runs can bear.

The choice of statistics, and the bootstrap stratified by task, follow Agarwal et al., 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Scores of a method are
a list of tasks (environments), each an array with one score per seed; tasks may differ in their number of
seeds, and each seed counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A statistic and the ends of its confidence interval, which are NaN where there is none."""

    value: float
    low: float
    high: float


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter, each rounded down.

    Args:
        scores: [..., S, ...], S of them along ``axis``. Below four nothing is cut: this is the mean.
        axis: the axis to reduce.

    Returns:
        ``scores`` without ``axis``.
    """
    ordered = np.sort(np.moveaxis(scores, axis, -1))
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def far_behind(scores: np.ndarray) -> np.ndarray:
    """Which seeds are far below the others, whatever the unit of the scores.

    A seed is, whose distance to the median is more than five times the median distance, which is about 3.4
    standard deviations of a normal distribution, and more than a tenth of the largest absolute score, without
    which the last percent would count once all the others agree.

    Args:
        scores: [S]. Below four nobody is: the median would be one of two or three.

    Returns:
        Booleans [S].
    """
    if len(scores) < 4:
        return np.zeros(len(scores), bool)
    below = np.median(scores) - scores
    return below > max(5 * np.median(np.abs(below)), 0.1 * np.abs(scores).max())


def pooled(statistic: Callable[..., np.ndarray]) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """The statistic of all scores of a method, whatever the task.

    Args:
        statistic: reduces ``axis`` of an array, such as :func:`iqm`, ``np.mean`` or ``np.median``.

    Returns:
        A function from tasks, each [..., S_t], to [...].
    """
    return lambda tasks: statistic(np.concatenate(tasks, axis=-1), axis=-1)


def probability_of_improvement(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 for one random seed of each method, averaged over tasks.

    For one task this is the Mann-Whitney U statistic, divided by the number of pairs.

    Args:
        x: for each task, scores [..., S_t] of one method.
        y: for the same tasks, scores [..., S'_t] of the other.

    Returns:
        [...], between 0 and 1.
    """
    differences = (a[..., :, None] - b[..., None, :] for a, b in zip(x, y, strict=True))
    return np.mean([(np.sign(d) / 2 + 0.5).mean((-2, -1)) for d in differences], axis=0)


def stratified_bootstrap(
    statistic: Callable[..., np.ndarray],
    *methods: Sequence[np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic with its percentile bootstrap interval; seeds are drawn anew within each task.

    Args:
        statistic: from methods, each a list of tasks [..., S_t], to [...].
        methods: what the statistic is of: for each method its tasks, each [S_t].
        confidence: probability mass of the interval.
        resamples: how often each task's seeds are drawn, with replacement.
        seed: of the draws, so that the same scores always give the same interval.

    Returns:
        The statistic of the scores and its interval. There is no interval (NaN) where a task has a single
        seed, about whose spread nothing is known.
    """
    value = float(statistic(*methods))
    if any(len(task) < 2 for tasks in methods for task in tasks):
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    draws = [[task[rng.integers(len(task), size=(resamples, len(task)))] for task in ts] for ts in methods]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(*draws), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
