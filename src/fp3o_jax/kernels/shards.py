"""One run in several shards, each with some of its environments: side by side on a device, or on several.

A function of one shard is mapped over them by :func:`over_shards`. What it says of all samples together goes
through :func:`total`; what it draws for its own goes through :func:`own_key`. Both leave things as they are
where the run is in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

#: Names of the mapped axes: the devices that share a run, and its shards on one of them.
DEVICES, SHARDS = "fp3o_devices", "fp3o_shards"


def over_shards(fn: Callable[..., Any], count: int, in_axes: Any, out_axes: Any) -> Callable[..., Any]:
    """``fn`` of one shard over all of them, or over those on this device.

    Args:
        fn: a function of one shard.
        count: how many shards the run has; 1 leaves ``fn`` as it is.
        in_axes, out_axes: 0 for arguments and results that each shard has its own of, on a leading axis; None
            for those that are the same for all.
    """
    if count == 1:
        return fn

    def mapped(*args: Any) -> Any:
        here = count // (jax.lax.axis_size(DEVICES) if _is_mapped(DEVICES) else 1)
        return jax.vmap(fn, in_axes, out_axes, axis_name=SHARDS, axis_size=here)(*args)

    return mapped


def total(tree: Any) -> Any:
    """The sum over all shards."""
    for axis in (SHARDS, DEVICES):
        if _is_mapped(axis):
            tree = jax.lax.psum(tree, axis)
    return tree


def own_key(key: Array) -> Array:
    """A key of the shard's own."""
    if not _is_mapped(SHARDS):
        return key
    index = jax.lax.axis_index(SHARDS)
    if _is_mapped(DEVICES):
        index += jax.lax.axis_index(DEVICES) * jax.lax.axis_size(SHARDS)
    return jax.random.fold_in(key, index)


def _is_mapped(axis: str) -> bool:
    try:
        jax.lax.axis_size(axis)
    except NameError:  # what JAX says of an axis that is not there
        return False
    return True
