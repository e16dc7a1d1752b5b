"""Comparisons that NaN does not pass: NumPy's own take NaN for NaN, and infinity for infinity."""

from typing import Any

import numpy as np


def _finite(*arrays: Any) -> None:
    for array in arrays:
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.inexact):
            bad = array.size - np.isfinite(array).sum()
            assert not bad, f"{bad} of {array.size} values are not finite"


def assert_allclose(actual: Any, desired: Any, **tolerances: Any) -> None:
    """``np.testing.assert_allclose`` of finite values."""
    _finite(actual, desired)
    np.testing.assert_allclose(actual, desired, **tolerances)


def assert_array_equal(actual: Any, desired: Any, **how: Any) -> None:
    """``np.testing.assert_array_equal`` of finite values, if they are floats."""
    _finite(actual, desired)
    np.testing.assert_array_equal(actual, desired, **how)
