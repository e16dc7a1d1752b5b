"""Any ``MultiAgentEnv`` of JaxMARL's kind behind :class:`~fp3o_jax.envs.base.Environment`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs import known
from fp3o_jax.envs.base import Environment, Observation, Outcome, pad_last
from fp3o_jax.envs.contract import check_agents, check_contract, check_masks, traced
from fp3o_jax.envs.scenes import Scene
from fp3o_jax.envs.spaces import Actions, action_spaces, existing_actions, to_bounds
from fp3o_jax.envs.wrappers import (
    Stepped,
    hidden_state,
    inner_state,
    innermost,
    optional_method,
    without_reset,
)

TeamReward = Literal["mean", "sum", "own"]

StateFn = Callable[[Any, dict[str, Any]], Array]


def adapt(
    env: Any,
    name: str | None = None,
    *,
    reward: TeamReward = "mean",
    global_state: StateFn | None = None,
    truncated: StateFn | None = None,
    won: StateFn | None = None,
    time_limit: int | None = None,
    agent_types: tuple[Hashable, ...] | None = (),
    scenes: Callable[[Any], list[Scene]] | None = None,
    html: Callable[[Any], str] | None = None,
) -> Environment:
    """Any JaxMARL environment as an :class:`Environment`, in wrappers or not.

    What is known of JaxMARL's own environments (:mod:`~fp3o_jax.envs.known`) holds for their objects as well,
    where it is not said otherwise here. Functions take the state that ``env.reset`` returns.

    Args:
        env: a ``jaxmarl`` ``MultiAgentEnv``. Of a wrapper, ``step`` is what is stepped, without its reset.
        name: its name in logs; by default its own, or its class.
        reward: the team's reward, the "mean" or the "sum" of the agents'; or each agent's "own", which
            algorithm=ippo alone can take.
        global_state: (state, obs by agent) -> [S]. By default ``obs["world_state"]``, else
            ``env.get_world_state(state)``, else all observations side by side.
        truncated: (state, info) -> whether an episode that is over was cut by a time limit. By default
            ``info["truncation"]`` or ``info["truncated"]``, one for all or by agent; without them every end
            is a termination.
        won: (state, info) -> whether an episode that is over was won.
        time_limit: bound on the episode length, if known.
        agent_types: [n]; by default agents are of one type if their names agree but for the number and
            their spaces agree. None if types change.
        scenes: how an episode is shown, see :class:`Environment`.
        html: the same, as a page.

    Warns:
        UserWarning: once for each: observations of several dimensions, which are flattened; the want of a
            global state; actions without bounds.

    Raises:
        ConfigError: the environment is none for a team, its spaces are neither all ``Discrete`` nor all
            one-dimensional ``Box``, or it does not return what it must. Nothing is compiled for that.
    """
    name = name or str(getattr(env, "name", type(env).__name__))
    if reward not in get_args(TeamReward):
        raise unknown("reward", reward, get_args(TeamReward))
    known.refuse_rivals(innermost(env), name)
    agents = check_agents(env, name)
    spaces = action_spaces(env, agents, name)
    actions = _no_action(agents, spaces)
    stepped = without_reset(env, name, known.mended, actions)
    obs, state, info = check_contract(name, agents, stepped, actions)
    _say_flattened(obs, agents, name)

    about = known.about(stepped.base)
    inside = _inside(stepped, about, name)
    own_state = global_state or _own_global_state(stepped, obs, state, name)
    own_state = own_state or _of_inner(about.global_state, inside)
    if own_state is None and not about.joint_state:
        _say_joint(name)
    view = _View(
        agents=agents,
        spaces=spaces,
        obs_sizes=tuple(int(np.prod(obs[a].shape)) for a in agents),
        masks=_masks(stepped, state, agents, spaces, name),
        global_state=own_state or _side_by_side(agents),
        truncated=truncated or _either(_of_inner(about.truncated, inside), _truncation(info, agents, name)),
        won=won or _of_inner(about.won, inside),
        reward=reward,
    )
    return _environment(
        name,
        stepped,
        view,
        agent_types=about.agent_types if agent_types == () else agent_types,
        time_limit=about.time_limit if time_limit is None else time_limit,
        scenes=scenes or _shown(about.scenes, inside),
        html=html or _shown(about.html, inside),
        joint_state=own_state is None,
    )


def _environment(
    name: str,
    stepped: Stepped,
    view: _View,
    agent_types: tuple[Hashable, ...] | None,
    **known_of_it: Any,
) -> Environment:
    reset, step = _functions(stepped, view)
    _, seen = traced(name, "what the trainer sees of it", reset, jax.random.key(0))
    return Environment(
        name=name,
        agents=view.agents,
        obs_sizes=view.obs_sizes,
        action_sizes=view.spaces.sizes,
        discrete=view.spaces.discrete,
        state_size=seen.global_state.shape[0],
        truncates=view.truncated is not None,
        reports_wins=view.won is not None,
        agent_types=_types(view) if agent_types == () else agent_types,
        reset=reset,
        step=step,
        action_low=view.spaces.low,
        action_high=view.spaces.high,
        own_rewards=view.reward == "own",
        **known_of_it,
    )


class _View(NamedTuple):
    """How the trainer sees an environment; functions as in :func:`adapt`, ``masks`` of the state."""

    agents: tuple[str, ...]
    spaces: Actions
    obs_sizes: tuple[int, ...]
    masks: Callable[[Any], Mapping[str, Array]] | None
    global_state: StateFn
    truncated: StateFn | None
    won: StateFn | None
    reward: TeamReward


def _functions(stepped: Stepped, view: _View) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``reset`` and ``step`` of the :class:`Environment`."""
    agents, n = view.agents, len(view.agents)
    exists = existing_actions(view.spaces.sizes)
    never = jnp.zeros((), bool)
    combine = {"mean": jnp.mean, "sum": jnp.sum, "own": lambda rewards: rewards}[view.reward]

    def one(x: Any) -> Array:
        return jnp.asarray(x).reshape(())

    def observe(state: Any, obs: dict[str, Array], alive: Array) -> Observation:
        mask = jnp.asarray(exists) if view.spaces.discrete else None
        if view.masks is not None:
            available = view.masks(state)
            mask = jnp.stack([pad_last(jnp.asarray(available[a]), exists.shape[1]) for a in agents]) > 0
        flat = [pad_last(obs[a].ravel().astype(jnp.float32), max(view.obs_sizes)) for a in agents]
        return Observation(
            obs=jnp.stack(flat),
            global_state=view.global_state(state, obs).ravel().astype(jnp.float32),
            action_mask=mask,
            alive=alive,
        )

    def reset(key: Array) -> tuple[Any, Observation]:
        obs, state = stepped.reset(key)
        return state, observe(state, obs, jnp.ones(n, bool))

    def step(key: Array, state: Any, actions: Array) -> tuple[Any, Observation, Outcome]:
        obs, state, rewards, dones, info = stepped.step(key, state, _by_agent(actions, agents, view.spaces))
        done = one(dones["__all__"]).astype(bool)
        cut = one(view.truncated(state, info)) > 0 if view.truncated else never
        outcome = Outcome(
            reward=combine(jnp.stack([one(rewards[a]) for a in agents]).astype(jnp.float32)),
            terminated=done & ~cut,
            truncated=done & cut,
            won=done & view.won(state, info) if view.won else never,
        )
        alive = ~jnp.stack([one(dones[a]).astype(bool) for a in agents])
        return state, observe(state, obs, alive), outcome

    return reset, step


