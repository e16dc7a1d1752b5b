"""What must not matter to an update, for random batches and draws, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finite import assert_allclose, assert_finite
from fp3o_jax.kernels.shards import over_shards
from update_helpers import (
    COUNT,
    ENVS,
    HP,
    LENGTH,
    STEPS,
    assert_same,
    compiled,
    differs,
    drawn,
    make_batch,
    make_errors,
    networks,
    start,
)

N = 3
SHARDS = 2
SEEDS = st.integers(0, 2**31 - 1)
# Every algorithm and every sharing, not every pair: those meet in the tests against NumPy.
PAIRS = [
    ("fp3o", "full"),
    ("fp3o", "partial"),
    ("fp3o", "none"),
    ("mappo", "partial"),
    ("coppo", "full"),
    ("happo", "partial"),
    ("a2po", "none"),
]
pairs = pytest.mark.parametrize(("algorithm", "sharing"), PAIRS)
examples = settings(max_examples=8, deadline=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    with jax.enable_x64(True):
        yield


def update(algorithm, nets, batch, schedule, params=None, errors=None):
    """New parameters and metrics."""
    params, opt_state = start(nets) if params is None else (params, start(nets)[1])
    if algorithm == "a2po" and errors is None:
        errors = make_errors(nets.num_agents)
    arguments = params, opt_state, batch, schedule, jax.random.key(9), HP
    new, _, metrics = compiled(nets, algorithm)(*arguments, errors=errors)
    return new, metrics


def same(a, b):
    assert_same(a, b, atol=1e-9)


@pairs
@given(seed=SEEDS, order=st.permutations(range(N)))
@examples
def test_relabelling_the_agents_permutes_the_result(algorithm, sharing, seed, order):
    nets = networks(sharing, agent_id=False)
    params, _ = start(nets)
    batch, schedule = make_batch(params, nets, seed), drawn(algorithm, seed)
    order = np.array(order)  # order[i] is the new name of agent i
    back = np.argsort(order)

    def rename(tree):
        return jax.tree.map(lambda x: x[back] if x.shape[0] == N else x, tree)

    renamed, errors = batch.of_rows(lambda x: np.asarray(x)[back]), make_errors(N)
    errors_too = errors._replace(delta=np.asarray(errors.delta)[back])
    schedule_too = schedule._replace(
        owners=jnp.asarray(order)[schedule.owners], weights=schedule.weights[..., back]
    )
    a, metrics = update(algorithm, nets, batch, schedule, params, errors)
    b, metrics_too = update(algorithm, nets, renamed, schedule_too, rename(params), errors_too)
    same(rename(a), b)
    for name in metrics:
        x = metrics[name][back] if name in ("agent_kl", "agent_condition_held") else metrics[name]
        assert_allclose(x, metrics_too[name], rtol=1e-7, atol=1e-9, err_msg=name)


def of_envs(batch, errors, envs):
    """Batch and errors of some environments, in a given order."""
    envs = np.asarray(envs)
    index = (np.arange(STEPS)[:, None] * ENVS + envs).ravel()
    return (
        jax.tree.map(lambda x: np.asarray(x)[:, :, index], batch),
        jax.tree.map(lambda x: np.asarray(x)[..., envs], errors),
    )


@pairs
@given(seed=SEEDS, envs=st.permutations(range(ENVS)))
@examples
def test_the_order_of_the_batch_does_not_matter(algorithm, sharing, seed, envs):
    nets = networks(sharing)
    batch, schedule = make_batch(start(nets)[0], nets, seed), drawn(algorithm, seed)
    errors = make_errors(N, seed)
    other, errors_too = of_envs(batch, errors, envs)
    same(
        update(algorithm, nets, batch, schedule, errors=errors),
        update(algorithm, nets, other, schedule, errors=errors_too),
    )


@pairs
@given(seed=SEEDS)
@examples
def test_environments_in_shards_make_the_same_update(algorithm, sharing, seed):
    nets = networks(sharing)
    batch, schedule = make_batch(start(nets)[0], nets, seed), drawn(algorithm, seed)
    errors = make_errors(N, seed)
    shards = [of_envs(batch, errors, envs) for envs in np.split(np.arange(ENVS), SHARDS)]
    batches, of_shards = jax.tree.map(lambda *x: np.stack(x), *shards)
    arguments = *start(nets), batches, schedule, jax.random.key(9), HP, 1.0, of_shards
    new, _, metrics = in_shards(nets, algorithm)(*arguments)
    same(update(algorithm, nets, batch, schedule, errors=errors), (new, metrics))


@functools.cache
def in_shards(nets, algorithm):
    axes = (None, None, 0, None, None, None, None, 0)
    return jax.jit(over_shards(compiled(nets, algorithm), SHARDS, axes, None))


@pairs
@given(seed=SEEDS, extra=st.lists(st.integers(0, ENVS - 1), min_size=2, max_size=2))
@examples
def test_environments_whose_agents_are_all_dead_change_nothing(algorithm, sharing, seed, extra):
    nets = networks(sharing)
    batch, schedule = make_batch(start(nets)[0], nets, seed), drawn(algorithm, seed)
    errors = make_errors(N, seed)
    larger, more = of_envs(batch, errors, [*range(ENVS), *extra])
    dead = np.arange(STEPS * (ENVS + 2)) % (ENVS + 2) >= ENVS
    larger = larger.replace(alive=np.where(dead, 0.0, larger.alive))
    assert larger.alive.shape == (N, LENGTH, COUNT + 2 * STEPS)
    same(
        update(algorithm, nets, batch, schedule, errors=errors),
        update(algorithm, nets, larger, schedule, errors=more),
    )


@pytest.mark.parametrize(
    ("algorithm", "sharing"), [("fp3o", "full"), ("fp3o", "none"), ("happo", "none"), ("coppo", "full")]
)
@given(seed=SEEDS)
@examples
def test_padding_changes_nothing(algorithm, sharing, seed):
    """Beside a fourth agent that sees and can do more, but is dead: the others' arrays are padded."""
    nets = networks(sharing, agent_id=False)
    wide = networks(sharing, N + 1, agent_id=False, obs=(4, 4, 4, 7), actions=(3, 3, 3, 5))
    params, _ = start(nets)
    rng = np.random.default_rng(seed)
    batch = make_batch(params, nets, seed)

    def corner(x):
        return tuple(slice(size) for size in x.shape)

    def beside(x, shape):
        """``x`` in the corner of an array of noise."""
        noise = rng.normal(size=shape) if x.dtype == np.float64 else np.zeros(shape, x.dtype)
        return jnp.asarray(noise).at[corner(x)].set(x)

    def one_more(x):
        return beside(x, (N + 1, *x.shape[1:]))

    samples = (N + 1, LENGTH, COUNT)
    wide_params = jax.tree.map(lambda x, y: beside(x, y.shape), params, start(wide)[0])
    # What a dead agent does in SMAX: the only thing that it can.
    mask = np.ones((*samples, 5), bool)
    mask[:N, ..., 3:] = False
    mask[N, ..., 1:] = False
    wide_batch = batch.replace(
        **{name: one_more(getattr(batch, name)) for name in ("action", "advantage", "value", "target")},
        obs=wide.standardize_obs(None, beside(batch.obs, (*samples, 7))),
        action_mask=jnp.asarray(mask),
        alive=one_more(batch.alive).at[N].set(0.0),
        log_prob=one_more(batch.log_prob).at[N].set(0.0),
    )
    batch = batch.replace(obs=nets.standardize_obs(None, batch.obs))
    schedule = drawn(algorithm, seed)
    stages, pipelines = schedule.owners.shape
    if pipelines > 1:  # the fourth agent owns a pipeline of its own
        column = jnp.full((stages, 1), N)
        weights = jnp.zeros((stages, N + 1, N + 1), bool).at[:, :N, :N].set(schedule.weights)
        weights = weights.at[:, N, :N].set(schedule.weights.any((1, 2))[:, None])
        weights = weights.at[:, :N, N].set(schedule.weights.any((1, 2))[:, None])
        wide_schedule = schedule._replace(
            owners=jnp.concatenate([schedule.owners, column], 1),
            weights=weights,
            scale=jnp.ones((stages, N + 1)),
            clip=jnp.ones((stages, N + 1)),
        )
    else:
        wide_schedule = schedule._replace(weights=jnp.pad(schedule.weights, ((0, 0), (0, 0), (0, 1))))
    a, metrics = update(algorithm, nets, batch, schedule)
    b, wide_metrics = update(algorithm, wide, wide_batch, wide_schedule, wide_params)
    same(a, jax.tree.map(lambda x, y: y[corner(x)], a, b))
    for name in ("entropy", "policy_loss", "value_loss", "joint_kl", "condition_sums"):
        assert_allclose(metrics[name], wide_metrics[name], rtol=1e-7, atol=1e-9, err_msg=name)


