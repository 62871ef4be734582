"""Ids become slots: by counting them off or by sorting, with the same outcome."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.data.samples import coded

IDS = st.lists(st.integers(0, 50) | st.integers(10**9, 10**9 + 3), max_size=30)


@given(IDS, IDS)
def test_each_id_stands_at_its_slot(ids: list[int], more: list[int]) -> None:
    one, other = np.array(ids, np.int64), np.array(more, np.int64)
    keys, slots, others = coded(one, other)
    assert keys.tolist() == sorted({*ids, *more})
    assert [str(a.dtype) for a in (keys, slots, others)] == ["int64", "int32", "int32"]
    np.testing.assert_array_equal(keys[slots], one)
    np.testing.assert_array_equal(keys[others], other)


@pytest.mark.parametrize("reach", [100, 10**12])
def test_both_ways_code_alike(reach: int) -> None:
    small = np.random.default_rng(0).integers(0, 100, 1000)
    keys, slots, _ = coded(small * (reach // 100), small[:0])
    plain = coded(small, small[:0])
    np.testing.assert_array_equal(keys, plain[0] * (reach // 100))
    np.testing.assert_array_equal(slots, plain[1])
