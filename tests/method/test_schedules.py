"""The algorithm family as data, against independent constructions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finite import assert_allclose, assert_array_equal
from fp3o_jax.method import advantages, losses
from fp3o_jax.method.schedules import ALGORITHMS, CONDITIONS, SELECTIONS, make_algorithm

agents = st.integers(1, 9)
seeds = st.integers(0, 2**31 - 1)


def draw(algorithm, n, seed=0, **kwargs):
    """A schedule and its masks, in NumPy."""
    return jax.device_get(_draw(algorithm, n, tuple(kwargs.items()))(jax.random.key(seed)))


@functools.cache
def _draw(algorithm, n, kwargs):
    # In one program: operations one by one would each be compiled, for every number of agents.
    member = make_algorithm(algorithm, **dict(kwargs))

    @jax.jit
    def draw(key):
        schedule = member.schedule(key, n)
        return schedule, jax.nn.one_hot(schedule.owners, n, dtype=bool)

    return draw


def test_what_else_differs_between_the_algorithms():
    same = {
        "surrogate": losses.weighted_surrogate,
        "live": False,
        "correction": None,
        "normalization": "agent",
        "scores": None,
        "critics_once": False,
        "critics_see_state": True,
        "ratios": "behaviour",
        "weight_bound": None,
    }
    double = losses.double_clipped_surrogate
    differs = {
        "mappo": {},
        "ippo": {"critics_see_state": False},
        "coppo": {"surrogate": double, "live": True, "normalization": "joint"},
        "happo": {"critics_once": True},
        "a2po": {
            "surrogate": double,
            "correction": advantages.preceding_agent_correction,
            "normalization": "joint",
        },
        "fp3o": {},
    }
    assert set(differs) == set(ALGORITHMS)
    for name, fields in differs.items():
        member = make_algorithm(name)
        assert {field: getattr(member, field) for field in same} == same | fields, name
    for name in ("happo", "a2po"):
        assert make_algorithm(name, order="semi_greedy").scores is advantages.relative_advantage
    for trace, correction in advantages.TRACES.items():
        assert make_algorithm("a2po", trace=trace).correction is correction


@given(st.sampled_from(["mappo", "ippo", "coppo", "happo", "fp3o"]), agents, seeds)
@settings(max_examples=20, deadline=None)
def test_whole_advantages_in_the_whole_clip_range(algorithm, n, seed):
    schedule, _ = draw(algorithm, n, seed)
    assert (schedule.scale == 1).all() and (schedule.clip == 1).all()
    assert not schedule.gated[0]
    assert schedule.weights.dtype == schedule.gated.dtype == bool
    if algorithm in ("mappo", "ippo"):
        assert not schedule.weights.any()


@given(st.sampled_from(sorted(ALGORITHMS)), agents, seeds)
@settings(max_examples=60, deadline=None)
def test_no_agent_has_two_owners_and_all_are_owned(algorithm, n, seed):
    schedule, masks = draw(algorithm, n, seed)
    stages, pipelines = schedule.owners.shape
    assert masks.shape == schedule.weights.shape == (stages, pipelines, n)
    assert schedule.gated.shape == (stages,)
    assert masks.dtype == bool
    assert schedule.scale.shape == schedule.clip.shape == (stages, pipelines)
    assert (masks.sum(-1) == 1).all()
    assert (masks.sum(1) <= 1).all()
    assert (masks.sum((0, 1)) == (2 if algorithm == "fp3o" else 1)).all()


@given(st.integers(2, 9), seeds)
@settings(max_examples=20, deadline=None)
def test_happo_weights_are_the_agents_before(n, seed):
    schedule, _ = draw("happo", n, seed)
    order = schedule.owners[:, 0]
    for stage in range(n):
        assert set(np.flatnonzero(schedule.weights[stage, 0])) == set(order[:stage])
    assert not schedule.gated.any()


@given(st.integers(1, 9), seeds)
@settings(max_examples=20, deadline=None)
def test_a2po_is_happo_with_a_growing_clip_range(n, seed):
    ours, _ = draw("a2po", n, seed)
    happo, _ = draw("happo", n, seed)
    for name in ("owners", "weights", "gated", "scale"):
        assert_array_equal(getattr(ours, name), getattr(happo, name))
    assert_allclose(ours.clip[:, 0], [(1 + k / n) / 2 for k in range(1, n + 1)], rtol=1e-6)


@given(st.integers(1, 9))
@settings(max_examples=9, deadline=None)
def test_coppo_weighs_everyone_by_all_the_others(n):
    ours, _ = draw("coppo", n)
    assert list(ours.owners[0]) == list(range(n))
    assert_array_equal(ours.weights[0], ~np.eye(n, dtype=bool))


@given(st.integers(2, 9), seeds, st.sampled_from(sorted(SELECTIONS)))
@settings(max_examples=60, deadline=None)
def test_fp3o_steps(n, seed, selection):
    schedule, _ = draw("fp3o", n, seed, selection=selection)
    first, second = schedule.owners
    assert sorted(first) == sorted(second) == list(range(n))
    assert (first != second).all()
    assert not schedule.weights[0].any()
    for pipeline in range(n):
        assert set(np.flatnonzero(schedule.weights[1, pipeline])) == set(range(n)) - {second[pipeline]}
    assert list(schedule.gated) == [False, True]
    assert (schedule.scale == 1).all()


def test_cyclic_is_the_papers_shift():
    schedule, _ = draw("fp3o", 5, selection="cyclic")
    first, second = schedule.owners
    assert [second[p] for p in range(5)] == [first[(p + 1) % 5] for p in range(5)]


@pytest.mark.parametrize("n", range(1, 8))
def test_reverse_is_the_reverse_but_for_the_middle(n):
    owners = np.arange(10, 10 + n)
    ours = [int(i) for i in SELECTIONS["reverse"](None, owners)]
    expected = list(owners[::-1])
    if n > 1 and n % 2:
        expected[n // 2 - 1 : n // 2 + 1] = expected[n // 2], expected[n // 2 - 1]
    assert ours == expected


def test_derangements_are_random():
    owners = np.arange(4)
    drawn = {tuple(map(int, SELECTIONS["random_derangement"](jax.random.key(i), owners))) for i in range(40)}
    # Of nine derangements six are a single cycle.
    assert len(drawn) == 6


def test_a_single_agent_is_exchanged_with_nobody():
    def never(key, owners):
        raise AssertionError

    schedule, _ = draw("fp3o", 1, selection=never)
    assert schedule.owners.tolist() == [[0], [0]]


def test_pipelines_in_the_order_of_their_agents():
    n = 5
    schedule = make_algorithm("fp3o", split="dirichlet").schedule(jax.random.key(0), n)
    schedule = schedule._replace(
        scale=schedule.scale * np.array([[1.0], [2.0]]),
        clip=np.random.default_rng(0).random((2, n), np.float32),
    )
    ours = schedule.in_agent_order()
    assert ours.owners is None and (ours.gated == schedule.gated).all()
    for stage, pipeline in np.ndindex(2, n):
        agent = schedule.owners[stage, pipeline]
        for name in ("weights", "scale", "clip"):
            assert_array_equal(
                getattr(ours, name)[stage, agent], getattr(schedule, name)[stage, pipeline], err_msg=name
            )
    happo = make_algorithm("happo").schedule(jax.random.key(0), n)
    assert happo.in_agent_order() is happo


def test_selection_by_a_function():
    schedule, _ = draw("fp3o", 4, selection=lambda key, owners: owners[::-1])
    assert list(schedule.owners[1]) == list(schedule.owners[0][::-1])


@given(st.integers(2, 9), seeds)
@settings(max_examples=20, deadline=None)
def test_dirichlet_split_shares_out_the_advantage(n, seed):
    schedule, _ = draw("fp3o", n, seed, split="dirichlet")
    assert (schedule.scale >= 0).all()
    assert_allclose(schedule.scale.sum(-1), n, rtol=1e-5)
    assert_array_equal(schedule.scale[0], schedule.scale[1])


def test_fixed_split():
    schedule, _ = draw("fp3o", 2, split=(0.25, 0.75))
    assert_allclose(schedule.scale, [[0.5, 1.5]] * 2)


def test_orders_are_random_but_drawn_from_the_key():
    orders = {tuple(draw("happo", 4, seed)[0].owners[:, 0]) for seed in range(40)}
    assert len(orders) > 10
    assert (draw("happo", 4, 3)[0].owners == draw("happo", 4, 3)[0].owners).all()


@pytest.mark.parametrize(("name", "kept"), [("joint", [1, 1]), ("per_pipeline", [1, 0]), ("off", [1, 1])])
def test_conditions_where_the_sum_holds(name, kept):
    corrected, plain = np.array([3.0, 1.0]), np.array([1.0, 2.0])
    assert list(CONDITIONS[name](corrected, plain)) == kept


@pytest.mark.parametrize(("name", "kept"), [("joint", [0, 0]), ("per_pipeline", [1, 0]), ("off", [1, 1])])
def test_conditions_where_the_sum_fails(name, kept):
    corrected, plain = np.array([3.0, 1.0]), np.array([1.0, 4.0])
    assert list(CONDITIONS[name](corrected, plain)) == kept


@pytest.mark.parametrize(("short", "kept"), [(0.0, 1), (0.9e-5, 1), (1e-5, 1), (1.1e-5, 0)])
def test_conditions_forgive_a_rounding_error(short, kept):
    """The joint one once, however many pipelines there are."""
    corrected, plain = jnp.array([0.0, -short], jnp.float32), jnp.zeros(2, jnp.float32)
    assert list(CONDITIONS["joint"](corrected, plain)) == [kept, kept]
    assert list(CONDITIONS["per_pipeline"](corrected, plain)) == [1, kept]


def test_the_joint_condition_sums_over_pipelines():
    corrected = np.array([-1.0, 2.0, 2.0])
    assert CONDITIONS["joint"](corrected, np.array([2.5, 0.0, 0.0])).all()
    assert not CONDITIONS["joint"](corrected, np.array([1.6, 1.6, 0.0])).any()


@functools.cache
def semi_greedy():
    """Draws of A2PO's schedule by the advantages; compiled, once for each number of agents."""
    return jax.jit(make_algorithm("a2po", order="semi_greedy", scores=lambda advantage, *_: advantage).draw)


