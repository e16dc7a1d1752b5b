"""The second half of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

FP3O, HAPPO, MAPPO and IPPO run through the same ``stage`` below; what differs is the schedule
(:mod:`fp3o_jax.schedules`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from fp3o_jax import losses, optimizer
from fp3o_jax.config import Hyperparams
from fp3o_jax.networks import ActorCritic
from fp3o_jax.schedules import Schedule
from fp3o_jax.sharing import active_groups, reduce_loss, take

Metrics = dict[str, Array]


@struct.dataclass
class Batch:
    """What the update learns from: N sequences of L steps for each of n agents (L = 1 if feed-forward).

    Attributes:
        obs: [n, L, N, O].
        critic_inputs: [v, L, N, S], v = 1 or n.
        action_mask: [n, L, N, A] bool, or None.
        alive: [n, L, N] float, 1 where the sample counts.
        starts: [L, N] bool, an episode begins with this step.
        action: [n, L, N] int or [n, L, N, A].
        log_prob: [n, L, N] log-probability of the action under the behaviour policy.
        advantage: [n, L, N] normalised advantage.
        value: [n, L, N] old value, in the critic's units.
        target: [n, L, N] value target, in the critic's units.
        actor_hidden: [n, N, H] recurrent state before each sequence.
        critic_hidden: [n, N, H].
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
    actor_hidden: Array
    critic_hidden: Array

    def of_agents(self, agents: Array | None) -> Batch:
        """The rows of ``agents`` [P]; all if None."""
        if agents is None:
            return self
        shared = {"starts": self.starts}
        if self.critic_inputs.shape[0] == 1:
            shared["critic_inputs"] = self.critic_inputs
        rows = take(self.replace(**dict.fromkeys(shared)), agents)
        return rows.replace(**shared)

    def sequences(self, index: Array) -> Batch:
        """The minibatch of the sequences ``index``."""
        axes = Batch(
            **dict.fromkeys(("obs", "critic_inputs", "alive", "action", "log_prob"), 2),
            **dict.fromkeys(("advantage", "value", "target"), 2),
            action_mask=None if self.action_mask is None else 2,
            **dict.fromkeys(("starts", "actor_hidden", "critic_hidden"), 1),
        )
        return jax.tree.map(lambda x, axis: jnp.take(x, index, axis=axis), self, axes)


