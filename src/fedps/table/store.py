"""The named tables of one server."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from fedps.errors import TableError
from fedps.table import rules
from fedps.table.admission import CANDIDATES_BYTES
from fedps.table.bounded import BoundedTable
from fedps.table.dense import DenseTable
from fedps.table.moment import Part
from fedps.table.sparse import SparseTable, unbounded
from fedps.table.still import Still
from fedps.types import MAX_FLOATS, MOST_BOUNDS, NO_KEYS, Bounds, Counts, Keys, TableName, TableSpec, Values


class Store:
    """Tables by name, made when a worker declares them.

    Args:
        take: called with the bytes that new rows or tensors will take, before they are made; it raises TableError where
            there is no room for them. By default there always is.
        shards: how many servers share the rows of each table.
    """

    def __init__(self, take: Callable[[int], None] = unbounded, shards: int = 1) -> None:
        self._take, self._shards = take, shards
        self._tables: dict[TableName, SparseTable | DenseTable] = {}

    def declare(self, specs: Iterable[TableSpec]) -> None:
        """Make the tables that are not there; the others must be declared the same again.

        Raises:
            TableError: a table is there with another shape, rule, start or seed, a spec makes no table, or tensors find no
                room.
        """
        specs = list(specs)
        for spec in specs:
            if fault := unfit(spec):
                raise TableError(f"table {spec.name!r}: {fault}")
            if spec.name in self._tables and self._tables[spec.name].spec != spec:
                raise TableError(
                    f"table {spec.name!r} is {self._tables[spec.name].spec} here, not {spec}: another job's model?"
                )
        new = [spec for spec in specs if spec.name not in self._tables]
        self._take(first_bytes(new))
        for spec in new:
            self._tables[spec.name] = self._make(spec)

    def _make(self, spec: TableSpec) -> SparseTable | DenseTable:
        if spec.kind == "dense":
            return DenseTable(spec)
        return BoundedTable(spec, self._take, self._shards) if spec.bounded else SparseTable(spec, self._take)

    def names(self) -> list[TableName]:
        """Return the tables' names in order of declaration."""
        return list(self._tables)

    def spec(self, name: TableName) -> TableSpec:
        """Return a table's spec. Raises TableError for an unknown name."""
        return self._table(name).spec

    def seed(self, name: TableName, values: Values, first: int = 0) -> bool:
        """Set the start of a dense tensor's floats from `first` on, float32[1, n]; of each the first offer stays.

        Returns:
            Whether any had none before.

        Raises:
            TableError: no such table, not a dense one, floats that it has not or that leave a gap, or not finite.
        """
        table = self._table(name)
        if not isinstance(table, DenseTable) or not np.isfinite(values).all():
            raise TableError(f"table {name!r}: a start of shape {values.shape} does not fit {table.spec}")
        return table.seed(values, first)

    def seed_rows(self, name: TableName, keys: Keys, rows: Values) -> bool:
        """Set the start of rows of a table whose start is given, float32[U, dim]; of each row the first offer stays.

        Returns:
            Whether any had none before.

        Raises:
            TableError: no such table, one that makes its rows itself, rows of another width, or no room for them.
        """
        table = self._table(name)
        if not isinstance(table, SparseTable) or table.spec.init.kind != "given":
            raise TableError(f"table {name!r}: starts of {len(rows)} rows do not fit {table.spec}")
        return table.seed(keys, rows)

    def seeded(self, name: TableName) -> bool:
        """Whether a tensor has its start; rows have one when they are made."""
        table = self._table(name)
        return not isinstance(table, DenseTable) or table.seeded

    def pull(self, name: TableName, keys: Keys) -> Values:
        """Return rows, float32[U, dim] (dense: the floats that the keys name, float32[1, n])."""
        return self._table(name).pull(keys)

    def missing(self, name: TableName, keys: Keys) -> int:
        """Return how many rows of a table a pull of these keys would make."""
        return self._table(name).missing(keys)

    def untrained(self, name: TableName, keys: Keys) -> int:
        """Return how many of some rows no push has changed yet; 0 of a tensor."""
        table = self._table(name)
        return table.untrained(keys) if isinstance(table, SparseTable) else 0

    def fresh(self, name: TableName) -> Keys:
        """Return the ids of the rows that a table's last push was the first to change; none of a tensor."""
        table = self._table(name)
        return table.fresh if isinstance(table, SparseTable) else NO_KEYS

    def make(self, name: TableName, keys: Keys) -> None:
        """Make the rows of a table that are new, so that a later push of these keys finds them there.

        Raises:
            TableError: there is no room for them.
        """
        self._table(name).make(keys)

    def push(self, name: TableName, keys: Keys, values: Values, rate: float = 1.0) -> None:
        """Apply the table's rule to rows (dense: to the whole tensor), at this share of its learning rate.

        Raises:
            TableError: no such table, no room for new rows, or values of another shape.
        """
        self._table(name).push(keys, values, rate)

    def full_at(self) -> dict[TableName, int]:
        """Return the tables whose last push found no room for all its rows, and at how many slots, for `bound`."""
        bounded = {name: table for name, table in self._tables.items() if isinstance(table, BoundedTable)}
        return {name: table.full_at for name, table in bounded.items() if table.full_at is not None}

    def bound(self, full_at: Mapping[TableName, int]) -> None:
        """Let the next push of each of these tables find no more room than another did that is done again."""
        for name, slots in full_at.items():
            if isinstance(table := self._table(name), BoundedTable):
                table.bound(slots)

    def export(self, changed: bool = False) -> dict[TableName, tuple[TableSpec, Keys, Values]]:
        """Return every table's spec, keys and rows with state, for saving.

        Args:
            changed: of sparse tables only the rows pushed since `mark_saved`.
        """
        return {name: (table.spec, *table.export(changed)) for name, table in self._tables.items()}

    def waiting(self) -> dict[TableName, Keys]:
        """Return the ids that wait for a row in each table that counts them, with their pushes, int64[n, 2]."""
        bounded = {name: table for name, table in self._tables.items() if isinstance(table, BoundedTable)}
        return {name: table.waiting() for name, table in bounded.items() if table.spec.bounds.admit_after > 1}

    def counts(self) -> dict[TableName, Counts]:
        """Return what there is to say of the rows of each sparse table."""
        return {name: table.counts() for name, table in self._tables.items() if isinstance(table, SparseTable)}

    @property
    def bytes(self) -> int:
        """What the rows of sparse tables take, of memory."""
        return sum(table.bytes for table in self._tables.values() if isinstance(table, SparseTable))

    def places_left(self, name: TableName) -> int:
        """Return how many rows of a sparse table can still be made before a push is refused."""
        table = self._table(name)
        return table.places_left if isinstance(table, SparseTable) else 0

    def end_epoch(self) -> None:
        """Let the rows of every table grow an epoch older."""
        for table in self._tables.values():
            if isinstance(table, SparseTable):
                table.end_epoch()

    def steps(self) -> dict[TableName, int]:
        """Return how many pushes each table has had."""
        return {name: table.steps for name, table in self._tables.items()}

    def rates(self) -> dict[TableName, float]:
        """Return the learning rate that each table took last: what is still owed to its rows is paid at it."""
        return {name: table.rate for name, table in self._tables.items()}

    def frozen(self) -> Iterator[Part]:
        """Freeze all tables as they are now; yield all of them, piece by piece, for `lay`.

        To freeze takes little time, and so does each piece. Pushes go on meanwhile: rows that they change are put aside
        first. All calls come from the thread that pushes. Who has enough just drops the iterator.
        """
        return chain.from_iterable([table.frozen() for table in self._tables.values()])

    def lay(self, part: Part) -> None:
        """Put the next part of frozen tables in its place in these, which are declared the same and new.

        Once all parts are laid in their order, this store goes on as the frozen one did, to the bit.

        Raises:
            TableError: no such table, the part does not fit it, or there is no room for the rows.
        """
        self._table(part.table).lay(part.facts, part.arrays)

    def still(self) -> list[Still]:
        """Freeze all tables as they are now, to be saved: as `frozen`, but each is read in the order of its keys."""
        return [table.still() for table in self._tables.values()]

    def settle(self) -> None:
        """Bring the rows of every table up to date, as an epoch's end does whether it is saved or not."""
        for table in self._tables.values():
            if isinstance(table, SparseTable):
                table.settle()

    def mark_saved(self) -> None:
        """Count all rows as saved."""
        for table in self._tables.values():
            table.mark_saved()

    def load(self, name: TableName, keys: Keys, block: Values, steps: int, waiting: Keys | None = None) -> None:
        """Take over a table's rows with their state (dense: the tensor), as `export` gave them, after `steps` pushes.

        `waiting`: ids that wait for a row, as `waiting` gave them.

        Raises:
            TableError: no such table, no room for the rows, or they are of another width.
        """
        table = self._table(name)
        table.load(keys, block, steps)
        if waiting is not None and isinstance(table, BoundedTable):
            table.load_waiting(waiting)

    def _table(self, name: TableName) -> SparseTable | DenseTable:
        try:
            return self._tables[name]
        except KeyError:
            raise TableError(f"no table {name!r} here; there are {', '.join(self._tables) or 'none'}") from None


