"""Histograms and quantiles."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.metrics import SECONDS, Histogram, quantile

TIMES = st.floats(min_value=0, max_value=200, allow_nan=False)


def test_bucket_counts_values_up_to_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 99.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == pytest.approx(105.6)


@given(TIMES, TIMES, st.integers(min_value=1, max_value=1000))
def test_spread_counts_all_values_between_low_and_high(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    histogram = Histogram()
    histogram.spread(low, high, count)
    assert sum(histogram.counts) == pytest.approx(count)
    assert histogram.sum == pytest.approx(count * (low + high) / 2)
    edges = [0.0, *SECONDS, math.inf]
    for lower, upper, counted in zip(edges, edges[1:], histogram.counts, strict=False):
        assert counted >= 0
        assert not counted or (low <= upper and high >= lower)


def test_spread_distributes_values_evenly() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    histogram.spread(0.5, 4.5, 8)
    assert histogram.counts == [1, 2, 4, 1]


def test_quantile_approximates_exact_quantile() -> None:
    generator = random.Random(5)
    values = [generator.lognormvariate(-4, 1) for _ in range(10_000)]
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    exact = statistics.quantiles(values, n=100)
    for q in (0.5, 0.9, 0.99):
        assert quantile(q, histogram.counts) == pytest.approx(exact[round(100 * q) - 1], rel=0.2)


def test_quantile_of_empty_histogram_and_at_bounds() -> None:
    assert quantile(0.5, [0.0, 0.0, 0.0], (1.0, 2.0)) is None
    assert quantile(0.5, [0.0, 0.0, 7.0], (1.0, 2.0)) == 2.0
    assert quantile(1.0, [0.0, 4.0, 0.0], (1.0, 2.0)) == 2.0
    assert quantile(0.5, [4.0, 0.0, 0.0], (1.0, 2.0)) == 0.5
