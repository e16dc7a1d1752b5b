"""Nothing that a dead agent sees or does changes anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax import make_train
from fp3o_jax.method.advantages import normalize_advantages
from fp3o_jax.method.metrics import explained_variance, masked_mean, policy_change
from fp3o_jax.method.schedules import make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from toy_envs import mortal
from update_helpers import ACTIONS, HP, assert_same, differs, drawn, make_batch, make_errors, networks, start

ALGORITHMS = ["mappo", "happo", "coppo", "a2po", "fp3o"]
SEEDS = st.integers(0, 2**31 - 1)


@functools.cache
def updated(algorithm, dead_ratios=False):
    """batch -> new parameters, optimiser states and metrics; no two agents share weights."""
    nets, member = networks("none", agent_id=False), make_algorithm(algorithm)
    settings = {"epochs": 2, "num_minibatches": 1, "condition": lambda a, b: a + 1e-5 >= b}
    update = jax.jit(PipelineUpdate(nets, member, dead_ratios=dead_ratios, **settings))
    params, opt_state = start(nets)
    schedule, errors = drawn(algorithm, 5), make_errors(3)
    return lambda batch: update(params, opt_state, batch, schedule, jax.random.key(0), HP, errors=errors)


def with_dead(batch, seed, fill):
    """``batch``, in which the dead saw something else, and did ``fill``, where a number can stand."""
    rng = np.random.default_rng(seed)
    dead = np.asarray(batch.alive) == 0

    def change(x, new):
        here = dead.reshape(dead.shape + (1,) * (x.ndim - 3))
        return jnp.asarray(np.where(here, new, x), x.dtype)

    action = rng.integers(0, ACTIONS, batch.action.shape)
    changed = {
        name: change(getattr(batch, name), fill) for name in ("log_prob", "advantage", "value", "target")
    }
    return batch.replace(obs=change(batch.obs, 0.3), action=change(batch.action, action), **changed)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(seed=SEEDS, fill=st.sampled_from([0.3, 1e30, np.nan, np.inf]))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_an_update_does_not_depend_on_the_dead(algorithm, seed, fill):
    batch = make_batch(start(networks("none", agent_id=False))[0], networks("none", agent_id=False), seed)
    assert (np.asarray(batch.alive) == 0).any()
    ours = updated(algorithm)(batch)
    for leaf in jax.tree.leaves(ours):
        assert np.isfinite(leaf).all()
    jax.tree.map(assert_array_equal, ours, updated(algorithm)(with_dead(batch, seed, fill)))


@pytest.mark.parametrize("algorithm", ["happo", "fp3o"])
def test_ratios_of_the_dead_weigh_if_they_are_asked_to(algorithm):
    """As in the reference: then what the dead see moves the living."""
    nets = networks("none", agent_id=False)
    batch = make_batch(start(nets)[0], nets)
    other = jax.random.normal(jax.random.key(1), batch.obs.shape) * 3
    changed = batch.replace(obs=jnp.where(batch.alive[..., None] > 0, batch.obs, other))
    params, others = (updated(algorithm, True)(x)[0] for x in (batch, changed))
    assert differs(params, others)
    params, others = (updated(algorithm)(x)[0] for x in (batch, changed))
    assert_same(params, others)


@jax.jit
def statistics(a, b, alive):
    kl = policy_change(0.1 * a, alive)
    living = jnp.where(alive > 0, normalize_advantages(a, alive), 0.0)
    return kl, masked_mean(a, alive), explained_variance(a, b, alive), living


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_statistics_are_those_of_the_living(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 2, 1, 30))
    alive = (rng.random(x.shape) < 0.7).astype(np.float32)
    poisoned = [jnp.asarray(np.where(alive > 0, a, np.nan)) for a in (x, y)]
    plain = [jnp.asarray(np.where(alive > 0, a, 0.0)) for a in (x, y)]
    alive = jnp.asarray(alive)

    ours = statistics(*poisoned, alive)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    jax.tree.map(assert_array_equal, ours, statistics(*plain, alive))


SIZES = {"num_envs": 4, "rollout_length": 12, "total_env_steps": 96, "hidden_sizes": (8,), "chunk_length": 4}


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({"algorithm": "a2po", "sharing": "none"}, {}),
        # Dead at the cut alone, where all critics see the observations.
        (
            {"algorithm": "fp3o", "sharing": "partial"},
            {"dead_at": (5,), "state_size": 8, "joint_state": True},
        ),
        # Dead at the cut and before, and alive again in between.
        ({"algorithm": "ippo", "recurrent": True}, {"dead_at": (1, 2, 5)}),
    ],
)
def test_a_run_does_not_depend_on_what_the_dead_see(settings, environment):

    @jax.jit
    def run(seen_by_the_dead):
        env = mortal(seen_by_the_dead, **environment)
        train = make_train({**SIZES, **settings, "epochs": 2}, env=env)
        out = train(jax.random.key(0))
        return out["state"].params, out["state"].value_norm, out["metrics"]

    ours = run(jnp.zeros(()))
    for name in ("entropy", "joint_kl", "value_loss", "policy_loss"):
        assert np.isfinite(ours[2][name]).all()
    for fill in (1.0, jnp.nan, 1e30):
        jax.tree.map(assert_array_equal, ours, run(jnp.asarray(fill)))


@pytest.mark.parametrize(("algorithm", "normalize_obs"), [("mappo", "running"), ("ippo", "layer")])
def test_what_was_seen_is_what_is_learned_from(algorithm, normalize_obs):
    """A GRU goes on through the death of an agent that comes back: nothing learned, nothing has changed."""
    settings = {"algorithm": algorithm, "recurrent": True, "normalize_obs": normalize_obs, "chunk_length": 12}
    nothing = {"actor_lr": 1e-30, "critic_lr": 1e-30, "epochs": 1, "normalize_values": False}
    train = make_train({**SIZES, **settings, **nothing}, env=mortal(2.0, dead_at=(1, 2)))

    @jax.jit
    def values_of(state, key):
        trajectory = train.collect(state, key)[1]
        batch = train.targets(state, trajectory).batch
        value, _ = train.networks.value(state.params["critic"], *batch.critic_view)
        again, _ = train.networks.value(state.params["critic"], *batch.of_the_living().critic_view)
        counted = batch.alive[: len(value)] > 0
        return [jnp.where(counted, x, 0.0) for x in (batch.value, value, again)]

    key, update = jax.random.key(0), jax.jit(train.update)
    state, _ = update(jax.jit(train.init)(key))
    recorded, value, again = values_of(state, key)
    kl = update(state)[1]["agent_kl"]
    assert_allclose(kl, np.zeros(2), atol=1e-9)
    assert_allclose(value, recorded, rtol=1e-5, atol=1e-6)
    assert_allclose(again, recorded, rtol=1e-5, atol=1e-6)


def test_a_run_in_float64():
    with jax.enable_x64(True):
        for settings in ({}, {"recurrent": True, "algorithm": "ippo"}, {"normalize_obs": "running"}):
            train = make_train({**SIZES, **settings}, env=mortal(0.0))
            state = jax.eval_shape(train.init, jax.random.key(0))
            after, metrics = jax.eval_shape(train.update, state)
            kinds, same = (jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (after, state))
            assert kinds == same
            assert {x.dtype for x in jax.tree.leaves(after.params)} == {np.dtype(np.float64)}
            assert metrics["entropy"].dtype == np.float64
        after, metrics = jax.jit(train.update)(jax.jit(train.init)(jax.random.key(0)))
        assert_finite((after.params, after.opt_state, metrics["entropy"], metrics["value_loss"]))
