"""The pipeline update: the paper's consequences, invariances, and who is touched by what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import update_helpers as helpers
from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax.kernels.blocks import make_blocks
from fp3o_jax.method.descent import Descent
from fp3o_jax.method.metrics import policy_change
from fp3o_jax.method.schedules import CONDITIONS, SELECTIONS, make_algorithm
from fp3o_jax.method.sequences import as_sequences
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from update_helpers import COUNT, HP, LENGTH, assert_same, differs, make_batch, networks

SHARINGS = ("full", "partial", "none", "by_type")


def compiled(sharing, n=3, condition="joint", epochs=2, agent_id=True):
    return helpers.compiled(networks(sharing, n, agent_id), condition=condition, epochs=epochs)


def start(sharing, n=3):
    return helpers.start(networks(sharing, n))


def run(algorithm, sharing, *, seed=0, n=3, batch=None, condition="off", epochs=2, **kwargs):
    params, opt_state = start(sharing, n)
    batch = make_batch(params, networks(sharing, n)) if batch is None else batch
    schedule = helpers.drawn(algorithm, seed, n, **kwargs)
    update = compiled(sharing, n, condition, epochs)
    return update(params, opt_state, batch, schedule, jax.random.key(9), HP)


@pytest.mark.parametrize("condition", ["joint", "off"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_fp3o_depends_neither_on_permutation_nor_on_selection(sharing, condition):
    reference, _, _ = run("fp3o", sharing, seed=0, condition=condition)
    for seed in (1, 2):
        for selection in SELECTIONS:
            new, _, _ = run("fp3o", sharing, seed=seed, condition=condition, selection=selection)
            assert_same(new, reference)


def test_the_joint_condition_is_the_papers_sum():
    """Against NumPy: ratios after the independent step, on batches where it holds and where it fails."""
    nets = networks("none")
    seen = set()
    for seed in range(6):
        params, _ = start("none")
        batch = make_batch(params, nets, seed)
        new, _, _ = run("mappo", "none", batch=batch)
        log_ratio = np.asarray(helpers.log_prob_of(new, nets, batch), np.float64) - np.asarray(batch.log_prob)
        log_rho = np.where(batch.alive > 0, log_ratio, 0.0)
        rho, log_weights = np.exp(log_rho), log_rho.sum(0) - log_rho
        plain = corrected = 0.0
        for j in range(3):
            others = np.prod([rho[q] for q in range(3) if q != j], axis=0)
            weighted = np.asarray(batch.alive[j] * batch.advantage[j]) * rho[j]
            plain, corrected = plain + weighted.sum(), corrected + (weighted * others).sum()
        holds = corrected + 1e-5 >= plain
        _, _, metrics = run("fp3o", "none", batch=batch, condition="joint")
        assert metrics["condition_held"] == holds
        assert_allclose(metrics["condition_sums"], [corrected, plain], rtol=1e-4, atol=1e-5)
        assert_allclose(metrics["log_weight_std"], log_weights[batch.alive > 0].std(), rtol=1e-4)
        seen.add(bool(holds))
    assert seen == {True, False}


def test_other_splits_do_depend_on_the_draw():
    a, _, _ = run("fp3o", "none", seed=0, split="dirichlet")
    b, _, _ = run("fp3o", "none", seed=1, split="dirichlet")
    assert differs(a, b)


def test_with_one_agent_the_independent_step_is_ppo_and_the_weight_is_one():
    """Both of FP3O's steps with n = 1 are plain PPO on the same batch, one after the other."""
    params, opt_state = start("full", 1)
    batch = make_batch(params, networks("full", 1))
    schedule = helpers.drawn("mappo", 0, 1)
    ppo = compiled("full", 1)
    for _ in range(2):
        params, opt_state, _ = ppo(params, opt_state, batch, schedule, jax.random.key(0), HP)
    ours, _, metrics = run("fp3o", "full", n=1, batch=batch, condition="joint")
    assert metrics["condition_held"] == 1
    assert_same(ours, params)


