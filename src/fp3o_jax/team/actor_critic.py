"""The policies and value functions of all agents, evaluated at once, whoever shares what."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fp3o_jax.envs.base import Observation, of_living
from fp3o_jax.kernels.dense import as_features
from fp3o_jax.team.distributions import Distribution, choose
from fp3o_jax.team.groups import apply_grouped, apply_shared, take
from fp3o_jax.team.inputs import (
    Statistics,
    measure,
    merge,
    normalize,
    nothing_seen,
    of_all_shards,
    prefix_masks,
    standardize,
)
from fp3o_jax.team.modules import CategoricalHead, GaussianHead, ValueHead
from fp3o_jax.team.sharing import Sharing
from fp3o_jax.team.trunks import Trunks, both, check_protocol, state_size


class Acted(NamedTuple):
    """What n agents did in B environments.

    Attributes:
        obs: [n, B, O] what the networks took for it: standardised, zeros for the dead.
        action: int [n, B], or [n, B, A].
        log_prob: [n, B].
        hidden: [n, B, H] the policies' states after it; None if they have none.
    """

    obs: Array
    action: Array
    log_prob: Array
    hidden: Array | None


class ActorCritic:
    """Policies and value functions of n agents under one sharing.

    Parameters are ``{"actor": {"trunk", "head"}, "critic": {"trunk", "head"}}``, each leaf with a leading
    axis of groups (see :mod:`fp3o_jax.team.sharing`); under ``normalize_obs="running"`` each has a
    "normalizer" as well, which no gradient moves (:mod:`fp3o_jax.team.inputs`). Methods take ``agents``: the
    int index [P] of the agents that the rows of the inputs belong to, or None for all of them in order.

    Args:
        sharing: the partition.
        obs_sizes: [n] observation features of each agent.
        critic_sizes: [n] features of what each agent's critic sees.
        action_sizes: [n] number of actions, or of action dimensions.
        discrete: kind of action.
        trunk: what stands between inputs and heads (:class:`fp3o_jax.team.trunks.TrunkModule`), one module
            for actors and critics or a pair.
        agent_id: tell agents that share weights apart by a one-hot id.
        one_critic: agents that share a critic share its values as well: it sees the same for all of them, and
            no id.
        normalize_obs: what becomes of observations and of what critics see: layer, running or none.

    Attributes:
        num_critics: rows of values: 1 where all agents share them, else n.
        trunks: of actors and critics.
        state_size: H, features of the policies' recurrent states; 0 if they have none.
    """

    def __init__(
        self,
        *,
        sharing: Sharing,
        obs_sizes: tuple[int, ...],
        critic_sizes: tuple[int, ...],
        action_sizes: tuple[int, ...],
        discrete: bool,
        trunk: Trunks,
        agent_id: bool,
        one_critic: bool = False,
        normalize_obs: str = "layer",
    ):
        self.sharing = sharing
        self.normalize_obs = normalize_obs
        self.num_agents = sharing.num_agents
        self.trunks = both(trunk)
        self.state_size, self._critic_state_size = map(state_size, self.trunks)
        self.max_actions = max(action_sizes)
        self.discrete = discrete
        policy_head = CategoricalHead if discrete else GaussianHead
        self._heads = policy_head(self.max_actions), ValueHead()
        critics = len(set(sharing.critic_groups))
        self.num_critics = 1 if one_critic and critics == 1 else self.num_agents
        ids = np.eye(self.num_agents, dtype=np.float32)
        self._ids = ids if agent_id and len(set(sharing.trunk)) < self.num_agents else None
        self._critic_ids = ids if agent_id and critics < self.num_agents and not one_critic else None
        self._obs_mask = prefix_masks(obs_sizes)
        self._critic_mask = prefix_masks(critic_sizes)
        self._action_mask = prefix_masks(action_sizes)

    def init(self, key: Array) -> dict[str, Any]:
        """Fresh parameters: orthogonal weights, zero biases, and statistics that have seen nothing."""
        keys = iter(jax.random.split(key, 4))

        def init(
            part: int, mask: np.ndarray, ids: np.ndarray | None, groups: Any, *head_inputs: Array
        ) -> Any:
            trunk, head = self.trunks[part], self._heads[part]
            of_trunks, of_heads = (jax.random.split(next(keys), max(group) + 1) for group in groups)
            x, hidden = jnp.zeros((1, 1, mask.shape[-1])), _zeros(state_size(trunk), 1)
            inputs = x, mask[0], None if ids is None else ids[0], hidden, jnp.zeros((1, 1), bool)
            (features, _), trunks = jax.vmap(lambda k: trunk.init_with_output(k, *inputs))(of_trunks)
            features = jax.tree.map(lambda x: x[0], as_features(features))
            heads = jax.vmap(lambda k: head.init(k, features, *head_inputs))(of_heads)
            return {"trunk": trunks["params"], "head": heads["params"]}

        groups = self.sharing.trunk, self.sharing.head
        critic_groups = (self.sharing.critic_groups,) * 2
        weights = {
            "actor": init(0, self._obs_mask, self._ids, groups, jnp.ones(self.max_actions)),
            "critic": init(1, self._critic_mask, self._critic_ids, critic_groups),
        }
        blank = self.nothing_seen()
        return weights | {name: weights[name] | {"normalizer": new} for name, new in blank.items()}

    def check(self, recurrent: bool) -> None:
        """Whether the trunks keep to their protocol; nothing is compiled.

        Raises:
            ConfigError: one does not, or has a state where ``recurrent`` says that there is none, or none.
        """
        shown = (self._obs_mask, self._ids), (self._critic_mask, self._critic_ids)
        for trunk, (masks, ids) in zip(self.trunks, shown, strict=True):
            check_protocol(trunk, masks.shape[-1], None if ids is None else ids.shape[-1], recurrent)

    def subteam(self, agents: Array) -> ActorCritic:
        """The networks of ``agents`` [P], of which no two share weights, as of a team of P that shares none.

        Their parameters are what :func:`fp3o_jax.team.groups.agent_params` takes from those of all.
        """
        team = copy.copy(self)
        each = tuple(range(agents.shape[0]))
        team.sharing, team.num_agents, team.num_critics = Sharing(each, each), len(each), len(each)
        team._ids, team._critic_ids = take((self._ids, self._critic_ids), agents)
        team._obs_mask, team._critic_mask, team._action_mask = (
            _rows(mask, agents) for mask in (self._obs_mask, self._critic_mask, self._action_mask)
        )
        return team

    def standardize_obs(self, params: dict[str, Any] | None, obs: Array) -> Array:
        """Observations [n, ..., O] as :meth:`policy` takes them. Free of weights, so once is enough.

        Args:
            params: ``params["actor"]``, of which the statistics are read, if there are any.
            obs: as the environment gives them, padded with anything.
        """
        return self._standardize(params, obs, self._obs_mask, self.sharing)

    def standardize_critic_inputs(self, params: dict[str, Any] | None, x: Array) -> Array:
        """What critics see, [n, ..., S] or [1, ..., S], as :meth:`value` takes it; ``params["critic"]``."""
        return self._standardize(params, x, self._critic_mask, self.sharing.critic)

    def _standardize(
        self, params: dict[str, Any] | None, x: Array, masks: np.ndarray, sharing: Sharing
    ) -> Array:
        def beside(rows: Array | np.ndarray) -> Array | np.ndarray:
            return rows.reshape((-1, *[1] * (x.ndim - 2), x.shape[-1]))

        if self.normalize_obs == "layer":
            return standardize(x, beside(masks))
        if self.normalize_obs == "none":
            return jnp.where(beside(masks) > 0, x, 0.0)
        groups = np.array(sharing.trunk[: len(x)])
        statistics = jax.tree.map(lambda leaf: beside(leaf[groups]), params["normalizer"])
        return normalize(x, statistics, beside(masks))

    def nothing_seen(self) -> dict[str, Statistics]:
        """Statistics of what actors and critics see, of no sample yet; empty but for "running"."""
        if self.normalize_obs != "running":
            return {}
        shown = {"actor": (self.sharing, self._obs_mask), "critic": (self.sharing.critic, self._critic_mask)}
        return {
            name: nothing_seen(max(sharing.trunk) + 1, masks.shape[-1])
            for name, (sharing, masks) in shown.items()
        }

    def see(
        self, seen: dict[str, Statistics], obs: Array, critic_inputs: Array, alive: Array
    ) -> dict[str, Statistics]:
        """``seen`` and one more step of B environments, whose samples count while their agent lives.

        A global state is nobody's own: it counts once while anyone lives, for all critics alike, whose
        statistics stay the same. So it is normalised, and stored, once for all of them.

        Args:
            seen: what :meth:`nothing_seen` or a step before gave.
            obs: [n, B, O] as the environment gives them.
            critic_inputs: [n, B, S] or [1, B, S], likewise.
            alive: [n, B] bool.
        """
        shown = {
            "actor": (obs, self._obs_mask, self.sharing),
            "critic": (critic_inputs, self._critic_mask, self.sharing.critic),
        }

        def step(x: Array, masks: np.ndarray, sharing: Sharing) -> Statistics:
            living = alive if len(x) == self.num_agents else alive.any(0, keepdims=True)
            return measure(x, living[..., None] & (masks[:, None] > 0), sharing.trunk[: len(x)])

        return {name: merge(before, step(*shown[name])) for name, before in seen.items()}

    def with_seen(self, params: dict[str, Any], seen: dict[str, Statistics]) -> dict[str, Any]:
        """``params`` whose statistics count what was ``seen`` as well."""
        return {
            name: part | {"normalizer": merge(part["normalizer"], of_all_shards(seen[name]))}
            if name in seen
            else part
            for name, part in params.items()
        }

    def initial_hidden(self, num_envs: int) -> Array | None:
        """Zero states [n, B, H] of the actors; None if feed-forward."""
        return _zeros(self.state_size, self.num_agents, num_envs)

    def initial_critic_hidden(self, num_envs: int) -> Array | None:
        """Zero states [c, B, H] of the critics, c = ``num_critics``; None if feed-forward."""
        return _zeros(self._critic_state_size, self.num_critics, num_envs)

    def no_action(self, num_envs: int) -> Array:
        """Zeros of the shape and type of all agents' actions: int [n, B] or float [n, B, A]."""
        shape = (self.num_agents, num_envs)
        return jnp.zeros(shape, int) if self.discrete else jnp.zeros((*shape, self.max_actions))

    def act(
        self,
        params: dict[str, Any],
        seen: Observation,
        hidden: Array | None,
        key: Array | None,
        starts: Array | None = None,
        greedy: Array | None = None,
    ) -> Acted:
        """One action of each agent, in B environments side by side.

        Args:
            params: ``params["actor"]``.
            seen: as the environment gives it, agents first; the global state is not looked at.
            hidden: [n, B, H] states; None if feed-forward.
            key: PRNG key to sample with; None for the most probable actions.
            starts: [B] bool, an episode begins here; None where ``hidden`` is of this episode everywhere.
            greedy: [] bool, not to sample after all, for a program that can do both.
        """
        obs = of_living(self.standardize_obs(params, seen.obs), seen.alive)
        mask = None if seen.action_mask is None else seen.action_mask[:, None]
        starts = jnp.zeros(obs.shape[1], bool) if starts is None else starts
        distribution, states = self.policy(params, obs[:, None], mask, hidden, starts[None])
        action = choose(distribution, key, greedy)
        hidden = None if states is None else states[:, 0]
        return Acted(obs, action[:, 0], distribution.log_prob(action)[:, 0], hidden)

    def policy(
        self,
        params: dict[str, Any],
        obs: Array,
        action_mask: Array | None,
        hidden: Array | None,
        starts: Array,
        agents: Array | None = None,
    ) -> tuple[Distribution, Array | None]:
        """Action distributions of P agents.

        Args:
            params: ``params["actor"]``.
            obs: [P, L, N, O], padded and standardised (:meth:`standardize_obs`).
            action_mask: [P, L, N, A] bool, available actions, or None if all always are.
            hidden: [P, N, H] states before the first step; None if feed-forward.
            starts: [L, N] bool.
            agents: [P] or None.

        Returns:
            The distribution, leading axes [P, L, N], and the states [P, L, N, H] after each step, or None.
        """
        masks = _rows(self._action_mask, agents)
        available = jnp.broadcast_to(masks[:, None, None, :] > 0, (obs.shape[0], 1, 1, masks.shape[-1]))
        if action_mask is not None:
            available = available & action_mask
        return self._apply(
            params,
            (self.trunks[0], self._heads[0]),
            self.sharing,
            obs.shape[0],
            obs,
            self._obs_mask,
            self._ids,
            hidden,
            starts,
            agents,
            available,
        )

    def value(
        self,
        params: dict[str, Any],
        inputs: Array,
        hidden: Array | None,
        starts: Array,
        agents: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """State values of P agents, in the units of the critic (normalised).

        Args:
            params: ``params["critic"]``.
            inputs: [P, L, N, S] what each agent's critic sees, or [1, L, N, S] if all see the same;
                standardised (:meth:`standardize_critic_inputs`).
            hidden: [P, N, H] states before the first step, or [1, N, H] where all agents share values; None
                if feed-forward.
            starts: [L, N] bool.
            agents: [P] or None.

        Returns:
            Values [P, L, N] and states [P, L, N, H] after each step, or None; one row where all agents share
            values.
        """
        rows = self.num_agents if agents is None else agents.shape[0]
        return self._apply(
            params,
            (self.trunks[1], self._heads[1]),
            self.sharing.critic,
            1 if self.num_critics == 1 else rows,
            inputs,
            self._critic_mask,
            self._critic_ids,
            hidden,
            starts,
            agents,
        )

    def _apply(
        self,
        params: dict[str, Any],
        modules: tuple[nn.Module, nn.Module],
        sharing: Sharing,
        rows: int,
        x: Array,
        mask: np.ndarray,
        ids: np.ndarray | None,
        hidden: Array | None,
        starts: Array,
        agents: Array | None,
        *head_inputs: Array,
    ) -> tuple[Any, Array | None]:
        """Trunk and head of each agent, in ``rows`` rows."""
        chex.assert_rank([x, starts], [4, 2])
        trunk, head = modules

        def network(trunk_params: Any, head_params: Any, *inputs: Any) -> tuple[Any, Array | None]:
            features, states = trunk.apply({"params": trunk_params}, *inputs[:5])
            return head.apply({"params": head_params}, as_features(features), *inputs[5:]), states

        one_view = x.shape[0] == 1
        mask = _rows(mask, agents)
        ids = jax.tree.map(lambda x: x[:rows], take(ids, agents))
        if hidden is not None and len(set(sharing.trunk + sharing.head)) == 1 and x.shape[0] == rows:
            merged = jax.tree.map(lambda leaf: leaf[0], (params["trunk"], params["head"]))
            return apply_shared(network, merged, x, mask, ids, hidden, starts, *head_inputs)
        return apply_grouped(
            network,
            (params["trunk"], params["head"]),
            (sharing.trunk, sharing.head),
            agents,
            x[0] if one_view else x,
            mask[0] if len(mask) == 1 else mask,
            ids,
            hidden,
            starts,
            *head_inputs,
            in_axes=(None if one_view else 0, None if len(mask) == 1 else 0, 0, 0, None)
            + (0,) * len(head_inputs),
            rows=rows,
        )


def _zeros(size: int, *shape: int) -> Array | None:
    """States of ``size`` features in which an episode begins; None if there are none."""
    return jnp.zeros((*shape, size)) if size else None


def _rows(masks: Array | np.ndarray, agents: Array | None) -> Array | np.ndarray:
    """The masks of ``agents`` [P], or the one that is all agents'."""
    return masks if len(masks) == 1 else take(masks, agents)
