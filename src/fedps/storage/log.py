"""The log of a server: records in the order in which they came, on disk before anybody is told so, and found again.

1. A record is durable once `flush` has returned with a position behind it. What `recover` yields is what was durable, and
   perhaps records that were being written; in order, without a gap, each as it was appended.
2. A snapshot at position P holds records that sum up those before P; `log-P` those from P on. Whatever stands there by
   name was made durable after all before it: so a file that ends too early has lost records, and is refused.
3. Damage is cut off where nobody can have been told that what is lost was safe (`frames` says how that is known);
   elsewhere recovering ends with the file, the place and the remedy. A damaged snapshot is not used, but the one before
   it with the logs behind both. What was cut or not used stands in `notes`.
4. After a failed write or sync nothing counts of what was given since the last good one: the disk may have dropped any
   of it, while reading still shows it. It is cut off and written anew from memory, in order.

One thread appends and compacts (the server's loop); `flush`, and all of a `Compaction`, are for other threads.
"""

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby, islice, pairwise
from operator import itemgetter

from fedps.errors import DataError
from fedps.storage.disk import Disk, Pieces
from fedps.storage.frames import FRAME, HEADER, MARK, Frame, Frames, Kind

GULP = 8 << 20  # bytes of a snapshot that wait for the disk: more at once would hold up whoever flushes the log
LARGEST = 2**32 - 1  # bytes of a record
NAME = re.compile(r"(log|snapshot)-(\d+)")
PART = ".part"  # ends the name of a snapshot that is being written


