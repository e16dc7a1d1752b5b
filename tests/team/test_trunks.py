"""Networks by settings, against NumPy; a user's own; and acting with them."""

import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from finite import assert_allclose, assert_array_equal, assert_finite
from fp3o_jax import Config, ConfigError, load_policy, make_train
from fp3o_jax.envs import Observation
from fp3o_jax.policy import Policy, architecture
from fp3o_jax.runs import RunOptions, evaluate_run, load_run, run_training
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.distributions import MASKED_LOGIT
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import make_sharing
from toy_envs import dated

DOCS = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
OBS, STATE, ACTIONS = (3, 5, 4), 6, (2, 4, 3)


def build(trunk, sharing="full", agent_id=True, **settings):
    return ActorCritic(
        sharing=make_sharing(sharing, None, 3),
        obs_sizes=OBS,
        critic_sizes=(STATE,) * 3,
        action_sizes=ACTIONS,
        discrete=True,
        trunk=trunk,
        agent_id=agent_id,
        **settings,
    )


def shapes(networks):
    """name -> shape of every parameter."""
    params = jax.eval_shape(networks.init, jax.random.key(0))
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def test_parameters_of_the_default_network():
    """Exports and checkpoints know them by these names."""

    def norm(name, width):
        return {f"{name}/scale": (1, width), f"{name}/bias": (1, width)}

    def trunk(features):
        return {
            **norm("input_norm", features),
            "dense_0": (1, features + 3, 8),  # and the ids of three agents
            "bias_0": (1, 8),
            **norm("norm_0", 8),
            "dense_1/kernel": (1, 8, 8),
            "dense_1/bias": (1, 8),
            **norm("norm_1", 8),
        }

    def parts(**named):
        return {
            f"{part.replace('_', '/')}/{n}": shape
            for part, tree in named.items()
            for n, shape in tree.items()
        }

    plain = parts(
        actor_trunk=trunk(5),
        actor_head={"logits/kernel": (1, 8, 4), "logits/bias": (1, 4)},
        critic_trunk=trunk(6),
        critic_head={"kernel": (1, 8, 1), "bias": (1, 1)},
    )
    gru = {
        "gru/w_input": (1, 8, 24),
        "gru/b_input": (1, 24),
        "gru/w_hidden": (1, 8, 24),
        "gru/b_hidden": (1, 24),
    }
    gru |= norm("norm_gru", 8)
    assert shapes(build(Trunk((8, 8)))) == plain
    assert shapes(build(Trunk((8, 8), recurrent=True))) == plain | parts(actor_trunk=gru, critic_trunk=gru)
    assert make_train(Config(env="matrix/xor")).networks.trunks == (Trunk((64, 64)),) * 2


