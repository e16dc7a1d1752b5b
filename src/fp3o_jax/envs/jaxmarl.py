"""JaxMARL's environments by name: SMAX, MABrax, MPE. JaxMARL and Brax are imported when one is made."""

from __future__ import annotations

import inspect
from typing import Any

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.adapter import TeamReward, adapt
from fp3o_jax.envs.base import Environment
from fp3o_jax.envs.known import MPE, MPE_COMPETITIVE
from fp3o_jax.envs.quiet import quiet, quiet_mujoco
from fp3o_jax.envs.spared import jaxmarl_module

#: What MPE's tasks take besides what stands in their signatures.
MPE_PHYSICS = ("rad", "moveable", "silent", "collide", "mass", "accel", "max_speed", "u_noise", "c_noise")
MPE_PHYSICS += ("damping", "contact_force", "contact_margin")
MABRAX = ("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3")


def smax_maps() -> tuple[str, ...]:
    """The names of JaxMARL's SMAX maps."""
    return tuple(jaxmarl_module("smax.smax_env").MAP_NAME_TO_SCENARIO)


def smax(map_name: str, reward: TeamReward = "mean", **kwargs: Any) -> Environment:
    """SMAX with the heuristic enemy."""
    if map_name not in smax_maps():
        raise unknown("env", f"smax/{map_name}", (f"smax/{m}" for m in smax_maps()))
    tasks = jaxmarl_module("smax")
    with quiet():
        env = _build(tasks.HeuristicEnemySMAX, {"scenario": tasks.map_name_to_scenario(map_name)}, kwargs)
    return adapt(env, f"smax/{map_name}", reward=reward)


def mabrax(task: str, reward: TeamReward = "mean", **kwargs: Any) -> Environment:
    """A Brax robot whose joints are divided among agents."""
    if task not in MABRAX:
        raise unknown("env", f"mabrax/{task}", (f"mabrax/{m}" for m in MABRAX))
    robots = jaxmarl_module("mabrax")
    with quiet(), quiet_mujoco():
        env = _build(robots.MABraxEnv, {"env_name": task, "auto_reset": False}, kwargs)
    return adapt(env, f"mabrax/{task}", reward=reward)


def mpe(task: str, reward: TeamReward = "mean", **kwargs: Any) -> Environment:
    """A cooperative multi-agent particle task."""
    if task in MPE_COMPETITIVE:
        raise ConfigError(
            f"env='mpe/{task}' is not cooperative, and the algorithms here maximise one team reward: "
            f"the cooperative tasks are {', '.join(f'mpe/{m}' for m in MPE)}"
        )
    if task not in MPE:
        raise unknown("env", f"mpe/{task}", (f"mpe/{m}" for m in MPE))
    title = "".join(word.capitalize() for word in task.split("_"))
    cls = getattr(jaxmarl_module(f"mpe.{task}"), f"{title}MPE")
    with quiet():
        # It would take any name, and a slip in one would go unnoticed.
        taken = {name for kind in cls.__mro__ for name in inspect.signature(kind.__init__).parameters}
        for name in kwargs:
            if name not in (valid := (taken | {*MPE_PHYSICS}) - {"self", "args", "kwargs"}):
                raise unknown(f"env_kwargs of mpe/{task}", name, valid)
        env = _build(cls, {}, kwargs)
    return adapt(env, f"mpe/{task}", reward=reward)


def _build(cls: type, ours: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """An environment of what the name says, ``ours``, and the user's options.

    Raises:
        ConfigError: they do not fit it, or would change what the name says or the trainer relies on.
    """
    if taken := sorted(ours.keys() & kwargs):
        raise ConfigError(
            f"env_kwargs {taken[0]}={kwargs[taken[0]]!r} is no option: the name of the environment decides "
            "what it is, and the trainer when episodes begin"
        )
    try:
        return cls(**ours, **kwargs)
    except Exception as error:
        if not kwargs and not isinstance(error, (TypeError, ValueError, AssertionError)):
            raise
        said = str(error) or type(error).__name__
        raise ConfigError(f"env_kwargs={kwargs!r} do not fit {cls.__name__}: {said}") from error
