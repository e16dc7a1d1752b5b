"""What the update learns from. One rule holds for every array: its axes are [agents, time, sequences, ...],
and an axis of size 1 is the same for all."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from fp3o_jax.kernels.blocks import Blocks
from fp3o_jax.method.sequences import as_steps


@struct.dataclass
class Batch:
    """N sequences of L steps for each of n agents (L = 1 if feed-forward), or for P rows of a stage.

    Attributes:
        obs: [n, L, N, O], standardised, as the networks take it.
        critic_inputs: [v, L, N, S], likewise, v = 1 or n.
        action_mask: [n, L, N, A] bool, or None.
        alive: [n, L, N] float, 1 where the sample counts.
        starts: [1, L, N] bool, an episode begins with this step.
        action: [n, L, N] int or [n, L, N, A].
        log_prob: [n, L, N] log-probability of the action under the behaviour policy.
        advantage: [n, L, N] normalised advantage.
        value: [c, L, N] old value, in the units of the critic; c = 1 where agents share its values, else n.
        target: [c, L, N] value target, in the critic's units.
        actor_hidden: [n, 1, N, H] recurrent state before each sequence; None if feed-forward.
        critic_hidden: [c, 1, N, H], likewise.
        valued: [n, L, N] 1 where the sample counts for critics; None if the same count as for actors.
        agents: [P, 1, 1] int, whose rows these are; None for every agent's, in order.
        log_weight: [P, L, N] log W, of what multiplies the advantages; None outside of stages.
        weights: [P, 1, 1, n] bool, the agents whose ratios W is made of; None outside of stages.
        clip_eps: [P, 1, 1] clip range of the ratios; None outside of stages.
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
    valued: Array | None = None
    agents: Array | None = None
    log_weight: Array | None = None
    weights: Array | None = None
    clip_eps: Array | None = None

    @property
    def actor_view(self) -> tuple[Array | None, ...]:
        """What :meth:`ActorCritic.policy` takes: observations, masks, states, starts, agents."""
        return (self.obs, self.action_mask, *self._sequences(self.actor_hidden))

    @property
    def critic_view(self) -> tuple[Array | None, ...]:
        """What :meth:`ActorCritic.value` takes: inputs, states, starts, agents."""
        return (self.critic_inputs, *self._sequences(self.critic_hidden))

    def _sequences(self, hidden: Array | None) -> tuple[Array | None, ...]:
        return None if hidden is None else hidden[:, 0], self.starts[0], self.row_agents

    @property
    def row_agents(self) -> Array | None:
        """[P] int, whose rows these are; None for every agent's, in order."""
        return None if self.agents is None else self.agents[:, 0, 0]

    def of_rows(self, pick: Callable[[Array], Array]) -> Batch:
        """``pick(array)`` of every array that has a row for each agent."""
        return jax.tree.map(lambda x: x if x.shape[0] == 1 else pick(x), self)

    def of_agents(self, agents: Array | None) -> Batch:
        """The rows of ``agents`` [P]; every agent's, in order, if None."""
        if agents is None:
            return self
        return self.of_rows(lambda x: x[agents]).replace(agents=agents[:, None, None])

    def named(self, blocks: Blocks) -> Batch:
        """The same, whose rows' agents are told where blocks take some rows at a time."""
        if blocks.parts == 1 or self.agents is not None:
            return self
        return self.replace(agents=jnp.arange(self.alive.shape[0])[:, None, None])

    def as_rollout(self, num_envs: int) -> Batch:
        """The same with whole rollouts for sequences."""
        whole = jax.tree.map(lambda x: x if x.shape[1:3] == (1, 1) else as_steps(x, num_envs), self)
        # The first sequences are those that begin the rollout.
        hidden = jax.tree.map(lambda x: x[:, :, :num_envs], (self.actor_hidden, self.critic_hidden))
        return whole.replace(actor_hidden=hidden[0], critic_hidden=hidden[1])

    def of_the_living(self) -> Batch:
        """Zeros in place of what dead agents did: a mask multiplies, and NaN times 0 is NaN.

        What they saw is zeros already, as the rollout records it; another copy would be a second rollout.
        """

        def keep(x: Array, counted: Array) -> Array:
            here = counted > 0
            here = here if x.shape[0] == here.shape[0] else here.any(0, keepdims=True)
            return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 3)), x, jnp.zeros((), x.dtype))

        masks = dict.fromkeys(("action", "log_prob", "advantage"), self.alive)
        masks |= dict.fromkeys(("value", "target"), self.for_critics().alive)
        return self.replace(**{name: keep(getattr(self, name), mask) for name, mask in masks.items()})

    def for_critics(self) -> Batch:
        """The same, its samples alive where they count for critics."""
        return self if self.valued is None else self.replace(alive=self.valued)


def minibatches(key: Array, num_sequences: int, epochs: int, count: int) -> Array | None:
    """[epochs * count, M] the sequences of each gradient step, every epoch shuffled anew.

    None for a single minibatch: all sequences, as they are.
    """
    if count == 1:
        return None
    orders = jax.vmap(lambda k: jax.random.permutation(k, num_sequences))(jax.random.split(key, epochs))
    return orders.reshape((epochs * count, -1))
