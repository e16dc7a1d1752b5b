"""``make_train``: its surface, ``vmap`` over seeds and settings, and that everything trains."""

import dataclasses
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal
from fp3o_jax import Config, ConfigError, config, make_env, make_evaluate, make_train
from fp3o_jax.envs import matrix
from fp3o_jax.method.sequences import as_steps
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from toy_envs import mortal
from update_helpers import differs

TINY = {
    "env": "matrix/climbing",
    "num_envs": 4,
    "rollout_length": 8,
    "total_env_steps": 96,
    "epochs": 2,
    "num_minibatches": 2,
    "hidden_sizes": (8,),
    "chunk_length": 4,
}


@pytest.fixture(scope="module")
def trained():
    train = make_train(TINY)
    run = jax.jit(train)
    return train, run, run(jax.random.key(0))


def test_surface(trained):
    train, _, out = trained
    assert set(out) == {"state", "metrics"}
    metrics = out["metrics"]
    averages = {"episode_return", "episode_length", "entropy", "explained_variance", "episodes"}
    losses = {"policy_loss", "value_loss", "actor_grad_norm", "critic_grad_norm"}
    steps = {"approx_kl", "agent_kl", "joint_kl", "clip_fraction", "env_steps"}
    condition = {"condition_held", "agent_condition_held", "condition_sums", "log_weight_std"}
    assert set(metrics) == averages | losses | steps | condition
    for name in metrics:
        assert metrics[name].shape[0] == 3, name
        assert np.isfinite(metrics[name]).all(), name
    assert metrics["agent_kl"].shape == (3, 2)
    assert list(metrics["env_steps"]) == [32, 64, 96]
    assert "win_rate" not in metrics
    assert out["state"].num_updates == 3
    assert train.config == Config.from_dict(TINY)


def test_simulations_that_break_down_are_counted():
    """Of an environment that says so; each shard of the environments counts its own."""
    climbing = make_env("matrix/climbing")

    def step(key, state, actions):
        state, seen, outcome = climbing.step(key, state, actions)
        return state, seen, dataclasses.replace(outcome, diverged=outcome.done & (outcome.reward < 0))

    train = make_train(TINY, env=dataclasses.replace(climbing, step=step))
    state = jax.jit(train.init)(jax.random.key(0))
    _, trajectory = jax.jit(train.collect)(state, jax.random.key(1))
    _, metrics = jax.jit(train.update)(state)
    assert 0 < trajectory.diverged.sum() < trajectory.done.sum()
    assert metrics["diverged"].dtype == jnp.int32 and 0 < metrics["diverged"] < metrics["episodes"]


def test_old_style_keys(trained):
    _, run, out = trained
    old = run(jax.random.PRNGKey(0))
    jax.tree.map(assert_array_equal, old["metrics"], out["metrics"])
    jax.tree.map(assert_array_equal, old["state"].params, out["state"].params)


@pytest.fixture(scope="module")
def pieces(trained):
    """``init`` and ``update``, compiled one by one."""
    return jax.jit(trained[0].init), jax.jit(trained[0].update, donate_argnums=0)


def test_in_pieces_is_the_same(trained, pieces):
    (_, _, out), (init, update) = trained, pieces
    state = init(jax.random.key(0))
    for i in range(3):
        state, metrics = update(state)
        assert_allclose(metrics["entropy"], out["metrics"]["entropy"][i], rtol=1e-5)
    jax.tree.map(
        lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        state.params,
        out["state"].params,
    )


def test_one_compilation_per_program(trained):
    _, run, _ = trained
    run.clear_cache()
    for seed in range(3):
        run(jax.random.key(seed))
    assert run._cache_size() == 1


def test_piece_by_piece_compiles_once(pieces):
    init, update = pieces
    state = init(jax.random.key(1))
    for _ in range(3):
        state, _ = update(state)
    assert update._cache_size() == 1


@pytest.mark.parametrize("env", ["smax/3m", "smax/smacv2_5_units", "mabrax/hopper_3x1", "mpe/simple_spread"])
def test_an_update_returns_the_type_that_it_takes(env):
    """A second call of a jitted update is then the same program; weak types as JaxMARL's made it another."""
    train = make_train({**TINY, "env": env})
    state = jax.eval_shape(train.init, jax.random.key(0))
    after, _ = jax.eval_shape(train.update, state)
    before, after = (
        [(jax.tree_util.keystr(path), x.shape, x.dtype, x.weak_type) for path, x in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (state, after))
    )
    assert before == after


