"""Linear layers, and norms that are taken with them.

Every LayerNorm here is followed by a linear layer, and products of many rows are the cost of all. What a
layer makes is handed on as :class:`DeferredNorm` or, without a norm, as :class:`Plain`: the next one need not
know which.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

EPSILON = 1e-5  # of every LayerNorm after a layer


class DeferredNorm(NamedTuple):
    """The LayerNorm (Ba et al., 2016) of ``x``, still to be taken.

    It is taken after the next layer's product: rows [..., W] are neither centred nor scaled one by one.

    Attributes:
        x: [..., W].
        scale, bias: [W].
    """

    x: Array
    scale: Array
    bias: Array

    @property
    def width(self) -> int:
        """W."""
        return self.x.shape[-1]

    def linear(self, kernel: Array, bias: Array) -> Array:
        """``LayerNorm(x) @ kernel + bias``: [..., W], kernel [W, V] -> [..., V].

        A kernel whose columns sum to 0 does not see a row's mean, and what is left of the norm is one
        factor for each row.
        """
        scaled = self.scale[:, None] * kernel
        centred = matmul(self.x, scaled - scaled.mean(0))
        variance = row_mean(self.x**2) - row_mean(self.x) ** 2
        return centred * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON) + (self.bias @ kernel + bias)


class Plain(NamedTuple):
    """Features [..., W] without a norm, as the layer after them takes them."""

    x: Array

    @property
    def width(self) -> int:
        """W."""
        return self.x.shape[-1]

    def linear(self, kernel: Array, bias: Array) -> Array:
        """``x @ kernel + bias``: [..., W], kernel [W, V] -> [..., V]."""
        return matmul(self.x, kernel) + bias


#: What a layer hands to the next.
Features = DeferredNorm | Plain


def as_features(x: Array | Features) -> Features:
    """An array as a layer hands it on."""
    return x if isinstance(x, Features) else Plain(x)


@jax.custom_vjp
def matmul(x: Array, kernel: Array) -> Array:
    """``x @ kernel``, [..., W] and [W, V] -> [..., V].

    Its gradient is taken over one axis of all samples: the derived one runs over several at once, for
    which XLA writes a transposed copy of all samples.
    """
    return x @ kernel


def _matmul_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    flat, flat_cotangent = (a.reshape((-1, a.shape[-1])) for a in (x, cotangent))
    # Transposed where the layer narrows: the CPU's product has up to three times the speed if the short side
    # stands first. The barrier keeps XLA from turning it round again.
    if kernel.shape[0] > kernel.shape[1]:
        return cotangent @ kernel.T, jax.lax.optimization_barrier(flat_cotangent.T @ flat).T
    return cotangent @ kernel.T, flat.T @ flat_cotangent


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


def row_mean(x: Array) -> Array:
    """Mean over the last axis, which stays: [..., W] -> [..., 1]."""
    weights = jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return jax.lax.platform_dependent(
        x,
        # XLA does not vectorise sums over the last axis on a CPU; its products are.
        cpu=lambda x: jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST),
        default=lambda x: x.mean(-1, keepdims=True),
    )
