"""What an agent's policy and value function are, and how all agents' are evaluated at once.

The modules describe one agent on sequences ``[L, N, features]`` (L steps of N sequences); for feed-forward
networks L is only another batch axis. :class:`ActorCritic` runs them for all agents, whoever shares what.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jax import Array

from fp3o_jax.sharing import Sharing, apply_grouped, take

GAIN = 2.0**0.5
MASKED_LOGIT = -1e10


class Distribution(Protocol):
    """A policy's action distribution; leading axes are free."""

    def sample(self, key: Array) -> Array: ...

    def mode(self) -> Array: ...

    def log_prob(self, action: Array) -> Array: ...

    def entropy(self) -> Array: ...


class Categorical(NamedTuple):
    """Discrete actions; logits [..., A], unavailable ones at ``MASKED_LOGIT``. Actions are int [...]."""

    logits: Array

    def sample(self, key: Array) -> Array:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        return self.logits.argmax(-1)

    def log_prob(self, action: Array) -> Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]

    def entropy(self) -> Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_probs) * log_probs).sum(-1)


class DiagonalGaussian(NamedTuple):
    """Continuous actions [..., A]; ``mask`` is 0 at padded dimensions, which add nothing anywhere."""

    mean: Array
    std: Array
    mask: Array

    def sample(self, key: Array) -> Array:
        return self.mode() + self.std * self.mask * jax.random.normal(key, self.mean.shape)

    def mode(self) -> Array:
        return self.mean * self.mask

    def log_prob(self, action: Array) -> Array:
        z = (action - self.mean) / self.std
        per_dimension = -0.5 * z**2 - jnp.log(self.std) - 0.5 * np.log(2 * np.pi)
        return (per_dimension * self.mask).sum(-1)

    def entropy(self) -> Array:
        per_dimension = 0.5 + 0.5 * np.log(2 * np.pi) + jnp.log(self.std)
        return (per_dimension * self.mask).sum(-1)


class InputNorm(nn.Module):
    """LayerNorm over the features that exist: padded ones neither count nor come through."""

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        scale = self.param("scale", initializers.ones, x.shape[-1:])
        bias = self.param("bias", initializers.zeros, x.shape[-1:])
        count = mask.sum()
        mean = (x * mask).sum(-1, keepdims=True) / count
        variance = ((x - mean) ** 2 * mask).sum(-1, keepdims=True) / count
        return ((x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + bias) * mask


class GRU(nn.Module):
    """One gated recurrent layer with separate input and recurrent biases (Cho et al., 2014, as in cuDNN).

    The inputs of the whole sequence are projected in one product; only the recurrent one is in the scan.
    """

    @nn.compact
    def __call__(self, x: Array, hidden: Array, starts: Array) -> Array:
        """x [L, N, W], hidden [N, W] before the first step, starts [L, N] bool -> states [L, N, W]."""
        width = hidden.shape[-1]
        w_input = self.param("w_input", initializers.orthogonal(), (x.shape[-1], 3 * width))
        b_input = self.param("b_input", initializers.zeros, (3 * width,))
        w_hidden = self.param("w_hidden", initializers.orthogonal(), (width, 3 * width))
        b_hidden = self.param("b_hidden", initializers.zeros, (3 * width,))

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            projected, start = inputs
            h = jnp.where(start[:, None], 0.0, h)
            x_r, x_z, x_n = jnp.split(projected, 3, -1)
            h_r, h_z, h_n = jnp.split(h @ w_hidden + b_hidden, 3, -1)
            update = jax.nn.sigmoid(x_z + h_z)
            candidate = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
            h = (1.0 - update) * candidate + update * h
            return h, h

        return jax.lax.scan(step, hidden, (x @ w_input + b_input, starts))[1]


class LayerNorm(nn.Module):
    """LayerNorm over the last axis (Ba et al., 2016), of what comes in or of its positive part."""

    rectify: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", initializers.ones, x.shape[-1:])
        bias = self.param("bias", initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias, self.rectify)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, rectify: bool) -> Array:
    """LayerNorm of ``x`` or, with ``rectify``, of max(x, 0).

    Its gradient is written by hand: it goes through the samples fewer times than the derived one.

    Args:
        x: [..., W].
        scale, bias: [W].
        rectify: apply a ReLU first.
    """
    return _layer_norm_forward(x, scale, bias, rectify)[0]


def _standardize(x: Array, mean: Array, deviation: Array, rectify: bool) -> Array:
    return ((jnp.maximum(x, 0.0) if rectify else x) - mean) * deviation


def _layer_norm_forward(x: Array, scale: Array, bias: Array, rectify: bool):
    mean = row_mean(jnp.maximum(x, 0.0) if rectify else x)
    deviation = jax.lax.rsqrt(row_mean(_standardize(x, mean, 1.0, rectify) ** 2) + 1e-5)
    return _standardize(x, mean, deviation, rectify) * scale + bias, (x, mean, deviation, scale)


