"""``normalize_obs``: what networks make of what they are shown, and the statistics that they keep of it."""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax import Config, ConfigError, load_policy, make_evaluate, make_train
from fp3o_jax.envs import Environment, Observation, Outcome
from fp3o_jax.policy import Policy, architecture
from fp3o_jax.runs.checkpoints import Checkpoints
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.inputs import CLIP, measure, merge, nothing_seen, standardize
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import Sharing

# Compiled in half the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def answering(low=-1.0, high=1.0):
    """Two agents see one number each and must pick 0 for the low, 1 for the high one: right by chance in a
    quarter of the games, as the team is paid if both are right."""

    def reset(key):
        signs = jax.random.bernoulli(key, 0.5, (2,))
        seen = jnp.where(signs, high, low)
        ones = jnp.ones((2, 2), bool)
        return signs, Observation(seen[:, None], seen, ones, jnp.ones(2, bool))

    def step(key, signs, actions):
        right = (actions == signs).all()
        _, observation = reset(key)
        false = jnp.zeros((), bool)
        return signs, observation, Outcome(right.astype(jnp.float32), ~false, false, right)

    return Environment(
        name="answering",
        agents=("a", "b"),
        obs_sizes=(1, 1),
        action_sizes=(2, 2),
        discrete=True,
        state_size=2,
        time_limit=1,
        truncates=False,
        reports_wins=True,
        agent_types=("agent",) * 2,
        reset=reset,
        step=step,
    )


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [("layer", (-1.0, 1.0)), ("none", (-1.0, 1.0)), ("running", (9999.0, 10001.0))],
)
def test_agents_answer_the_one_number_that_they_see(kind, bounds):
    config = Config(
        normalize_obs=kind,
        algorithm="mappo",
        num_envs=32,
        rollout_length=4,
        total_env_steps=32 * 4 * 50,
        actor_lr=3e-3,
        critic_lr=3e-3,
        hidden_sizes=(16,),
    )
    train = make_train(config, answering(*bounds))
    out = quick(train)(jax.random.key(0))
    played = quick(make_evaluate(train, 64))(out["state"].params, jax.random.key(1))["episode_return"]
    assert played.mean() == 1.0


SIZES = (3, 5, 4, 1)
GROUPS = Sharing((0, 0, 1, 2), (0, 0, 1, 2))


def networks(kind, critic_sizes=(6,) * 4):
    return ActorCritic(
        sharing=GROUPS,
        obs_sizes=SIZES,
        critic_sizes=critic_sizes,
        action_sizes=(2,) * 4,
        discrete=True,
        trunk=Trunk((8, 8)),
        agent_id=True,
        normalize_obs=kind,
    )


@pytest.mark.parametrize("kind", ["layer", "running", "none"])
def test_what_can_be_told_apart(kind):
    """Constant rows, single features and padding, before and after something has been seen."""
    nets = networks(kind)
    blank = nets.nothing_seen()
    params = {name: {"normalizer": blank.get(name)} for name in ("actor", "critic")}
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(4, 50, 5)) * 3 + 2, jnp.float32)
    state = jnp.asarray(rng.normal(size=(1, 50, 6)), jnp.float32)
    seen = nets.see(blank, obs, state, jnp.ones((4, 50), bool))
    for weights in (params, nets.with_seen(params, seen)):
        fives, zeros = (
            nets.standardize_obs(weights["actor"], jnp.full((4, 1, 5), value)) for value in (5.0, 0.0)
        )
        assert_finite((fives, zeros))
        for i, size in enumerate(SIZES):
            assert (fives[i, :, size:] == 0).all()
            assert (zeros[i, :, size:] == 0).all()
            apart = np.abs(fives - zeros)[i, :, :size] > 0.5
            assert apart.all() if kind != "layer" or size == 1 else not apart.any(), (i, size)
        states = [
            nets.standardize_critic_inputs(weights["critic"], jnp.full((1, 1, 6), v)) for v in (5.0, 0.0)
        ]
        assert_finite(states)
        assert states[0].shape == (1, 1, 6)
        assert (np.abs(states[0] - states[1]) > 0.5).all() == (kind != "layer")
    if kind == "none":
        assert_array_equal(nets.standardize_obs(None, obs)[1], obs[1])
    if kind == "running":
        far = nets.standardize_obs(nets.with_seen(params, seen)["actor"], jnp.full((4, 1, 5), -1e6))
        assert set(np.unique(far)) == {-CLIP, 0.0}


