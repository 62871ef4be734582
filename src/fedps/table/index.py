"""Which slot of a table an id has, in about fourteen bytes an id, and memory that comes as it is touched.

The index is cut in many small hash tables, its parts, which grow one by one, by an eighth: so no push waits long, and
little room stands empty. A part moves to its new place behind all others, in address space that was reserved at the
start, and the memory of its old place goes back to the system.
"""

import mmap
import sys
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.table.kernels import compiled, inlined, prefetch, spread
from fedps.types import Keys

PARTS = 256  # small hash tables of the index; a power of two
FIRST_SIZE = 16  # entries of each at the start
ENTRY = 8  # bytes
PAGE = mmap.PAGESIZE // ENTRY  # entries
DOUBLED = 2 * PAGE  # entries up to which a part doubles; a larger one grows by an eighth, to whole pages
# Of a part's entries, when it grows, from the first part to the last: so they fill alike, and do not all move at once.
FULL = np.linspace(0.58, 0.65, PARTS)
# Of address space a row, at most: an entry in the least filled part, and the places it has left, each 8/9 of the next.
INDEX_BYTES = 144
PLACES_BYTES = 64 << 20  # of it in all: places begin on a page of their own
_i8w = types.Array(types.int64, 1, "C")
_i8r = types.Array(types.int64, 1, "C", readonly=True)
_u8w = types.Array(types.uint64, 1, "C")
EMPTY = np.uint64(0)  # an entry holds slot + 1, so that untouched memory means: nothing here
TAG = np.uint64(0xFFFFFFFF)  # the lower half of an id's mixed bits, and of an entry
AHEAD = 16  # entries asked for before their turn, so that waits for memory overlap
MAP_NORESERVE = 0x4000  # Linux: address space now, memory when touched


class Index:
    """Which slot an id has: PARTS open-addressing tables of entries (tag, slot + 1), as described below.

    Args:
        rows: the most ids it will ever hold.

    Attributes:
        bytes: of the parts, as they stand.
    """

    def __init__(self, rows: int) -> None:
        self._memory = reserved_memory(INDEX_BYTES * rows + PLACES_BYTES)
        self._entries = np.frombuffer(self._memory, np.uint64)
        self._starts = np.arange(0, PARTS * FIRST_SIZE, FIRST_SIZE)
        self._sizes = np.full(PARTS, FIRST_SIZE, np.int64)
        self._filled = np.zeros(PARTS, np.int64)
        self._most = FULL * FIRST_SIZE  # entries of each part
        self._end = PARTS * FIRST_SIZE
        self.bytes = self._end * ENTRY

    def find(self, keys: Keys, ids: Keys) -> tuple[Keys, int]:
        """Return slots int64[U] (-1 where there is none) and how many there are none of.

        Args:
            keys: int64[U].
            ids: int64[slots], the id of each slot that was entered.
        """
        out = np.empty(len(keys), np.int64)
        missing = find(keys, ids, self._entries, self._starts, self._sizes, out)
        return out, int(missing)

    def insert(self, keys: Keys, slots: Keys) -> None:
        """Enter keys that are not there yet."""
        filled = self._filled + np.bincount(parts_of(keys, PARTS), minlength=PARTS)
        for part in (filled > self._most).nonzero()[0]:
            self._grow(int(part), int(filled[part]))
        self._filled = filled
        insert(keys, slots, self._entries, self._starts, self._sizes)

    def remove(self, keys: Keys, ids: Keys) -> None:
        """Take out keys, each of which is there; `ids` as for `find`."""
        remove(keys, ids, self._entries, self._starts, self._sizes)
        self._filled -= np.bincount(parts_of(keys, PARTS), minlength=PARTS)

    def _grow(self, part: int, needed: int) -> None:
        """Move a part behind all others, to a place that is large enough, with the entries that it has."""
        start, size = int(self._starts[part]), int(self._sizes[part])
        old = self._entries[start : start + size]
        while size * FULL[part] < needed:
            size = 2 * size if size < DOUBLED else _whole_pages(size + size // 8)
        self._starts[part], self._sizes[part], self._most[part] = self._place(size), size, FULL[part] * size
        self.bytes += ENTRY * (size - len(old))
        move(old, self._entries, self._starts[part], size)
        if len(old) >= PAGE and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, ENTRY * start, ENTRY * len(old))

    def _place(self, size: int) -> int:
        """Return where there is room for a part; one of a page or more has its pages for itself, to give them back."""
        start = _whole_pages(self._end) if size >= PAGE else self._end
        self._end = start + size
        if self._end > len(self._entries):
            raise TableError("the index of a table is full: its ids all lie in few of its parts")
        return start