@pytest.mark.parametrize("algorithm", ["fp3o", "happo"])
def test_dead_samples_do_not_matter(algorithm):
    batch = make_batch(start("partial")[0], networks("partial"))
    dead = batch.alive == 0
    noisy = batch.replace(
        advantage=jnp.where(dead, 50.0, batch.advantage),
        value=jnp.where(dead, -70.0, batch.value),
        target=jnp.where(dead, 90.0, batch.target),
    )
    assert_same(run(algorithm, "partial", batch=batch)[0], run(algorithm, "partial", batch=noisy)[0])


@pytest.mark.parametrize("algorithm", ["mappo", "fp3o"])
def test_agents_without_shared_weights_see_their_own_losses_alone(algorithm):
    """With MAPPO and nothing shared, agent 2's data never reaches agents 0 and 1; with FP3O's dependent
    step it does, through the ratios."""
    batch = make_batch(start("none")[0], networks("none"))
    other = batch.replace(advantage=batch.advantage.at[2].multiply(-3.0))
    a, b = run(algorithm, "none", batch=batch)[0], run(algorithm, "none", batch=other)[0]
    rows = [jax.tree.map(lambda x: x[:2], p["actor"]) for p in (a, b)]
    assert differs(a, b)
    if algorithm == "fp3o":
        assert differs(*rows)
    else:
        assert_same(*rows)


def test_happo_is_one_agent_after_another():
    """Against single-agent PPO on hand-weighted advantages, in the order that was drawn."""
    params, _ = start("none")
    nets, batch = networks("none"), make_batch(start("none")[0], networks("none"))
    schedule = helpers.drawn("happo", 4, 3)
    order = [int(i) for i in schedule.owners[:, 0]]
    ours, _, _ = compiled("none")(params, start("none")[1], batch, schedule, jax.random.key(0), HP)
    weight = jnp.ones((LENGTH, COUNT))
    one = compiled("none", 1, agent_id=False)
    for i in order:
        mine = jax.tree.map(lambda x, i=i: x[i : i + 1], params)
        part = batch.of_rows(lambda x, i=i: x[i : i + 1])
        part = part.replace(advantage=part.advantage * weight)
        opt_state = {name: optimizer.init(mine[name]) for name in mine}
        single = helpers.drawn("mappo", 0, 1)
        new, _, _ = one(mine, opt_state, part, single, jax.random.key(0), HP)
        assert_same(jax.tree.map(lambda x, i=i: x[i : i + 1], ours), new)
        full = jax.tree.map(lambda x, y, i=i: x.at[i].set(y[0]), params, new)
        log_ratio = helpers.log_prob_of(full, nets, batch)[i] - batch.log_prob[i]
        weight = weight * jnp.exp(jnp.where(batch.alive[i] > 0, log_ratio, 0.0))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_failed_condition_skips_the_dependent_step(sharing):
    def never(corrected, plain):
        return jnp.zeros(plain.shape, bool)

    ours, opt_state, metrics = run("fp3o", sharing, condition=never)
    assert metrics["condition_held"] == 0
    once, once_state, once_metrics = run("mappo", sharing)
    assert_same(ours, once)
    assert_same(opt_state, once_state)
    skipped, second = ("condition_held", "agent_condition_held"), ("condition_sums", "log_weight_std")
    assert_same(
        {name: x for name, x in metrics.items() if name not in second},
        {name: x * (name not in skipped) for name, x in once_metrics.items() if name not in second},
    )


def test_a_pipeline_kept_back_alone():
    def all_but_first(corrected, plain):
        return jnp.arange(3) > 0

    ours, _, metrics = run("fp3o", "none", condition=all_but_first)
    once, _, _ = run("mappo", "none")
    both, _, _ = run("fp3o", "none")
    assert metrics["condition_held"] == pytest.approx(2 / 3)
    assert list(metrics["agent_condition_held"]) == [0, 1, 1]
    assert_same(jax.tree.map(lambda x: x[0], ours), jax.tree.map(lambda x: x[0], once))
    assert_same(jax.tree.map(lambda x: x[1:], ours), jax.tree.map(lambda x: x[1:], both))


