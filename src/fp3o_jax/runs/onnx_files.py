"""Policies as ONNX, a file for each agent: for a robot that has no JAX, or no Python."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from fp3o_jax.config import ConfigError
from fp3o_jax.policy import Policy

#: Runtimes of 2023 and later read it.
OPSET = 17


def save_onnx(policy: Policy, folder: Path) -> list[Path]:
    """Writes ``AGENT.onnx`` for each agent.

    Inputs are ``obs`` float [O] as the environment gives it, for a recurrent policy ``state`` float [H],
    zeros when an episode begins, and for discrete actions ``action_mask`` bool [A], which are available.
    Outputs are those of :meth:`fp3o_jax.policy.Policy.alone`: ``action``, ``logits`` or ``mean`` and ``std``,
    and ``next_state``.

    Args:
        policy: of :func:`fp3o_jax.policy.load_policy`.
        folder: made if it is not there.

    Returns:
        The files.

    Raises:
        ConfigError: the converter is not installed.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ConfigError(
            f"format='onnx' needs the package jax2onnx: pip install 'fp3o-jax[onnx]' ({error})"
        ) from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for agent in policy.agents:
        act, inputs = _of_arrays(policy, agent)
        outputs = [name for name in ORDER if name in jax.eval_shape(act, *inputs.values())]
        with _on_any_device():
            model = to_onnx(
                lambda *args, act=act, outputs=outputs: tuple(act(*args)[name] for name in outputs),
                list(inputs.values()),
                model_name=agent,
                opset=OPSET,
                input_names=list(inputs),
                output_names=outputs,
            )
        files.append(folder / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', agent)}.onnx")
        files[-1].write_bytes(model.SerializeToString())
    return files


#: Of what a policy says, in the order of the outputs.
ORDER = ("action", "logits", "mean", "std", "next_state")


def _of_arrays(policy: Policy, agent: str) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """What an agent does, as a function of the arrays that it needs; and these by name."""
    act, about, i = policy.alone(agent), policy.architecture, policy.agents.index(agent)
    features, actions = about["obs_sizes"][i], about["action_sizes"][i]
    state, inputs = policy.initial_state()[i], {"obs": jax.ShapeDtypeStruct((features,), np.float32)}
    if len(state):
        inputs["state"] = jax.ShapeDtypeStruct(state.shape, np.float32)
    if about["discrete"]:
        inputs["action_mask"] = jax.ShapeDtypeStruct((actions,), bool)

    def of_arrays(*arrays: Any) -> dict[str, Any]:
        given = dict(zip(inputs, arrays, strict=True))
        result = act(**{"state": state} | given)
        return result if len(state) else {k: v for k, v in result.items() if k != "next_state"}

    return of_arrays, inputs


@contextlib.contextmanager
def _on_any_device() -> Iterator[None]:
    """Traces one branch where there is one for each device, of which ONNX knows nothing."""

    def any_branch(*args: Any, default: Callable[..., Any] | None = None, **branches: Any) -> Any:
        return (default or next(iter(branches.values())))(*args)

    with mock.patch.object(jax.lax, "platform_dependent", any_branch):
        yield