def test_an_agent_that_sees_nothing():
    """Padded to its fellows' features, all of which it lacks."""
    mask = np.array([[0.0, 0.0], [1.0, 1.0]])[:, None]
    out = standardize(jnp.array([[[7.0, 7.0]], [[1.0, 2.0]]]), mask)
    assert_allclose(out[:, 0], [[0, 0], [-1, 1]], atol=1e-4)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e4, 1.0), (-3e5, 50.0), (0.0, 1e-3), (7.0, 0.0)])
def test_statistics_are_float64_numpys(offset, scale):
    """Of agents of different sizes and groups, over several batches, one seed beside another; NaN and 1e30 in
    what the dead see and in what is padding."""
    rng = np.random.default_rng(1)
    batches = [
        (
            np.float32(rng.normal(size=(2, 4, 64, 5)) * scale + offset + scale * i),
            np.float32(rng.normal(size=(2, 1, 64, 6)) * scale + offset),
            rng.random((2, 4, 64)) < 0.5,
        )
        for i in range(6)
    ]
    batches[2][2][:, 3] = False  # a batch in which an agent and its group are dead throughout
    batches[4][2][:] = False
    nets = networks("running")

    def iteration(params, x, state, alive):
        seen = nets.nothing_seen()
        for half in (slice(0, 32), slice(32, 64)):  # as two steps of 32 environments
            seen = nets.see(seen, x[:, half], state[:, half], alive[:, half])
        return nets.with_seen(params, seen)

    params = {name: {"normalizer": two_seeds(new)} for name, new in nets.nothing_seen().items()}
    update = quick(jax.vmap(iteration))
    for x, state, alive in batches:
        exists = np.arange(5) < np.array(SIZES)[:, None, None]
        hidden = np.where(rng.random(x.shape) < 0.5, np.float32(np.nan), np.float32(1e30))
        x = np.where(alive[..., None] & exists, x, hidden)
        state = np.where(alive.any(1)[:, None, :, None], state, np.float32(np.nan))
        params = update(params, x, state, alive)

    params = jax.device_get(params)
    for seed in range(2):
        for group in range(3):
            stats = jax.tree.map(lambda leaf, s=seed, g=group: leaf[s, g], params["actor"]["normalizer"])
            for feature in range(5):
                members = [i for i in range(4) if GROUPS.trunk[i] == group and SIZES[i] > feature]
                values = np.float64(
                    np.concatenate(
                        [x[seed, i, alive[seed, i], feature] for x, _, alive in batches for i in members]
                    )
                    if members
                    else []
                )
                check({name: leaf[feature] for name, leaf in stats.items()}, values, offset)
        everyone = [state[seed, 0, alive[seed].any(0)] for _, state, alive in batches]
        for group in range(3):
            stats = jax.tree.map(lambda leaf, s=seed, g=group: leaf[s, g], params["critic"]["normalizer"])
            check(stats, np.float64(np.concatenate(everyone)), offset)


def two_seeds(tree):
    return jax.tree.map(lambda x: jnp.stack([x, x]), tree)


def check(stats, values, offset):
    """Against NumPy's moments of ``values`` [N, ...]; as exact as float32 holds a mean of this size."""
    resolution = 2e-7 * abs(offset)
    assert np.isfinite(jax.tree.leaves(stats)).all()
    assert_array_equal(stats["count"], len(values))
    if len(values):
        assert_allclose(stats["mean"], values.mean(0), rtol=1e-5, atol=1e-6 + resolution)
        off = resolution * values.std(0).max() + resolution**2
        assert_allclose(stats["variance"], values.var(0), rtol=1e-4, atol=1e-9 + off)


def test_many_batches_lose_nothing():
    """A thousand small batches about 1e4, merged one by one."""
    rng = np.random.default_rng(2)
    x = np.float32(rng.normal(size=(1000, 16)) + 1e4)

    def step(stats, batch):
        return merge(stats, measure(batch[None, :, None], jnp.ones((1, 16, 1), bool), (0,))), None

    stats, _ = quick(lambda x: jax.lax.scan(step, nothing_seen(1, 1), x))(x)
    values = np.float64(x)
    assert_allclose(stats["mean"], values.mean(), atol=5e-3)
    assert_allclose(stats["variance"], values.var(), rtol=2e-3)


