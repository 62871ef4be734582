"""A table whose rows are few though its ids are many: they wait to be made, leave when nobody pushes them, or make room.

*Admission*: an id is counted until it was pushed often enough (`admission`); until then pulls get the middle of the
table's start, the same for all, and what is pushed is not applied. Pulls never make a row.

*Expiry*: a row's age is in epochs; one that is too old counts as gone at once, and its memory is taken back little by
little, some rows at each push.

*Eviction*: each push counts the use of its rows, up to 3; where a new row finds no room, a clock hand goes over the rows,
counts those it passes down by one, and takes the first that are not used (GCLOCK: Smith, ACM TODS 3(3), 1978). So the
least used leave, and a row that was pushed once leaves before one that is pushed all the time. One turn of the hand looks
at few rows: if they are all in use, it goes over them again, and not further.

All that follows from the pushes and their order alone. Admission and expiry look at one id at a time, so they are the same
with any number of servers, as long as no candidate is forgotten; each server evicts among its own rows.
"""

from collections.abc import Callable, Iterator

import numpy as np
from msgspec.structs import replace
from numba import types
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.table.admission import CANDIDATES_BYTES, Candidates
from fedps.table.index import reserve
from fedps.table.kernels import compiled
from fedps.table.moment import Array, Facts, Part, Watched
from fedps.table.rules import initial_rows, rowless
from fedps.table.sparse import SparseTable, row_bytes, unbounded
from fedps.table.still import StillRows
from fedps.types import GONE, NO_KEYS, Counts, Keys, TableSpec, Values

OLDEST = 254  # the largest age; a slot without a row has that of one that is GONE
USES, SAVED, PINNED = 3, 0x40, 0x80  # of a row's marks: how often it was used; in the last save; not to be evicted now
STRETCH = 32  # rows that the hand looks at for each that it is to take
SWEPT = 8192  # rows that a push looks at, at least, for those that have expired
KEPT = ("_spare", "_hand", "_sweep", "_old", "_admitted", "_expired", "_evicted")  # numbers of a frozen table
Bytes = NDArray[np.uint8]
_u1w = types.Array(types.uint8, 1, "C")
_i8w = types.Array(types.int64, 1, "C")


