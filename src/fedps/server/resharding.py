"""The state that servers left, dealt out anew: to another number of servers, or for another number of clients.

Rows go by `key % servers`, tensors by size, as clients look for them. What a buffer of pushes held is merged first.
"""

import shutil
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path

from fedps.config import Job
from fedps.events.events import Event
from fedps.server.members import Member
from fedps.server.records import encode
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.frames import Kind
from fedps.storage.log import Log
from fedps.storage.shards import name_of
from fedps.storage.tables import SavedTable, join
from fedps.storage.whole import sync_names
from fedps.table.store import Store
from fedps.types import ClientId, TableName
from fedps.wire.pieces import placement

STATE, JOB = "state", "job.yaml"  # of all servers, in the run's folder; and the job they serve


def state_folder(run_dir: Path, shard: int) -> Path:
    """Return the folder in which a server keeps what outlives its process."""
    return run_dir / STATE / name_of(shard)


def deal_out(theirs: Job, job: Job, run_dir: Path, clients: Set[ClientId], cut: Mapping[ClientId, int] | None) -> None:
    """Put what the servers of one job left in the place where those of another look for it, and the job beside it.

    A process that dies as it does so leaves the one state, or the other to be put in its place by `settle`.

    Args:
        theirs: the job that they served.
        job: the job to go on with.
        run_dir: the run's folder; none of its servers is running.
        clients: who takes part from now on.
        cut: the last push of each client that counts, where the run is taken back to an earlier moment.

    Raises:
        DataError: a state is missing, damaged, in use, or does not reach back to the cut.
        OSError: the new one cannot be written.
    """
    settle(run_dir)
    now, new = run_dir / STATE, run_dir / f"{STATE}.new"
    with ExitStack() as stack:
        olds = [_server(theirs, k, run_dir, now, stack, cut) for k in range(theirs.runner.server_num)]
        for old in olds:
            old.shard.saves.go_on()
            old.shard.merge_rest()
        tables = _tables(olds, now)
        anew = job.model_copy(update={"runner": job.runner.model_copy(update={"warmup_model_path": None})})
        placed = placement([table.spec for table in tables.values()], job.runner.server_num)
        for shard in range(job.runner.server_num):
            mine = {name: table for name, table in tables.items() if placed.get(name, shard) == shard}
            server = _server(anew, shard, run_dir, new, stack)
            if tables:
                server.shard.take_over(_store(mine, shard, server), tuple(table.spec for table in mine.values()))
            _take_over(server, olds, clients)
            if theirs.runner.worker_num == job.runner.worker_num:  # else others come, and all are counted again
                server.kept.mean_samples = olds[0].kept.mean_samples
            _write(server, new / name_of(shard))
    job.save(new / JOB)  # last: with it the new state is whole
    settle(run_dir)


def settle(run_dir: Path) -> None:
    """Finish what a process that died left half done: a state that is whole takes its place, and its job that of the run's.

    Raises:
        OSError: it cannot be done.
    """
    now, new, before = run_dir / STATE, run_dir / f"{STATE}.new", run_dir / f"{STATE}.before"
    if (new / JOB).exists():
        shutil.rmtree(before, ignore_errors=True)
        if now.exists():
            now.rename(before)
        new.rename(now)
        sync_names(run_dir)
    elif before.exists() and not now.exists():
        before.rename(now)
    if (now / JOB).exists():
        (now / JOB).replace(run_dir / JOB)
    for left in (new, before):
        shutil.rmtree(left, ignore_errors=True)


def _server(
    job: Job, shard: int, run_dir: Path, home: Path, stack: ExitStack, cut: Mapping[ClientId, int] | None = None
) -> ParameterServer:
    disk = stack.enter_context(Folder(home / name_of(shard)))
    return ParameterServer(job, shard, run_dir, _unheard, log=Log(disk), cut=cut)


def _write(server: ParameterServer, folder: Path) -> None:
    """Write all that a server is, as a snapshot that its log begins with: there is no way back before it.

    Raises:
        OSError: the disk failed.
    """
    log = server.durable.log
    assert log is not None  # noqa: S101  (it was made with one)
    snapshot = log.compact()
    for record, arrays in server.whole():
        snapshot.write(encode(record, arrays))
    snapshot.commit(log.position)
    (folder / f"{Kind.LOG}-0").unlink()  # else a server would go back to an empty one


def _unheard(event: Event) -> None:
    """Tell nobody: what happened then was told then."""


def _tables(servers: list[ParameterServer], home: Path) -> dict[TableName, SavedTable]:
    """Return all rows of all tables; none of a tensor that nobody has seeded whole: clients offer all of it again."""
    parts: dict[TableName, list[SavedTable]] = {}
    for server in servers:
        store = server.shard.store
        steps, waiting = store.steps(), store.waiting()
        for name, (spec, keys, block) in store.export().items():
            block = block if store.seeded(name) else block[:0]
            parts.setdefault(name, []).append(SavedTable(spec, keys, block, steps[name], waiting.get(name)))
    return {name: join(pieces, home) for name, pieces in parts.items()}


def _store(tables: Mapping[TableName, SavedTable], shard: int, server: ParameterServer) -> Store:
    """Return a server's part of the tables."""
    shards = server.shard.count
    store = Store(server.shard.room.take, shards)
    store.declare(table.spec for table in tables.values())
    for name, (spec, keys, block, steps, waiting) in tables.items():
        if spec.kind == "sparse":
            mine = keys % shards == shard
            keys, block = keys[mine], block[mine]
            waiting = None if waiting is None else waiting[waiting[:, 0] % shards == shard]
        if spec.kind == "sparse" or len(block):
            store.load(name, keys, block, steps, waiting)
    return store


def _take_over(server: ParameterServer, olds: list[ParameterServer], clients: Set[ClientId]) -> None:
    """Let a server know what the others knew of clients and epochs."""
    kept, first = server.kept, olds[0].kept
    server.shard.set_clock(max(old.clock for old in olds))
    server.shard.unsaved = any(old.shard.unsaved for old in olds)
    server.shard.moved = any(old.shard.moved for old in olds)
    kept.barriers.epoch = max(old.barriers.epoch for old in olds)
    kept.barriers.passed, kept.told = first.barriers.passed, max(old.kept.told for old in olds)
    declared = frozenset(server.shard.store.spec(name) for name in server.shard.store.names())
    kept.ballot.chosen = declared or None
    for old in olds:
        for client, process in old.roster.processes.items():
            kept.roster.know(client, process)
    for there, theirs in (("here", first.members.here), ("left", first.members.left), ("lost", first.members.lost)):
        for client, member in theirs.items():
            if client in clients:
                getattr(kept.members, there)[client] = _counted(client, member, olds, server.shard.count)


def _counted(client: ClientId, member: Member, olds: list[ParameterServer], shards: int) -> Member:
    """Return a member with the number of its last push at any server: the next process counts on from there; and with its share of the rows."""
    known = [one for old in olds if (one := old.members.known_as(client)) is not None]
    member.merged = member.sequence = max(one.merged for one in known)
    member.made = sum(one.made for one in known) // shards
    return member