def test_settings_of_the_network():
    config = Config(
        env="matrix/xor",
        hidden_sizes=[16, 8, 4],
        critic_hidden_sizes=(12,),
        activation="silu",
        layer_norm=False,
        recurrent=True,
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    trainer = make_train(config)
    actor = Trunk((16, 8, 4), "silu", layer_norm=False, recurrent=True)
    critic = Trunk((12,), "silu", layer_norm=False, recurrent=True)
    assert trainer.networks.trunks == (actor, critic)
    assert trainer.networks.initial_hidden(5).shape == (2, 5, 4)
    assert trainer.networks.initial_critic_hidden(5).shape == (1, 5, 12)
    names = shapes(trainer.networks)
    assert not any("norm" in name for name in names)
    assert names["critic/head/kernel"] == (1, 12, 1)
    # What a version without these settings wrote.
    old = config.to_dict()
    for name in ("hidden_sizes", "critic_hidden_sizes", "activation", "layer_norm"):
        del old[name]
    assert Config.from_dict(old).layers == ((64, 64), (64, 64))


OURS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def numpy_logits(params, trunk, x, mask, agent_id, hidden, starts):
    """Of one agent: x [L, N, F] -> logits [L, N, A]; its trunk as it reads in the paper, in its own order."""

    def norm(x, name):
        if not trunk.layer_norm:
            return x
        centred = x - x.mean(-1, keepdims=True)
        weights = params["trunk"][name]
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights["scale"]
            + weights["bias"]
        )

    size, weights = x.shape[-1], params["trunk"]
    if trunk.layer_norm:
        x = (x * weights["input_norm"]["scale"] + weights["input_norm"]["bias"]) * mask
    kernel = weights["dense_0"]
    x = x @ kernel[:size] + weights["bias_0"] + (0 if agent_id is None else agent_id @ kernel[size:])
    x = norm(OURS[trunk.activation](x), "norm_0")
    for i in range(1, len(trunk.hidden_sizes)):
        layer = weights[f"dense_{i}"]
        x = norm(OURS[trunk.activation](x @ layer["kernel"] + layer["bias"]), f"norm_{i}")
    if trunk.recurrent:
        gru, states = weights["gru"], []
        for step, start in zip(x, starts, strict=True):
            hidden = np.where(start[:, None], 0, hidden)
            of_x = np.split(step @ gru["w_input"] + gru["b_input"], 3, -1)
            of_h = np.split(hidden @ gru["w_hidden"] + gru["b_hidden"], 3, -1)
            reset, update = (1 / (1 + np.exp(-(of_x[k] + of_h[k]))) for k in (0, 1))
            hidden = (1 - update) * np.tanh(of_x[2] + reset * of_h[2]) + update * hidden
            states.append(hidden)
        x = norm(np.stack(states), "norm_gru")
    return x @ params["head"]["logits"]["kernel"] + params["head"]["logits"]["bias"]


@pytest.mark.parametrize(
    ("trunk", "sharing"),
    [
        (Trunk((7,), "tanh"), "full"),
        (Trunk((6, 7, 5), "gelu"), "none"),
        (Trunk((7, 5), "silu", layer_norm=False), "none"),
        (Trunk((7, 5), "relu", layer_norm=False), "full"),
        (Trunk((7, 5), "tanh", recurrent=True), "none"),
        (Trunk((7, 5), "silu", layer_norm=False, recurrent=True), "full"),
    ],
)
def test_networks_against_numpy(trunk, sharing):
    """Agents of different sizes, with weights of their own or a common trunk that is told who they are."""
    rng = np.random.default_rng(0)
    networks, steps, count = build(trunk, sharing), 4, 2
    exists = np.arange(5) < np.array(OBS)[:, None]
    x = np.where(exists[:, None, None], rng.normal(size=(3, steps, count, 5)), 0.0)
    starts = rng.random((steps, count)) < 0.3
    hidden = rng.normal(size=(3, count, trunk.hidden_sizes[-1])) if trunk.recurrent else None
    with jax.enable_x64(True):
        tree = jax.eval_shape(networks.init, jax.random.key(0))["actor"]
        params = jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), tree)
        ours, states = jax.jit(networks.policy)(params, x, None, hidden, starts)
    assert ours.logits.dtype == np.float64
    for i, actions in enumerate(ACTIONS):
        own = jax.tree.map(lambda leaf, g=networks.sharing.trunk[i]: leaf[g], params)
        agent_id = np.eye(3)[i] if sharing == "full" else None
        h = None if hidden is None else hidden[i]
        expected = numpy_logits(own, trunk, x[i], exists[i], agent_id, h, starts)
        assert_allclose(ours.logits[i, ..., :actions], expected[..., :actions], rtol=1e-9, atol=1e-11)
        assert (ours.logits[i, ..., actions:] == MASKED_LOGIT).all()
    assert (states is None) == (not trunk.recurrent)