def test_groups_that_no_stage_owns_keep_their_statistics():
    params, opt_state = start("none")
    batch = make_batch(params, networks("none"))
    schedule = jax.tree.map(lambda x: x[:1], helpers.drawn("happo", 4, 3))
    owner = int(schedule.owners[0, 0])
    new, new_state, _ = compiled("none")(params, opt_state, batch, schedule, jax.random.key(0), HP)
    counts = np.asarray(new_state["actor"]["trunk"].count)
    assert list(counts) == [2 if i == owner else 0 for i in range(3)]
    rest = [i for i in range(3) if i != owner]
    pick = lambda tree: jax.tree.map(lambda x: x[jnp.array(rest)], tree)  # noqa: E731
    assert_same(pick(new), pick(params), atol=0)


@pytest.mark.parametrize(("algorithm", "n"), [("mappo", 3), ("a2po", 3), ("a2po", 1)])
def test_minibatches_cover_the_batch(algorithm, n):
    """By tiny steps along the gradient: together those of four quarters are four times that of the whole."""
    with jax.enable_x64(True):
        nets, tx = networks("full", n), optax.identity()
        params, _ = helpers.start(nets)
        opt_state = {part: optimizer.init(params[part], tx) for part in params}
        batch = make_batch(params, nets)
        batch = batch.replace(alive=jnp.ones_like(batch.alive))
        member, errors = make_algorithm(algorithm), helpers.make_errors(n)
        schedule = member.schedule(jax.random.key(0), n)
        hp = HP._replace(actor_lr=1e-7, critic_lr=1e-7, max_grad_norm=1e9)

        def moved(count):
            settings = {"epochs": 1, "num_minibatches": count, "condition": CONDITIONS["joint"], "tx": tx}
            update = jax.jit(PipelineUpdate(nets, member, **settings))
            new, _, metrics = update(params, opt_state, batch, schedule, jax.random.key(0), hp, errors=errors)
            assert_finite(metrics)
            return jax.tree.map(lambda a, b: (a - b) / 1e-7, new, params)

        quarters, whole = moved(4), moved(1)
        for part in ("actor", "critic"):
            assert max(np.abs(x).max() for x in jax.tree.leaves(whole[part])) > 0.01
        jax.tree.map(lambda x, y: assert_allclose(x, 4 * y, rtol=1e-3, atol=1e-5), quarters, whole)


def test_a_fraction_of_the_learning_rates():
    params, opt_state = start("none")
    batch, schedule = make_batch(params, networks("none")), helpers.drawn("mappo", 0, 3)
    halved = HP._replace(actor_lr=HP.actor_lr / 2, critic_lr=HP.critic_lr / 2)
    ours, expected, whole = (
        compiled("none")(params, opt_state, batch, schedule, jax.random.key(0), hp, jnp.float32(fraction))[0]
        for hp, fraction in ((HP, 0.5), (halved, 1.0), (HP, 1.0))
    )
    assert_same(ours, expected)
    assert all(differs(ours[part], whole[part]) for part in ours)


def test_gradient_clipping_is_per_component():
    hp = HP._replace(max_grad_norm=1e-3)
    params, opt_state = start("none")
    batch = make_batch(params, networks("none"))
    big = batch.replace(target=batch.target.at[0].multiply(100.0))
    schedule = helpers.drawn("mappo", 0, 3)
    results = [
        compiled("none")(params, opt_state, b, schedule, jax.random.key(0), hp)[0] for b in (batch, big)
    ]
    rows = [jax.tree.map(lambda x: x[1:], r) for r in results]
    assert_same(*rows)
    # Not because nothing happened: agent 0's own critic does move otherwise.
    assert differs(*(r["critic"] for r in results))


