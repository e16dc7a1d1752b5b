"""The losses of an update and what it reports, term by term, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose
from fp3o_jax import Config
from fp3o_jax.method.advantages import TDErrors
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.metrics import condition_metrics, means, policy_change
from fp3o_jax.method.schedules import CONDITIONS, Schedule, make_algorithm
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.method.update import Given, PipelineUpdate, joint_log_ratio
from fp3o_jax.team.distributions import Categorical

ROWS, SHAPE, ACTIONS = 3, (2, 5), 4
HP = Config(entropy_coef=0.3, value_coef=0.7, weight_clip_eps=0.15, clip_eps=0.2).hyperparams


class Output:
    """A network whose parameters are what it puts out."""

    def policy(self, params, *view):
        return Categorical(params), None

    def value(self, params, *view):
        return params, None


def make_update(algorithm, **settings):
    settings = {"epochs": 1, "num_minibatches": 1, "condition": CONDITIONS["off"]} | settings
    return PipelineUpdate(Output(), make_algorithm(algorithm), **settings)


def make_rows(seed=0):
    """Parameters, and what a stage has of them: rows, and log r as the living have it, [P, L, N]."""
    rng = np.random.default_rng(seed)
    logits, samples = rng.normal(size=(ROWS, *SHAPE, ACTIONS)).astype(np.float32), (ROWS, *SHAPE)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    action = rng.integers(0, ACTIONS, samples)
    taken = np.take_along_axis(log_p, action[..., None], -1)[..., 0]
    old = taken + rng.normal(0, 0.3, samples)
    alive = (rng.random(samples) < 0.7).astype(np.float32)
    other = rng.normal(size=(6, *samples)).astype(np.float32)
    rows = Batch(
        obs=other[0],
        critic_inputs=other[0],
        action_mask=None,
        alive=alive,
        starts=np.zeros((1, *SHAPE), bool),
        action=action,
        log_prob=old.astype(np.float32),
        advantage=other[1],
        value=5 * other[2],
        target=5 * other[3],
        actor_hidden=None,
        critic_hidden=None,
        log_weight=0.5 * other[4],
        weights=~np.eye(ROWS, dtype=bool)[:, None, None],
        clip_eps=np.array([0.1, 0.2, 0.3], np.float32)[:, None, None],
    )
    return logits, rows, taken - old, -(np.exp(log_p) * log_p).sum(-1)


@pytest.mark.parametrize("dead_ratios", [False, True])
def test_the_policy_s_loss(dead_ratios):
    logits, rows, log_ratio, entropy = make_rows()
    loss, reported = make_update("fp3o", dead_ratios=dead_ratios).policy_loss(Output(), logits, rows, HP)
    ratio = np.exp(log_ratio if dead_ratios else np.where(rows.alive > 0, log_ratio, 0.0))
    gain, eps = np.exp(rows.log_weight) * rows.advantage, rows.clip_eps
    objective = np.minimum(ratio * gain, np.clip(ratio, 1 - eps, 1 + eps) * gain)
    assert_allclose(loss, -objective - 0.3 * entropy, rtol=1e-4, atol=1e-5)
    assert set(reported) == {"policy_loss", "entropy", "clip_fraction"}
    assert_allclose(reported["policy_loss"], -objective, rtol=1e-4, atol=1e-5)
    assert_allclose(reported["entropy"], entropy, rtol=1e-5)
    clipped = np.abs(ratio - 1) > eps
    assert (np.asarray(reported["clip_fraction"]) == clipped).all() and clipped.any() and not clipped.all()
    assert (ratio < 1 - eps).any() and (ratio > 1 + eps).any()


def test_live_weights_are_the_ratios_of_the_moment_and_constants():
    logits, rows, log_ratio, _ = make_rows()
    log_ratio = np.where(rows.alive > 0, log_ratio, 0.0)
    others = np.stack([np.delete(log_ratio, i, 0).sum(0) for i in range(ROWS)]).astype(np.float32)
    update = make_update("coppo")

    def loss(logits, log_weight, live):
        at = PipelineUpdate(
            Output(),
            update.algorithm._replace(live=live),
            epochs=1,
            num_minibatches=1,
            condition=update.condition,
        )
        return at.policy_loss(Output(), logits, rows.replace(log_weight=log_weight), HP)[0].sum()

    gradient = jax.value_and_grad(loss)
    ours, expected = gradient(logits, 0 * others, True), gradient(logits, others, False)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-4, atol=1e-5), ours, expected)
    assert np.abs(ours[1] - gradient(logits, 0 * others, False)[1]).max() > 1e-3


def test_the_joint_ratio_is_of_those_that_weigh():
    log_ratio = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    weights = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    expected = [log_ratio[1] + log_ratio[2], log_ratio[0], 0 * log_ratio[0]]
    ours, bounded = (joint_log_ratio(jnp.asarray(weights), log_ratio, bound) for bound in (None, 0.5))
    assert_allclose(ours, np.stack(expected), rtol=1e-6)
    assert_allclose(bounded, np.clip(np.stack(expected), -0.5, 0.5), rtol=1e-6)
    assert (np.abs(ours) > 0.5).any() and (np.abs(ours[:2]) < 0.5).any()


@pytest.mark.parametrize("ratios", ["behaviour", "stage"])
def test_recorded_ratios(ratios):
    """To those that acted, or to those before the stage: of whole rollouts, 4 steps of 2 environments."""
    rng, length, envs = np.random.default_rng(0), 2, 2
    _, rows, *_ = make_rows()
    rows = jax.tree.map(lambda x: x[:, :, :4] if x.shape[2] > 1 else x, rows)
    before, after = rng.normal(size=(2, ROWS, 4, envs, ACTIONS)).astype(np.float32)
    given = Given(rows, TDErrors(np.zeros((ROWS, 4, envs)), np.zeros((4, envs))), HP, 1.0)
    chunks = (jnp.asarray(as_sequences(x, length)) for x in (before, after))
    old, new = (np.asarray(Categorical(x).log_prob(rows.action)) for x in chunks)
    if ratios == "behaviour":
        old, after = rows.log_prob, as_sequences(after, length)
    settings = {"epochs": 1, "num_minibatches": 1, "condition": CONDITIONS["off"]}
    update = PipelineUpdate(Output(), make_algorithm("happo", ratios=ratios), **settings)
    ours = update.recorded(given, before, after, rows)
    assert_allclose(ours, np.where(rows.alive > 0, new - old, 0.0), rtol=1e-4, atol=1e-5)


def test_the_values_loss():
    _, rows, *_ = make_rows()
    value = rows.value + np.random.default_rng(1).normal(0, 0.4, rows.value.shape).astype(np.float32)
    loss, reported = make_update("fp3o").value_loss(Output(), value, rows, HP)
    near = rows.value + np.clip(value - rows.value, -0.2, 0.2)
    errors = (rows.target - value, rows.target - near)
    error = np.maximum(*(np.where(abs(e) <= 10, e**2 / 2, 10 * abs(e) - 50) for e in errors))
    assert_allclose(reported["value_loss"], error, rtol=1e-4)
    assert_allclose(loss, 0.7 * error, rtol=1e-4)
    assert set(reported) == {"value_loss"}


def test_means_are_over_the_steps_that_somebody_took():
    """Two stages of three steps: in one step nobody took part, in one a single sample did."""
    sums = {
        "samples": np.array([[4.0, 1.0, 0.0], [8.0, 2.0, 5.0]]),
        "components": np.array([[2.0, 1.0, 0.0], [4.0, 1.0, 3.0]]),
        "grad_norm": np.array([[6.0, 5.0, 0.0], [8.0, 1.0, 9.0]]),
        "loss": np.array([[8.0, -3.0, 0.0], [4.0, 5.0, 10.0]]),
    }
    ours = means("actor", jax.tree.map(jnp.asarray, sums))
    assert set(ours) == {"actor_grad_norm", "loss"}
    assert_allclose(ours["actor_grad_norm"], np.mean([3.0, 5.0, 2.0, 1.0, 3.0]), rtol=1e-6)
    assert_allclose(ours["loss"], np.mean([2.0, -3.0, 0.5, 2.5, 2.0]), rtol=1e-6)
    nothing = means("critic", jax.tree.map(jnp.zeros_like, sums))
    assert nothing == {"critic_grad_norm": 0.0, "loss": 0.0}


def make_schedule(owners, gated, n=3):
    stages, pipelines = np.shape(owners) if owners is not None else (len(gated), n)
    return Schedule(
        owners=None if owners is None else jnp.asarray(owners),
        weights=jnp.zeros((stages, pipelines, n), bool),
        gated=jnp.asarray(gated),
        scale=jnp.ones((stages, pipelines)),
        clip=jnp.ones((stages, pipelines)),
    )


@pytest.mark.parametrize(
    ("owners", "gated", "active", "held", "sums"),
    [
        (None, [False, True], [[1, 1, 1], [1, 0, 0]], [1, 0, 0], [4, 6]),
        (None, [False, False], [[1, 1, 1], [1, 1, 1]], [1, 1, 1], [0, 0]),
        ([[2], [0], [1]], [True, True, False], [[0], [1], [1]], [1, 1, 0.5], [3, 4]),
    ],
)
def test_how_far_the_condition_held(owners, gated, active, held, sums):
    compared = jnp.array([[-1.0, -2.0], [4.0, 6.0], [5.0, 7.0]])[: len(gated)]
    ours = condition_metrics(make_schedule(owners, gated), jnp.asarray(active, float), compared)
    assert_allclose(ours["agent_condition_held"], held)
    assert_allclose(ours["condition_held"], np.mean(held), rtol=1e-6)
    assert_allclose(ours["condition_sums"], sums)


def test_change_of_policies_of_few_samples():
    """One agent has none, one a single one, and in some samples nobody is alive."""
    rng = np.random.default_rng(0)
    log_ratio = rng.normal(0, 0.5, (3, 2, 4)).astype(np.float32)
    alive = np.zeros((3, 2, 4), np.float32)
    alive[0, 0, :3] = alive[1, 1, 3] = 1.0
    kl = np.exp(log_ratio) - 1 - log_ratio
    agent_kl = [kl[0, 0, :3].mean(), kl[1, 1, 3], 0.0]
    ours = policy_change(jnp.asarray(log_ratio), jnp.asarray(alive))
    assert_allclose(ours["agent_kl"], agent_kl, rtol=1e-4)
    assert_allclose(ours["approx_kl"], np.mean(agent_kl), rtol=1e-4)
    assert_allclose(ours["joint_kl"], (kl * alive).sum() / 4, rtol=1e-4)
    alone = policy_change(jnp.asarray(log_ratio), jnp.asarray(alive * [[[0.0]], [[1.0]], [[0.0]]]))
    assert_allclose(alone["joint_kl"], kl[1, 1, 3], rtol=1e-4)
    nobody = policy_change(jnp.asarray(log_ratio), jnp.zeros((3, 2, 4)))
    assert {name: np.asarray(x).tolist() for name, x in nobody.items()} == {
        "agent_kl": [0.0, 0.0, 0.0],
        "approx_kl": 0.0,
        "joint_kl": 0.0,
    }
