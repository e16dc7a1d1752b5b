"""Reads what ``fp3o export`` has written, whoever it comes from: of a bounded size, and as it says itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fp3o_jax.config import MAX_LAYERS, ConfigError
from fp3o_jax.files import NUMBER, read_bytes, read_json
from fp3o_jax.team.modules import ACTIVATIONS

WEIGHTS, ARCHITECTURE = "policy.safetensors", "policy.json"
#: Bytes of weights, and numbers in a table of agents by features, that a team to be read may have.
MAX_WEIGHTS, MAX_TABLE = 4 * 2**30, 2**24
WIDTH, GROUP = range(1, 2**24), range(2**12)
#: What ``policy.json`` holds; older versions had fewer of the settings.
EXPORTED = {
    "agents": [str],
    "obs_sizes": [WIDTH],
    "action_sizes": [WIDTH],
    "discrete": bool,
    "action_low?": ([[(NUMBER, None)]], None),
    "action_high?": ([[(NUMBER, None)]], None),
    "trunk_groups": [GROUP],
    "head_groups": [GROUP],
    "agent_id": bool,
    "normalize_obs?": re.compile("layer|running|none"),
    "trunk?": str,
    "hidden_sizes?": ([WIDTH], None),
    "hidden_size?": WIDTH,
    "activation?": re.compile("|".join(ACTIVATIONS)),
    "layer_norm?": bool,
    "recurrent?": bool,
}


def read_architecture(folder: Path) -> dict[str, Any]:
    """``policy.json``.

    Raises:
        ConfigError: it is damaged, or not the architecture of a team.
    """
    told = read_json(folder / ARCHITECTURE, EXPORTED)
    _check_team(told, str(folder / ARCHITECTURE))
    return told


def read_weights(folder: Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``policy.safetensors``.

    Args:
        folder: where it is.
        expected: name -> anything with the shape and dtype of the weights, as the architecture has them.

    Raises:
        ConfigError: it is damaged, or holds other weights.
    """
    from safetensors.numpy import load

    file = folder / WEIGHTS
    data = read_bytes(file, MAX_WEIGHTS)
    try:
        weights = load(data)
    except BaseException as error:  # whatever a damaged file makes of a parser, panics of Rust's among it
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ConfigError(f"{file} is damaged: {str(error)[:200]}") from None
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}
    found = {name: (array.shape, array.dtype) for name, array in weights.items()}
    wrong = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if wrong:
        there, wanted = (_said(each.get(wrong[0])) for each in (found, expected))
        raise ConfigError(
            f"{file} does not fit {ARCHITECTURE}: {wrong[0][:100]} is {there}, expected {wanted}"
            f"{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}"
        )
    return weights


def _said(array: tuple[tuple[int, ...], Any] | None) -> str:
    return "absent" if array is None else f"{array[1]}{list(array[0])}"


def _check_team(told: Mapping[str, Any], where: str) -> None:
    """Whether an architecture is one: of a team, whose tables fit any memory.

    Raises:
        ConfigError: it is none.
    """
    n = len(told["agents"])
    if not 1 <= n <= GROUP.stop or len(set(told["agents"])) < n:
        raise ConfigError(f"{where}: agents has {n} names, expected 1 to {GROUP.stop} different ones")
    for name in ("obs_sizes", "action_sizes", "trunk_groups", "head_groups", "action_low", "action_high"):
        if told.get(name) is not None and len(told[name]) != n:
            raise ConfigError(
                f"{where}: {name} has {len(told[name])} entries, expected one for each of {n} agents"
            )
    for name in ("obs_sizes", "action_sizes"):
        if n * max(told[name]) > MAX_TABLE:
            raise ConfigError(
                f"{where}: {name} has {max(told[name])} for one of {n} agents, which is too large"
            )
    for name in ("trunk_groups", "head_groups"):
        if {*told[name]} != {*range(max(told[name]) + 1)}:
            raise ConfigError(f"{where}: {name}={told[name]} must number the groups from 0")
    for name in ("action_low", "action_high"):
        if told.get(name) and [*map(len, told[name])] != told["action_sizes"]:
            raise ConfigError(f"{where}: {name} must have a bound for each of {told['action_sizes']} actions")
    widths = told.get("hidden_sizes") or [told.get("hidden_size")]
    if "trunk" not in told and (None in widths or len(widths) > MAX_LAYERS or max(widths) ** 2 > 2**31):
        raise ConfigError(
            f"{where}: hidden_sizes={widths[:8]} must be 1 to {MAX_LAYERS} widths of at most 46340"
        )
