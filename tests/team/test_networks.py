"""Networks against NumPy and SciPy, padding, and who uses whose weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax.config import ConfigError
from fp3o_jax.kernels.dense import DeferredNorm, matmul
from fp3o_jax.kernels.gru import gru_scan
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.distributions import MASKED_LOGIT, Categorical, DiagonalGaussian
from fp3o_jax.team.groups import take
from fp3o_jax.team.inputs import standardize
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import Sharing, make_sharing


def build(sharing, *, obs=(4, 4, 4), actions=(3, 3, 3), discrete=True, recurrent=False, agent_id=True):
    return ActorCritic(
        sharing=make_sharing(sharing, ("a", "a", "b"), 3) if isinstance(sharing, str) else sharing,
        obs_sizes=obs,
        critic_sizes=(6, 6, 6),
        action_sizes=actions,
        discrete=discrete,
        trunk=Trunk((8, 8), recurrent=recurrent),
        agent_id=agent_id,
    )


def inputs(networks, key, length=5, count=2, features=4):
    obs = jax.random.normal(key, (3, length, count, features))
    hidden = networks.initial_hidden(count)
    return obs, None, hidden, jnp.zeros((length, count), bool)


@pytest.mark.parametrize(
    ("name", "trunk", "head", "component", "pooled"),
    [
        ("full", (0, 0, 0), (0, 0, 0), (0, 0, 0), True),
        ("partial", (0, 0, 0), (0, 1, 2), (0, 0, 0), False),
        ("none", (0, 1, 2), (0, 1, 2), (0, 1, 2), True),
        ("by_type", (0, 0, 1), (0, 0, 1), (0, 0, 1), True),
    ],
)
def test_sharing_is_a_partition(name, trunk, head, component, pooled):
    sharing = make_sharing(name, ("a", "a", "b"), 3)
    assert (sharing.trunk, sharing.head) == (trunk, head)
    assert sharing.component == component
    assert sharing.pooled == pooled


def test_head_learning_rate_undoes_the_mean_over_agents():
    partial = make_sharing("partial", None, 3)
    assert_array_equal(partial.head_lr_scale(owned=3), [3, 3, 3])
    assert_array_equal(partial.head_lr_scale(owned=1), [1, 1, 1])
    assert_array_equal(make_sharing("full", None, 3).head_lr_scale(3), [1])


def test_groups_by_hand():
    sharing = make_sharing("groups", None, 4, trunk_groups=[7, 7, 2, 2], head_groups=[0, 1, 2, 2])
    assert sharing == Sharing((0, 0, 1, 1), (0, 1, 2, 2))
    assert sharing.component == (0, 0, 1, 1)
    with pytest.raises(ConfigError, match="one group for each of 4"):
        make_sharing("groups", None, 4, trunk_groups=[0, 1])
    with pytest.raises(ConfigError, match="by_type"):
        make_sharing("by_type", None, 4)


@pytest.mark.parametrize("name", ["full", "partial", "none", "by_type"])
@pytest.mark.parametrize("agents", [None, [2], [1, 0, 2]])
@pytest.mark.parametrize("recurrent", [False, True])
def test_every_agent_uses_the_weights_of_its_group(name, agents, recurrent):
    networks = build(name, recurrent=recurrent)
    key = jax.random.key(0)
    params = networks.init(key)
    # Perturb, so that groups differ everywhere.
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)
    obs, mask, hidden, _ = inputs(networks, key)
    hidden = jax.tree.map(lambda x: jax.random.normal(key, x.shape), hidden)
    starts = jax.random.bernoulli(key, 0.3, obs.shape[1:3])
    rows = list(range(3)) if agents is None else agents
    ours, states = networks.policy(
        params["actor"],
        obs[jnp.array(rows)],
        mask,
        take(hidden, jnp.array(rows)),
        starts,
        None if agents is None else jnp.array(agents),
    )
    for row, i in enumerate(rows):
        alone = ActorCritic(
            sharing=make_sharing("full", None, 1),
            obs_sizes=(4,),
            critic_sizes=(6,),
            action_sizes=(3,),
            discrete=True,
            trunk=Trunk((8, 8), recurrent=recurrent),
            agent_id=False,
        )
        trunk = jax.tree.map(lambda x, g=networks.sharing.trunk[i]: x[g][None], params["actor"]["trunk"])
        head = jax.tree.map(lambda x, g=networks.sharing.head[i]: x[g][None], params["actor"]["head"])
        if name != "none":
            # The id's row of the first layer acts as a bias.
            kernel = trunk["dense_0"]
            trunk["bias_0"] = trunk["bias_0"] + kernel[:, 4 + i]
            trunk["dense_0"] = kernel[:, :4]
        expected, expected_states = alone.policy(
            {"trunk": trunk, "head": head}, obs[i : i + 1], None, take(hidden, jnp.array([i])), starts
        )
        assert_allclose(ours.logits[row], expected.logits[0], rtol=1e-4, atol=1e-5)
        if recurrent:
            assert_allclose(states[row], expected_states[0], rtol=1e-4, atol=1e-5)
        else:
            assert states is expected_states is None


def test_padding_changes_nothing():
    """An agent with 3 features and 2 actions acts alike, beside larger agents or alone."""
    together = build("none", obs=(3, 5, 4), actions=(2, 4, 3))
    params = together.init(jax.random.key(0))
    obs, mask, hidden, starts = inputs(together, jax.random.key(1), features=5)
    noisy = together.standardize_obs(None, obs.at[0, ..., 3:].set(99.0))
    plain = together.standardize_obs(None, obs.at[0, ..., 3:].set(0.0))
    ours, _ = together.policy(params["actor"], noisy, mask, hidden, starts)
    clean, _ = together.policy(params["actor"], plain, mask, hidden, starts)
    assert_array_equal(ours.logits[0], clean.logits[0])
    assert (ours.logits[0, ..., 2:] == MASKED_LOGIT).all()
    assert (ours.sample(jax.random.key(2))[0] < 2).all()

    def loss(p):
        return together.policy(p, noisy, mask, hidden, starts)[0].log_prob(jnp.zeros((3, 5, 2), int))[0].sum()

    grads = jax.grad(loss)(params["actor"])
    assert_finite(grads)
    assert (grads["trunk"]["dense_0"][0, :3] != 0).any()
    assert (grads["trunk"]["dense_0"][0, 3:] == 0).all()
    assert all((leaf[1:] == 0).all() for leaf in jax.tree.leaves(grads))


def test_gru_against_numpy():
    networks = build("none", recurrent=True)
    params = networks.init(jax.random.key(0))
    gru = jax.tree.map(lambda x: np.asarray(x[0], np.float64), params["actor"]["trunk"]["gru"])
    rng = np.random.default_rng(0)
    x, starts = rng.normal(size=(6, 2, 8)), rng.random((6, 2)) < 0.3
    h = rng.normal(size=(2, 8))

    ours = gru_scan(
        jnp.asarray(x @ gru["w_input"] + gru["b_input"]),
        jnp.asarray(h),
        jnp.asarray(starts),
        gru["w_hidden"],
        gru["b_hidden"],
    )

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    for t in range(6):
        h = np.where(starts[t][:, None], 0, h)
        i = np.split(x[t] @ gru["w_input"] + gru["b_input"], 3, -1)
        r = np.split(h @ gru["w_hidden"] + gru["b_hidden"], 3, -1)
        update = sigmoid(i[1] + r[1])
        new = np.tanh(i[2] + sigmoid(i[0] + r[0]) * r[2])
        h = (1 - update) * new + update * h
        assert_allclose(ours[t], h, rtol=1e-4, atol=1e-5)


def test_recurrent_policy_forgets_at_episode_starts():
    networks = build("full", recurrent=True)
    params = networks.init(jax.random.key(0))
    obs, mask, hidden, starts = inputs(networks, jax.random.key(1))
    starts = starts.at[3].set(True)
    whole, _ = networks.policy(params["actor"], obs, mask, hidden, starts)
    tail, _ = networks.policy(params["actor"], obs[:, 3:], mask, hidden + 5.0, starts[3:])
    assert_allclose(whole.logits[:, 3:], tail.logits, rtol=1e-5, atol=1e-6)


def test_categorical_against_scipy():
    logits = jnp.array([[0.1, 2.0, -1.0], [0.5, -1e10, 0.3]])
    ours = Categorical(logits)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(-1, keepdims=True)
    assert_allclose(ours.entropy(), [stats.entropy(row) for row in p], rtol=1e-5)
    assert_allclose(ours.log_prob(jnp.array([2, 0])), np.log([p[0, 2], p[1, 0]]), rtol=1e-5)
    draws = jax.vmap(ours.sample)(jax.random.split(jax.random.key(0), 500))
    assert (draws[:, 1] != 1).all()
    assert list(ours.mode()) == [1, 0]


def test_gaussian_against_scipy_with_a_padded_dimension():
    mean, std = jnp.array([[0.3, -1.0, 7.0]]), jnp.array([[0.2, 0.5, 3.0]])
    ours = DiagonalGaussian(mean, std, jnp.array([[1.0, 1.0, 0.0]]))
    action = jnp.array([[0.1, -0.4, 0.0]])
    both = [stats.norm(0.3, 0.2), stats.norm(-1.0, 0.5)]
    assert_allclose(ours.log_prob(action)[0], both[0].logpdf(0.1) + both[1].logpdf(-0.4), rtol=1e-5)
    assert_allclose(ours.entropy()[0], sum(d.entropy() for d in both), rtol=1e-5)
    assert ours.sample(jax.random.key(0))[0, 2] == 0


def test_gaussian_policy_starts_as_the_reference_says():
    networks = build("none", obs=(4, 4, 4), actions=(1, 2, 2), discrete=False)
    params = networks.init(jax.random.key(0))
    obs, mask, hidden, starts = inputs(networks, jax.random.key(1))
    distribution, _ = networks.policy(params["actor"], obs, mask, hidden, starts)
    assert_allclose(distribution.std, 0.5 / (1 + np.exp(-1.0)), rtol=1e-5)
    assert (distribution.mask[0, ..., 1] == 0).all()


def test_a_norm_behind_its_linear_layer_is_flax_s():
    """With its gradient, in float64, weights that all agents share, and weights of each agent's own."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 6)
        x, cotangent = (jax.random.normal(k, (3, 5, 4, w), float) for k, w in zip(keys, (7, 6), strict=False))
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)

        def flax_s(x, scale, bias, kernel, kernel_bias):
            return norm.apply({"params": {"scale": scale, "bias": bias}}, x) @ kernel + kernel_bias

        def ours(x, scale, bias, kernel, kernel_bias):
            return DeferredNorm(x, scale, bias).linear(kernel, kernel_bias)

        shapes = (7,), (7,), (7, 6), (6,)
        for agents, axis in (((), None), ((3,), 0)):
            weights = [
                jax.random.normal(k, agents + shape, float) for k, shape in zip(keys[2:], shapes, strict=True)
            ]
            axes = (0, *[axis] * 4)
            results = [jax.vjp(jax.vmap(function, in_axes=axes), x, *weights) for function in (ours, flax_s)]
            assert_allclose(*(out for out, _ in results), rtol=1e-11, atol=1e-12)
            for mine, theirs in zip(*(pull(cotangent) for _, pull in results), strict=True):
                assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_a_norm_of_a_constant_row_is_its_bias():
    """Where all units are dead, or alike, nothing is divided by zero."""
    kernel, bias = jax.random.normal(jax.random.key(0), (8, 3)), jnp.arange(8.0)
    for constant in (0.0, 1.0, 1000.0):
        out, pull = jax.vjp(
            lambda x: DeferredNorm(x, jnp.ones(8), bias).linear(kernel, 1.0), jnp.full(8, constant)
        )
        # What rounding leaves of the row's mean is not small against a variance of zero.
        assert_allclose(out, bias @ kernel + 1.0, rtol=1e-4, atol=1e-3 * constant)
        assert np.isfinite(pull(jnp.ones(3))[0]).all()


