"""Open and bounded tables through a server: any int64 on the wire, saved, dealt to other servers, and told of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import DataError
from fedps.server import memory
from fedps.server.server import ParameterServer
from fedps.storage import epochs as saved
from fedps.storage import snapshot
from fedps.table.admission import CANDIDATES_BYTES
from fedps.table.moment import Array
from fedps.table.rules import initial_rows
from fedps.types import NO_KEYS, Bounds, Init, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Join, Pull, Push, Refused
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import BIAS, Caller, ones, push

ANY = [-(2**63), -(2**62), -9, -1, 0, 4, 2**62, 2**63 - 1]
OPEN = TableSpec("rows", "sparse", (0, 4), Rule("add"), Init("normal", 0.0, 1.0))
BOUNDED = TableSpec("rows", "sparse", (0, 4), Rule("adagrad"), OPEN.init, bounds=Bounds(2, 1, 60))
AGEING = replace(BOUNDED, bounds=Bounds(2, 2))


def make_server(job: Job, folder: Path, shard: int = 0, events: list[dict[str, Any]] | None = None) -> ParameterServer:
    server = ParameterServer(job, shard, folder, into(events if events is not None else []))
    server.members.expect(1)
    return server


def end_epoch(caller: Caller, epoch: int) -> None:
    for stage in ("trained", "evaluated"):
        assert isinstance(caller.ask(Barrier(epoch, stage)), Done)


def mine(keys: list[int], shard: int, shards: int) -> list[int]:
    return [key for key in keys if key % shards == shard]


def test_any_int64_is_pulled_and_pushed_where_it_belongs(make_job: MakeJob, tmp_path: Path) -> None:
    start = initial_rows(OPEN, np.array(ANY))
    for shard in range(3):
        caller = Caller(make_server(make_job(sync_mode="async", server_num=3), tmp_path, shard), "a").join(OPEN, BIAS)
        keys = mine(ANY, shard, 3)
        rows = start[[key in keys for key in ANY]]
        np.testing.assert_array_equal(caller.rows(*keys), rows)
        assert isinstance(caller.ask(*push(1, keys, ones(len(keys)))), Done)
        np.testing.assert_array_equal(caller.rows(*keys), rows + 1)
        foreign = mine(ANY, (shard + 1) % 3, 3)
        refused = caller.ask(Pull(("rows",)), np.array(foreign))
        assert isinstance(refused, Refused) and refused.kind == "bad_keys"


def test_keys_of_an_open_table_are_sorted_and_unique_too(make_job: MakeJob, tmp_path: Path) -> None:
    caller = Caller(make_server(make_job(sync_mode="async"), tmp_path), "a").join(OPEN, BIAS)
    for keys in ([0, -1], [-1, -1], [2**63 - 1, -(2**63)]):
        refused = caller.ask(Pull(("rows",)), np.array(keys))
        assert isinstance(refused, Refused) and "sorted and unique" in refused.reason


def test_a_counted_table_has_no_other_ids(make_job: MakeJob, tmp_path: Path) -> None:
    caller = Caller(make_server(make_job(sync_mode="async"), tmp_path), "a").join()
    refused = caller.ask(Pull(("rows",)), np.array([-1, 5]))
    assert isinstance(refused, Refused) and "ids must lie in [0, 100)" in refused.reason


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_a_window_that_is_merged_counts_as_one_push(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode=mode, geo_merge="adaptive"), tmp_path)
    server.members.expect(2)
    table = TableSpec("rows", "sparse", (0, 4), Rule("add"), Init("constant", 3.0), bounds=Bounds(admit_after=2))
    a, b = (Caller(server, name).join(table, BIAS) for name in "ab")
    for clock, rows in ((0, 0), (1, 1)):
        for caller in (a, b):
            assert isinstance(caller.ask(*push(clock + 1, [-7], ones(1), clock)), Done)
        assert server.shard.store.counts()["rows"].rows == rows
    assert a.rows(-7) == [[4.0] * 4]


def train(server: ParameterServer, first: int, last: int, table: TableSpec = BOUNDED) -> Caller:
    """Push ids of which some come often, in epochs from `first` on."""
    caller, sequence = Caller(server, "0").join(table, BIAS), 0
    for epoch in range(first, last + 1):
        for batch in range(6):
            rng, sequence = np.random.default_rng(100 * epoch + batch), sequence + 1
            keys = np.unique(rng.zipf(1.4, 60) * rng.choice([-1, 1], 60) + 40 * epoch)
            shard = server.shard
            keys = keys[keys % shard.count == shard.number]
            values = rng.normal(size=(len(keys), 4)).astype(np.float32)
            assert isinstance(caller.ask(*push(sequence, keys, values)), Done)
        end_epoch(caller, epoch - first + 1)
    return caller


def test_saves_of_changes_read_back_as_the_whole_table_does(make_job: MakeJob, tmp_path: Path) -> None:
    """Rows that expired or were evicted do not come back from an earlier save."""
    for mode in ("all", "delta"):
        train(make_server(make_job(sync_mode="async", epochs=5, save_mode=mode), tmp_path / mode), 1, 5)
    for epoch in range(1, 6):
        whole, changes = (saved.read_model(tmp_path / mode / "model" / str(epoch))["rows"] for mode in ("all", "delta"))
        np.testing.assert_array_equal(changes.keys, whole.keys)
        np.testing.assert_array_equal(changes.rows, whole.rows)
        assert changes.waiting is not None and whole.waiting is not None
        np.testing.assert_array_equal(changes.waiting, whole.waiting)
    assert 10 < len(whole.keys) <= 60


def test_a_warm_start_keeps_ages_and_counts_of_pushes(make_job: MakeJob, tmp_path: Path) -> None:
    train(make_server(make_job(sync_mode="async", epochs=2), tmp_path / "first"), 1, 2, AGEING)
    train(make_server(make_job(sync_mode="async", epochs=4), tmp_path / "whole"), 1, 4, AGEING)
    warm = make_job(sync_mode="async", epochs=2, warmup_model_path=str(tmp_path / "first" / "model" / "2"))
    train(make_server(warm, tmp_path / "second"), 3, 4, AGEING)
    then, now = (saved.read_model(tmp_path / f)["rows"] for f in ("whole/model/4", "second/model/2"))
    for mine, theirs in ((now.keys, then.keys), (now.block, then.block), (now.waiting, then.waiting)):
        assert mine is not None and theirs is not None and mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("mode", ["all", "base"])
def test_another_number_of_servers_shares_rows_and_those_that_wait(
    mode: str, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(sync_mode="async", epochs=3, save_mode=mode)
    train(make_server(job, tmp_path), 1, 3, AGEING)
    folder = tmp_path / "model" / "3"
    whole = saved.read_model(folder)["rows"]
    stores = []
    for shard in range(2):
        warm = make_job(sync_mode="async", server_num=2, warmup_model_path=str(folder))
        server = make_server(warm, tmp_path / "again", shard)
        Caller(server, "0").join(AGEING, BIAS)
        stores.append(server.shard.store)
    exported = [store.export()["rows"] for store in stores]
    keys = np.concatenate([keys for _, keys, _ in exported])
    blocks = np.concatenate([block for _, _, block in exported])[np.argsort(keys)]
    np.testing.assert_array_equal(np.sort(keys), whole.keys)
    np.testing.assert_array_equal(blocks[:, :4], whole.values)
    np.testing.assert_array_equal(blocks[:, -1:].view(np.uint32), whole.block[:, -1:].copy().view(np.uint32))
    waiting = np.concatenate([store.waiting()["rows"] for store in stores])
    assert whole.waiting is not None
    assert sorted(map(tuple, waiting.tolist())) == sorted(map(tuple, whole.waiting.tolist()))


def test_an_open_table_starts_from_a_counted_one_and_a_bounded_from_one_that_was_not(
    make_job: MakeJob, tmp_path: Path
) -> None:
    counted = TableSpec("rows", "sparse", (50, 4), Rule("adagrad"), OPEN.init)
    first = Caller(make_server(make_job(sync_mode="async"), tmp_path), "0").join(counted, BIAS)
    assert isinstance(first.ask(*push(1, [3, 7], ones(2))), Done)
    end_epoch(first, 1)
    warm = make_job(sync_mode="async", warmup_model_path=str(tmp_path / "model" / "1"))
    for table in (BOUNDED, TableSpec("rows", "sparse", (0, 4), Rule("adagrad"), OPEN.init)):
        second = Caller(make_server(warm, tmp_path / "again"), "0").join(table, BIAS)
        assert second.rows(3, 7) == first.rows(3, 7)


def test_a_save_whose_waiting_ids_make_no_sense_is_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "rows/waiting": np.arange(3),
        "rows/keys": NO_KEYS,
        "rows/rows": np.empty((0, 4), np.float32),
    }
    specs = {"rows": to_builtins(OPEN)}
    snapshot.save_arrays(tmp_path / "model" / "1", "server-0", arrays, {"shard": 0, "shards": 1, "epoch": 1}, specs)
    with pytest.raises(DataError, match="the ids that wait in rows do not fit"):
        saved.read_model(tmp_path / "model" / "1")


def test_servers_say_of_each_epoch_what_became_of_rows(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    train(make_server(make_job(sync_mode="async", epochs=5), tmp_path, events=events), 1, 5)
    told = [e for e in events if e["event"] == "tables"]
    assert [e["epoch"] for e in told] == [1, 2, 3, 4, 5]
    last = told[-1]["tables"]["rows"]
    assert last["rows"] == last["made"] - last["expired"] - last["evicted"] <= 60
    assert last["made"] == last["admitted"] > 60
    assert min(last["waiting"], last["expired"], last["evicted"]) > 0
    assert last["bytes"] > 60 * (32 + 8)


def test_a_push_to_a_bounded_table_is_refused_whole_where_memory_is_short(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job(sync_mode="async"), tmp_path)
    table = TableSpec("rows", "sparse", (0, 4), Rule("add"), OPEN.init, bounds=Bounds(expire_after=3))
    caller = Caller(server, "0").join(table, BIAS)
    server.shard.room.fits = lambda size: size <= 0  # type: ignore[method-assign]
    refused = caller.ask(*push(1, [-3, 8], ones(2)))
    assert isinstance(refused, Refused) and "no room" in refused.reason
    assert isinstance(caller.ask(Push(("rows", "bias"), 1, 0), NO_KEYS, ones(0), NO_KEYS, ones(1)[:, :3]), Done)
    assert server.shard.store.counts()["rows"].rows == 0


def test_tables_whose_counts_of_pushes_find_no_room_are_not_declared(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: CANDIDATES_BYTES)
    caller = Caller(make_server(make_job(sync_mode="async"), tmp_path), "0")
    refused = caller.ask(Join((BOUNDED, BIAS), 0))
    assert isinstance(refused, Refused) and "no room" in refused.reason
    assert isinstance(caller.ask(Join((OPEN, BIAS), 0)), Done)
