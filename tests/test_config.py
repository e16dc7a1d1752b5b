"""Settings: what is refused, and that every error says how to do better."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_array_equal
from fp3o_jax import Config, ConfigError
from fp3o_jax.config import Hyperparams
from fp3o_jax.method.schedules import ALGORITHMS, CONDITIONS, SELECTIONS
from fp3o_jax.presets import PRESETS
from fp3o_jax.runs import RunOptions
from fp3o_jax.runs.sinks import WandbOptions
from fp3o_jax.seeds import seed_key, seed_keys
from fp3o_jax.team.modules import ACTIVATIONS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "fp3"}, ["algorithm='fp3'", "did you mean 'fp3o'"]),
        ({"sharing": "partal"}, ["sharing='partal'", "'partial'"]),
        ({"selection": "cycle"}, ["selection", "cyclic"]),
        ({"condition": "never"}, ["condition", "joint"]),
        ({"num_envs": 0}, ["num_envs=0", "at least 1"]),
        ({"epochs": 2.5}, ["epochs=2.5", "whole number"]),
        ({"num_seeds": True}, ["num_seeds=True"]),
        ({"agent_id": False, "critic_agent_id": True}, ["critic_agent_id=True", "agent_id=True"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"actor_lr": 0}, ["actor_lr=0", "above 0"]),
        ({"clip_eps": float("nan")}, ["clip_eps=nan"]),
        ({"weight_bound": 0.0}, ["weight_bound=0.0", "above 0"]),
        ({"weight_bound": "none"}, ["weight_bound='none'", "a number"]),
        ({"gamma": 1.2}, ["gamma=1.2", "between 0 and 1"]),
        ({"entropy_coef": -1}, ["entropy_coef=-1"]),
        ({"num_minibatches": 7}, ["num_minibatches=7", "8192 samples", "4 or 8"]),
        (
            {"recurrent": True, "chunk_length": 10},
            ["chunk_length=10", "rollout_length=128", "8 or 16"],
        ),
        ({"sharing": "groups"}, ["trunk_groups"]),
        ({"trunk_groups": (0, 0, 1)}, ["sharing='groups'"]),
        ({"critic_sharing": "ful"}, ["critic_sharing='ful'", "'full'"]),
        ({"critic_sharing": "groups"}, ["critic_groups"]),
        ({"critic_groups": (0, 0, 1)}, ["critic_sharing='groups'", "'actors'"]),
        ({"critic_epochs": 0}, ["critic_epochs=0", "at least 1"]),
        ({"critic_fit": "ounce"}, ["critic_fit='ounce'", "'once'"]),
        ({"advantage_normalization": "agents"}, ["advantage_normalization", "'agent'"]),
        ({"agent_order": "greedy"}, ["agent_order='greedy'", "semi_greedy"]),
        ({"trace": "speed"}, ["trace='speed'", "speedup"]),
        ({"recorded_ratios": "stages"}, ["recorded_ratios='stages'", "'stage'"]),
        (
            {"algorithm": "happo", "recorded_ratios": "live"},
            ["recorded_ratios='live'", "'fp3o'", "not 'happo'"],
        ),
        ({"advantage_split": (0.5, 0.6)}, ["advantage_split", "sum to 1"]),
        ({"hidden_sizes": ()}, ["hidden_sizes=()", "one layer or more"]),
        ({"hidden_sizes": (8, 0)}, ["hidden_sizes=(8, 0)", "at least 1"]),
        ({"hidden_sizes": 64}, ["hidden_sizes=64", "a list"]),
        ({"critic_hidden_sizes": (8, 0.5)}, ["critic_hidden_sizes=(8, 0.5)", "whole number"]),
        ({"activation": "relo"}, ["activation='relo'", "'relu'"]),
        ({"layer_norm": 1}, ["layer_norm=1", "True or False"]),
        ({"lerning_rate": 1}, ["lerning_rate"]),
        ({"recurrent": "false"}, ["recurrent='false'", "True or False"]),
        ({"agent_id": 0}, ["agent_id=0", "True or False"]),
        ({"num_envs": "4"}, ["num_envs='4'", "whole number"]),
        ({"num_envs": float("inf")}, ["num_envs=inf", "whole number"]),
        ({"gamma": "0.9"}, ["gamma='0.9'", "a number"]),
        ({"env": 3}, ["env=3", "a text"]),
        ({"env_kwargs": 3}, ["env_kwargs=3", "mapping"]),
        ({"sharing": "groups", "trunk_groups": 3}, ["trunk_groups=3", "a list"]),
        ({"sharing": "groups", "trunk_groups": (0, 0.5)}, ["trunk_groups=(0, 0.5)", "whole number"]),
        ({"advantage_split": ("a", "b")}, ["advantage_split=('a', 'b')", "a number"]),
        ({"seed": 2**64}, [f"seed={2**64}", "2**64 - 1"]),
        ({"seed": 2**64 - 1, "num_seeds": 2}, ["2**64 - 1", "num_seeds=2"]),
    ],
)
def test_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        Config.from_dict(settings)
    for text in said:
        assert text in str(error.value)


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean .*'num_envs'"):
        Config.from_dict({"num_env": 8})


def test_sizes():
    config = Config(num_envs=8, rollout_length=16, total_env_steps=1000)
    assert config.num_updates == 8
    assert config.num_sequences == 128
    assert config.replace(recurrent=True, chunk_length=8).num_sequences == 16


def test_frozen_hashable_and_round_trip():
    config = Config(sharing="groups", trunk_groups=[0, 0, 1], env_kwargs={"max_steps": 50})
    with pytest.raises(AttributeError):
        config.num_envs = 3
    assert hash(config) == hash(config.replace())
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_numbers_of_numpy_and_jax_are_numbers():
    """They are the same settings as Python's own: equal, with the same hash and written in the same way."""
    given = Config(
        num_envs=np.int64(4),
        rollout_length=jnp.int32(16),
        total_env_steps=1e6,
        hidden_size=np.array(8),
        actor_lr=np.float32(0.5),
        critic_lr=jnp.float32(0.25),
        gamma=1,
        recurrent=np.bool_(True),
        sharing="groups",
        trunk_groups=np.array([0, 0, 1]),
        head_groups=jnp.array([0, 1, 2]),
        advantage_split=np.array([0.5, 0.25, 0.25]),
        env_kwargs={"max_steps": np.int32(50)},
        seed=np.uint64(2**64 - 1),
    )
    plain = Config(
        num_envs=4,
        rollout_length=16,
        total_env_steps=1_000_000,
        hidden_size=8,
        actor_lr=0.5,
        critic_lr=0.25,
        gamma=1.0,
        recurrent=True,
        sharing="groups",
        trunk_groups=(0, 0, 1),
        head_groups=(0, 1, 2),
        advantage_split=(0.5, 0.25, 0.25),
        env_kwargs={"max_steps": 50},
        seed=2**64 - 1,
    )
    assert given == plain and hash(given) == hash(plain)
    assert json.dumps(given.to_dict()) == json.dumps(plain.to_dict())
    options = RunOptions(eval_episodes=np.int64(4), checkpoint_seconds=np.float32(1), run_dir="here")
    assert json.dumps(options.to_dict()) == json.dumps(
        RunOptions(eval_episodes=4, checkpoint_seconds=1.0).to_dict()
    )
    assert options.run_dir == Path("here")