def _no_action(agents: tuple[str, ...], spaces: Actions) -> dict[str, Array]:
    shape = existing_actions(spaces.sizes).shape
    nothing = jnp.zeros(len(agents), jnp.int32) if spaces.discrete else jnp.zeros(shape)
    return _by_agent(nothing, agents, spaces)


def _inside(stepped: Stepped, about: known.Known, name: str) -> Callable[[Any], Any] | None:
    """From the wrappers' state to that of what they wrap."""
    inside = inner_state(stepped, len(stepped.levels) - 1, name)
    if inside is None and any(about[:3]):
        raise hidden_state(stepped, name, f"what is known of {type(stepped.base).__name__}")
    return inside


def _types(view: _View) -> tuple[Hashable, ...]:
    """[n] by name but for the number, and by spaces."""
    stems = [re.sub(r"[_\d]+$", "", a) for a in view.agents]
    return tuple(zip(stems, view.obs_sizes, view.spaces.sizes, strict=True))


def _by_agent(actions: Array, agents: tuple[str, ...], spaces: Actions) -> dict[str, Array]:
    """What agents do, [n] or [n, A], as the environment takes it."""
    if spaces.discrete:
        return {a: actions[i] for i, a in enumerate(agents)}
    return {
        a: to_bounds(actions[i, :size], spaces.low[i], spaces.high[i])
        for i, (a, size) in enumerate(zip(agents, spaces.sizes, strict=True))
    }


