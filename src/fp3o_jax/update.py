"""The second half of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

The whole family runs through the same ``stage`` below; what differs is the schedule
(:mod:`fp3o_jax.schedules`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from fp3o_jax import losses, optimizer
from fp3o_jax.advantages import TDErrors, normalize_advantages
from fp3o_jax.config import Hyperparams
from fp3o_jax.networks import ActorCritic
from fp3o_jax.schedules import Algorithm, Schedule
from fp3o_jax.sequences import as_sequences, as_steps, joined, num_blocks, sum_over
from fp3o_jax.sharing import active_groups, sample_shares, take

Metrics = dict[str, Array]
#: Means over the samples that a gradient is taken of.
LOSS_METRICS = ("policy_loss", "value_loss", "entropy", "clip_fraction")


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
        actor_hidden: [n, N, H] recurrent state before each sequence.
        critic_hidden: [c, N, H].
        errors: [n, T, B] what the advantages were summed up from, for algorithms that do so anew in each
            stage; else None.
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
    errors: TDErrors | None = None

    def of_agents(self, agents: Array | None) -> Batch:
        """The rows of ``agents`` [P]; all if None."""
        if agents is None:
            return self
        rows = self.replace(starts=None, errors=None)
        # A single row is all agents'.
        rows = jax.tree.map(lambda x: x if x.shape[0] == 1 else x[agents], rows)
        return rows.replace(starts=self.starts)

    def of_sequences(self, pick: Callable[[Array, int], Array]) -> Batch:
        """``pick(array, its axis of sequences)`` of every array; without ``errors``."""
        axes = Batch(
            **dict.fromkeys(("obs", "critic_inputs", "alive", "action", "log_prob"), 2),
            **dict.fromkeys(("advantage", "value", "target"), 2),
            action_mask=None if self.action_mask is None else 2,
            **dict.fromkeys(("starts", "actor_hidden", "critic_hidden"), 1),
            errors=None,
        )
        return jax.tree.map(pick, self.replace(errors=None), axes)


class Shares(NamedTuple):
    """What a sample [P, L, N] contributes to sums over a minibatch.

    Attributes:
        actor: to the actors' loss.
        critic: to the critics' loss.
        mean: to a mean over all samples that count.
    """

    actor: Array
    critic: Array
    mean: Array


class Stage(NamedTuple):
    """One stage of a schedule, as the update runs it.

    Attributes:
        agents: [P] the agent of each row; None for all of them in order.
        kept: [P] 1 where the pipeline runs.
        weights: [P, n] bool, whose ratios weigh on the row.
        clip: [P] factor on the clip range.
    """

    agents: Array | None
    kept: Array
    weights: Array
    clip: Array


def joint(weights: Array, log_ratio: Array) -> Array:
    """log W: the sum of the log-ratios [n, L, N] of each row's ``weights`` [P, n] -> [P, L, N]."""
    return jnp.einsum(
        "pn,nls->pls", weights.astype(log_ratio.dtype), log_ratio, precision=jax.lax.Precision.HIGHEST
    )


