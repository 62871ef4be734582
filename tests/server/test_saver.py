"""A save is what the tables were when it was begun, whatever is pushed while it is written; and one that fails spoils no other."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.config import Job, Runner
from fedps.errors import DataError
from fedps.server.beside import Work
from fedps.server.saving import Saver
from fedps.storage import epochs, snapshot
from fedps.storage.shards import find_shards
from fedps.table import dense, moment
from fedps.table.moment import Array
from fedps.table.store import Store
from fedps.types import Bounds, Rule
from tests.table.programs import BOUNDS, Program, do, kinds, made, programs, specs

PIECE = 1 << 10  # bytes: so that small tables have many
MODES = ("all", "base", "delta")
meanwhile = st.lists(st.tuples(st.one_of(kinds, st.just("write")), st.integers(0, 10**6)), max_size=40)


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    with mock.patch.object(moment, "PIECE", PIECE), mock.patch.object(dense, "PIECE", PIECE):
        yield


def saver(folder: Path, mode: str = "all", shard: int = 0, **runner: object) -> Saver:
    settings = Runner(train_data_dir=folder, save_mode=mode, sync_mode="async", **runner)
    return Saver(Job(name="job", folder=folder, runner=settings), shard, folder)


def work_off(works: Iterator[Work]) -> None:
    for work in works:
        work()


def expected(folder: Path, store: Store, mode: str, changed: bool) -> bytes:
    """The bytes of a save at once of a store that stands still."""
    tables = store.export(changed)
    if mode == "base":
        columns = {name: [*range(spec.dim), *([-1] if spec.bounded else [])] for name, (spec, _, _) in tables.items()}
        tables = {name: (spec, keys, block[:, columns[name]]) for name, (spec, keys, block) in tables.items()}
    arrays: dict[str, Array] = {f"{name}/waiting": ids for name, ids in store.waiting().items()}
    for name, (_, keys, block) in tables.items():
        arrays |= {f"{name}/keys": keys, f"{name}/rows": block}
    snapshot.save_arrays(folder, "twin", arrays, {})
    return (folder / "twin.safetensors").read_bytes()


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=8)
@given(before=programs, between=programs, during=meanwhile)
def test_a_save_is_what_the_tables_were_when_it_was_begun(
    mode: str, bounds: Bounds, before: Program, between: Program, during: Program
) -> None:
    tables = specs("adam", bounds)
    before, between = ([step for step in program if step[0] != "saved"] for program in (before, between))
    with TemporaryDirectory() as name:
        folder, store = Path(name), made(tables, before)
        saves = saver(folder, mode)
        work_off(saves.begin(store, 1))
        for step in between:
            do(store, step)
        works = saves.begin(store, 2)
        for kind, number in during:
            if kind == "write":
                next(works, lambda: None)()
            else:
                do(store, (kind, number))
        work_off(works)
        twin = made(tables, [*before, ("saved", 0), *between])
        assert (folder / "model/2/server-0.safetensors").read_bytes() == expected(folder, twin, mode, mode == "delta")
        [part] = find_shards(folder / "model" / "2", 0)
        assert (part.facts.steps, part.facts.rates) == (twin.steps(), twin.rates())
        assert (part.facts.base is not None) == (mode == "delta")
        assert part.facts.epoch == 2


def test_a_save_that_fails_leaves_nothing_and_the_next_one_is_whole(tmp_path: Path) -> None:
    store, saves = made(specs("adam", Bounds()), [("push", 1)]), saver(tmp_path, "delta")
    work_off(saves.begin(store, 1))
    before = epochs.read_model(tmp_path / "model" / "1")
    with mock.patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        do(store, ("push", 2))
        with pytest.raises(DataError, match="No space left on device; free space"):
            work_off(saves.begin(store, 2))
    assert list((tmp_path / "model" / "2").iterdir()) == []
    do(store, ("push", 3))
    work_off(saves.begin(store, 3))
    assert epochs.find_first(tmp_path / "model" / "3").facts.base is None
    rows, (_, keys, block) = epochs.read_model(tmp_path / "model" / "3")["rows"], store.export()["rows"]
    assert (rows.keys.tobytes(), rows.block.tobytes()) == (keys.tobytes(), block.tobytes())
    assert before["rows"].block.tobytes() == epochs.read_model(tmp_path / "model" / "1")["rows"].block.tobytes()
    do(store, ("push", 4))
    work_off(saves.begin(store, 4))
    base = epochs.find_first(tmp_path / "model" / "4").facts.base
    assert base is not None and base.epoch == 3


@pytest.mark.parametrize("done", range(12))
def test_a_save_that_is_dropped_leaves_nothing_behind(done: int, tmp_path: Path) -> None:
    store, saves = made(specs("adam", Bounds(admit_after=2)), [("push", 1), ("push", 1)]), saver(tmp_path)
    works = saves.begin(store, 1)
    for _ in range(done):
        next(works)()
    del works
    assert not [f.name for f in tmp_path.rglob("*") if f.is_file()]


def test_rows_may_be_pushed_by_another_thread_than_the_one_that_writes(tmp_path: Path) -> None:
    """Works touch no table: they may be done at any time before the next is asked for."""
    store = made(specs("adam", Bounds()), [("push", k) for k in range(9)])
    twin = expected(tmp_path, store, "all", changed=False)
    for number, work in enumerate(saver(tmp_path).begin(store, 1)):
        do(store, ("push", number))
        work()
    assert (tmp_path / "model/1/server-0.safetensors").read_bytes() == twin


def test_the_last_epochs_are_kept_and_the_last_that_is_whole_stays(tmp_path: Path) -> None:
    stores = [made(specs("sgd", Bounds()), [("push", k)]) for k in range(2)]
    one, other = (saver(tmp_path, shard=k, server_num=2, keep_epochs=2) for k in range(2))

    def save(saves: Saver, epoch: int) -> None:
        work_off(saves.begin(stores[saves is other], epoch, ("a client",)))

    for epoch in (1, 2):
        save(one, epoch)
        save(other, epoch)
    for epoch in (3, 4):  # the other is slow
        save(one, epoch)
    assert epochs.is_whole(tmp_path / "model" / "2")
    save(other, 3)
    save(other, 4)
    assert [epochs.is_whole(tmp_path / "model" / str(epoch)) for epoch in (2, 3, 4)] == [False, True, True]
    save(one, 5)
    save(other, 5)
    assert epochs.numbers(tmp_path / "model") == [4, 5]


def test_a_server_that_was_started_again_knows_what_it_saved_in_this_run(tmp_path: Path) -> None:
    store = made(specs("sgd", Bounds()), [("push", 1)])
    work_off(saver(tmp_path, keep_epochs=2).begin(store, 1, ("another run's",)))
    for epoch in range(2, 6):
        work_off(saver(tmp_path, keep_epochs=2).begin(store, epoch, ("a client", f"process {epoch}")))
    assert epochs.numbers(tmp_path / "model") == [1, 4, 5]


def test_values_alone_are_saved_as_a_table_that_adds(tmp_path: Path) -> None:
    store = made(specs("adam", Bounds(expire_after=2)), [("push", 3)])
    work_off(saver(tmp_path, "base").begin(store, 1))
    tables, _ = snapshot.load(tmp_path / "model" / "1", "server-0")
    assert {spec.rule for spec, _, _ in tables.values()} == {Rule("add")}
    np.testing.assert_array_equal(tables["tensor"][2], store.export()["tensor"][2][:, :1200])
