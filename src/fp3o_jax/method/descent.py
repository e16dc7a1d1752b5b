"""Gradient steps on the parameters of a team, whatever the loss: actors and critics take theirs alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fp3o_jax.config import Hyperparams
from fp3o_jax.kernels.blocks import grad_in_blocks, make_blocks
from fp3o_jax.method.batch import Batch
from fp3o_jax.team import optimizer
from fp3o_jax.team.sharing import Sharing, active_groups, loss_scale

Metrics = dict[str, Array]
#: (params, rows, hyperparams) -> what is minimised, and what is reported, per sample: [P, L, N], or [1, L, N]
#: where one network answers for all rows.
Loss = Callable[[Any, Batch, Hyperparams], tuple[Array, Metrics]]
#: (params, opt_state, rows, active, minibatches, hyperparams, lr_fraction) -> (params, opt_state, metrics).
Descend = Callable[..., tuple[Any, Any, Metrics]]


def make_descend(
    loss: Loss,
    sharing: Sharing,
    *,
    lr: str,
    epochs: int,
    head_lr_scale: float | None,
    tx: optax.GradientTransformation,
    block_size: int | None,
    one_for_all: bool = False,
    rows_together: bool = False,
) -> Descend:
    """The function that takes all gradient steps of a stage.

    Args:
        loss: per sample.
        sharing: of the parameters.
        lr: the learning rate's name among the hyperparameters.
        epochs: gradient steps, where there is a single minibatch.
        head_lr_scale: factor on the heads' learning rate; None for what the sharing asks for.
        tx: makes a direction of the clipped gradient.
        block_size: samples, of all rows, that a gradient takes at a time; None for all at once.
        one_for_all: the loss has a single row, which answers for all.
        rows_together: the loss needs all rows at once.

    Returns:
        ``descend(params, opt_state, rows, active, minibatches, hyperparams, lr_fraction) ->
        (params, opt_state, metrics)``, with ``active`` [P] 1 for the rows that learn. ``metrics`` hold, for
        each gradient step, sums over samples, how many ``samples`` they were, the sum of the components'
        gradient norms, and the number of ``components`` that took a step.
    """

    def descend(
        params: Any,
        opt_state: Any,
        rows: Batch,
        active: Array,
        minibatches: Array | None,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        agents = None if rows.agents is None else rows.agents[:, 0, 0]

        def gradient_step(carry: tuple[Any, Any], minibatch: Array | None):
            params, opt_state = carry
            alive = rows.alive if minibatch is None else jnp.take(rows.alive, minibatch, axis=2)
            living = alive.sum((1, 2))
            scale = loss_scale(living, active, sharing, agents)
            grads, sums = gradient(params, rows, scale, active, minibatch, alive.shape, hp)
            learning = active * (living > 0)
            params, opt_state, norm = optimizer.step(
                grads,
                opt_state,
                params,
                sharing=sharing,
                learning_rate=getattr(hp, lr) * lr_fraction,
                head_scale=sharing.head_lr_scale(len(active)) if head_lr_scale is None else head_lr_scale,
                max_grad_norm=hp.max_grad_norm,
                active={p: active_groups(getattr(sharing, p), learning, agents) for p in optimizer.PARTS},
                tx=tx,
            )
            components = active_groups(sharing.component, learning, agents).sum()
            counts = {"samples": living @ active, "grad_norm": norm, "components": components}
            return (params, opt_state), sums | counts

        carry, metrics = jax.lax.scan(
            gradient_step, (params, opt_state), minibatches, length=epochs if minibatches is None else None
        )
        return *carry, metrics

    def gradient(
        params: Any,
        rows: Batch,
        scale: Array,
        active: Array,
        minibatch: Array | None,
        shape: tuple[int, int, int],
        hp: Hyperparams,
    ) -> tuple[Any, Metrics]:
        """Of the weighted sum of losses over a minibatch of ``shape`` [P, L, M]; and the sums to report."""
        blocks = make_blocks((1, *shape[1:]) if one_for_all else shape, block_size, rows_together)
        rows = rows.named() if blocks.parts > 1 else rows

        def total(params: Any, samples: tuple[Batch, Array, Array]) -> tuple[Array, Metrics]:
            part, scale, active = samples
            losses, reported = loss(params, part, hp)
            counted, factor = part.alive * active, part.alive * scale
            if one_for_all:
                counted, factor = (x.sum(0, keepdims=True) for x in (counted, factor))
            return (losses * factor).sum(), {k: (x * counted).sum() for k, x in reported.items()}

        factors = (x[:, None, None] for x in (scale, active))
        return grad_in_blocks(total, params, (rows, *factors), blocks, minibatch)

    return descend