class BoundedTable(SparseTable):
    """Rows that are bounded as the table's spec says.

    A saved row has one column more than a table keeps floats: the bits of its age and its marks. Where only changes are
    saved, a row that has left since is saved as zeros of age GONE.

    Args:
        spec, take: as for `SparseTable`.
        shards: how many servers share the rows.

    Attributes:
        full_at: how many slots there were as the last push found no room for more rows; None if all had some.
    """

    def __init__(self, spec: TableSpec, take: Callable[[int], None] = unbounded, shards: int = 1) -> None:
        super().__init__(spec, take)
        bounds = spec.bounds
        self._most = min(-(-bounds.max_rows // shards) or self._places, self._places)
        self._expires = bounds.expire_after or OLDEST
        self._candidates = Candidates(bounds.admit_after) if bounds.admit_after > 1 else None
        self._age: Bytes = reserve(self._places, np.dtype(np.uint8))  # epochs without a push, and one more
        self._marks: Bytes = reserve(self._places, np.dtype(np.uint8))
        self._free: Keys = reserve(self._places, np.dtype(np.int64))  # slots without a row; the first `_spare` count
        self._watched_free = Watched(self._free)
        self._spare = self._paid = self._hand = self._sweep = 0
        self._old = 0  # rows that have expired, and whose slots are not free yet
        self._left = list[Keys]()  # ids in the last save whose rows have left since
        self._admitted = self._expired = self._evicted = 0
        self.full_at: int | None = None
        self._bound = self._places  # slots that the next push may take

    def __len__(self) -> int:
        return self._rows - self._spare - self._old

    @property
    def places_left(self) -> int:
        """How many rows can still be made before a push is refused; with `max_rows` there are always some."""
        return self._places if self.spec.bounds.max_rows else self._places - self._rows + self._spare

    @property
    def bytes(self) -> int:
        """What the rows take, of memory, with what is known of those that wait to be made."""
        candidates = 0 if self._candidates is None else CANDIDATES_BYTES
        return super().bytes + 2 * self._rows + 8 * self._spare + candidates

    def counts(self) -> Counts:
        """Return how many rows there are, what became of others, and what memory they take."""
        waiting = 0 if self._candidates is None else self._candidates.waiting
        return replace(
            super().counts(), admitted=self._admitted, waiting=waiting, expired=self._expired, evicted=self._evicted
        )

    def missing(self, keys: Keys) -> int:
        """Return 0: a pull makes no row."""
        return 0

    def make(self, keys: Keys) -> None:
        """See to it that a push finds room for the rows it may make; which these are is known when it is applied.

        Raises:
            TableError: there is none.
        """
        # Where there are as many rows as may be, old ones make room: their memory is there.
        needed = min(self._index.find(keys, self._ids)[1], self._most - len(self) - self._old) - self._spare
        if needed > self._paid:
            self._take((needed - self._paid) * row_bytes(self.spec))
            self._paid = needed

    def pull(self, keys: Keys) -> Values:
        """Return rows float32[U, dim]; where an id has none, its start, or the shared one if rows wait to be made."""
        slots, _ = self._index.find(keys, self._ids)
        if self._old:  # they are not dropped here: the order in which slots get free decides which rows leave later
            slots[(slots >= 0) & (self._age[slots] > self._expires)] = -1
        there = slots >= 0
        if there.all():
            return self._read(slots)
        out = rowless(self.spec, keys)
        out[there] = self._read(slots[there])
        return out

    def bound(self, slots: int) -> None:
        """Let the next push find no room for more rows than another did, as that one's `full_at` says."""
        self._bound = slots

    def push(self, keys: Keys, values: Values, rate: float = 1.0) -> None:
        """Apply the rule to the rows that there are, or that this push makes; see `SparseTable.push`.

        Raises:
            TableError: the values are not one row a key.
        """
        self._check_shape(keys, values, self.spec.dim)
        self.full_at, slots = None, self._find(keys)
        there = slots >= 0
        self._age[slots[there]] = 0
        use(self._marks, slots[there])
        if not there.all():
            new = self._admit(keys[~there], slots[there])
            slots[~there] = new
            there = slots >= 0
            slots, values = slots[there], np.ascontiguousarray(values[there])
        self._bound = self._places
        self._change(slots, values, rate)
        if self._old:
            self._take_back(max(SWEPT, len(keys)))

    def end_epoch(self) -> None:
        """Let all rows grow an epoch older; those that are too old count as gone from now on."""
        if self.spec.bounds.expire_after:
            expired = grow_old(self._age[: self._rows], self._expires)
            self._old, self._expired = self._old + expired, self._expired + expired

    def still(self) -> StillRows:
        """Freeze the table as it is now, to be read in the order of its keys; rows have marks, see the class."""
        still, rows = super().still(), self._rows
        ids, age, marks, left = (
            self._ids[:rows].copy(),
            self._age[:rows].copy(),
            self._marks[:rows].copy(),
            [*self._left],
        )
        expires = self._expires

        def gone() -> Keys:
            """Return the ids in the last save that have no row any more."""
            return np.concatenate([NO_KEYS, *left, ids[(age > expires) & (marks & SAVED > 0)]])

        still.ids, still.there, still.marks, still.gone = ids, age <= expires, (age, marks & USES), gone
        still.waiting = self._candidates.frozen() if self._candidates is not None else None
        return still

    def waiting(self) -> Keys:
        """Return the ids that wait for a row, with their pushes so far, int64[n, 2]."""
        return np.empty((0, 2), np.int64) if self._candidates is None else self._candidates.export()

    def mark_saved(self) -> None:
        """Count all rows as saved."""
        super().mark_saved()
        self._left = []
        marks, there = self._marks[: self._rows], self._age[: self._rows] <= self._expires
        np.bitwise_and(marks, ~np.uint8(SAVED), out=marks)
        marks |= there.view(np.uint8) * np.uint8(SAVED)

    def load(self, keys: Keys, block: Values, steps: int) -> None:
        """Take over rows with their state and marks, as `export` gave them; of too many, those that were used last and most.

        Raises:
            TableError: there is no room for the rows, or they are of another width.
        """
        self._check_shape(keys, block, self._width + 1)
        marks = block.view(np.uint32)[:, -1]
        if len(keys) > self._most:
            kept = np.sort(np.lexsort((-(marks >> 8).astype(np.int64), marks & 0xFF))[: self._most])
            keys, block, marks = keys[kept], block[kept], marks[kept]
        super().load(keys, np.ascontiguousarray(block[:, :-1]), steps)
        slots, _ = self._index.find(keys, self._ids)
        self._age[slots], self._marks[slots] = np.minimum(marks & 0xFF, self._expires), marks >> 8 & USES

    def load_waiting(self, waiting: Keys) -> None:
        """Take over ids that wait for a row, as `waiting` gave them."""
        if self._candidates is not None:
            self._candidates.load(waiting)

    def frozen(self) -> Iterator[Part]:
        """Freeze the table as it is now; see `SparseTable`."""
        rows, free, left = super().frozen(), self._watched_free.freeze(self._spare), list(self._left)
        waiting = self._candidates.frozen() if self._candidates is not None else iter(())

        def parts() -> Iterator[Part]:
            yield from rows
            for first, slots in free.pieces():
                yield Part(self.spec.name, {"free": first}, slots)
            yield from (Part(self.spec.name, {"left": len(keys)}, (keys,)) for keys in left)
            yield from (Part(self.spec.name, {"waiting": len(ids)}, (ids,)) for ids in waiting)

        return parts()

    def lay(self, facts: Facts, arrays: tuple[Array, ...]) -> None:
        """Put the next part of a frozen table in its place here; see `SparseTable`."""
        match facts:
            case {"free": first}:
                self._free[int(first) : int(first) + len(arrays[0])] = arrays[0]
            case {"left": _}:
                self._left.append(arrays[0].copy())
            case {"waiting": _}:
                self.load_waiting(arrays[0])
            case {"first": _}:
                super().lay(facts, arrays)
            case _:
                super().lay(facts, arrays)
                for name in KEPT:
                    setattr(self, name, int(facts[name]))

    def _facts(self) -> Facts:
        return super()._facts() | {name: getattr(self, name) for name in KEPT}

    def _marks_now(self) -> tuple[Array, ...]:
        return (*super()._marks_now(), self._age[: self._rows].copy(), self._marks[: self._rows].copy())

    def _lay_marks(self, slots: slice, marks: list[Array]) -> None:
        self._state[slots], self._age[slots], self._marks[slots] = marks
        there = slots.start + np.flatnonzero(self._age[slots] < GONE)
        self._index.insert(self._ids[there], there)

    def _find(self, keys: Keys) -> Keys:
        """Return slots int64[U], -1 where there is no row, or none any more, whose slot is free now."""
        slots, _ = self._index.find(keys, self._ids)
        if self._old:
            old = slots[slots >= 0]
            old = old[self._age[old] > self._expires]
            if len(old):
                self._old -= len(old)
                self._drop(old)
                slots, _ = self._index.find(keys, self._ids)
        return slots

    def _admit(self, keys: Keys, present: Keys) -> Keys:
        """Return the slots of keys without a row, -1 for those that get none yet; no row at `present` makes room."""
        slots, admitted = np.full(len(keys), -1), np.ones(len(keys), np.bool_)
        if self._candidates is not None:
            admitted = self._candidates.push(keys)
        made = self._make(keys[admitted], present)
        slots[np.flatnonzero(admitted)[: len(made)]] = made
        self._admitted += len(made) if self._candidates is not None else 0
        return slots

    def _make(self, keys: Keys, present: Keys) -> Keys:
        """Make rows, the first of these for which there is room; return their slots."""
        short = len(self) + self._old + len(keys) - self._most
        if short > 0:
            self._marks[present] |= PINNED
            self._evict(short)
            self._marks[present] &= ~np.uint8(PINNED)
        keys = keys[: max(self._most - len(self) - self._old, 0)]
        again = min(self._spare, len(keys))
        fresh = self._pay(len(keys) - again)
        keys = keys[: again + fresh]
        slots = np.concatenate(
            [self._free[self._spare - again : self._spare], np.arange(self._rows, self._rows + fresh)]
        )
        self._spare, self._rows, self._made = self._spare - again, self._rows + fresh, self._made + len(keys)
        self._watched.keep(slots[:again])
        self._block[slots[:again]] = 0
        self._block[slots, : self.spec.dim] = initial_rows(self.spec, keys)
        self._ids[slots], self._age[slots], self._marks[slots] = keys, 0, 0
        self._index.insert(keys, slots)
        return slots

    def _pay(self, rows: int) -> int:
        """Take memory for new rows; return for how many there is some."""
        rows = min(rows, self._bound - self._rows)
        try:
            self._take(max(rows - self._paid, 0) * row_bytes(self.spec))
        except TableError:  # a push is applied whole: its rows wait until there is room
            rows = min(rows, self._paid)
            self.full_at = self._rows + rows
        self._paid -= min(rows, self._paid)
        return rows

    def _evict(self, rows: int) -> None:
        out = np.empty(rows, np.int64)
        found, self._hand = evict(self._age[: self._rows], self._marks, self._hand, self._expires, out)
        old = self._age[out[:found]] > self._expires
        self._old -= int(old.sum())
        self._evicted += int(found - old.sum())
        self._drop(out[:found])

    def _take_back(self, rows: int) -> None:
        """Look at some rows for those that have expired, and free their slots."""
        first, end = self._sweep, min(self._sweep + rows, self._rows)
        age = self._age[first:end]
        old = first + np.flatnonzero((age > self._expires) & (age < GONE))
        self._sweep = end if end < self._rows else 0
        self._old -= len(old)
        self._drop(old)

    def _drop(self, slots: Keys) -> None:
        """Free the slots of rows that leave."""
        keys = self._ids[slots]
        self._index.remove(keys, self._ids)
        if len(saved := keys[self._marks[slots] & SAVED > 0]):
            self._left.append(saved)
        self._age[slots], self._state[slots], self._marks[slots] = GONE, 0, 0
        self._watched_free.keep(np.arange(self._spare, self._spare + len(slots)))
        self._free[self._spare : self._spare + len(slots)] = slots
        self._spare += len(slots)


@compiled(types.void(_u1w, _i8w))
def use(marks, slots):  # type: ignore[no-untyped-def]
    """Count a use of rows, up to USES."""
    for i in range(len(slots)):
        marks[slots[i]] += (marks[slots[i]] & USES) < USES


@compiled(types.int64(_u1w, types.int64))
def grow_old(age, expires):  # type: ignore[no-untyped-def]
    """Let rows grow an epoch older; return how many become too old by it."""
    expired = 0
    for i in range(len(age)):
        expired += age[i] == expires
        age[i] += age[i] < OLDEST
    return expired


@compiled(types.UniTuple(types.int64, 2)(_u1w, _u1w, types.int64, types.int64, _i8w))
def evict(age, marks, hand, expires, out):  # type: ignore[no-untyped-def]
    """Find rows that leave, as many as `out` has room for; return how many there are, and where the hand stands then."""
    rows, found, seen = len(age), 0, 0
    while seen < rows:
        stretch = min(STRETCH * len(out), rows - seen)
        for lap in range(USES + 1):
            for k in range(stretch):
                slot = (hand + k) % rows
                if age[slot] == GONE or marks[slot] & PINNED:
                    continue
                if marks[slot] & USES and age[slot] <= expires:
                    marks[slot] -= 1
                    continue
                out[found], marks[slot] = slot, marks[slot] | PINNED  # so that no lap finds it again
                found += 1
                if found == len(out):
                    return found, (hand + (stretch if lap else k + 1)) % rows
        hand, seen = (hand + stretch) % rows, seen + stretch
    return found, hand
