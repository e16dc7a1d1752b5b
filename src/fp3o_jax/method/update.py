"""The second half of an iteration: the pipeline update, one ``lax.scan`` over the stages of a schedule.

The whole family runs through :meth:`PipelineUpdate.stage`; what differs between its members is the schedule
(:mod:`fp3o_jax.method.schedules`). How gradient steps are taken, by whom together and how many samples at a
time, is the business of :mod:`fp3o_jax.method.descent`. Critics learn nothing from the policies' steps and
are fitted behind them.
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
from fp3o_jax.method.descent import Descend, Descent, Metrics
from fp3o_jax.method.schedules import Algorithm, Schedule
from fp3o_jax.method.sequences import as_sequences, as_steps
from fp3o_jax.team import optimizer
from fp3o_jax.team.actor_critic import ActorCritic
from fp3o_jax.team.distributions import Distribution
from fp3o_jax.team.sharing import Sharing, put, take
from fp3o_jax.team.subteams import in_subteams


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
        log_rho: [n, L, N] recorded log-ratio of each agent's new policy to the one that acted.
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
            errors: [n, T, B] what the advantages were summed up from, for algorithms that do so anew in each
                stage, or record the ratios of whole rollouts.

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
        end, (metrics, active, sums, spread) = jax.lax.scan(
            partial(self.stage, given), start, (schedule, keys)
        )
        log_rho = end.log_rho
        if (num_pipelines < n and not self.networks.sharing.independent) or self.algorithm.ratios == "stage":
            # Shared parameters moved the policies of agents that were recorded earlier.
            log_rho = self.log_ratios(end.params, batch)

        fits = (schedule.owners, active, keys)
        if self.algorithm.critics_once:
            fits = (None, jnp.ones((1, n), active.dtype), keys[:1])
        (critic, critic_state), critic_metrics = jax.lax.scan(
            partial(self.fit_critics, given), (params["critic"], opt_state["critic"]), fits
        )
        metrics = means("actor", metrics) | means("critic", critic_metrics)
        metrics |= condition_metrics(schedule, active, sums) | policy_change(log_rho, batch.alive)
        metrics["log_weight_std"] = spread.max()
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

        # W_p, the product of rho_q over the agents q that weigh on pipeline p: a constant of the stage.
        log_weight = joint_log_ratio(weights, log_rho, self.algorithm.weight_bound)
        spread = losses.spread(log_weight, rows.alive)
        if self.algorithm.correction is not None:
            rows, advantage = self.corrected(given, rows, advantage, owners, weights, log_weight)
        rows = rows.replace(
            advantage=rows.advantage * scale[:, None, None],
            log_weight=log_weight,
            weighing=weights[:, None, None],
            clip_eps=hp.clip_eps * clip[:, None, None],
        )
        # The condition of a gated stage, on rho_p A and rho_p W A.
        plain = jnp.exp(take(log_rho, owners)) * rows.alive * rows.advantage
        sums = total(((plain * jnp.exp(log_weight)).sum((1, 2)), plain.sum((1, 2))))
        active = jnp.where(gated, self.condition(*sums), True).astype(plain.dtype)

        descend = self.descend_actors(len(weights))
        shuffled = minibatches(own_key(key), rows.alive.shape[2], self.epochs, self.num_minibatches)
        learning = active if learns is None else active * learns
        moved, opt_state, metrics = descend(
            params, opt_state, rows, learning, shuffled, hp, given.lr_fraction
        )
        # The stage ends by recording the new ratios of the agents that it owned.
        log_rho = put(log_rho, owners, self.recorded(given, params, moved, rows))
        told = (metrics, active, jnp.stack(sums).sum(1), spread)
        return Progress(moved, opt_state, log_rho, advantage), told

    def policy_loss(
        self, networks: ActorCritic, params: Any, rows: Batch, hp: Hyperparams
    ) -> tuple[Array, Metrics]:
        """``-min(r W A, clip(r) W A)`` and the entropy's bonus, per sample [P, L, N].

        Each row's parameters meet its own samples alone; ``A``, ``W`` and the clip range are the stage's.
        """
        log_ratio, distribution = self.log_ratio(networks, params, rows)
        log_weight = rows.log_weight
        if self.algorithm.live:
            now = jax.lax.stop_gradient(log_ratio)
            log_weight = joint_log_ratio(rows.weighing[:, 0, 0], now, self.algorithm.weight_bound)
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
        """Per sample, [P, L, N] or [1, L, N] where all agents share values."""
        value, _ = networks.value(params, *rows.critic_view)
        error = losses.clipped_value_loss(value, rows.value, rows.target, hp.clip_eps, hp.huber_delta)
        return hp.value_coef * error, {"value_loss": error}

    @property
    def epochs_of_critics(self) -> int:
        return self.critic_epochs or self.epochs

    def fit_critics(self, given: Given, before: tuple[Any, Any], inputs: tuple[Any, Array, Array]):
        """The value functions of one stage's owners.

        Args:
            given: what is learned from.
            before: parameters and optimiser states of the critics.
            inputs: owners [P] or None for everyone, ``active`` [P], a PRNG key.
        """
        params, opt_state = before
        owners, active, key = inputs
        rows = given.batch.for_critics().of_agents(owners)
        key, count = own_key(key), rows.alive.shape[2]
        shuffled = minibatches(key, count, self.epochs_of_critics, self.num_minibatches)
        params, opt_state, metrics = self.descend_critics(len(active))(
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

    def log_ratios(self, params: Any, rows: Batch) -> Array:
        """log r [P, L, N] of whole batches, block by block."""
        blocks = make_blocks(rows.log_prob.shape, self.block_size)
        rows = rows.named() if blocks.parts > 1 else rows
        return map_in_blocks(lambda part: self.log_ratio(self.networks, params, part)[0], rows, blocks)

    def recorded(self, given: Given, before: Any, after: Any, rows: Batch) -> Array:
        """The ratios [P, L, N] that later stages weigh with, of the policies behind a stage.

        To those that acted; or to those just before the stage, as HARL has them: recurrent states are then
        carried through the whole rollout, from its first on.
        """
        if self.algorithm.ratios == "behaviour":
            return self.log_ratios(after, rows)
        whole = rows.as_rollout(given.errors.decay.shape[1])
        difference = self.log_ratios(after, whole) - self.log_ratios(before, whole)
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
        """A stage's advantages: those of its agents anew, under the policies of the agents before.

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

    def descend_actors(self, num_rows: int) -> Descend:
        """Gradient steps of the policies in ``num_rows`` rows."""
        # Agents whose weights are the others' ratios of the moment stay together.
        together = self.algorithm.live

        def make(networks: ActorCritic) -> Descend:
            return Descent(
                loss=partial(self.policy_loss, networks),
                sharing=networks.sharing,
                lr="actor_lr",
                epochs=self.epochs,
                head_lr_scale=self.head_lr_scale,
                tx=self.tx,
                block_size=self.block_size,
                rows_together=together,
            )

        if together or not (num_rows == 1 or self.networks.sharing.independent):
            return make(self.networks)
        return self._in_subteams(make, self.networks.sharing)

    def descend_critics(self, num_rows: int) -> Descend:
        """Gradient steps of the value functions in ``num_rows`` rows."""

        def make(networks: ActorCritic) -> Descend:
            return Descent(
                loss=partial(self.value_loss, networks),
                sharing=networks.sharing.critic,
                lr="critic_lr",
                epochs=self.epochs_of_critics,
                head_lr_scale=1.0,
                tx=self.tx,
                block_size=self.block_size,
                one_for_all=networks.num_critics == 1,
            )

        sharing = self.networks.sharing.critic
        return (
            self._in_subteams(make, sharing) if num_rows == 1 or sharing.independent else make(self.networks)
        )

    def _in_subteams(self, make: Callable[[ActorCritic], Descend], sharing: Sharing) -> Descend:
        return in_subteams(lambda agents: make(self.networks.subteam(agents)), sharing, self.block_size)


