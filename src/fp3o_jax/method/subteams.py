"""Rows of a stage of which no two use the same parameters, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.kernels.blocks import make_blocks
from fp3o_jax.method.batch import Batch
from fp3o_jax.team.groups import agent_params, set_agent_params
from fp3o_jax.team.sharing import Sharing


def in_subteams(
    make_descend: Callable[[Array], Callable[..., Any]], sharing: Sharing, block_size: int | None
) -> Callable[..., Any]:
    """The descent of a whole stage, where no two rows use the same parameters: a few of them at a time.

    Nothing that such a row does concerns another one. So some go through the whole stage before the next
    ones do, as many as fill a block: samples and parameters stay in the cache, and those of other agents are
    not touched.

    Args:
        make_descend: agents [P], of which no two share anything -> the descent of these alone.
        sharing: of the parameters of all agents.
        block_size: samples of all rows that are taken at a time; None for all at once.
    """

    def descend(
        params: Any, opt_state: Any, rows: Batch, learning: Array, minibatches: Array | None, *settings: Any
    ) -> tuple[Any, Any, Any]:
        num_rows, length, sequences = rows.alive.shape
        if minibatches is not None:
            sequences = minibatches.shape[1]
        blocks = make_blocks((num_rows, length, sequences), block_size)
        agents = rows.row_agents
        names = jnp.arange(num_rows) if agents is None else agents
        rows = rows.replace(agents=None)
        before = agent_params(params, sharing, agents), agent_params(opt_state, sharing, agents)

        def some(i: Array | int) -> tuple[Any, Any, Any]:
            pick = partial(blocks.of_rows, i * blocks.pieces)
            return make_descend(pick(names))(
                *jax.tree.map(pick, before),
                rows.of_rows(pick),
                pick(learning),
                minibatches,
                *settings,
            )

        if blocks.parts == 1:
            own, moments, metrics = some(0)
        else:
            results = jax.lax.map(some, jnp.arange(blocks.parts))
            own, moments = jax.tree.map(lambda x: x.reshape((num_rows, *x.shape[2:])), results[:2])
            metrics = jax.tree.map(lambda x: x.sum(0), results[2])
        return (
            set_agent_params(params, sharing, agents, own),
            set_agent_params(opt_state, sharing, agents, moments),
            metrics,
        )

    return descend
