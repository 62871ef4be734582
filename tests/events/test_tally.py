"""The sums that a round's events add up to: unions of times, and sums in any order."""

from math import fsum, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.events.tally import Spans
from fedps.figures import Sum

SPANS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


FINITE = st.floats(-1e200, 1e200)


@given(SPANS)
def test_a_union_of_spans_is_the_time_that_any_of_them_covers(spans: list[tuple[int, int]]) -> None:
    covered = {second for begin, end in spans for second in range(begin, end)}
    union = Spans()
    for begin, end in spans:
        union.add(begin, end)
    assert union.length == len(covered)


@given(st.lists(FINITE, min_size=1), st.randoms())
def test_a_sum_is_that_of_fsum_in_any_order(values: list[float], chance: Any) -> None:
    total = Sum()
    for value in chance.sample(values, len(values)):
        total.add(value)
    assert total.mean(1) == fsum(values)


@pytest.mark.parametrize("values", [[1.7e308, 1.7e308], [inf, -inf], [inf], [float("nan"), 1.0], []])
def test_a_sum_that_is_no_number_has_no_mean(values: list[float]) -> None:
    total = Sum()
    for value in values:
        total.add(value)
    assert total.mean(len(values)) is None
