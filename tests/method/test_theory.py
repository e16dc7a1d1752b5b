"""The theory, on small games in closed form: hundreds of random games, every quantity exact, float64.

The cases come from ``experiments/theory/tabular.py``. Tolerances are for rounding: returns are of order 1.
"""

import functools

import jax
import numpy as np
import pytest

import tabular
from finite import assert_allclose, assert_finite

SHARINGS = tabular.SHARINGS
COUNT = 200
ROUNDING = 1e-9


@functools.cache
def outcomes(sharing, n, states=3, gamma=0.9, noise=0.0):
    """(full pipeline, sequential) from ``COUNT`` random games and starts, as NumPy."""
    cases = tabular.random_cases(0, COUNT, sharing, n=n, states=states, gamma=gamma, noise=noise)
    with jax.enable_x64(True):
        both = jax.device_get((_updated(tabular.full_pipeline)(cases), _updated(tabular.sequential)(cases)))
    assert_finite(both)
    return both


@functools.cache
def _updated(update):
    return jax.jit(jax.vmap(update))


def matrix_games(sharing, noise=0.0):
    return outcomes(sharing, 3, states=1, gamma=0.0, noise=noise)


def test_solutions_are_exact():
    """Against long sums in NumPy, action by action and state by state."""
    n, states, actions, gamma = 2, 3, 2, 0.7
    case = jax.tree.map(lambda x: x[0], tabular.random_cases(1, 1, "none", n=n, states=states, gamma=gamma))
    with jax.enable_x64(True):
        policy = np.asarray(tabular.policies(case.params, n))
        solution = jax.device_get(tabular.solve(case.game, policy))
    acts = [(a, b) for a in range(actions) for b in range(actions)]
    joint = np.array([[policy[0, s, a] * policy[1, s, b] for a, b in acts] for s in range(states)])
    values, occupied, visits = np.zeros(states), case.game.start, np.zeros(states)
    for t in range(200):
        q = case.game.reward + gamma * case.game.transition @ values
        values = (joint * q).sum(1)
        visits += gamma**t * occupied
        occupied = np.einsum("s,sk,skt->t", occupied, joint, case.game.transition)
    assert_allclose(solution.value, case.game.start @ values, rtol=1e-12)
    assert_allclose(solution.advantage, q - values[:, None], rtol=1e-9)
    assert_allclose(solution.visits, visits, rtol=1e-12)
    largest = np.abs(q - values[:, None]).max()
    assert_allclose(solution.penalty, 4 * gamma * largest / (1 - gamma) ** 2, rtol=1e-9)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_split_has_the_same_lower_bound(sharing):
    """The shared-lower-bound lemma: J(new) >= J(old) + sum_p E_new[A_p] - C sum_i KL_i for any split."""
    n = 3
    cases = tabular.random_cases(0, 3 * COUNT, sharing, n=n, states=3, noise=2.0)
    # New parameters from far to near, where the bound is at first loose and then tight.
    steps = np.logspace(0, -4, 3 * COUNT)
    rng = np.random.default_rng(5)

    def new_params(x):
        return x + steps.reshape((-1,) + (1,) * (x.ndim - 1)) * rng.normal(size=x.shape)

    def judge(case, params):
        old, new = tabular.policies(case.params, n), tabular.policies(params, n)
        solution = tabular.solve(case.game, old)
        parts = solution.advantage / n + case.split
        gains = jax.vmap(lambda part: tabular.expected(solution, new, part))(parts)
        uniform = tabular.expected(solution, new, solution.advantage)
        penalty = solution.penalty * tabular.divergences(old, new).sum()
        return gains, uniform, penalty, tabular.solve(case.game, new).value - solution.value

    with jax.enable_x64(True):
        gains, uniform, penalty, gain = jax.device_get(
            jax.jit(jax.vmap(judge))(cases, jax.tree.map(new_params, cases.params))
        )
    assert_finite((gains, uniform, penalty, gain))
    # Parts of their own, one sum.
    assert np.abs(gains - uniform[:, None] / n).max() > 1
    assert_allclose(gains.sum(1), uniform, atol=ROUNDING)
    slack = gain - (gains.sum(1) - penalty)
    assert (slack >= -ROUNDING).all()
    assert slack.min() < 1e-5


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_full_pipeline_never_lowers_the_return(sharing, n):
    """FP3O's claim of monotonic improvement, in Markov games with the exact penalty and the uniform split."""
    update, _ = outcomes(sharing, n)
    assert update.holds.all()
    for step in (update.independent, update.dependent, update.exact):
        assert (step.gain >= step.bound - ROUNDING).all()
        assert (step.bound >= -ROUNDING).all()
        assert (step.gain > 1e-6).mean() > 0.9


