"""What an environment promises, checked by following its ``reset`` and ``step`` without running them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.base import Environment
from fp3o_jax.envs.quiet import quiet


def traced(name: str, method: str, fn: Callable[..., Any], *args: Any) -> Any:
    """The shapes that a method of an environment returns.

    Raises:
        ConfigError: it fails, whatever the reason; the cause is chained.
    """
    try:
        with quiet():
            return jax.eval_shape(fn, *args)
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"env={name!r}: {method} fails: {type(error).__name__}: {reason}") from error


def described(tree: Any) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    """Structure, shapes and types of a pytree, to be compared."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [
        (tuple(leaf.shape), np.dtype(leaf.dtype) if _plain(leaf) else leaf.dtype) for leaf in leaves
    ]


def _plain(leaf: Any) -> bool:
    return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)


def check_agents(env: Any, name: str) -> tuple[str, ...]:
    """The names of an environment's agents.

    Raises:
        ConfigError: there are none, or they are not strings that differ.
    """
    agents = getattr(env, "agents", None)
    try:
        agents = tuple(agents)
    except TypeError:
        agents = ()
    if not agents:
        raise ConfigError(
            f"env={name!r}: {type(env).__name__} has no `agents`, the list of its agents' names: it must be "
            "a jaxmarl MultiAgentEnv, or an fp3o_jax Environment"
        )
    odd = [a for a in agents if not isinstance(a, str)]
    if odd or len(set(agents)) < len(agents):
        raise ConfigError(
            f"env={name!r}: agents={list(agents)!r} must be strings that differ, such as 'agent_0': "
            "JAX takes no dictionary that mixes other keys with '__all__'"
        )
    return agents


def _entries(given: Any, agents: tuple[str, ...], what: str, name: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"env={name!r}: {what} must be a dictionary with one entry for each agent, not "
            f"{type(given).__name__}"
        )
    if missing := [a for a in agents if a not in given]:
        raise ConfigError(
            f"env={name!r}: {what} have no entry for {', '.join(missing)}; their keys are "
            f"{', '.join(map(repr, given))}"
        )
    return dict(given)


