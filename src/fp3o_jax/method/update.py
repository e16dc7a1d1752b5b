"""The second half of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

The whole family runs through ``run_stage`` in :func:`make_update`; what differs is the schedule
(:mod:`fp3o_jax.method.schedules`). Critics learn nothing from the policies' steps and are fitted behind
them. The gradient steps of both are those of :mod:`fp3o_jax.method.optimise`, on the losses of
:func:`actors_of` and :func:`critics_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from fp3o_jax.config import Hyperparams
from fp3o_jax.kernels.blocks import make_blocks
from fp3o_jax.method import losses
from fp3o_jax.method.advantages import TDErrors, gae, normalize_advantages
from fp3o_jax.method.batch import Batch, Stage, draw_minibatches
from fp3o_jax.method.optimise import Metrics, Part, Shares, make_optimise, make_optimise_apart
from fp3o_jax.method.schedules import Algorithm, Schedule
from fp3o_jax.method.sequences import as_sequences, as_steps
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.distributions import Distribution
from fp3o_jax.team.sharing import take


def joint(weights: Array, log_ratio: Array) -> Array:
    """log W: the sum of the log-ratios [n, L, N] of each row's ``weights`` [P, n] -> [P, L, N]."""
    return jnp.einsum(
        "pn,nls->pls", weights.astype(log_ratio.dtype), log_ratio, precision=jax.lax.Precision.HIGHEST
    )


def log_ratios(
    networks: ActorCritic,
    params: Any,
    batch: Batch,
    agents: Array | None,
    block_size: int | None,
    dead_ratios: bool,
) -> Array:
    """Of the policies, ``params["actor"]``, to the behaviour policies, [P, L, N]; block by block."""
    blocks = make_blocks(batch.log_prob.shape, block_size)

    def block(i: Array) -> Array:
        part = batch.of_block(partial(blocks.cut, i))
        return _log_ratio(networks, params, part, blocks.indices(i, agents), dead_ratios)[0]

    return blocks.joined(jax.lax.map(block, jnp.arange(blocks.count)))


def ratios_of_stage(
    ratios: Callable[..., Array], before: Any, after: Any, rows: Batch, agents: Array | None, num_envs: int
) -> Array:
    """Log-ratios of the policies after a stage to those before it, [P, L, N], as HARL has them.

    Recurrent states are carried through the whole rollout, from its first on.
    """
    whole = rows.as_rollout(num_envs)
    difference = ratios(after, whole, agents) - ratios(before, whole, agents)
    return as_sequences(difference, rows.alive.shape[1])


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


def actors_of(networks: ActorCritic, algorithm: Algorithm, dead_ratios: bool) -> Part:
    """The policies, and the loss of a stage's pipelines. Each row's parameters meet its own samples alone."""

    def loss(params: Any, part: Batch, shares: Shares, stage: Stage, hp: Hyperparams) -> tuple[Array, Array]:
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

    return Part(
        "actor",
        networks.sharing,
        loss,
        ("policy_loss", "entropy", "clip_fraction"),
        old="log_prob",
        # Agents whose weights are the others' ratios of the moment stay together.
        together=algorithm.live,
        apart=lambda agents: actors_of(networks.apart(agents), algorithm, dead_ratios),
    )


def critics_of(networks: ActorCritic) -> Part:
    """The value functions and their loss."""

    def loss(params: Any, part: Batch, shares: Shares, stage: Stage, hp: Hyperparams) -> tuple[Array, Array]:
        value, _ = networks.value(params, part.critic_inputs, part.critic_hidden, part.starts, stage.agents)
        error = losses.clipped_value_loss(value, part.value, part.target, hp.clip_eps, hp.huber_delta)
        return hp.value_coef * (error * shares.loss).sum(), (error * shares.mean).sum()[None]

    return Part(
        "critic",
        networks.sharing.critic,
        loss,
        ("value_loss",),
        old="value",
        together=False,
        apart=lambda agents: critics_of(networks.apart(agents)),
    )