def _say_flattened(obs: Mapping[str, Any], agents: tuple[str, ...], name: str) -> None:
    agent = next((a for a in agents if obs[a].ndim > 1), None)
    if agent is not None:
        warnings.warn(
            f"env={name!r}: observations such as {agent!r}'s, of shape {list(obs[agent].shape)}, are "
            "flattened: there are no convolutions here, so large images want features made of them first",
            stacklevel=3,
        )


def _of_inner(fn: StateFn | None, inside: Callable[[Any], Any] | None) -> StateFn | None:
    return None if fn is None else lambda state, other: fn(inside(state), other)


def _either(one: StateFn | None, other: StateFn | None) -> StateFn | None:
    if one is None or other is None:
        return one or other
    return lambda state, info: (jnp.asarray(one(state, info)) > 0) | (jnp.asarray(other(state, info)) > 0)


def _shown(
    fn: Callable[[Any], Any] | None, inside: Callable[[Any], Any] | None
) -> Callable[[Any], Any] | None:
    return None if fn is None or inside is None else lambda states: fn(inside(states))


def _truncation(info: Mapping[str, Any], agents: tuple[str, ...], name: str) -> StateFn | None:
    """Whether a time limit cut an episode, from ``info``: where it says so of each agent, any of them."""
    keys = [key for key in ("truncation", "truncated") if key in info]
    if not keys:
        return None
    for key in keys:
        flags = info[key]
        if isinstance(flags, Mapping) and not set(flags) & {*agents, "__all__"}:
            raise ConfigError(
                f"env={name!r}: info[{key!r}] has neither an agent nor '__all__' among its keys"
            )
        for flag in flags.values() if isinstance(flags, Mapping) else (flags,):
            shape = tuple(getattr(flag, "shape", ("no array",)))
            if shape not in ((), (1,), (len(agents),)):
                raise ConfigError(
                    f"env={name!r}: info[{key!r}] has shape {shape}, and must be one number, or one for each "
                    "agent"
                )

    def truncated(state: Any, info: Mapping[str, Any]) -> Array:
        flags = []
        for key in keys:
            flag = info[key]
            if isinstance(flag, Mapping):
                flag = flag["__all__"] if "__all__" in flag else [v for k, v in flag.items() if k in agents]
            flags += [jnp.asarray(f) for f in jax.tree.leaves(flag)]
        return jnp.stack([(flag > 0).any() for flag in flags]).any()

    return truncated


def _own_global_state(stepped: Stepped, obs: Mapping[str, Any], state: Any, name: str) -> StateFn | None:
    """The global state that an environment gives, of however many dimensions."""
    if "world_state" in obs:
        return lambda state, obs: obs["world_state"]
    world_state = optional_method(stepped, "get_world_state", name)
    if world_state is None:
        return None
    shape = traced(name, "get_world_state", world_state, state)
    if not hasattr(shape, "shape") or np.prod(shape.shape) == 0:
        raise ConfigError(f"env={name!r}: get_world_state returns {shape!r} and must return one array")
    return lambda state, obs: world_state(state)


def _say_joint(name: str) -> None:
    warnings.warn(
        f"env={name!r} has neither obs['world_state'] nor get_world_state(state): critics see all "
        "observations side by side",
        stacklevel=3,
    )


def _side_by_side(agents: tuple[str, ...]) -> StateFn:
    return lambda state, obs: jnp.concatenate([obs[a].ravel().astype(jnp.float32) for a in agents])


def _masks(
    stepped: Stepped, state: Any, agents: tuple[str, ...], spaces: Actions, name: str
) -> Callable[[Any], Mapping[str, Array]] | None:
    """Masks of available actions by agent, from the state; None where all always are.

    They are ``get_avail_actions``, or Hanabi's ``get_legal_moves``.
    """
    if not spaces.discrete:
        return None
    for method in ("get_avail_actions", "get_legal_moves"):
        if (masks := optional_method(stepped, method, name)) is not None:
            check_masks(name, traced(name, method, masks, state), agents, spaces.sizes, method)
            return masks
    return None
