"""Rows that wait, expire and make room for others: each rule alone, against a plain dictionary where there is one."""

from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.errors import TableError
from fedps.table import admission
from fedps.table.admission import WAYS, Candidates
from fedps.table.bounded import BoundedTable
from fedps.table.rules import initial_rows
from fedps.table.sparse import row_bytes
from fedps.table.store import Store
from fedps.types import Bounds, Init, Keys, Rule, TableSpec, Values

START = Init("uniform", 1.0, 3.0)
ANY = [-(2**63), -7, -1, 0, 5, 2**63 - 1]


def spec(rule: str = "add", **bounds: int) -> TableSpec:
    return TableSpec("rows", "sparse", (0, 3), Rule(rule, 0.1), START, bounds=Bounds(**bounds))  # type: ignore[arg-type]


def ones(keys: object) -> Values:
    return np.ones((len(np.asarray(keys)), 3), np.float32)


def push(table: BoundedTable, *keys: int) -> None:
    table.push(np.array(sorted(keys)), ones(keys))


def ids(table: BoundedTable) -> list[int]:
    found: list[int] = table.export()[0].tolist()
    return found


def test_a_row_is_made_by_its_nth_push_and_a_shared_default_serves_before() -> None:
    table, keys = BoundedTable(spec(admit_after=3)), np.array(ANY)
    for waiting in range(2):
        np.testing.assert_array_equal(table.pull(keys), np.full((6, 3), 2.0), "the middle of the start")
        assert len(table) == 0
        table.push(keys, ones(keys))
        assert table.counts().waiting == 6, waiting
    table.push(keys[1:], ones(keys[1:]))
    expected = initial_rows(table.spec, keys) + 1
    np.testing.assert_array_equal(table.pull(keys)[1:], expected[1:], "its own start, and the push that made it")
    assert (table.pull(keys)[0] == 2).all()
    counts = table.counts()
    assert (counts.rows, counts.made, counts.admitted, counts.waiting) == (5, 5, 5, 1)


def test_pulls_are_no_use_and_make_no_row() -> None:
    table, keys = BoundedTable(spec(max_rows=4)), np.array(ANY)
    for _ in range(9):
        np.testing.assert_array_equal(table.pull(keys), initial_rows(table.spec, keys))
    assert (len(table), table.missing(keys)) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), max_size=12), max_size=30), st.integers(2, 4))
def test_candidates_are_counted_as_in_a_dictionary_of_the_last_eight(batches: list[set[int]], needed: int) -> None:
    """All in one bucket: the one that was pushed longest ago is forgotten."""
    candidates, twin = Candidates(needed), OrderedDict[int, int]()
    alike = same_bucket(41)
    for batch in batches:
        keys = np.sort(alike[sorted(batch)])
        admitted = candidates.push(keys)
        for key, said in zip(keys.tolist(), admitted.tolist(), strict=True):
            pushes = twin.pop(key, 0) + 1
            assert said == (pushes >= needed)
            if not said:
                twin[key] = pushes
            if len(twin) > WAYS:
                twin.popitem(last=False)
        assert candidates.waiting == len(twin)
    exported = candidates.export()
    assert [tuple(pair) for pair in exported.tolist()] == list(twin.items())
    again = Candidates(needed)
    again.load(exported)
    np.testing.assert_array_equal(again.export(), exported)
    assert again.waiting == candidates.waiting


@cache
def same_bucket(count: int) -> Keys:
    """Return ids that one bucket keeps."""
    keys = np.arange(count * 2 * admission.BUCKETS)
    x = keys.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = x ^ (x >> np.uint64(31))
    found: Keys = keys[mixed & np.uint64(admission.BUCKETS - 1) == 77][:count]
    return found


def test_rows_expire_after_so_many_epochs_without_a_push_and_start_anew() -> None:
    table = BoundedTable(spec("adagrad", expire_after=2))
    push(table, 1, 2)
    table.end_epoch()  # in which they were pushed
    table.end_epoch()
    push(table, 2)
    table.end_epoch()
    assert ids(table) == [2], "1 was not pushed in two epochs"
    assert len(table) == 1
    start = initial_rows(table.spec, np.array([1]))
    np.testing.assert_array_equal(table.pull(np.array([1])), start)
    push(table, 1)
    assert ids(table) == [1, 2]
    np.testing.assert_array_equal(table.export()[1][0, 3:6], [1, 1, 1], "of its state nothing is left")
    assert (table.counts().expired, table.counts().made) == (1, 3)


