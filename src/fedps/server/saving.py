"""What one server writes at the end of an epoch, and what it starts from where the job names a saved epoch.

Only the rows this server keeps are its concern: `storage.epochs` cuts them out of whatever number of servers wrote a save.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import DataError, TableError
from fedps.events import events
from fedps.events.events import Report
from fedps.server.beside import Work
from fedps.storage.epochs import read_model, remove, save_shard
from fedps.storage.shards import Base, Facts, name_of
from fedps.storage.snapshot import Tables
from fedps.storage.tables import SavedTable, fit_state, new_ids, said_of_new, shape_misfit
from fedps.storage.whole import GROUP, PRIVATE, PUBLIC
from fedps.table.sparse import unbounded
from fedps.table.store import Store
from fedps.types import NO_KEYS, Keys, Rule, TableName, TableSpec, Values

READERS = {"owner": PRIVATE, "group": GROUP, "all": PUBLIC}  # modes of files, by `runner.model_readers`


class Saver:
    """Writes one server's tables to `<model folder>/<epoch>/server-<shard>`, as the job's `save_mode` says.

    `all`: every row with its optimizer state. `base`: values only. `delta`: the rows changed since the last save, with
    state; it names that save, and the first one of a run is whole.

    A large table takes seconds to save. So both steps may run in another thread, one after the other: `copy` while the
    tables stand still, `write`, which takes most of the time, while they are in use again.

    Args:
        job, shard, run_dir: as for the server.
    """

    def __init__(self, job: Job, shard: int, run_dir: Path) -> None:
        self._mode, self._shard = job.runner.save_mode, shard
        self._readers = READERS[job.runner.model_readers]
        self._folder = job.runner.model_save_path or run_dir / "model"
        self._facts = Facts(
            job.runner.server_num, shard=shard, job=job.name, mode=self._mode, run=str(run_dir.absolute())
        )
        self._last: Base | None = None  # the save that the next delta builds on
        self._of: Store | None = None  # whose it is
        self._keep, self._epochs = job.runner.keep_epochs, list[int]()  # of this run, in their order
        self._tables: Tables = {}  # what is copied and not written yet,
        self._waiting: Mapping[TableName, Keys] = {}  # and the ids that wait for a row
        self._began = 0.0

    def copy(self, store: Store, epoch: int, witnesses: tuple[str, ...] = ()) -> None:
        """Copy the tables as they are at the end of an epoch; pushes from now on belong to the next save.

        Args:
            store: the tables.
            epoch: counted from 1.
            witnesses: what tells this run from others, see `storage.epochs`.
        """
        self._began = time.perf_counter()
        base = self._last if self._mode == "delta" and self._of is store else None
        if base is not None and base.epoch == epoch:
            base = None  # a delta may not take the place of the save it builds on
        self._tables, self._of = store.export(changed=base is not None), store
        self._waiting = store.waiting()
        self._facts = replace(
            self._facts, epoch=epoch, base=base, steps=store.steps(), rates=store.rates(), witnesses=witnesses
        )
        store.mark_saved()

    def begin(self, store: Store, epoch: int, witnesses: tuple[str, ...] = ()) -> Iterator[Work]:
        """Begin to save the tables as they are now; each work that is yielded is to be done before the next is asked for."""
        self.copy(store, epoch, witnesses)
        tables, waiting, facts, began = self._tables, self._waiting, self._facts, self._began

        def write() -> None:
            self._tables, self._waiting, self._facts, self._began = tables, waiting, facts, began
            self.write()

        return iter([write])

    def write(self) -> None:
        """Write what was copied.

        Raises:
            DataError: the files cannot be written; earlier saves stay as they were.
        """
        tables, waiting, self._tables, self._waiting = self._tables, self._waiting, {}, {}
        if self._mode == "base":
            tables = {name: _values_only(*table) for name, table in tables.items()}
        epoch = self._facts.epoch or 0
        check = save_shard(self._folder / str(epoch), self._shard, tables, self._facts, self._readers, waiting)
        self._last = Base(epoch, check)
        self._epochs = [*(e for e in self._epochs if e != epoch), epoch]
        while self._keep and len(self._epochs) > self._keep:  # two at least: all servers have written the last but one
            remove(self._folder / str(self._epochs.pop(0)), name_of(self._shard))

    def saved(self) -> events.Saved:
        """Return the event of what was written last."""
        epoch = self._facts.epoch or 0
        return events.Saved(epoch, str(self._folder / str(epoch)), time.perf_counter() - self._began)


class WarmStart:
    """The saved epoch that a server starts from: rows, optimizer state where the rule is the same, and dense tensors.

    The original takes over sparse tables only. It is read when the server starts, so that a torn file ends the run
    before anybody trains, and given up once the tables are made.

    Args:
        folder: `runner.warmup_model_path`.
        shard: the server's number.
        shards: how many servers there are now.

    Raises:
        DataError: a file is missing, torn, or does not fit the others; it is named.
    """

    def __init__(self, folder: Path, shard: int, shards: int) -> None:
        self._folder, self._shard, self._shards = folder, shard, shards
        self._tables: dict[TableName, SavedTable] | None = read_model(folder, shard, shards)
        self._shapes = {
            n: t._replace(keys=NO_KEYS, block=t.block[:0].copy(), waiting=None) for n, t in self._tables.items()
        }

    def misfit(self, spec: TableSpec) -> str | None:
        """Say why a declared table cannot start from this save, or None."""
        return shape_misfit(spec, self._shapes, self._folder)

    def grown(self, tables: Iterable[TableSpec]) -> str:
        """Say how many ids of declared tables were not there when the epoch was saved; empty if all were."""
        new = {spec.name: count for spec in tables if (count := new_ids(spec, self._shapes[spec.name]))}
        return said_of_new(self._folder, new)

    def fill(self, store: Store) -> None:
        """Put the saved rows into a store's tables, each of which must fit.

        Raises:
            TableError: there is no room for the rows.
            DataError: the files were damaged meanwhile.
        """
        tables = self._tables or read_model(self._folder, self._shard, self._shards)
        for name in store.names():
            block, steps = fit_state(tables[name], store.spec(name))
            store.load(name, tables[name].keys, block, steps, tables[name].waiting)
        self._tables = None  # tables are made once, hardly ever again: see `ballot`


def start_from(job: Job, shard: int, report: Report) -> WarmStart | None:
    """Read the saved epoch that a job starts from; None if it starts anew.

    Raises:
        DataError: as for `WarmStart`.
    """
    folder, began = job.runner.warmup_model_path, time.perf_counter()
    if folder is None:
        return None
    warm = WarmStart(folder, shard, job.runner.server_num)
    report(events.Loaded(str(folder), time.perf_counter() - began))
    return warm


def make_store(
    tables: tuple[TableSpec, ...], warm: WarmStart | None, take: Callable[[int], None] = unbounded, shards: int = 1
) -> Store:
    """Make the declared tables, from a saved epoch if there is one.

    Args:
        tables: what was declared.
        warm: the saved epoch.
        take: as for `Store`.
        shards: the same.

    Raises:
        TableError: no table can be made of a spec, the save is of another model, or there is no room for the rows.
    """
    for spec in tables:
        if warm and (fault := warm.misfit(spec)):
            raise TableError(f"runner.warmup_model_path: {fault}")
    store = Store(take, shards)
    store.declare(tables)
    try:
        if warm:
            warm.fill(store)
    except DataError as error:
        raise TableError(f"runner.warmup_model_path: {error}") from error
    return store


def _values_only(spec: TableSpec, keys: Keys, block: Values) -> tuple[TableSpec, Keys, Values]:
    plain = replace(spec, rule=Rule("add"), frozen=False)
    columns = [*range(spec.dim), *([-1] if spec.bounded else [])]  # a bounded table's marks are no state
    return plain, keys, np.ascontiguousarray(block[:, columns] if spec.bounded else block[:, : spec.dim])
