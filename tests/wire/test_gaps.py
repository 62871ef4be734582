"""Keys as gaps: every list of int64 comes back as it was, in fewer bytes where they lie close."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.errors import LimitError, WireError
from fedps.wire.compress import gap_bytes, pack_gaps
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Pull
from tests.wire.frames import pack

whole = st.integers(-(2**63), 2**63 - 1)
close = st.builds(lambda first, gaps: [first + int(g) for g in np.cumsum(gaps)], whole.filter(lambda n: n < 2**60), st.lists(st.integers(0, 2**34), max_size=9))  # fmt: skip


@given(st.one_of(st.lists(whole, max_size=9), close, st.lists(st.integers(0, 300), max_size=9).map(sorted)))
def test_every_list_comes_back(numbers: list[int]) -> None:
    keys = np.array(numbers, np.int64)
    [found] = decode(encode(1, Pull(("t",)), [keys]), Limits()).arrays
    assert found.dtype == np.int64
    assert not found.flags.writeable
    assert found.tolist() == numbers


@pytest.mark.parametrize(
    ("gap", "code"), [(1, "1"), (255, "1"), (256, "2"), (65536, "4"), (2**32 - 1, "4"), (2**32, None)]
)
def test_the_narrowest_gap_is_taken(gap: int, code: str | None) -> None:
    keys = np.cumsum(np.array([10**6, 1, gap, 1], np.int64))
    packed = pack_gaps(keys)
    assert (packed and packed[0]) == code
    if packed and code:
        assert len(packed[1]) == gap_bytes(4, code) == 8 + 3 * int(code)


def test_a_thousand_neighbours_take_a_byte_each() -> None:
    head = len(encode(1, Pull(("t",)), [np.arange(0)]))
    assert len(encode(1, Pull(("t",)), [np.arange(5000, 6000)])) - head < 1030


def test_one_wide_gap_is_not_worth_more_than_it_saves() -> None:
    for few in ([], [7], [7, 8]):
        assert pack_gaps(np.array(few, np.int64)) is None


PULL = {"type": "Pull", "tables": ["t"]}
FOUR = bytes([1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0])  # 1, 2, 3, 4
MALFORMED = {
    "fewer bytes than ids": pack([1, PULL, [["1", [10]]]], FOUR),
    "more bytes than ids": pack([1, PULL, [["1", [4]]]], FOUR + bytes(8)),
    "none": pack([1, PULL, [["1", [0]]]]),
    "none, with bytes": pack([1, PULL, [["1", [0]]]], FOUR),
    "in a square": pack([1, PULL, [["1", [2, 2]]]], FOUR),
    "an unknown width": pack([1, PULL, [["8", [4]]]], FOUR),
    "for values": pack([1, {"type": "Seed", "table": "t"}, [["1", [4]]]], FOUR),
    "two to the 62": pack([1, PULL, [["1", [2**62]]]], FOUR),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_gaps_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, Limits())


def test_the_good_one_among_them_is_read() -> None:
    assert decode(pack([1, PULL, [["1", [4]]]], FOUR), Limits()).arrays[0].tolist() == [1, 2, 3, 4]


def test_a_sum_past_the_largest_id_is_out_of_order() -> None:
    [found] = decode(pack([1, PULL, [["1", [4]]]], b"\xff" * 7 + b"\x7f" + FOUR[8:]), Limits()).arrays
    assert not (found[1:] > found[:-1]).all()


def test_keys_make_up_no_more_than_a_message_may_have() -> None:
    tables = tuple("abcdefgh")
    data = encode(1, Pull(tables), [np.arange(1000)] * 8)
    assert len(data) < 9000
    assert len(decode(data, Limits(message_bytes=64_000)).arrays) == 8
    with pytest.raises(LimitError, match="keys that make up 8 bytes more"):
        decode(data, Limits(message_bytes=63_992))