def as_sequences(x: Array, length: int) -> Array:
    """Cuts the time axis into chunks: [n, T, B, ...] -> [n, L, N, ...] with N = T / L * B."""
    n, steps, num_envs = x.shape[:3]
    chunks = x.reshape((n, steps // length, length, num_envs, *x.shape[3:])).swapaxes(1, 2)
    return chunks.reshape((n, length, steps // length * num_envs, *x.shape[3:]))


def chunk_starts(hidden: Array, length: int) -> Array:
    """The recurrent states before each sequence: [n, T, B, H] before each step -> [n, N, H]."""
    return as_sequences(hidden, length)[:, 0]


def make_update(
    networks: ActorCritic,
    *,
    epochs: int,
    num_minibatches: int,
    condition: Callable[[Array, Array], Array],
    head_lr_scale: float | None = None,
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """The function that turns a batch into new parameters.

    Args:
        networks: the networks.
        epochs: passes over the batch per stage.
        num_minibatches: parts of each pass.
        condition: decides which pipelines of a gated stage run (see ``schedules.CONDITIONS``).
        head_lr_scale: factor on the heads' learning rate; by default what the sharing asks for.

    Returns:
        ``update(params, opt_state, batch, schedule, key, hyperparams, lr_fraction) ->
        (params, opt_state, metrics)``.
    """
    sharing = networks.sharing

    def log_prob(params: Any, batch: Batch, agents: Array | None) -> tuple[Array, Any]:
        distribution, _ = networks.policy(
            params, batch.obs, batch.action_mask, batch.actor_hidden, batch.starts, agents
        )
        return distribution.log_prob(batch.action), distribution

    def objective(
        params: Any, batch: Batch, agents: Array | None, kept: Array, hp: Hyperparams
    ) -> tuple[Array, Metrics]:
        """The loss of all pipelines of a stage. Each row's parameters meet its own samples alone."""
        log_probs, distribution = log_prob(params["actor"], batch, agents)
        log_ratio = log_probs - batch.log_prob
        surrogate = losses.clipped_surrogate(log_ratio, batch.advantage, hp.clip_eps)
        entropy = distribution.entropy()
        value, _ = networks.value(
            params["critic"], batch.critic_inputs, batch.critic_hidden, batch.starts, agents
        )
        value_error = losses.clipped_value_loss(value, batch.value, batch.target, hp.clip_eps, hp.huber_delta)
        policy_loss = reduce_loss(
            -(surrogate + hp.entropy_coef * entropy),
            batch.alive,
            kept,
            sharing.component,
            sharing.pooled,
            agents,
        )
        value_loss = reduce_loss(
            value_error, batch.alive, kept, sharing.critic.component, sharing.pooled, agents
        )
        counted = batch.alive * kept[:, None, None]
        clipped = (jnp.abs(jnp.exp(log_ratio) - 1.0) > hp.clip_eps).astype(counted.dtype)
        metrics = {
            "policy_loss": -losses.masked_mean(surrogate, counted),
            "value_loss": losses.masked_mean(value_error, counted),
            "entropy": losses.masked_mean(entropy, counted),
            "clip_fraction": losses.masked_mean(clipped, counted),
        }
        return policy_loss + hp.value_coef * value_loss, metrics

    def descend(
        params: Any,
        opt_state: Any,
        batch: Batch,
        agents: Array | None,
        kept: Array,
        hp: Hyperparams,
        lr_fraction: Array,
    ) -> tuple[Any, Any, Metrics]:
        """One gradient step of every group of parameters that a running pipeline owns."""
        grads, metrics = jax.grad(objective, has_aux=True)(params, batch, agents, kept, hp)
        parts = {
            "actor": (sharing, hp.actor_lr, head_scale(kept.shape[0])),
            "critic": (sharing.critic, hp.critic_lr, 1.0),
        }
        params, opt_state = dict(params), dict(opt_state)
        for name, (tied, rate, scale) in parts.items():
            params[name], opt_state[name], metrics[f"{name}_grad_norm"] = optimizer.step(
                grads[name],
                opt_state[name],
                params[name],
                sharing=tied,
                learning_rate=rate * lr_fraction,
                head_scale=scale,
                max_grad_norm=hp.max_grad_norm,
                active={p: active_groups(getattr(tied, p), kept, agents) for p in optimizer.PARTS},
            )
        return params, opt_state, metrics

    def head_scale(owned: int) -> Any:
        return sharing.head_lr_scale(owned) if head_lr_scale is None else head_lr_scale

    def update(
        params: Any,
        opt_state: Any,
        batch: Batch,
        schedule: Schedule,
        key: Array,
        hp: Hyperparams,
        lr_fraction: Array | float = 1.0,
    ) -> tuple[Any, Any, Metrics]:
        n, _, num_sequences = batch.log_prob.shape
        num_pipelines = schedule.owners.shape[1]
        chex.assert_shape(schedule.weights, (None, num_pipelines, n))

        def stage(carry: tuple[Any, Any, Array], inputs: tuple[Schedule, Array]):
            params, opt_state, log_rho = carry
            (owners, weights, gated, scale), key = inputs
            if num_pipelines == n:
                # Every agent is owned: go through them in order, and nothing has to be gathered.
                order, agents = jnp.argsort(owners), None
                weights, scale = weights[order], scale[order]
            else:
                agents = owners
            rows = batch.of_agents(agents)

            # W_p = product of rho_q over the agents q in the pipeline's weights, a constant of the stage.
            log_weight = jnp.einsum(
                "pn,nls->pls",
                weights.astype(log_rho.dtype),
                log_rho,
                precision=jax.lax.Precision.HIGHEST,
            )
            advantage = rows.advantage * scale[:, None, None]
            corrected = advantage * jnp.exp(log_weight)
            rho = jnp.exp(take(log_rho, agents)) * rows.alive
            holds = condition((rho * corrected).sum((1, 2)), (rho * advantage).sum((1, 2)))
            kept = jnp.where(gated, holds, True).astype(advantage.dtype)
            rows = rows.replace(advantage=corrected)

            def minibatch(carry: tuple[Any, Any], index: Array):
                part = rows if num_minibatches == 1 else rows.sequences(index)
                params, opt_state, metrics = descend(*carry, part, agents, kept, hp, lr_fraction)
                return (params, opt_state), metrics

            if num_minibatches == 1:
                indices = jnp.zeros((epochs, 0), jnp.int32)
            else:
                indices = jax.vmap(lambda k: jax.random.permutation(k, num_sequences))(
                    jax.random.split(key, epochs)
                ).reshape((epochs * num_minibatches, -1))
            (params, opt_state), metrics = jax.lax.scan(minibatch, (params, opt_state), indices)

            # The stage ends by recording the new ratios of the agents that it owned.
            log_ratio = log_prob(params["actor"], rows, agents)[0] - rows.log_prob
            log_rho = log_ratio if agents is None else log_rho.at[agents].set(log_ratio)
            return (params, opt_state, log_rho), (metrics, kept)

        keys = jax.random.split(key, schedule.gated.shape[0])
        carry = (params, opt_state, jnp.zeros_like(batch.log_prob))
        (params, opt_state, log_rho), (metrics, kept) = jax.lax.scan(stage, carry, (schedule, keys))
        if num_pipelines < n:
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = log_prob(params["actor"], batch, None)[0] - batch.log_prob
        # A stage that was skipped has nothing to report.
        ran = jnp.broadcast_to(kept.max(1, keepdims=True), metrics["entropy"].shape)
        metrics = {name: losses.masked_mean(value, ran) for name, value in metrics.items()}
        gates = jnp.broadcast_to(schedule.gated[:, None], kept.shape)
        metrics["condition_held"] = jnp.where(gates.any(), losses.masked_mean(kept, gates), 1.0)
        metrics |= policy_change(log_rho, batch.alive)
        return params, opt_state, metrics

    return update


def policy_change(log_ratio: Array, alive: Array) -> Metrics:
    """KL(old || new), estimated from the ratios as the mean of ``r - 1 - log r`` (Schulman, 2020).

    The joint policy is a product, so its divergence at a state is the sum of its agents'.

    Args:
        log_ratio: [n, L, N] log-ratio of new to behaviour policy.
        alive: [n, L, N] 1 where the sample counts.

    Returns:
        ``agent_kl`` [n], their mean ``approx_kl``, and ``joint_kl``.
    """
    kl = (jnp.exp(log_ratio) - 1.0 - log_ratio) * alive
    agent_kl = kl.sum((1, 2)) / jnp.maximum(alive.sum((1, 2)), 1.0)
    someone = alive.max(0)
    joint_kl = kl.sum() / jnp.maximum(someone.sum(), 1.0)
    return {"agent_kl": agent_kl, "approx_kl": agent_kl.mean(), "joint_kl": joint_kl}