def uneven():
    """An agent of 3 features about 50, and one of a single feature, which lives for two steps and sees 777
    when dead; episodes of 4 steps, which nothing but their limit ends."""

    def observe(key, t):
        noise = jax.random.normal(key, (2, 3))
        alive = jnp.array([True, True]).at[1].set(t < 2)
        second = jnp.zeros(3).at[0].set(jnp.where(alive[1], noise[1, 0], 777.0))
        obs = jnp.stack([noise[0] * jnp.arange(1.0, 4.0) + 50.0, second])
        return Observation(obs, noise.ravel()[:2] - 5.0, jnp.ones((2, 2), bool), alive)

    def reset(key):
        return jnp.zeros((), jnp.int32), observe(key, 0)

    def step(key, t, actions):
        false = jnp.zeros((), bool)
        reward = (actions == 0).sum().astype(jnp.float32)
        return t + 1, observe(key, t + 1), Outcome(reward, false, t + 1 >= 4, false)

    return Environment(
        name="uneven",
        agents=("a", "b"),
        obs_sizes=(3, 1),
        action_sizes=(2, 2),
        discrete=True,
        state_size=2,
        time_limit=4,
        truncates=True,
        reports_wins=False,
        agent_types=("a", "b"),
        reset=reset,
        step=step,
    )


def trainer(**settings):
    """Of a few steps in :func:`uneven`."""
    small = {"num_envs": 4, "rollout_length": 6, "total_env_steps": 72, "epochs": 1, "hidden_sizes": (8,)}
    base = {"algorithm": "mappo", "sharing": "none", "normalize_obs": "running"}
    return make_train(Config(**small | base | settings), uneven())


@pytest.fixture(scope="module")
def trained():
    """The trainer, its compiled update, and the states before and after each of two updates."""
    train = trainer()
    update = quick(train.update)
    states = [quick(train.init)(jax.random.key(0))]
    for _ in range(2):
        states.append(update(states[-1])[0])
    return train, update, states


def test_an_iteration_counts_what_the_living_saw_and_does_not_use_it_yet(trained):
    """The statistics after an update are those of its rollout's inputs, normalised by those before it."""
    train, _, states = trained
    before, after = jax.device_get([s.params for s in states[1:]])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get((after, states[2].opt_state))))
    _, key, _, _ = jax.random.split(states[1].key, 4)
    _, trajectory = jax.device_get(quick(train.collect)(states[1], key))
    alive = trajectory.alive
    assert 0 < alive[1].mean() < 1
    seen = {
        "actor": [(trajectory.obs[i][alive[i]], i, size) for i, size in enumerate((3, 1))],
        "critic": [(trajectory.critic_inputs[0][alive.any(0)], i, 2) for i in range(2)],
    }
    for name, rows in seen.items():
        old, new = before[name]["normalizer"], after[name]["normalizer"]
        for x, i, size in rows:
            assert (new["count"][i, size:] == 0).all()
            std = np.sqrt(old["variance"][i, :size])
            assert (std > 0).all()
            assert (std < 10).all()  # nothing of what the dead saw
            raw = np.float64(x)[:, :size] * std + old["mean"][i, :size]
            assert np.abs(x).max() < CLIP
            count = old["count"][i, :size] + len(raw)
            assert_array_equal(new["count"][i, :size], count)
            mean = (old["mean"][i, :size] * old["count"][i, :size] + raw.sum(0)) / count
            assert_allclose(new["mean"][i, :size], mean, rtol=1e-4)
            square = old["count"][i, :size] * np.float64(
                old["variance"][i, :size] + old["mean"][i, :size] ** 2
            )
            variance = (square + (raw**2).sum(0)) / count - mean**2
            assert_allclose(new["variance"][i, :size], variance, rtol=1e-2)


def test_ratios_are_one_where_nothing_is_learned(trained):
    """Old and new policies see the same inputs, also in the iteration in which the statistics come to be."""
    _, update, states = trained
    for state in states:
        still = state.hyperparams._replace(actor_lr=jnp.float32(1e-12))
        after, metrics = update(state.replace(hyperparams=still))
        assert np.abs(metrics["approx_kl"]) < 1e-6
        assert_finite(after.params)
        assert not np.array_equal(
            after.params["actor"]["normalizer"]["mean"], state.params["actor"]["normalizer"]["mean"]
        )


