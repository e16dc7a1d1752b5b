"""Loops that run as one: what comes out is the same, in half the steps where policies and critics learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose
from fp3o_jax import Config, make_train, train, xla
from fp3o_jax.kernels.gru import gru_scan
from fp3o_jax.kernels.loops import in_one_loop
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.schedules import CONDITIONS
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import make_sharing
from sequential_steps import steps_of
from update_helpers import HP, make_algorithm


def lengths(fn, *args):
    """Of all scans of a function, those within others too, in the order of its program."""

    def within(program):
        for equation in program.eqns:
            if equation.primitive.name == "scan":
                yield equation.params["length"]
            if "jaxpr" in equation.params:
                yield from within(equation.params["jaxpr"].jaxpr)

    return list(within(jax.make_jaxpr(fn)(*args).jaxpr))


def products(fn, *args):
    """Of matrices, in the steps of all scans of a function."""
    equations = jax.make_jaxpr(fn)(*args).jaxpr.eqns
    return sum(str(eqn).count("dot_general[") for eqn in equations if eqn.primitive.name == "scan")


def walk(x, kernel, length=5, reverse=False):
    """A state [R, W] through steps that multiply it; all states, and the last one."""
    noise = jnp.arange(float(length))

    def step(h, e):
        h = jnp.tanh(h @ kernel + e)
        return h, h

    return jax.lax.scan(step, x, noise, reverse=reverse)


def both(fn, *args):
    """The results of ``fn`` apart and in one loop, from one program; and the latter's loops."""
    plain, merged = jax.jit(lambda *args: (fn(*args), in_one_loop(fn)(*args)))(*args)
    jax.tree.map(lambda x, y: assert_allclose(y, x, rtol=1e-6, atol=1e-6), plain, merged)
    return lengths(in_one_loop(fn), *args)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("rows", [3, 6])
def test_what_does_not_wait_is_one_loop(rows):
    """Of arrays of the same shapes, stacked, or of others."""
    x, y, kernel = arrays((3, 4), (rows, 4), (4, 4))

    def fn(x, y, kernel):
        return walk(x, kernel), walk(y, 2 * kernel)

    assert both(fn, x, y, kernel) == [5]
    assert products(in_one_loop(fn), x, y, kernel) == (1 if rows == 3 else 2)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"length": 4}, [5, 4]),
        ({"reverse": True}, [5, 5]),
        ({"length": 1}, [5]),
    ],
)
def test_loops_of_other_kinds_stay(second, expected):
    x, kernel = arrays((3, 4), (4, 4))
    assert both(lambda x, k: (walk(x, k), walk(x, 2 * k, **second)), x, kernel) == expected


def test_what_waits_for_what_another_loop_leaves_behind_stays_behind_it():
    x, kernel = arrays((3, 4), (4, 4))

    def chain(x, k):
        last, states = walk(x, k)
        return walk(last, k), walk(states.sum(0), k), walk(jnp.flip(states)[0], k)

    # One, and then three side by side.
    assert both(chain, x, kernel) == [5, 5]


def test_what_takes_another_one_s_results_step_for_step_is_one_loop():
    x, kernel = arrays((3, 4), (4, 4))

    def fed(x, k):
        _, states = walk(x, k)
        return jax.lax.scan(lambda s, h: (s + h @ k, s * h), x, states), states[2]

    assert both(fed, x, kernel) == [5]

    def fed_twice(x, k):
        _, states = walk(x, k)
        return jax.lax.scan(lambda s, h: (s + h + states[0], s), x, states)

    assert both(fed_twice, x, kernel) == [5, 5]


def test_loops_within_loops():
    x, y, kernel = arrays((3, 4), (2, 4), (4, 4))

    def outer(x, k, inner):
        return jax.lax.scan(lambda h, _: (walk(h, k, inner)[0], None), x, length=3)[0]

    def fn(x, y, k):
        # The third within a loop of a single step, and a function of its own.
        return outer(x, k, 4), outer(y, k, 4), jax.lax.map(lambda z: outer(z, k, 4), x[None])

    assert both(fn, x, y, kernel) == [3, 4]
    crossed = both(lambda x, k: (walk(walk(x, k, 4)[0], k, 6), walk(walk(x, 2 * k, 6)[0], k, 4)), x, kernel)
    assert sorted(crossed) == [4, 4, 6, 6]


