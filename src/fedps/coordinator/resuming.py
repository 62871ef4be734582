"""What a coordinator remembers beyond its process: a small database in the run folder, `coordinator.db` (SQLite).

A row of `rounds` is all that was decided as a round was opened: what each client was assigned, the selector's state, the
simulated clock. It is written, with the turns that are new since, in one transaction, and is on disk before any client hears
of it (WAL, `synchronous=FULL`): a process that dies has decided a round or has not. The rows of the last `KEPT` rounds stay,
and that of round 0, so that a run can be taken back to a cut behind the newest. A row of `turns` is what became of a round
that a client was picked for; `saved_in` says with which round it was written, and of two that tell of one round the later
holds. A row's `seal` is a checksum over the round and all turns up to it: what a disk has changed or lost is refused.

One process at a time writes there. It holds a lock on `coordinator.lock` for life (flock: it ends with the process, and
readers are not kept out as by SQLite's own exclusive mode). A job that starts from another's model (`warmup_model_path`)
reads the turns and the selector's state there. Earlier versions wrote `coordinator.json` and `turns.jsonl`; they are taken
over once.
"""

import errno
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fedps.coordinator.selectors import Turn, Turns
from fedps.errors import FedpsError, JobError, shortage
from fedps.storage.whole import PRIVATE, write_whole
from fedps.types import ClientId
from fedps.wire.messages import Assignment

