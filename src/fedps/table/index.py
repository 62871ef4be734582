"""Which slot of a table an id has, in about fourteen bytes an id, and memory that comes as it is touched.

The index is cut in many small hash tables, its parts, which grow one by one, by an eighth: so no push waits long, and
little room stands empty. A part moves to its new place behind all others, in address space that was reserved at the
start, and the memory of its old place goes back to the system.
"""

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.table import kernels
from fedps.types import Keys

PARTS = 256  # small hash tables of the index; a power of two
FIRST_SIZE = 16  # entries of each at the start
ENTRY = 8  # bytes
PAGE = mmap.PAGESIZE // ENTRY  # entries
DOUBLED = 4096  # entries up to which a part doubles; a larger one grows by an eighth
LEAST, MOST = 0.58, 0.65  # of a part's entries: when it grows, from the first part to the last
# Of address space a row, at most: an entry in the least filled part, and the places it has left, each 8/9 of the next.
INDEX_BYTES = 144
PLACES_BYTES = 64 << 20  # of it in all: places begin on a page of their own
MAP_NORESERVE = 0x4000  # Linux: address space now, memory when touched


class Index:
    """Which slot an id has: PARTS open-addressing tables of entries (tag, slot + 1), as `kernels` has them.

    Parts fill alike, so each has another measure of full: they do not all move at once.

    Args:
        rows: the most ids it will ever hold.
    """

    def __init__(self, rows: int) -> None:
        self._memory = reserved_memory(INDEX_BYTES * rows + PLACES_BYTES)
        self._entries = np.frombuffer(self._memory, np.uint64)
        self._starts = np.arange(0, PARTS * FIRST_SIZE, FIRST_SIZE)
        self._sizes = np.full(PARTS, FIRST_SIZE, np.int64)
        self._filled = np.zeros(PARTS, np.int64)
        self._full = np.linspace(LEAST, MOST, PARTS)  # of a part's entries
        self._end = PARTS * FIRST_SIZE

    @property
    def bytes(self) -> int:
        """Of the parts, as they stand."""
        return int(self._sizes.sum()) * ENTRY

    def find(self, keys: Keys, ids: Keys) -> tuple[Keys, int]:
        """Return slots int64[U] (-1 where there is none) and how many there are none of.

        Args:
            keys: int64[U].
            ids: int64[slots], the id of each slot that was entered.
        """
        out = np.empty(len(keys), np.int64)
        missing = kernels.find(keys, ids, self._entries, self._starts, self._sizes, out)
        return out, int(missing)

    def insert(self, keys: Keys, slots: Keys) -> None:
        """Enter keys that are not there yet."""
        coming = np.bincount(kernels.parts_of(keys, PARTS), minlength=PARTS)
        for part in np.flatnonzero(self._filled + coming > self._full * self._sizes):
            self._grow(int(part), int(self._filled[part] + coming[part]))
        self._filled += coming
        kernels.insert(keys, slots, self._entries, self._starts, self._sizes)

    def remove(self, keys: Keys, ids: Keys) -> None:
        """Take out keys, each of which is there; `ids` as for `find`."""
        kernels.remove(keys, ids, self._entries, self._starts, self._sizes)
        self._filled -= np.bincount(kernels.parts_of(keys, PARTS), minlength=PARTS)

    def _grow(self, part: int, needed: int) -> None:
        """Move a part behind all others, to a place that is large enough, with the entries that it has."""
        start, size = int(self._starts[part]), int(self._sizes[part])
        old = self._entries[start : start + size]
        while size * self._full[part] < needed:
            size += size if size < DOUBLED else size // 8
        self._starts[part], self._sizes[part] = self._place(size), size
        kernels.move(old, self._entries, self._starts[part], size)
        if len(old) >= PAGE and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, ENTRY * start, ENTRY * _whole_pages(len(old)))

    def _place(self, size: int) -> int:
        """Return where there is room for a part; one of a page or more has its pages for itself, to give them back."""
        start = _whole_pages(self._end) if size >= PAGE else self._end
        self._end = start + (_whole_pages(size) if size >= PAGE else size)
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