def equal_agents(batch):
    """The first agent's samples for everybody."""
    return batch.of_rows(lambda x: np.asarray(x)[np.zeros(N, int)])


@pytest.mark.parametrize(("algorithm", "sharing"), [("fp3o", "full"), ("coppo", "full"), ("fp3o", "none")])
@given(seed=SEEDS)
@examples
def test_equal_agents_stay_equal(algorithm, sharing, seed):
    nets = networks(sharing, agent_id=False)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), start(nets)[0])
    batch = make_batch(params, nets, seed)
    new, _ = update(algorithm, nets, equal_agents(batch), drawn(algorithm, seed), params)
    logits = jax.jit(nets.policy)(new["actor"], *equal_agents(batch).actor_view)[0].logits
    same(logits[1:], jnp.broadcast_to(logits[0], logits[1:].shape))
    assert differs(new, params)


@given(seed=SEEDS)
@examples
def test_equal_agents_that_share_everything_are_one_agent(seed):
    nets, alone = networks("full", agent_id=False), networks("full", 1, agent_id=False)
    params, _ = start(nets)
    batch = equal_agents(make_batch(params, nets, seed))
    one = batch.of_rows(lambda x: x[:1])
    a, _ = update("mappo", nets, batch, drawn("mappo", seed))
    b, _ = update("mappo", alone, one, drawn("mappo", seed, 1), params)
    same(a, b)