def test_sequences_keep_time_within_a_chunk():
    x = jnp.arange(2 * 6 * 3).reshape(2, 6, 3)
    ours = as_sequences(x, 2)
    assert ours.shape == (2, 2, 9)
    for chunk in range(3):
        for env in range(3):
            assert_array_equal(ours[:, :, chunk * 3 + env], x[:, 2 * chunk : 2 * chunk + 2, env])


def test_policy_change_is_the_kl():
    rng = np.random.default_rng(0)
    log_ratio, alive = rng.normal(0, 0.1, (2, 1, 50)), (rng.random((2, 1, 50)) < 0.7).astype(float)
    ours = policy_change(jnp.asarray(log_ratio), jnp.asarray(alive))
    kl = np.exp(log_ratio) - 1 - log_ratio
    expected = [kl[i][alive[i] > 0].mean() for i in range(2)]
    assert_allclose(ours["agent_kl"], expected, rtol=1e-4)
    someone = alive.max(0) > 0
    assert_allclose(ours["joint_kl"], (kl * alive).sum(0)[someone].mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "sharing", "minibatches"),
    [
        ("fp3o", "partial", 2),
        ("fp3o", "none", 1),
        ("happo", "none", 2),
        ("happo", "by_type", 1),
        ("coppo", "full", 1),
    ],
)
def test_blocks_and_agents_apart_give_the_same_update(monkeypatch, algorithm, sharing, minibatches):
    """24 sequences of 3 agents of different sizes: in one gradient of the whole team, and in blocks of 12
    sequences of one agent (of 6 of all, where a minibatch has no more) or of a single one."""
    with jax.enable_x64(True):
        nets = networks(sharing, obs=(4, 3, 2), actions=(3, 3, 2))
        member = make_algorithm(algorithm)
        params, opt_state = helpers.start(nets)
        batch = make_batch(params, nets)
        # The third agent has two actions alone: another action has another probability.
        batch = batch.replace(action=batch.action.at[2].set(batch.action[2] % 2))
        batch = batch.replace(log_prob=helpers.log_prob_of(params, nets, batch))
        schedule = member.schedule(jax.random.key(0), 3)

        def result(size):
            settings = {"epochs": 1, "num_minibatches": minibatches, "condition": CONDITIONS["joint"]}
            update = PipelineUpdate(nets, member, block_size=size, **settings)
            return jax.jit(update)(params, opt_state, batch, schedule, jax.random.key(0), HP)

        results = [result(size) for size in (18, 1)]
        monkeypatch.setattr(Descent, "__call__", Descent.steps)
        together = result(None)
        assert differs(together[0], params)
        for other in results:
            assert_same(together, other, atol=1e-9)


@pytest.mark.parametrize(("owners", "size"), [([[2, 0], [1, 2]], None), ([[2, 0], [1, 2]], 1), (None, 30)])
def test_a_few_agents_apart_give_the_same_update(owners, size, monkeypatch):
    """Of four: stages that own two of them, and stages through which they go two at a time."""
    with jax.enable_x64(True):
        nets, member = networks("none", 4), make_algorithm("fp3o")
        params, opt_state = helpers.start(nets)
        batch = make_batch(params, nets)
        schedule = member.schedule(jax.random.key(0), 4)
        if owners:
            schedule = jax.tree.map(lambda x: x[:, :2] if x.ndim > 1 else x, schedule)
            schedule = schedule._replace(owners=jnp.array(owners))

        def result(size):
            settings = {"epochs": 1, "num_minibatches": 1, "condition": CONDITIONS["off"]}
            update = PipelineUpdate(nets, member, block_size=size, **settings)
            return jax.jit(update)(params, opt_state, batch, schedule, jax.random.key(0), HP)

        apart = result(size)
        monkeypatch.setattr(Descent, "__call__", Descent.steps)
        together = result(None)
        assert differs(together[0], params)
        assert_same(together, apart, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "target", "blocks"),
    [
        ((128, 1, 3200), 2048, (128, 1, 2, 1600)),
        ((3, 10, 12), 1000, (1, 3, 1, 12)),
        ((6, 1, 100), 150, (3, 2, 2, 50)),
        ((1, 5, 7), 6, (1, 1, 7, 1)),
        ((4, 1, 9), None, (1, 4, 1, 9)),
    ],
)
def test_blocks_hold_few_rows_and_many_sequences(shape, target, blocks):
    ours = make_blocks(shape, target)
    assert ours == blocks
    x = jnp.arange(np.prod(shape)).reshape(shape)
    cut = [ours.cut(i, x) for i in range(ours.count)]
    assert_array_equal(ours.joined(jnp.stack(cut)), x)
    order = np.random.default_rng(0).permutation(shape[2])
    cut = [ours.cut(i, x, jnp.asarray(order)) for i in range(ours.count)]
    assert_array_equal(ours.joined(jnp.stack(cut)), x[:, :, order])


