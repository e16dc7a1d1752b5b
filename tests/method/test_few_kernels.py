"""Steps of loops in fewer kernels: what comes out is the same, and what is left in a step is what changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose
from fp3o_jax import Config, make_train, xla
from fp3o_jax.kernels import steps
from fp3o_jax.kernels.steps import in_few_kernels


def both(fn, *args):
    """The results of ``fn`` as it is and in few kernels are the same; the latter's program."""
    plain, few = jax.jit(fn)(*args), jax.jit(in_few_kernels(fn))(*args)
    assert jax.tree.structure(plain) == jax.tree.structure(few)
    jax.tree.map(lambda x, y: assert_allclose(y, x, rtol=1e-6, atol=1e-6), plain, few)
    before, after = (jax.make_jaxpr(f)(*args) for f in (fn, in_few_kernels(fn)))
    assert before.out_avals == after.out_avals  # types that are weak as well
    return after.jaxpr


def loops(program):
    return [equation for equation in program.eqns if equation.primitive.name == "scan"]


def names(program):
    """Of all equations, those within others too."""
    for equation in program.eqns:
        yield equation.primitive.name
        if "jaxpr" in equation.params:
            yield from names(equation.params["jaxpr"].jaxpr)


def in_loop(program):
    """Names of the equations in the steps of the only loop."""
    (loop,) = loops(program)
    return list(names(loop.params["jaxpr"].jaxpr))


def walk(step, x, length=6, **how):
    return jax.lax.scan(step, x, jnp.arange(1.0, length + 1), **how)


X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)


@pytest.mark.parametrize("reverse", [False, True])
def test_short_loops_within_a_step_are_unrolled(reverse):
    def fn(x, kernel):
        def inner(h, e):
            h = jnp.tanh(h @ kernel + e)
            return h, (h.sum(), e)

        return walk(lambda h, e: walk(inner, h + e, 3, reverse=reverse), x, reverse=reverse)

    program = both(fn, X, KERNEL)
    assert in_loop(program).count("scan") == 0
    assert in_loop(program).count("dot_general") == 3


def test_loops_that_are_long_or_stand_alone_stay(monkeypatch):
    def fn(x):
        return walk(lambda h, e: (walk(lambda g, f: (jnp.sin(g) + f, g), h, 4)[0], e), x), walk(
            lambda h, e: (h * e, None), x, 4
        )

    assert len(loops(both(fn, X))) == 2
    monkeypatch.setattr(steps, "LONGEST", 5)
    (nested, _) = loops(both(fn, X))
    assert list(names(nested.params["jaxpr"].jaxpr)).count("scan") == 1


def test_what_is_within_a_short_loop_counts_as_often_as_it_runs():
    """Loops in loops, and branches."""

    def nested(h, e):
        return walk(lambda g, f: walk(lambda k, d: (k + d, None), g, 70), h, 70)[0] * e, None

    assert in_loop(both(lambda x: walk(nested, x), X)).count("scan") == 1

    def many(h, e):
        branches = [lambda g, i=i: walk(lambda k, d: (jnp.sin(k) + i, None), g, 30)[0] for i in range(3)]
        return walk(lambda g, f: (jax.lax.switch(f.astype(int) % 3, branches, g), None), h, 30)[0] * e, None

    assert in_loop(both(lambda x: walk(many, x), X)).count("scan") == 1


def test_loops_of_no_steps():
    def none(h):
        return jax.lax.scan(lambda g, e: (g + e.sum(), g * e), h, jnp.zeros((0, 4)))

    both(lambda x: (none(x), walk(lambda h, e: (h * e, none(h)), x)), X)


def test_what_no_step_changes_is_computed_before():
    """Through loops within the loop, too; arrays that are only larger are not kept."""

    def fn(x, kernel):
        def inner(h, e):
            wide = jnp.broadcast_to(jnp.exp(kernel).sum(0), (50, 4))
            return h @ (kernel @ kernel) + e, (wide * e).sum()

        return walk(lambda h, e: walk(inner, h, 5), x)

    program = both(fn, X, KERNEL)
    assert in_loop(program).count("dot_general") == 5 and "exp" not in in_loop(program)
    (loop,) = loops(program)
    sizes = [aval.size for aval in loop.params["jaxpr"].in_avals]
    assert max(sizes) == KERNEL.size


