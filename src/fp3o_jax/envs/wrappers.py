"""Environments in wrappers: what a wrapper's ``step`` does, without its reset.

JaxMARL's ``step`` begins a new episode as soon as one has ended, and hides the last observation of the old
one. What may be stepped is ``step_env``, which wrappers do not have: they change what goes through ``step``.
So each is copied around an inner environment whose ``step`` is its ``step_env``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.contract import described, traced

_BASE = "jaxmarl.environments.multi_agent_env"
_BASELINES = "jaxmarl.wrappers.baselines"
#: Wrappers that only add to ``info``.
_LOGS = ("LogWrapper", "SMAXLogWrapper", "MPELogWrapper", "OvercookedV2LogWrapper")
_REFUSED = {
    f"{_BASELINES}.CTRolloutManager": "batches environments, which is done here: hand over the environment "
    "that it was made with",
    "jaxmarl.wrappers.gymnax.GymnaxToJaxMARL": "is an environment for one agent, of Gymnax: there is no team",
}


class Stepped(NamedTuple):
    """An environment in its wrappers.

    Attributes:
        levels: from the outermost wrapper to the environment itself.
    """

    levels: tuple[Any, ...]

    @property
    def base(self) -> Any:
        return self.levels[-1]

    def reset(self, key: Array) -> tuple[Any, Any]:
        return self.levels[0].reset(key)

    def step(self, key: Array, state: Any, actions: Any) -> tuple[Any, ...]:
        """Never resets."""
        env = self.levels[0]
        return (env.step_env if _steps_by_step_env(env) else env.step)(key, state, actions)


class WithoutReset:
    """An environment whose ``step`` is its ``step_env``; everything else is its own.

    Args:
        env: the environment.
        on_reset: called with each reset.
    """

    def __init__(self, env: Any, on_reset: Callable[[], None]):
        self._inside, self._on_reset = env, on_reset

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inside"], name)

    def reset(self, key: Array) -> tuple[Any, Any]:
        self._on_reset()
        return self._inside.reset(key)

    def step(self, key: Array, state: Any, actions: Any, reset_state: Any = None) -> tuple[Any, ...]:
        del reset_state
        return self._inside.step_env(key, state, actions)


def clone(obj: Any, **changes: Any) -> Any:
    """A shallow copy with other attributes: ``copy.copy`` asks attributes of a half-made object, for which a
    wrapper looks in itself for ever."""
    new = object.__new__(type(obj))
    new.__dict__.update(obj.__dict__)
    new.__dict__.update(changes)
    return new


def inherits(obj: Any, path: str) -> bool:
    """Whether the class of an object is, or inherits from, that of a full name; imports nothing."""
    return any(f"{c.__module__}.{c.__qualname__}" == path for c in type(obj).__mro__)


def _is_wrapper(env: Any) -> bool:
    """Whether an environment hands on to one inside, in its attribute ``_env``, what it does not have."""
    return not inherits(env, f"{_BASE}.MultiAgentEnv") and "_env" in getattr(env, "__dict__", {})


def innermost(env: Any) -> Any:
    """The environment in all wrappers."""
    while _is_wrapper(env):
        env = env._env
    return env


def without_reset(env: Any, name: str, mend: Callable[[Any], Any], actions: Any) -> Stepped:
    """An environment object, made such that its ``step`` never resets.

    Args:
        env: a ``MultiAgentEnv``, or one in wrappers.
        name: for messages.
        mend: what is to be done to the innermost environment.
        actions: some actions by agent.

    Raises:
        ConfigError: a wrapper that batches environments, or whose ``step`` resets whatever is inside; an
            environment whose ``step`` does what its ``step_env`` does not, or that has no ``step_env``.
    """
    while type(env).__module__ == _BASELINES and type(env).__name__ in _LOGS:
        env = env._env
    stepped = Stepped(_levels(env, name, mend, lambda: None))
    if len(stepped.levels) > 1:
        _check_no_reset(env, stepped, name, mend, actions)
    return stepped


def _levels(env: Any, name: str, mend: Callable[[Any], Any], on_reset: Callable[[], None]) -> tuple[Any, ...]:
    """The levels from this one on; in each wrapper, an environment whose ``step`` does not reset."""
    if reason := next((reason for path, reason in _REFUSED.items() if inherits(env, path)), None):
        raise ConfigError(f"env={name!r}: {type(env).__name__} {reason}")
    if not _is_wrapper(env):
        _check_step_env(env, name)
        return (mend(env),)
    inner = _levels(env._env, name, mend, on_reset)
    inside = WithoutReset(inner[0], on_reset) if _steps_by_step_env(inner[0]) else inner[0]
    return (clone(env, _env=inside), *inner)


def _defined(env: Any, method: str) -> int | None:
    """How far from the object a method is defined: 0 on itself, then its classes; None if nowhere."""
    if method in vars(env):
        return 0
    return next((i for i, c in enumerate(type(env).__mro__, 1) if method in vars(c)), None)


def _steps_by_step_env(env: Any) -> bool:
    """Whether ``step_env`` is at least as much the object's own as ``step``."""
    step, step_env = _defined(env, "step"), _defined(env, "step_env")
    return step_env is not None and (step is None or step_env <= step)


