"""A table as it was at one moment, in the order of its keys: what is saved of it, read while the table goes on changing."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fedps.table import moment
from fedps.table.moment import Array, Moment
from fedps.types import GONE, NO_KEYS, Keys, TableSpec, Values

Bools = NDArray[np.bool_]


class StillRows:
    """Rows of a sparse table as they were, with their state.

    Args:
        spec: the table's.
        ids: int64[rows], each slot's.
        changed: bool[rows], which of them were pushed since the last save.
        rows: the moment, of arrays (ids, block).
        settle: brings rows with state up to the moment, in place.

    Attributes:
        keys: int64[n], sorted, once `sort` was called.
        ids: as said; they may not change any more.
        there: bool[rows], which slots have a row.
        marks: of a table whose rows may leave: uint8[rows] each, their ages and how often they were used.
        gone: finds the ids in the last save without a row now.
        waiting: ids without a row, with their pushes, int64[n, 2], piece by piece; None if they are not counted.
    """

    def __init__(
        self, spec: TableSpec, ids: Keys, changed: Bools, rows: Moment, settle: Callable[[Values], None]
    ) -> None:
        self.spec, self.ids, self.there, self.keys = spec, ids, np.ones(len(ids), np.bool_), NO_KEYS
        self.marks: tuple[Array, ...] = ()
        self.gone: Callable[[], Keys] | None = None
        self.waiting: Iterator[Keys] | None = None
        self._changed, self._rows, self._settle, self._slots, self._restricted = changed, rows, settle, NO_KEYS, False

    def restrict(self) -> None:
        """Leave out all rows but those that were pushed since the last save; those that have left since come as `GONE`."""
        self.there, self._restricted = self.there & self._changed, True
        self._rows.forget(~self.there)

    def sort(self) -> None:
        """Find the order of the keys. That takes long, and may be done in another thread."""
        slots = np.flatnonzero(self.there)
        keys = self.ids[slots]
        if self._restricted and self.gone:
            gone = np.setdiff1d(self.gone(), keys)
            keys, slots = np.concatenate([keys, gone]), np.concatenate([slots, np.full(len(gone), -1)])
        order = np.argsort(keys)
        self.keys, self._slots = keys[order], slots[order]

    def shape(self, values: bool) -> tuple[int, int]:
        """Return the shape of all rows, with their state or their values alone."""
        return len(self.keys), (self.spec.dim if values else self._rows.width) + bool(self.marks)

    def pieces(self, values: bool) -> Iterator[Values]:
        """Yield the rows in the order of `keys`, float32[m, ...], piece by piece; with their state or their values alone.

        Rows of a table from which they may leave have one column more: the bits of their age and of how often they were used.
        """
        step = max(moment.PIECE // (4 * self._rows.width), 1)
        for first in range(0, len(self._slots), step):
            yield self._read(self._slots[first : first + step], values)

    def _read(self, slots: Keys, values: bool) -> Values:
        there = slots >= 0
        block: Values = self._rows.read(slots[there])[1]
        self._settle(block)
        block = block[:, : self.spec.dim] if values else block
        if not self.marks:
            return np.ascontiguousarray(block)
        out = np.zeros((len(slots), block.shape[1] + 1), np.float32)
        out[there, :-1] = block
        age, marks = (m[slots[there]].astype(np.uint32) for m in self.marks)
        bits = out.view(np.uint32)[:, -1]
        bits[there], bits[~there] = age | marks << 8, GONE
        return out


class StillTensor:
    """A dense tensor as it was, with its state; it is always saved whole.

    Args:
        spec: the table's.
        width: floats of it with its state.
        pieces: the moment, of one array of pieces of it.
    """

    keys, waiting = NO_KEYS, None

    def __init__(self, spec: TableSpec, width: int, pieces: Moment) -> None:
        self.spec, self._width, self._pieces = spec, width, pieces

    def restrict(self) -> None:
        """Do nothing, as nothing is left out."""

    def sort(self) -> None:
        """Do nothing, as there are no keys."""

    def shape(self, values: bool) -> tuple[int, int]:
        """Return the shape of the tensor, with its state or its values alone."""
        return 1, self.spec.dim if values else self._width

    def pieces(self, values: bool) -> Iterator[Values]:
        """Yield its floats in their order, float32[1, m], piece by piece; with its state or its values alone."""
        left = self.shape(values)[1]
        for _, (piece,) in self._pieces.pieces():
            yield piece.reshape(1, -1)[:, :left]
            left = max(left - piece.size, 0)


Still = StillRows | StillTensor


def whole(still: Still, changed: bool = False) -> tuple[Keys, Values]:
    """Read a table that stands still: keys, sorted, and rows with state, all of them or those that have changed."""
    if changed:
        still.restrict()
    still.sort()
    rows = np.empty(still.shape(False), np.float32).reshape(-1)
    at = 0
    for piece in still.pieces(False):
        rows[at : at + piece.size] = piece.reshape(-1)
        at += piece.size
    return still.keys, rows.reshape(still.shape(False))