@pytest.mark.parametrize(("algorithm", "sharing"), [("fp3o", "full"), ("happo", "partial"), ("a2po", "full")])
@given(seed=SEEDS)
@examples
def test_a_value_that_all_agents_share_is_learned_as_if_each_had_it(algorithm, sharing, seed):
    each, shared = (networks(sharing, agent_id=False, one_critic=one) for one in (False, True))
    assert (each.num_critics, shared.num_critics) == (N, 1)
    params, _ = start(shared)
    batch = make_batch(params, shared, seed)
    names = ("value", "target")
    one = batch.replace(**{name: getattr(batch, name)[:1] for name in names})
    many = batch.replace(**{name: jnp.repeat(getattr(one, name), N, 0) for name in names})
    schedule = drawn(algorithm, seed)
    same(update(algorithm, shared, one, schedule), update(algorithm, each, many, schedule, params))


@given(seed=SEEDS, other=SEEDS, sharing=st.sampled_from(["full", "partial", "none"]))
@examples
def test_fp3o_depends_on_the_draw_only_through_the_split(seed, other, sharing):
    nets = networks(sharing)
    batch = make_batch(start(nets)[0], nets, seed)

    def result(seed, **settings):
        return update("fp3o", nets, batch, drawn("fp3o", seed, **settings))

    same(result(seed), result(other, selection="random_derangement"))
    fixed = [result(s, split=(0.2, 0.3, 0.5))[0]["actor"] for s in range(6)]
    assert_finite(fixed)
    moved = [
        max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (fixed[0], f)), strict=True))
        for f in fixed[1:]
    ]
    assert max(moved) > 1e-6
