"""A frozen moment of the tables: what is laid from it goes on as they did, whatever happened while it was read."""

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fedps.errors import TableError
from fedps.table import dense, moment
from fedps.table.moment import Moment, Part, Watched
from fedps.table.sparse import SparseTable
from fedps.table.store import Store
from fedps.types import NO_KEYS, RULES, Bounds, RuleName, TableSpec
from tests.table.programs import BOUNDS, Program, do, kinds, made, programs, specs

PIECE = 1 << 10  # bytes: so that small tables have many


def laid(tables: list[TableSpec], parts: list[Part]) -> Store:
    store = Store()
    store.declare(tables)
    for part in parts:
        store.lay(part)
    return store


def told(store: Store) -> list[object]:
    """All that can be asked of the tables, in bytes."""
    counts = {name: replace(c, bytes=0) for name, c in store.counts().items()}
    said: list[object] = [store.steps(), store.rates(), counts]
    for changed in (False, True):
        for _, keys, block in store.export(changed).values():
            said += [keys.tobytes(), block.tobytes()]
    return said + [ids.tobytes() for ids in store.waiting().values()]


def raw(parts: Iterator[Part] | list[Part]) -> list[object]:
    return [(p.table, p.facts, [(a.dtype, a.shape, a.tobytes()) for a in p.arrays]) for p in parts]


def assert_same(one: Store, other: Store) -> None:
    assert told(one) == told(other)


reading = st.lists(st.tuples(st.one_of(kinds, st.sampled_from(["next"] * 8)), st.integers(0, 10**6)), max_size=60)


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    with mock.patch.object(moment, "PIECE", PIECE), mock.patch.object(dense, "PIECE", PIECE):
        yield


def check(tables: list[TableSpec], before: Program, during: Program, after: Program) -> None:
    """Freeze between `before` and `during`, read as `during` says, lay what was read, and go on with `after` from there."""
    store, twin = made(tables, before), made(tables, before)
    frozen, parts = store.frozen(), list[Part]()
    other, count = store.frozen(), 0
    for kind, number in during:
        if kind != "next":
            do(store, (kind, number))
        elif number % 3:
            parts += [part for part in [next(frozen, None)] if part is not None]
        else:  # another moment of the same tables, which is dropped half read
            count += next(other, None) is not None
    del other
    assert_same(laid(tables, list(store.frozen())), store)  # a later moment, beside one that is half read
    parts += frozen
    assert raw(parts) == raw(twin.frozen())
    assert all(sum(a.nbytes for a in p.arrays[:2]) <= PIECE for p in parts if "first" in p.facts)
    again = laid(tables, parts)
    assert_same(again, twin)
    for step in after:
        do(again, step)
        do(twin, step)
    assert raw(again.frozen()) == raw(twin.frozen())
    assert_same(store, made(tables, before + [step for step in during if step[0] != "next"]))


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@settings(max_examples=15)
@given(before=programs, during=reading, after=programs)
def test_what_is_laid_from_a_moment_goes_on_to_the_bit(
    bounds: Bounds, before: Program, during: Program, after: Program
) -> None:
    check(specs("adam", bounds), before, during, after)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=6)
@given(before=programs, during=reading, after=programs)
def test_every_rule_goes_on_from_a_moment(rule: RuleName, before: Program, during: Program, after: Program) -> None:
    check(specs(rule, BOUNDS[2]), before, during, after)
    check(specs(rule, Bounds()), before, during, after)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@settings(max_examples=15)
@given(program=st.lists(st.tuples(kinds, st.integers(0, 10**6)), min_size=20, max_size=60))
def test_a_pull_changes_nothing(bounds: Bounds, program: Program) -> None:
    tables = specs("adam", bounds)
    pulled, other = made(tables, program), made(tables, [step for step in program if step[0] != "pull"])
    if bounds == Bounds():  # a pull makes rows there, which change no other
        (_, keys, rows), (_, there, expected) = pulled.export()["rows"], other.export()["rows"]
        assert rows[np.isin(keys, there)].tobytes() == expected.tobytes()
        assert (pulled.steps(), pulled.rates()) == (other.steps(), other.rates())
    else:
        assert raw(pulled.frozen()) == raw(other.frozen())


def test_a_moment_that_is_dropped_or_read_costs_nothing_any_more() -> None:
    table, keys = SparseTable(specs("adam", Bounds())[0]), np.arange(100)
    table.push(keys, np.ones((100, 5), np.float32))
    kept = list[int]()
    with mock.patch.object(Moment, "keep", lambda moment, slots: kept.append(len(slots))):
        frozen = table.frozen()
        next(frozen)
        table.push(keys, np.ones((100, 5), np.float32))
        assert kept == [100]
        del frozen
        table.push(keys, np.ones((100, 5), np.float32))
        assert list(table.frozen())
        table.push(keys, np.ones((100, 5), np.float32))
        assert kept == [100]


def test_what_was_put_aside_is_given_back_little_by_little() -> None:
    watched = Watched(rows := np.ones((4096, 300), np.float32))  # 4.7 MiB
    first = watched.freeze(len(rows))
    watched.keep(np.arange(len(rows)))
    aside = first.aside[0]
    assert (aside.rows == 1).all()
    del first
    for mib in range(5):
        assert aside.rows[0, 0] == 1, mib
        watched.keep(NO_KEYS)
    assert not aside.rows.any(), "memory that was given back reads as zeros"
    assert aside.shrink()


def test_parts_that_do_not_fit_are_refused() -> None:
    tables = specs("adam", Bounds())
    parts = list(made(tables, [("push", k) for k in range(9)]).frozen())
    rows = [p for p in parts if p.table == "rows" and p.arrays]
    with pytest.raises(TableError, match="do not fit behind 0"):
        laid(tables, rows[1:])
    with pytest.raises(TableError, match="is due"):
        laid([replace(tables[0], shape=(0, 6)), tables[1]], rows)
    with pytest.raises(TableError, match="do not fit"):
        laid([replace(tables[1], shape=(3,))], [p for p in parts if p.table == "tensor"])