def make_update(
    networks: ActorCritic,
    algorithm: Algorithm,
    *,
    epochs: int,
    num_minibatches: int,
    condition: Callable[[Array, Array], Array],
    critic_epochs: int | None = None,
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
        critic_epochs: passes over the batch per fit of critics; ``epochs`` by default.
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
    make = partial(make_optimise, head_lr_scale=head_lr_scale, transform=transform, block_size=block_size)

    actors, critics = actors_of(networks, algorithm, dead_ratios), critics_of(networks)
    ratios = partial(log_ratios, networks, block_size=block_size, dead_ratios=dead_ratios)

    def optimiser(part: Part, num_rows: int) -> Callable[..., Any]:
        if (num_rows == 1 or part.sharing.apart) and not part.together:
            return make_optimise_apart(part, make, block_size)
        return make(part)

    def update(
        params: Any,
        opt_state: Any,
        batch: Batch,
        schedule: Schedule,
        key: Array,
        hp: Hyperparams,
        lr_fraction: Array | float = 1.0,
    ) -> tuple[Any, Any, Metrics]:
        n = batch.log_prob.shape[0]
        num_pipelines = schedule.owners.shape[1]
        chex.assert_shape(schedule.weights, (None, num_pipelines, n))
        if algorithm.live and num_pipelines != n:
            raise ValueError("live weights need stages that own every agent")
        if not dead_ratios:
            batch = batch.of_the_living()
        optimise_actors = optimiser(actors, num_pipelines)

        def run_stage(carry: tuple[Any, Any, Array, Array | None], inputs: tuple[Schedule, Array]):
            params, opt_state, log_rho, corrected = carry
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
                corrected, advantage = correct(algorithm, corrected, batch, agents, weights, log_weight, hp)
                rows = rows.replace(advantage=advantage)
            rows = rows.replace(advantage=rows.advantage * scale[:, None, None], log_weight=log_weight)
            plain = jnp.exp(take(log_rho, agents)) * rows.alive * rows.advantage
            sums = (plain * jnp.exp(log_weight)).sum((1, 2)), plain.sum((1, 2))
            kept = jnp.where(gated, condition(*sums), True).astype(plain.dtype)
            stage = Stage(agents, kept, weights, clip)

            minibatches = draw_minibatches(key, rows.alive, kept, epochs, num_minibatches)
            before = params
            params, opt_state, metrics = optimise_actors(
                params, opt_state, rows, minibatches, stage, hp, lr_fraction
            )
            # The stage ends by recording the new ratios of the agents that it owned.
            if algorithm.ratios == "stage":
                num_envs = batch.errors.decay.shape[1]
                log_ratio = ratios_of_stage(ratios, before, params, rows, agents, num_envs)
            else:
                log_ratio = ratios(params, rows, agents)
            log_rho = log_ratio if agents is None else log_rho.at[agents].set(log_ratio)
            held = kept if agents is None else jnp.ones(n, kept.dtype).at[agents].set(kept)
            return (params, opt_state, log_rho, corrected), (metrics, kept, held, jnp.stack(sums).sum(1))

        def fit_critics(carry: tuple[Any, Any], inputs: tuple[Array, Array, Array]):
            params, opt_state = carry
            owners, kept, key = inputs
            agents = owners if owners.shape[0] < n else None
            rows = batch.replace(alive=batch.alive if batch.valued is None else batch.valued)
            rows = rows.of_agents(agents)
            minibatches = draw_minibatches(key, rows.alive, kept, critic_epochs or epochs, num_minibatches)
            params, opt_state, metrics = optimiser(critics, owners.shape[0])(
                params, opt_state, rows, minibatches, Stage(agents, kept), hp, lr_fraction
            )
            return (params, opt_state), metrics

        keys = jax.random.split(key, schedule.gated.shape[0])
        params, opt_state = dict(params), dict(opt_state)
        corrected = None
        if algorithm.correction is not None:
            corrected = as_sequences(gae(batch.errors), batch.alive.shape[1])
        carry = (params["actor"], opt_state["actor"], jnp.zeros_like(batch.log_prob), corrected)
        carry, (metrics, kept, held, sums) = jax.lax.scan(run_stage, carry, (schedule, keys))
        params["actor"], opt_state["actor"], log_rho, _ = carry
        fits = (schedule.owners, kept, keys)
        if algorithm.critics_once:
            fits = (jnp.arange(n)[None], jnp.ones((1, n), kept.dtype), keys[:1])
        carry, critic_metrics = jax.lax.scan(fit_critics, (params["critic"], opt_state["critic"]), fits)
        params["critic"], opt_state["critic"] = carry

        if (num_pipelines < n and not sharing.apart) or algorithm.ratios != "behaviour":
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = ratios(params["actor"], batch, None)
        metrics = means("actor", metrics) | means("critic", critic_metrics)
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


def correct(
    algorithm: Algorithm,
    corrected: Array,
    batch: Batch,
    agents: Array | None,
    weights: Array,
    log_weight: Array,
    hp: Hyperparams,
) -> tuple[Array, Array]:
    """A stage's advantages: those of its agents [P] anew under the policies of the agents before.

    Returns:
        The advantages [n, L, N] of all agents, each as in its latest stage, and the normalised ones [P, L, N]
        of the stage's.
    """
    errors = TDErrors(take(batch.errors.delta, agents), batch.errors.decay)
    anew = algorithm.correction(errors, as_steps(log_weight, errors.decay.shape[1]), hp.gae_lambda)
    anew = as_sequences(anew, batch.alive.shape[1])
    # Agents with nobody before them keep those of GAE.
    anew = jnp.where(weights.any(1)[:, None, None], anew, take(corrected, agents))
    corrected = anew if agents is None else corrected.at[agents].set(anew)
    normalized = normalize_advantages(corrected, batch.alive, algorithm.normalization)
    return corrected, take(jnp.where(batch.alive > 0, normalized, 0.0), agents)


def means(part: str, metrics: Metrics) -> Metrics:
    """Of metrics [S, steps], over the steps that some component took: the others have nothing to report."""
    metrics = dict(metrics)
    components = metrics.pop("components")
    norms = metrics.pop("grad_norm") / jnp.maximum(components, 1.0)
    ran = (components > 0).astype(norms.dtype)
    return {
        name: losses.masked_mean(value, ran)
        for name, value in {f"{part}_grad_norm": norms, **metrics}.items()
    }


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