class Log:
    """A log in a folder. `recover` comes first, to its end or to a `cut`; then it may grow.

    Args:
        disk: the folder.

    Attributes:
        notes: what was cut off or not used when it was read, a sentence each.
        position: how many records were appended, ever.
        durable: up to which position they are on disk.
    """

    def __init__(self, disk: Disk) -> None:
        self.notes: list[str] = []
        self.position = self.durable = 0
        self._disk, self._mark = disk, b""
        self._pending: list[tuple[int, Pieces, int]] = []  # of each record: where its file begins, pieces, bytes
        self._appended = self._written = self._since = 0  # bytes: appended, durable, at the last snapshot
        self._bases: list[int] = []  # where one can begin to recover: snapshots, and the empty log
        self._begin = 0  # of the file to which appended records go
        self._ready = False  # to append
        self._flushing = threading.Lock()
        self._file, self._size = 0, 0  # of the file that is written: where it begins, its durable bytes
        self._torn = False  # it may hold more than these

    def __str__(self) -> str:
        return str(self._disk)

    @property
    def pending_bytes(self) -> int:
        """How much was appended that is not durable yet."""
        return self._appended - self._written

    @property
    def bytes(self) -> int:
        """How much was appended since the last snapshot."""
        return self._appended - self._since

    def recover(self, back: int = 0) -> Iterator[memoryview]:
        """Yield the records of the newest whole snapshot, then those behind it; `position` is behind the one just yielded.

        A record lies in the file's own memory: what is kept of it must be copied before the next is asked for.

        Args:
            back: how many whole snapshots to go back before.

        Raises:
            DataError: there is no such snapshot, records are lost, files are missing or of another log, or cannot be read.
        """
        with self._told():
            snapshots, logs = self._found(Kind.SNAPSHOT), self._found(Kind.LOG)
            self.notes.clear()
            base, summed_up = self._choose(snapshots, logs, back)
            self._ready, self.position = False, base
            for frame in summed_up:
                yield frame.record
            behind, last = [log for log in logs if log >= base], max([*snapshots, *logs], default=0)
            for log, due in zip(behind, [*behind[1:], last], strict=False):
                if log != self.position:
                    raise self._gap(log)
                for frame in self._read(log, due):
                    self.position += 1
                    yield frame.record
            if self.position < last:
                raise self._gap(last)
            self._go_on()

    def cut(self, position: int | None = None) -> None:
        """After `recover`, even one that was stopped: forget what comes at `position` and behind; it cannot be had again.

        Args:
            position: not before the snapshot; by default behind the record that was yielded last.

        Raises:
            DataError: it cannot be done; a part may be.
        """
        with self._told():
            self.position = self.position if position is None else position
            self._bases = [base for base in self._bases if base <= self.position]
            for snapshot in reversed(self._found(Kind.SNAPSHOT)):
                if snapshot > self.position:
                    self._disk.remove(f"snapshot-{snapshot}")
            for log in reversed(self._found(Kind.LOG)):
                if log >= self.position:
                    self._disk.remove(f"log-{log}")
                else:
                    self._disk.truncate(f"log-{log}", self._end(log, self.position))
                    break
            self._go_on()

    def append(self, pieces: Pieces) -> int:
        """Take a record into memory; return the position behind it.

        Args:
            pieces: its bytes, which must not change until they are durable.

        Raises:
            ValueError: it is too large, or what is on disk was not recovered.
        """
        size = sum(memoryview(piece).nbytes for piece in pieces)
        if size > LARGEST or not self._ready:
            raise ValueError(
                f"a record of {size} bytes: at most {LARGEST} are possible" if self._ready else "recover first"
            )
        self._pending.append((self._begin, pieces, size + FRAME.size))
        self.position += 1
        self._appended += size + FRAME.size
        return self.position

    def flush(self) -> int:
        """Make durable what was appended before; return up to which position all is.

        Raises:
            OSError: the disk failed. What is not durable stays in memory, and is written by the next call.
        """
        with self._flushing:
            for begin, records in groupby(self._pending[:], itemgetter(0)):
                self._write(begin, list(records))
            return self.durable

    def compact(self) -> "Compaction":
        """Begin a snapshot at `position`: the caller writes what sums up all records before; those from now on follow it."""
        self._begin, before, self._since = self.position, self._since, self._appended
        return Compaction(self, self._disk, Frames(Kind.SNAPSHOT, self.position, self._mark), before)

    def _forget_before(self, snapshot: int, keep: int) -> None:
        """Remove what a new snapshot makes unneeded; what cannot be removed now is by the next."""
        older = [base for base in self._bases if base < snapshot]
        needed = [base for base in older if base <= keep][-1:] or older[:1]
        kept = {snapshot, *older[-1:], *needed}
        self._bases = sorted(kept)
        with suppress(OSError):
            unneeded = [f"snapshot-{each}" for each in self._found(Kind.SNAPSHOT) if each not in kept]
            unneeded += [f"log-{log}" for log, next_ in pairwise(self._found(Kind.LOG)) if next_ <= self._bases[0]]
            for name in unneeded:
                self._disk.remove(name)

    def _write(self, begin: int, records: list[tuple[int, Pieces, int]]) -> None:
        """Make the first records that are pending durable, all of one file.

        They leave the list that the other thread appends to only then, so a failure has nothing to put back.
        """
        name, frames = f"log-{begin}", Frames(Kind.LOG, begin, self._mark)
        if begin != self._file:
            self._file, self._size = begin, 0
        try:
            if self._torn:
                self._disk.truncate(name, self._size)
            self._torn = True
            if not self._size:  # on disk before all else in the file: so records behind a damaged header were durable
                self._disk.append(name, [frames.header])
                self._disk.sync(name)
                self._size = HEADER.size
            self._disk.append(name, [part for _, pieces, _ in records for part in frames.pack(pieces, self.durable)])
            self._disk.sync(name)
            self._torn = False
        except OSError:
            with suppress(OSError):  # now, that no later process reads what is not on disk; else before the next try
                self._disk.truncate(name, self._size)
                self._torn = False
            raise
        size = sum(record[2] for record in records)
        del self._pending[: len(records)]
        self.durable += len(records)
        self._size += size
        self._written += size

    def _choose(self, snapshots: list[int], logs: list[int], back: int) -> tuple[int, list[Frame]]:
        """Return where to begin, and the frames of the snapshot there; a damaged one is noted and passed over."""
        empty = [0] if 0 not in snapshots and (0 in logs or (not snapshots and not logs)) else []
        self._bases = sorted([*snapshots, *empty])
        for base in self._bases[::-1]:
            frames = [] if [base] == empty else self._summed_up(base)
            if frames is None:
                self.notes.append(
                    f"{self._disk}/snapshot-{base}: is damaged and not used; the one before it is, if there is one"
                )
                self._bases.remove(base)
            elif back:
                back -= 1
            else:
                return base, frames
        raise DataError(
            f"{self._disk}: no whole snapshot is left to begin from{''.join(f'; {note}' for note in self.notes)}; put a copy"
            " of the folder in its place, or start anew without it"
        )

    def _summed_up(self, snapshot: int) -> list[Frame] | None:
        """Return the frames of a snapshot; None if it is damaged anywhere."""
        opened = self._open(Kind.SNAPSHOT, snapshot)
        if not opened:
            return None
        content, frames = opened
        found = list(frames.all(content))
        whole = found and found[-1].end == len(content) and found[-1].durable == len(found)
        return found[:-1] if whole else None

    def _read(self, log: int, due: int) -> Iterator[Frame]:
        """Yield the frames of a log file, of which records up to `due` must be there; cut off what is torn behind them."""
        name, end = f"log-{log}", 0
        opened = self._open(Kind.LOG, log)
        content = opened[0] if opened else memoryview(self._disk.read(name))
        if opened:
            end = HEADER.size
            for frame in opened[1].all(content):
                end = frame.end
                yield frame
            due = max(due, opened[1].durable_behind(content, end))
        elif len(content) > HEADER.size:
            due = log + 1  # records were written, and not before their header was durable
        if self.position < due:
            raise DataError(
                f"{self._disk}/{name}: is damaged at byte {end}, where record {self.position} begins, though records up to {due}"
                " were on disk: put a copy of the folder in its place; or give up what comes from there on: `truncate -s"
                f" {end} {self._disk}/{name}`, and remove the files of higher numbers"
            )
        if end < len(content):
            self.notes.append(
                f"{self._disk}/{name}: {len(content) - end} bytes behind record {self.position} were torn, and are cut off"
            )
            self._disk.truncate(name, end)

    def _open(self, kind: Kind, position: int) -> tuple[memoryview, Frames] | None:
        """Return a file's content and its frames; None if its header is damaged."""
        name = f"{kind}-{position}"
        content = memoryview(self._disk.read(name))
        try:
            frames = Frames.of(content, kind, position)
        except ValueError as error:
            raise DataError(f"{self._disk}/{name}: {error}") from error
        if frames is None:
            return None
        self._mark = self._mark or frames.mark
        if frames.mark != self._mark:
            raise DataError(
                f"{self._disk}/{name}: is of another log than the files beside it: put a copy of the folder in its place"
            )
        return content, frames

    def _gap(self, position: int) -> DataError:
        return DataError(
            f"{self._disk}: holds records up to {self.position}, and then from {position} on: a file is missing or cut off;"
            " put a copy of the folder in its place"
        )

    def _end(self, log: int, position: int) -> int:
        """Return where in a log file the records before a position end, in bytes."""
        opened = self._open(Kind.LOG, log)
        ends = [frame.end for frame in islice(opened[1].all(opened[0]), position - log)] if opened else []
        return ends[-1] if ends else HEADER.size

    def _go_on(self) -> None:
        """Let records be appended behind those that were read, once these are durable: they may have been read from memory."""
        snapshots, logs = self._found(Kind.SNAPSHOT), self._found(Kind.LOG)
        for part in self._disk.names():
            if part.endswith(PART):
                self._disk.remove(part)
        newest = max(snapshots, default=0)
        sizes = {log: len(self._disk.read(f"log-{log}")) for log in logs if log >= newest}
        self._since = self._appended - sum(max(size - HEADER.size, 0) for size in sizes.values())
        self._begin = self._file = max(sizes, default=self.position)
        self._size, self._torn = sizes.get(self._file, 0), False
        if sizes:
            self._disk.sync(f"log-{self._file}")
        self._mark = self._mark or secrets.token_bytes(MARK)
        self.durable, self._ready = self.position, True

    def _found(self, kind: Kind) -> list[int]:
        """Return the positions of the files of a kind that are there, in order."""
        names = (NAME.fullmatch(name) for name in self._disk.names())
        return sorted(int(name[2]) for name in names if name and name[1] == kind)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say where the disk is if it fails.

        Raises:
            DataError: it did.
        """
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._disk}: cannot be read: {error}; put the disk in order, or a copy of the folder in its place"
            ) from error


class Compaction:
    """A snapshot that is being written, which counts once it is committed. All its calls may run beside the log's thread.

    Args:
        log: whose records it sums up.
        disk: the log's.
        frames: of its file.
        since: bytes that were appended before the snapshot before.
    """

    def __init__(self, log: Log, disk: Disk, frames: Frames, since: int) -> None:
        self._log, self._disk, self._frames, self._since = log, disk, frames, since
        self._position, self._records = log.position, 0
        self._name, self._waiting = f"snapshot-{log.position}", 0  # bytes that are not on disk

    def write(self, pieces: Pieces) -> None:
        """Add a record.

        Raises:
            OSError: the disk failed; nothing is left to do but to abandon it.
        """
        if not self._records:
            self._begin()
        self._records += 1
        framed = self._frames.pack(pieces)
        self._disk.append(self._name + PART, framed)
        self._waiting += sum(memoryview(piece).nbytes for piece in framed)
        if self._waiting > GULP:
            self._disk.sync(self._name + PART)
            self._waiting = 0

    def commit(self, keep: int) -> None:
        """Let the snapshot count; remove what is no longer needed: the one before stays, and what leads to `keep`.

        Args:
            keep: position to which one may have to go back.

        Raises:
            OSError: the disk failed; nothing is left to do but to abandon it.
        """
        self._log.flush()  # so that what stands by the snapshot's name is behind records that are durable
        if not self._records:
            self._begin()
        self._disk.append(self._name + PART, self._frames.pack((), self._records + 1))
        self._disk.sync(self._name + PART)
        self._disk.rename(self._name + PART, self._name)
        self._log._forget_before(self._position, keep)

    def abandon(self) -> None:
        """Leave it: the log goes on behind the snapshot before, over two files."""
        self._log._since = self._since
        with suppress(OSError):  # else it goes when the log is next recovered
            self._disk.remove(self._name + PART)

    def _begin(self) -> None:
        self._disk.truncate(self._name + PART, 0)  # what one that was abandoned may have left
        self._disk.append(self._name + PART, [self._frames.header])