def test_memory_of_expired_rows_is_used_again() -> None:
    table = BoundedTable(spec(expire_after=1))
    for epoch in range(20):
        for at in range(0, 3000, 500):
            push(table, *range(10_000 * epoch + at, 10_000 * epoch + at + 500))
        table.end_epoch()
    assert table.counts().rows == 3000
    assert table._rows <= 10_000, "slots that were ever in use"
    assert table.counts().expired == 19 * 3000


def test_the_least_used_rows_make_room_and_the_bound_holds() -> None:
    table, hot = BoundedTable(spec(max_rows=100)), tuple(range(-40, 0))
    for at in range(0, 30_000, 50):
        push(table, *hot)
        push(table, *range(at, at + 50))
        assert len(table) <= 100
    kept = set(ids(table))
    assert set(hot) <= kept, "what is pushed all the time stays, though thousands come that are pushed once"
    assert len(kept) == 100 and max(kept) == 29_999
    counts = table.counts()
    assert counts.made - counts.evicted == counts.rows == 100


def test_a_push_of_more_rows_than_there_may_be_keeps_the_first_and_never_moves_a_row_of_its_own() -> None:
    table = BoundedTable(spec(max_rows=10))
    push(table, *range(5))
    push(table, *range(3, 40))
    assert ids(table) == list(range(3, 13))
    pulled = table.pull(np.arange(3, 6)) - initial_rows(table.spec, np.arange(3, 6))
    assert np.allclose(pulled[:, 0], [2, 2, 1])


def test_each_server_has_its_share_of_the_bound() -> None:
    tables = [BoundedTable(spec(max_rows=100), shards=3) for _ in range(3)]
    keys = np.arange(-500, 500)
    for shard, table in enumerate(tables):
        mine = keys[keys % 3 == shard]
        table.push(mine, ones(mine))
    assert [len(table) for table in tables] == [34, 34, 34]


@pytest.mark.parametrize("servers", [2, 3])
def test_admission_and_expiry_are_the_same_with_any_number_of_servers(servers: int) -> None:
    one = BoundedTable(spec("adagrad", admit_after=2, expire_after=1))
    some = [BoundedTable(one.spec, shards=servers) for _ in range(servers)]
    rng = np.random.default_rng(3)
    for step in range(60):
        keys = np.unique(rng.zipf(1.3, 200) * rng.choice([-1, 1], 200))
        values = rng.normal(size=(len(keys), 3)).astype(np.float32)
        one.push(keys, values)
        for shard, table in enumerate(some):
            mine = keys % servers == shard
            table.push(keys[mine], np.ascontiguousarray(values[mine]))
        if step % 10 == 9:
            for table in (one, *some):
                table.end_epoch()
    keys, rows = one.export()
    parts = [table.export() for table in some]
    theirs = np.concatenate([k for k, _ in parts])
    order = np.argsort(theirs)
    np.testing.assert_array_equal(theirs[order], keys)
    np.testing.assert_array_equal(np.concatenate([r for _, r in parts])[order], rows)
    assert len(keys) > 20 and one.counts().expired > 20


def test_the_same_pushes_give_the_same_table_to_the_bit() -> None:
    first, second = (run(BoundedTable(spec("adam", admit_after=2, expire_after=1, max_rows=300))) for _ in range(2))
    for mine, theirs in zip(first.export(), second.export(), strict=True):
        assert mine.tobytes() == theirs.tobytes()  # type: ignore[attr-defined]
    assert first.counts() == second.counts()
    assert min(first.counts().evicted, first.counts().expired, first.counts().admitted) > 0