def test_evaluation_uses_them_and_leaves_them_alone(trained):
    train, _, states = trained
    params = jax.device_get(states[2].params)
    # Of opinions strong enough to be seen in what is played.
    params["actor"]["head"] = jax.tree.map(lambda x: 100.0 * x, params["actor"]["head"])
    play = quick(make_evaluate(train, 32, greedy=False))
    key, held = jax.random.key(3), copy.deepcopy(params)
    first, second = (jax.device_get(play(params, key)) for _ in range(2))
    jax.tree.map(assert_array_equal, params, held)
    jax.tree.map(assert_array_equal, first, second)
    assert np.isfinite(first["episode_return"]).all()
    params["actor"]["normalizer"]["mean"] = params["actor"]["normalizer"]["mean"] + 3.0
    other = play(params, key)["episode_return"]
    assert_finite(other)
    assert not np.array_equal(other, first["episode_return"])


def test_a_checkpoint_holds_them_and_training_goes_on_to_the_bit(trained, tmp_path):
    train, update, states = trained
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, states[1], {}, 0.0)
    checkpoints.check()
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(jax.eval_shape(train.init, jax.random.key(0))).state
    checkpoints.close()
    assert (restored.params["actor"]["normalizer"]["count"] > 0).any()
    after, _ = update(restored)
    for mine, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(states[2].params), strict=True):
        assert_array_equal(mine, theirs)


def test_an_exported_policy_acts_as_in_training(trained, tmp_path):
    train, _, states = trained
    actor = states[2].params["actor"]
    ours = Policy(architecture(train), actor)
    theirs = load_policy(ours.save(tmp_path))
    assert json.loads((tmp_path / "policy.json").read_text())["normalize_obs"] == "running"
    jax.tree.map(assert_array_equal, ours.params, theirs.params)
    obs = {"a": jnp.array([49.0, 53.0, 47.0]), "b": jnp.array([0.7])}
    keys = jax.random.split(jax.random.key(0), 100)
    acts = [jax.vmap(lambda k, p=p: p.act(obs, k, p.initial_state())[0])(keys) for p in (ours, theirs)]
    jax.tree.map(assert_array_equal, *acts)

    stacked = jnp.stack([obs["a"], jnp.pad(obs["b"], (0, 2))])[:, None, None]
    x = train.networks.standardize_obs(actor, stacked)
    assert 0 < np.abs(x).max() < 5
    distribution, _ = train.networks.policy(
        actor, x, None, train.networks.initial_hidden(1), jnp.zeros((1, 1), bool)
    )
    sampled = jax.vmap(distribution.sample)(keys)[:, :, 0, 0]
    for i, agent in enumerate(("a", "b")):
        assert_array_equal(acts[0][agent], sampled[:, i])


@pytest.mark.parametrize(
    ("algorithm", "sharing", "recurrent"),
    [("fp3o", "none", True), ("happo", "partial", False), ("ippo", "full", False)],
)
def test_an_update_of_any_kind_keeps_the_state_s_type(algorithm, sharing, recurrent):
    train = trainer(
        algorithm=algorithm, sharing=sharing, recurrent=recurrent, chunk_length=3, num_minibatches=2
    )
    state = jax.eval_shape(train.init, jax.random.key(0))
    after, _ = jax.eval_shape(train.update, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert "normalizer" in after.params["critic"]
    assert set(after.opt_state["actor"]) == {"trunk", "head"}


def test_there_is_nothing_to_keep_but_for_running():
    for kind in ("layer", "none"):
        params = jax.eval_shape(trainer(normalize_obs=kind).init, jax.random.key(0)).params
        assert set(params["actor"]) == set(params["critic"]) == {"trunk", "head"}


def test_an_old_export_acts_as_it_did():
    """Before there was a choice, a single feature was always 0."""
    train = make_train(Config(hidden_sizes=(8,)), answering())
    params = quick(train.networks.init)(jax.random.key(0))["actor"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    new = architecture(train)
    old = {name: value for name, value in new.items() if name != "normalize_obs"}

    def probabilities(arch, value):
        policy = Policy(arch, params)
        act = jax.vmap(
            lambda k: policy.act(
                {"a": jnp.full(1, value), "b": jnp.full(1, value)}, k, policy.initial_state()
            )[0]["a"]
        )
        return float(act(jax.random.split(jax.random.key(0), 2000)).mean())

    assert probabilities(old, 3.0) == probabilities(old, -3.0) == probabilities(new, 0.0)
    assert probabilities(new, 3.0) != probabilities(new, -3.0)


def test_what_is_no_kind():
    with pytest.raises(ConfigError, match=r"normalize_obs='batch' is unknown: .*layer, none, running"):
        Config(normalize_obs="batch")
