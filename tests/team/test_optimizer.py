"""The optimiser of grouped parameters against Adam in float64 NumPy."""

import functools

import jax
import numpy as np
import optax
import pytest

from finite import assert_allclose, assert_array_equal
from fp3o_jax.team import optimizer
from fp3o_jax.team.sharing import Sharing

#: Two agents share a trunk and have heads of their own; the third shares nothing.
SHARING = Sharing((0, 0, 1), (0, 1, 2))
COMPONENT = {"trunk": [0, 1], "head": [0, 0, 1]}
SHAPES = {"trunk": {"kernel": (2, 4, 3), "bias": (2, 3)}, "head": {"kernel": (3, 3, 2), "bias": (3, 2)}}
HEAD_SCALE = np.array([2.0, 3.0, 0.5])
RATE = 0.1


def random_tree(rng, scale):
    """Gradients of the second component are ten times as large."""
    return {
        part: {
            name: scale
            * rng.normal(size=shape)
            * np.array([1.0, 10.0])[COMPONENT[part]].reshape((-1,) + (1,) * (len(shape) - 1))
            for name, shape in leaves.items()
        }
        for part, leaves in SHAPES.items()
    }


@functools.cache
def compiled():
    def step(grads, state, params, max_grad_norm, active):
        return optimizer.step(
            grads,
            state,
            params,
            sharing=SHARING,
            learning_rate=RATE,
            head_scale=HEAD_SCALE,
            max_grad_norm=max_grad_norm,
            active=active,
        )

    return jax.jit(step)


class Adam:
    """Group by group; ``size`` bounds the norm of a component's gradient."""

    def __init__(self, params):
        self.params = jax.tree.map(np.array, params)
        self.m, self.v = (jax.tree.map(np.zeros_like, self.params) for _ in range(2))
        self.count = {part: [0] * len(COMPONENT[part]) for part in COMPONENT}

    def step(self, grads, size, active):
        """The sum of the norms of the components that take part."""
        square, takes_part = np.zeros(2), [False, False]
        for part, components in COMPONENT.items():
            for group, c in enumerate(components):
                square[c] += sum((leaf[group] ** 2).sum() for leaf in grads[part].values())
                takes_part[c] |= bool(active[part][group])
        norms = np.sqrt(square)
        for part, components in COMPONENT.items():
            for group, c in enumerate(components):
                if not active[part][group]:
                    continue
                self.count[part][group] += 1
                t = self.count[part][group]
                for name, leaf in grads[part].items():
                    g = leaf[group] * min(1.0, size / norms[c])
                    m, v = self.m[part][name], self.v[part][name]
                    m[group] = 0.9 * m[group] + 0.1 * g
                    v[group] = 0.999 * v[group] + 0.001 * g**2
                    direction = m[group] / (1 - 0.9**t) / (np.sqrt(v[group] / (1 - 0.999**t)) + 1e-5)
                    rate = RATE * (1.0 if part == "trunk" else HEAD_SCALE[group])
                    self.params[part][name][group] -= rate * direction
        return norms[takes_part].sum()


@pytest.mark.parametrize("scale", [1.0, 1e-5], ids=["clipped", "small"])
def test_steps_are_numpys(scale):
    """One component's gradient is clipped, the other's is not, and it rests in the second step. Small ones
    are of the size of Adam's epsilon."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = random_tree(rng, 1.0)
        state, numpys = optimizer.init(params), Adam(params)
        for resting in (False, True, False):
            grads = random_tree(rng, scale)
            active = {
                part: np.array([0.0 if resting and c == 1 else 1.0 for c in components])
                for part, components in COMPONENT.items()
            }
            params, state, norm = compiled()(grads, state, params, 12.0, active)
            assert_allclose(norm, numpys.step(grads, 12.0, active), rtol=1e-12)
            jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-9), params, numpys.params)
            for part in COMPONENT:
                assert list(state[part].count) == numpys.count[part]
                jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-12), state[part].mu, numpys.m[part])


@pytest.mark.parametrize("tied", ["trunk", "head"])
def test_the_norm_is_a_component_s_whatever_ties_it(tied):
    """Two agents are tied by a trunk or by a head, and a third one by nothing."""
    together, apart = (0, 0, 1), (0, 1, 2)
    sharing = Sharing(together, apart) if tied == "trunk" else Sharing(apart, together)
    rng, tx = np.random.default_rng(2), optax.identity()
    with jax.enable_x64(True):
        grads = {part: rng.normal(size=(2 if part == tied else 3, 4)) for part in COMPONENT}
        params = jax.tree.map(np.zeros_like, grads)
        moved, _, norm = optimizer.step(
            *(grads, optimizer.init(params, tx), params),
            sharing=sharing,
            learning_rate=1.0,
            head_scale=1.0,
            max_grad_norm=0.5,
            active=jax.tree.map(lambda g: np.ones(len(g)), grads),
            tx=tx,
        )
    components = {part: [0, 1] if part == tied else [0, 0, 1] for part in COMPONENT}
    norms = np.sqrt([sum((grads[p][np.array(components[p]) == c] ** 2).sum() for p in grads) for c in (0, 1)])
    assert_allclose(norm, norms.sum(), rtol=1e-12)
    for part, gradient in grads.items():
        assert_allclose(moved[part], -0.5 * gradient / norms[components[part]][:, None], rtol=1e-12)


def test_a_head_that_rests_beside_one_that_moves():
    """In one component: each head moves by itself, and the norm is the whole component's."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        params = random_tree(rng, 1.0)
        state, numpys = optimizer.init(params), Adam(params)
        grads = random_tree(rng, 1.0)
        active = {"trunk": np.array([1.0, 0.0]), "head": np.array([1.0, 0.0, 0.0])}
        new, _, norm = compiled()(grads, state, params, 12.0, active)
        assert_allclose(norm, numpys.step(grads, 12.0, active), rtol=1e-12)
        jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=1e-9), new, numpys.params)
        for x, y in zip(*map(jax.tree.leaves, (new["head"], params["head"])), strict=True):
            assert_array_equal(x[1:], y[1:])


def test_without_a_gradient_nothing_moves():
    with jax.enable_x64(True):
        params = random_tree(np.random.default_rng(2), 1.0)
        zeros = jax.tree.map(np.zeros_like, params)
        active = {part: np.ones(len(components)) for part, components in COMPONENT.items()}
        new, _, norm = compiled()(zeros, optimizer.init(params), params, 12.0, active)
        assert norm == 0
        jax.tree.map(assert_array_equal, new, params)
