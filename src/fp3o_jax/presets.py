"""Settings by name: ``fp3o train PRESET``."""

from __future__ import annotations

from typing import NamedTuple

from fp3o_jax.config import Config


class Preset(NamedTuple):
    """A config by name.

    Attributes:
        summary: what it is.
        config: its settings.
        reaches: what was measured, and after how long; empty where nothing was.
    """

    summary: str
    config: Config
    reaches: str = ""


_SMAC_REFERENCE = Config(
    total_env_steps=5_000_000,
    num_envs=8,
    rollout_length=400,
    recurrent=True,
    chunk_length=10,
    actor_lr=5e-4,
    critic_lr=5e-4,
)

_MAMUJOCO_REFERENCE = Config(
    env="mabrax/halfcheetah_6x1",
    total_env_steps=10_000_000,
    num_envs=4,
    rollout_length=1000,
    num_minibatches=32,
    actor_lr=1e-5,
    critic_lr=3e-4,
    entropy_coef=0.001,
)

_HALF_CHEETAH = Config(
    env="mabrax/halfcheetah_6x1",
    num_envs=64,
    rollout_length=64,
    actor_lr=1e-3,
    critic_lr=1e-3,
    lr_schedule="linear",
    num_minibatches=4,
    entropy_coef=0.001,
)

# What a written rule chose of one grid, for FP3O, MAPPO and HAPPO together: docs/results.md, "Tuning".
_TUNED_SMAX = Config(
    num_envs=32, rollout_length=64, epochs=8, actor_lr=2e-3, critic_lr=2e-3, lr_schedule="linear"
)
_TUNED_ROBOTS = Config(
    env="mamujoco/halfcheetah_6x1",
    num_envs=16,
    rollout_length=64,
    epochs=3,
    actor_lr=1e-3,
    critic_lr=1e-3,
    lr_schedule="linear",
    entropy_coef=0.001,
    normalize_obs="running",
)

PRESETS: dict[str, Preset] = {
    "smax": Preset(
        "SMAX, tuned for FP3O, MAPPO and HAPPO together on 2s3z: name a map by --env smax/MAP",
        _TUNED_SMAX,
        "a win rate of 0.88, 0.89 and 0.91 on 3m with three seeds",
    ),
    "mamujoco": Preset(
        "robots on MuJoCo itself, tuned for FP3O, MAPPO and HAPPO together on a pair of half-cheetahs",
        _TUNED_ROBOTS,
        "a return of 3,714, 3,305 and 3,983 with three seeds and --total-env-steps 4e5",
    ),
    "mabrax": Preset(
        "robots on Brax, with the choice that was made on MuJoCo",
        _TUNED_ROBOTS.replace(env="mabrax/halfcheetah_6x1"),
        "a return of 2,222, 1,655 and 1,999 with three seeds and --total-env-steps 2e5",
    ),
    "smax-3m": Preset(
        "SMAX 3m, tuned for many environments: three minutes on two cores",
        Config(
            total_env_steps=2_000_000,
            actor_lr=2e-3,
            critic_lr=2e-3,
            lr_schedule="linear",
            epochs=3,
            num_minibatches=2,
            max_grad_norm=0.5,
        ),
        "a win rate of 0.86, 0.90 and 0.88 with three seeds and --total-env-steps 1e6",
    ),
    "mpe-spread": Preset(
        "MPE simple_spread: about a minute on two cores",
        Config(
            env="mpe/simple_spread",
            num_envs=128,
            rollout_length=32,
            actor_lr=2e-3,
            critic_lr=2e-3,
            lr_schedule="linear",
            num_minibatches=2,
        ),
        "a return of -14.5 [-15.4, -13.7], the IQM of ten seeds, with --total-env-steps 5e6",
    ),
    "mabrax-halfcheetah": Preset(
        "a half-cheetah of six agents: ten minutes on two cores",
        _HALF_CHEETAH,
    ),
    "mamujoco-halfcheetah": Preset(
        "a half-cheetah of six agents on MuJoCo itself: two minutes on two cores",
        _HALF_CHEETAH.replace(env="mamujoco/halfcheetah_6x1", normalize_obs="running"),
        "a return of 3,718, 3,818 and 3,673 with three seeds and --total-env-steps 4e5",
    ),
    "mamujoco-swimmer": Preset(
        "the paper's swimmer of eight agents on MuJoCo itself: eight minutes on two cores",
        Config(
            env="mamujoco/manysegmentswimmer_8x2",
            env_kwargs={"agent_obsk": 5},
            num_envs=16,
            rollout_length=500,
            critic_lr=1e-3,
            num_minibatches=8,
            gamma=0.999,
            normalize_obs="running",
        ),
        "a return of 209, 223 and 194 with three seeds and --total-env-steps 5e5",
    ),
    "smax-reference": Preset("SMAX with the settings of the FP3O reference for SMAC", _SMAC_REFERENCE),
    "mabrax-reference": Preset(
        "MABrax with the settings of the FP3O reference for MAMuJoCo", _MAMUJOCO_REFERENCE
    ),
    "mamujoco-reference": Preset(
        "the paper's swimmer of eight agents, with the settings of the FP3O reference",
        _MAMUJOCO_REFERENCE.replace(env="mamujoco/manysegmentswimmer_8x2", env_kwargs={"agent_obsk": 5}),
    ),
}
