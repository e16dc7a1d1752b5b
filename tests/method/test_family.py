"""HAPPO, A2PO and CoPPO against their authors' implementations, through the code that training runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from family_files import FILES, FamilyRecord
from finite import assert_allclose
from fp3o_jax.method.advantages import TRACES, gae, normalize_advantages, relative_advantage
from fp3o_jax.method.schedules import semi_greedy_order
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.team import optimizer
from golden_files import assert_change, flat

precisions = pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
of_a2po = pytest.mark.parametrize(
    "path", [f for f in FILES if f.stem.startswith("a2po")], ids=lambda f: f.stem
)
#: Float64 shares the float32 weights and batch of the record: returns and stored ratios are rounded there.
TOLERANCE = {False: 1e-4, True: 1e-5}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def record(request):
    return FamilyRecord(request.param)


@functools.cache
def _updated(record, double):
    """Parameters and metrics after the update."""
    with jax.enable_x64(double):
        params, batch, hp = record.params("init"), record.batch(), record.hyperparams
        opt_state = {part: optimizer.init(params[part]) for part in params}
        update = jax.jit(record.update())
        arguments = params, opt_state, batch, record.schedule, jax.random.key(0), hp
        params, _, metrics = update(*arguments, errors=record.errors())
        return jax.device_get((params, metrics))


def _after(double):
    return "float64/after" if double else "after"


def test_files_are_there():
    assert len(FILES) >= 15


@precisions
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_weights(record, network, double):
    with jax.enable_x64(double):
        before, theirs = (record.params(when)[network] for when in ("init", _after(double)))
    ours, single, precise = (_updated(record, d)[0][network] for d in (double, False, True))
    blurred = np.abs(flat(single) - flat(precise))
    assert_change(ours, theirs, before, blurred, TOLERANCE[double])


@precisions
def test_log_probs(record, double):
    """Recurrent ones from the states that were stored at the start of each chunk."""
    name = f"{_after(double)}/logp"
    name = f"{name}_chunks" if f"{name}_chunks" in record.data else name
    with jax.enable_x64(double):
        ours = record.outputs(_updated(record, double)[0])[0]
    theirs, before = (
        as_sequences(np.asarray(record.log_probs(x)), record.length) for x in (name, "logp_old")
    )
    assert_change(ours, theirs, before, tolerance=TOLERANCE[double])


def test_gradient_norms(record):
    """The means over all gradient steps."""
    metrics = _updated(record, True)[1]
    for part in ("actor", "critic"):
        infos = [x for x in record.data if x.startswith("float64") and x.endswith(f"info/{part}_grad_norm")]
        theirs = np.mean([np.mean(record.data[x]) for x in infos])
        assert_allclose(metrics[f"{part}_grad_norm"], theirs, rtol=1e-5, err_msg=part)


def test_advantages_before_the_first_stage(record):
    """Targets, and the advantages normalised over the samples that the authors take."""
    steps = record.data["logp_old"].shape[0]
    returns = record.agents("returns")[:, :steps, :, 0]
    with jax.enable_x64(True):
        batch = record.batch()
        targets = np.broadcast_to(batch.target, batch.alive.shape)
        assert_allclose(
            targets, as_sequences(returns, record.length), rtol=1e-5, atol=1e-5 * np.abs(returns).max()
        )
        if record.name == "a2po":
            first = int(record.data["order"][0])
            ours, theirs = batch.advantage[first], record.data["float64/stage0/advantages"][None]
        else:
            name = "float64/advantages" if record.name == "happo" else "float64/stage0/advantages"
            ours, theirs = batch.advantage, record.log_probs(name)
        theirs = as_sequences(theirs, record.length)
        assert_allclose(ours, theirs if ours.ndim == 3 else theirs[0], rtol=1e-5, atol=1e-5)


@of_a2po
def test_traces(path):
    """Each stage's advantages from the ratios that were recorded, and their normalisation."""
    record = FamilyRecord(path)
    order = [int(i) for i in record.data["order"]]
    steps = record.data["logp_old"].shape[0]
    values = record.agents("value_preds")[:, :steps, :, 0].astype(float)
    alive = record.agents("active_masks")[:, :steps, :, 0]
    trace = TRACES["speedup" if record.meta["speedup"] else "gae_trace"]
    with jax.enable_x64(True):
        errors = record.errors()
        latest = np.array(gae(errors))
        for stage, agent in enumerate(order):
            ratio = record.data[f"float64/stage{stage}/joint_ratio"][None]
            if stage:
                own = errors._replace(delta=errors.delta[agent][None])
                latest[agent] = trace(own, jnp.log(ratio), record.meta["lam"])[0]
            returns = record.data[f"float64/stage{stage}/weighted_returns"][:steps]
            assert_allclose(latest[agent] + values[agent], returns, rtol=1e-5, atol=1e-5)
            ours = normalize_advantages(latest, alive, "joint")[agent]
            theirs = record.data[f"float64/stage{stage}/advantages"]
            assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_allclose(
        record.schedule.clip[:, 0] * record.meta["clip"],
        [record.data[f"stage{k}/clip"] for k in range(record.n)],
        rtol=1e-6,
    )


@of_a2po
def test_the_recorded_order_is_semi_greedy(path):
    """Every other agent is the one with the highest score of those that are left."""
    record = FamilyRecord(path)
    recorded = [int(i) for i in record.data["order"]]
    batch = record.batch()
    scores = relative_advantage(batch.advantage, batch.value, batch.alive)
    drawn = {
        tuple(int(i) for i in semi_greedy_order(key, record.n, scores))
        for key in jax.random.split(jax.random.key(0), 20)
    }
    assert tuple(recorded) in drawn
    for order in drawn:
        assert all(order[k] == max(order[k:], key=lambda i: scores[i]) for k in range(0, record.n, 2))