@pytest.mark.parametrize("seed", range(3))
def test_any_program_stays_what_it_is(seed):
    """Of loops that take one another's states, step for step or as a whole, in any order."""

    def fn(x, k):
        rng, made, tops = np.random.default_rng(seed), [jnp.zeros((4, 2, 3))], [x]
        for _ in range(12):
            states, top = (m[rng.integers(len(m))] for m in (made, tops))
            flip, by_step = rng.random() < 0.3, rng.random() < 0.6
            step = (
                (lambda h, e: (jnp.tanh(h @ k + e), h)) if by_step else lambda h, e: (h + jnp.sin(e), h * e)
            )
            last, new = jax.lax.scan(step, top, states, reverse=bool(flip))
            made.append(new if rng.random() < 0.7 else new * last)
            tops.append(last)
        return made, tops

    plain = lengths(fn, *arrays((2, 3), (3, 3)))
    merged = both(fn, *arrays((2, 3), (3, 3)))
    assert len(plain) == 12 > len(merged)


def numpy_gru(x, h, starts, kernel, bias):
    """States [L, N, W] in float64."""
    states = []
    for step, start in zip(x, starts, strict=True):
        h = np.where(start[:, None], 0.0, h)
        of_x, of_h = np.split(step, 3, -1), np.split(h @ kernel + bias, 3, -1)
        reset, update = (1 / (1 + np.exp(-of_x[i] - of_h[i])) for i in (0, 1))
        h = (1 - update) * np.tanh(of_x[2] + reset * of_h[2]) + update * h
        states.append(h)
    return np.stack(states)


@pytest.mark.parametrize(("rows", "expected"), [((3, 3), 2), ((2, 6), 2), ((5, 2), 4)])
def test_a_pair_of_grus_is_one_loop_forward_and_one_back(rows, expected):
    """With one product in a step, where the rows of one go into those of the other; else with two.

    Against NumPy: states, and the gradient of a sum along a direction as the difference of two sums.
    """
    rng, length, width = np.random.default_rng(0), 5, 4

    def draw(count):
        shapes = (length, count, 3 * width), (count, width), (width, 3 * width), (3 * width,)
        return tuple(rng.normal(size=shape) for shape in shapes)

    inputs, directions = (tuple(draw(count) for count in rows) for _ in range(2))
    starts = [rng.random((length, count)) < 0.3 for count in rows]
    pulled = [rng.normal(size=(length, count, width)) for count in rows]

    def states(inputs):
        return [gru_scan(x, h, s, k, b) for (x, h, k, b), s in zip(inputs, starts, strict=True)]

    def loss(inputs):
        made = states(inputs)
        return sum((s * p).sum() for s, p in zip(made, pulled, strict=True)), made

    def in_numpy(inputs):
        return [numpy_gru(x, h, s, k, b) for (x, h, k, b), s in zip(inputs, starts, strict=True)]

    def sum_at(shift):
        moved = jax.tree.map(lambda x, d: x + shift * d, inputs, directions)
        return [(s * p).sum() for s, p in zip(in_numpy(moved), pulled, strict=True)]

    with jax.enable_x64(True):
        gradient = jax.grad(loss, has_aux=True)
        apart, together = jax.jit(lambda x: (gradient(x), in_one_loop(gradient)(x)))(inputs)
        assert lengths(gradient, inputs) == 4 * [length]
        assert lengths(in_one_loop(gradient), inputs) == 2 * [length]
        assert products(gradient, inputs) == 4
        assert products(in_one_loop(gradient), inputs) == expected
    for result in (apart, together):
        jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-12), result[1], in_numpy(inputs))
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-12), apart[0], together[0])
    slopes = (np.array(sum_at(1e-5)) - sum_at(-1e-5)) / 2e-5
    for grads, direction, slope in zip(together[0], directions, slopes, strict=True):
        ours = sum((np.asarray(g) * d).sum() for g, d in zip(grads, direction, strict=True))
        assert_allclose(ours, slope, rtol=1e-7)


def test_grus_of_two_precisions_keep_them():
    """In one loop with a product for each, though the rows of one go into those of the other."""
    rng = np.random.default_rng(0)

    def draw(count, dtype):
        shapes = (5, count, 12), (count, 4), (4, 12), (12,)
        x, h, kernel, bias = (rng.normal(size=shape).astype(dtype) for shape in shapes)
        return x, h, rng.random((5, count)) < 0.3, kernel, bias

    def states(inputs):
        return [gru_scan.fun(*each) for each in inputs]

    with jax.enable_x64(True):
        inputs = draw(2, np.float32), draw(6, np.float64)
        apart, together = jax.jit(lambda x: (states(x), in_one_loop(states)(x)))(inputs)
        assert lengths(in_one_loop(states), inputs) == [5] and products(in_one_loop(states), inputs) == 2
    for ours, expected in zip(together, apart, strict=True):
        assert ours.dtype == expected.dtype
        assert_allclose(ours, expected, rtol=0, atol=0)


