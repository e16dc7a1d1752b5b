"""The comparisons that all other tests use."""

import numpy as np
import pytest

from finite import assert_allclose, assert_array_equal


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
