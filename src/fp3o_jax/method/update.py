"""The last phase of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

The whole family runs through :meth:`PipelineUpdate.stage`; what differs between its members is the schedule
(:mod:`fp3o_jax.method.schedules`). How gradient steps are taken, by whom together and how many samples at a
time, is the business of :mod:`fp3o_jax.method.descent`. Critics learn nothing from the policies' steps and
are fitted after them, in a scan of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from fp3o_jax.config import Hyperparams
from fp3o_jax.kernels.blocks import make_blocks, map_in_blocks
from fp3o_jax.kernels.shards import own_key, total
from fp3o_jax.method import losses
from fp3o_jax.method.advantages import TDErrors, gae, normalize_advantages
from fp3o_jax.method.batch import Batch, minibatches
from fp3o_jax.method.descent import Descent
from fp3o_jax.method.metrics import Metrics, condition_metrics, means, policy_change, spread
from fp3o_jax.method.schedules import Algorithm, Schedule
from fp3o_jax.method.sequences import as_sequences, as_steps
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.distributions import Distribution
from fp3o_jax.team.groups import put, take


class Given(NamedTuple):
    """What stays the same in all stages of an update."""

    batch: Batch
    errors: TDErrors | None
    hp: Hyperparams
    lr_fraction: Array | float


class Progress(NamedTuple):
    """What one stage hands to the next.

    Attributes:
        params, opt_state: of the actors.
        log_rho: [n, L, N] recorded log-ratio of each agent's new policy to the one that acted, or to the one
            before its latest stage (see ``Algorithm.ratios``).
        advantage: [n, L, N] as the algorithm has corrected them so far, not normalised; None if it does not.
    """

    params: Any
    opt_state: Any
    log_rho: Array
    advantage: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class PipelineUpdate:
    """The function that turns a batch into new parameters.

    Attributes:
        networks: the networks.
        algorithm: the member of the family (see ``schedules.ALGORITHMS``).
        epochs: passes over the batch per stage.
        num_minibatches: parts of each pass.
        condition: decides which pipelines of a gated stage run (see ``schedules.CONDITIONS``).
        critic_epochs: passes over the batch per fit of critics; ``epochs`` by default.
        head_lr_scale: factor on the heads' learning rate; by default what the sharing asks for.
        tx: makes a direction of the clipped gradient; Adam but for tests.
        block_size: samples, of all agents, that a gradient takes at a time; None for all at once. The blocks'
            gradients add up to the same, in less memory.
        dead_ratios: the ratios of dead agents weigh on the living, as in the reference, instead of being 1.
    """

    networks: ActorCritic
    algorithm: Algorithm
    _: dataclasses.KW_ONLY
    epochs: int
    num_minibatches: int
    condition: Callable[[Array, Array], Array]
    critic_epochs: int | None = None
    head_lr_scale: float | None = None
    tx: optax.GradientTransformation = optimizer.ADAM
    block_size: int | None = None
    dead_ratios: bool = False

    def __call__(
        self,
        params: Any,
        opt_state: Any,
        batch: Batch,
        schedule: Schedule,
        key: Array,
        hp: Hyperparams,
        lr_fraction: Array | float = 1.0,
        errors: TDErrors | None = None,
    ) -> tuple[Any, Any, Metrics]:
        """All stages of the schedule, and the critics.

        Args:
            params: ``{"actor", "critic"}``.
            opt_state: likewise.
            batch: what was seen and done.
            schedule: who optimises whom, when.
            key: PRNG key.
            hp: the continuous settings.
            lr_fraction: of the learning rates.
            errors: [n, T, B] what the advantages were summed up from; algorithms that do so anew in each
                stage, or record the ratios of whole rollouts, need it.

        Returns:
            New parameters and optimiser states, and metrics.
        """
        n = batch.alive.shape[0]
        num_pipelines = schedule.owners.shape[1]
        chex.assert_shape(schedule.weights, (None, num_pipelines, n))
        if self.algorithm.live and num_pipelines != n:
            raise ValueError("live weights need stages that own every agent")
        if not self.dead_ratios:
            batch = batch.of_the_living()
        given, schedule = Given(batch, errors, hp, lr_fraction), schedule.in_agent_order()
        keys = jax.random.split(key, schedule.gated.shape[0])

        advantage = None
        if self.algorithm.correction is not None:
            advantage = as_sequences(gae(errors), batch.alive.shape[1])
        start = Progress(params["actor"], opt_state["actor"], jnp.zeros_like(batch.log_prob), advantage)
        end, (metrics, active, sums, spreads) = jax.lax.scan(
            partial(self.stage, given), start, (schedule, keys)
        )
        log_rho = end.log_rho
        if (num_pipelines < n and not self.networks.sharing.independent) or self.algorithm.ratios == "stage":
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = self.log_ratio_in_blocks(end.params, batch)

        fits = (schedule.owners, active, keys)
        if self.algorithm.critics_once:
            fits = (None, jnp.ones((1, n), active.dtype), keys[:1])
        (critic, critic_state), critic_metrics = jax.lax.scan(
            partial(self.fit_critics, given), (params["critic"], opt_state["critic"]), fits
        )
        metrics = means("actor", metrics) | means("critic", critic_metrics)
        metrics |= condition_metrics(schedule, active, sums) | policy_change(log_rho, batch.alive)
        metrics["log_weight_std"] = spreads.max()
        params, opt_state = dict(params), dict(opt_state)
        params |= {"actor": end.params, "critic": critic}
        opt_state |= {"actor": end.opt_state, "critic": critic_state}
        return params, opt_state, metrics

    def stage(self, given: Given, before: Progress, inputs: tuple[Schedule, Array]) -> tuple[Progress, Any]:
        """The pipelines of one stage, side by side: each optimises the policy of the agent it owns.

        Returns the new progress, and of P pipelines metrics, who was active [P], what the condition compared
        [2], and the spread of log W.
        """
        params, opt_state, log_rho, advantage = before
        (owners, weights, gated, scale, clip, learns), key = inputs
        batch, hp = given.batch, given.hp
        rows = batch.of_agents(owners)

        # W_p, the product of rho_q over the agents q that weigh on pipeline p; a constant of the stage, but
        # for algorithms whose weights are live.
        log_weight = joint_log_ratio(weights, log_rho, self.algorithm.weight_bound)
        if self.algorithm.correction is not None:
            rows, advantage = self.corrected(given, rows, advantage, owners, weights, log_weight)
        rows = rows.replace(
            advantage=rows.advantage * scale[:, None, None],
            log_weight=log_weight,
            weights=weights[:, None, None],
            clip_eps=hp.clip_eps * clip[:, None, None],
        )
        # The condition of a gated stage, on rho_p A and rho_p W A.
        plain = jnp.exp(take(log_rho, owners)) * rows.alive * rows.advantage
        sums = total(((plain * jnp.exp(log_weight)).sum((1, 2)), plain.sum((1, 2))))
        active = jnp.where(gated, self.condition(*sums), True).astype(plain.dtype)

        shuffled = minibatches(own_key(key), rows.alive.shape[2], self.epochs, self.num_minibatches)
        learning = active if learns is None else active * learns
        moved, opt_state, metrics = self.actors(
            params, opt_state, rows, learning, shuffled, hp, given.lr_fraction
        )
        # The stage ends by recording the new ratios of the agents that it owned.
        log_rho = put(log_rho, owners, self.recorded(given, params, moved, rows))
        report = (metrics, active, jnp.stack(sums).sum(1), spread(log_weight, rows.alive))
        return Progress(moved, opt_state, log_rho, advantage), report

    def policy_loss(
        self, networks: ActorCritic, params: Any, rows: Batch, hp: Hyperparams
    ) -> tuple[Array, Metrics]:
        """``-min(r W A, clip(r) W A)`` and the entropy's bonus, per sample [P, L, N].

        Each row's parameters meet its own samples alone; ``A``, ``W`` and the clip range are the stage's, but
        for a ``W`` that is live: it moves with the policies, though no gradient goes through it.
        """
        log_ratio, distribution = self.log_ratio(networks, params, rows)
        log_weight = rows.log_weight
        if self.algorithm.live:
            now = jax.lax.stop_gradient(log_ratio)
            log_weight = joint_log_ratio(rows.weights[:, 0, 0], now, self.algorithm.weight_bound)
        objective = self.algorithm.surrogate(
            log_ratio, log_weight, rows.advantage, rows.clip_eps, hp.weight_clip_eps
        )
        entropy = distribution.entropy()
        clipped = jnp.abs(jnp.exp(log_ratio) - 1.0) > rows.clip_eps
        loss = -(objective + hp.entropy_coef * entropy)
        return loss, {"policy_loss": -objective, "entropy": entropy, "clip_fraction": clipped}

    def value_loss(
        self, networks: ActorCritic, params: Any, rows: Batch, hp: Hyperparams
    ) -> tuple[Array, Metrics]:
        """The clipped value loss per sample, [P, L, N], or [1, L, N] where all agents share values."""
        value, _ = networks.value(params, *rows.critic_view)
        error = losses.clipped_value_loss(value, rows.value, rows.target, hp.clip_eps, hp.huber_delta)
        return hp.value_coef * error, {"value_loss": error}

    @property
    def actors(self) -> Descent:
        """The gradient steps of policies."""
        return Descent(
            self.policy_loss,
            self.networks,
            self.networks.sharing,
            lr="actor_lr",
            epochs=self.epochs,
            head_lr_scale=self.head_lr_scale,
            tx=self.tx,
            block_size=self.block_size,
            # Live weights are the others' ratios of the moment.
            rows_together=self.algorithm.live,
        )

    @property
    def critics(self) -> Descent:
        """The gradient steps of value functions."""
        return Descent(
            self.value_loss,
            self.networks,
            self.networks.sharing.critic,
            lr="critic_lr",
            epochs=self.critic_epochs or self.epochs,
            head_lr_scale=1.0,
            tx=self.tx,
            block_size=self.block_size,
            one_for_all=self.networks.num_critics == 1,
        )

    def fit_critics(self, given: Given, before: tuple[Any, Any], inputs: tuple[Any, Array, Array]):
        """Fits the value functions of one stage's owners.

        Args:
            given: what is learned from.
            before: parameters and optimiser states of the critics.
            inputs: owners [P] or None for everyone, ``active`` [P], a PRNG key.
        """
        params, opt_state = before
        owners, active, key = inputs
        rows = given.batch.for_critics().of_agents(owners)
        fit = self.critics
        shuffled = minibatches(own_key(key), rows.alive.shape[2], fit.epochs, self.num_minibatches)
        params, opt_state, metrics = fit(
            params, opt_state, rows, active, shuffled, given.hp, given.lr_fraction
        )
        return (params, opt_state), metrics

    def log_ratio(self, networks: ActorCritic, params: Any, rows: Batch) -> tuple[Array, Distribution]:
        """log r [P, L, N] to the policies that acted, and the distributions that actions are taken from.

        The ratio of a dead agent is 1: what it would do does not change what the living meet.
        """
        distribution, _ = networks.policy(params, *rows.actor_view)
        log_ratio = distribution.log_prob(rows.action) - rows.log_prob
        return log_ratio if self.dead_ratios else jnp.where(rows.alive > 0, log_ratio, 0.0), distribution

    def log_ratio_in_blocks(self, params: Any, rows: Batch) -> Array:
        """log r [P, L, N] of whole batches, block by block."""
        blocks = make_blocks(rows.log_prob.shape, self.block_size)
        return map_in_blocks(
            lambda part: self.log_ratio(self.networks, params, part)[0], rows.named(blocks), blocks
        )

    def recorded(self, given: Given, before: Any, after: Any, rows: Batch) -> Array:
        """Log-ratios [P, L, N] of the policies after a stage, with which later stages weigh.

        To the policies that acted; or to those just before the stage, as HARL has them: recurrent states are
        then carried through the whole rollout, from its first on.
        """
        if self.algorithm.ratios == "behaviour":
            return self.log_ratio_in_blocks(after, rows)
        whole = rows.as_rollout(given.errors.decay.shape[1])
        difference = self.log_ratio_in_blocks(after, whole) - self.log_ratio_in_blocks(before, whole)
        return as_sequences(difference, rows.alive.shape[1])

    def corrected(
        self,
        given: Given,
        rows: Batch,
        advantage: Array,
        owners: Array | None,
        weights: Array,
        log_weight: Array,
    ) -> tuple[Batch, Array]:
        """A stage's advantages: those of its agents anew, under the policies of the agents before them.

        Returns:
            The rows with their normalised advantages; and the advantages [n, L, N] of all agents, each as in
            its latest stage.
        """
        errors = TDErrors(take(given.errors.delta, owners), given.errors.decay)
        log_weight = as_steps(log_weight, errors.decay.shape[1])
        anew = self.algorithm.correction(errors, log_weight, given.hp.gae_lambda)
        anew = as_sequences(anew, rows.alive.shape[1])
        # Agents with nobody before them keep those of GAE.
        anew = jnp.where(weights.any(1)[:, None, None], anew, take(advantage, owners))
        advantage = put(advantage, owners, anew)
        alive = given.batch.alive
        normalized = normalize_advantages(advantage, alive, self.algorithm.normalization)
        return rows.replace(advantage=take(jnp.where(alive > 0, normalized, 0.0), owners)), advantage


def joint_log_ratio(weights: Array, log_ratio: Array, bound: float | None = None) -> Array:
    """log W: the sum of the log-ratios [n, L, N] of each row's ``weights`` [P, n] -> [P, L, N], in bounds."""
    weights, highest = weights.astype(log_ratio.dtype), jax.lax.Precision.HIGHEST
    log_weight = jnp.einsum("pn,nls->pls", weights, log_ratio, precision=highest)
    return log_weight if bound is None else jnp.clip(log_weight, -bound, bound)
