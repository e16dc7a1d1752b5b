"""A state as arrays by name, and these as one array of bytes: how it lies in a checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

#: Names of arrays, and what has a shape and a type.
Layout = Mapping[str, Any]


def is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def blank(template: Any) -> Layout:
    """Names, shapes and types in which a state is saved: keys as their data.

    Args:
        template: what ``jax.eval_shape`` says of the state.
    """
    data = jax.eval_shape(
        lambda tree: jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree), template
    )
    return _named(data)


def listed(record: Mapping[str, Any]) -> Layout | None:
    """The same as the record of a checkpoint lists it; None if it lists none."""
    if "arrays" not in record:
        return None
    return {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, shape, dtype in record["arrays"]}


def nbytes(like: Layout) -> int:
    """Of all arrays of such shapes and types."""
    return sum(_nbytes(leaf) for leaf in like.values())


def room(like: Layout) -> np.ndarray:
    """As many bytes, to read them into."""
    return np.empty(nbytes(like), np.uint8)


def _nbytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def without_keys(state: Any) -> Any:
    """The same tree on the host, keys as their data: it is saved as the state itself is."""
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), state)


def pack(state: Any) -> dict[str, np.ndarray]:
    """Leaves by name, copied to the host: the device may reuse their memory at once."""
    return {
        name: np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf, copy=True)
        for name, leaf in _named(state).items()
    }


def unpack(arrays: Mapping[str, np.ndarray], template: Any) -> Any:
    """The inverse of :func:`pack`."""

    def leaf(path: Any, like: Any) -> jax.Array:
        value = jax.numpy.asarray(arrays[jax.tree_util.keystr(path)])
        return jax.random.wrap_key_data(value) if is_key(like) else value

    return jax.tree_util.tree_map_with_path(leaf, template)


def join(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """All arrays as one of bytes, in the order of their names.

    As one, since orbax writes and reads many at once: where one of them fails, it leaves the others behind,
    and each of those complains on stderr about the event loop that it finds closed.
    """
    return np.frombuffer(b"".join(arrays[name].tobytes() for name in sorted(arrays)), np.uint8)


def split(joined: np.ndarray, like: Layout) -> dict[str, np.ndarray]:
    """The inverse of :func:`join`, for arrays with the shapes and types of ``like``."""
    names = sorted(like)
    parts = np.split(joined, np.cumsum([_nbytes(like[name]) for name in names])[:-1])
    return {
        name: np.frombuffer(part.tobytes(), like[name].dtype).reshape(like[name].shape)
        for name, part in zip(names, parts, strict=True)
    }


def structure(arrays: Layout) -> str:
    """Hash of names, shapes and types, and of the layout on the disk."""
    listing = ["bytes"] + [f"{name} {arrays[name].shape} {arrays[name].dtype}" for name in sorted(arrays)]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of all values."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(np.ascontiguousarray(arrays[name]).tobytes())
    return sha.hexdigest()
