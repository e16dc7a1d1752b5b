"""Parity with the reference implementation, through the code that training runs."""

import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_networks
from finite import assert_allclose
from fp3o_jax.kernels.dense import DeferredNorm
from fp3o_jax.method import losses
from fp3o_jax.method.schedules import CONDITIONS, make_algorithm
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from golden_files import FILES, Golden, assert_change, flat


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request):
    return Golden(request.param)


def _update(golden, epochs):
    """(params, opt_state, go_on) -> what the update makes of them, in two stages or, if told so, in one."""

    @jax.jit
    def update(params, opt_state, batch, schedule, hp, go_on):
        pipeline = PipelineUpdate(
            golden.networks,
            make_algorithm("fp3o"),
            epochs=epochs,
            num_minibatches=1,
            condition=lambda joint, own: CONDITIONS["joint"](joint, own) & go_on,
            dead_ratios=True,
        )
        return pipeline(params, opt_state, batch, schedule, jax.random.key(0), hp)

    batch, hp = golden.batch(), golden.hyperparams
    return lambda params, opt_state, go_on: update(params, opt_state, batch, golden.schedule, hp, go_on)


def _start(golden):
    params = golden.params("init")
    return params, {part: optimizer.init(params[part]) for part in params}


@functools.cache
def _epochs(golden):
    """Parameters before each epoch of the independent step."""
    params, opt_state = _start(golden)
    epoch, passed = _update(golden, 1), [params]
    for _ in range(golden.meta["epochs"] - 1):
        params, opt_state, _ = epoch(params, opt_state, False)
        passed.append(params)
    return jax.device_get(passed)


def _norm_before_product(self, kernel, bias):
    norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    return norm.apply({"params": {"scale": self.scale, "bias": self.bias}}, self.x) @ kernel + bias


def _derived(on):
    """LayerNorm as the reference has it, its gradient derived; else with ours, which rounds differently."""
    how = _norm_before_product if on else DeferredNorm.linear
    return mock.patch.object(DeferredNorm, "linear", how)


@functools.cache
def _iteration(golden, double=False, derived=False):
    """Parameters after the independent step alone and after both, and metrics of both."""
    with jax.enable_x64(double), _derived(derived):
        update, start = _update(golden, golden.meta["epochs"]), _start(golden)
        first, _, _ = update(*start, False)
        both, _, metrics = update(*start, True)
        return jax.device_get((first, both, metrics))


def _updated(golden, stage, **how):
    return _iteration(golden, **how)[stage]


def _sequences(golden, name):
    return as_sequences(jnp.asarray(golden.log_probs(name)), golden.length)


def test_files_are_there():
    assert len(FILES) >= 9


def test_outputs_at_initial_weights(golden):
    """Against the record where it has them, and against the reference's networks in float64."""
    params, batch = golden.params("init"), golden.batch()
    log_probs, entropy, values = golden.outputs(params)
    assert_allclose(log_probs, _sequences(golden, "logp_old"), rtol=1e-5, atol=1e-6)
    assert_allclose(values, batch.value, rtol=1e-5, atol=1e-5)

    ours = log_probs, entropy, values
    of = golden.prefixes("init")
    expected = zip(*(numpy_networks.forward(golden.data, *of(i), i) for i in range(golden.n)), strict=True)
    for x, y in zip(ours, expected, strict=True):
        y = as_sequences(np.stack(y), golden.length)
        assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_averages_over_the_independent_step(golden):
    """Entropy, losses and ratio, which the reference averages over its epochs."""
    batch, hp = golden.batch(), golden.hyperparams
    sums = []
    for params in _epochs(golden):
        log_probs, entropy, values = golden.outputs(params)
        log_ratio = log_probs - batch.log_prob
        terms = {
            "dist_entropy": entropy,
            "policy_loss": -losses.clipped_surrogate(log_ratio, batch.advantage, hp.clip_eps),
            "value_loss": losses.clipped_value_loss(
                values, batch.value, batch.target, hp.clip_eps, hp.huber_delta
            ),
        }
        sums.append({name: np.asarray((x * batch.alive).sum((1, 2))) for name, x in terms.items()})
        sums[-1]["ratio"] = np.asarray(jnp.exp(log_ratio).sum((1, 2)))
    # Whose averages a record holds: everyone's (full), the last pipeline's (partial), the agent's own (none).
    last = int(golden.data["order"][0, -1])
    groups = {
        "full": [list(range(golden.n))],
        "partial": [[last]],
        "none": [[i] for i in range(golden.n)],
    }[golden.kind]
    alive = np.asarray(batch.alive.sum((1, 2)))
    for i, group in enumerate(groups):
        ours = {
            name: np.mean([x[name][group].sum() for x in sums])
            / (len(group) * batch.alive[0].size if name == "ratio" else alive[group].sum())
            for name in sums[0]
        }
        if golden.kind == "partial":  # its record takes the bonus for the loss as well
            ours["policy_loss"] -= hp.entropy_coef * ours["dist_entropy"]
        for name in ours:
            theirs = golden.data[f"stage0/info{i}/{name}"]
            assert_allclose(ours[name], theirs, rtol=2e-5, atol=1e-6, err_msg=name)


