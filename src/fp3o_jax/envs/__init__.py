"""Environments behind one interface: stacked arrays, agents first."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs import jaxmarl, matrix
from fp3o_jax.envs.base import Environment, Observation, Outcome

__all__ = ["Environment", "Observation", "Outcome", "available", "make_env"]

#: family -> maker, called with the task and the options of ``Config.env_kwargs``. A new family is one line.
FAMILIES = {
    "smax": jaxmarl.smax,
    "mabrax": jaxmarl.mabrax,
    "mpe": jaxmarl.mpe,
    "matrix": matrix.make,
}


def make_env(env: str | Environment | Any, env_kwargs: Mapping[str, Any] | None = None) -> Environment:
    """The environment of a name such as ``smax/3m``, of a ``jaxmarl`` object, or one already made.

    Raises:
        ConfigError: no such environment, one that is not cooperative, or options that do not fit it.
    """
    if isinstance(env, Environment):
        return env
    if not isinstance(env, str):
        module = type(env).__module__
        if ".mpe." in module and module.rsplit(".", 1)[-1] in jaxmarl.MPE_COMPETITIVE:
            jaxmarl.mpe(module.rsplit(".", 1)[-1])  # raises: not cooperative
        return jaxmarl.adapt(env)
    family, slash, task = env.partition("/")
    if not slash or family not in FAMILIES:
        raise unknown("env", env, available())
    maker, options = FAMILIES[family], dict(env_kwargs or {})
    try:
        inspect.signature(maker).bind(task, **options)
    except TypeError as error:
        raise ConfigError(f"env_kwargs={options!r} do not fit {env}: {error}") from error
    return maker(task, **options)


def available() -> list[str]:
    """The names of all environments."""
    tasks = {
        "smax": jaxmarl.smax_maps(),
        "mabrax": jaxmarl.MABRAX,
        "mpe": jaxmarl.MPE,
        "matrix": matrix.GAMES,
    }
    return [f"{family}/{task}" for family, names in tasks.items() for task in names]
