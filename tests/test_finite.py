"""The comparisons that all other tests use."""

import jax.numpy as jnp
import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal, assert_finite
from update_helpers import differs


@pytest.mark.parametrize("compare", [assert_allclose, assert_array_equal])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_equals_nothing(compare, value):
    compare(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    compare(np.array([True, False]), [True, False])
    for pair in (([value], [value]), ([1.0], [value]), ([value], [1.0])):
        with pytest.raises(AssertionError):
            compare(*map(np.array, pair))
    with pytest.raises(AssertionError):
        compare(np.array([1.0]), np.array([2.0]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.complex64])
def test_finite_in_every_precision(dtype):
    values = np.ones(3).astype(dtype)
    assert_finite({"a": values, "b": [True, 3]})
    values[1] = np.nan
    with pytest.raises(AssertionError, match="1 of 3 values"):
        assert_finite({"a": values})


def test_what_is_not_finite_differs_from_nothing():
    assert differs([1.0, 2.0], [1.0, 3.0]) and not differs([1.0], [1.0])
    for pair in (([1.0, np.nan], [2.0, 1.0]), ([1.0], [np.inf])):
        with pytest.raises(AssertionError, match="not finite"):
            differs(*pair)
