"""The second half of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

The whole family runs through ``run_stage`` in :func:`make_update`; what differs is the schedule
(:mod:`fp3o_jax.schedules`). A stage's gradient steps are those of :func:`make_optimise`, whose losses are the
method's; :func:`make_optimise_apart` runs them for a few agents at a time where no two share weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from fp3o_jax.networks import ActorCritic, Distribution
from fp3o_jax.schedules import Algorithm, Schedule
from fp3o_jax.sequences import as_sequences, as_steps, make_blocks, sum_over
from fp3o_jax.sharing import Sharing, active_groups, sample_shares, take, weights_of, with_weights

Metrics = dict[str, Array]
#: Means over the samples that a gradient is taken of, from the actors and from the critics.
ACTOR_METRICS = ("policy_loss", "entropy", "clip_fraction")
CRITIC_METRICS = ("value_loss",)


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
            stage; else None.
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

    def of_block(self, cut: Callable[[Array, int], Array]) -> Batch:
        """``cut(array with rows on axis 0, its axis of sequences)`` of every array; without ``errors``."""
        axes = Batch(
            **dict.fromkeys(("obs", "critic_inputs", "alive", "action", "log_prob"), 2),
            **dict.fromkeys(("advantage", "value", "target"), 2),
            action_mask=None if self.action_mask is None else 2,
            log_weight=None if self.log_weight is None else 2,
            actor_hidden=None if self.actor_hidden is None else 1,
            critic_hidden=None if self.critic_hidden is None else 1,
            starts=None,
        )
        part = jax.tree.map(cut, self.replace(starts=None, errors=None), axes)
        return part.replace(starts=cut(self.starts[None], 2)[0])


class Shares(NamedTuple):
    """What a sample contributes to sums over a minibatch.

    Attributes:
        loss: [P, L, M] to the loss; P = 1 for values that all agents share.
        mean: [P, L, M] to a mean over all samples that count.
    """

    loss: Array
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


class Minibatch(NamedTuple):
    """Part of the samples of a stage.

    Attributes:
        index: [M] its sequences, or None for all of them.
        counted: how many of its samples count, of all rows.
    """

    index: Array | None
    counted: Array


def joint(weights: Array, log_ratio: Array) -> Array:
    """log W: the sum of the log-ratios [n, L, N] of each row's ``weights`` [P, n] -> [P, L, N]."""
    return jnp.einsum(
        "pn,nls->pls", weights.astype(log_ratio.dtype), log_ratio, precision=jax.lax.Precision.HIGHEST
    )


def of_the_living(batch: Batch) -> Batch:
    """Zeros in place of all that dead agents saw and did: a mask of the loss multiplies, and NaN times 0 is
    NaN. What all agents have in common is there as long as one of them lives."""
    alive = batch.alive > 0

    def keep(x: Array) -> Array:
        here = alive if x.shape[0] == alive.shape[0] else alive.any(0, keepdims=True)
        return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 3)), x, jnp.zeros((), x.dtype))

    names = ("obs", "critic_inputs", "action", "log_prob", "advantage", "value", "target")
    return batch.replace(**{name: keep(getattr(batch, name)) for name in names})


def log_ratios(
    networks: ActorCritic,
    params: Any,
    batch: Batch,
    agents: Array | None,
    block_size: int | None,
    dead_ratios: bool,
) -> Array:
    """Of the policies to the behaviour policies, [P, L, N]; block by block."""
    blocks = make_blocks(batch.log_prob.shape, block_size)

    def block(i: Array) -> Array:
        part = batch.of_block(partial(blocks.cut, i))
        return _log_ratio(networks, params["actor"], part, blocks.indices(i, agents), dead_ratios)[0]

    return blocks.joined(jax.lax.map(block, jnp.arange(blocks.count)))


def _log_ratio(
    networks: ActorCritic, params: Any, batch: Batch, agents: Array | None, dead_ratios: bool
) -> tuple[Array, Distribution]:
    """Log-ratios [P, L, N] to the behaviour policies, and the distributions that actions are taken from.

    The ratio of a dead agent is 1: what it would do does not change what the living meet.
    """
    distribution, _ = networks.policy(
        params, batch.obs, batch.action_mask, batch.actor_hidden, batch.starts, agents
    )
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    return log_ratio if dead_ratios else jnp.where(batch.alive > 0, log_ratio, 0.0), distribution