@pytest.mark.parametrize("sharing", SHARINGS)
def test_where_the_condition_holds_there_is_a_bound(sharing):
    """With the uniform split: also in matrix games, whose penalty is zero and whose steps are large."""
    update, _ = matrix_games(sharing)
    assert 0.3 < update.holds.mean() < 0.95
    for step in (update.independent, update.exact):
        assert (step.bound[update.holds] >= -ROUNDING).all()
        assert (step.gain[update.holds] >= -ROUNDING).all()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_claim_needs_small_steps(sharing):
    """Matrix games: no penalty, large steps. The return can fall, in two ways.

    Where the condition fails the dependent step is skipped, but the independent step is kept. Where it holds,
    the dependent step's policies move away from the intermediate ones that stand in for them.
    """
    update, _ = matrix_games(sharing)
    assert (update.independent.gain[~update.holds] < -0.01).any()
    assert (update.dependent.gain[update.holds] < -0.01).any()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_claim_needs_the_uniform_split(sharing):
    """Parts that are tables of their own: the two steps give pipeline p different agents.

    The independent step raises ``E[A_p]`` over the moves of i_p, the condition compares ``E[A_p]`` over the
    moves of j_p: their sums agree if all parts are alike, and not otherwise. Exact penalty and all.
    """
    update, _ = outcomes(sharing, 2, noise=1.0)
    assert (update.independent.bound[update.holds] < -1e-6).any()
    assert (update.independent.gain[update.holds] < -1e-6).any()


def test_sequential_updates_keep_their_promise_without_sharing():
    for n in (2, 3):
        _, update = outcomes("none", n)
        assert (update.gain >= update.claim - ROUNDING).all()
        assert (update.claim >= -ROUNDING).all()


@pytest.mark.parametrize("sharing", ["full", "partial"])
def test_sequential_updates_break_their_promise_under_sharing(sharing):
    """Same games, same penalty: tied policies of earlier agents move with those of later ones."""
    _, update = outcomes(sharing, 2)
    assert (update.gain < update.claim - 1e-6).any()
    assert ((update.claim > 1e-6) & (update.gain < -1e-6)).any()


def test_a_tug_of_war():
    """The sequential break in a game that can be checked by hand, and what FP3O makes of it.

    The one wants action 0 and is worth 2, the other wants action 1 and is worth 1. With one table for both,
    action 0 is right: the return is ``(1 + p) / (1 - gamma)``, p the probability of action 0.
    """
    case = tabular.tug_of_war()
    with jax.enable_x64(True):
        before = tabular.solve(case.game, tabular.policies(case.params, 2))
        assert float(before.value) == pytest.approx(1.5 / (1 - 0.5))
        update, pipelines = jax.device_get((tabular.sequential(case), tabular.full_pipeline(case)))
        p, q = (float(tabular.policies(x.params, 2)[0, 0, 0]) for x in (update, pipelines.dependent))
    # The second agent has pulled the first one along.
    assert p < 0.5 < q
    assert update.gain == pytest.approx((p - 0.5) / (1 - 0.5))
    assert update.gain < 0 < update.claim
    assert pipelines.holds
    assert pipelines.dependent.gain == pytest.approx((q - 0.5) / (1 - 0.5))
    assert pipelines.dependent.gain >= pipelines.dependent.bound > 0
