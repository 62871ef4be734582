"""A server's state made anew from what its log says, and all of it in one record, for a snapshot.

Taking up a record does what the server did when it wrote it, by the same calls: so both come to the same state, to the bit.
Clients are away at first, and have as long to come back as if their connections had broken now.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from fedps.access.roster import Process, Roster
from fedps.config.shared import first_difference
from fedps.errors import DataError, FedpsError
from fedps.events.events import Note
from fedps.server.ballot import Ballot
from fedps.server.barriers import Barriers
from fedps.server.beside import Work
from fedps.server.gate import Closing, Offered
from fedps.server.members import EVALUATED, Member, Members
from fedps.server.merge import Contribution, Merged
from fedps.server.records import (
    Applied,
    Begun,
    Counted,
    Declared,
    Ended,
    Entry,
    Gone,
    Joined,
    Kinds,
    Laid,
    Late,
    MemberState,
    Opened,
    SavedEpoch,
    Seeded,
    Sequences,
    State,
    TakenBack,
    decode,
    encode,
)
from fedps.server.records import Merged as MergedRecord
from fedps.server.records import Offered as OfferedRecord
from fedps.server.shard import Shard
from fedps.storage.log import Log
from fedps.table.moment import Part
from fedps.table.store import Store
from fedps.types import ClientId, Rows
from fedps.wire.messages import Barrier

Cut = Mapping[ClientId, int]  # of each client the last push that counts


@dataclass
class Kept:
    """All of a server that outlives its process.

    Attributes:
        begun: whose log it is.
        told: the last epoch whose figures over all clients were reported.
        mean_samples: of a client, as all were told; None before all had joined.
        turns: positions of the log at which all had gone on to the last epoch, and to the one under way: clients' checkpoints of
            a moment may not be on disk before the next is due, so they may have to go back as far as that.
    """

    begun: Begun
    shard: Shard
    members: Members
    barriers: Barriers
    ballot: Ballot
    roster: Roster
    told: int = 0
    mean_samples: float | None = None
    turns: tuple[int, int] = (0, 0)


def state_of(kept: Kept) -> State:
    """Return all but what tables and gates hold."""
    members, store = kept.members, kept.shard.store
    here, left, lost = (
        {client: _state_of(member) for client, member in there.items()}
        for there in (members.here, members.left, members.lost)
    )
    return State(
        kept.begun, tuple(store.spec(name) for name in store.names()), kept.shard.clock, kept.barriers.epoch,
        kept.barriers.passed, kept.told, kept.mean_samples, kept.roster.processes, here, left, lost, kept.shard.unsaved,
        kept.shard.moved, kept.turns,
    )  # fmt: skip


def recover(kept: Kept, log: Log, cut: Cut | None, clock: Callable[[], float], start: float) -> bool:
    """Bring a server that was just made to where the log says it was; return whether anything was there.

    Args:
        kept: the server.
        log: not read yet; from now on records are appended to it.
        cut: where a run is taken back to an earlier moment: records behind the first push that goes beyond it are dropped.
        clock: tells the time, in seconds, monotonic: a log that another process still writes is followed for long.
        start: seconds that a role may take to start: where a run is taken back, all clients come as new processes.

    Raises:
        DataError: it is of another job or version, damaged, or does not reach back to the cut.
    """
    shard, recovery = kept.shard, _Recovery(kept, log)
    shard.room.replays = True
    first, entries = _begin(log, cut or {})
    if first is not None:
        _check_ours(kept.begun, first, log)
        recovery.take_up(first)
    taken_back = cut is None
    for entry in entries:
        if cut and _beyond(entry.record, cut):
            recovery.cut(entries)
            taken_back = True
            break
        recovery.take_up(entry)
    for note in log.notes:
        shard.report(Note(note))
    _check_reaches(kept.members, cut or {}, log)
    shard.durable.open(log)
    shard.room.replays = False
    recovery.end(clock() + (0.0 if cut is None else start))
    if first is None:
        shard.durable.note(kept.begun)
    if not taken_back:
        shard.durable.note(recovery.taken_back())
    return first is not None


class _Recovery:
    """Takes up records, in their order."""

    def __init__(self, kept: Kept, log: Log) -> None:
        self._kept, self._log = kept, log
        self._saves = dict[int, Iterator[Work]]()  # epochs that were to be saved, and are not said to be

    def take_up(self, entry: Entry) -> None:
        """Take up one record.

        Raises:
            DataError: it cannot be, as where there is too little memory.
        """
        self._know(entry.record)
        try:
            self._take_up(entry)
        except FedpsError as error:
            raise DataError(f"{self._log}: record {self._log.position} cannot be taken up: {error}") from error

    def cut(self, behind: Iterator[Entry]) -> None:
        """Drop the record just read with all behind it, and in the same step note that who has spoken there does not again."""
        position = self._log.position - 1
        with suppress(DataError):  # what is damaged there is dropped as well
            for record, _ in behind:
                self._know(record)
        self._log.cut(position, encode(self.taken_back()))

    def taken_back(self) -> TakenBack:
        """Let no process speak that did before the run was taken back: what it says, or has said, is of no push that counts.

        All have ended, but what they said may be played again, before those come that go on from the cut.
        """
        spoke = self._kept.roster.processes.items()
        # No process has an empty name: so this comes behind those that spoke, and before any that takes the next number.
        none = {client: Process(number + bool(instance), "") for client, (number, instance) in spoke}
        self._know(record := TakenBack(none))
        return record

    def end(self, since: float) -> None:
        """Leave saves that were under way to be finished, and let all clients be away from a time on, seconds."""
        for epoch, works in self._saves.items():
            self._kept.shard.saves.add(epoch, works)
        members = self._kept.members
        for there in (members.here, members.left, members.lost):
            for member in there.values():
                member.lost_at = since

    def _take_up(self, entry: Entry) -> None:
        kept, (record, arrays) = self._kept, entry
        shard, members = kept.shard, kept.members
        match record:
            case Begun() | TakenBack():
                pass
            case State():
                self._restore(record)
            case Laid(table, facts):
                shard.store.lay(Part(table, facts, arrays))
            case Declared(tables, warm):
                shard.declare(tables, warm)
                kept.ballot.chosen = frozenset(tables)
            case Seeded(table, first):
                shard.seed(table, arrays[0], first)
            case Joined(client, _, instance, clock, samples):
                members.join(client, instance, clock, samples)
                kept.ballot.know(client)
            case Gone(client, how):
                {"left": members.leave, "lost": members.lose, "expelled": members.expel}[how](client)
                if how == "expelled":
                    kept.ballot.strike(client)
            case Applied(pushes, clock, tables, rates, full_at, made):
                shard.store.bound(full_at)
                pairs = zip(tables, rates, arrays[::2], arrays[1::2], strict=True)
                shard.apply(
                    Closing({n: Merged(Rows(keys, rows), rate) for n, rate, keys, rows in pairs}, pushes, made=made)
                )
                shard.set_clock(clock)
                self._count(pushes)
            case OfferedRecord(pushes, clock, tables, rates):
                pairs = zip(tables, rates, arrays[::2], arrays[1::2], strict=True)
                offer = {name: Contribution(keys, rows, 1.0, rate) for name, rate, keys, rows in pairs}
                for client, sequence in pushes:
                    shard.offer(Offered(client, sequence, clock, offer), 0.0)
                self._count(pushes)
            case MergedRecord(full_at):
                shard.store.bound(full_at)
                shard.merge_rest()
            case Late(pushes, clock):
                self._count(pushes, late=clock)
            case Counted(mean):
                self._count_clients(mean)
            case Ended(epoch, aged, saved, witnesses):
                works = shard.settle(epoch, aged, saved, witnesses)
                if aged:  # though its barrier may never have opened: then it opens late, and nothing ends again
                    kept.barriers.epoch = epoch
                if works is not None:
                    self._saves[epoch] = works
            case SavedEpoch(epoch):
                self._saves.pop(epoch, None)
            case Opened():
                self._open(record)

    def _know(self, record: Kinds) -> None:
        """Know the processes that a record tells of."""
        match record:
            case Joined(client, number, instance):
                self._kept.roster.know(client, Process(number, instance))
            case TakenBack(processes):
                for client, process in processes.items():
                    self._kept.roster.know(client, process)

    def _restore(self, state: State) -> None:
        kept = self._kept
        store = Store(kept.shard.room.take, kept.shard.count)
        store.declare(state.tables)
        kept.shard.take_over(store, state.tables)
        kept.shard.set_clock(state.clock)
        kept.barriers.epoch, kept.barriers.passed, kept.told = state.epoch, state.passed, state.told
        kept.shard.unsaved, kept.shard.moved, kept.turns = state.unsaved, state.moved, state.turns
        if state.tables:
            kept.ballot.chosen = frozenset(state.tables)
        for client, process in state.processes.items():
            kept.roster.know(client, process)
        members = kept.members
        for there, states in ((members.here, state.here), (members.left, state.left), (members.lost, state.lost)):
            there.update({client: _member(told) for client, told in states.items()})
            for client in states:
                kept.ballot.know(client)
        if state.mean is not None:
            self._count_clients(state.mean)

    def _open(self, opened: Opened) -> None:
        kept = self._kept
        for client, epoch in opened.clients:
            if (member := kept.members.get(client)) is not None:
                member.barrier = Barrier(epoch, opened.stage)
        kept.members.release([client for client, _ in opened.clients], opened.clock)
        kept.barriers.epoch, kept.told = opened.epoch, opened.told
        if opened.stage == EVALUATED:
            kept.barriers.passed, kept.turns = opened.epoch, (kept.turns[1], self._log.position)

    def _count_clients(self, mean: float) -> None:
        """Know how many samples a client has; that was told once all had come, or nobody waited for the others any more."""
        self._kept.mean_samples = mean
        self._kept.members.expect(self._kept.members.came)

    def _count(self, pushes: Sequences, late: int | None = None) -> None:
        """Count pushes as taken."""
        for client, sequence in pushes:
            member = self._kept.members.known_as(client)
            if member is not None and sequence > member.merged:
                member.accept(
                    sequence, self._kept.shard.clock if late is None else late, late is not None, member.progress
                )
                member.merged = sequence


def _begin(log: Log, cut: Cut) -> tuple[Entry | None, Iterator[Entry]]:
    """Return the first record of the newest snapshot that was made before a cut, None if there is no record, and the others.

    Raises:
        DataError: the log is damaged, or does not reach back that far.
    """
    for back in count():
        try:
            entries = _entries(log, back)
            first = next(entries, None)
        except DataError as error:
            if not back:
                raise
            raise DataError(
                f"{log}: does not reach back to the moment from which the run is to go on: {error}"
            ) from error
        if first is None or not cut or not _beyond(first.record, cut):
            return first, entries
    raise AssertionError


def _entries(log: Log, back: int) -> Iterator[Entry]:
    for payload in log.recover(back):
        try:
            yield decode(payload)
        except ValueError as error:
            raise DataError(
                f"{log}: {error}; go on with the version that wrote it, or move the folder away to begin anew"
            ) from error


def _check_ours(begun: Begun, first: Entry, log: Log) -> None:
    """Check that a log is that of this server in this job.

    Raises:
        DataError: it is another's.
    """
    theirs = first.record.begun if isinstance(first.record, State) else first.record
    remedy = "give another --run_dir, or move the folder away to begin anew"
    if not isinstance(theirs, Begun):
        raise DataError(f"{log}: does not begin as a server's log; {remedy}")
    if (theirs.job, theirs.shard, theirs.shards) != (begun.job, begun.shard, begun.shards):
        raise DataError(
            f"{log}: is the log of server {theirs.shard} of {theirs.shards} of job {theirs.job!r}, where this is server"
            f" {begun.shard} of {begun.shards} of job {begun.job!r}; {remedy}"
        )
    if difference := first_difference(begun.shared, theirs.shared):
        raise DataError(f"{log}: is of a job that differs in {difference}; {remedy}")


def _check_reaches(members: Members, cut: Cut, log: Log) -> None:
    """Check that a log holds all pushes up to a cut: each server gets each push, if only an empty one.

    Raises:
        DataError: it does not.
    """
    for client, sequence in cut.items():
        member = members.known_as(client)
        merged = 0 if member is None else member.merged
        if merged < sequence:
            raise DataError(
                f"{log}: ends with push {merged} of client {client!r}, which goes on behind push {sequence}: put the whole folder"
                " back, or start another run from a saved epoch by runner.warmup_model_path"
            )


def _beyond(record: Kinds, cut: Cut) -> bool:
    """Whether a push is in a record that comes after a client's last one that counts."""
    match record:
        case State(here=here, left=left, lost=lost):
            pushes = tuple((c, m.sequence) for there in (here, left, lost) for c, m in there.items())
        case Applied(pushes) | OfferedRecord(pushes) | Late(pushes):
            pass
        case _:
            return False
    return any(sequence > cut.get(client, sequence) for client, sequence in pushes)


def _state_of(member: Member) -> MemberState:
    last = member.last_barrier
    return MemberState(
        member.instance, member.samples, member.waits_from, member.merged, member.took_over, member.late,
        "" if last is None else last.stage, 0 if last is None else last.epoch, member.made,
    )  # fmt: skip


def _member(state: MemberState) -> Member:
    return Member(
        state.instance, state.samples, state.waits_from, sequence=state.sequence, merged=state.sequence,
        took_over=state.took_over, late=state.late, made=state.made,
        last_barrier=Barrier(state.epoch, state.stage) if state.stage else None,
    )  # fmt: skip
