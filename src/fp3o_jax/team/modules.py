"""What one agent's policy and value function are, on sequences ``[L, N, features]``.

L steps of N sequences; for feed-forward networks L is only another batch axis.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jax import Array

from fp3o_jax.kernels.dense import DeferredNorm, matmul
from fp3o_jax.kernels.gru import gru_scan
from fp3o_jax.team.distributions import MASKED_LOGIT, Categorical, DiagonalGaussian

GAIN = 2.0**0.5


class GRU(nn.Module):
    """One gated recurrent layer with separate input and recurrent biases (Cho et al., 2014, as in cuDNN).

    The inputs of the whole sequence are projected in one product; only the recurrent one is in the scan.
    """

    @nn.compact
    def __call__(self, x: DeferredNorm, hidden: Array, starts: Array) -> Array:
        """x [L, N, W], hidden [N, W] before the first step, starts [L, N] bool -> states [L, N, W]."""
        width = hidden.shape[-1]
        w_input = self.param("w_input", initializers.orthogonal(), (x.scale.shape[-1], 3 * width))
        b_input = self.param("b_input", initializers.zeros, (3 * width,))
        w_hidden = self.param("w_hidden", initializers.orthogonal(), (width, 3 * width))
        b_hidden = self.param("b_hidden", initializers.zeros, (3 * width,))

        return gru_scan(x.linear(w_input, b_input), hidden, starts, w_hidden, b_hidden)


class NormParams(nn.Module):
    """Scale and bias [W] of a LayerNorm."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        scale = self.param("scale", initializers.ones, (self.width,))
        return scale, self.param("bias", initializers.zeros, (self.width,))


class LinearParams(nn.Module):
    """Weights of a linear layer, kernel [W, V] and bias [V]."""

    width: int
    size: int
    gain: float

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        kernel = self.param("kernel", initializers.orthogonal(self.gain), (self.width, self.size))
        return kernel, self.param("bias", initializers.zeros, (self.size,))


class Trunk(nn.Module):
    """LayerNorm on the input, two layers of Linear, ReLU and LayerNorm, and a GRU if recurrent.

    The agent id enters behind the input's LayerNorm: as a one-hot with weights of its own, the same as
    appending it there, which leaves the part that all agents have in common to be computed once.
    """

    width: int
    recurrent: bool

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, agent_id: Array | None, hidden: Array | None, starts: Array
    ) -> tuple[DeferredNorm, Array | None]:
        """One agent's features.

        Args:
            x: [L, N, F] standardised input, padded to the largest agent's.
            mask: [F] or [N, F], 1 where the feature exists.
            agent_id: [n] or [N, n] one-hot; None where agents are told apart by their weights.
            hidden: [N, H] state before the first step; None if feed-forward.
            starts: [L, N] bool, an episode begins with this step.

        Returns:
            Features [L, N, width] and [L, N, H] states after each step, or None.
        """
        size = x.shape[-1]
        rows = size if agent_id is None else size + agent_id.shape[-1]
        kernel = self.param("dense_0", initializers.orthogonal(GAIN), (rows, self.width))
        bias = self.param("bias_0", initializers.zeros, (self.width,))
        scale, shift = NormParams(size, name="input_norm")()
        # Only the weights of the input's LayerNorm are learned: they join those of the layer behind it.
        bias = (shift * mask) @ kernel[:size] + bias
        if agent_id is not None:
            bias = bias + agent_id @ kernel[size:]
        x = matmul(x, scale[:, None] * kernel[:size]) + bias
        x = DeferredNorm(nn.relu(x), *NormParams(self.width, name="norm_0")())
        x = x.linear(*LinearParams(self.width, self.width, GAIN, name="dense_1")())
        x = DeferredNorm(nn.relu(x), *NormParams(self.width, name="norm_1")())
        if not self.recurrent:
            return x, None
        states = GRU(name="gru")(x, hidden, starts)
        return DeferredNorm(states, *NormParams(self.width, name="norm_gru")()), states


class CategoricalHead(nn.Module):
    """Features [..., W] -> logits [..., A]."""

    num_actions: int

    @nn.compact
    def __call__(self, x: DeferredNorm, available: Array) -> Categorical:
        logits = x.linear(*LinearParams(x.scale.shape[-1], self.num_actions, 0.01, name="logits")())
        return Categorical(jnp.where(available, logits, MASKED_LOGIT))


class GaussianHead(nn.Module):
    """Features [..., W] -> mean [..., A]; the deviation is a parameter, ``sigmoid(log_std) / 2``."""

    num_actions: int

    @nn.compact
    def __call__(self, x: DeferredNorm, available: Array) -> DiagonalGaussian:
        mean = x.linear(*LinearParams(x.scale.shape[-1], self.num_actions, 0.01, name="mean")())
        log_std = self.param("log_std", initializers.ones, (self.num_actions,))
        std = jnp.broadcast_to(jax.nn.sigmoid(log_std) * 0.5, mean.shape)
        return DiagonalGaussian(mean, std, jnp.broadcast_to(available, mean.shape).astype(mean.dtype))


class ValueHead(nn.Module):
    """Features [..., W] -> values [...]."""

    @nn.compact
    def __call__(self, x: DeferredNorm) -> Array:
        width = x.scale.shape[-1]
        kernel = self.param("kernel", initializers.orthogonal(1.0), (width, 1))
        return x.linear(kernel, self.param("bias", initializers.zeros, (1,)))[..., 0]