def test_inputs_are_standardised_over_the_features_that_exist():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6)) * 3.0 + 2.0
    ours = standardize(x, jnp.array([[[1, 1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1, 1]]], float))
    for row, count in ((0, 4), (1, 6)):
        part = np.asarray(x[row, :, :count], np.float64)
        centred = part - part.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        assert_allclose(ours[row, :, :count], expected, rtol=1e-4, atol=1e-5)
    assert (ours[0, :, 4:] == 0).all()


@pytest.mark.parametrize("axis", [None, 0])
def test_gradients_by_hand_are_the_derived_ones(axis):
    """Of products and of the GRU, over agents that share the weights and over others."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        agents = () if axis is None else (3,)
        projected, cotangent = rng.normal(size=(3, 5, 4, 18)), rng.normal(size=(3, 5, 4, 6))
        hidden, starts = rng.normal(size=(3, 4, 6)), jnp.asarray(rng.random((5, 4)) < 0.3)
        kernel, bias = rng.normal(size=(*agents, 6, 18)), rng.normal(size=(*agents, 18))

        def derived(projected, hidden, kernel, bias):
            return gru_scan.fun(projected, hidden, starts, kernel, bias)

        def by_hand(projected, hidden, kernel, bias):
            return gru_scan(projected, hidden, starts, kernel, bias)

        pairs = [((by_hand, derived), (projected, hidden, kernel, bias), (0, 0, axis, axis), cotangent)]
        pairs += [((matmul, matmul.fun), (cotangent, kernel), (0, axis), projected)]
        for functions, arguments, axes, pulled in pairs:
            results = [jax.vjp(jax.vmap(f, in_axes=axes), *arguments) for f in functions]
            assert_allclose(*(out for out, _ in results), rtol=1e-12, atol=1e-12)
            for mine, theirs in zip(*(pull(pulled) for _, pull in results), strict=True):
                assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_critics_are_shared_apart_from_actors():
    shared = make_sharing("none", None, 3, critic_sharing="full")
    assert (shared.trunk, shared.head, shared.critic_groups) == ((0, 1, 2), (0, 1, 2), (0, 0, 0))
    assert shared.independent and not shared.critic.independent and shared.critic.pooled
    assert make_sharing("full", None, 3, critic_sharing="none").critic.independent
    groups = make_sharing("full", None, 3, critic_sharing="groups", critic_groups=[4, 2, 4])
    assert groups.critic_groups == (0, 1, 0)
    # Shared as the actors' trunks, they average over agents as the actors do.
    partial = make_sharing("partial", None, 3)
    assert partial.critic == make_sharing("partial", None, 3, critic_sharing="full").critic
    assert not partial.critic.pooled
    with pytest.raises(ConfigError, match=r"critic_groups=\[0, 1\] .* each of 3 agents"):
        make_sharing("none", None, 3, critic_sharing="groups", critic_groups=[0, 1])


@pytest.mark.parametrize("recurrent", [False, True])
def test_agents_of_other_sizes_share_weights(recurrent):
    """All at once as one at a time."""
    networks = ActorCritic(
        sharing=make_sharing("full", None, 3),
        obs_sizes=(4, 2, 3),
        critic_sizes=(6,) * 3,
        action_sizes=(3, 2, 3),
        discrete=True,
        trunk=Trunk((8, 8), recurrent=recurrent),
        agent_id=True,
    )
    key = jax.random.key(0)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), networks.init(key)["actor"])
    own = jnp.arange(4) < jnp.array([4, 2, 3])[:, None, None, None]
    obs = jax.random.normal(key, (3, 5, 2, 4)) * own
    hidden = jax.random.normal(key, (3, 2, 8)) if recurrent else None
    starts = jax.random.bernoulli(key, 0.3, (5, 2))
    ours, _ = networks.policy(params, obs, None, hidden, starts)
    for i in range(3):
        mine = jnp.array([i])
        state = None if hidden is None else hidden[mine]
        alone, _ = networks.policy(params, obs[mine], None, state, starts, mine)
        assert_allclose(ours.logits[i], alone.logits[0], rtol=1e-5, atol=1e-6)