def test_acting():
    """Greedy or sampled as the policies say, with the key as it is given; the dead see zeros."""
    networks = build(Trunk((8, 8), recurrent=True), "none")
    rng = np.random.default_rng(0)
    obs, hidden = rng.normal(size=(3, 4, 5)).astype(np.float32), np.ones((3, 4, 8), np.float32)
    alive, starts = rng.random((3, 4)) < 0.6, np.array([True, False, False, False])
    mask = rng.random((3, 4, 4)) < 0.7
    mask[..., 0] = True
    obs[~alive] = np.nan
    seen = Observation(obs, np.zeros((4, 0)), mask, alive)

    @jax.jit
    def run(seen, hidden, starts):
        params, key = networks.init(jax.random.key(1))["actor"], jax.random.key(2)
        x = jnp.where(seen.alive[..., None], networks.standardize_obs(None, seen.obs), 0.0)
        distribution, states = networks.policy(
            params, x[:, None], seen.action_mask[:, None], hidden, starts[None]
        )
        expected = [
            (x, action[:, 0], distribution.log_prob(action)[:, 0], states[:, 0])
            for action in (distribution.mode(), distribution.sample(key))
        ]
        ours = [tuple(networks.act(params, seen, hidden, k, starts)) for k in (None, key)]
        return ours, expected, networks.act(params, seen, hidden, None).hidden

    ours, expected, unbroken = run(seen, hidden, starts)
    jax.tree.map(assert_array_equal, ours, expected)
    assert (ours[0][0][~alive] == 0).all() and (ours[0][1] != ours[1][1]).any()
    # Without starts no state is forgotten.
    assert_finite(unbroken)
    assert_allclose(ours[0][3][:, 1:], unbroken[:, 1:], rtol=1e-6)
    assert (ours[0][3][:, 0] != unbroken[:, 0]).any()


class Bare(nn.Module):
    """What a trunk returns, and the size of the state that it says it has."""

    result: str = "right"
    state_size: int = 0

    @nn.compact
    def __call__(self, x, mask, agent_id, hidden, starts):
        features = nn.Dense(4)(x)
        if self.result == "norm":
            features = nn.BatchNorm(use_running_average=False)(features)
        if self.result == "wrong size":
            features = nn.Dense(4)(jnp.zeros((2, 3, 7))) @ jnp.zeros((5, 4)) + features
        return {
            "alone": features,
            "flat": (features.reshape(-1, 4), None),
            "no states": (features, None),
        }.get(
            self.result, (features, jnp.zeros((*x.shape[:2], self.state_size)) if self.state_size else None)
        )


