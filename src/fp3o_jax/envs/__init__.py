"""Environments behind one interface: stacked arrays, agents first."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs import jaxmarl, mamujoco, matrix
from fp3o_jax.envs.adapter import adapt
from fp3o_jax.envs.base import Environment, Observation, Outcome
from fp3o_jax.envs.check import EnvReport, report_on
from fp3o_jax.envs.contract import check_environment
from fp3o_jax.envs.known import MPE
from fp3o_jax.envs.quiet import quiet
from fp3o_jax.registry import environments
from fp3o_jax.values import short

__all__ = [
    "EnvReport",
    "Environment",
    "Observation",
    "Outcome",
    "adapt",
    "available",
    "check_env",
    "make_env",
]

#: So many agents, landmarks or others at most.
MANY = 4096
#: family -> maker, called with the task and the options of ``Config.env_kwargs``. A new family is one line.
FAMILIES = {
    "smax": jaxmarl.smax,
    "mabrax": jaxmarl.mabrax,
    "mamujoco": mamujoco.make,
    "mpe": jaxmarl.mpe,
    "matrix": matrix.make,
}


def make_env(env: str | Environment | Any, env_kwargs: Mapping[str, Any] | None = None) -> Environment:
    """The environment of a name, of a ``jaxmarl`` object, or one already made.

    Args:
        env: a name such as ``smax/3m``, of this package or registered
            (:func:`~fp3o_jax.register_env`); ``module:factory``, a function of a module that can be imported
            (from the working directory as well) and returns an environment; or the environment itself.
        env_kwargs: options of the named environment, of the factory, or for an object those of
            :func:`~fp3o_jax.envs.adapter.adapt`.

    Raises:
        ConfigError: no such environment, one that is not cooperative or does not keep to what it says of
            itself, or options that do not fit it.
    """
    options = dict(env_kwargs or {})
    if isinstance(env, str):
        family, slash, task = env.partition("/")
        if slash and family in FAMILIES:
            _refuse_crowds(options)
            return _called(env, FAMILIES[family], task, **options)
        if env not in environments or not {"/", ":"} & set(env):
            raise ConfigError(f"{unknown('env', env, available())}; or module:factory, to be imported")
        # It imports JaxMARL, which redirects the streams.
        with quiet():
            factory = environments.find(env)
        return dataclasses.replace(make_env(*_from_factory(env, factory, options)), name=env)
    if not isinstance(env, Environment):
        return _called(type(env).__name__, adapt, env, **options)
    if options:
        raise ConfigError(f"env_kwargs={options!r} do not fit env={env.name!r}, which is already made")
    return check_environment(env)


def check_env(
    env: str | Environment | Any, env_kwargs: Mapping[str, Any] | None = None, steps: int = 300
) -> EnvReport:
    """What the trainer sees of an environment, and whether it can be trusted: ``print(check_env(env))``.

    Its promises are checked as :func:`make_env` does; then ``steps`` random steps of a few copies are played,
    and what they bring is looked at.

    Raises:
        ConfigError: what is wrong, in a sentence.
    """
    return report_on(make_env(env, env_kwargs), steps)


def available() -> list[str]:
    """The names of all environments; of a family that others bring, its tasks are not known."""
    tasks = {
        "smax": jaxmarl.smax_maps(),
        "mabrax": jaxmarl.MABRAX,
        "mamujoco": mamujoco.TASKS,
        "mpe": MPE,
        "matrix": matrix.GAMES,
    }
    others = [name if "/" in name else f"{name}/<task>" for name in sorted(environments.outside())]
    return [f"{family}/{task}" for family, names in tasks.items() for task in names] + others


def _refuse_crowds(options: Mapping[str, Any]) -> None:
    """Whether there are no more of anything than environments can be made of before memory ends."""
    for name, value in options.items():
        if name.startswith("num_") and isinstance(value, (int, float)) and not -MANY <= value <= MANY:
            raise ConfigError(f"env_kwargs {name}={short(value)} must be at most {MANY}")


def _called(name: str, maker: Any, /, *args: Any, **options: Any) -> Any:
    try:
        inspect.signature(maker).bind(*args, **options)
    except TypeError as error:
        raise ConfigError(f"env_kwargs={options!r} do not fit {name}: {error}") from error
    return maker(*args, **options)


def _from_factory(
    env: str, factory: Callable[..., Any] | Any, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What a factory makes, and the options that are not its own; in its place may be an environment."""
    if isinstance(factory, Environment) or not callable(factory):
        return factory, options
    # How rewards are put together is the adapter's business, unless the factory makes it its own.
    takes = inspect.signature(factory).parameters
    ours = {"reward"} - {*takes} if not any(p.kind == p.VAR_KEYWORD for p in takes.values()) else set()
    rest = {name: value for name, value in options.items() if name in ours}
    try:
        return _called(env, factory, **{k: v for k, v in options.items() if k not in rest}), rest
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"env={env!r} fails: {type(error).__name__}: {error}") from error