def _whole_pages(entries: int) -> int:
    return -(-entries // PAGE) * PAGE


def reserve(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros whose memory is taken page by page as it is first written.

    Raises:
        TableError: the system gives no room for so many.
    """
    return np.frombuffer(reserved_memory(count * dtype.itemsize), dtype, count)


def reserved_memory(size: int) -> mmap.mmap:
    """Reserve address space, in bytes; memory is taken as it is first written.

    Raises:
        TableError: the system gives no room for so much.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (MAP_NORESERVE if sys.platform == "linux" else 0)
    try:
        return mmap.mmap(-1, max(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.PAGESIZE), flags=flags)
    except (OSError, OverflowError) as error:
        raise TableError(f"no room for a table of {size} bytes ({error}): declare fewer rows or floats") from error


# Loops over the array of entries. An id's mixed bits say where it
# stands: bits 48 and up name its part, the lower 32 are its tag, and tag x size / 2^32 is its home there. From its home on
# it is looked for entry by entry, around the end of the part to its start (linear probing), until it or an empty entry is
# met. No part gets full, so every search ends. An entry is (tag, slot + 1) in 8 bytes: an id itself stands with its row,
# and is compared there once tags are equal, so that no two ids are ever taken for one.


@njit(inline="always")
def _part(h, starts):  # type: ignore[no-untyped-def]
    return np.int64(h >> np.uint64(48)) & (len(starts) - 1)


@njit(inline="always")
def _home(tag, start, size):  # type: ignore[no-untyped-def]
    return start + np.int64((tag * np.uint64(size)) >> np.uint64(32))


@njit(inline="always")
def _next(at, start, size):  # type: ignore[no-untyped-def]
    return at + 1 if at + 1 < start + size else start


@inlined
def _place(key, ids, entries, starts, sizes):  # type: ignore[no-untyped-def]
    """Return where a key's entry stands, or the empty one at which its search ends."""
    h = spread(key)
    part, tag = _part(h, starts), h & TAG
    start, size = starts[part], sizes[part]
    at = _home(tag, start, size)
    while entries[at] != EMPTY:
        if entries[at] >> np.uint64(32) == tag and ids[np.int64(entries[at] & TAG) - 1] == key:
            break
        at = _next(at, start, size)
    return at


@inlined
def _enter(entry, entries, start, size):  # type: ignore[no-untyped-def]
    """Put an entry in the first empty place from its home on."""
    at = _home(entry >> np.uint64(32), start, size)
    while entries[at] != EMPTY:
        at = _next(at, start, size)
    entries[at] = entry


@compiled(types.int64(_i8r, _i8w, _u8w, _i8w, _i8w, _i8w))
def find(keys, ids, entries, starts, sizes, out):  # type: ignore[no-untyped-def]
    """Write each key's slot to `out`, -1 where there is none; return how many there are none of."""
    # First all homes, then what stands there, then the ids of those rows: each loop can ask for memory ahead.
    for i in range(len(keys)):
        h = spread(keys[i])
        part = _part(h, starts)
        out[i] = _home(h & TAG, starts[part], sizes[part])
    for i in range(len(keys)):
        if i + AHEAD < len(keys):
            prefetch(entries, out[i + AHEAD])
        h, at = spread(keys[i]), out[i]
        entry, tag = entries[at], h & TAG
        if entry != EMPTY and entry >> np.uint64(32) != tag:  # another id's: probe on, which is rare
            part = _part(h, starts)
            start, size = starts[part], sizes[part]
            while entry != EMPTY and entry >> np.uint64(32) != tag:
                at = _next(at, start, size)
                entry = entries[at]
        out[i] = np.int64(entry & TAG) - 1
        if out[i] >= 0:
            prefetch(ids, out[i])
    missing = 0
    for i in range(len(keys)):
        if out[i] >= 0 and ids[out[i]] != keys[i]:  # of another id with the same tag, by chance
            out[i] = np.int64(entries[_place(keys[i], ids, entries, starts, sizes)] & TAG) - 1
        missing += out[i] < 0
    return missing


@compiled(types.void(_i8r, _i8r, _u8w, _i8w, _i8w))
def insert(keys, slots, entries, starts, sizes):  # type: ignore[no-untyped-def]
    """Enter keys that are not there, with their slots; each part has room for its own."""
    for i in range(len(keys)):
        h = spread(keys[i])
        part = _part(h, starts)
        _enter((h & TAG) << np.uint64(32) | np.uint64(slots[i] + 1), entries, starts[part], sizes[part])


@compiled(types.void(_u8w, _u8w, types.int64, types.int64))
def move(old, entries, start, size):  # type: ignore[no-untyped-def]
    """Enter what stood in a part's old place into its new one, which is empty."""
    for i in range(len(old)):
        if old[i] != EMPTY:
            _enter(old[i], entries, start, size)


@compiled(types.void(_i8r, _i8w, _u8w, _i8w, _i8w))
def remove(keys, ids, entries, starts, sizes):  # type: ignore[no-untyped-def]
    """Take out keys that are there; entries behind them move up, so that no search ends too early."""
    for i in range(len(keys)):
        part = _part(spread(keys[i]), starts)
        start, size = starts[part], sizes[part]
        hole = _place(keys[i], ids, entries, starts, sizes)
        at = _next(hole, start, size)
        while entries[at] != EMPTY:
            home = _home(entries[at] >> np.uint64(32), start, size)
            # It may stand anywhere from its home on: at the hole too, unless its home lies behind that.
            if (at - home) % size >= (at - hole) % size:
                entries[hole] = entries[at]
                hole = at
            at = _next(at, start, size)
        entries[hole] = EMPTY


@compiled(_i8w(_i8r, types.int64))
def parts_of(keys, parts):  # type: ignore[no-untyped-def]
    """Return each key's part of the index."""
    out = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        out[i] = np.int64(spread(keys[i]) >> np.uint64(48)) & (parts - 1)
    return out
