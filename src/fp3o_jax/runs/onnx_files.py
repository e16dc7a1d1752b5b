"""Policies as ONNX, a file for each agent: for a robot that has no JAX, or no Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

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
        model = to_onnx(
            _on_a_cpu(lambda *args, act=act, outputs=outputs: tuple(act(*args)[name] for name in outputs)),
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


def _on_a_cpu(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` without the branches for other devices: ``platform_dependent`` is nothing that ONNX knows."""

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        flat = _evaluate(closed, *args)
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return run


def _evaluate(closed: core.ClosedJaxpr, *args: Any) -> list[Any]:
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(closed.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        values, name = [read(atom) for atom in equation.invars], equation.primitive.name
        if name == "platform_index":
            platforms = equation.params["platforms"]
            results = [next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)]
        elif name == "cond" and isinstance(values[0], int):
            results = _evaluate(equation.params["branches"][values[0]], *values[1:])
        else:
            functions, params = equation.primitive.get_bind_params(equation.params)
            results = equation.primitive.bind(*functions, *values, **params)
            results = results if equation.primitive.multiple_results else [results]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]
