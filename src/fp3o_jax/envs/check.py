"""What a few hundred random steps of an environment bring, and what the trainer makes of them."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.envs.base import Environment, Observation
from fp3o_jax.envs.spaces import existing_actions, playable
from fp3o_jax.values import as_count

COPIES = 8


@dataclasses.dataclass(frozen=True)
class EnvReport:
    """What the trainer sees of an environment; ``str`` of it is a table.

    Attributes:
        env: the environment.
        rows: (what, how it is).
        notes: what is allowed, but seldom meant.
    """

    env: Environment
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows)
        table = [f"{what:<{width}}  {how}" for what, how in self.rows]
        return "\n".join([self.env.name, *table, *(f"note: {note}" for note in self.notes)])


class _Seen(NamedTuple):
    """What T steps of B environments brought: per step [T, B], per agent [T, B, n]."""

    reward: Array
    terminated: Array
    truncated: Array
    won: Array
    length: Array
    alive: Array
    revived: Array
    masked: Array
    share: Array
    finite_obs: Array
    finite_state: Array


def report_on(env: Environment, steps: int = 300) -> EnvReport:
    """Plays ``steps`` random steps of a few copies and looks at what they bring.

    Raises:
        ConfigError: something seen by a living agent, a global state or a reward is not finite; a living
            agent has no action available; the environment sets what it says that it never sets; an episode
            is longer than it says; or fewer than one step.
    """
    steps = as_count("steps", steps)
    seen = jax.device_get(jax.jit(partial(_play, env, steps))())
    _check_finite(env, seen)
    _check_promises(env, seen)
    return EnvReport(env, tuple(_rows(env, seen)), tuple(_notes(env, seen)))


def _play(env: Environment, steps: int) -> _Seen:
    exists = existing_actions(env.action_sizes)

    def act(key: Array, observation: Observation) -> Array:
        if env.discrete:
            logits = jnp.where(playable(observation.action_mask, exists), 0.0, -jnp.inf)
            return jax.random.categorical(key, logits)
        return jax.random.uniform(key, exists.shape, minval=-1.0)

    def step(carry: tuple[Any, Observation, Array], key: Array) -> tuple[Any, _Seen]:
        state, before, length = carry
        key_action, key_step, key_reset = jax.random.split(key, 3)
        state, after, outcome = env.step(key_step, state, act(key_action, before))
        done = outcome.done
        # At the end nobody acts any more, whatever is said of the living; what was cut is looked at, though.
        alive = after.alive & ~done
        looked_at = jnp.where(outcome.truncated, before.alive & (after.alive | ~after.alive.any()), alive)
        mask = before.action_mask if env.discrete else exists
        seen = _Seen(
            reward=outcome.team_reward,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            won=outcome.won,
            length=length + 1,
            alive=before.alive,
            revived=alive & ~before.alive,
            masked=before.alive & ~(mask & exists).any(-1),
            share=(mask & exists).sum(-1) / exists.sum(-1),
            finite_obs=jnp.isfinite(after.obs).all(-1) | ~looked_at,
            # Made of observations, it is made anew of what the living see.
            finite_state=jnp.isfinite(after.global_state).all() | env.joint_state,
        )
        fresh_state, fresh = env.reset(key_reset)
        state, after = jax.tree.map(
            lambda new, old: jnp.where(done, new, old), (fresh_state, fresh), (state, after)
        )
        return (state, after, jnp.where(done, 0, length + 1)), seen

    def episodes(key: Array) -> _Seen:
        key_reset, key_steps = jax.random.split(key)
        start = (*env.reset(key_reset), jnp.zeros((), jnp.int32))
        start = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), start)
        return jax.lax.scan(step, start, jax.random.split(key_steps, steps))[1]

    return jax.tree.map(
        lambda x: x.swapaxes(0, 1), jax.vmap(episodes)(jax.random.split(jax.random.key(0), COPIES))
    )


def _check_finite(env: Environment, seen: _Seen) -> None:
    for what, bad in (
        ("the reward", ~np.isfinite(seen.reward)),
        ("the global state", ~seen.finite_state),
        *((f"what {a!r} sees", ~seen.finite_obs[..., i]) for i, a in enumerate(env.agents)),
    ):
        if bad.any():
            raise ConfigError(
                f"env={env.name!r}: {what} is not finite, first after step {seen.length[bad].min()} of an "
                "episode"
            )
    for i, agent in enumerate(env.agents):
        if seen.masked[..., i].any():
            raise ConfigError(
                f"env={env.name!r}: {agent!r} has no action available, first in step "
                f"{seen.length[seen.masked[..., i]].min()} of an episode, and is alive: give it one that "
                "does nothing, or have it done"
            )


def _check_promises(env: Environment, seen: _Seen) -> None:
    for field, promised in (("truncated", env.truncates), ("won", env.reports_wins)):
        if getattr(seen, field).any() and not promised:
            word = "truncates" if field == "truncated" else "reports_wins"
            raise ConfigError(f"env={env.name!r}: {field} is set, and {word}=False says that it never is")
    if (seen.terminated & seen.truncated).any():
        raise ConfigError(
            f"env={env.name!r}: an episode is both terminated and truncated: it must be one of them"
        )
    if env.time_limit is not None and seen.length.max() > env.time_limit + 1:
        raise ConfigError(
            f"env={env.name!r}: time_limit={env.time_limit}, and an episode has {seen.length.max()} steps or "
            "more"
        )


def _rows(env: Environment, seen: _Seen) -> list[tuple[str, str]]:
    def by_agent(values: Any) -> str:
        values = [str(v) for v in values]
        if len(set(values)) == 1:
            return f"{values[0]} each"
        return ", ".join(f"{a} {v}" for a, v in zip(env.agents, values, strict=True))

    done = seen.terminated | seen.truncated
    rows = [
        ("agents", f"{env.num_agents}: {', '.join(env.agents)}"),
        ("observations", f"{by_agent(env.obs_sizes)} features"),
        (
            "global state",
            f"{env.state_size} features" if env.state_size else "none: for algorithm=ippo alone",
        ),
    ]
    if env.discrete:
        share = seen.share[seen.alive].mean() if seen.alive.any() else 1.0
        rows += [
            ("actions", f"discrete, {by_agent(env.action_sizes)}"),
            (
                "masks",
                f"{share:.0%} of a living agent's actions are available" if share < 1 else "all available",
            ),
        ]
    else:
        rows += [("actions", f"continuous, {by_agent(env.action_sizes)}"), ("bounds", _bounds(env, by_agent))]
    limit = "" if env.time_limit is None else f", at most {env.time_limit + 1} steps"
    ends = [f"{done.sum()} in {COPIES} x {len(done)} random steps"]
    if done.any():
        ends.append(f"after {seen.length[done].min()} to {seen.length[done].max()} steps")
        ends.append(f"{seen.truncated.sum()} cut by a time limit")
    whose = "of each agent, on average" if env.own_rewards else "of the team"
    source = "are told from terminations" if env.truncates else "unknown: every end counts as a termination"
    return [
        *rows,
        ("episodes", ", ".join(ends) + limit),
        ("time limits", source),
        ("reward", f"{whose}, from {seen.reward.min():.4g} to {seen.reward.max():.4g}"),
        ("victories", "reported" if env.reports_wins else "not reported"),
        (
            "agent types",
            "change" if env.agent_types is None else str(len(set(env.agent_types))),
        ),
    ]


def _bounds(env: Environment, by_agent: Any) -> str:
    if env.action_low is None or env.action_high is None:
        return "none known: step gets what the policy draws"
    pairs = zip(env.action_low, env.action_high, strict=True)
    return by_agent(
        " ".join(sorted({f"[{low:g}, {high:g}]" for low, high in zip(*pair, strict=True)})) for pair in pairs
    )


def _notes(env: Environment, seen: _Seen) -> list[str]:
    notes = []
    for i, agent in enumerate(env.agents):
        if seen.revived[..., i].any():
            notes.append(
                f"{agent} comes back to life within an episode, first in step "
                f"{seen.length[seen.revived[..., i]].min()}: dones must stay True until the end for an agent "
                "that is out"
            )
    if not (seen.terminated | seen.truncated).any():
        notes.append("no episode ended: metrics of episodes stay empty until one does")
    if (seen.reward == seen.reward.flat[0]).all():
        notes.append(f"every reward was {seen.reward.flat[0]:g}")
    return notes
