"""One agent by itself, in JAX and as ONNX."""

import builtins
import functools

import jax
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal
from fp3o_jax import Config, ConfigError
from fp3o_jax.cli import main
from fp3o_jax.policy import Policy, architecture
from fp3o_jax.runs.onnx_files import save_onnx
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.modules import Trunk
from fp3o_jax.team.sharing import Sharing
from fp3o_jax.train import make_train

OBS, ACTIONS = (3, 5, 1), (2, 4, 3)
KINDS = {
    "discrete, all shared": {"groups": (0, 0, 0)},
    "discrete, a GRU, own heads": {"groups": (0, 0, 0), "heads": (0, 1, 2), "recurrent": True},
    "continuous, none shared, running": {"groups": (0, 1, 2), "discrete": False, "normalize": "running"},
    "continuous, a GRU, groups": {"groups": (0, 1, 0), "discrete": False, "recurrent": True},
}


@functools.cache
def policy(kind):
    """Of three agents that differ in all sizes, with weights of one's own."""
    about = {"discrete": True, "recurrent": False, "normalize": "layer", **KINDS[kind]}
    heads, discrete = about.get("heads", about["groups"]), about["discrete"]
    networks = ActorCritic(
        sharing=Sharing(about["groups"], heads),
        obs_sizes=OBS,
        critic_sizes=OBS,
        action_sizes=ACTIONS,
        discrete=discrete,
        trunk=Trunk((8, 8), recurrent=about["recurrent"]),
        agent_id=True,
        normalize_obs=about["normalize"],
    )
    shapes = jax.eval_shape(networks.init, jax.random.key(0))["actor"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.1, 0.5, x.shape).astype(np.float32), shapes)
    if about["normalize"] == "running":
        params["normalizer"] = jax.tree.map(np.abs, params["normalizer"])
    bounds = {"action_low": [[-2.0] * a for a in ACTIONS], "action_high": [[1.0] * a for a in ACTIONS]}
    settings = {
        "agents": ["a", "b/c", "d"],
        "obs_sizes": OBS,
        "action_sizes": ACTIONS,
        "discrete": discrete,
        **({} if discrete else bounds),
        "trunk_groups": about["groups"],
        "head_groups": heads,
        "hidden_sizes": [8, 8],
        "activation": "relu",
        "layer_norm": True,
        "recurrent": about["recurrent"],
        "agent_id": True,
        "normalize_obs": about["normalize"],
    }
    return Policy(settings, params)


def steps(policy, count=3):
    """What each agent sees, and may do, in a few steps."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        obs = {a: rng.normal(size=n).astype(np.float32) for a, n in zip(policy.agents, OBS, strict=True)}
        masks = {a: rng.random(n) < 0.6 for a, n in zip(policy.agents, ACTIONS, strict=True)}
        yield obs, masks if policy.architecture["discrete"] else None


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_alone_does_what_it_does_in_the_team(kind):
    team = policy(kind)
    act, alone = jax.jit(team.act), {a: jax.jit(team.alone(a)) for a in team.agents}
    state, states = team.initial_state(), dict(zip(team.agents, team.initial_state(), strict=True))
    for obs, masks in steps(team):
        actions, state = act(obs, None, state, masks)
        for i, agent in enumerate(team.agents):
            own = alone[agent](obs[agent], states[agent], None if masks is None else masks[agent])
            assert_allclose(own["action"], actions[agent], rtol=0, atol=1e-5)
            assert_allclose(own["next_state"], state[i], rtol=0, atol=1e-5)
            states[agent] = own["next_state"]
    with pytest.raises(ConfigError, match="agent='z' is unknown: valid are a, b/c, d"):
        team.alone("z")


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_is_the_policy(kind, tmp_path):
    """By ONNX's own runtime, step by step."""
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    team = policy(kind)
    files = save_onnx(team, tmp_path)
    assert [file.name for file in files] == ["a.onnx", "b-c.onnx", "d.onnx"]
    for i, (agent, file) in enumerate(zip(team.agents, files, strict=True)):
        session, alone = runtime.InferenceSession(file), jax.jit(team.alone(agent))
        state = team.initial_state()[i]
        names = {x.name for x in session.get_inputs()}
        recurrent, discrete = bool(len(state)), team.architecture["discrete"]
        assert names == {"obs", *["state"] * recurrent, *["action_mask"] * discrete}
        for obs, masks in steps(team):
            given = {"obs": obs[agent], "state": np.asarray(state)}
            given |= {} if masks is None else {"action_mask": masks[agent]}
            expected = alone(**given)
            got = session.run(None, {name: given[name] for name in names})
            got = dict(zip([x.name for x in session.get_outputs()], got, strict=True))
            assert set(got) == {*expected} - {*["next_state"] * (not recurrent)}
            for name, value in got.items():
                assert value.shape == expected[name].shape
                assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)
            if masks is not None:
                assert_array_equal(got["action"], expected["action"])
            state = expected["next_state"]


def test_without_the_converter(tmp_path, monkeypatch, capsys):
    """Before anything is written."""
    base = make_train(Config(env="matrix/xor", hidden_size=8))
    team = Policy(architecture(base), jax.jit(base.init)(jax.random.key(0)).params["actor"])
    team.save(tmp_path / "team")
    there, imported = sorted((tmp_path / "team").iterdir()), builtins.__import__

    def without(name, *args, **kwargs):
        if name == "jax2onnx":
            raise ImportError("No module named 'jax2onnx'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["export", str(tmp_path / "team"), "--format", "onnx"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "format='onnx' needs the package jax2onnx: pip install 'fp3o-jax[onnx]'" in said
    assert sorted((tmp_path / "team").iterdir()) == there
