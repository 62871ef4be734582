"""How tensors and rows are dealt and cut, and what is too large for that."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.types import TableSpec
from fedps.wire.compress import sides
from fedps.wire.pieces import MATRIX_ROWS, cut_rows, cut_tensors, misfits, placement

ITEM = TableSpec("item", "sparse", (100_000, 4))


@given(st.lists(st.integers(1, 1000), max_size=12), st.integers(1, 5), st.randoms())
def test_placement_is_even_and_the_same_in_any_order(sizes: list[int], shards: int, order: object) -> None:
    specs = [TableSpec(f"t{k}", "dense", (size,)) for k, size in enumerate(sizes)]
    placed = placement([*specs, ITEM], shards)
    assert placed == placement([ITEM, *reversed(specs)], shards)
    assert set(placed) == {s.name for s in specs}
    load = [sum(s.dim for s in specs if placed[s.name] == shard) for shard in range(shards)]
    assert max(load) - min(load) <= max(sizes, default=0)


@given(st.sets(st.integers(0, 99_999), max_size=60), st.integers(1, 20), st.integers(1, 4))
def test_rows_of_all_shards_are_the_rows(keys: set[int], most: int, shards: int) -> None:
    wanted, found = np.array(sorted(keys), np.int64), list[int]()
    for shard in range(shards):
        pieces = cut_rows(ITEM, wanted, most, shard, shards)
        assert list(pieces) == list(range(len(pieces))) and len(pieces) >= 1
        for piece in pieces.values():
            assert np.array_equal(wanted[piece.at], piece.keys)
            assert piece.shape == (len(piece.keys), 4)
            assert len(piece.keys) <= most
            assert (piece.keys % shards == shard).all()
            found += piece.keys.tolist()
    assert sorted(found) == sorted(keys)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 5000)),
            st.tuples(st.integers(1, 60), st.integers(1, 90)),
            st.tuples(st.integers(100_000, 300_000), st.integers(1, 2)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4000),
)
def test_pieces_are_the_tensors_in_their_order(shapes: list[tuple[int, ...]], most: int) -> None:
    most = max(most, *(s[0] // 40 for s in shapes))
    specs = [TableSpec(f"t{k}", "dense", shape) for k, shape in enumerate(shapes)]
    pieces, held, before = cut_tensors(specs, most), dict[int, int](), 0
    assert list(pieces) == [s.name for s in specs]
    for spec in specs:
        at = 0
        for number, piece in pieces[spec.name].items():
            first, end = spec.span(piece.keys)
            assert (first, piece.shape) == (at, (1, end - first))
            assert np.array_equal(np.arange(spec.dim)[None][piece.at], np.arange(first, end)[None])
            assert sides(spec, piece.keys)[0] <= MATRIX_ROWS
            assert before <= number <= before + 1, "no message is empty, and none is come back to"
            held[number], before, at = held.get(number, 0) + end - first, number, end
        assert at == spec.dim
        assert len(pieces[spec.name]) > 1 or not len(next(iter(pieces[spec.name].values())).keys)
    assert max(held.values()) <= most


def test_tensors_that_fit_travel_whole_in_one_message() -> None:
    pieces = cut_tensors(
        [TableSpec("a", "dense", (7, 5)), TableSpec("b", "dense", (9,)), TableSpec("c", "dense", ())], 45
    )
    assert [(list(p), len(p[0].keys)) for p in pieces.values()] == [([0], 0)] * 3


BIG = TableSpec("mlp.0.weight", "dense", (30_000, 2000))


@pytest.mark.parametrize(
    ("specs", "shards", "mib", "told"),
    [
        ([TableSpec("w", "dense", (9000, 9000))], 1, 1024, "runner.local_dense: w has a tensor of 81000000 floats, and servers hold"),
        ([TableSpec("e", "sparse", (9, 1 << 27))], 1, 1024, "runner.local_sparse: e has rows of 134217728 floats, and servers hold"),
        ([BIG], 1, 16, "limits.message_mib: 16: server 0 is to hold mlp.0.weight, 229 MiB of a push, and keeps 96 MiB of it: raise it to 39,"),
        ([BIG], 1, 64, ""),
        ([TableSpec(f"t{k}", "sparse", (9, 1)) for k in range(1025)], 2, 64, "runner.server_num: 2: server 0 is to hold 1025 tables"),
        ([TableSpec("e", "sparse", (9, 1 << 18))], 1, 1, "limits.message_mib: 1: one row of each table is 1.0 MiB, over half a message: raise it to 3"),
    ],
)  # fmt: skip
def test_what_no_message_carries_is_told_with_key_value_and_remedy(
    specs: list[TableSpec], shards: int, mib: int, told: str
) -> None:
    found = misfits(specs, shards, mib)
    assert any(told in mistake for mistake in found) if told else not found


def test_the_remedies_help() -> None:
    assert misfits([BIG], 1, 38) and not misfits([BIG], 1, 39)
    halves = [TableSpec(f"half {k}", "dense", (15_000, 2000)) for k in range(2)]
    assert misfits(halves, 1, 20) and not misfits(halves, 2, 20)
    row = TableSpec("e", "sparse", (9, 1 << 18))
    assert misfits([row], 1, 2) and not misfits([row], 1, 3)
