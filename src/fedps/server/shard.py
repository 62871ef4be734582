"""One server's part of every table, behind the gate of the job's mode: what is pushed goes in, what is pulled comes out.

What comes here was checked whole (see `requests`); the one thing that can still fail is memory for new rows. It is found
out before a push is taken, never while one is applied: a push is applied whole or not at all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedps.access.conversation import Conversation
from fedps.config import Job
from fedps.errors import RefusedError, TableError
from fedps.events.events import Note, Report
from fedps.server import records
from fedps.server.beside import Beside, Work, at_once
from fedps.server.durable import Durable
from fedps.server.gate import Closing, Offer, Offered, make_gate, size_of
from fedps.server.members import Member, Members
from fedps.server.memory import Budget, Room
from fedps.server.merge import Contribution, Merged
from fedps.server.records import Sequences
from fedps.server.saving import Saver, Saves, make_store, start_of
from fedps.table.sparse import places, row_bytes
from fedps.table.store import Store, first_bytes, unfit
from fedps.types import ClientId, Keys, Rows, TableName, TableSpec, Values
from fedps.wire.compress import Array, Form, to_bf16, to_fp16
from fedps.wire.frame import Limits
from fedps.wire.messages import Pull, Push
from fedps.wire.messages import Values as Answer

MERGE = "merge"  # for whom pushes are kept


class Waiting(NamedTuple):
    """A pull that waits until clock `after` is merged; `size`: bytes of its keys and of its answer."""

    after: int
    size: int
    answer: Callable[[], None]


class Shard:
    """The tables and the gate of one server.

    Args:
        job, number, run_dir, report: as for the server.
        limits: what may be kept for those that wait.
        budget: counts what is.
        clock: seconds, monotonic.

    Attributes:
        number, count: of this server, and of all.
        room: for new rows.
        durable: writes down what changes.
        optimizes: whether pushes are gradients, which the tables' rules apply.
        store: the tables, none before the first declaration.
        gate: keeps pushes until their window closes; None where each is applied at once.
        unsaved: whether something was applied since the last save.
        moved: whether something was applied since the last epoch ended.
        beside: lets tables be saved beside all else.
        saves: the epochs that are to be written.
        warm: the saved epoch that its tables start from, None if they start anew.
        charge: is told the bytes of rows that each push was the first to change.
    """

    def __init__(
        self, job: Job, number: int, run_dir: Path, report: Report, limits: Limits, budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        runner = job.runner
        self.number, self.count = number, runner.server_num
        self.optimizes = runner.sync_mode in ("sync", "async")
        self.store, self.gate, self._runner = Store(), make_gate(runner), runner
        mean = runner.sync_mode == "geo" and runner.geo_merge == "mean"
        self._scale = np.float32(1 / (runner.worker_num or 1) if mean else 1)  # of each change that is applied at once
        self.beside: Beside = at_once
        self.durable = Durable(lambda: self.beside, report, runner.step_timeout, clock)
        self._saver, self.warm, self.report = Saver(job, number, run_dir), start_of(job, number, report), report
        self.saves = Saves(self._saver, lambda: self.beside, self.durable, report)
        self.unsaved = self.moved = False
        self._limits, self._budget, self.room = limits, budget, Room()
        # One client's pulls and its pushes leave half of the memory to the others, unless there are none.
        most, half = job.limits.rows_mib, self.room.at_start // (2 if (runner.worker_num or 1) > 1 else 1)
        self._most_made = half if most is None else most << 20
        remedy = "use more servers, raise limits.rows_mib, or bound the table by max_rows"
        self._beyond = f"of the {self._most_made} bytes that one client's may make here: {remedy}"
        self.charge: Callable[[ClientId, int], None] = lambda *_: None
        self._lasting = dict[TableName, int]()  # bytes of a row of each table whose rows never leave
        self._boundless = set[TableName]()  # tables with more ids than places for rows
        self._growth = 0.0  # bytes of new rows that a byte of a push makes at most
        self._waiting: dict[Conversation, list[Waiting]] = {}

    @property
    def clock(self) -> int:
        """The step, window or version now open; 0 where pushes are applied at once."""
        return self.gate.clock if self.gate else 0

    def check(self, tables: Sequence[TableSpec]) -> None:
        """Check that tables can be made: a vote for them must not fail once it is won.

        Raises:
            TableError: one cannot, or not from the epoch that the job starts from, or there is no memory for tensors.
        """
        for spec in tables:
            if fault := unfit(spec) or (self.warm and self.warm.misfit(spec)):
                raise TableError(f"table {spec.name!r}: {fault}")
        if not self.room.fits(first_bytes(tables)):
            raise TableError("there is no room in this server's memory for tensors of this size")

    def declare(self, tables: tuple[TableSpec, ...], warm: bool | None = None) -> None:
        """Make the tables, in place of those there are; what was pushed to these is forgotten.

        Args:
            tables: what was declared.
            warm: whether they start from the saved epoch; by default, if there is one.

        Raises:
            TableError: a table cannot be made, or there is no memory for it; those there are stay.
        """
        warm = self.warm is not None if warm is None else warm
        if warm and self.warm is None:
            raise TableError("its tables started from a saved epoch: name it again by runner.warmup_model_path")
        start = self.warm if warm else None
        # New tables, a new gate: nothing that was pushed to the old ones may reach these.
        self.take_over(make_store(tables, start, self.room.take, self.count), tables)
        if start and self.number == 0 and (note := start.grown(tables)):
            self.report(Note(f"runner.warmup_model_path: {note}"))
        self.durable.note(records.Declared(tables, warm))
        self.durable.leans = warm  # until a snapshot holds the rows that the log alone lacks

    def take_over(self, store: Store, tables: tuple[TableSpec, ...]) -> None:
        """Let a store that was just made take the place of the one there is."""
        self.store, self.gate = store, make_gate(self._runner)
        sparse = [t for t in tables if t.kind == "sparse"]
        self._boundless = {t.name for t in sparse if t.open or t.shape[0] > places(t)}
        self._lasting = {t.name: row_bytes(t) for t in sparse if not (t.bounds.max_rows or t.bounds.expire_after)}
        self._growth = max([row_bytes(t) / (8 + 4 * t.dim) for t in sparse], default=0.0)
        self._count_unmerged()

    def seed(self, table: TableName, values: Values, first: int) -> None:
        """Set where floats of a tensor or rows of a table start, unless they have a start; see `Seed`.

        Raises:
            TableError: they do not fit, or there is no room for the rows.
        """
        spec, last = self.store.spec(table), first + self.count * (len(values) - 1)
        if spec.kind == "dense":
            taken = self.store.seed(table, values, first)
        elif not 0 <= first <= last < spec.shape[0] or first % self.count != self.number:
            raise TableError(
                f"table {table!r}: {len(values)} rows from {first} on, where shard {self.number} of {self.count} has its"
                f" own of {spec.shape[0]}"
            )
        else:
            taken = self.store.seed_rows(table, np.arange(first, last + 1, self.count), values)
        if taken:  # all clients offer the same: one is enough
            self.durable.note(records.Seeded(table, first), [values])

    def check_growth(self, member: Member, offer: Offer) -> None:
        """Make sure that by a push its client will not have made more rows than one may.

        Raises:
            RefusedError: it would.
        """
        if member.made + size_of(offer) * self._growth <= self._most_made:  # whatever is new in it
            return
        new = sum(
            size * self.store.untrained(name, offer[name].keys) for name, size in self._lasting.items() if name in offer
        )
        if new and member.made + new > self._most_made:
            said = f"this client's pushes have made {member.made} bytes of rows, and {new} bytes are new in this one"
            raise RefusedError("too_large", f"{said}, {self._beyond}")

    def push(self, client: ClientId, push: Push, offer: Offer, now: float) -> bool:
        """Apply a push, or keep it until its window closes; return whether it came too late to count.

        Raises:
            TableError: there is no room for its new rows; nothing is applied.
            RefusedError: too much is kept already.
        """
        whose = ((client, push.sequence),)
        if self.gate is None:
            self._secure_rows(offer)
            self.apply(Closing({name: Merged(self._scaled(c), push.rate) for name, c in offer.items()}, whose))
            return False
        if self.gate.lockstep and push.clock < self.gate.clock:
            self.durable.note(records.Late(whose, self.gate.clock))
            return True
        self._budget.keep(
            MERGE, self.gate.bytes + size_of(offer), "pushes that are not merged", self._limits.total_bytes
        )
        self._secure_rows(offer)
        offered = Offered(client, push.sequence, push.clock, offer)
        self.offer(offered, now)
        if not self.gate.lockstep:  # else one record of the whole window is written once it is merged
            self.durable.note(*_offered(offered))
        return False

    def offer(self, offered: Offered, now: float) -> None:
        """Keep a push until its window closes."""
        assert self.gate is not None  # noqa: S101  (who has none offers nothing)
        self.gate.offer(offered, now)
        self._count_unmerged()

    def set_clock(self, clock: int) -> None:
        """Go on at a clock."""
        if self.gate is not None:
            self.gate.clock = clock

    def merge(self, members: Members, now: float) -> Sequences:
        """Close every window whose pushes are in, and answer the pulls that waited for it; return whose pushes were merged."""
        pushes: Sequences = ()
        while self.gate and (members.complete or not self.gate.lockstep):
            closing = self.gate.close(members.active(self.gate.clock), now, self._is_awaited(self.gate.clock))
            if closing is None:
                break
            pushes += closing.pushes
            self._take_in(closing)
        return pushes

    def merge_rest(self) -> None:
        """Merge what a gate still keeps when all stand at a barrier."""
        if self.gate and (closing := self.gate.rest()):
            self._take_in(closing)

    def is_merged(self, clock: int) -> bool:
        """Whether the pushes of a clock have been applied, and rows can be read."""
        return self.gate is None or clock < self.gate.clock

    def pull(self, member: Member, pull: Pull, arrays: Sequence[Keys]) -> tuple[Answer, Sequence[Array]]:
        """Return the rows that a member asks for as they travel, making those that are new.

        Raises:
            TableError: nobody has seeded a tensor yet, or there is no room for new rows.
        """
        wanted = list(zip(pull.tables, arrays, strict=True))
        if member.pulled > self._most_made and any(self.store.missing(table, keys) for table, keys in wanted):
            raise TableError(f"this client's pulls have made {member.pulled} bytes of rows, {self._beyond}")
        before = self.room.taken
        values = [self.store.pull(table, keys) for table, keys in wanted]
        member.pulled += self.room.taken - before
        if pull.form == "none":
            return Answer(pull.tables, clock=self.clock), values
        halved = to_fp16 if pull.form == "fp16" else to_bf16
        sparse = [self.store.spec(table).kind == "sparse" for table in pull.tables]  # tensors stay as they are
        forms: list[Form] = [pull.form if rows else "none" for rows in sparse]
        packed = [halved(v) if rows else v for v, rows in zip(values, sparse, strict=True)]
        return Answer(pull.tables, tuple(forms), self.clock), packed

    def wait(self, conversation: Conversation, after: int, size: int, answer: Callable[[], None]) -> None:
        """Call `answer` once clock `after` is merged, unless the connection is gone by then.

        Raises:
            RefusedError: too many wait for this connection, or too much.
        """
        waiting = self._waiting.get(conversation, [])
        if len(waiting) >= self._limits.waiting:
            raise RefusedError(
                "too_large",
                f"{len(waiting)} pulls of this connection wait already, which is the limit: ask again once some are answered",
            )
        self._keep([*waiting, Waiting(after, size, answer)], conversation)

    def forget(self, conversation: Conversation) -> None:
        """Drop the pulls that wait for a connection."""
        self._keep([], conversation)

    def end_epoch(self, epoch: int, witnesses: tuple[str, ...], aged: bool, save: bool) -> None:
        """Bring the tables up to date at the end of an epoch, and begin to save them as they are now, beside all else.

        Whether an epoch is saved or not, its rows are settled: rounding makes it count when that is done, and saving shall
        not change what is learned.

        Args:
            epoch: counted from 1.
            witnesses: what tells this run from others, see `storage.epochs`.
            aged: whether it ends, and rows grow older; or what came since its end is settled and saved.
            save: whether it is saved.
        """
        works = self.settle(epoch, aged, save, witnesses)
        self.durable.note(records.Ended(epoch, aged, save, witnesses))
        if works is not None:
            self.saves.add(epoch, works)
            self.saves.go_on()

    def settle(self, epoch: int, aged: bool, save: bool, witnesses: tuple[str, ...]) -> Iterator[Work] | None:
        """Bring the tables up to date; return the works that save them as they are now, None if they are not saved."""
        if aged:
            self.store.end_epoch()
        self.store.settle()
        self.moved, self.unsaved = False, self.unsaved and not save
        return self._saver.begin(self.store, epoch, witnesses) if save else None

    @property
    def save_due(self) -> bool:
        """Whether an epoch has ended that is not saved, but could be from what the log says."""
        return bool(self.saves.waiting) or (self.saves.failure is not None and not self.unsaved)

    @property
    def bytes(self) -> int:
        """What the tables take, about."""
        return self.store.bytes + first_bytes(self.store.spec(name) for name in self.store.names())

    def frozen(self) -> Iterator[tuple[records.Record, Sequence[Array]]]:
        """Freeze tables, and pushes that a buffer keeps, as they are now; yield the records that make them anew."""
        parts = self.store.frozen()
        offers = [] if self.gate is None or self.gate.lockstep else [_offered(offer) for offer in self.gate.waiting]
        return chain(((records.Laid(p.table, p.facts), p.arrays) for p in parts), offers)

    def _secure_rows(self, offer: Offer) -> None:
        """See to it that a push's new rows find room: promise it, or make them now where that might not be kept.

        Raises:
            TableError: there is none.
        """
        # What is kept unmerged is bounded in bytes, and a byte of a push makes `growth` bytes of rows at most.
        size = size_of(offer)
        tight, kept = not self.room.fits(int(size * self._growth)), (self.gate.bytes if self.gate else 0) + size
        for name, change in offer.items():
            full = name in self._boundless and self.store.places_left(name) * _row_bytes(change) < kept
            if tight or full:
                self.store.make(name, change.keys)

    def _scaled(self, change: Contribution) -> Rows:
        values = change.values if self._scale == 1 else change.values * self._scale
        return Rows(change.keys, values)

    def _take_in(self, closing: Closing) -> None:
        """Apply what was merged, and answer the pulls that waited for it."""
        self.room.promised = 0  # now it is kept
        self.apply(closing)
        self._count_unmerged()
        ready: list[Waiting] = []
        for conversation, waiting in list(self._waiting.items()):
            ready += [w for w in waiting if self.is_merged(w.after)]
            self._keep([w for w in waiting if not self.is_merged(w.after)], conversation)
        for pull in ready:  # last: an answer may go wrong, and must find all else in order
            pull.answer()

    def apply(self, closing: Closing) -> None:
        """Apply changes to the tables, and write down that it was done."""
        changes = closing.changes
        for name, (rows, rate) in changes.items():
            self.store.push(name, rows.keys, rows.values, rate)
        made = closing.made or self._made_by(closing)
        for (client, _), size in zip(closing.pushes, made, strict=True):
            self.charge(client, size)
        self.unsaved, self.moved = self.unsaved or bool(changes), self.moved or bool(changes)
        if self.gate is not None and not self.gate.lockstep:
            self.durable.note(records.Merged(self.store.full_at()))  # of what was offered, which is written down
        elif self.durable.on:
            rates = tuple(rate for _, rate in changes.values())
            arrays = [array for rows, _ in changes.values() for array in rows]
            full_at = self.store.full_at()
            applied = records.Applied(
                closing.pushes, self.clock, tuple(changes), rates, full_at, made if any(made) else ()
            )
            self.durable.note(applied, arrays)

    def _made_by(self, closing: Closing) -> tuple[int, ...]:
        """Return the bytes of rows that each push was the first to change."""
        made = np.zeros(len(closing.pushes), np.int64)
        for name in closing.changes.keys() & self._lasting.keys():
            if len(fresh := self.store.fresh(name)):
                made += self._lasting[name] * closing.firsts(name, fresh)
        return tuple(made.tolist())

    def _is_awaited(self, clock: int) -> bool:
        return any(pull.after >= clock for pulls in self._waiting.values() for pull in pulls)

    def _count_unmerged(self) -> None:
        kept = self.gate.bytes if self.gate else 0
        self.room.promised = int(kept * self._growth)
        self._budget.keep(MERGE, kept, "")

    def _keep(self, waiting: list[Waiting], conversation: Conversation) -> None:
        self._budget.keep(conversation, sum(w.size for w in waiting), "pulls that wait")
        if waiting:
            self._waiting[conversation] = waiting
        else:
            self._waiting.pop(conversation, None)


def _offered(offer: Offered) -> tuple[records.Offered, Sequence[Array]]:
    """Return the record of a push that is kept."""
    tables = offer.push
    arrays = [array for change in tables.values() for array in (change.keys, change.values)]
    rates = tuple(change.rate for change in tables.values())
    return records.Offered(((offer.client, offer.sequence),), offer.clock, tuple(tables), rates), arrays


def _row_bytes(change: Contribution) -> int:
    """Return the bytes of one row of a push, with its key."""
    return 8 + 4 * int(change.values.shape[1])
