"""What an update reports."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.kernels.shards import total
from fp3o_jax.method.schedules import Schedule
from fp3o_jax.team.groups import put

Metrics = dict[str, Array]


def means(part: str, metrics: Metrics) -> Metrics:
    """The mean of each metric over the gradient steps that some component took.

    Args:
        part: what goes before the norm's name.
        metrics: sums [S, steps], as :class:`fp3o_jax.method.descent.Descent` gives them; steps that nobody
            took have nothing to report.
    """
    metrics = dict(metrics)
    components, samples = metrics.pop("components"), jnp.maximum(metrics.pop("samples"), 1.0)
    norms = metrics.pop("grad_norm") / jnp.maximum(components, 1.0)
    ran = (components > 0).astype(norms.dtype)
    per_sample = {name: sums / samples for name, sums in metrics.items()}
    return {
        name: masked_mean(value, ran) for name, value in {f"{part}_grad_norm": norms, **per_sample}.items()
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


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of ``x`` where ``mask`` is 1; 0 where it is nowhere 1."""
    return jnp.where(mask > 0, x, 0.0).sum() / jnp.maximum(mask.sum(), 1.0)


def spread(x: Array, mask: Array) -> Array:
    """Standard deviation of ``x`` over the samples in which ``mask`` is 1."""
    return jnp.sqrt(_variance(x, mask))


def explained_variance(values: Array, targets: Array, mask: Array) -> Array:
    """``1 - Var(target - value) / Var(target)`` over the samples in which ``mask`` is 1."""
    return 1.0 - _variance(targets - values, mask) / jnp.maximum(_variance(targets, mask), 1e-8)


def _variance(x: Array, mask: Array) -> Array:
    count = jnp.maximum(total(mask.sum()), 1.0)

    def mean(x: Array) -> Array:
        return total(jnp.where(mask > 0, x, 0.0).sum()) / count

    return mean((x - mean(x)) ** 2)
