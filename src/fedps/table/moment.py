"""Rows as they were at one moment, read little by little while they go on changing: what saving a table reads from.

To freeze costs nothing. Whoever is about to change rows says so first (`Watched.keep`), and those that some moment has not
read yet are put aside for it as they are. A moment that nobody holds any more costs nothing. All calls come from one thread.
"""

import math
import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
from numba import types
from numpy.typing import NDArray

from fedps.table.index import reserved_memory
from fedps.table.kernels import compiled
from fedps.types import Keys, TableName

PIECE = 1 << 20  # bytes that are read at a time
GIVEN_BACK = 1 << 20  # bytes of memory at a time
READ = -1  # in place of where a row was put aside
_i8r = types.Array(types.int64, 1, "C", readonly=True)
_i8w = types.Array(types.int64, 1, "C")
_i4w = types.Array(types.int32, 1, "C")
Array = NDArray[Any]
Facts = dict[str, int | float]


class Part(NamedTuple):
    """A piece of a frozen table; all of them, laid in their order, are the table.

    Attributes:
        table: whose it is.
        facts: numbers of the table, or where the piece belongs.
        arrays: int64, float32 or uint8, about `PIECE` bytes in all at most, or a row; copies.
    """

    table: TableName
    facts: Facts
    arrays: tuple[Array, ...] = ()


class Watched:
    """Arrays of rows, [n, ...] each, of which moments are kept.

    Args:
        arrays: row k of them all is what changes together.
    """

    def __init__(self, *arrays: Array) -> None:
        self._arrays = arrays
        self._moments = WeakSet["Moment"]()
        self._spent = list[Aside]()  # of moments that are over

    def freeze(self, rows: int) -> "Moment":
        """Return the first rows as they are now."""
        self._moments.add(moment := Moment(self._arrays, rows, self._spent))
        return moment

    def keep(self, slots: Keys) -> None:
        """Put those of some rows aside that a moment has not read yet, before they change: int64[n]."""
        if self._moments:  # a push asks this for each table, and there is none most of the time
            for moment in self._moments:
                moment.keep(slots)
        if self._spent and self._spent[-1].shrink():  # little by little: gigabytes at once would take long
            self._spent.pop()


class Moment:
    """The first rows of some arrays as they were when it was made; each is read once.

    Args:
        arrays: as for `Watched`.
        rows: how many.
        spent: what was put aside goes there in the end.

    Attributes:
        rows: as said.
        aside: of each array the rows that were put aside.
    """

    def __init__(self, arrays: tuple[Array, ...], rows: int, spent: "list[Aside]") -> None:
        self._arrays, self.rows, self._spent = arrays, rows, spent
        self.aside, self._kept = list[Aside](), 0
        self._place = np.zeros(rows, np.int32)  # of a row: 0 while it stands as it was, where it is aside + 1, or READ
        self.aside = [Aside(array, rows) for array in arrays]

    @property
    def width(self) -> int:
        """Numbers of a row in the last array."""
        return math.prod(self._arrays[-1].shape[1:])

    def __del__(self) -> None:
        self._spent += self.aside

    def keep(self, slots: Keys) -> None:
        """Put rows aside that are about to change."""
        found = np.empty(len(slots), np.int64)
        first, self._kept = self._kept, put_aside(slots, self._place, self._kept, found)
        found = found[: self._kept - first]
        for aside, array in zip(self.aside, self._arrays, strict=True):
            # `clip`, as all are there: numpy copies twice where it has to look.
            np.take(array, found, axis=0, out=aside.rows[first : self._kept], mode="clip")
            aside.used = self._kept

    def read(self, slots: Keys) -> tuple[Array, ...]:
        """Return rows as they were, a copy of each array."""
        place = self._place[slots]
        there = place > 0
        found = tuple(array[slots] for array in self._arrays)
        if there.any():
            for rows, aside in zip(found, self.aside, strict=True):
                rows[there] = aside.rows[place[there] - 1]
        self._place[slots] = READ
        return found

    def forget(self, slots: NDArray[Any]) -> None:
        """Let rows go that nobody will read: bool[rows], or int64[n]."""
        self._place[slots] = READ

    def pieces(self, step: int = 0) -> Iterator[tuple[int, tuple[Array, ...]]]:
        """Yield all rows in their order, piece by piece, each with the number of its first row.

        Args:
            step: rows of a piece; 0: as many as `PIECE` bytes hold.
        """
        step = step or max(PIECE // sum(a[:1].nbytes for a in self._arrays), 1)
        for first in range(0, self.rows, step):
            yield first, self.read(np.arange(first, min(first + step, self.rows)))


class Aside:
    """Rows that are put aside, as those of an array, in memory that is taken as it is written and given back in pieces.

    Attributes:
        rows: [n, ...].
        used: how many of them were written.
    """

    def __init__(self, array: Array, rows: int) -> None:
        shape = (rows, *array.shape[1:])
        self._row_bytes = array.dtype.itemsize * math.prod(shape[1:])
        self._memory = reserved_memory(rows * self._row_bytes)
        self.rows: Array = np.frombuffer(self._memory, array.dtype, math.prod(shape)).reshape(shape)
        self.used, self._left = 0, -1

    def shrink(self) -> bool:
        """Give a piece of the memory back; return whether nothing is left of it."""
        if self._left < 0:
            self._left = self.used * self._row_bytes
        if self._left <= 0 or not hasattr(mmap, "MADV_DONTNEED"):
            return True
        first = (self._left - 1) // GIVEN_BACK * GIVEN_BACK
        self._memory.madvise(mmap.MADV_DONTNEED, first, self._left - first)
        self._left = first
        return False


@compiled(types.int64(_i8r, _i4w, types.int64, _i8w))
def put_aside(slots, place, kept, out):  # type: ignore[no-untyped-def]
    """Give those of some rows that are neither read nor aside the next places there; return how many are aside then.

    `out` begins with those rows then.
    """
    first = kept
    for i in range(len(slots)):
        if slots[i] < len(place) and place[slots[i]] == 0:
            out[kept - first] = slots[i]
            kept += 1
            place[slots[i]] = kept
    return kept
