"""Agents that stay as they are beside others that learn (``train_agents``)."""

import functools
import json

import jax
import numpy as np
import pytest

import update_helpers as helpers
from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax import Config, ConfigError, make_env, make_train
from fp3o_jax.method.schedules import CONDITIONS, make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.sweeps.plan import make_points, program_key
from fp3o_jax.team.groups import agent_params
from fp3o_jax.team.learners import agent_indices, learners_of
from fp3o_jax.team.sharing import Sharing, make_sharing
from update_helpers import HP, make_batch, make_errors, networks

ALGORITHMS = ("fp3o", "mappo", "ippo", "coppo", "happo", "a2po")
#: Of three agents, of which by_type ties the first two.
FEASIBLE = {"none": (0, 2), "by_type": (2,)}
#: A2PO's update normalises over all agents together, the frozen among them, unless it is told otherwise.
NORMALIZED = {"a2po": {"normalization": "agent"}}
SMALL = {"num_envs": 4, "rollout_length": 8, "hidden_sizes": (8,), "epochs": 1, "total_env_steps": 64}


@functools.cache
def updated(algorithm, sharing, learners, n=3, agents=(0, 1, 2), **changes):
    """Actors before and after an update of the rows of some of three agents, their optimiser, metrics."""
    nets = networks(sharing, n)
    full, _ = helpers.start(networks(sharing))
    params, opt_state = full, helpers.start(networks(sharing))[1]
    batch, errors, rows = make_batch(full, networks(sharing)), make_errors(3), np.array(agents)
    if n < 3:
        parts = {"actor": networks(sharing).sharing, "critic": networks(sharing).sharing.critic}
        params = {name: agent_params(full[name], parts[name], rows) for name in full}
        opt_state = {name: agent_params(opt_state[name], parts[name], rows) for name in full}
        own = ("obs", "alive", "action", "log_prob", "advantage", "value", "target")
        batch = batch.replace(**{name: getattr(batch, name)[rows] for name in own})
        errors = errors._replace(delta=errors.delta[rows])
    member = make_algorithm(algorithm, learners=learners, **changes)
    update = PipelineUpdate(nets, member, epochs=2, num_minibatches=1, condition=CONDITIONS["joint"])

    @jax.jit
    def run(params, opt_state):
        schedule = member.draw(jax.random.key(4), batch.advantage, batch.value, batch.alive)
        return update(params, opt_state, batch, schedule, jax.random.key(9), HP, 1.0, errors)

    return (params, opt_state), run(params, opt_state)


def parts(tree, sharing, agent):
    return jax.tree.leaves(agent_params(tree, sharing, np.array([agent])))


@pytest.mark.parametrize("sharing", FEASIBLE)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_frozen_agents_keep_their_weights_to_the_bit(algorithm, sharing):
    learners, shared = FEASIBLE[sharing], networks(sharing).sharing
    (params, opt_state), (new, new_opt, metrics) = updated(algorithm, sharing, learners)
    for agent in range(3):
        for before, after in ((params, new), (opt_state, new_opt)):
            pairs = zip(
                parts(before["actor"], shared, agent), parts(after["actor"], shared, agent), strict=True
            )
            changed = [bool((a != b).any()) for a, b in pairs]
            assert any(changed) if agent in learners else not any(changed)
        critics = zip(
            parts(params["critic"], shared.critic, agent),
            parts(new["critic"], shared.critic, agent),
            strict=True,
        )
        assert any((a != b).any() for a, b in critics)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new, new_opt, metrics)))
    frozen = [i for i in range(3) if i not in learners]
    kl = np.asarray(metrics["agent_kl"])
    assert (np.abs(kl[frozen]) < 1e-9).all() and (kl[list(learners)] > 1e-6).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_to_those_who_learn_frozen_agents_are_a_part_of_the_environment(algorithm):
    """Their update is that of a team that the frozen are no members of."""
    changes = NORMALIZED.get(algorithm, {})
    _, (among, _, _) = updated(algorithm, "none", (0, 2), **changes)
    _, (alone, _, metrics) = updated(algorithm, "none", None, n=2, agents=(0, 2), **changes)
    ours = agent_params(among["actor"], networks("none").sharing, np.array([0, 2]))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=0, atol=2e-6), ours, alone["actor"])
    assert float(metrics["agent_kl"].min()) > 1e-6


@pytest.mark.parametrize("algorithm", ["fp3o", "a2po"])
def test_a_single_learner_does_without_the_others(algorithm):
    changes = NORMALIZED.get(algorithm, {})
    _, (new, _, _) = updated(algorithm, "none", (1,), **changes)
    _, (alone, _, _) = updated(algorithm, "none", None, n=1, agents=(1,), **changes)
    ours = agent_params(new["actor"], networks("none").sharing, np.array([1]))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=0, atol=2e-6), ours, alone["actor"])