def test_what_steps_give_is_kept_together():
    """One array of each type; of each its own where they are large."""

    def fn(x):
        def step(h, e):
            weak = jax.lax.full_like(1.0, 2.0)
            return h + e, {"a": h, "b": h[0, 0] > e, "c": (h.sum(), jnp.zeros((2, 0)), weak), "d": h > 0}

        return walk(step, x)

    (loop,) = loops(both(fn, X))
    assert sorted(aval.shape for aval in loop.params["jaxpr"].out_avals[1:]) == [(1,), (13,), (13,)]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda h: h.at[2].set(h[1, 0]), 0),
        (lambda h: h.at[1:3].set(h[0, :2][:, None]), 0),
        (lambda h: h.at[:, 3].set(1.0), 0),
        (lambda h: h.at[-1].set(h[0]), 0),
        (lambda h: jax.vmap(lambda row: row.at[0].set(row[1]).at[1:3].set(5.0))(h), 0),
        (lambda h: h.at[:].set(2 * h), 0),
        # What is smaller in two axes, what is no single window, and what depends on what is read, stays.
        (lambda h: h.at[1, 2].set(7.0), 1),
        (lambda h: h.at[jnp.array([0, 2])].set(7.0), 1),
        (lambda h: h.at[(h[0, 0] > 0).astype(int)].set(7.0), 1),
        (lambda h: h.at[9].set(7.0), 1),
        (lambda h: h.at[2].add(h[1]), 1),
        (lambda h: h.at[2].apply(jnp.cos), 1),
        # Sums by place, of which the last is beyond the array; one of rows stays.
        (lambda h: h.at[0].set(h[0].at[jnp.argsort(h[:, 0]) % 2].add(h[:, 1])), 0),
        (lambda h: jax.vmap(lambda row: row.at[jnp.argsort(row) + 1].add(row))(h), 0),
        (lambda h: h.at[jnp.argsort(h[:, 0])].add(h), 1),
    ],
)
def test_writes_to_fixed_places_and_sums_by_place_are_plain_equations(write, left, mapped):
    def fn(x):
        return walk(lambda h, e: (write(h) + e, write(e * h)), x)

    program = both(jax.vmap(fn), np.stack([X, 2 * X])) if mapped else both(fn, X)
    found = [name for name in in_loop(program) if "scatter" in name or name == "dynamic_update_slice"]
    assert len(found) == 2 * left


def test_writes_to_a_single_number():
    both(lambda x: walk(lambda h, e: (h * h[1, 1].at[()].set(e), h[0, 0].at[...].set(2.0)), x), X)


def test_random_numbers_branches_and_derivatives_of_ones_own_stay_what_they_are():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

    def fn(key, x):
        def step(h, key):
            noise = jax.random.normal(key, h.shape)
            h = jax.lax.cond(noise[0, 0] > 0, lambda: twice(h), lambda: jax.nn.relu(h)) + noise
            return h, jax.random.split(key)

        last, keys = jax.lax.scan(step, x, jax.random.split(key, 6))
        return last, jax.random.key_data(keys)

    both(fn, jax.random.key(0), X)
    loss = lambda x: jax.lax.fori_loop(0, 3, lambda i, h: twice(h) ** 2, x).sum()  # noqa: E731
    both(jax.grad(loss), X)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("smax/3m", {"sharing": "none", "recurrent": True, "chunk_length": 4}),
        ("mpe/simple_spread", {"normalize_obs": "running", "algorithm": "ippo"}),
        ("matrix/climbing", {"num_starts": 1}),
    ],
)
def test_a_rollout_in_few_kernels(monkeypatch, env, settings):
    """Of two seeds side by side: what is seen, done and recorded, and where the environments stand."""
    config = Config(env=env, num_envs=3, rollout_length=8, hidden_sizes=(8,), **settings)
    trainer = make_train(config)
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.jit(jax.vmap(trainer.init))(keys)

    def collected(waits):
        monkeypatch.setattr(xla, "steps_wait", lambda: waits)
        traced = jax.jit(lambda *args: jax.vmap(trainer.collect)(*args)).trace(states, keys)
        return traced.jaxpr, traced.lower().compile()(states, keys)

    (before, plain), (after, few) = map(collected, (False, True))
    assert jax.tree.structure(plain) == jax.tree.structure(few)
    # Types that are firm or weak as well: others would have a program compiled again for its own results.
    assert before.out_avals == after.out_avals

    def same(x, y):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = map(jax.random.key_data, (x, y))
        exact = not jnp.issubdtype(x.dtype, jnp.floating)
        assert_allclose(y, x, **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}))

    jax.tree.map(same, plain, few)
    kinds = [list(names(jaxpr.jaxpr)) for jaxpr in (before, after)]
    loops_before, loops_after = (each.count("scan") for each in kinds)
    assert loops_after == (2 if config.recurrent else 1) <= loops_before
    assert kinds[1].count("scatter") <= kinds[0].count("scatter")
