"""Rows by id: any int64, any order of making, through growth, saved and loaded."""

import numpy as np
import pytest

from fedps.errors import TableError
from fedps.table.rules import initial_rows
from fedps.table.sparse import SparseTable
from fedps.types import NO_KEYS, Init, Rule, TableSpec

SPEC = TableSpec("rows", "sparse", (2**62, 3), Rule("adam", 0.01), Init("normal", 0.0, 1.0), seed=4)
EDGES = [-(2**63), -1, 0, 1, 2**62, 2**63 - 1]


def ones(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones((count, 3), np.float32)


def test_edge_ids_have_rows_of_their_own() -> None:
    table, keys = SparseTable(SPEC), np.array(EDGES)
    np.testing.assert_array_equal(table.pull(keys), initial_rows(SPEC, keys))
    assert len(table) == len(EDGES)
    table.push(keys, np.zeros((len(keys), SPEC.dim), np.float32))
    np.testing.assert_array_equal(table.export()[0], keys)


@pytest.mark.parametrize("laid", [False, True])
def test_rows_that_were_never_pushed_are_neither_counted_nor_saved(laid: bool) -> None:
    table = SparseTable(SPEC)
    start = table.pull(np.arange(9))
    table.push(np.array([3, 5]), np.ones((2, SPEC.dim), np.float32))
    if laid:
        parts, table = list(table.frozen()), SparseTable(SPEC)
        for part in parts:
            table.lay(part.facts, part.arrays)
    for _ in range(2):
        assert table.export()[0].tolist() == [3, 5]
        assert (table.counts().rows, table.counts().made) == (2, 2)
        table.mark_saved()
        assert not len(table.export(changed=True)[0])
    assert table.pull(np.arange(3)).tolist() == start[:3].tolist()
    table.push(np.array([4]), np.ones((1, SPEC.dim), np.float32))
    assert (table.export()[0].tolist(), table.export(changed=True)[0].tolist()) == ([3, 4, 5], [4])


def test_rows_start_the_same_in_any_order_and_on_any_shard() -> None:
    whole, keys = SparseTable(SPEC), np.arange(600)
    expected = whole.pull(keys)
    for shard in range(3):
        table, mine = SparseTable(SPEC), keys[keys % 3 == shard]
        for piece in (mine[150:].copy(), mine[:50].copy(), mine):
            rows = table.pull(piece)
        np.testing.assert_array_equal(rows, expected[mine])


def test_a_row_once_made_is_not_made_again() -> None:
    table = SparseTable(SPEC)
    keys = np.array([7, 8])
    start = table.pull(keys)
    table.push(keys[:1], ones(1))
    assert not np.array_equal(table.pull(keys)[0], start[0])
    np.testing.assert_array_equal(table.pull(keys)[1], start[1])
    assert len(table) == 2


def test_an_empty_push_is_a_step() -> None:
    """Adam's momentum moves a row on while others, or nobody, push."""
    table, key = SparseTable(SPEC), np.array([1])
    table.push(key, ones(1))
    before = table.pull(key)
    table.push(NO_KEYS, ones(0))
    assert table.steps == 2
    assert (table.pull(key) < before).all()


def test_what_is_pulled_is_a_copy() -> None:
    table, key = SparseTable(SPEC), np.array([1])
    rows = table.pull(key)
    rows += 1
    np.testing.assert_array_equal(table.pull(key) + 1, rows)


@pytest.mark.parametrize("name", ["adam", "lazy_adam", "row_adagrad"])
def test_a_loaded_table_goes_on_as_the_saved_one(name: str) -> None:
    spec = TableSpec("rows", "sparse", (2**62, 3), Rule(name), Init("uniform", -1.0, 1.0))  # type: ignore[arg-type]
    table, again = SparseTable(spec), SparseTable(spec)
    for keys in (np.array([1, 5]), np.array([5, 9])):
        table.push(keys, ones(2))
    again.load(*table.export(), table.steps)
    for one in (table, again):
        one.push(np.array([1, 11]), ones(2))
    for mine, theirs in zip(table.export(), again.export(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("shape", [(2, 9), (2, 2), (1, 3), (3, 3)])
def test_a_push_of_another_shape_changes_nothing(shape: tuple[int, int]) -> None:
    """The compiled loops check no bounds: a wide row would run into its neighbours."""
    table, keys = SparseTable(SPEC), np.array([1, 2])
    before = table.pull(np.array([1, 2, 3]))
    with pytest.raises(TableError, match=r"\(2, 3\) is due"):
        table.push(keys, np.ones(shape, np.float32))
    with pytest.raises(TableError, match=r"\(2, 10\) is due"):
        table.load(keys, np.ones(shape, np.float32), 1)
    np.testing.assert_array_equal(table.pull(np.array([1, 2, 3])), before)
    assert table.steps == 0