N, LENGTH, COUNT, WIDTH, EPOCHS, SEEDS = 3, 4, 6, 6, 2, 2


def make_networks(sharing, one_critic):
    return ActorCritic(
        sharing=make_sharing(sharing, None, N),
        obs_sizes=(4, 3, 4),
        critic_sizes=(5,) * N,
        action_sizes=(3,) * N,
        discrete=True,
        trunk=Trunk((WIDTH,), recurrent=True),
        agent_id=True,
        one_critic=one_critic,
    )


def make_inputs(networks, algorithm):
    """All that an update takes, of several seeds; nothing is compiled."""
    rng, c = np.random.default_rng(0), networks.num_critics

    def like(leaf):
        shape = (SEEDS, *leaf.shape)
        return rng.normal(0, 0.5, shape) if leaf.dtype == float else np.zeros(shape, leaf.dtype)

    def normal(rows, *more):
        return rng.normal(size=(SEEDS, rows, LENGTH, COUNT, *more))

    samples = (SEEDS, N, LENGTH, COUNT)
    params = jax.eval_shape(networks.init, jax.random.key(0))
    opt_state = jax.eval_shape(lambda params: {part: optimizer.init(params[part]) for part in params}, params)
    batch = Batch(
        obs=normal(N, 4),
        critic_inputs=normal(1, 5),
        action_mask=None,
        alive=(rng.random(samples) < 0.8).astype(float),
        starts=rng.random((SEEDS, 1, LENGTH, COUNT)) < 0.2,
        action=rng.integers(0, 3, samples),
        log_prob=np.log(rng.uniform(0.2, 0.5, samples)),
        advantage=normal(N),
        value=normal(c),
        target=normal(c),
        actor_hidden=rng.normal(size=(SEEDS, N, 1, COUNT, WIDTH)),
        critic_hidden=rng.normal(size=(SEEDS, c, 1, COUNT, WIDTH)),
    )
    keys = jax.random.split(jax.random.key(0), SEEDS)
    schedule = jax.vmap(lambda key: algorithm.schedule(key, N))(keys)
    return (
        jax.tree.map(like, params),
        jax.tree.map(np.abs, jax.tree.map(like, opt_state)),
        batch,
        schedule,
        keys,
    )


@pytest.mark.parametrize(
    ("name", "sharing", "one_critic", "minibatches", "block_size"),
    [
        ("mappo", "full", True, 2, None),
        ("mappo", "partial", False, 1, None),
        ("mappo", "none", False, 2, 2 * LENGTH),
        ("fp3o", "full", False, 2, None),
        ("fp3o", "partial", True, 2, 2 * LENGTH),
        ("fp3o", "none", False, 1, None),
    ],
)
def test_an_update_in_one_loop(name, sharing, one_critic, minibatches, block_size):
    """Parameters, optimiser states and metrics of two seeds; and the steps of the compiled programs."""
    with jax.enable_x64(True):
        algorithm, networks = make_algorithm(name), make_networks(sharing, one_critic)
        update = PipelineUpdate(
            networks,
            algorithm,
            epochs=EPOCHS,
            num_minibatches=minibatches,
            condition=CONDITIONS["per_pipeline"],
            block_size=block_size,
        )
        inputs = make_inputs(networks, algorithm)
        results, steps = [], []
        for way in (update, in_one_loop(update)):
            seeds = jax.vmap(way, (0, 0, 0, 0, 0, None))
            compiled = jax.jit(seeds).lower(*inputs, HP).compile()
            results.append(compiled(*inputs, HP))
            steps.append(steps_of(compiled.as_text()))
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-10), *results)
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), results[1][0], inputs[0])
    assert min(jax.tree.leaves(moved)) > 1e-5
    if block_size is None:
        # Half of what gradient steps take, forward and back; the rest is ratios and random numbers.
        halved = len(inputs[3].gated[0]) * EPOCHS * minibatches * (1 + 2 * LENGTH)
        assert steps[0] - steps[1] >= halved


@pytest.mark.parametrize(
    ("recurrent", "waits", "times"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_who_learns_in_one_loop(monkeypatch, recurrent, waits, times):
    """Recurrent networks, where steps wait; on a CPU nobody."""
    assert not xla.steps_wait()
    made = []
    monkeypatch.setattr(xla, "steps_wait", lambda: waits)
    monkeypatch.setattr(train, "in_one_loop", lambda fn: made.append(fn) or fn)
    trainer = make_train(
        Config(env="matrix/climbing", num_envs=2, rollout_length=16, recurrent=recurrent, hidden_size=4)
    )
    jax.eval_shape(trainer.update, jax.eval_shape(trainer.init, jax.random.key(0)))
    assert len(made) == times
