from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import percentile

samples = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(samples)
def test_the_ends_are_the_smallest_and_the_largest_sample(values: list[float]) -> None:
    assert (percentile(values, 0.0), percentile(values, 1.0)) == (min(values), max(values))


@given(samples, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_gives_a_smaller_value(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert percentile(values, low) <= percentile(values, high) + 1e-6


def test_between_two_samples_it_is_interpolated() -> None:
    assert percentile([10.0, 0.0], 0.25) == 2.5


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)
