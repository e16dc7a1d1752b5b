"""What follows from who shares what, against definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal
from fp3o_jax.team.sharing import (
    Sharing,
    active_groups,
    make_sharing,
    sample_shares,
    take,
    weights_of,
    with_weights,
)

#: Agents 0, 1 and 3 are tied to one another, the first two by their trunk, 1 and 3 by their head.
TIED = Sharing((0, 0, 1, 2), (0, 1, 2, 1))


def test_components_are_what_is_tied_by_trunk_or_head():
    assert TIED.component == (0, 0, 1, 0)
    assert list(TIED.component_of("trunk")) == [0, 1, 0]
    assert list(TIED.component_of("head")) == [0, 0, 1]
    assert (TIED.num_agents, TIED.pooled, TIED.critic_groups) == (4, False, (0, 0, 1, 2))
    # Tied through a chain whose ends share nothing, whatever the order.
    assert Sharing((0, 1, 0, 2), (0, 1, 2, 0)).component == (0, 1, 0, 0)
    assert Sharing((0, 1, 2, 1), (0, 1, 1, 2)).component == (0, 1, 1, 1)


@pytest.mark.parametrize(("name", "apart"), [("full", False), ("partial", False), ("none", True)])
def test_apart(name, apart):
    assert make_sharing(name, None, 3).apart == apart
    assert make_sharing(name, None, 1).apart
    assert not TIED.apart


def test_a_head_s_rate_is_by_the_number_of_means_over_that_of_its_owners():
    assert_allclose(TIED.head_lr_scale(owned=4), [3.0, 1.5, 1.0])
    assert_allclose(TIED.head_lr_scale(owned=2), [2.0, 1.0, 1.0])
    assert_allclose(TIED.head_lr_scale(owned=1), [1.0, 1.0, 1.0])
    pooled = Sharing(TIED.trunk, TIED.head, pooled=True)
    assert_allclose(pooled.head_lr_scale(owned=4), [1.0, 1.0, 1.0])


def test_critics_average_as_actors_do_only_where_they_are_shared_alike():
    assert not TIED.critic.pooled
    assert TIED.critic.trunk == TIED.critic.head == TIED.trunk
    other = Sharing(TIED.trunk, TIED.head, critic_groups=(0, 0, 0, 0))
    assert other.critic.pooled and other.critic.trunk == (0, 0, 0, 0)
    assert Sharing(TIED.trunk, TIED.head, pooled=True).critic.pooled


def test_groups_default_to_the_trunk_s():
    ours = make_sharing("groups", None, 3, trunk_groups=[5, 5, 1])
    assert (ours.trunk, ours.head) == ((0, 0, 1), (0, 0, 1))


def shares(mask, kept, component, pooled):
    """[P, ...], agent by agent."""
    out = np.zeros(mask.shape)
    for i in np.flatnonzero(kept):
        tied = [k for k in np.flatnonzero(kept) if component[k] == component[i]]
        if pooled:
            out[i] = mask[i] / max(1.0, sum(mask[k].sum() for k in tied))
        else:
            out[i] = mask[i] / max(1.0, mask[i].sum()) / len(tied)
    return out


@pytest.mark.parametrize("agents", [None, [1, 2, 3, 0], [3, 2], [2]])
@pytest.mark.parametrize("pooled", [False, True])
def test_shares_of_samples_are_those_of_means(pooled, agents):
    rng = np.random.default_rng(0)
    rows = list(range(4)) if agents is None else agents
    component = [TIED.component[i] for i in rows]
    mask = (rng.random((len(rows), 3, 5)) < 0.6).astype(np.float32)
    mask[-1] = 0.0
    mask[-1, 2, 4] = 1.0
    kept = np.ones(len(rows), np.float32)
    given = None if agents is None else np.array(agents)
    ours_of = jax.jit(sample_shares, static_argnums=(2, 3))
    for resting in (None, 0, slice(None)):
        if resting is not None:
            kept[resting] = 0.0
        ours = ours_of(mask, kept, TIED.component, pooled, given)
        assert_allclose(ours, shares(mask, kept, component, pooled), rtol=1e-6)
    # A row without samples has nothing to share out.
    mask[0] = 0.0
    kept[:] = 1.0
    ours = ours_of(mask, kept, TIED.component, pooled, given)
    assert_allclose(ours, shares(mask, kept, component, pooled), rtol=1e-6)


def test_groups_that_a_running_pipeline_owns():
    assert list(active_groups(TIED.head, jnp.array([0.0, 0.0, 1.0, 1.0]), None)) == [0, 1, 1]
    assert list(active_groups(TIED.trunk, jnp.array([1.0, 0.0]), jnp.array([1, 3]))) == [1, 0, 0]
    assert list(active_groups(TIED.trunk, jnp.array([0.0, 1.0]), jnp.array([0, 1]))) == [1, 0, 0]


def test_weights_of_agents_and_back():
    tree = {"trunk": {"w": np.arange(6.0).reshape(3, 2)}, "head": {"w": 10.0 + np.arange(3)}}
    tree = jax.tree.map(jnp.asarray, tree)
    agents = jnp.array([3, 2])
    ours = weights_of(tree, TIED, agents)
    assert_array_equal(ours["trunk"]["w"], [[4, 5], [2, 3]])
    assert_array_equal(ours["head"]["w"], [11, 12])
    new = with_weights(tree, TIED, agents, jax.tree.map(lambda x: -x, ours))
    assert_array_equal(new["trunk"]["w"], [[0, 1], [-2, -3], [-4, -5]])
    assert_array_equal(new["head"]["w"], [10, -11, -12])
    assert take(tree, None) is tree
