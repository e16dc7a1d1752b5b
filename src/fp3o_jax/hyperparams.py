"""The settings that are not compiled into a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fp3o_jax.values import unknown


class Hyperparams(NamedTuple):
    """The continuous settings: traced, so a grid of them is one ``vmap`` of one compiled program.

    Each is a scalar, float or array; the meaning of each stands at the field of the same name in
    :class:`~fp3o_jax.Config`.
    """

    actor_lr: Any
    critic_lr: Any
    clip_eps: Any
    weight_clip_eps: Any
    entropy_coef: Any
    value_coef: Any
    gamma: Any
    gae_lambda: Any
    max_grad_norm: Any
    huber_delta: Any

    def override(self, overrides: Hyperparams | Mapping[str, Any] | None) -> Hyperparams:
        """These values, with those named in ``overrides`` replaced.

        Raises:
            ConfigError: a name is not a continuous setting.
        """
        if overrides is None:
            return self
        if isinstance(overrides, Hyperparams):
            return overrides
        for name in overrides:
            if name not in self._fields:
                raise unknown("hyperparams", name, self._fields)
        return self._replace(**overrides)
