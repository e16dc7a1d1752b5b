"""What follows from who shares what, against definitions in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal
from fp3o_jax.team.groups import active_groups, agent_params, joined, loss_scale, put, set_agent_params, take
from fp3o_jax.team.sharing import Sharing, make_sharing

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


@pytest.mark.parametrize(("name", "alone"), [("full", False), ("partial", False), ("none", True)])
def test_who_shares_nothing(name, alone):
    assert make_sharing(name, None, 3).independent == alone
    assert make_sharing(name, None, 1).independent
    assert not TIED.independent


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


def scales(living, active, component, pooled):
    """[P], row by row."""
    out = np.zeros(len(living))
    for i in np.flatnonzero(active):
        tied = [k for k in np.flatnonzero(active) if component[k] == component[i]]
        if pooled:
            out[i] = 1 / max(1.0, sum(living[k] for k in tied))
        else:
            out[i] = 1 / max(1.0, living[i]) / len(tied)
    return out


@pytest.mark.parametrize("agents", [None, [1, 2, 3, 0], [3, 2], [2]])
@pytest.mark.parametrize("pooled", [False, True])
def test_scales_of_losses_make_means(pooled, agents):
    rows = list(range(4)) if agents is None else agents
    sharing, given = dataclasses.replace(TIED, pooled=pooled), None if agents is None else np.array(agents)
    component = [sharing.component[i] for i in rows]
    scale_of = jax.jit(loss_scale, static_argnums=2)
    # The last row has a single sample; then the first row rests, or has none, or nobody has anything to do.
    living, ones = np.array([7.0, 4.0, 5.0, 1.0][-len(rows) :], np.float32), np.ones(len(rows), np.float32)
    first = np.eye(len(rows), dtype=np.float32)[0]
    for samples, active in [
        (living, ones),
        (living, ones - first),
        (living * (1 - first), ones),
        (living, 0 * ones),
    ]:
        ours = scale_of(samples, active, sharing, given)
        assert_allclose(ours, scales(samples, active, component, pooled), rtol=1e-6)


def test_groups_that_a_running_pipeline_owns():
    assert list(active_groups(TIED.head, jnp.array([0.0, 0.0, 1.0, 1.0]), None)) == [0, 1, 1]
    assert list(active_groups(TIED.trunk, jnp.array([1.0, 0.0]), jnp.array([1, 3]))) == [1, 0, 0]
    assert list(active_groups(TIED.trunk, jnp.array([0.0, 1.0]), jnp.array([0, 1]))) == [1, 0, 0]


def test_agent_params_agents_and_back():
    tree = {"trunk": {"w": np.arange(6.0).reshape(3, 2)}, "head": {"w": 10.0 + np.arange(3)}}
    tree = jax.tree.map(jnp.asarray, tree)
    agents = jnp.array([3, 2])
    ours = agent_params(tree, TIED, agents)
    assert_array_equal(ours["trunk"]["w"], [[4, 5], [2, 3]])
    assert_array_equal(ours["head"]["w"], [11, 12])
    new = set_agent_params(tree, TIED, agents, jax.tree.map(lambda x: -x, ours))
    assert_array_equal(new["trunk"]["w"], [[0, 1], [-2, -3], [-4, -5]])
    assert_array_equal(new["head"]["w"], [10, -11, -12])
    assert take(tree, None) is tree


def test_where_each_has_a_group_of_its_own_nothing_is_moved():
    own = Sharing((0, 1, 2), (0, 1, 2))
    tree = {part: {"w": jnp.arange(3.0)} for part in ("trunk", "head")}
    assert agent_params(tree, own, None)["trunk"]["w"] is tree["trunk"]["w"]
    new = {part: {"w": jnp.arange(3.0) + 1} for part in ("trunk", "head")}
    assert set_agent_params(tree, own, None, new)["head"]["w"] is new["head"]["w"]
    # Other groups, or the same in another order, are.
    assert_array_equal(agent_params(tree, TIED, None)["head"]["w"], TIED.head)
    turned = Sharing((1, 0, 2), (1, 0, 2))
    assert_array_equal(agent_params(tree, turned, None)["trunk"]["w"], [1, 0, 2])
    assert_array_equal(set_agent_params(tree, turned, None, new)["trunk"]["w"], [2, 1, 3])


@pytest.mark.parametrize("how", ["add", "max"])
def test_values_are_joined_to_their_groups(how):
    into, values = jnp.array([1.0, 5.0, 0.0]), jnp.array([2.0, 3.0, 4.0])
    assert_array_equal(joined(into, np.arange(3), values, how), joined(into, None, values, how))
    expected = {"add": [1.0, 12.0, 2.0], "max": [1.0, 5.0, 2.0]}[how]
    assert_array_equal(joined(into, np.array([2, 1, 1]), values, how), expected)


def test_rows_are_put_where_their_agents_are():
    x, rows = jnp.arange(3.0), jnp.array([7.0, 8.0])
    assert_array_equal(put(x, jnp.array([2, 0]), rows), [8.0, 1.0, 7.0])
    assert put(x, None, rows) is rows