def run(table: BoundedTable, first: int = 0, last: int = 60) -> BoundedTable:
    for step in range(first, last):
        rng = np.random.default_rng(step)
        keys = np.unique(rng.zipf(1.2, 300))
        table.push(keys, rng.normal(size=(len(keys), 3)).astype(np.float32))
        if step % 10 == 9:
            table.end_epoch()
    return table


def test_a_loaded_table_goes_on_as_the_saved_one() -> None:
    """Ages, uses and counts of pushes go along; which rows leave for room depends on where the hand stands."""
    bounded = spec("adagrad", admit_after=3, expire_after=2)
    saved = run(BoundedTable(bounded), 0, 35)
    again = BoundedTable(bounded)
    again.load(*saved.export(), saved.steps)
    again.load_waiting(saved.waiting())
    for mine, theirs in zip(run(again, 35, 60).export(), run(saved, 35, 60).export(), strict=True):
        assert mine.tobytes() == theirs.tobytes()  # type: ignore[attr-defined]


def test_of_more_rows_than_there_may_be_the_youngest_and_most_used_are_loaded() -> None:
    wide, narrow = BoundedTable(spec(expire_after=9)), BoundedTable(spec(max_rows=20))
    for epoch in range(5):
        push(wide, *range(10 * epoch, 10 * epoch + 10))
        push(wide, 0)
        wide.end_epoch()
    narrow.load(*wide.export(), 1)
    assert ids(narrow) == [0, *range(30, 39), *range(40, 50)]


def test_where_rows_have_expired_there_is_room_for_new_ones() -> None:
    table = BoundedTable(spec(max_rows=4, expire_after=1))
    push(table, 1, 2, 3, 4)
    for _ in range(2):
        table.end_epoch()
    table.make(np.arange(5, 9))
    push(table, 5, 6, 7, 8)
    assert ids(table) == [5, 6, 7, 8]


def test_changes_since_the_last_save_name_the_rows_that_have_left() -> None:
    table = BoundedTable(spec(max_rows=4))
    push(table, 1, 2, 3, 4)
    table.mark_saved()
    push(table, 7, 8)
    keys, rows = table.export(changed=True)
    gone = rows.view(np.uint32)[:, -1] == 255
    assert sorted([*keys[gone].tolist(), *ids(table)]) == [1, 2, 3, 4, 7, 8]
    assert keys[~gone].tolist() == [7, 8]
    table.mark_saved()
    assert len(table.export(changed=True)[0]) == 0


def test_a_push_is_never_half_applied_for_want_of_memory() -> None:
    room = [10]

    def take(size: int) -> None:
        if size > room[0] * row_bytes(bounded):
            raise TableError("no room")
        room[0] -= size // row_bytes(bounded)

    bounded = spec(admit_after=2)
    table = BoundedTable(bounded, take)
    with pytest.raises(TableError, match="no room"):
        table.make(np.arange(11))
    table.make(np.arange(4))
    assert room == [6]
    push(table, *range(4))
    push(table, *range(4))
    assert (room, len(table)) == ([6], 4), "made where room was taken before"
    push(table, *range(4, 20))
    push(table, *range(4, 20))
    assert len(table) == 4, "rows that find no room are not made, and the others are pushed"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TableSpec("t", "sparse", (0, 2), bounds=Bounds(admit_after=0)), r"admit_after lies in \[1, 255\]"),
        (TableSpec("t", "sparse", (0, 2), bounds=Bounds(expire_after=251)), r"expire_after lies in \[0, 250\]"),
        (TableSpec("t", "sparse", (0, 2), bounds=Bounds(max_rows=-1)), "max_rows lies in"),
        (TableSpec("t", "dense", (4,), bounds=Bounds(max_rows=3)), "dense"),
        (TableSpec("t", "dense", (0, 4)), "at least 1"),
        (TableSpec("t", "sparse", (0, 4), init=Init("given", 3.0)), "counted"),
        (TableSpec("t", "sparse", (9, 4), init=Init("given", 3.0), bounds=Bounds(max_rows=3)), "counted"),
    ],
)
def test_bounds_that_make_no_table_are_told(spec: TableSpec, said: str) -> None:
    with pytest.raises(TableError, match=said):
        Store().declare([spec])