def _layer_norm_backward(rectify: bool, residuals: tuple[Array, ...], cotangent: Array):
    x, mean, deviation, scale = residuals
    standard = _standardize(x, mean, deviation, rectify)
    g = cotangent * scale
    d_x = (g - row_mean(g) - standard * row_mean(g * standard)) * deviation
    samples = tuple(range(x.ndim - 1))
    d_scale, d_bias = (cotangent * standard).sum(samples), cotangent.sum(samples)
    return jnp.where(x > 0.0, d_x, 0.0) if rectify else d_x, d_scale, d_bias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def row_mean(x: Array) -> Array:
    """Mean over the last axis, which stays: [..., W] -> [..., 1]."""
    weights = jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return jax.lax.platform_dependent(
        x,
        # XLA does not vectorise sums over the last axis on a CPU; its products are.
        cpu=lambda x: jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST),
        default=lambda x: x.mean(-1, keepdims=True),
    )


class Trunk(nn.Module):
    """LayerNorm on the input, two layers of Linear, ReLU and LayerNorm, and a GRU if recurrent.

    The agent id enters behind the input's LayerNorm: as a one-hot with weights of its own, the same as
    appending it there, which leaves the part that all agents have in common to be computed once.
    """

    width: int
    recurrent: bool

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, agent_id: Array, hidden: Array, starts: Array
    ) -> tuple[Array, Array]:
        """One agent's features.

        Args:
            x: [L, N, F] input, padded to the largest agent's.
            mask: [F] 1 where the feature exists.
            agent_id: [n] one-hot, or [0] where agents are told apart by their weights.
            hidden: [N, H] state before the first step (H = 0 if feed-forward).
            starts: [L, N] bool, an episode begins with this step.

        Returns:
            [L, N, width] features and [L, N, H] states after each step.
        """
        x = InputNorm(name="input_norm")(x, mask)
        kernel = self.param(
            "dense_0", initializers.orthogonal(GAIN), (x.shape[-1] + agent_id.shape[0], self.width)
        )
        bias = self.param("bias_0", initializers.zeros, (self.width,))
        x = x @ kernel[: x.shape[-1]] + (bias + agent_id @ kernel[x.shape[-1] :])
        x = LayerNorm(rectify=True, name="norm_0")(x)
        x = nn.Dense(self.width, kernel_init=initializers.orthogonal(GAIN), name="dense_1")(x)
        x = LayerNorm(rectify=True, name="norm_1")(x)
        if not self.recurrent:
            return x, jnp.zeros((*x.shape[:-1], 0))
        states = GRU(name="gru")(x, hidden, starts)
        return LayerNorm(name="norm_gru")(states), states


class CategoricalHead(nn.Module):
    """Features [..., W] -> logits [..., A]."""

    num_actions: int

    @nn.compact
    def __call__(self, x: Array, available: Array) -> Categorical:
        logits = nn.Dense(self.num_actions, kernel_init=initializers.orthogonal(0.01), name="logits")(x)
        return Categorical(jnp.where(available, logits, MASKED_LOGIT))


class GaussianHead(nn.Module):
    """Features [..., W] -> mean [..., A]; the deviation is a parameter, ``sigmoid(log_std) / 2``."""

    num_actions: int

    @nn.compact
    def __call__(self, x: Array, available: Array) -> DiagonalGaussian:
        mean = nn.Dense(self.num_actions, kernel_init=initializers.orthogonal(0.01), name="mean")(x)
        log_std = self.param("log_std", initializers.ones, (self.num_actions,))
        std = jnp.broadcast_to(jax.nn.sigmoid(log_std) * 0.5, mean.shape)
        return DiagonalGaussian(mean, std, jnp.broadcast_to(available, mean.shape).astype(mean.dtype))