def test_traced_values_are_no_settings():
    with pytest.raises(ConfigError, match=r"actor_lr=.* must be known .*hyperparams"):
        jax.eval_shape(lambda lr: Config(actor_lr=lr) and lr, 1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RunOptions(tensorboard="false"), "tensorboard='false' must be True or False"),
        (lambda: RunOptions(eval_every=0.5), "eval_every=0.5 must be a whole number"),
        (lambda: WandbOptions(init_timeout="3"), r"wandb\.init_timeout='3' must be a number"),
        (lambda: WandbOptions(tags="one"), r"wandb\.tags='one' must be a list, each item a text"),
    ],
)
def test_options_have_types_as_well(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_all_bits_of_a_seed_count():
    """Below 2**32 the key is JAX's own; beyond, each has another."""
    for seed in (0, 7, 2**31, 2**32 - 1):
        assert (jax.random.key_data(seed_key(seed)) == jax.random.key_data(jax.random.key(seed))).all()
    seeds = [0, 1, 2**32, 2**32 + 1, 2**33, 2**63, 2**64 - 1]
    assert len({tuple(np.array(jax.random.key_data(seed_key(seed)))) for seed in seeds}) == len(seeds)
    assert (jax.random.key_data(seed_keys(seeds))[2] == jax.random.key_data(seed_key(2**32))).all()
    with jax.enable_x64(True):
        wide = [jax.random.key_data(seed_key(seed)) for seed in seeds]
    assert_array_equal(np.stack(wide), jax.random.key_data(seed_keys(seeds)))
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match=f"episode_seed={seed} must be .* 2\\*\\*64 - 1"):
            seed_key(seed, "episode_seed")


def test_hyperparams_override():
    hyperparams = Config().hyperparams
    assert hyperparams.override({"gamma": 0.5}).gamma == 0.5
    assert hyperparams.override(None) is hyperparams
    with pytest.raises(ConfigError, match="num_envs"):
        hyperparams.override({"num_envs": 3})


def test_names_agree_with_what_is_built():
    from typing import get_args

    from fp3o_jax import config

    assert set(get_args(config.AlgorithmName)) == set(ALGORITHMS)
    assert set(get_args(config.SelectionName)) == set(SELECTIONS)
    assert set(get_args(config.ConditionName)) == set(CONDITIONS)
    assert set(get_args(config.ActivationName)) == set(ACTIVATIONS)
    assert all(hasattr(Config(), name) for name in Hyperparams._fields)
    assert "smax-3m" in PRESETS