def _check_step_env(env: Any, name: str) -> None:
    kind = type(env).__name__
    found = _defined(env, "step_env")
    # Every environment inherits the base class's `step`, which is `step_env` and a reset.
    abstract = found and type(env).__mro__[found - 1].__module__ == _BASE
    if found is None or abstract:
        raise ConfigError(
            f"env={name!r}: {kind} has no step_env(key, state, actions) of its own, the step that does not "
            "begin a new episode by itself (a wrapper must hold the environment inside as `_env`)"
        )
    if not _steps_by_step_env(env):
        raise ConfigError(
            f"env={name!r}: {kind} changes `step`, which begins a new episode by itself, and not `step_env`: "
            "move there what it does"
        )


def _check_no_reset(
    original: Any, stepped: Stepped, name: str, mend: Callable[[Any], Any], actions: Any
) -> None:
    """Follows a step through all wrappers and sees whether one of them resets what is inside."""
    resets: list[None] = []
    # Copies of its own: of what has been followed once, jit would not follow the calls again.
    watched = Stepped(_levels(original, name, mend, lambda: resets.append(None)))
    key = jax.random.key(0)
    _, state = traced(name, "reset", stepped.reset, key)
    traced(name, "step", watched.step, key, state, actions)
    if resets:
        raise ConfigError(
            f"env={name!r}: {type(original).__name__}.step begins new episodes by itself: leave that to the "
            "environment inside, whose step does it, or give the wrapper a step_env that does not"
        )


def inner_state(stepped: Stepped, level: int, name: str) -> Callable[[Any], Any] | None:
    """From the state of the whole to that of a level.

    Wrappers hand on the inner state, or hold it in a field ``env_state``; None for one that does neither.
    """
    if level == 0:
        return lambda state: state
    key = jax.random.key(0)
    _, outer = traced(name, "reset", stepped.reset, key)
    _, inner = traced(name, "reset", stepped.levels[level].reset, key)
    wanted, hops = described(inner), 0
    while described(outer) != wanted:
        if not hasattr(outer, "env_state"):
            return None
        outer, hops = outer.env_state, hops + 1

    def reach(state: Any) -> Any:
        for _ in range(hops):
            state = state.env_state
        return state

    return reach


def hidden_state(stepped: Stepped, name: str, what: str) -> ConfigError:
    """The error for a wrapper whose state does not give that of the environment inside."""
    return ConfigError(
        f"env={name!r}: {type(stepped.levels[0]).__name__} keeps a state in which that of "
        f"{type(stepped.base).__name__} is not to be found, and {what} needs it: hold it in a field "
        "`env_state`"
    )


def optional_method(stepped: Stepped, method: str, name: str) -> Callable[[Any], Any] | None:
    """A method of one argument, the state, as a function of the state of the whole; None where it is absent.

    Absent are a method that no level has, and the base class's own, which does nothing but say so.

    Raises:
        ConfigError: the method belongs to an environment whose state its wrapper hides.
    """
    level = next((i for i, env in enumerate(stepped.levels[:-1]) if _defined(env, method) is not None), -1)
    env = stepped.levels[level]
    level %= len(stepped.levels)
    defined = _defined(env, method)
    if defined and type(env).__mro__[defined - 1].__module__ == _BASE:
        return None
    found = getattr(env, method, None)
    # The base class's own may also come through a wrapper that hands on what it does not have.
    if found is None or getattr(found, "__module__", None) == _BASE:
        return None
    reach = inner_state(stepped, level, name)
    if reach is None:
        raise hidden_state(stepped, name, f"{method}(state)")
    return lambda state: found(reach(state))
