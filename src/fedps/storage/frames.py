"""How the records of a log are laid into files, so that every damage is found, and a torn tail is told from rot.

A file begins with a header: what it holds (a log, or a snapshot), the format's version, the position of its first record
(of a snapshot: behind all that it sums up), the mark, the crc32 of all this. All versions begin so.

    header   kind 8 · version u32 · position u64 · mark 8 · crc32 u32
    frame    mark 8 · durable u64 · length u32 · crc32 u32 · the record's bytes       (all little-endian)

The *mark* is drawn once for a log and is the same in all its files, so those of another log are known; and as no outsider
knows it, whole frames are found behind damaged ones whatever the records hold. A frame's crc32 begins with its
header's: a frame of another file is none of this one.

*durable* is the position up to which the log was on disk when the frame was written. So one whole frame behind a damaged
one decides: if it says that what is damaged had been on disk, the disk has rotted and records that were answered for are
lost; else both were being written when the power went, nobody was told that they are safe, and both go.
In a snapshot it is 0, but for its last frame, which is empty and says how many there are with itself: one that was
cut off is not whole.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from typing import NamedTuple, Protocol, Self

from fedps.storage.disk import Pieces

VERSION = 1
HEADER = struct.Struct("<8sIQ8sI")
FRAME = struct.Struct("<8sQII")
CHECKED = struct.Struct("<QI")  # what of a frame's head the crc32 holds
MARK = 8  # bytes
SCANNED = 1 << 20  # bytes in which marks are looked for at a time


class Kind(StrEnum):
    """What a file holds; its name begins with it."""

    LOG = "log"
    SNAPSHOT = "snapshot"


class Content(Protocol):
    """What a file holds."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> memoryview: ...


class Frame(NamedTuple):
    """A whole record as it is found in a file: from where to where, in bytes."""

    durable: int
    record: memoryview
    end: int


class Frames:
    """The frames of one file.

    Args:
        kind: what it holds.
        position: of its first record.
        mark: of the log that it belongs to.
    """

    def __init__(self, kind: Kind, position: int, mark: bytes) -> None:
        facts = HEADER.pack(_word(kind), VERSION, position, mark, 0)[:-4]
        self.mark, self._seed = mark, zlib.crc32(facts)
        self.header = facts + self._seed.to_bytes(4, "little")

    @classmethod
    def of(cls, content: Content, kind: Kind, position: int) -> Self | None:
        """Return those of a file that was read; None if its header is damaged, or not what its name says.

        Raises:
            ValueError: it is of another version.
        """
        if len(content) < HEADER.size:
            return None
        found, version, at, mark, check = HEADER.unpack(content[: HEADER.size])
        if (found, at, check) != (_word(kind), position, zlib.crc32(content[: HEADER.size - 4])):
            return None
        if version != VERSION:
            raise ValueError(
                f"is of format {version}, and this fedps reads format {VERSION} only; go on with the fedps that wrote it"
            )
        return cls(kind, position, mark)

    def pack(self, pieces: Pieces, durable: int = 0) -> tuple[bytes | memoryview, ...]:
        """Return a record's frame, in pieces of which the record's own are not copied."""
        length = sum(memoryview(piece).nbytes for piece in pieces)
        check = zlib.crc32(CHECKED.pack(durable, length), self._seed)
        for piece in pieces:
            check = zlib.crc32(piece, check)
        return FRAME.pack(self.mark, durable, length, check), *pieces

    def read(self, content: Content, at: int) -> Frame | None:
        """Return the frame that begins at byte `at`; None if there is no whole one."""
        start = at + FRAME.size
        if start > len(content):
            return None
        mark, durable, length, check = FRAME.unpack(content[at:start])
        if mark != self.mark or start + length > len(content):
            return None
        record = content[start : start + length]
        if check != zlib.crc32(record, zlib.crc32(CHECKED.pack(durable, length), self._seed)):
            return None
        return Frame(durable, record, start + length)

    def behind(self, content: Content, at: int) -> Iterator[Frame]:
        """Yield whole frames from byte `at` on, until one is damaged or the file ends."""
        while frame := self.read(content, at):
            yield frame
            at = frame.end

    def durable_behind(self, content: Content, at: int) -> int:
        """Return up to which position the log was on disk, by what whole frames at or behind byte `at` say; 0 if none is."""
        mark, durable = re.compile(re.escape(self.mark)), 0
        for first in range(at, len(content), SCANNED):
            for found in mark.finditer(content[first : first + SCANNED + MARK - 1]):
                frame = self.read(content, first + found.start())
                durable = max(durable, frame.durable if frame else 0)
        return durable


@cache
def _word(kind: Kind) -> bytes:
    """Return what a file begins with."""
    return f"fedps{kind:.3}".encode()
