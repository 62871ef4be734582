"""Rows by id: made when first asked for, any int64 id, growing without a stop.

Rows stand in one block of virtual memory reserved at the start and touched as it fills, so growth never copies them. A
row's slot is its place there, in the order in which rows were made; it never changes, and no row is ever removed.
The index from id to slot grows in small steps (`index`), so no single push waits long.

Under the rule `adam` a row that is not pushed goes on moving by its momentum. That is made up for when it is next pushed,
or when all are settled (`rules.settle`), so that a push costs what it touches. Whoever reads rows settles what is read, and
leaves the rows: rounding makes it count when one is settled, and a table follows from what is done to it, not from who looks.
So a row that was pulled and never pushed is kept, as it may be asked for again, but is neither counted nor saved: what has
no row starts the same wherever it is looked up.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.table import kernels, rules
from fedps.table.index import INDEX_BYTES, Index, reserve
from fedps.table.moment import Array, Facts, Part, Watched
from fedps.table.still import StillRows, whole
from fedps.types import NO_KEYS, RULES, Counts, Keys, TableSpec, Values

RESERVED_ROWS, RESERVED_BYTES = 1 << 24, 1 << 35  # of a table: the most rows that address space is reserved for
ID_BYTES = 9  # of a row: its id, and which of these it is
SAME, CHANGED, UNTRAINED = 0, 1, 2  # as in the last save; pushed, or given, since; never


def unbounded(size: int) -> None:
    """Let rows be made as long as the system has memory; `size`: bytes."""


def row_bytes(spec: TableSpec) -> int:
    """Return the memory that a row of a sparse table takes, about: its floats, its id, and its place in the index."""
    return 4 * rules.width(spec.rule, spec.dim) + 24


def reserved_bytes(spec: TableSpec) -> int:
    """Return the address space that a row of a sparse table takes, at most."""
    return 4 * rules.width(spec.rule, spec.dim) + ID_BYTES + INDEX_BYTES


def places(spec: TableSpec) -> int:
    """Return for how many rows of a sparse table address space is reserved: all that it can have, or very many."""
    most = max(RESERVED_ROWS, RESERVED_BYTES // reserved_bytes(spec))
    return min([most, *(rows for rows in (spec.shape[0], spec.bounds.max_rows) if rows)])


class SparseTable:
    """Rows of float32 by id, each with its optimizer state beside it.

    Args:
        spec: the table.
        take: called with the bytes of new rows before they are made; it raises TableError where there is no room for them.

    Attributes:
        fresh: ids of the rows that the last push was the first to change.

    Raises:
        TableError: the system gives no room for so many rows, or the rule's constants do not work.
    """

    def __init__(self, spec: TableSpec, take: Callable[[int], None] = unbounded) -> None:
        self.spec, self.steps, self.fresh = spec, 0, NO_KEYS
        self._places, self._take = places(spec), take
        self._width = rules.width(spec.rule, spec.dim)
        self._index = Index(self._places)
        self._block: Values = reserve(self._places * self._width, np.dtype(np.float32)).reshape(-1, self._width)
        self._ids: Keys = reserve(self._places, np.dtype(np.int64))
        self._state: NDArray[np.uint8] = reserve(
            self._places, np.dtype(np.uint8)
        )  # of each row: SAME, CHANGED, UNTRAINED
        self._watched = Watched(self._ids, self._block)
        self._rows = self._made = 0
        rule = spec.rule
        self._settles = rule.name == "adam"
        self._tail = rules.momentum_tail(rule.beta1, rule.beta2) if self._settles else np.zeros(1)
        self._powers = kernels.adam_powers(rule.beta1, rule.beta2) if self._settles else np.zeros((3, 1))
        self._rule = RULES.index(rule.name)
        self._constants = kernels.constants(rule)

    def __len__(self) -> int:
        return self._rows

    @property
    def places_left(self) -> int:
        """How many rows can still be made before a push is refused."""
        return self._places - self._rows

    @property
    def bytes(self) -> int:
        """Memory that the rows take."""
        return self._rows * (4 * self._width + ID_BYTES) + self._index.bytes

    def counts(self) -> Counts:
        """Return how many rows there are, what became of others, and what memory they take."""
        untrained = int(np.count_nonzero(self._state[: self._rows] == UNTRAINED))
        return Counts(rows=len(self) - untrained, made=self._made - untrained, bytes=self.bytes)

    def end_epoch(self) -> None:
        """Do nothing: rows of a table without bounds do not grow old."""

    @property
    def rate(self) -> float:
        """The learning rate of the last push."""
        return float(self._constants[kernels.LEARNING_RATE])

    def missing(self, keys: Keys) -> int:
        """Return how many rows a pull of these keys would make."""
        return self._index.find(keys, self._ids)[1]

    def untrained(self, keys: Keys) -> int:
        """Return how many of some rows no push has changed yet, those that are not there among them."""
        slots, missing = self._index.find(keys, self._ids)
        return missing + int(np.count_nonzero(self._state[slots[slots >= 0]] == UNTRAINED))

    def seed(self, keys: Keys, rows: Values) -> bool:
        """Make those of some rows that are new, with the start that is given, float32[U, dim]; the next save has them.

        Returns:
            Whether any were.

        Raises:
            TableError: there is no room for them, or they are of another width.
        """
        self._check_shape(keys, rows, self.spec.dim)
        new = self._index.find(keys, self._ids)[0] < 0
        slots = self._slots_of(keys[new], started=False)
        self._block[slots, : self.spec.dim] = rows[new]
        self._state[slots] = CHANGED
        return bool(len(slots))

    def make(self, keys: Keys) -> None:
        """Make the rows that are new.

        Raises:
            TableError: there is no room for them.
        """
        self._slots_of(keys)

    def pull(self, keys: Keys) -> Values:
        """Return rows float32[U, dim], making those that are new.

        Raises:
            TableError: there is no room for the new rows.
        """
        return self._read(self._slots_of(keys))

    def _read(self, slots: Keys) -> Values:
        out = np.empty((len(slots), self.spec.dim), np.float32)
        if self._settles:
            kernels.gather_adam(self._block, slots, self._constants, self._tail, self._powers, self.steps, out)
        else:
            kernels.gather(self._block, slots, out)
        return out

    def push(self, keys: Keys, values: Values, rate: float = 1.0) -> None:
        """Apply the rule to rows.

        Args:
            keys: int64[U].
            values: float32[U, dim].
            rate: the share of the rule's learning rate to take. Rows that are still to settle do so at it, too.

        Raises:
            TableError: there is no room for the new rows, or the values are not one row a key.
        """
        self._check_shape(keys, values, self.spec.dim)
        self._change(self._slots_of(keys), values, rate)

    def _change(self, slots: Keys, values: Values, rate: float) -> None:
        self._watched.keep(slots)
        self.steps += 1
        self.fresh = self._ids[slots[self._state[slots] == UNTRAINED]]
        self._state[slots] = CHANGED
        self._constants[kernels.LEARNING_RATE] = rate * self.spec.rule.learning_rate
        self._settle(slots, self.steps - 1)  # up to the step before this one, which `change` then takes
        kernels.change(self._block, slots, values, self._constants, self._rule, self.steps)

    def export(self, changed: bool = False) -> tuple[Keys, Values]:
        """Return keys, sorted, and their rows with state as they are now, float32[n, width], copies.

        Args:
            changed: only rows pushed since `mark_saved`; the others are as they were saved, but for momentum that
                `rules.settle` brings up to `steps`.
        """
        return whole(self.still(), changed)

    def still(self) -> StillRows:
        """Freeze the table as it is now, to be read in the order of its keys."""
        rows, constants, steps = self._rows, self._constants.copy(), self.steps

        def settle(block: Values) -> None:
            if self._settles:
                kernels.settle_adam(block, np.arange(len(block)), constants, self._tail, self._powers, steps)

        state = self._state[:rows]
        still = StillRows(self.spec, self._ids[:rows], state == CHANGED, self._watched.freeze(rows), settle)
        still.there = state != UNTRAINED
        return still

    def settle(self) -> None:
        """Bring all rows up to date where the rule moves them without a push."""
        slots = np.arange(self._rows if self._settles else 0)
        self._watched.keep(slots)
        self._settle(slots, self.steps)

    def frozen(self) -> Iterator[Part]:
        """Freeze the table as it is now; yield all of it, piece by piece, for `lay`."""
        facts, moment, marks = self._facts(), self._watched.freeze(self._rows), self._marks_now()

        def parts() -> Iterator[Part]:
            yield Part(self.spec.name, facts)
            for first, arrays in moment.pieces():
                few = [m[first : first + len(arrays[0])] for m in marks]
                yield Part(self.spec.name, {"first": first}, (*arrays, *few))

        return parts()

    def lay(self, facts: Facts, arrays: tuple[Array, ...]) -> None:
        """Put the next part of a frozen table in its place here, where nothing else is done before all are.

        Raises:
            TableError: it does not fit this table, or there is no room for the rows.
        """
        if "first" not in facts:
            self.steps, self._made = int(facts["steps"]), int(facts["made"])
            self._constants[kernels.LEARNING_RATE] = facts["rate"]
            return
        ids, block, *marks = arrays
        first, end = self._rows, self._rows + len(ids)
        self._check_shape(ids, block, self._width)
        if facts["first"] != first or end > self._places:
            raise TableError(f"table {self.spec.name!r}: rows from {facts['first']} on do not fit behind {first}")
        self._take(len(ids) * row_bytes(self.spec))
        self._ids[first:end], self._block[first:end], self._rows = ids, block, end
        self._lay_marks(slice(first, end), marks)

    def _facts(self) -> Facts:
        """Return what `lay` needs to know of the table but for its rows."""
        return {"steps": self.steps, "rate": self.rate, "made": self._made}

    def _marks_now(self) -> tuple[Array, ...]:
        """Return what is kept beside each row, uint8[rows] each, copies: a byte a row is copied at once."""
        return (self._state[: self._rows].copy(),)

    def _lay_marks(self, slots: slice, marks: list[Array]) -> None:
        self._state[slots] = marks[0]
        self._index.insert(self._ids[slots], np.arange(slots.start, slots.stop))

    def mark_saved(self) -> None:
        """Count all rows as saved."""
        state = self._state[: self._rows]
        state[state == CHANGED] = SAME

    def load(self, keys: Keys, block: Values, steps: int) -> None:
        """Take over rows with their state, as `export` gave them.

        Raises:
            TableError: there is no room for the rows, or they are of another width.
        """
        self._check_shape(keys, block, self._width)
        slots = self._slots_of(keys, started=False)
        self._watched.keep(slots)
        self._block[slots], self._state[slots] = block, SAME
        self.steps, self._made = steps, 0

    def _check_shape(self, keys: Keys, rows: Values, floats: int) -> None:
        due = (len(keys), floats)
        if rows.shape != due:  # compiled loops check no bounds: a wrong width would overwrite other rows
            raise TableError(f"table {self.spec.name!r}: rows have shape {rows.shape}, but {due} is due")

    def _settle(self, slots: Keys, step: int) -> None:
        if self._settles:
            kernels.settle_adam(self._block, slots, self._constants, self._tail, self._powers, step)

    def _slots_of(self, keys: Keys, started: bool = True) -> Keys:
        """Return the rows' slots, making those that are new; `started` puts their start in, else they are zeros."""
        slots, missing = self._index.find(keys, self._ids)
        if missing:
            if self._rows + missing > self._places:
                raise TableError(
                    f"table {self.spec.name!r}: {self._rows} rows and {missing} new ones pass the limit of {self._places}"
                )
            if started and self.spec.init.kind == "given":
                raise TableError(
                    f"table {self.spec.name!r} lacks {missing} of these rows: their start is to be given first"
                )
            self._take(missing * row_bytes(self.spec))
            new = keys[slots < 0]
            made = np.arange(self._rows, self._rows + missing)
            rows = slice(self._rows, self._rows + missing)
            if started:
                self._block[rows, : self.spec.dim] = rules.initial_rows(self.spec, new)
            self._ids[rows], self._state[rows] = new, UNTRAINED
            self._index.insert(new, made)
            self._rows, self._made = self._rows + missing, self._made + missing
            slots[slots < 0] = made
        return slots