def joint_log_ratio(weights: Array, log_ratio: Array, bound: float | None = None) -> Array:
    """log W: the sum of the log-ratios [n, L, N] of each row's ``weights`` [P, n] -> [P, L, N], in bounds."""
    weights, highest = weights.astype(log_ratio.dtype), jax.lax.Precision.HIGHEST
    log_weight = jnp.einsum("pn,nls->pls", weights, log_ratio, precision=highest)
    return log_weight if bound is None else jnp.clip(log_weight, -bound, bound)


def means(part: str, metrics: Metrics) -> Metrics:
    """Of sums [S, steps] (see :class:`Descent`), over the steps that some component took.

    The others have nothing to report.
    """
    metrics = dict(metrics)
    components, samples = metrics.pop("components"), jnp.maximum(metrics.pop("samples"), 1.0)
    norms = metrics.pop("grad_norm") / jnp.maximum(components, 1.0)
    ran = (components > 0).astype(norms.dtype)
    per_sample = {name: sums / samples for name, sums in metrics.items()}
    return {
        name: losses.masked_mean(value, ran)
        for name, value in {f"{part}_grad_norm": norms, **per_sample}.items()
    }


def condition_metrics(schedule: Schedule, active: Array, sums: Array) -> Metrics:
    """How far the condition held in the gated stages; without any it counts as held.

    Args:
        schedule: S stages.
        active: [S, P] 1 for the pipelines that ran.
        sums: [S, 2] what the condition compared, over all pipelines.
    """
    gates = schedule.gated.astype(active.dtype)
    everyone = jnp.ones(schedule.weights.shape[-1], active.dtype)
    held = jax.vmap(partial(put, everyone))(schedule.owners, active)
    agents_held = jnp.where(gates.any(), gates @ held / jnp.maximum(gates.sum(), 1.0), 1.0)
    return {
        "condition_held": agents_held.mean(),
        "agent_condition_held": agents_held,
        "condition_sums": gates @ sums,
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
    kl, living, someone = total((kl.sum((1, 2)), alive.sum((1, 2)), alive.max(0).sum()))
    agent_kl = kl / jnp.maximum(living, 1.0)
    joint_kl = kl.sum() / jnp.maximum(someone, 1.0)
    return {"agent_kl": agent_kl, "approx_kl": agent_kl.mean(), "joint_kl": joint_kl}
