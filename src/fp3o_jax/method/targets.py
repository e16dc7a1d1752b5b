"""What a trajectory becomes before the update: values, advantages, targets, the batch."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fp3o_jax.config import Config, Hyperparams
from fp3o_jax.method import normalization
from fp3o_jax.method.advantages import TDErrors, gae, normalize_advantages, td_errors
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.metrics import explained_variance
from fp3o_jax.method.normalization import ValueNorm
from fp3o_jax.method.rollout import Trajectory
from fp3o_jax.method.sequences import as_sequences, as_steps
from fp3o_jax.team.actor_critic import ActorCritic


class Targets(NamedTuple):
    """What the update learns from.

    Attributes:
        batch: everything as sequences, agents first.
        errors: [n, T, B] what the advantages were summed up from.
        value_norm: the statistics of value targets, these counted.
        explained_variance: of the targets by the old values.
    """

    batch: Batch
    errors: TDErrors
    value_norm: ValueNorm
    explained_variance: Array


def make_targets(
    trajectory: Trajectory,
    value_norm: ValueNorm,
    networks: ActorCritic,
    config: Config,
    hp: Hyperparams,
    over: str,
) -> Targets:
    """Advantages by GAE and the values that critics learn.

    Args:
        trajectory: T steps of B environments.
        value_norm: statistics of value targets so far.
        networks: who shares which critic.
        config: what counts for critics, whether truncations bootstrap, whether values are normalised.
        hp: gamma and lambda.
        over: whose advantages are normalised together (``Algorithm.normalization``).
    """
    groups = jnp.array(networks.sharing.critic_groups)
    critics = groups[: networks.num_critics]
    mean, std = (x[:, None, None] for x in normalization.moments(value_norm, critics))
    real_value = trajectory.value * std + mean
    # [T, B], or [T, B, n], each agent's own.
    own = trajectory.reward.ndim > trajectory.done.ndim
    errors = td_errors(
        jnp.moveaxis(trajectory.reward, -1, 0) if own else trajectory.reward,
        real_value,
        trajectory.next_value * std + mean,
        trajectory.terminated if config.bootstrap_truncations else trajectory.done,
        trajectory.done,
        hp.gamma,
        hp.gae_lambda,
    )
    advantage = gae(errors)
    target = advantage + real_value
    num_envs = trajectory.done.shape[1]
    counted = trajectory.alive.astype(advantage.dtype)
    valued = counted if config.mask_values else jnp.ones_like(counted)
    alive = as_steps(counted, num_envs)
    fit = explained_variance(real_value, target, alive)
    if config.normalize_values:
        value_norm = normalization.update(value_norm, target, as_steps(valued, num_envs), groups)
        mean, std = (x[:, None, None] for x in normalization.moments(value_norm, critics))

    # From here on an advantage is the agent's own, whoever shares the critic.
    advantage = jnp.broadcast_to(advantage, alive.shape)
    errors = errors._replace(delta=jnp.broadcast_to(errors.delta, alive.shape))
    length = config.sequence_length
    batch = Batch(
        obs=trajectory.obs,
        critic_inputs=trajectory.critic_inputs,
        action_mask=trajectory.action_mask,
        alive=counted,
        starts=as_sequences(trajectory.starts[None], length),
        action=trajectory.action,
        log_prob=trajectory.log_prob,
        advantage=as_sequences(normalize_advantages(advantage, alive, over), length),
        value=as_sequences(trajectory.value, length),
        target=as_sequences((target - mean) / std, length),
        actor_hidden=trajectory.actor_hidden,
        critic_hidden=trajectory.critic_hidden,
        valued=None if config.mask_values else valued,
    )
    return Targets(batch, errors, value_norm, fit)
