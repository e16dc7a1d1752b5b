"""Comparisons that NaN does not pass: NumPy's own take NaN for NaN, and infinity for infinity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def assert_finite(*trees: Any) -> None:
    """Whether all floats in pytrees of arrays, of any precision, are finite."""
    for array in map(np.asarray, jax.tree.leaves(trees)):
        if jnp.issubdtype(array.dtype, jnp.inexact):
            bad = array.size - np.isfinite(array).sum()
            assert not bad, f"{bad} of {array.size} values are not finite"


def assert_allclose(actual: Any, desired: Any, **tolerances: Any) -> None:
    """``np.testing.assert_allclose`` of finite values."""
    assert_finite(actual, desired)
    np.testing.assert_allclose(actual, desired, **tolerances)


def assert_array_equal(actual: Any, desired: Any, **how: Any) -> None:
    """``np.testing.assert_array_equal`` of finite values, if they are floats."""
    assert_finite(actual, desired)
    np.testing.assert_array_equal(actual, desired, **how)