@pytest.mark.parametrize("sharing", ["full", "none"])
def test_vmapped_seeds_are_single_runs(sharing):
    train = make_train({**TINY, "sharing": sharing})
    keys = jax.random.split(jax.random.key(0), 4)
    together = jax.jit(jax.vmap(train))
    metrics = together(keys)["metrics"]
    single = jax.jit(train)
    for i in range(4):
        alone = single(keys[i])["metrics"]
        for name in alone:
            assert_allclose(metrics[name][i], alone[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert together._cache_size() == single._cache_size() == 1


def test_hyperparameters_are_traced(trained):
    train, _, out = trained
    run = jax.jit(jax.vmap(train, in_axes=(None, 0)))
    grid = {"actor_lr": jnp.array([5e-4, 5e-3]), "gamma": jnp.array([0.99, 0.5])}
    metrics = run(jax.random.key(0), grid)["metrics"]
    assert_allclose(metrics["entropy"][0], out["metrics"]["entropy"], rtol=1e-4)
    other = jax.jit(make_train({**TINY, "actor_lr": 5e-3, "gamma": 0.5}))(jax.random.key(0))
    assert_allclose(metrics["entropy"][1], other["metrics"]["entropy"], rtol=1e-4)
    assert abs(metrics["entropy"][1, -1] - metrics["entropy"][0, -1]) > 1e-3


def test_unknown_hyperparameter_is_refused(trained):
    with pytest.raises(ConfigError, match="'clip_eps'"):
        trained[0](jax.random.key(0), {"clip_epsilon": 0.1})


_states = {}


def first_state(train):
    """Before the first update; of trainers whose states are alike, that of the first."""
    shapes = jax.eval_shape(train.init, jax.random.key(0))
    key = str((jax.tree.structure(shapes), jax.tree.leaves(shapes)))
    if key not in _states:
        _states[key] = jax.jit(train.init)(jax.random.key(0))
    return _states[key]


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("sharing", ["full", "partial", "none", "by_type"])
@pytest.mark.parametrize("algorithm", get_args(config.AlgorithmName))
def test_every_algorithm_under_every_sharing(algorithm, sharing, recurrent):
    settings = {**TINY, "algorithm": algorithm, "sharing": sharing}
    train = make_train({**settings, "recurrent": recurrent})

    @jax.jit
    def two_updates(state):
        return jax.lax.scan(lambda state, _: train.update(state), state, length=2)

    before = first_state(train)
    state, metrics = two_updates(before)
    before, after, metrics = jax.device_get((before.params, state.params, metrics))
    for leaf in jax.tree.leaves((after, metrics)):
        assert np.isfinite(leaf).all()
    for part in ("actor", "critic"):
        moved = jax.tree.map(lambda a, b: (a != b).any(), before[part]["trunk"], after[part]["trunk"])
        assert any(jax.tree.leaves(moved))


def test_a_linear_schedule(trained):
    """From the whole rate in the first update down to zero after the last, and zero from there on."""
    train = make_train({**TINY, "lr_schedule": "linear", "total_env_steps": 128})
    update, start = jax.jit(train.update), jax.jit(train.init)(jax.random.key(0))
    first, metrics = update(start)
    constant = trained[2]["metrics"]
    for name in ("approx_kl", "value_loss"):
        assert_allclose(metrics[name], constant[name][0], rtol=1e-3)
    assert metrics["approx_kl"] > 1e-6
    for k in (1, 2, 3):
        rates = {name: getattr(start.hyperparams, name) * (1 - k / 4) for name in ("actor_lr", "critic_lr")}
        scaled, _ = update(start.replace(hyperparams=start.hyperparams._replace(**rates)))
        later, _ = update(start.replace(num_updates=jnp.array(k, start.num_updates.dtype)))
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6), later.params, scaled.params)
        assert differs(later.params["actor"], start.params["actor"])
    for updates in (4, 5, 100):
        done = first.replace(num_updates=jnp.array(updates))
        after, metrics = update(done)
        assert np.isfinite(metrics["entropy"])
        jax.tree.map(assert_array_equal, after.params, done.params)


def limited(horizon=5):
    """Reward 1 at every step; episodes end by their limit alone."""
    return matrix.payoff_game(
        lambda key, actions: jnp.ones(()), num_agents=2, num_actions=2, name="ones", horizon=horizon
    )


