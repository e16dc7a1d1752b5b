"""Samples in blocks that fit a cache.

Samples are pytrees of arrays [rows, steps, sequences, ...], where an axis of size 1 is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Blocks(NamedTuple):
    """Samples [P, L, N] in blocks of equal size, each of some rows and some sequences; rows by rows.

    Attributes:
        parts: of the rows.
        rows: in each part.
        pieces: of the sequences.
        sequences: in each piece.
    """

    parts: int
    rows: int
    pieces: int
    sequences: int

    @property
    def count(self) -> int:
        return self.parts * self.pieces

    def of_rows(self, i: Array | int, x: Array) -> Array:
        """Block ``i``'s rows of [P, ...] or [1, ...]."""
        if self.parts == 1 or x.shape[0] == 1:
            return x
        return jax.lax.dynamic_slice_in_dim(x, i // self.pieces * self.rows, self.rows)

    def of_sequences(self, i: Array | int, x: Array, axis: int = 2) -> Array:
        """Block ``i``'s sequences of an array with N of them, or 1, on ``axis``."""
        if self.pieces == 1 or x.shape[axis] == 1:
            return x
        return jax.lax.dynamic_slice_in_dim(x, i % self.pieces * self.sequences, self.sequences, axis)

    def cut(self, i: Array | int, x: Array, index: Array | None = None) -> Array:
        """Block ``i`` of samples [P, L, N, ...]; of more of which the N are those of ``index``, if any."""
        if index is None or x.shape[2] == 1:
            return self.of_sequences(i, self.of_rows(i, x))
        index = self.of_sequences(i, index, 0)
        if self.parts == 1 or x.shape[0] == 1:
            return jnp.take(x, index, axis=2)
        # In one go: rows first would be a copy of all their sequences.
        rows = i // self.pieces * self.rows + jnp.arange(self.rows)
        return x[jnp.ix_(rows, jnp.arange(x.shape[1]), index)]

    def joined(self, blocks: Array) -> Array:
        """What blocks became, put together again: [count, rows, L, sequences] -> [P, L, N]."""
        grid = blocks.reshape((self.parts, self.pieces, *blocks.shape[1:]))
        return jnp.moveaxis(grid, 1, 3).reshape((self.parts * self.rows, blocks.shape[2], -1))


def make_blocks(shape: tuple[int, int, int], target: int | None, whole: bool = False) -> Blocks:
    """Blocks of ``target`` samples or less, each of as few rows as hold so many.

    What lies together in memory stays together, and weights of a row's own meet as many samples as can be.

    Args:
        shape: P, L, N.
        target: samples in a block; None for all.
        whole: all rows in each block.
    """
    num_rows, length, count = shape
    if target is None:
        return Blocks(1, num_rows, 1, count)
    enough = (r for r in range(1, num_rows) if num_rows % r == 0 and r * length * count >= target)
    rows = num_rows if whole else next(enough, num_rows)
    wanted = min(-(-rows * length * count // target), count)
    pieces = next(k for k in range(wanted, count + 1) if count % k == 0)
    return Blocks(num_rows // rows, rows, pieces, count // pieces)


def map_in_blocks(fn: Callable[[Any], Array], samples: Any, blocks: Blocks) -> Array:
    """``fn(samples)``, [P, L, N], one block after another."""
    results = jax.lax.map(
        lambda i: fn(jax.tree.map(lambda x: blocks.cut(i, x), samples)), jnp.arange(blocks.count)
    )
    return blocks.joined(results)


def grad_in_blocks(
    loss: Callable[[Any, Any], tuple[Array, Any]],
    params: Any,
    samples: Any,
    blocks: Blocks,
    index: Array | None = None,
) -> tuple[Any, Any]:
    """``jax.grad(loss, has_aux=True)(params, samples)``, one block after another.

    Args:
        loss: (params, samples) -> a sum over samples that is differentiated, and others that are not.
        params: what it is differentiated by.
        samples: [P, L, M, ...].
        blocks: of [P, L, N].
        index: [N] the sequences to take, of M; None for all.
    """

    def block(i: Array | int) -> tuple[Any, Any]:
        part = jax.tree.map(lambda x: blocks.cut(i, x, index), samples)
        return jax.grad(loss, has_aux=True)(params, part)

    if blocks.count == 1:
        return block(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(block, 0))
    return jax.lax.fori_loop(0, blocks.count, lambda i, sums: jax.tree.map(jnp.add, sums, block(i)), zeros)
