"""What one server writes at the end of an epoch, and what it starts from where the job names a saved epoch.

Only the rows this server keeps are its concern: `storage.epochs` cuts them out of whatever number of servers wrote a save.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import DataError, TableError
from fedps.events import events
from fedps.events.events import Report
from fedps.server.beside import Beside, Work, in_turns
from fedps.server.durable import Durable
from fedps.server.records import SavedEpoch
from fedps.storage.epochs import before, is_whole, read_model, remove, supersede
from fedps.storage.shards import Base, Facts, name_of
from fedps.storage.snapshot import Writer, layouts
from fedps.storage.tables import SavedTable, fit_state, new_ids, said_of_new, shape_misfit
from fedps.storage.whole import GROUP, PRIVATE, PUBLIC
from fedps.table.sparse import unbounded
from fedps.table.still import Still
from fedps.table.store import Store
from fedps.types import NO_KEYS, Keys, Rule, TableName, TableSpec

READERS = {"owner": PRIVATE, "group": GROUP, "all": PUBLIC}  # modes of files, by `runner.model_readers`


class Saver:
    """Writes one server's tables to `<model folder>/<epoch>/server-<shard>`, as the job's `save_mode` says.

    `all`: every row with its optimizer state. `base`: values only. `delta`: the rows changed since the last save, with
    state; it names that save, and the first one of a run is whole.

    A large table takes seconds to save. So the tables are frozen, which takes next to no time, and are read and written
    piece by piece while they are in use.

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
        self._begun = 0  # saves so far, with a gap where the tables are others
        self._of: Store | None = None  # whose the last one is
        self._last: tuple[int, Base] | None = None  # which of them was written last, on which the next delta may build
        self._keep = job.runner.keep_epochs  # of this run
        self._saved: events.Saved | None = None

    def begin(self, store: Store, epoch: int, witnesses: tuple[str, ...] = ()) -> Iterator[Work]:
        """Freeze the tables as they are at the end of an epoch; return the works that save them, for `in_turns`.

        Pushes go on from now on, and belong to the next save. Each work is made in the thread that pushes, which takes little
        time, and may be done in another before the next is asked for. All works of a save come before those of the next.
        Whoever drops them leaves nothing behind, but perhaps a save that is whole.

        A work raises DataError: the files cannot be written. Earlier saves stay as they were, and the next one is whole.

        Args:
            store: the tables.
            epoch: counted from 1.
            witnesses: what tells this run from others, see `storage.epochs`.
        """
        began = time.perf_counter()
        self._begun += 1 if self._of is store else 2  # so that no delta builds on the save of other tables
        self._of = store
        facts = replace(self._facts, epoch=epoch, steps=store.steps(), rates=store.rates(), witnesses=witnesses)
        tables = store.still()
        store.mark_saved()
        return self._works(tables, facts, self._begun, began)

    def _works(self, tables: list[Still], facts: Facts, number: int, began: float) -> Iterator[Work]:
        if (base := self._base(facts.epoch, number)) is not None:
            facts = replace(facts, base=base)
            for table in tables:
                table.restrict()
        yield partial(_sort, tables)
        waiting = dict[TableName, Keys]()
        for table in tables:
            pieces = [np.empty((0, 2), np.int64)]
            for piece in table.waiting or ():
                pieces.append(piece)
                yield lambda: None
            if table.waiting is not None:
                waiting[table.spec.name] = np.concatenate(pieces)
        values, writer = self._mode == "base", Writer(self._at(facts), name_of(self._shard), self._readers)
        try:
            yield partial(writer.begin, layouts({t.spec.name: (len(t.keys), t.shape(values)) for t in tables}, waiting))
            for ids in waiting.values():
                yield partial(writer.write, ids)
            for table in tables:
                yield partial(writer.write, table.keys)
                for rows in table.pieces(values):
                    yield partial(writer.write, rows)
            plain = {"rule": Rule("add"), "frozen": False} if values else {}
            specs = {t.spec.name: to_builtins(replace(t.spec, **plain)) for t in tables}
            yield partial(self._end, writer, facts, specs, number, began)
        finally:
            writer.abandon()

    def _base(self, epoch: int | None, number: int) -> Base | None:
        """Return the save that this one is to build on; None if it is to be whole."""
        if self._mode != "delta" or self._last is None:
            return None
        last, base = self._last  # a delta may not take the place of the save it builds on
        return base if last == number - 1 and base.epoch != epoch else None

    def _end(self, writer: Writer, facts: Facts, specs: dict[TableName, object], number: int, began: float) -> None:
        """Let a save count, and remove those that are too old."""
        folder, epoch = self._at(facts), facts.epoch or 0
        check = writer.commit(to_builtins(facts), specs)
        supersede(folder, check)
        self._last = number, Base(epoch, check)
        self._saved = events.Saved(epoch, str(folder), time.perf_counter() - began)
        if self._keep:
            self._keep_last(self._keep, [*before(self._folder, facts), epoch])

    def _keep_last(self, count: int, epochs: list[int]) -> None:
        """Remove all epochs but the last ones."""
        while len(epochs) > count:
            # Servers write at their own time: whatever this one has written, the last epoch that is whole has to stay.
            oldest, *others = (is_whole(self._folder / str(epoch)) for epoch in epochs)
            if oldest and not any(others):
                break
            remove(self._folder / str(epochs.pop(0)), name_of(self._shard))

    def _at(self, facts: Facts) -> Path:
        return self._folder / str(facts.epoch)

    def saved(self) -> events.Saved:
        """Return the event of what was written last."""
        assert self._saved is not None  # noqa: S101  (who asks has seen the works end)
        return self._saved