def make_optimise(
    networks: ActorCritic,
    algorithm: Algorithm,
    *,
    head_lr_scale: float | None,
    transform: optax.GradientTransformation,
    block_size: int | None,
    dead_ratios: bool,
) -> Callable[..., tuple[Any, Any, Array, Metrics]]:
    """The function that runs all gradient steps of a stage. Its arguments are those of :func:`make_update`.

    Returns:
        ``optimise(params, opt_state, rows, minibatches, stage, hyperparams, lr_fraction) ->
        (params, opt_state, log_ratio, metrics)``. ``log_ratio`` [P, L, N] is that of the policies after the
        stage to the behaviour policies; ``metrics`` hold, for each minibatch, what the rows add to
        `ACTOR_METRICS`, `CRITIC_METRICS` and the sum of the components' gradient norms.
    """

    def policy_loss(
        params: Any, part: Batch, shares: Shares, stage: Stage, hp: Hyperparams
    ) -> tuple[Array, Array]:
        """What these samples add to the loss of all pipelines of a stage, and to `ACTOR_METRICS`.

        Each row's parameters meet its own samples alone.
        """
        log_ratio, distribution = _log_ratio(networks, params, part, stage.agents, dead_ratios)
        log_weight = part.log_weight
        if algorithm.live:
            log_weight = joint(stage.weights, jax.lax.stop_gradient(log_ratio))
        clip_eps = hp.clip_eps * stage.clip[:, None, None]
        surrogate = algorithm.surrogate(log_ratio, log_weight, part.advantage, clip_eps, hp.weight_clip_eps)
        entropy = distribution.entropy()
        clipped = jnp.abs(jnp.exp(log_ratio) - 1.0) > clip_eps
        loss = -((surrogate + hp.entropy_coef * entropy) * shares.loss).sum()
        return loss, jnp.stack([(x * shares.mean).sum() for x in (-surrogate, entropy, clipped)])

    def value_loss(
        params: Any, part: Batch, shares: Shares, stage: Stage, hp: Hyperparams
    ) -> tuple[Array, Array]:
        """The same of the critics' loss, and of `CRITIC_METRICS`."""
        value, _ = networks.value(params, part.critic_inputs, part.critic_hidden, part.starts, stage.agents)
        error = losses.clipped_value_loss(value, part.value, part.target, hp.clip_eps, hp.huber_delta)
        return hp.value_coef * (error * shares.loss).sum(), (error * shares.mean).sum()[None]

    def gradient(
        params: Any, rows: Batch, minibatch: Minibatch, stage: Stage, hp: Hyperparams
    ) -> tuple[Any, Metrics]:
        """Of the objectives over a minibatch; block by block."""
        agents, kept, index, sharing = stage.agents, stage.kept, minibatch.index, networks.sharing
        alive = rows.alive if index is None else jnp.take(rows.alive, index, axis=2)
        mean = alive * kept[:, None, None] / jnp.maximum(minibatch.counted, 1.0)

        def shares_of(tied: Sharing) -> Shares:
            return Shares(sample_shares(alive, kept, tied.component, sharing.pooled, agents), mean)

        def total(
            objective: Callable[..., tuple[Array, Array]],
            params: Any,
            shares: Shares,
            names: tuple[str, ...],
            whole: bool = False,
        ) -> tuple[Any, Metrics]:
            blocks = make_blocks(shares.loss.shape, block_size, whole)

            def block(i: Array | int) -> tuple[Any, Array]:
                part = rows.of_block(partial(blocks.cut, i, index=index))
                mine = jax.tree.map(lambda x: blocks.cut(i, x, 2), shares)
                own = jax.tree.map(partial(blocks.of_rows, i), stage._replace(agents=None))
                own = own._replace(agents=blocks.indices(i, agents))
                return jax.grad(objective, has_aux=True)(params, part, mine, own, hp)

            zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(len(names), alive.dtype)
            grads, metrics = sum_over(block, blocks.count, zeros)
            return grads, dict(zip(names, metrics, strict=True))

        of_values = shares_of(sharing.critic)
        if rows.value.shape[0] == 1:
            # One value for all agents is computed once, and answers for all of them.
            of_values = jax.tree.map(lambda x: x.sum(0, keepdims=True), of_values)
        # Agents whose weights are the others' ratios of the moment stay together.
        actor, actor_metrics = total(
            policy_loss, params["actor"], shares_of(sharing), ACTOR_METRICS, whole=algorithm.live
        )
        critic, critic_metrics = total(value_loss, params["critic"], of_values, CRITIC_METRICS)
        return {"actor": actor, "critic": critic}, actor_metrics | critic_metrics

    def descend(
        params: Any,
        opt_state: Any,
        grads: Any,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        """One gradient step of every group of parameters that a running pipeline owns."""
        agents, kept, sharing = stage.agents, stage.kept, networks.sharing
        head_scale = sharing.head_lr_scale(kept.shape[0]) if head_lr_scale is None else head_lr_scale
        parts = {
            "actor": (sharing, hp.actor_lr, head_scale),
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

    def optimise(
        params: Any,
        opt_state: Any,
        rows: Batch,
        minibatches: Minibatch,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Array, Metrics]:
        def one(carry: tuple[Any, Any], minibatch: Minibatch):
            params, opt_state = carry
            grads, metrics = gradient(params, rows, minibatch, stage, hp)
            params, opt_state, norms = descend(params, opt_state, grads, stage, hp, lr_fraction)
            return (params, opt_state), metrics | norms

        (params, opt_state), metrics = jax.lax.scan(one, (params, opt_state), minibatches)
        log_ratio = log_ratios(networks, params, rows, stage.agents, block_size, dead_ratios)
        return params, opt_state, log_ratio, metrics

    return optimise


def make_optimise_apart(
    networks: ActorCritic, make: Callable[[ActorCritic], Callable[..., Any]], block_size: int | None
) -> Callable[..., tuple[Any, Any, Array, Metrics]]:
    """As :func:`make_optimise`, for stages in which no two rows use the same weights.

    Nothing that such a row does concerns another one. So a few of them at a time go through the whole stage,
    as many as fill a block: samples and weights stay in the cache, and those of other agents are not touched.

    Args:
        networks: of all agents.
        make: networks of some agents -> their ``optimise``.
        block_size: samples of all rows that are taken at a time; None for all at once.
    """

    def optimise(
        params: Any,
        opt_state: Any,
        rows: Batch,
        minibatches: Minibatch,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Array, Metrics]:
        num_rows, length, sequences = rows.alive.shape
        if minibatches.index is not None:
            sequences = minibatches.index.shape[1]
        blocks = make_blocks((num_rows, length, sequences), block_size)
        agents = jnp.arange(num_rows) if stage.agents is None else stage.agents
        sharing = networks.sharing

        def part(i: Array) -> tuple[Any, Any, Array, Metrics]:
            own = partial(blocks.of_rows, i * blocks.pieces)
            these = own(agents)
            return make(networks.apart(these))(
                weights_of(params, sharing, these),
                weights_of(opt_state, sharing, these),
                rows.of_rows(own),
                minibatches,
                jax.tree.map(own, stage._replace(agents=None)),
                hp,
                lr_fraction,
            )

        results = jax.lax.map(part, jnp.arange(blocks.parts))
        weights, moments, log_ratio = jax.tree.map(lambda x: x.reshape((num_rows, *x.shape[2:])), results[:3])
        return (
            with_weights(params, sharing, agents, weights),
            with_weights(opt_state, sharing, agents, moments),
            log_ratio,
            jax.tree.map(lambda x: x.sum(0), results[3]),
        )

    return optimise


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
    dead_ratios: bool = False,
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
        dead_ratios: the ratios of dead agents weigh on the living, as in the reference, instead of being 1.

    Returns:
        ``update(params, opt_state, batch, schedule, key, hyperparams, lr_fraction) ->
        (params, opt_state, metrics)``.
    """
    sharing = networks.sharing
    make = partial(
        make_optimise,
        algorithm=algorithm,
        head_lr_scale=head_lr_scale,
        transform=transform,
        block_size=block_size,
        dead_ratios=dead_ratios,
    )
    together, apart = make(networks), make_optimise_apart(networks, make, block_size)

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
        if not dead_ratios:
            batch = of_the_living(batch)
        optimise = apart if (num_pipelines == 1 or sharing.apart) and not algorithm.live else together

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
            rows = rows.replace(advantage=rows.advantage * scale[:, None, None], log_weight=log_weight)
            plain = jnp.exp(take(log_rho, agents)) * rows.alive * rows.advantage
            sums = (plain * jnp.exp(log_weight)).sum((1, 2)), plain.sum((1, 2))
            kept = jnp.where(gated, condition(*sums), True).astype(plain.dtype)
            stage = Stage(agents, kept, weights, clip)

            index, counted = None, (rows.alive.sum((1, 2)) @ kept)[None].repeat(epochs)
            if num_minibatches > 1:
                orders = jax.vmap(lambda k: jax.random.permutation(k, num_sequences))(
                    jax.random.split(key, epochs)
                )
                index = orders.reshape((epochs * num_minibatches, -1))
                counted = (kept @ rows.alive.sum(1))[index].sum(1)
            # The stage ends by recording the new ratios of the agents that it owned.
            params, opt_state, log_ratio, metrics = optimise(
                params, opt_state, rows, Minibatch(index, counted), stage, hp, lr_fraction
            )
            for name, tied in (("actor_grad_norm", sharing), ("critic_grad_norm", sharing.critic)):
                running = active_groups(tied.component, kept, agents).sum()
                metrics[name] = metrics[name] / jnp.maximum(running, 1.0)
            log_rho = log_ratio if agents is None else log_rho.at[agents].set(log_ratio)
            held = kept if agents is None else jnp.ones(n, kept.dtype).at[agents].set(kept)
            return (params, opt_state, log_rho), (metrics, kept, held, jnp.stack(sums).sum(1))

        keys = jax.random.split(key, schedule.gated.shape[0])
        carry = (params, opt_state, jnp.zeros_like(batch.log_prob))
        (params, opt_state, log_rho), (metrics, kept, held, sums) = jax.lax.scan(
            run_stage, carry, (schedule, keys)
        )
        if num_pipelines < n and not sharing.apart:
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = log_ratios(networks, params, batch, None, block_size, dead_ratios)
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
    kl = jnp.where(alive > 0, jnp.exp(log_ratio) - 1.0 - log_ratio, 0.0)
    agent_kl = kl.sum((1, 2)) / jnp.maximum(alive.sum((1, 2)), 1.0)
    someone = alive.max(0)
    joint_kl = kl.sum() / jnp.maximum(someone.sum(), 1.0)
    return {"agent_kl": agent_kl, "approx_kl": agent_kl.mean(), "joint_kl": joint_kl}