def test_a_schedule_among_others():
    """FP3O: idle pipelines beside; HAPPO: idle stages after them. Nobody weighs by a frozen agent's ratio."""
    ones = np.ones((4, 1, 1))
    for algorithm, shape in (("fp3o", (2, 4)), ("happo", (4, 1))):
        member = make_algorithm(algorithm, learners=(1, 3))
        drawn = jax.jit(member.draw)(jax.random.key(0), ones, ones, ones)
        assert {x.shape for x in (drawn.owners, drawn.scale, drawn.clip, drawn.learns)} == {shape}
        assert drawn.weights.shape == (*shape, 4) and drawn.gated.shape == shape[:1]
        owners, learns = np.asarray(drawn.owners), np.asarray(drawn.learns)
        assert_array_equal(learns, np.isin(owners, (1, 3)))
        assert not np.asarray(drawn.weights)[..., [0, 2]].any()
        assert not np.asarray(drawn.scale)[~learns].any()
        assert (np.asarray(drawn.scale)[learns] == 1).all() and (np.asarray(drawn.clip) == 1).all()
        stages = owners if algorithm == "fp3o" else owners.T
        assert all(sorted(stage) == [0, 1, 2, 3] for stage in stages)
    # With one learner left there is nobody to be exchanged with.
    alone = jax.jit(make_algorithm("fp3o", learners=(2,)).draw)(jax.random.key(0), ones, ones, ones)
    assert (np.asarray(alone.owners)[:, 0] == 2).all() and not np.asarray(alone.weights).any()


def trained(**settings):
    train = make_train(Config(env="matrix/xor", env_kwargs={"num_agents": 4}, **SMALL, **settings))
    out = jax.jit(train)(jax.random.key(0))
    return train, jax.jit(train.init)(jax.random.key(0)), out


def test_what_a_frozen_policy_sees_is_normalised_as_it_was():
    """Running statistics are a part of the policy: the critic's go on, the frozen policy's do not."""
    train, before, out = trained(sharing="none", train_agents=("agent_1",), normalize_obs="running")
    after = out["state"].params
    assert_finite(after)
    assert train.algorithm.learners == (1,)
    pairs = zip(*map(jax.tree.leaves, (before.params["actor"], after["actor"])), strict=True)
    changed = np.array([(np.asarray(a) != np.asarray(b)).reshape(4, -1).any(1) for a, b in pairs])
    assert_array_equal(changed.any(0), [False, True, False, False])
    counts = np.asarray(after["actor"]["normalizer"]["count"])
    assert (counts[1] > 0).all() and not counts[[0, 2, 3]].any()
    assert (np.asarray(after["critic"]["normalizer"]["count"]) > 0).all()


def test_naming_all_agents_changes_nothing():
    assert make_train(Config(sharing="full", train_agents=(0, "1", "ally_2"))).algorithm.learners is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_agents": ("agent_3",)}, "train_agents='agent_3' is unknown: did you mean .*agent_0"),
        ({"train_agents": (3,)}, "train_agents=3 must be a name, or a number from 0 to 2"),
        ({"train_agents": ()}, "must name at least one agent of agent_0, agent_1, agent_2"),
        ({"train_agents": (0.5,)}, "must be a whole number or a text"),
        (
            {"train_agents": ("agent_0",)},
            "'agent_0' learns and 'agent_1' does not, and they share a policy trunk",
        ),
        (
            {"train_agents": (0,), "sharing": "partial"},
            r"sharing='none' would do, or .*trunk_groups=\(1, 0, 0\)",
        ),
        (
            {"train_agents": (0,), "sharing": "groups", "trunk_groups": (0, 1, 1), "head_groups": (0, 0, 1)},
            "share a policy head",
        ),
        (
            {"train_agents": (0, 1), "sharing": "none", "advantage_split": (0.2, 0.3, 0.5)},
            "one weight for each of the 2 pipelines of 'mpe/simple_spread', one for each agent that learns",
        ),
    ],
)
def test_what_cannot_be_frozen_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        make_train(Config(env="mpe/simple_spread", **settings))


def test_names_go_before_numbers():
    assert agent_indices("x", ("1",), ("1", "0")) == (0,)
    assert agent_indices("x", ("1", 0), ("a", "b")) == (0, 1)


def test_groups_wholly_frozen_are_accepted():
    env = make_env("mpe/simple_spread")
    sharing = make_sharing("groups", None, 3, (0, 1, 1))
    assert learners_of((1, 2), env.agents, sharing) == (1, 2)
    assert learners_of(None, env.agents, Sharing((0,) * 3, (0,) * 3)) is None


def test_who_learns_is_a_setting_that_programs_differ_in():
    config = Config(sharing="none", train_agents=("ally_0", 2))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert len({program_key(c) for c in (config, config.replace(train_agents=None), config)}) == 2
    assert program_key(config.replace(actor_lr=1.0)) == program_key(config)
    points = make_points(
        config,
        grid={"train_agents": [["ally_0"], [1, 2], None]},
        zip={},
        random={},
        samples=0,
        sample_seed=0,
        points=[],
    )
    assert [point.config.train_agents for point in points] == [("ally_0",), (1, 2), None]
    assert len({program_key(point.config) for point in points}) == 3