@pytest.mark.parametrize("sharing", ["none", "partial"])
@pytest.mark.parametrize("algorithm", ["mappo", "happo"])
def test_an_agent_that_is_never_alive_stays_exactly_where_it_is(algorithm, sharing):
    """Weights and Adam statistics of what is its own; Adam's momentum from an earlier batch moves nothing."""
    nets = networks(sharing)
    params, opt_state = start(sharing)
    batch = make_batch(params, nets)
    schedule = helpers.drawn(algorithm, 0, 3)
    update = compiled(sharing)
    before = update(params, opt_state, batch, schedule, jax.random.key(0), HP)[:2]
    batch = batch.replace(alive=batch.alive.at[1].set(0.0))
    after = update(*before, batch, schedule, jax.random.key(0), HP)[:2]

    def own(tree):
        parts = {"head": tree["actor"]["head"]} if sharing == "partial" else tree
        return [np.asarray(x) for x in jax.tree.leaves(parts)]

    for old, new in zip(map(own, before), map(own, after), strict=True):
        for x, y in zip(old, new, strict=True):
            assert np.isfinite(y).all()
            assert_array_equal(x[1], y[1])
            assert (x[0] != y[0]).any() and (x[2] != y[2]).any()


def test_a_minibatch_without_living_samples_is_no_step():
    nets = networks("none")
    params, opt_state = start("none")
    batch = make_batch(params, nets)
    batch = batch.replace(alive=batch.alive.at[1].set(0.0).at[1, 0, 5].set(1.0))
    settings = {"epochs": 2, "num_minibatches": 4, "condition": CONDITIONS["off"]}
    update = jax.jit(PipelineUpdate(nets, make_algorithm("mappo"), **settings))
    schedule = helpers.drawn("mappo", 0, 3)
    _, opt_state, _ = update(params, opt_state, batch, schedule, jax.random.key(0), HP)
    for part in ("actor", "critic"):
        assert list(opt_state[part]["trunk"].count) == [8, 2, 8]


@pytest.mark.parametrize(("once", "steps"), [(None, 2), (False, 6)])
def test_one_critic_under_happo_takes_as_many_steps_as_its_authors(once, steps):
    nets = networks("none", critics="full", one_critic=True)
    params, opt_state = helpers.start(nets)
    assert {x.shape[0] for x in jax.tree.leaves(params["critic"])} == {1}
    assert {x.shape[0] for x in jax.tree.leaves(params["actor"])} == {3}
    batch = make_batch(params, nets)
    batch = batch.replace(value=batch.value[:1], target=batch.target[:1])
    member = make_algorithm("happo", critics_once=once)
    settings = {"epochs": 2, "num_minibatches": 1, "condition": CONDITIONS["off"]}
    schedule = member.schedule(jax.random.key(0), 3)
    new, opt_state, metrics = jax.jit(PipelineUpdate(nets, member, **settings))(
        params, opt_state, batch, schedule, jax.random.key(0), HP
    )
    assert list(opt_state["critic"]["trunk"].count) == [steps]
    assert list(opt_state["actor"]["trunk"].count) == [2, 2, 2]
    assert differs(new["critic"], params["critic"])
    assert np.isfinite(metrics["value_loss"]) and np.isfinite(metrics["critic_grad_norm"])