def test_gradient_norms(golden):
    metrics = _iteration(golden)[2]
    for part in ("actor", "critic"):
        name = f"{part}_grad_norm"
        theirs = [golden.data[f"stage{s}/info{i}/{name}"] for s in (0, 1) for i in range(golden.n)]
        assert_allclose(metrics[name], np.mean(theirs), rtol=2e-5)


def test_gae_targets(golden):
    returns = golden.agents("returns")[:, :-1, :, 0]
    values = golden.agents("value_preds")[:, :-1, :, 0]
    assert_allclose(golden.advantages() + values, returns, rtol=1e-5, atol=1e-5)


def test_ratios_after_independent_step(golden):
    params = _updated(golden, 0)
    log_ratio = golden.outputs(params)[0] - golden.batch().log_prob
    assert_allclose(jnp.exp(log_ratio), _sequences(golden, "stage0/ratio"), rtol=1e-4)
    joint = as_sequences(jnp.asarray(golden.data["stage0/joint_ratio"][..., 0][None]), golden.length)
    assert_allclose(jnp.exp(log_ratio.sum(0)), joint[0], rtol=1e-4)


def test_the_sums_of_the_condition(golden):
    """From the recorded ratios, returns and masks, in float64; and the decision is the reference's."""
    metrics = _iteration(golden)[2]
    steps = golden.data["logp_old"].shape[0]
    alive = golden.agents("active_masks")[:, :steps, :, 0].astype(np.float64)
    advantage = (golden.agents("returns") - golden.agents("value_preds"))[:, :steps, :, 0].astype(np.float64)
    ratio = golden.log_probs("stage0/ratio").astype(np.float64)
    joint_ratio = golden.data["stage0/joint_ratio"][..., 0].astype(np.float64)
    sums, size = np.zeros(2), 0.0
    for a, m, rho in zip(advantage, alive, ratio, strict=True):
        living = a[m > 0]
        a = m * (a - living.mean()) / (living.std() + 1e-5)
        sums += [(a * joint_ratio).sum(), (a * rho).sum()]
        size += np.abs(a * rho).sum()
    assert_allclose(metrics["condition_sums"], sums, rtol=0, atol=1e-5 * size)
    went_on = (golden.data["stage1/logp"] != golden.data["stage0/logp"]).any()
    assert metrics["condition_held"] == went_on == (sums[0] + 1e-5 >= sums[1])


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_weights_after_each_step(golden, stage, network):
    before, theirs = (golden.params(name)[network] for name in ("init", f"stage{stage}"))
    ours = _updated(golden, stage)
    precise = _updated(golden, stage, double=True)
    singles = ours, _updated(golden, stage, derived=True)
    blurred = np.max([np.abs(flat(p[network]) - flat(precise[network])) for p in singles], axis=0)
    assert_change(ours[network], theirs, before, blurred)
    # In double precision only the reference's own rounding is left.
    assert_change(precise[network], theirs, before, blurred, tolerance=2e-5)


@pytest.mark.parametrize("stage", [0, 1])
def test_log_probs_after_each_step(golden, stage):
    theirs, before = _sequences(golden, f"stage{stage}/logp"), _sequences(golden, "logp_old")
    assert_change(golden.outputs(_updated(golden, stage))[0], theirs, before)
    with jax.enable_x64(True):
        ours = golden.outputs(_updated(golden, stage, double=True))[0]
    assert_change(ours, theirs, before, tolerance=2e-5)
