"""Gradient steps of grouped parameters on a batch: actors and critics take theirs through the same code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fp3o_jax.config import Hyperparams
from fp3o_jax.kernels.blocks import make_blocks, sum_over
from fp3o_jax.method.batch import Batch, Minibatch, Stage
from fp3o_jax.team import optimizer
from fp3o_jax.team.sharing import Sharing, active_groups, sample_shares, weights_of, with_weights

Metrics = dict[str, Array]
#: (params, samples, shares, stage, hyperparams) -> what the samples add to a loss, and to means over samples.
Loss = Callable[[Any, "Batch", "Shares", "Stage", Hyperparams], tuple[Array, Array]]


class Shares(NamedTuple):
    """What a sample contributes to sums over a minibatch.

    Attributes:
        loss: [P, L, M] to the loss; P = 1 for values that all agents share.
        mean: [P, L, M] to a mean over all samples that count.
    """

    loss: Array
    mean: Array


class Part(NamedTuple):
    """The actors or the critics, as their gradient steps need them.

    Attributes:
        name: "actor" or "critic".
        sharing: of their parameters.
        loss: what is minimised.
        metrics: names of the means that it returns.
        old: the field of a batch that holds what the networks put out before; a single row is all agents'.
        together: whether a loss needs all rows at once.
        apart: agents [P], of which no two share anything -> the same of these alone.
    """

    name: str
    sharing: Sharing
    loss: Loss
    metrics: tuple[str, ...]
    old: str
    together: bool
    apart: Callable[[Array], Part]


def make_optimise(
    part: Part,
    *,
    head_lr_scale: float | None,
    transform: optax.GradientTransformation,
    block_size: int | None,
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """The function that takes all gradient steps of a stage. Its arguments are those of :func:`make_update`.

    Returns:
        ``optimise(params, opt_state, rows, minibatches, stage, hyperparams, lr_fraction) ->
        (params, opt_state, metrics)``, parameters and states those of the ``part``. ``metrics`` hold, for
        each minibatch, what the rows add to the part's means, to the sum of the components' gradient norms,
        and to the number of the components that took a step.
    """
    sharing = part.sharing

    def gradient(
        params: Any, rows: Batch, minibatch: Minibatch, stage: Stage, hp: Hyperparams
    ) -> tuple[Any, Array, Metrics]:
        """Of the loss over a minibatch, block by block; and which rows [P] have samples in it that count."""
        agents, kept, index = stage.agents, stage.kept, minibatch.index
        alive = rows.alive if index is None else jnp.take(rows.alive, index, axis=2)
        shares = Shares(
            sample_shares(alive, kept, sharing.component, sharing.pooled, agents),
            alive * kept[:, None, None] / jnp.maximum(minibatch.counted, 1.0),
        )
        if getattr(rows, part.old).shape[0] == 1:
            # One value for all agents is computed once, and answers for all of them.
            shares = jax.tree.map(lambda x: x.sum(0, keepdims=True), shares)
        blocks = make_blocks(shares.loss.shape, block_size, part.together)

        def block(i: Array | int) -> tuple[Any, Array]:
            samples = rows.of_block(partial(blocks.cut, i, index=index))
            mine = jax.tree.map(lambda x: blocks.cut(i, x, 2), shares)
            own = jax.tree.map(partial(blocks.of_rows, i), stage._replace(agents=None))
            own = own._replace(agents=blocks.indices(i, agents))
            return jax.grad(part.loss, has_aux=True)(params, samples, mine, own, hp)

        zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(len(part.metrics), alive.dtype)
        grads, metrics = sum_over(block, blocks.count, zeros)
        return grads, kept * alive.max((1, 2)), dict(zip(part.metrics, metrics, strict=True))

    def descend(
        params: Any,
        opt_state: Any,
        grads: Any,
        learning: Array,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        """One gradient step of every group of parameters that a pipeline with samples owns."""
        head_scale = sharing.head_lr_scale(learning.shape[0]) if head_lr_scale is None else head_lr_scale
        params, opt_state, norm = optimizer.step(
            grads,
            opt_state,
            params,
            sharing=sharing,
            learning_rate=getattr(hp, f"{part.name}_lr") * lr_fraction,
            head_scale=head_scale if part.name == "actor" else 1.0,
            max_grad_norm=hp.max_grad_norm,
            active={p: active_groups(getattr(sharing, p), learning, stage.agents) for p in optimizer.PARTS},
            transform=transform,
        )
        components = active_groups(sharing.component, learning, stage.agents).sum()
        return params, opt_state, {"grad_norm": norm, "components": components}

    def optimise(
        params: Any,
        opt_state: Any,
        rows: Batch,
        minibatches: Minibatch,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        def one(carry: tuple[Any, Any], minibatch: Minibatch):
            params, opt_state = carry
            grads, learning, metrics = gradient(params, rows, minibatch, stage, hp)
            params, opt_state, norms = descend(params, opt_state, grads, learning, stage, hp, lr_fraction)
            return (params, opt_state), metrics | norms

        (params, opt_state), metrics = jax.lax.scan(one, (params, opt_state), minibatches)
        return params, opt_state, metrics

    return optimise


def make_optimise_apart(
    part: Part, make: Callable[[Part], Callable[..., Any]], block_size: int | None
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """As :func:`make_optimise`, for stages in which no two rows use the same weights.

    Nothing that such a row does concerns another one. So a few of them at a time go through the whole stage,
    as many as fill a block: samples and weights stay in the cache, and those of other agents are not touched.

    Args:
        part: the actors or critics of all agents.
        make: those of some agents -> their ``optimise``.
        block_size: samples of all rows that are taken at a time; None for all at once.
    """
    sharing = part.sharing

    def optimise(
        params: Any,
        opt_state: Any,
        rows: Batch,
        minibatches: Minibatch,
        stage: Stage,
        hp: Hyperparams,
        lr_fraction: Array | float,
    ) -> tuple[Any, Any, Metrics]:
        num_rows, length, sequences = rows.alive.shape
        if minibatches.index is not None:
            sequences = minibatches.index.shape[1]
        blocks = make_blocks((num_rows, length, sequences), block_size)
        agents = jnp.arange(num_rows) if stage.agents is None else stage.agents

        def some(i: Array) -> tuple[Any, Any, Metrics]:
            own = partial(blocks.of_rows, i * blocks.pieces)
            these = own(agents)
            return make(part.apart(these))(
                weights_of(params, sharing, these),
                weights_of(opt_state, sharing, these),
                rows.of_rows(own),
                minibatches,
                jax.tree.map(own, stage._replace(agents=None)),
                hp,
                lr_fraction,
            )

        results = jax.lax.map(some, jnp.arange(blocks.parts))
        weights, moments = jax.tree.map(lambda x: x.reshape((num_rows, *x.shape[2:])), results[:2])
        return (
            with_weights(params, sharing, agents, weights),
            with_weights(opt_state, sharing, agents, moments),
            jax.tree.map(lambda x: x.sum(0), results[2]),
        )

    return optimise
