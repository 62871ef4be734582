"""What servers left is dealt out anew to another number of them, and a process that dies meanwhile leaves one or the other."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.errors import DataError
from fedps.server.resharding import deal_out, settle, state_folder
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Compaction, Log
from fedps.types import Bounds, ClientId, Init, Rule, TableSpec
from fedps.wire.messages import Barrier, Census, Counted, Done, Join, Seed
from tests.conftest import MakeJob
from tests.server.callers import Caller, ones, push
from tests.server.homes import meet

ROWS = TableSpec("rows", "sparse", (100, 4), Rule("adam"), Init("constant", 1.0), bounds=Bounds(admit_after=1))
BIAS = TableSpec("bias", "dense", (3,), Rule("add"))
Tables = dict[str, Any]


def start(job: Job, shard: int, run_dir: Path) -> tuple[ParameterServer, Folder]:
    disk = Folder(state_folder(run_dir, shard))
    server = ParameterServer(job, shard, run_dir, lambda event: None, log=Log(disk))
    server.members.expect(2)
    return server, disk


def found(job: Job, run_dir: Path) -> Tables:
    """Return all rows with their state, of all servers, and what they know of clients."""
    rows, bias, clients = list[Any](), list[Any](), set[tuple[str, int]]()
    for shard in range(job.runner.server_num):
        server, disk = start(job, shard, run_dir)
        for name, (_, keys, block) in server.shard.store.export().items():
            if name == "bias":
                bias.append(block.tobytes())
            else:
                assert (keys % job.runner.server_num == shard).all()
                rows += zip(keys.tolist(), map(bytes, block), strict=True)
        clients |= {(client, member.sequence) for client, member in server.members.here.items()}
        assert server.barriers.epoch == 1
        disk.close()
    return {"rows": sorted(rows), "bias": bias, "clients": clients}


@pytest.fixture
def left(make_job: MakeJob, tmp_path: Path) -> tuple[Job, Path]:
    """The state of two servers, of which one has a push more."""
    job = make_job(sync_mode="async", epochs=3, server_num=2)
    for shard, tables in enumerate([(ROWS, BIAS), (ROWS,)]):
        server, disk = start(job, shard, tmp_path)
        callers = [Caller(server, name) for name in "ab"]
        for caller in callers:
            assert isinstance(caller.ask(Join(tables, 0)), Done)
        if shard == 0:
            callers[0].join(*tables)
        for number in range(1, 4 + shard):
            keys = np.arange(shard, 40, 2)
            message, *arrays = push(number, keys, ones(len(keys), number))
            if shard:
                message, arrays = type(message)(("rows",), number, 0), arrays[:2]
            for caller in callers:
                assert isinstance(caller.ask(message, *arrays), Done)
        meet(1, *callers)
        disk.close()
    job.save(tmp_path / "job.yaml")
    return job, tmp_path


@pytest.mark.parametrize("count", [1, 3])
def test_rows_go_where_clients_look_for_them_with_all_that_belongs_to_them(
    count: int, left: tuple[Job, Path], make_job: MakeJob
) -> None:
    job, run_dir = left
    there, other = found(job, run_dir), make_job(sync_mode="async", epochs=3, server_num=count)
    deal_out(job, other, run_dir, {ClientId("a"), ClientId("b")}, None)
    now = found(other, run_dir)
    assert len(there["rows"]) == 40
    assert [key for key, _ in now["rows"]] == [key for key, _ in there["rows"]]
    assert now["bias"] == there["bias"]
    assert now["clients"] == {("a", 4), ("b", 4)}
    assert sorted(f.name for f in run_dir.iterdir() if f.name.startswith("state")) == ["state"]
    server, disk = start(other, 0, run_dir)
    again = Caller(server, "a", "new")
    specs = tuple(server.shard.store.spec(name) for name in server.shard.store.names())
    assert again.ask(Join(specs, 0)) == Done(sequence=4)
    assert isinstance(again.ask(Barrier(1, "evaluated")), Done)
    disk.close()


def test_clients_that_take_part_no_more_are_not_waited_for(left: tuple[Job, Path], make_job: MakeJob) -> None:
    job, run_dir = left
    deal_out(job, make_job(sync_mode="async", epochs=3, server_num=1), run_dir, {ClientId("b")}, None)
    server, disk = start(make_job(sync_mode="async", epochs=3, server_num=1), 0, run_dir)
    assert set(server.members.here) == {"b"}
    disk.close()


@pytest.mark.parametrize("died", ["before it was whole", "whole", "old away", "new there"])
def test_whoever_dies_as_it_is_dealt_out_leaves_the_one_or_the_other(
    died: str, left: tuple[Job, Path], make_job: MakeJob
) -> None:
    job, run_dir = left
    shutil.copytree(run_dir / "state", run_dir / "old")
    other = make_job(sync_mode="async", epochs=3, server_num=3)
    deal_out(job, other, run_dir, {ClientId("a"), ClientId("b")}, None)
    done = found(other, run_dir)
    job.save(run_dir / "job.yaml")
    now, new, before, old = (run_dir / name for name in ("state", "state.new", "state.before", "old"))
    other.save(now / "job.yaml")
    if died != "new there":
        now.rename(new)
        old.rename(before if died == "old away" else now)
    if died == "before it was whole":
        (new / "job.yaml").unlink()
    settle(run_dir)
    if died == "before it was whole":
        assert len(found(job, run_dir)["rows"]) == 40
    else:
        assert found(other, run_dir) == done
        assert "server_num: 3" in (run_dir / "job.yaml").read_text()
    assert not new.exists() and not before.exists()


def test_a_full_disk_leaves_what_there_was(
    left: tuple[Job, Path], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run_dir = left
    there, other = found(job, run_dir), make_job(sync_mode="async", epochs=3, server_num=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Compaction, "write", full)
        with pytest.raises(OSError, match="No space left"):
            deal_out(job, other, run_dir, {ClientId("a"), ClientId("b")}, None)
    settle(run_dir)
    assert found(job, run_dir) == there


def test_a_tensor_that_was_seeded_in_part_is_seeded_anew(make_job: MakeJob, tmp_path: Path) -> None:
    job, other = (make_job(sync_mode="async", epochs=3, server_num=count) for count in (1, 2))
    server, disk = start(job, 0, tmp_path)
    a = Caller(server, "a")
    assert isinstance(a.ask(Join((ROWS, BIAS), 0)), Done)
    assert isinstance(a.ask(Seed("bias", 0), np.full((1, 1), 5, np.float32)), Done)
    disk.close()
    deal_out(job, other, tmp_path, {ClientId("a"), ClientId("b")}, None)
    server, disk = start(other, 0, tmp_path)
    start_of = np.array([[1.0, 2.0, 3.0]], np.float32)
    server.shard.seed("bias", start_of, 0)
    assert server.shard.store.pull("bias", np.empty(0, np.int64)).tolist() == start_of.tolist()
    disk.close()


def test_nobody_goes_back_before_it(left: tuple[Job, Path], make_job: MakeJob) -> None:
    job, run_dir = left
    other = make_job(sync_mode="async", epochs=3, server_num=1)
    deal_out(job, other, run_dir, {ClientId("a"), ClientId("b")}, None)
    there = found(other, run_dir)
    disk = Folder(state_folder(run_dir, 0))
    with pytest.raises(DataError, match="does not reach back"):
        ParameterServer(other, 0, run_dir, lambda event: None, log=Log(disk), cut={ClientId("a"): 2})
    disk.close()
    assert found(other, run_dir) == there


def test_all_are_told_the_same_mean_as_before(make_job: MakeJob, tmp_path: Path) -> None:
    job, other = (make_job(sync_mode="sync", server_num=count) for count in (1, 2))
    server, disk = start(job, 0, tmp_path)
    for name, instance, samples in (("a", "p", 10), ("b", "p", 30), ("b", "next", 50)):
        assert isinstance(Caller(server, name, instance).ask(Join((ROWS, BIAS), 0, samples)), Done)
    disk.close()
    deal_out(job, other, tmp_path, {ClientId("a"), ClientId("b")}, None)
    server, disk = start(other, 0, tmp_path)
    a = Caller(server, "a", "new")
    assert isinstance(a.ask(Join((ROWS, BIAS), 0, 10)), Done)
    assert a.ask(Census()) == Counted(20.0)
    disk.close()


def test_the_epoch_that_the_job_started_from_is_not_needed_again(
    left: tuple[Job, Path], make_job: MakeJob, tmp_path: Path
) -> None:
    _, run_dir = left
    job, other = (
        make_job(sync_mode="async", epochs=3, server_num=count, warmup_model_path=str(run_dir / "model" / "1"))
        for count in (2, 1)
    )
    shutil.rmtree(run_dir / "model")
    there = found(job, run_dir)
    deal_out(job, other, run_dir, {ClientId("a"), ClientId("b")}, None)
    assert [key for key, _ in found(other, run_dir)["rows"]] == [key for key, _ in there["rows"]]
