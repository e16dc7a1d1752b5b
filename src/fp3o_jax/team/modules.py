"""What one agent's policy and value function are, on sequences ``[L, N, features]``.

L steps of N sequences; for feed-forward networks L is only another batch axis.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jax import Array

from fp3o_jax.kernels.dense import DeferredNorm, Features, Plain, matmul
from fp3o_jax.kernels.gru import gru_scan
from fp3o_jax.team.distributions import MASKED_LOGIT, Categorical, DiagonalGaussian

GAIN = 2.0**0.5
#: ``Config.activation``.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


class GRU(nn.Module):
    """One gated recurrent layer with separate input and recurrent biases (Cho et al., 2014, as in cuDNN).

    The inputs of the whole sequence are projected in one product; only the recurrent one is in the scan.
    """

    @nn.compact
    def __call__(self, x: Features, hidden: Array, starts: Array) -> Array:
        """x [L, N, W], hidden [N, W] before the first step, starts [L, N] bool -> states [L, N, W]."""
        width = hidden.shape[-1]
        w_input = self.param("w_input", initializers.orthogonal(), (x.width, 3 * width))
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
    """LayerNorm on the input; layers of Linear, activation and LayerNorm; a GRU and a LayerNorm if recurrent.

    The agent id enters after the input's LayerNorm: as a one-hot with weights of its own, the same as
    appending it there, which leaves the part that all agents have in common to be computed once.

    Attributes:
        hidden_sizes: width of each layer; the GRU is as wide as the last.
        activation: one of ``ACTIVATIONS``.
        layer_norm: whether there is any LayerNorm.
        recurrent: whether there is a GRU.
    """

    hidden_sizes: tuple[int, ...]
    activation: str = "relu"
    layer_norm: bool = True
    recurrent: bool = False

    @property
    def state_size(self) -> int:
        """H, features of the recurrent state; 0 if feed-forward."""
        return self.hidden_sizes[-1] if self.recurrent else 0

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, agent_id: Array | None, hidden: Array | None, starts: Array
    ) -> tuple[Features, Array | None]:
        """One agent's features; arguments and results are those of :class:`fp3o_jax.team.trunks.TrunkModule`,
        but for a last LayerNorm that is left to the head."""

        def normed(x: Array, name: str) -> Features:
            return DeferredNorm(x, *NormParams(x.shape[-1], name=name)()) if self.layer_norm else Plain(x)

        size, width = x.shape[-1], self.hidden_sizes[0]
        rows = size if agent_id is None else size + agent_id.shape[-1]
        kernel = self.param("dense_0", initializers.orthogonal(GAIN), (rows, width))
        bias = self.param("bias_0", initializers.zeros, (width,))
        weights = kernel[:size]
        if self.layer_norm:
            # Only the weights of the input's LayerNorm are learned: they join those of the layer after it.
            scale, shift = NormParams(size, name="input_norm")()
            weights, bias = scale[:, None] * weights, (shift * mask) @ weights + bias
        if agent_id is not None:
            bias = bias + agent_id @ kernel[size:]
        x = matmul(x, weights) + bias
        activation = ACTIVATIONS[self.activation]
        features = normed(activation(x), "norm_0")
        for i, width in enumerate(self.hidden_sizes[1:], 1):
            x = features.linear(*LinearParams(features.width, width, GAIN, name=f"dense_{i}")())
            features = normed(activation(x), f"norm_{i}")
        if not self.recurrent:
            return features, None
        states = GRU(name="gru")(features, hidden, starts)
        return normed(states, "norm_gru"), states


class CategoricalHead(nn.Module):
    """Features [..., W] -> logits [..., A]."""

    num_actions: int

    @nn.compact
    def __call__(self, x: Features, available: Array) -> Categorical:
        logits = x.linear(*LinearParams(x.width, self.num_actions, 0.01, name="logits")())
        return Categorical(jnp.where(available, logits, MASKED_LOGIT))


class GaussianHead(nn.Module):
    """Features [..., W] -> mean [..., A]; the deviation is a parameter, ``sigmoid(log_std) / 2``."""

    num_actions: int

    @nn.compact
    def __call__(self, x: Features, available: Array) -> DiagonalGaussian:
        mean = x.linear(*LinearParams(x.width, self.num_actions, 0.01, name="mean")())
        log_std = self.param("log_std", initializers.ones, (self.num_actions,))
        std = jnp.broadcast_to(jax.nn.sigmoid(log_std) * 0.5, mean.shape)
        return DiagonalGaussian(mean, std, jnp.broadcast_to(available, mean.shape).astype(mean.dtype))


class ValueHead(nn.Module):
    """Features [..., W] -> values [...]."""

    @nn.compact
    def __call__(self, x: Features) -> Array:
        kernel = self.param("kernel", initializers.orthogonal(1.0), (x.width, 1))
        return x.linear(kernel, self.param("bias", initializers.zeros, (1,)))[..., 0]