def make_update(
    networks: ActorCritic,
    algorithm: Algorithm,
    *,
    epochs: int,
    num_minibatches: int,
    condition: Callable[[Array, Array], Array],
    head_lr_scale: float | None = None,
    transform: optax.GradientTransformation = optimizer.ADAM,
    block_size: int | None = None,
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """The function that turns a batch into new parameters.

    Args:
        networks: the networks.
        algorithm: the member of the family (see ``schedules.ALGORITHMS``).
        epochs: passes over the batch per stage.
        num_minibatches: parts of each pass.
        condition: decides which pipelines of a gated stage run (see ``schedules.CONDITIONS``).
        head_lr_scale: factor on the heads' learning rate; by default what the sharing asks for.
        transform: makes a direction of the clipped gradient; Adam but for tests.
        block_size: samples, of all agents, that a gradient takes at a time; None for all at once. The blocks'
            gradients add up to the same, in less memory.

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

    def blocks(samples: Array) -> tuple[int, int]:
        """How many blocks [P, L, N] samples make, and the sequences in each."""
        count = num_blocks(samples.shape[2], samples.size, block_size)
        return count, samples.shape[2] // count

    def log_ratios(params: Any, batch: Batch, agents: Array | None) -> Array:
        """Of the policies to the behaviour policies, [P, L, N]; block by block."""
        count, size = blocks(batch.log_prob)

        def block(i: Array) -> Array:
            part = batch.of_sequences(lambda x, axis: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis))
            return log_prob(params["actor"], part, agents)[0] - part.log_prob

        return joined(jax.lax.map(block, jnp.arange(count)))

    def objective(
        params: Any, batch: Batch, log_weight: Array, shares: Shares, stage: Stage, hp: Hyperparams
    ) -> tuple[Array, Array]:
        """What these samples add to the loss of all pipelines of a stage, and to `LOSS_METRICS`.

        Each row's parameters meet its own samples alone.
        """
        agents = stage.agents
        log_probs, distribution = log_prob(params["actor"], batch, agents)
        log_ratio = log_probs - batch.log_prob
        if algorithm.live:
            log_weight = joint(stage.weights, jax.lax.stop_gradient(log_ratio))
        clip_eps = hp.clip_eps * stage.clip[:, None, None]
        surrogate = algorithm.surrogate(log_ratio, log_weight, batch.advantage, clip_eps, hp.weight_clip_eps)
        entropy = distribution.entropy()
        value, _ = networks.value(
            params["critic"], batch.critic_inputs, batch.critic_hidden, batch.starts, agents
        )
        value_error = losses.clipped_value_loss(value, batch.value, batch.target, hp.clip_eps, hp.huber_delta)
        policy_loss = -((surrogate + hp.entropy_coef * entropy) * shares.actor).sum()
        value_loss = (value_error * shares.critic).sum()
        clipped = jnp.abs(jnp.exp(log_ratio) - 1.0) > clip_eps
        metrics = [(x * shares.mean).sum() for x in (-surrogate, value_error, entropy, clipped)]
        return policy_loss + hp.value_coef * value_loss, jnp.stack(metrics)

    def gradient(
        params: Any, rows: Batch, log_weight: Array, index: Array | None, stage: Stage, hp: Hyperparams
    ) -> tuple[Any, Metrics]:
        """Of the objective over the sequences ``index``, or over all of them; block by block."""
        agents, kept = stage.agents, stage.kept
        alive = rows.alive if index is None else jnp.take(rows.alive, index, axis=2)
        counted = alive * kept[:, None, None]
        shares = Shares(
            sample_shares(alive, kept, sharing.component, sharing.pooled, agents),
            sample_shares(alive, kept, sharing.critic.component, sharing.pooled, agents),
            counted / jnp.maximum(counted.sum(), 1.0),
        )
        count, size = blocks(alive)

        def block(i: Array | int) -> tuple[Any, Array]:
            def cut(x: Array, axis: int) -> Array:
                return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)

            def pick(x: Array, axis: int) -> Array:
                return cut(x, axis) if index is None else jnp.take(x, cut(index, 0), axis=axis)

            own = jax.tree.map(lambda x: cut(x, 2), shares)
            part = rows.of_sequences(pick), pick(log_weight, 2), own
            return jax.grad(objective, has_aux=True)(params, *part, stage, hp)

        zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(len(LOSS_METRICS), alive.dtype)
        grads, metrics = sum_over(block, count, zeros)
        return grads, dict(zip(LOSS_METRICS, metrics, strict=True))

    def descend(
        params: Any,
        opt_state: Any,
        grads: Any,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array,
    ) -> tuple[Any, Any, Metrics]:
        """One gradient step of every group of parameters that a running pipeline owns."""
        agents, kept = stage.agents, stage.kept
        parts = {
            "actor": (sharing, hp.actor_lr, head_scale(kept.shape[0])),
            "critic": (sharing.critic, hp.critic_lr, 1.0),
        }
        params, opt_state, norms = dict(params), dict(opt_state), {}
        for name, (tied, rate, scale) in parts.items():
            params[name], opt_state[name], norms[f"{name}_grad_norm"] = optimizer.step(
                grads[name],
                opt_state[name],
                params[name],
                sharing=tied,
                learning_rate=rate * lr_fraction,
                head_scale=scale,
                max_grad_norm=hp.max_grad_norm,
                active={p: active_groups(getattr(tied, p), kept, agents) for p in optimizer.PARTS},
                transform=transform,
            )
        return params, opt_state, norms

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
        if algorithm.live and num_pipelines != n:
            raise ValueError("live weights need stages that own every agent")

        def run_stage(carry: tuple[Any, Any, Array], inputs: tuple[Schedule, Array]):
            params, opt_state, log_rho = carry
            (owners, weights, gated, scale, clip), key = inputs
            if num_pipelines == n:
                # Every agent is owned: go through them in order, and nothing has to be gathered.
                order, agents = jnp.argsort(owners), None
                weights, scale, clip = weights[order], scale[order], clip[order]
            else:
                agents = owners
            rows = batch.of_agents(agents)

            # W_p = product of rho_q over the agents q in the pipeline's weights, a constant of the stage.
            log_weight = joint(weights, log_rho)
            if algorithm.correction is not None:
                num_envs = batch.errors.decay.shape[1]
                errors = TDErrors(take(batch.errors.delta, agents), batch.errors.decay)
                advantage = algorithm.correction(errors, as_steps(log_weight, num_envs))
                advantage = as_sequences(advantage, rows.alive.shape[1])
                rows = rows.replace(advantage=normalize_advantages(advantage, rows.alive))
            rows = rows.replace(advantage=rows.advantage * scale[:, None, None])
            plain = jnp.exp(take(log_rho, agents)) * rows.alive * rows.advantage
            sums = (plain * jnp.exp(log_weight)).sum((1, 2)), plain.sum((1, 2))
            kept = jnp.where(gated, condition(*sums), True).astype(plain.dtype)
            stage = Stage(agents, kept, weights, clip)

            def minibatch(carry: tuple[Any, Any], index: Array | None):
                params, opt_state = carry
                grads, metrics = gradient(params, rows, log_weight, index, stage, hp)
                params, opt_state, norms = descend(params, opt_state, grads, stage, hp, lr_fraction)
                return (params, opt_state), metrics | norms

            indices = None
            if num_minibatches > 1:
                indices = jax.vmap(lambda k: jax.random.permutation(k, num_sequences))(
                    jax.random.split(key, epochs)
                ).reshape((epochs * num_minibatches, -1))
            (params, opt_state), metrics = jax.lax.scan(
                minibatch, (params, opt_state), indices, length=epochs * num_minibatches
            )

            # The stage ends by recording the new ratios of the agents that it owned.
            log_ratio = log_ratios(params, rows, agents)
            log_rho = log_ratio if agents is None else log_rho.at[agents].set(log_ratio)
            held = kept if agents is None else jnp.ones(n, kept.dtype).at[agents].set(kept)
            return (params, opt_state, log_rho), (metrics, kept, held, jnp.stack(sums).sum(1))

        keys = jax.random.split(key, schedule.gated.shape[0])
        carry = (params, opt_state, jnp.zeros_like(batch.log_prob))
        (params, opt_state, log_rho), (metrics, kept, held, sums) = jax.lax.scan(
            run_stage, carry, (schedule, keys)
        )
        if num_pipelines < n:
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = log_ratios(params, batch, None)
        # A stage that was skipped has nothing to report.
        ran = jnp.broadcast_to(kept.max(1, keepdims=True), metrics["entropy"].shape)
        metrics = {name: losses.masked_mean(value, ran) for name, value in metrics.items()}
        # Of the gated stages alone; without any, the condition counts as held.
        gates = schedule.gated.astype(kept.dtype)
        agents_held = jnp.where(gates.any(), gates @ held / jnp.maximum(gates.sum(), 1.0), 1.0)
        metrics |= {
            "condition_held": agents_held.mean(),
            "agent_condition_held": agents_held,
            "condition_sums": gates @ sums,
        }
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
