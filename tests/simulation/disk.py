"""Disks that fail: one that forgets what was not synced, and one that stops or fails at a chosen call."""

import errno
import random
from collections.abc import Callable

from fedps.storage.disk import Disk, Pieces

Fault = Callable[[int, str], BaseException | None]  # what becomes of a call, by its number and its name


class Stopped(BaseException):
    """The process is no more."""


class ForgetfulDisk:
    """A disk in memory that keeps apart what was synced and what was not.

    Attributes:
        files: what a reader sees.
        safe: of each file whose name is durable, how many of its bytes are.
        error: while it is set, whatever writes fails with it, half done; and whatever reads, if the disk is broken (EIO).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.safe: dict[str, int] = {}
        self.error: OSError | None = None
        self._dropped: dict[
            str, int
        ] = {}  # files of which nothing behind these bytes will ever be on disk: a sync failed

    def __str__(self) -> str:
        return "disk"

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> int:
        return len(self._found(name))

    def read(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        if self.error and self.error.errno == errno.EIO:
            raise self.error
        return bytes(self._found(name)[begin : None if size is None else begin + size])

    def append(self, name: str, pieces: Pieces) -> None:
        payload = b"".join(pieces)
        file = self.files.setdefault(name, bytearray())
        if self.error:
            file += payload[: len(payload) // 2]
            raise self.error
        file += payload

    def sync(self, name: str) -> None:
        if self.error:
            self.drop(name)
            raise self.error
        self.files.setdefault(name, bytearray())
        self.safe[name] = self._dropped.get(name, len(self.files[name]))

    def rewrite(self, name: str, begin: int) -> None:
        self._check()
        if begin <= self._dropped.get(name, begin):
            self._dropped.pop(name, None)
        self.sync(name)

    def truncate(self, name: str, size: int) -> None:
        self._check()
        file = self.files.setdefault(name, bytearray())
        del file[size:]
        if size <= self._dropped.get(name, size):
            self._dropped.pop(name, None)
        self.safe[name] = self._dropped.get(name, size)

    def rename(self, old: str, new: str) -> None:
        self._check()
        self.files[new] = self.files.pop(old)
        self.safe[new] = self.safe.pop(old, 0)
        self._dropped.pop(new, None)
        if old in self._dropped:
            self._dropped[new] = self._dropped.pop(old)

    def remove(self, name: str) -> None:
        self._check()
        for facts in (self.files, self.safe, self._dropped):
            facts.pop(name, None)

    def drop(self, name: str) -> None:
        """Let a sync fail: what was not durable by then will never be, though it can still be read."""
        if len(self.files.get(name, b"")) > (safe := self.safe.get(name, 0)):  # else there was nothing to lose
            self._dropped.setdefault(name, safe)

    def crash(self, rng: random.Random) -> None:
        """Cut the power: of what was not synced any part may be gone, or be there as zeros or as something else."""
        for name in list(self.files):
            safe = self.safe.get(name)
            if safe is None and rng.random() < 0.5:
                del self.files[name]
                continue
            file = self.files[name]
            rest = file[safe or 0 :]
            del file[safe or 0 :]
            rest = rest[: rng.randint(0, len(rest))]
            for _ in range(rng.randint(0, 2) if rest else 0):
                start = rng.randrange(len(rest))
                end = min(len(rest), start + rng.choice((1, 8, 512, 4096)))
                rest[start:end] = bytes(end - start) if rng.random() < 0.5 else rng.randbytes(end - start)
            file += rest
        self.safe = {name: len(file) for name, file in self.files.items()}
        self._dropped.clear()

    def flip(self, rng: random.Random, name: str | None = None) -> tuple[str, int]:
        """Flip one bit, of any file or of one; return of which byte."""
        if name is None:
            name = rng.choices(sorted(self.files), [len(self.files[name]) for name in sorted(self.files)])[0]
        at = rng.randrange(len(self.files[name]))
        self.files[name][at] ^= 1 << rng.randrange(8)
        return name, at

    def _found(self, name: str) -> bytearray:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return self.files[name]

    def _check(self) -> None:
        if self.error:
            raise self.error


class FaultyDisk:
    """Another disk, of which some calls stop the process or fail, before they have done anything or half done.

    Args:
        disk: the other.
        fault: asked before each call that changes something, with its number from 0 and its name.
        half: an append is half done then; any other call is done, and then fails.

    Attributes:
        calls: how many there were.
    """

    def __init__(self, disk: Disk, fault: Fault = lambda call, name: None, half: bool = False) -> None:
        self.calls, self._disk, self._fault, self._half = 0, disk, fault, half

    def __str__(self) -> str:
        return str(self._disk)

    def names(self) -> list[str]:
        return self._disk.names()

    def size(self, name: str) -> int:
        return self._disk.size(name)

    def read(self, name: str, begin: int = 0, size: int | None = None) -> bytes:
        return self._disk.read(name, begin, size)

    def append(self, name: str, pieces: Pieces) -> None:
        payload = b"".join(pieces)
        self._call("append", lambda half: self._disk.append(name, [payload[: len(payload) // 2] if half else payload]))

    def sync(self, name: str) -> None:
        self._call("sync", lambda half: self._disk.sync(name), name)

    def rewrite(self, name: str, begin: int) -> None:
        self._call("rewrite", lambda half: self._disk.rewrite(name, begin))

    def truncate(self, name: str, size: int) -> None:
        self._call("truncate", lambda half: self._disk.truncate(name, size))

    def rename(self, old: str, new: str) -> None:
        self._call("rename", lambda half: self._disk.rename(old, new))

    def remove(self, name: str) -> None:
        self._call("remove", lambda half: self._disk.remove(name))

    def _call(self, what: str, do: Callable[[bool], None], name: str = "") -> None:
        fault = self._fault(self.calls, what)
        self.calls += 1
        if fault is None:
            do(False)
            return
        if what == "sync" and isinstance(fault, OSError) and isinstance(self._disk, ForgetfulDisk):
            self._disk.drop(name)
        elif self._half:
            do(True)
        raise fault


def at(call: int, fault: BaseException) -> Fault:
    """Return a fault of one call."""
    return lambda number, name: fault if number == call else None


def from_on(call: int, fault: BaseException) -> Fault:
    """Return a fault of a call and of all behind it."""
    return lambda number, name: fault if number >= call else None