class Saves:
    """The epochs of a server that are to be written, one after the other, beside all else.

    Args:
        saver: made their works.
        beside: lets work be done elsewhere; may be another each time.
        durable: where it is noted that an epoch is on disk.
        report: where events go.

    Attributes:
        waiting: each epoch with its works; the first is under way once `go_on` was called.
        failure: why the last save failed, None if it did not.
        caught_up: called when they were `behind`, and are not any more.
    """

    def __init__(self, saver: Saver, beside: Callable[[], Beside], durable: Durable, report: Report) -> None:
        self.waiting = deque[tuple[int, Iterator[Work]]]()
        self.failure: Exception | None = None
        self.caught_up: Callable[[], None] = lambda: None
        self._saver, self._beside, self._durable, self._report = saver, beside, durable, report
        self._writes = False

    @property
    def behind(self) -> bool:
        """Whether an epoch waits to be written while another is: each keeps aside what has changed since."""
        return len(self.waiting) > 1

    def add(self, epoch: int, works: Iterator[Work]) -> None:
        """Let an epoch be written when those before are, and somebody says `go_on`."""
        self.waiting.append((epoch, works))

    def go_on(self) -> None:
        """Begin to write what waits, unless that is under way."""
        if self.waiting and not self._writes:
            self._writes = True
            in_turns(self._beside(), self.waiting[0][1], self._ended)

    def _ended(self, error: Exception | None) -> None:
        was_behind, (epoch, _) = self.behind, self.waiting.popleft()
        self._writes, self.failure = False, error
        if error is None:
            self._durable.note(SavedEpoch(epoch))
            self._report(self._saver.saved())
        else:
            self._report(events.Unsaved(epoch, str(error)))
        self.go_on()
        if was_behind:
            self.caught_up()


class WarmStart:
    """The saved epoch that a server starts from: rows, optimizer state where the rule is the same, and dense tensors.

    The original takes over sparse tables only. It is read when tables are made, unless it was before, and given up then.

    Args:
        folder: `runner.warmup_model_path`.
        shard: the server's number.
        shards: how many servers there are now.
        report: where it is told that it was read.
    """

    def __init__(self, folder: Path, shard: int, shards: int, report: Report = lambda event: None) -> None:
        self._folder, self._shard, self._shards, self._report = folder, shard, shards, report
        self._tables: dict[TableName, SavedTable] | None = None
        self._shapes: dict[TableName, SavedTable] | None = None

    def read(self) -> dict[TableName, SavedTable]:
        """Read it unless that was done, so that a torn file is told before anybody trains; return what tables are there.

        Raises:
            DataError: a file is missing, torn, or does not fit the others; it is named.
        """
        if self._shapes is None:
            began = time.perf_counter()
            self._tables = read_model(self._folder, self._shard, self._shards)
            self._shapes = {
                n: t._replace(keys=NO_KEYS, block=t.block[:0].copy(), waiting=None) for n, t in self._tables.items()
            }
            self._report(events.Loaded(str(self._folder), time.perf_counter() - began))
        return self._shapes

    def misfit(self, spec: TableSpec) -> str | None:
        """Say why a declared table cannot start from this save, or None."""
        try:
            return shape_misfit(spec, self.read(), self._folder)
        except DataError as error:
            return str(error)

    def grown(self, tables: Iterable[TableSpec]) -> str:
        """Say how many ids of declared tables were not there when the epoch was saved; empty if all were."""
        shapes = self.read()
        new = {spec.name: count for spec in tables if (count := new_ids(spec, shapes[spec.name]))}
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


def start_of(job: Job, shard: int, report: Report) -> WarmStart | None:
    """Return the saved epoch that a job starts from, not read yet; None if it starts anew."""
    folder = job.runner.warmup_model_path
    return None if folder is None else WarmStart(folder, shard, job.runner.server_num, report)


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


def _sort(tables: Iterable[Still]) -> None:
    for table in tables:
        table.sort()