@pytest.mark.parametrize(
    ("bootstrap", "recurrent", "low", "high"),
    [(True, False, 9.5, 10.5), (True, True, 9.5, 10.5), (False, False, 2.0, 4.2)],
)
def test_a_time_limit_is_not_an_end(bootstrap, recurrent, low, high):
    """Constant reward 1: the value is 1 / (1 - gamma) = 10, not the sum to the limit (at most 4.1)."""
    config = Config(
        algorithm="mappo",
        num_envs=8,
        rollout_length=16,
        total_env_steps=8 * 16 * 150,
        gamma=0.9,
        critic_lr=3e-3,
        hidden_sizes=(16,),
        epochs=4,
        recurrent=recurrent,
        chunk_length=8,
        bootstrap_truncations=bootstrap,
    )
    train = make_train(config, env=limited())
    state = jax.jit(train)(jax.random.key(0))["state"]
    from fp3o_jax.method import normalization

    value, _ = train.networks.value(
        state.params["critic"],
        train.networks.standardize_critic_inputs(None, state.rollout.observation.global_state[None, None]),
        state.rollout.critic_hidden,
        state.rollout.starts[None],
    )
    mean, std = normalization.moments(state.value_norm, jnp.array(train.networks.sharing.trunk))
    real = value[:, 0] * std[:, None] + mean[:, None]
    assert low < float(real.mean()) < high


@pytest.mark.parametrize(
    ("whole", "pieces"), [({"recurrent": True, "chunk_length": 8}, {"recurrent": True, "chunk_length": 4})]
)
def test_values_piece_by_piece_are_those_of_the_whole(whole, pieces):
    """A sequence after another: the same values, ends and cuts included."""

    def batch_of(settings):
        train = make_train({**TINY, **settings}, env=limited())
        key = jax.random.key(3)
        state = jax.jit(train.init)(key)
        _, trajectory = jax.jit(train.collect)(state, key)
        targets = jax.jit(train.targets)(state, trajectory)
        arrays = targets.batch.value, targets.batch.target, targets.batch.advantage
        steps = [as_steps(x, TINY["num_envs"]) for x in arrays]
        return steps, targets.value_norm, targets.explained_variance

    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-5), batch_of(pieces), batch_of(whole))


@pytest.mark.parametrize("settings", [{"algorithm": "a2po"}, {"recurrent": True, "chunk_length": 4}])
def test_one_critic_for_all_is_a_critic_for_each(settings):
    """Values of a state that all agents share are those that each would have computed."""
    shared = make_train({**TINY, "agent_id": False, **settings}, env=limited())
    n = shared.env.num_agents
    networks = ActorCritic(
        sharing=shared.networks.sharing,
        obs_sizes=shared.env.obs_sizes,
        critic_sizes=(shared.env.state_size,) * n,
        action_sizes=shared.env.action_sizes,
        discrete=shared.env.discrete,
        trunk=Trunk(TINY["hidden_sizes"], recurrent=shared.config.recurrent),
        agent_id=False,
    )
    each = dataclasses.replace(shared, networks=networks)
    assert (shared.networks.num_critics, networks.num_critics) == (1, n)

    def run(train):
        out = jax.jit(train)(jax.random.key(3))
        return out["metrics"], out["state"].params, out["state"].value_norm

    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=2e-4, atol=2e-5), run(shared), run(each))


def test_who_shares_a_critic_s_values():
    """Critics of the global state alone, and not those that are told the agent's id."""

    def rows(**settings):
        return make_train({**TINY, **settings}).networks.num_critics

    assert rows() == rows(sharing="partial") == rows(agent_id=False) == 1
    assert rows(critic_agent_id=True) == rows(algorithm="ippo") == rows(sharing="none") == 2


def test_bad_combinations_with_the_environment():
    with pytest.raises(ConfigError, match=r"advantage_split=.*2 pipelines"):
        make_train(Config(env="matrix/xor", advantage_split=(0.2, 0.3, 0.5)))
    with pytest.raises(ConfigError, match="one group for each of 2 agents"):
        make_train(Config(env="matrix/xor", sharing="groups", trunk_groups=(0, 0, 1)))
    with pytest.raises(ConfigError, match="by_type"):
        make_train(Config(env="smax/smacv2_5_units", sharing="by_type"))


