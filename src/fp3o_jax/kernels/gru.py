"""A GRU's scan, whose gradient does step by step only what needs the step after."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.kernels.dense import matmul
from fp3o_jax.kernels.loops import of_rows


def _gates(projected: Array, recurrent: Array) -> tuple[Array, Array, Array]:
    """Reset and update gate and candidate state [..., W] from what inputs and states say, [..., 3 W]."""
    x_r, x_z, x_n = jnp.split(projected, 3, -1)
    h_r, h_z, h_n = jnp.split(recurrent, 3, -1)
    reset = jax.nn.sigmoid(x_r + h_r)
    return reset, jax.nn.sigmoid(x_z + h_z), jnp.tanh(x_n + reset * h_n)


def _of_this_step(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """A step's slices of the inputs, copied first on a CPU: XLA does not vectorise there what reads through.

    Elsewhere each copy would be a kernel of its own.
    """
    return jax.lax.platform_dependent(inputs, cpu=jax.lax.optimization_barrier, default=lambda inputs: inputs)


@jax.custom_vjp
def gru_scan(projected: Array, hidden: Array, starts: Array, kernel: Array, bias: Array) -> Array:
    """A GRU's states.

    In its gradient only what needs the step after is done step by step; the rest is done at once.

    Args:
        projected: [L, N, 3 W] what the inputs say to reset gate, update gate and candidate.
        hidden: [N, W] before the first step.
        starts: [L, N] bool, the state is forgotten before this step.
        kernel, bias: [W, 3 W], [3 W], of the states.

    Returns:
        [L, N, W] after each step.
    """

    @of_rows
    def gru_step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, start = _of_this_step(inputs)
        h = jnp.where(start[:, None], 0.0, h)
        _, update, candidate = _gates(x, h @ kernel + bias)
        h = candidate + update * (h - candidate)
        return h, h

    return jax.lax.scan(gru_step, hidden, (projected, starts))[1]


def _gru_scan_forward(projected: Array, hidden: Array, starts: Array, kernel: Array, bias: Array):
    # Without its gradient, which nothing takes here: in plain sight of `in_one_loop`.
    states = gru_scan.fun(projected, hidden, starts, kernel, bias)
    return states, (projected, hidden, starts, kernel, bias, states)


def _gru_scan_backward(residuals: tuple[Array, ...], cotangent: Array):
    projected, hidden, starts, kernel, bias, states = residuals
    before = jnp.where(starts[..., None], 0.0, jnp.concatenate([hidden[None], states[:-1]]))
    recurrent = matmul(before, kernel) + bias
    reset, update, candidate = _gates(projected, recurrent)
    # What a change of the state after a step owes to the arguments of candidate, update and reset gate.
    by_candidate = (1.0 - update) * (1.0 - candidate**2)
    by_update = (before - candidate) * update * (1.0 - update)
    by_reset = by_candidate * recurrent[..., 2 * hidden.shape[-1] :] * reset * (1.0 - reset)
    by_recurrent = jnp.concatenate([by_reset, by_update, by_candidate * reset], -1)
    # Transposed once, which the barrier keeps from being undone: XLA's CPU backend would do it in every step,
    # in many times the time of the step's product.
    transposed = jax.lax.optimization_barrier(kernel.T)

    @of_rows
    def gru_step_back(behind: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        cotangent, factors, update, start = _of_this_step(inputs)
        change = cotangent + behind
        behind = change * update + (jnp.tile(change, 3) * factors) @ transposed
        return jnp.where(start[:, None], 0.0, behind), change

    inputs = (cotangent, by_recurrent, update, starts)
    d_hidden, change = jax.lax.scan(gru_step_back, jnp.zeros_like(hidden), inputs, reverse=True)
    d_recurrent = jnp.tile(change, 3) * by_recurrent
    d_projected = jnp.concatenate([d_recurrent[..., : 2 * hidden.shape[-1]], change * by_candidate], -1)
    flat = d_recurrent.reshape((-1, d_recurrent.shape[-1]))
    d_kernel = before.reshape((-1, before.shape[-1])).T @ flat
    return d_projected, d_hidden, None, d_kernel, flat.sum(0)


gru_scan.defvjp(_gru_scan_forward, _gru_scan_backward)
