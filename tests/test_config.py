"""Settings: what is refused, and that every error says how to do better."""

import json

import pytest

from fp3o_jax import Config, ConfigError
from fp3o_jax.config import PRESETS, Hyperparams
from fp3o_jax.schedules import ALGORITHMS, CONDITIONS, SELECTIONS


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
        ({"seed": -1}, ["seed=-1"]),
        ({"actor_lr": 0}, ["actor_lr=0", "above 0"]),
        ({"clip_eps": float("nan")}, ["clip_eps=nan"]),
        ({"gamma": 1.2}, ["gamma=1.2", "between 0 and 1"]),
        ({"entropy_coef": -1}, ["entropy_coef=-1"]),
        ({"num_minibatches": 7}, ["num_minibatches=7", "8192 samples", "4 or 8"]),
        (
            {"recurrent": True, "chunk_length": 10},
            ["chunk_length=10", "rollout_length=128", "8 or 16"],
        ),
        ({"sharing": "groups"}, ["trunk_groups"]),
        ({"trunk_groups": (0, 0, 1)}, ["sharing='groups'"]),
        ({"advantage_split": (0.5, 0.6)}, ["advantage_split", "sum to 1"]),
        ({"lerning_rate": 1}, ["lerning_rate"]),
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


def test_hyperparams_override():
    hyperparams = Config().hyperparams
    assert hyperparams.override({"gamma": 0.5}).gamma == 0.5
    assert hyperparams.override(None) is hyperparams
    with pytest.raises(ConfigError, match="num_envs"):
        hyperparams.override({"num_envs": 3})


def test_names_agree_with_what_is_built():
    from typing import get_args

    from fp3o_jax import config

    assert set(get_args(config.Algorithm)) == set(ALGORITHMS)
    assert set(get_args(config.Selection)) == set(SELECTIONS)
    assert set(get_args(config.Condition)) == set(CONDITIONS)
    assert all(hasattr(Config(), name) for name in Hyperparams._fields)
    assert "smax-3m" in PRESETS
