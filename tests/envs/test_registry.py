"""Every environment that JaxMARL registers trains, or is refused with the reason.

Compiled and run is one of each family that no other test trains; of the rest, two updates are followed
without being compiled. ``WHOLE_REGISTRY=1 pytest tests/envs/test_registry.py`` runs all.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest

from fp3o_jax import Config, ConfigError, make_env, make_train
from fp3o_jax.envs.spaces import existing_actions, playable

FOR_THEMSELVES = "play for themselves"
AGAINST = "some of its agents are against the others"
REFUSED = {
    "SMAX": "both armies are agents of it: HeuristicEnemySMAX",
    "coin_game": FOR_THEMSELVES,
    "storm": FOR_THEMSELVES,
    "storm_2p": FOR_THEMSELVES,
    "storm_np": FOR_THEMSELVES,
    "MPE_simple_tag_v3": AGAINST,
    "MPE_simple_world_comm_v3": AGAINST,
    "MPE_simple_crypto_v3": AGAINST,
    "MPE_simple_push_v3": AGAINST,
    "MPE_simple_adversary_v3": AGAINST,
    "MPE_simple_facmac_v1": AGAINST,
    "MPE_simple_facmac_3a_v1": AGAINST,
    "MPE_simple_facmac_6a_v1": AGAINST,
    "MPE_simple_facmac_9a_v1": AGAINST,
}
TRAINED = [name for name in jaxmarl.registered_envs if name not in REFUSED]
ELSEWHERE = [name for name in TRAINED if name.startswith("MPE") or name[-1].isdigit()] + [
    "HeuristicEnemySMAX"
]
OPTIONS = {
    "HeuristicEnemySMAX": {"num_allies": 2, "num_enemies": 2},
    "LearnedPolicyEnemySMAX": {"num_allies": 2, "num_enemies": 2},
}


class Idle:
    """An enemy's policy: stop, always."""

    def apply(self, params, obs):
        return self, None

    def sample(self, seed):
        return jnp.full(2, 4)


def made(name, folder, monkeypatch):
    monkeypatch.chdir(folder)  # MuJoCo leaves a log
    options = OPTIONS.get(name, {})
    if name == "LearnedPolicyEnemySMAX":
        options = options | {"policy": Idle(), "params": jnp.zeros(1)}
    return jaxmarl.make(name, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(ConfigError, match=REFUSED[name]) as raised:
        make_env(jaxmarl.make(name))
    assert "not cooperative" in str(raised.value)


def watched(env):
    """The environment, whose rewards are NaN once an agent does what is not available to it."""
    if not env.discrete:
        return env
    exists = existing_actions(env.action_sizes)

    def reset(key):
        state, seen = env.reset(key)
        return (state, playable(seen.action_mask, exists)), seen

    def step(key, state, actions):
        state, mask = state
        allowed = mask[jnp.arange(env.num_agents), actions].all()
        state, seen, outcome = env.step(key, state, actions)
        reward = jnp.where(allowed, outcome.reward, jnp.nan)
        return (state, playable(seen.action_mask, exists)), seen, outcome.replace(reward=reward)

    return dataclasses.replace(env, reset=reset, step=step, scenes=None)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trained(name, tmp_path, monkeypatch):
    if name.startswith("JaxRobotarium"):
        with pytest.raises(ValueError, match="requires the jaxrobotarium package, which is not installed"):
            jaxmarl.make(name)
        return
    env = make_env(made(name, tmp_path, monkeypatch))
    config = Config(
        num_envs=2,
        rollout_length=4,
        total_env_steps=16,
        hidden_sizes=(8,),
        layer_norm=False,
        epochs=1,
        algorithm="mappo",
    )
    train = make_train(config, env=watched(env))
    if name in ELSEWHERE and "WHOLE_REGISTRY" not in os.environ:
        shapes = jax.eval_shape(train, jax.random.key(0))
        assert shapes["metrics"]["value_loss"].shape == (2,)
        return
    out = jax.jit(train)(jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out["state"].params)), name
    assert np.isfinite(out["metrics"]["value_loss"]).all()
    assert int(out["state"].num_updates) == 2
