"""The matrix products that learning cannot do without, as a yardstick of its speed on a given machine.

No bound: products over blocks that fit the cache can be faster than these over all samples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def plain_products(
    params: Any, samples: Mapping[str, int], repetitions: int
) -> tuple[Callable[[], Any], float]:
    """Those of ``repetitions`` gradient steps, as a program of nothing else, and their FLOPs.

    Each layer is multiplied forward, for its weights' gradient and, but for the first, for its input's; over
    the samples of all agents in one product, as full sharing allows it.

    Args:
        params: ``{"actor": ..., "critic": ...}`` of the networks; their shapes are enough.
        samples: that each of the two computes in a gradient step, of all agents together.
        repetitions: gradient steps.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Weight matrices are those leaves that have two axes after the groups.
    layers = [
        ("dense_0" in jax.tree_util.keystr(path), samples[path[0].key], *leaf.shape[1:])
        for path, leaf in leaves
        if leaf.ndim == 3
    ]
    first = [is_first for is_first, *_ in layers]
    operands = [(jnp.ones((m, i)), jnp.ones((i, o)), jnp.ones((m, o))) for _, m, i, o in layers]

    @jax.jit
    def multiply(operands: list[tuple[Array, Array, Array]]) -> Array:
        def once(carry: Array, _: None) -> tuple[Array, None]:
            # Barriers, so that XLA takes nothing out of the loop and computes every product in full.
            now, carry = jax.lax.optimization_barrier((operands, carry))
            products = [
                (x @ w, x.T @ g, None if is_first else g @ w.T)
                for (x, w, g), is_first in zip(now, first, strict=True)
            ]
            products = jax.lax.optimization_barrier(products)
            return carry + sum(leaf[0, 0] for leaf in jax.tree.leaves(products)), None

        return jax.lax.scan(once, jnp.zeros(()), length=repetitions)[0]

    flops = sum((2 if is_first else 3) * 2.0 * m * i * o for is_first, m, i, o in layers)
    return lambda: multiply(operands), flops * repetitions
