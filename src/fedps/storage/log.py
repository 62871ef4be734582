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

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby, islice, pairwise
from operator import itemgetter

from fedps.storage.disk import Disk, Pieces
from fedps.storage.frames import FRAME, HEADER, MARK, Frames, Kind
from fedps.storage.reading import OVER, Reading, found, told

GULP = 8 << 20  # bytes of a snapshot that wait for the disk: more at once would hold up whoever flushes the log
LARGEST = 2**32 - 1  # bytes of a record
PART = ".part"  # ends the name of a file that is being written, and is then given another
CUT = "cut-"  # begins the name of a log's file before what stood in its place is gone


class Log:
    """A log in a folder. `recover` comes first, to its end or to a `cut`; then it may grow.

    Args:
        disk: the folder.
        ours: whether no other process writes it; while one does, `recover` follows it, and asks again and again.

    Attributes:
        position: how many records were appended, ever.
        durable: up to which position they are on disk.
    """

    def __init__(self, disk: Disk, ours: Callable[[], bool] = lambda: True) -> None:
        self.position = self.durable = 0
        self._disk, self._reading, self._mark = disk, Reading(disk, ours), b""
        self._bases: list[int] = []  # where one can begin to recover
        self._pending: list[tuple[int, Pieces, int]] = []  # of each record: where its file begins, pieces, bytes
        self._appended = self._written = self._since = 0  # bytes: appended, durable, at the last snapshot
        self._begin = 0  # of the file to which appended records go
        self._ready = False  # to append
        self._flushing = threading.Lock()
        self._file, self._size = 0, 0  # of the file that is written: where it begins, its durable bytes
        self._torn = False  # it may hold more than these

    def __str__(self) -> str:
        return str(self._disk)

    @property
    def notes(self) -> list[str]:
        """What was cut off or not used when it was read, a sentence each."""
        return self._reading.notes

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

        Args:
            back: how many whole snapshots to go back before.

        Raises:
            DataError: there is no such snapshot, records are lost, files are missing or of another log, or cannot be read.
            LostError: the log was removed, by the process that was followed, or by one before.
        """
        self._ready = False
        if not self._reading.follows:
            with told(self._disk):
                self._finish_cut()
        for record in self._reading.records(back):
            self.position = self._reading.position
            yield record
        self.position = self._reading.position
        with told(self._disk):
            self._go_on()

    def cut(self, position: int, pieces: Pieces) -> None:
        """After `recover`, even one that was stopped: let one record take the place of all from `position` on, which are lost.

        Whoever dies at it leaves all as it was, or as it is to be once it is recovered.

        Args:
            position: not before the snapshot.
            pieces: of the record, as for `append`.

        Raises:
            DataError: it cannot be done now; the next that recovers may find it done.
        """
        with told(self._disk):
            frames, part = Frames(Kind.LOG, position, self._reading.mark), f"log-{position}{PART}"
            self._disk.truncate(part, 0)
            self._disk.append(part, [frames.header, *frames.pack(pieces, position)])
            self._disk.sync(part)
            self._disk.rename(part, f"{CUT}{position}")
            self._finish_cut()
            self.position = position + 1
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

    def forget(self) -> None:
        """Remove all that there is, but for an empty file that says so: for who is started once more, as one that was killed.

        Whoever dies at it leaves the newest state whole, or that file.

        Raises:
            OSError: the disk failed; the rest is still there.
        """
        self._ready = False
        files = [(position, kind) for kind in (Kind.SNAPSHOT, Kind.LOG) for position in found(self._disk, kind)]
        files.sort(key=lambda file: (file[0], file[1] is Kind.LOG))
        newest = max(found(self._disk, Kind.SNAPSHOT), default=0)
        while files and files[0][0] < newest:
            position, kind = files.pop(0)
            self._disk.remove(f"{kind}-{position}")
        if files:
            position, kind = files.pop()
            self._disk.rename(f"{kind}-{position}", OVER)
        for position, kind in files:
            self._disk.remove(f"{kind}-{position}")
        self._disk.truncate(OVER, 0)

    def _forget_before(self, snapshot: int, keep: int) -> None:
        """Remove what a new snapshot makes unneeded; what cannot be removed now is by the next."""
        older = [base for base in self._bases if base < snapshot]
        needed = [base for base in older if base <= keep][-1:] or older[:1]
        kept = {snapshot, *older[-1:], *needed}
        self._bases = sorted(kept)
        with suppress(OSError):
            unneeded = [f"snapshot-{each}" for each in found(self._disk, Kind.SNAPSHOT) if each not in kept]
            unneeded += [
                f"log-{log}" for log, next_ in pairwise(found(self._disk, Kind.LOG)) if next_ <= self._bases[0]
            ]
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

    def _finish_cut(self) -> None:
        """Remove what is to be cut off, if anything is, and put in its place what comes there."""
        for name in self._disk.names():
            if not name.startswith(CUT):
                continue
            position = int(name.removeprefix(CUT))
            for snapshot in reversed(found(self._disk, Kind.SNAPSHOT)):
                if snapshot > position:
                    self._disk.remove(f"snapshot-{snapshot}")
            for log in reversed(found(self._disk, Kind.LOG)):
                if log >= position:
                    self._disk.remove(f"log-{log}")
                else:
                    self._disk.truncate(f"log-{log}", self._end(log, position))
                    self._make_sure(log)
                    break
            self._disk.rename(name, f"log-{position}")

    def _end(self, log: int, position: int) -> int:
        """Return where in a log file the records before a position end, in bytes."""
        opened, end = self._reading.open(Kind.LOG, log), HEADER.size
        for frame in islice(opened[1].behind(opened[0], end), position - log) if opened else ():
            end = frame.end
        return end

    def _go_on(self) -> None:
        """Let records be appended behind those that were read, once these are durable: they may have been read from memory."""
        snapshots, logs = found(self._disk, Kind.SNAPSHOT), found(self._disk, Kind.LOG)
        for name in self._disk.names():
            if name.endswith(PART) or name.startswith(CUT):  # the latter of a process that was followed, and died at it
                self._disk.remove(name)
        newest = max(snapshots, default=0)
        sizes = {log: self._disk.size(f"log-{log}") for log in logs if log >= newest}
        self._since = self._appended - sum(max(size - HEADER.size, 0) for size in sizes.values())
        self._begin = self._file = max(sizes, default=self.position)
        self._size, self._torn = sizes.get(self._file, 0), False
        if sizes:
            self._make_sure(self._file)
        self._mark = self._reading.mark or secrets.token_bytes(MARK)
        self._bases = [base for base in self._reading.bases if base in snapshots or not base]
        self.durable, self._ready = self.position, True

    def _make_sure(self, log: int) -> None:
        """Write again what was read of a log file but for what is known to be on disk."""
        file, sure = self._reading.sure
        self._disk.rewrite(f"log-{log}", sure if file == log else 0)


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
