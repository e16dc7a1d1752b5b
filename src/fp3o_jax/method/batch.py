"""What the update learns from, and the parts in which it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from fp3o_jax.method.advantages import TDErrors
from fp3o_jax.method.sequences import as_steps


@struct.dataclass
class Batch:
    """What the update learns from: N sequences of L steps for each of n agents (L = 1 if feed-forward).

    Attributes:
        obs: [n, L, N, O], standardised, as the networks take it.
        critic_inputs: [v, L, N, S], likewise, v = 1 or n.
        action_mask: [n, L, N, A] bool, or None.
        alive: [n, L, N] float, 1 where the sample counts.
        starts: [L, N] bool, an episode begins with this step.
        action: [n, L, N] int or [n, L, N, A].
        log_prob: [n, L, N] log-probability of the action under the behaviour policy.
        advantage: [n, L, N] normalised advantage.
        value: [c, L, N] old value, in the units of the critic; c = 1 where agents share its values, else n.
        target: [c, L, N] value target, in the critic's units.
        actor_hidden: [n, N, H] recurrent state before each sequence; None if feed-forward.
        critic_hidden: [c, N, H], likewise.
        errors: [n, T, B] what the advantages were summed up from, for algorithms that do so anew in each
            stage, or record the ratios of whole rollouts; else None.
        valued: [n, L, N] 1 where the sample counts for critics, if not where it counts for actors.
        log_weight: [n, L, N] log W, of what a stage multiplies the advantages by; None outside of stages.
    """

    obs: Array
    critic_inputs: Array
    action_mask: Array | None
    alive: Array
    starts: Array
    action: Array
    log_prob: Array
    advantage: Array
    value: Array
    target: Array
    actor_hidden: Array | None
    critic_hidden: Array | None
    errors: TDErrors | None = None
    valued: Array | None = None
    log_weight: Array | None = None

    def of_agents(self, agents: Array | None) -> Batch:
        """The rows of ``agents`` [P]; all if None."""
        return self if agents is None else self.of_rows(lambda x: x[agents])

    def of_rows(self, pick: Callable[[Array], Array]) -> Batch:
        """``pick(array)`` of every array that has a row for each agent; without ``errors``."""
        rows = self.replace(starts=None, errors=None)
        # A single row is all agents'.
        rows = jax.tree.map(lambda x: x if x.shape[0] == 1 else pick(x), rows)
        return rows.replace(starts=self.starts)

    def as_rollout(self, num_envs: int) -> Batch:
        """The same with whole rollouts for sequences; without ``errors``."""
        rows = self.replace(starts=self.starts[None], errors=None, actor_hidden=None, critic_hidden=None)
        rows = jax.tree.map(lambda x: as_steps(x, num_envs), rows)
        # The first sequences are those that begin the rollout.
        hidden = jax.tree.map(lambda x: x[:, :num_envs], (self.actor_hidden, self.critic_hidden))
        return rows.replace(starts=rows.starts[0], actor_hidden=hidden[0], critic_hidden=hidden[1])

    def of_the_living(self) -> Batch:
        """Zeros in place of what dead agents did: a mask multiplies, and NaN times 0 is NaN.

        What they saw is zeros already, as the rollout records it; another copy would be a second rollout.
        """

        def keep(x: Array, counted: Array) -> Array:
            here = counted > 0
            here = here if x.shape[0] == here.shape[0] else here.any(0, keepdims=True)
            return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 3)), x, jnp.zeros((), x.dtype))

        valued = self.alive if self.valued is None else self.valued
        masks = dict.fromkeys(("action", "log_prob", "advantage"), self.alive)
        masks |= dict.fromkeys(("value", "target"), valued)
        return self.replace(**{name: keep(getattr(self, name), mask) for name, mask in masks.items()})

    def of_block(self, cut: Callable[[Array, int], Array]) -> Batch:
        """``cut(array with rows on axis 0, its axis of sequences)`` of every array; without ``errors``."""
        axes = Batch(
            **dict.fromkeys(("obs", "critic_inputs", "alive", "action", "log_prob"), 2),
            **dict.fromkeys(("advantage", "value", "target"), 2),
            action_mask=None if self.action_mask is None else 2,
            valued=None if self.valued is None else 2,
            log_weight=None if self.log_weight is None else 2,
            actor_hidden=None if self.actor_hidden is None else 1,
            critic_hidden=None if self.critic_hidden is None else 1,
            starts=None,
        )
        part = jax.tree.map(cut, self.replace(starts=None, errors=None), axes)
        return part.replace(starts=cut(self.starts[None], 2)[0])


class Stage(NamedTuple):
    """One stage of a schedule, as the update runs it.

    Attributes:
        agents: [P] the agent of each row; None for all of them in order.
        kept: [P] 1 where the pipeline runs.
        weights: [P, n] bool, whose ratios weigh on the row; None for critics.
        clip: [P] factor on the clip range; None for critics.
    """

    agents: Array | None
    kept: Array
    weights: Array | None = None
    clip: Array | None = None


class Minibatch(NamedTuple):
    """Part of the samples of a stage.

    Attributes:
        index: [M] its sequences, or None for all of them.
        counted: how many of its samples count, of all rows.
    """

    index: Array | None
    counted: Array


def draw_minibatches(key: Array, alive: Array, kept: Array, epochs: int, num_minibatches: int) -> Minibatch:
    """Those of all epochs of a stage, with rows [P, L, N] of which ``kept`` [P] run, on a leading axis."""
    if num_minibatches == 1:
        return Minibatch(None, (alive.sum((1, 2)) @ kept)[None].repeat(epochs))
    orders = jax.vmap(lambda k: jax.random.permutation(k, alive.shape[2]))(jax.random.split(key, epochs))
    index = orders.reshape((epochs * num_minibatches, -1))
    return Minibatch(index, (kept @ alive.sum(1))[index].sum(1))