@pytest.mark.parametrize(
    ("trunk", "settings", "said"),
    [
        ("mlp", {}, r"trunk='mlp' must be a module, an instance of flax\.linen\.Module, or a pair"),
        ((Bare(),) * 3, {}, "or a pair of them"),
        (Bare, {}, "must be a module, an instance"),
        (Bare("alone"), {}, r"Bare\(.*alone.* must return features \[L, N, W\] and states None"),
        (Bare("flat"), {}, r"with L=2, N=3 it returns \(\(6, 4\), None\)"),
        (Bare("no states", 5), {"recurrent": True}, r"states \[L, N, 5\]"),
        (Bare("norm"), {}, r"parameters and nothing else that changes, and has \['batch_stats', 'params'\]"),
        (Bare("wrong size"), {}, r"fails when it is called with x \[L, N, 1\].*TypeError"),
        (Bare(state_size=5), {}, r"recurrent=False, and trunk=Bare.* has state_size=5: set recurrent=True"),
        ((Trunk((8,)), Bare()), {"recurrent": True}, r"trunk=Trunk.* state_size=0: set recurrent=False"),
    ],
)
def test_trunks_that_do_not_fit_are_refused(trunk, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_train(Config(env="matrix/xor", **settings), trunk=trunk)


@pytest.fixture(scope="module")
def documented():
    """What the example of the documentation defines."""
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    names = {"__name__": "documented"}
    exec(compile(code, "networks.md", "exec"), names)
    assert names["train"].networks.state_size == 64
    return names


def test_agents_that_share_a_trunk_of_one_s_own(documented):
    """A recurrent one goes through all agents at once; alike to each agent's with the same weights."""
    trunk = documented["Memory"](8)
    shared, apart = (build(trunk, sharing, agent_id=False) for sharing in ("full", "none"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2, 5)).astype(np.float32)
    starts, hidden = rng.random((4, 2)) < 0.3, rng.normal(size=(3, 2, 8)).astype(np.float32)

    @jax.jit
    def run(x, hidden, starts):
        params = shared.init(jax.random.key(0))["actor"]
        each = jax.tree.map(lambda leaf: leaf.repeat(3, 0), params)
        return [n.policy(p, x, None, hidden, starts) for n, p in ((shared, params), (apart, each))]

    (ours, states), (theirs, their_states) = run(x, hidden, starts)
    assert_allclose(ours.logits, theirs.logits, rtol=1e-5, atol=1e-6)
    assert_allclose(states, their_states, rtol=1e-5, atol=1e-6)


def test_a_run_with_a_trunk_of_one_s_own(documented, tmp_path):
    """It trains, and its policies are read with the module alone."""
    entities = documented["Entities"]
    trunk, env, path = (entities(2), Trunk((8,))), dated(3, 5), tmp_path / "run"
    config = Config(algorithm="mappo", num_envs=4, rollout_length=8, total_env_steps=64, epochs=1)
    with pytest.raises(ConfigError, match="run_dir=None: a trunk of your own"):
        run_training(config.replace(env="matrix/xor"), trunk=Bare(), console=Console(quiet=True))
    options = RunOptions(run_dir=path, eval_episodes=2)
    run_training(config, options, env=env, trunk=trunk, console=Console(quiet=True))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert np.isfinite([row[name] for name in ("policy_loss", "value_loss", "actor_grad_norm")]).all()
        assert row["actor_grad_norm"] > 0
    _, state = load_run(path, env=env, trunk=trunk)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

    policy = load_policy(path, env=env, trunk=trunk)
    assert policy.architecture["trunk"] == "Entities(size = 2)"
    exported = load_policy(policy.save(tmp_path / "team"), trunk=trunk)
    obs = {agent: np.ones(4, np.float32) for agent in policy.agents}
    acts = [p.act(obs, None, p.initial_state()) for p in (policy, exported)]
    jax.tree.map(assert_array_equal, *acts)

    said = r"trained with modules of your own, \['Entities\(size = 2\)', .Trunk.* as trunk=\.\.\."
    for use in (load_run, load_policy, evaluate_run):
        for given in (None, entities(4)):
            with pytest.raises(ConfigError, match=said):
                use(path, env=env, trunk=given)
    with pytest.raises(ConfigError, match=said):
        run_training(config, options, env=env, console=Console(quiet=True))
    for given in (None, entities(4)):
        with pytest.raises(ConfigError, match=r"trained with Entities\(size = 2\)"):
            load_policy(tmp_path / "team", trunk=given)


def test_exports_of_older_versions_and_of_other_networks():
    trainer = make_train(Config(env="matrix/xor", hidden_sizes=(8, 4), activation="tanh"))
    now = json.loads(json.dumps(architecture(trainer)))
    assert now == architecture(trainer)
    params = jax.eval_shape(trainer.networks.init, jax.random.key(0))["actor"]
    assert Policy(now, params)._networks.trunks[0] == trainer.networks.trunks[0]
    old = {k: v for k, v in now.items() if k not in ("hidden_sizes", "activation", "layer_norm")}
    assert Policy(old | {"hidden_size": 8}, params)._networks.trunks[0] == Trunk((8, 8))
    with pytest.raises(ConfigError, match=r"trunk=Bare.*: the policy was trained with Trunk"):
        Policy(now, params, Bare())