@given(st.integers(1, 9), seeds)
@settings(max_examples=30, deadline=None)
def test_semi_greedy_takes_the_best_and_a_random_one_in_turns(n, seed):
    scores = np.random.default_rng(seed).permutation(n).astype(np.float32)
    order = [int(i) for i in semi_greedy()(jax.random.key(seed), scores, scores, scores).owners[:, 0]]
    assert sorted(order) == list(range(n))
    for turn in range(0, n, 2):
        assert scores[order[turn]] == max(scores[i] for i in order[turn:])


def test_semi_greedy_is_random_in_every_other_turn():
    scores = np.arange(5.0)
    schedule = jax.jit(make_algorithm("happo", order="semi_greedy").schedule, static_argnums=1)
    orders = [schedule(jax.random.key(i), 5, scores).owners[:, 0] for i in range(40)]
    assert {int(order[0]) for order in orders} == {4}
    assert {int(order[1]) for order in orders} == {0, 1, 2, 3}


def test_a_schedule_that_does_not_ask_for_scores_depends_on_key_and_number_alone():
    for name in ALGORITHMS:
        member = make_algorithm(name)
        ours = member.draw(jax.random.key(3), *np.ones((3, 4, 2)))
        jax.tree.map(assert_array_equal, ours, member.schedule(jax.random.key(3), 4))
