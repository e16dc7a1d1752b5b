"""Samples in blocks that fit a cache."""

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
        """Block ``i``'s rows of [P, ...]; a single row is all blocks'."""
        if self.parts == 1 or x.shape[0] == 1:
            return x
        return jax.lax.dynamic_slice_in_dim(x, i // self.pieces * self.rows, self.rows)

    def of_sequences(self, i: Array | int, x: Array, axis: int) -> Array:
        """Block ``i``'s sequences of an array with N of them on ``axis``."""
        return jax.lax.dynamic_slice_in_dim(x, i % self.pieces * self.sequences, self.sequences, axis)

    def cut(self, i: Array | int, x: Array, axis: int, index: Array | None = None) -> Array:
        """Block ``i`` of an array with rows on axis 0 and sequences on ``axis``, 1 or 2.

        Args:
            i: which block.
            x: [P, N, ...] or [P, L, N, ...]; P = 1 where all rows have the same.
            axis: of the sequences.
            index: [M], the N sequences of the blocks are these of more; None if there are no others.
        """
        if index is None:
            return self.of_sequences(i, self.of_rows(i, x), axis)
        index = self.of_sequences(i, index, 0)
        if self.parts == 1 or x.shape[0] == 1:
            return jnp.take(x, index, axis=axis)
        # In one go: rows first would be a copy of all their sequences.
        rows = i // self.pieces * self.rows + jnp.arange(self.rows)
        between = [jnp.arange(size) for size in x.shape[1:axis]]
        return x[jnp.ix_(rows, *between, index)]

    def indices(self, i: Array | int, agents: Array | None) -> Array | None:
        """Block ``i``'s ``agents``, where None stands for all in order."""
        if agents is None and self.parts > 1:
            agents = jnp.arange(self.parts * self.rows)
        return None if agents is None else self.of_rows(i, agents)

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


def sum_over(block: Callable[[Array | int], Any], count: int, zeros: Any) -> Any:
    """``block(0) + ... + block(count - 1)``, one after another, from ``zeros`` of the result's structure."""
    if count == 1:
        return block(0)
    return jax.lax.fori_loop(0, count, lambda i, total: jax.tree.map(jnp.add, total, block(i)), zeros)
