"""A folder of files that only grow, seen as a log sees it: what was synced stays, whatever happens; the rest may be lost.

All that keeps a server's state durable goes through `Disk`, so tests put one in its place that forgets what was not
synced, tears it, fills up and fails. Calls for different files may come from different threads.
"""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from fedps.errors import DataError
from fedps.storage.whole import CLOSED, PRIVATE, make_folder, sync_names

Pieces = Sequence[bytes | memoryview]  # of a record: written as they are, one behind the other; contiguous
LOCK = "lock"  # the file that its one writer has locked
TRIES, PAUSE = 5, 0.02  # how often a writer tries to lock it, as others only look whether it is, and seconds between
GULP = 1 << 20  # bytes that are read at once
MOST_PIECES = 1024  # in one call of the kernel's writev (IOV_MAX)


class Disk(Protocol):
    """Files by name. Whatever fails raises OSError; what a failed call has done by then is unknown.

    `str()` says where it is, for messages.
    """

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        ...

    def size(self, name: str) -> int:
        """Return how many bytes a file has."""
        ...

    def read(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        """Return so many bytes of a file from one on, all by default; fewer where it ends."""
        ...

    def append(self, name: str, pieces: Pieces) -> None:
        """Add to a file, made if absent; not durable before `sync`. If it fails, any part may have been added."""
        ...

    def sync(self, name: str) -> None:
        """Make all of a file durable, its name too.

        If it fails, what was added since the last time is lost for good, though it can still be read: it must be cut off
        and added again, for to sync again is to be told that all is well.
        """
        ...

    def rewrite(self, name: str, begin: int) -> None:
        """Write again what can be read of a file from a byte on, where it stands; durable when it returns.

        An earlier process may have been told that a sync failed, and have died before it cut off what that lost.
        """
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, made if absent, to its first `size` bytes; durable when it returns."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Let a synced file take a name, from another that has it; durable when it returns."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; durable when it returns."""
        ...


class Folder:
    """A folder of the file system, which its owner alone may read; one process at a time writes there.

    Args:
        path: of the folder, made if absent.
        to_write: take it now; else it may only be read, until `take`.

    Raises:
        DataError: another process has it, or it cannot be made.
    """

    def __init__(self, path: Path, to_write: bool = True) -> None:
        self._path = path
        self._open = dict[str, int]()
        self._named = set[str]()  # of which the name is durable
        try:
            make_folder(path, CLOSED)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, PRIVATE)
            taken = self.take(TRIES) if to_write else True
        except OSError as error:
            raise DataError(f"{error.filename or path}: cannot be opened: {error.strerror}") from error
        if not taken:
            self.close()
            raise DataError(
                f"{path}: two servers on one log: another process writes there; stop it first, or choose another --run_dir"
            )

    def __str__(self) -> str:
        return str(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def take(self, tries: int = 1) -> bool:
        """Have the folder to write to; return whether no other process has it, asked so many times.

        Raises:
            OSError: the file system has no locks.
        """
        for again in range(tries):
            if again:
                time.sleep(PAUSE)
            if self._lock_as(fcntl.LOCK_EX):
                return True
        return False

    def is_free(self) -> bool:
        """Whether no process has the folder to write to; whoever is about to take it has to try again.

        Raises:
            OSError: the file system has no locks.
        """
        free = self._lock_as(fcntl.LOCK_SH)
        if free:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        return free

    def close(self) -> None:
        """Let another process have the folder."""
        while self._open:
            os.close(self._open.popitem()[1])
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        return [name for name in os.listdir(self._path) if name != LOCK]  # noqa: PTH208  (names are asked for)

    def size(self, name: str) -> int:
        """Return how many bytes a file has."""
        return (self._path / name).stat().st_size

    def read(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        """Return so many bytes of a file from one on, all by default; fewer where it ends.

        They are copied: to look at a part of a mapped file that cannot be read, or was cut off, ends a process without a word.
        """
        path, found = self._path / name, b""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size - begin if size is None else size
            while len(found) < size:
                at = begin + len(found)
                try:
                    piece = os.pread(file.fileno(), size - len(found), at)
                except OSError as error:
                    raise OSError(error.errno, f"{error.strerror} at byte {at}", str(path)) from error
                if not piece:
                    break
                found = found + piece if found else piece
        return found

    def append(self, name: str, pieces: Pieces) -> None:
        """Add to a file, made if absent; not durable before `sync`."""
        descriptor = self._opened(name)
        for at in range(0, len(pieces), MOST_PIECES):
            _write(descriptor, pieces[at : at + MOST_PIECES])

    def sync(self, name: str) -> None:
        """Make all of a file durable, its name too."""
        os.fdatasync(self._opened(name))
        self._sync_name(name)

    def rewrite(self, name: str, begin: int) -> None:
        """Write again what can be read of a file from a byte on, where it stands; durable when it returns."""
        with (self._path / name).open("r+b", buffering=0) as file:  # where one appends, nothing is written in its place
            while piece := os.pread(file.fileno(), GULP, begin):
                begin += os.pwrite(file.fileno(), piece, begin)
            os.fdatasync(file.fileno())
        self._sync_name(name)

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, made if absent, to its first `size` bytes; durable when it returns."""
        descriptor = self._opened(name)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        self._sync_name(name)

    def rename(self, old: str, new: str) -> None:
        """Let a synced file take a name, from another that has it; durable when it returns."""
        self._close(new)
        self._close(old)
        (self._path / old).replace(self._path / new)
        sync_names(self._path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; durable when it returns."""
        self._close(name)
        (self._path / name).unlink(missing_ok=True)
        sync_names(self._path)

    def _lock_as(self, kind: int) -> bool:
        try:
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _opened(self, name: str) -> int:
        """Return the one descriptor through which a file is written: an error of the disk is told to who had it open."""
        if name not in self._open:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._open[name] = os.open(self._path / name, flags, PRIVATE)
        return self._open[name]

    def _sync_name(self, name: str) -> None:
        if name not in self._named:
            sync_names(self._path)
            self._named.add(name)

    def _close(self, name: str) -> None:
        self._named.discard(name)
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)


def _write(descriptor: int, pieces: Pieces) -> None:
    """Write pieces without copying them; a disk that is nearly full takes less than it is given, and says why next time."""
    written = os.writev(descriptor, pieces)
    for piece in pieces:
        size = memoryview(piece).nbytes
        if written < size:
            rest = memoryview(piece).cast("B")[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        written = max(written - size, 0)