def test_an_environment_without_global_state():

    game = make_env("matrix/climbing")

    def without(fn):
        def call(*args):
            state, observation, *rest = fn(*args)
            return state, observation.replace(global_state=jnp.zeros(0)), *rest

        return call

    blind = dataclasses.replace(
        game, name="blind", state_size=0, reset=without(game.reset), step=without(game.step)
    )
    with pytest.raises(ConfigError, match=r"env='blind' has no global state.*algorithm='ippo'"):
        make_train(TINY, env=blind)
    out = jax.jit(make_train({**TINY, "algorithm": "ippo"}, env=blind))(jax.random.key(0))
    assert np.isfinite(out["metrics"]["value_loss"]).all()


CHOICES = [
    {"algorithm": "happo", "sharing": "none", "critic_sharing": "full", "critic_epochs": 3},
    {"algorithm": "happo", "sharing": "full", "critic_sharing": "none", "recorded_ratios": "stage"},
    {"algorithm": "happo", "critic_fit": "stages", "agent_order": "semi_greedy", "mask_values": False},
    {"algorithm": "a2po", "trace": "speedup", "agent_order": "semi_greedy", "critic_sharing": "full"},
    {
        "algorithm": "a2po",
        "trace": "gae_trace",
        "advantage_normalization": "agent",
        "recorded_ratios": "stage",
    },
    {"algorithm": "ippo", "sharing": "none", "critic_sharing": "groups", "critic_groups": (0, 0)},
    {"algorithm": "fp3o", "sharing": "none", "recorded_ratios": "live", "train_agents": ("agent_1",)},
    {"algorithm": "fp3o", "sharing": "partial", "recorded_ratios": "live", "block_size": 16},
]


@pytest.mark.parametrize("index", range(len(CHOICES)))
def test_every_choice_of_the_family_traces(index):
    """A whole run of several seeds, shapes and types alone; every other one with a GRU."""
    train = make_train({**TINY, "recurrent": index % 2 == 1, **CHOICES[index]})
    out = jax.eval_shape(jax.vmap(train), jax.random.split(jax.random.key(0), 2))
    assert out["metrics"]["value_loss"].shape == (2, train.config.num_updates)


@pytest.mark.parametrize("choice", CHOICES[0:4:3], ids=["happo", "a2po"])
def test_a_critic_for_all_beside_actors_of_their_own_trains(choice):
    train = make_train({**TINY, "num_minibatches": 1, "sharing": "none", **choice})
    out = jax.jit(train)(jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out["metrics"]))
    critic = out["state"].params["critic"]["trunk"]
    assert {x.shape[0] for x in jax.tree.leaves(critic)} == {1}
    steps = {"happo": 3 * 3, "a2po": 3 * 2 * 2}[choice["algorithm"]]
    assert list(out["state"].opt_state["critic"]["trunk"].count) == [steps]
    assert list(out["state"].opt_state["actor"]["trunk"].count) == [3 * 2] * 2


@pytest.fixture(scope="module")
def precise():
    return make_train({**TINY, "recurrent": True, "matmul_precision": "highest"})


def test_matmul_precision_covers_every_product():
    """Of an iteration and of an evaluation, the environment's too."""
    env = mortal(0.0)

    def step(key, state, actions):
        state, seen, outcome = env.step(key, state, actions)
        return state, dataclasses.replace(seen, obs=seen.obs @ jnp.full((4, 4), 0.25)), outcome

    config = Config(**TINY, recurrent=True, matmul_precision="highest")
    train = make_train(config, dataclasses.replace(env, step=step))
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: train.init(key, hyperparams={"actor_lr": 1e-3}))
    for program, inputs in ((train.update, (state,)), (make_evaluate(train, 2), (state.params, key))):
        found = re.findall(
            r"dot_general\[.*?precision=(.*?)\n", str(jax.make_jaxpr(program)(*inputs)), re.DOTALL
        )
        assert len(found) > 3 and set(found) == {"(Precision.HIGHEST, Precision.HIGHEST)"}
        assert "f32[4,4]" in str(jax.make_jaxpr(program)(*inputs))


def test_matmul_precision_is_one_on_a_cpu(precise):
    def two(train):
        update = jax.jit(train.update)
        return update(update(jax.jit(train.init)(jax.random.key(0)))[0])

    (state, metrics), (other, others) = two(precise), two(make_train({**TINY, "recurrent": True}))
    jax.tree.map(assert_array_equal, state.params, other.params)
    assert_array_equal(metrics["entropy"], others["entropy"])


@pytest.mark.parametrize("wrong", ["tf32", None, 3])
def test_matmul_precision_unknown(wrong):
    with pytest.raises(ConfigError, match="matmul_precision"):
        Config(matmul_precision=wrong)