class ActorCritic:
    """Policies and value functions of n agents under one sharing.

    Parameters are ``{"actor": {"trunk", "head"}, "critic": {"trunk", "head"}}``, each leaf with a leading
    axis of groups (see :mod:`fp3o_jax.sharing`). Methods take ``agents``: the int index [P] of the agents
    that the rows of the inputs belong to, or None for all of them in order.

    Args:
        sharing: the partition.
        obs_sizes: [n] observation features of each agent.
        critic_sizes: [n] features of what each agent's critic sees.
        action_sizes: [n] number of actions, or of action dimensions.
        discrete: kind of action.
        hidden_size: width of every layer.
        recurrent: GRU or feed-forward.
        agent_id: tell agents that share weights apart by a one-hot id.
    """

    def __init__(
        self,
        *,
        sharing: Sharing,
        obs_sizes: tuple[int, ...],
        critic_sizes: tuple[int, ...],
        action_sizes: tuple[int, ...],
        discrete: bool,
        hidden_size: int,
        recurrent: bool,
        agent_id: bool,
    ):
        self.sharing = sharing
        self.num_agents = sharing.num_agents
        self.state_size = hidden_size if recurrent else 0
        self.max_actions = max(action_sizes)
        self._trunk = Trunk(hidden_size, recurrent)
        head = CategoricalHead if discrete else GaussianHead
        self._policy_head = head(self.max_actions)
        self._value_head = nn.Dense(1, kernel_init=initializers.orthogonal(1.0))
        shares = agent_id and len(set(sharing.trunk)) < self.num_agents
        self._ids = np.eye(self.num_agents, dtype=np.float32)[:, : self.num_agents if shares else 0]
        self._obs_mask = _prefix_masks(obs_sizes)
        self._critic_mask = _prefix_masks(critic_sizes)
        self._action_mask = _prefix_masks(action_sizes)
        self._width = hidden_size

    def init(self, key: Array) -> dict[str, Any]:
        """Fresh parameters: orthogonal weights, zero biases."""
        keys = iter(jax.random.split(key, 4))

        def trunk(mask: np.ndarray, groups: tuple[int, ...]) -> Any:
            x = jnp.zeros((1, 1, mask.shape[-1]))
            hidden, starts = jnp.zeros((1, self.state_size)), jnp.zeros((1, 1), bool)
            return jax.vmap(
                lambda k: self._trunk.init(k, x, mask[0], self._ids[0], hidden, starts)["params"]
            )(jax.random.split(next(keys), max(groups) + 1))

        def head(module: nn.Module, groups: tuple[int, ...], *inputs: Array) -> Any:
            features = jnp.zeros((1, 1, self._width))
            return jax.vmap(lambda k: module.init(k, features, *inputs)["params"])(
                jax.random.split(next(keys), max(groups) + 1)
            )

        critic_groups = self.sharing.critic.trunk
        return {
            "actor": {
                "trunk": trunk(self._obs_mask, self.sharing.trunk),
                "head": head(self._policy_head, self.sharing.head, jnp.ones(self.max_actions)),
            },
            "critic": {
                "trunk": trunk(self._critic_mask, critic_groups),
                "head": head(self._value_head, critic_groups),
            },
        }

    def initial_hidden(self, num_envs: int) -> Array:
        """Zero states [n, B, H] of actors or critics."""
        return jnp.zeros((self.num_agents, num_envs, self.state_size))

    def policy(
        self,
        params: dict[str, Any],
        obs: Array,
        action_mask: Array | None,
        hidden: Array,
        starts: Array,
        agents: Array | None = None,
    ) -> tuple[Distribution, Array]:
        """Action distributions of P agents.

        Args:
            params: ``params["actor"]``.
            obs: [P, L, N, O], padded observations.
            action_mask: [P, L, N, A] bool, available actions, or None if all always are.
            hidden: [P, N, H] states before the first step.
            starts: [L, N] bool.
            agents: [P] or None.

        Returns:
            The distribution, leading axes [P, L, N], and the states [P, L, N, H] after each step.
        """
        chex.assert_rank([obs, hidden, starts], [4, 3, 2])
        features, states = self._features(
            params["trunk"], self.sharing.trunk, agents, obs, self._obs_mask, hidden, starts
        )
        available = take(self._action_mask, agents)[:, None, None, :] > 0
        if action_mask is not None:
            available = available & action_mask
        distribution = apply_grouped(
            lambda p, x, a: self._policy_head.apply({"params": p}, x, a),
            params["head"],
            self.sharing.head,
            agents,
            features,
            available,
        )
        return distribution, states

    def value(
        self,
        params: dict[str, Any],
        inputs: Array,
        hidden: Array,
        starts: Array,
        agents: Array | None = None,
    ) -> tuple[Array, Array]:
        """State values of P agents, in the units of the critic (normalised).

        Args:
            params: ``params["critic"]``.
            inputs: [P, L, N, S] what each agent's critic sees, or [1, L, N, S] if all see the same.
            hidden: [P, N, H] states before the first step.
            starts: [L, N] bool.
            agents: [P] or None.

        Returns:
            Values [P, L, N] and states [P, L, N, H] after each step.
        """
        chex.assert_rank([inputs, hidden, starts], [4, 3, 2])
        groups = self.sharing.critic.trunk
        features, states = self._features(
            params["trunk"], groups, agents, inputs, self._critic_mask, hidden, starts
        )
        values = apply_grouped(
            lambda p, x: self._value_head.apply({"params": p}, x),
            params["head"],
            groups,
            agents,
            features,
        )
        return values[..., 0], states

    def _features(
        self,
        params: Any,
        groups: tuple[int, ...],
        agents: Array | None,
        x: Array,
        mask: np.ndarray,
        hidden: Array,
        starts: Array,
    ) -> tuple[Array, Array]:
        one_view = x.shape[0] == 1 and hidden.shape[0] > 1
        same_mask = bool((mask == mask[0]).all())
        return apply_grouped(
            lambda p, *inputs: self._trunk.apply({"params": p}, *inputs),
            params,
            groups,
            agents,
            x[0] if one_view else x,
            mask[0] if same_mask else take(mask, agents),
            take(self._ids, agents),
            hidden,
            starts,
            in_axes=(None if one_view else 0, None if same_mask else 0, 0, 0, None),
        )


def _prefix_masks(sizes: tuple[int, ...]) -> np.ndarray:
    """[n, max size] float, 1 for the leading features that exist."""
    return (np.arange(max(sizes)) < np.array(sizes)[:, None]).astype(np.float32)