def first_bytes(specs: Iterable[TableSpec]) -> int:
    """Return the bytes that some tables take before any row is made: tensors with their state, and counts of pushes."""
    specs = list(specs)
    dense = sum(4 * rules.width(spec.rule, spec.dim) for spec in specs if spec.kind == "dense")
    return dense + CANDIDATES_BYTES * sum(spec.bounds.admit_after > 1 for spec in specs)


def unfit(spec: TableSpec) -> str | None:
    """Say why no table can be made of a spec, or None; specs come from outside."""
    rule, floats = spec.rule, math.prod(spec.shape[spec.kind == "sparse" :])
    if not has_shape(spec):
        return f"shape {spec.shape} does not fit: sizes are at least 1, and a sparse table has two"
    if fault := _unfit_bounds(spec):
        return fault
    if floats > MAX_FLOATS:
        return f"shape {spec.shape} makes rows of {floats} floats, over the limit of {MAX_FLOATS}"
    shares = (rule.beta1, rule.beta2, rule.epsilon, rule.weight_decay)
    if not (all(0 <= share < 1 for share in shares) and 0 < rule.initial_g2 < math.inf):
        return f"{rule}: beta1, beta2, epsilon and weight_decay lie in [0, 1), initial_g2 is over 0"
    if not (0 < rule.learning_rate < math.inf and math.isfinite(spec.init.a) and math.isfinite(spec.init.b)):
        return f"{rule} from {spec.init}: learning_rate is over 0, and all are finite"
    return None


def has_shape(spec: TableSpec) -> bool:
    """Whether a spec has the shape of a tensor, or of rows: an open table declares 0 of them."""
    sizes = spec.shape[1:] if spec.kind == "sparse" and spec.shape[:1] == (0,) else spec.shape
    return all(n >= 1 for n in sizes) and (spec.kind == "dense" or len(spec.shape) == 2)


def _unfit_bounds(spec: TableSpec) -> str | None:
    bounds, least, most = spec.bounds, Bounds(), MOST_BOUNDS
    for name in Bounds.__struct_fields__:
        low, high = getattr(least, name), getattr(most, name)
        if not low <= getattr(bounds, name) <= high:
            return f"{bounds}: {name} lies in [{low}, {high}]"
    if spec.bounded and spec.kind == "dense":
        return f"{bounds}: a dense tensor has no rows that could leave"
    if spec.init.kind == "given" and (spec.bounded or spec.open):
        return f"rows that are given are counted, and stay: shape {spec.shape} and {bounds} do not fit"
    return None