STATE, LOCK = "coordinator.db", "coordinator.lock"
OLDER, OLDER_TURNS = "coordinator.json", "turns.jsonl"
VERSION = 1  # of the tables
KEPT = 4  # rounds whose states stay, the newest: the one that is open, and those at whose ends clients keep checkpoints
TABLES = (
    "CREATE TABLE rounds (number INTEGER PRIMARY KEY, state TEXT NOT NULL, targets BLOB NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE turns (id INTEGER PRIMARY KEY, saved_in INTEGER NOT NULL, client TEXT NOT NULL, turn TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)
OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
Line = tuple[ClientId, Turn]


class MemberRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One client: the process that speaks for it, the answer to its last report, and whether it was given up as lost."""

    instance: str
    assignment: Assignment | None = None
    lost: bool = False


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a round.

    Args:
        round: the one that was open.
        members: all clients that took part.
        selector: the job's word for it.
        state: what the selector returned.
        best, since, end: as `planner.Stopping` has them.
        clock: simulated seconds.
        before: rounds that were counted before round 1 was begun again; the rows of turns count them, too.
        taught: the round whose public pairs the soft targets are of, 0 for none.
        history: turns, where an earlier version wrote them.
    """

    round: int
    members: dict[ClientId, MemberRecord]
    selector: str
    state: Any = None
    best: float | None = None
    since: int = 0
    end: str | None = None
    clock: float = 0.0
    before: int = 0
    taught: int = 0
    history: dict[ClientId, Turns] = {}


class Found(NamedTuple):
    """What lies in a folder: a round's state, turns in their order with their checksum, and soft targets, float32."""

    state: Checkpoint
    turns: list[Line]
    targets: bytes = b""
    seal: int = 0


class Decided(NamedTuple):
    """A round that nobody has heard of yet.

    Attributes:
        round: its number.
        assignments: of those that it was decided on.
        found: what is to be saved first.
        at: when it was decided, seconds.
    """

    round: int
    assignments: dict[ClientId, Assignment]
    found: Found
    at: float


class Memory:
    """The database of one run folder, this process's own until `close`.

    Args:
        folder: the run's; None remembers nothing.

    Raises:
        JobError: another coordinator is at work there, or what lies there is damaged or of a newer version.
    """

    def __init__(self, folder: Path | None) -> None:
        self._before = 0  # as in `Checkpoint`
        self._seal = 0  # of all turns
        self._begins = False  # the next round that is written is the first of its counting
        self._db: sqlite3.Connection | None = None
        self._lock = -1
        if folder is None:
            return
        self._path = folder / STATE
        try:
            self._lock = _lock(folder / LOCK)
            with _named(self._path):
                self._db = _open(self._path)
                self._take_over()
        except JobError:
            self.close()
            raise

    def begin_anew(self, rounds: int) -> None:
        """Note that rounds are counted from 1 again, after so many; with the next that is written, their states go."""
        self._before += rounds
        self._begins = True

    def read(self, at: int | None = None) -> Found | None:
        """Return the state of the newest round, or of an earlier one; None if there is none.

        Args:
            at: the round; those behind it are forgotten, with their turns.

        Raises:
            JobError: what is there cannot be read, or the state of that round is not kept.
        """
        found = None if self._db is None else _read(self._db, self._path, at)
        if self._db is None or found is None:
            return None
        self._before = found.state.before
        if at is not None:
            with _named(self._path), _transaction(self._db):
                self._db.execute("DELETE FROM rounds WHERE number > ?", (at,))
                self._db.execute("DELETE FROM turns WHERE saved_in > ?", (self._before + at,))
        self._seal = found.seal
        return found

    def begin(self, found: Found) -> None:
        """Write how a run begins.

        Raises:
            JobError: it cannot be written.
        """
        try:
            self.write(found)
        except OSError as error:
            raise JobError(
                f"{error.filename}: cannot be written: {error.strerror}; choose another --run_dir"
            ) from error

    def write(self, found: Found) -> None:
        """Write a round's state, and of turns those that are new in it; it is on disk when this returns.

        Raises:
            OSError: they cannot be written; what was there stays as it was, and the same may be written later.
        """
        if self._db is None:
            return
        state = msgspec.structs.replace(found.state, before=self._before)
        rows = [(client, _text(turn._replace(round=turn.round + self._before))) for client, turn in found.turns]
        number, targets = state.round, found.targets
        text, seal = _text(state), _seal_of(rows, self._seal)
        try:
            with _transaction(self._db):
                if self._begins:
                    self._db.execute("DELETE FROM rounds")
                self._db.execute("DELETE FROM rounds WHERE number BETWEEN 1 AND ?", (number - KEPT,))
                self._db.executemany(
                    "INSERT INTO turns (saved_in, client, turn) VALUES (?, ?, ?)",
                    [(self._before + number, *row) for row in rows],
                )
                self._db.execute(
                    "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)",
                    (number, text, targets, _seal(text, targets, seal)),
                )
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(self._path)) from error
        self._seal, self._begins = seal, False

    def close(self) -> None:
        """Let go of the folder; what was written stays."""
        db, self._db, lock, self._lock = self._db, None, self._lock, -1
        if db is not None:
            db.close()
        if lock >= 0:
            os.close(lock)

    def _take_over(self) -> None:
        """Write down what an earlier version wrote, unless that was done, and remove it."""
        folder = self._path.parent
        if (found := _read_older(folder)) is None:
            return
        if self._db is not None and self._db.execute("SELECT count(*) FROM rounds").fetchone() == (0,):
            self._before = found.state.before
            self.write(found._replace(state=msgspec.structs.replace(found.state, history={})))
        for name in (OLDER, OLDER_TURNS):
            (folder / name).unlink(missing_ok=True)


def learned_in(folder: Path, at: int | None = None) -> Found | None:
    """Return the state of a run's newest round, or of an earlier one, whether or not that still runs; None if it has none.

    Raises:
        JobError: it cannot be read, or the state of that round is not kept.
    """
    path = folder / STATE
    if not path.exists():
        return _read_older(folder)
    with _named(path), closing(_connect(f"{path.absolute().as_uri()}?mode=ro")) as db:
        _check(db)
        return _read(db, path, at)


def unsaved(error: OSError) -> FedpsError:
    """Say why a round's state cannot be written, and what to do."""
    why = shortage(error) or f"{error.filename}: {error.strerror}: see to this disk"
    return FedpsError(
        f"the coordinator's state cannot be written: {why}; all that clients were told is saved: a coordinator started again"
        " with the same --run_dir goes on from there"
    )


