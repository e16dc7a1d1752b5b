"""Trunks of a user's own: what they are asked, and whether they answer."""

from __future__ import annotations

import re
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fp3o_jax.config import ConfigError
from fp3o_jax.kernels.dense import as_features

#: One module for actors and critics, or a pair: the actors' and the critics'.
Trunks = nn.Module | tuple[nn.Module, nn.Module]


class TrunkModule(Protocol):
    """What stands between an agent's inputs and its head: any flax module that is called like this.

    It describes one agent; agents of one group use its parameters together, others have their own. L steps of
    N sequences come in, and the first axis is time. It may keep parameters, and nothing else that changes.

    Attributes:
        state_size: H, features of its recurrent state, which begins as zeros; 0, or no such attribute, if it
            has none.
    """

    state_size: int

    def __call__(
        self, x: Array, mask: Array, agent_id: Array | None, hidden: Array | None, starts: Array
    ) -> tuple[Array, Array | None]:
        """Features, from which a linear head makes logits, means or values.

        Args:
            x: [L, N, F] what the agent sees, or the critic, as ``normalize_obs`` makes it; zeros after the
                features that the agent has.
            mask: [F] or [N, F], 1 where the feature exists.
            agent_id: [n] or [N, n], one-hot; None where agents are not told apart, or by their weights.
            hidden: [N, H] state before the first step; None without one.
            starts: [L, N] bool, an episode begins with this step: the state before it is to be forgotten.

        Returns:
            Features [L, N, W], and the states [L, N, H] after each step, or None.
        """
        ...


def state_size(trunk: nn.Module) -> int:
    """H of a trunk; 0 without a state."""
    return getattr(trunk, "state_size", 0)


def both(trunk: Trunks) -> tuple[nn.Module, nn.Module]:
    """The actors' trunk and the critics'.

    Raises:
        ConfigError: it is neither a flax module nor a pair of them.
    """
    pair = trunk if isinstance(trunk, tuple) else (trunk, trunk)
    if len(pair) != 2 or not all(isinstance(module, nn.Module) for module in pair):
        raise ConfigError(
            f"trunk={trunk!r} must be a module, an instance of flax.linen.Module, or a pair of them: the "
            "actors' and the critics'"
        )
    return pair


def described(trunk: Trunks | None) -> list[str] | None:
    """The actors' and the critics' trunk as a file can hold them: class and attributes; None if None."""
    if trunk is None:
        return None
    # Without flax's layout, and the addresses of functions.
    texts = (re.sub(r" at 0x[0-9a-f]+|# attributes", "", repr(module)) for module in both(trunk))
    return [re.sub(r"(?<=\() | (?=\))", "", " ".join(text.split())) for text in texts]


def check_protocol(trunk: nn.Module, num_features: int, num_ids: int | None, recurrent: bool) -> None:
    """Whether a module keeps to :class:`TrunkModule`. Nothing is compiled.

    Args:
        trunk: the module.
        num_features: F.
        num_ids: n; None where agents are not told apart by an id.
        recurrent: what the settings say.

    Raises:
        ConfigError: it does not, or it has a state that the settings do not know of, or the reverse.
    """
    (name, _), size = described(trunk), state_size(trunk)
    if bool(size) != recurrent:
        raise ConfigError(
            f"recurrent={recurrent}, and trunk={name} has state_size={size}: set recurrent={bool(size)}"
        )
    length, count = 2, 3

    def run(rows: tuple[int, ...]) -> Any:
        """With ``rows`` before the axes of mask and id."""
        return trunk.init_with_output(
            jax.random.key(0),
            jnp.zeros((length, count, num_features)),
            jnp.ones((*rows, num_features)),
            None if num_ids is None else jnp.ones((*rows, num_ids)),
            jnp.zeros((count, size)) if size else None,
            jnp.zeros((length, count), bool),
        )

    for rows in ((), (count,)):
        try:
            result, variables = jax.eval_shape(lambda rows=rows: run(rows))
        except Exception as error:
            raise ConfigError(
                f"trunk={name} fails when it is called with x [L, N, {num_features}], mask, agent_id, hidden "
                f"and starts (fp3o_jax.team.trunks.TrunkModule): {type(error).__name__}: {error}"
            ) from error
        wanted = (length, count, size) if size else None
        pair = result if isinstance(result, tuple) and len(result) == 2 else (None, None)
        features, states = (getattr(x, "shape", None) for x in (as_features(pair[0]).x, pair[1]))
        if not (features and len(features) == 3 and features[:2] == (length, count) and states == wanted):
            raise ConfigError(
                f"trunk={name} must return features [L, N, W] and states "
                f"{f'[L, N, {size}]' if size else 'None'}; with L={length}, N={count} it returns "
                f"{jax.tree.map(lambda x: x.shape, result)}"
            )
        if set(variables) != {"params"}:
            raise ConfigError(
                f"trunk={name} must have parameters and nothing else that changes, and has "
                f"{sorted(variables) or 'none'}"
            )