def check_contract(
    name: str, agents: tuple[str, ...], env: Any, actions: Mapping[str, Any]
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Follows a reset and a step of a JaxMARL environment.

    Args:
        name: for messages.
        agents: its agents.
        env: its ``reset(key)`` and ``step(key, state, actions)``.
        actions: some actions by agent.

    Returns:
        The shapes of observations, state and info.

    Raises:
        ConfigError: something fails, is missing, or is not of the shape that it must have.
    """
    key = jax.random.key(0)
    before = traced(name, "reset", env.reset, key)
    if not isinstance(before, tuple) or len(before) != 2:
        raise ConfigError(f"env={name!r}: reset must return two values, observations and state")
    obs, state = _check_observations(name, before[0], agents, "reset"), before[1]
    returned = traced(name, "step", env.step, key, state, actions)
    if not isinstance(returned, tuple) or len(returned) != 5:
        raise ConfigError(
            f"env={name!r}: step must return five values: observations, state, rewards, dones and info"
        )
    then, after, rewards, dones, info = returned
    _check_same_observations(name, obs, _check_observations(name, then, agents, "step"))
    _check_same_state(name, state, after)
    for what, values, wanted in (("rewards", rewards, agents), ("dones", dones, (*agents, "__all__"))):
        values = _entries(values, wanted, f"step's {what}", name)
        for key in wanted:
            if int(np.prod(getattr(values[key], "shape", (0,)))) != 1:
                raise ConfigError(
                    f"env={name!r}: step's {what}[{key!r}] has shape {_shape(values[key])} and must be one "
                    "number"
                )
    return obs, state, dict(info) if isinstance(info, Mapping) else {}


def _check_observations(name: str, given: Any, agents: tuple[str, ...], method: str) -> dict[str, Any]:
    obs = _entries(given, agents, f"{method}'s observations", name)
    for agent in agents:
        if not hasattr(obs[agent], "shape"):
            raise ConfigError(
                f"env={name!r}: the observation of {agent!r} is a {type(obs[agent]).__name__}, and must be "
                "one array: put its parts side by side, as jax.flatten_util.ravel_pytree does"
            )
        if np.prod(obs[agent].shape) == 0:
            raise ConfigError(
                f"env={name!r}: the observation of {agent!r} has shape {obs[agent].shape}: empty"
            )
    return obs


def _check_same_observations(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    if odd := [key for key in {**before, **after} if key not in before or key not in after]:
        where = "reset" if odd[0] in before else "step"
        raise ConfigError(
            f"env={name!r}: observations must keep their keys, and {odd[0]!r} is among those of {where} alone"
        )
    for key, value in before.items():
        if _shape(value) != _shape(after[key]):
            raise ConfigError(
                f"env={name!r}: the observation of {key!r} has shape {_shape(value)} after reset and "
                f"{_shape(after[key])} after step"
            )


def _shape(x: Any) -> Any:
    return getattr(x, "shape", type(x).__name__)


def _check_same_state(name: str, before: Any, after: Any) -> None:
    if described(before) == described(after):
        return
    old, new = (
        {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (before, after))
    )
    path = next((p for p in {**old, **new} if old.get(p) != new.get(p)), "")
    raise ConfigError(
        f"env={name!r}: the state must keep its structure, shapes and types, and state{path} is "
        f"{old.get(path, 'not there')} after reset and {new.get(path, 'not there')} after step"
    )


def check_masks(name: str, masks: Any, agents: tuple[str, ...], sizes: tuple[int, ...], method: str) -> None:
    """Raises:
    ConfigError: a mask is missing, or not as long as the agent has actions.
    """
    masks = _entries(masks, agents, f"{method}'s masks", name)
    for agent, size in zip(agents, sizes, strict=True):
        if _shape(masks[agent]) != (size,):
            raise ConfigError(
                f"env={name!r}: {method} gives {agent!r} a mask of shape {_shape(masks[agent])}, and it has "
                f"{size} actions"
            )


def check_environment(env: Environment) -> Environment:
    """An :class:`Environment` that someone else made, unchanged.

    Raises:
        ConfigError: what ``reset`` and ``step`` return is not what it says of itself.
    """
    name, n = env.name, env.num_agents
    for field in ("obs_sizes", "action_sizes", "agent_types"):
        value = getattr(env, field)
        if value is not None and len(value) != n:
            raise ConfigError(f"env={name!r}: {field}={value!r} must have one entry for each of {n} agents")
    key, width = jax.random.key(0), max(env.action_sizes)
    action = jax.ShapeDtypeStruct((n,), int) if env.discrete else jax.ShapeDtypeStruct((n, width), float)
    state, seen = _parts(env, "reset", 2, traced(name, "reset", env.reset, key))
    then, after, outcome = _parts(env, "step", 3, traced(name, "step", env.step, key, state, action))
    for method, observation in (("reset", seen), ("step", after)):
        for field, shape, said in (
            ("obs", (n, max(env.obs_sizes)), f"obs_sizes={env.obs_sizes!r}"),
            ("global_state", (env.state_size,), f"state_size={env.state_size!r}"),
            ("alive", (n,), f"{n} agents"),
            ("action_mask", (n, width) if env.discrete else None, f"action_sizes={env.action_sizes!r}"),
        ):
            value = getattr(observation, field)
            if (None if value is None else tuple(value.shape)) != shape:
                given = "none" if value is None else f"shape {tuple(value.shape)}"
                raise ConfigError(
                    f"env={name!r}: {said} mean that {field} has shape {shape}, and {method} gives {given}"
                    if shape is not None
                    else f"env={name!r}: actions are continuous, and {method} gives an action_mask that "
                    "is not None"
                )
    _check_same_state(name, state, then)
    told = ("diverged",) * (outcome.diverged is not None)
    for field in ("reward", "terminated", "truncated", "won", *told):
        shape, own = tuple(getattr(outcome, field).shape), field == "reward" and env.own_rewards
        if shape != ((n,) if own else ()):
            raise ConfigError(
                f"env={name!r}: the outcome's {field} has shape {shape} and must be "
                f"{f'one number for each of {n} agents (own_rewards)' if own else 'one number'}"
            )
    return env


def _parts(env: Environment, method: str, count: int, returned: Any) -> tuple[Any, ...]:
    if not isinstance(returned, tuple) or len(returned) != count:
        raise ConfigError(
            f"env={env.name!r}: {method} must return "
            f"{'state and Observation' if count == 2 else 'state, Observation and Outcome'}"
        )
    return returned