def _open(path: Path) -> sqlite3.Connection:
    """Open the database, made first if it is not there: as private as it stays, for what lies beside it follows it."""
    if not path.exists():
        write_whole(path, b"", PRIVATE)
    db = _connect(path.absolute().as_uri())
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("SELECT count(*) FROM sqlite_schema")  # takes back what a process that died has not made whole
        if not path.stat().st_size:
            with _transaction(db):
                for statement in TABLES:
                    db.execute(statement)
        db.execute("PRAGMA journal_mode = WAL")  # a file system that has none keeps a journal, as durable
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _connect(uri: str) -> sqlite3.Connection:
    """Connect, with transactions as they are written here; callers see to it that one thread calls at a time."""
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _check(db: sqlite3.Connection) -> None:
    """Make sure that a database is whole and of this version.

    Raises:
        ValueError: it is not.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise ValueError(f"its version is {version}, and this fedps reads {VERSION}")
    (fault,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if fault != "ok":
        raise ValueError(fault)


def _read(db: sqlite3.Connection, path: Path, at: int | None) -> Found | None:
    """Return the state of a round, by default the newest, if there are any.

    Raises:
        JobError: it is damaged, or this round's is not there.
    """
    with _named(path):
        kept = {number: row for number, *row in db.execute("SELECT * FROM rounds ORDER BY number")}
        if not kept and not at:
            return None
        number = max(kept) if at is None else at
        if number in kept:
            text, targets, seal = kept[number]
            state = msgspec.json.decode(text, type=Checkpoint)
            query = "SELECT client, turn FROM turns WHERE saved_in <= ? ORDER BY id"
            rows = db.execute(query, (state.before + number,)).fetchall()
            of_turns, decode = _seal_of(rows), msgspec.json.Decoder(Turn).decode
            if state.round != number or _seal(text, targets, of_turns) != seal:
                raise ValueError(f"the checksum of round {number} is wrong")
            turns = [(ClientId(client), decode(turn)) for client, turn in rows]
            return Found(state, _counted_from(state, turns), targets, of_turns)
    there = f"those of rounds {', '.join(map(str, kept))} are" if kept else "nor is any other"
    raise JobError(
        f"{path}: the state of round {at} is not kept; {there}: put back what lay there, {path.name}-wal as well"
    )


def _read_older(folder: Path) -> Found | None:
    """Return what an earlier version wrote in a folder; None if there is none.

    Raises:
        JobError: it cannot be read.
    """
    path, lines = folder / OLDER, folder / OLDER_TURNS
    if not path.exists():
        return None
    with _named(path):
        state = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    turns = [(client, turn) for client, ts in state.history.items() for turn in ts]
    with _named(lines):
        whole = lines.read_bytes().rpartition(b"\n")[0] if lines.exists() else b""  # a last one may be cut off
        found: list[Line] = msgspec.json.Decoder(Line).decode_lines(whole)
    return Found(state, turns + _counted_from(state, found))


def _counted_from(state: Checkpoint, turns: Sequence[Line]) -> list[Line]:
    """Return turns as they are counted from the last beginning on."""
    return [(client, turn._replace(round=turn.round - state.before)) for client, turn in turns]


def _text(what: Any) -> str:
    return msgspec.json.encode(what).decode()


def _seal_of(rows: Sequence[tuple[str, str]], before: int = 0) -> int:
    """Return a checksum of rows of turns that follow those with the checksum `before`."""
    return zlib.crc32("".join(f"{client}\0{turn}\0" for client, turn in rows).encode(), before)


def _seal(text: str, targets: bytes, turns: int) -> int:
    return zlib.crc32(targets, zlib.crc32(text.encode(), turns))


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Let all that the block changes be there, and on disk, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read which it is, and what to do.

    Raises:
        JobError: it cannot be read.
    """
    try:
        yield
    except (OSError, sqlite3.Error, ValueError, TypeError) as error:  # a damaged row may hold anything
        if isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in OF_THE_DISK:
            raise JobError(
                f"{path}: cannot be used: {error}; see to its permissions and to its disk's space"
            ) from error
        raise JobError(
            f"{path}: is no coordinator's state: {error}; put a copy of it back, or remove it to begin without"
        ) from error


def _lock(path: Path) -> int:
    """Hold a folder for as long as the descriptor that is returned is open.

    Raises:
        JobError: another process does, or the folder cannot be written.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise JobError(f"{path}: cannot be written: {error.strerror}; choose another --run_dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        fault = "another coordinator is at work in this folder: end it first, or choose another --run_dir"
        raise JobError(f"{path.parent}: {fault}") from None
    except OSError:  # a file system without locks: nobody can tell then
        pass
    return lock
