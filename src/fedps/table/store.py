"""The named tables of one server, and the checks that stand before them."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.table.dense import DenseTable
from fedps.table.sparse import SparseTable
from fedps.types import MAX_FLOATS, NO_KEYS, Keys, TableName, TableSpec, Values


class Store:
    """Tables by name, made when a worker declares them."""

    def __init__(self) -> None:
        self._tables: dict[TableName, SparseTable | DenseTable] = {}

    def declare(self, specs: Iterable[TableSpec]) -> None:
        """Make the tables that are not there; the others must be declared the same again.

        Raises:
            TableError: a table is there with another shape, rule, start or seed, or a spec makes no table.
        """
        specs = list(specs)
        for spec in specs:
            if fault := unfit(spec):
                raise TableError(f"table {spec.name!r}: {fault}")
            if spec.name in self._tables and self._tables[spec.name].spec != spec:
                raise TableError(
                    f"table {spec.name!r} is {self._tables[spec.name].spec} here, not {spec}: another job's model?"
                )
        for spec in specs:
            if spec.name not in self._tables:
                self._tables[spec.name] = SparseTable(spec) if spec.kind == "sparse" else DenseTable(spec)

    def names(self) -> list[TableName]:
        """Return the tables' names in order of declaration."""
        return list(self._tables)

    def spec(self, name: TableName) -> TableSpec:
        """Return a table's spec. Raises TableError for an unknown name."""
        return self._table(name).spec

    def seed(self, name: TableName, values: Values, first: int = 0) -> None:
        """Set the start of a dense tensor's floats from `first` on, float32[1, n]; of each the first offer stays.

        Raises:
            TableError: no such table, not a dense one, floats that it has not or that leave a gap, or not finite.
        """
        table = self._table(name)
        if not isinstance(table, DenseTable) or not np.isfinite(values).all():
            raise TableError(f"table {name!r}: a start of shape {values.shape} does not fit {table.spec}")
        table.seed(values, first)

    def pull(self, name: TableName, keys: Keys) -> Values:
        """Return rows, float32[U, dim] (dense: the floats that the keys name, float32[1, n])."""
        return self._table(name).pull(keys)

    def push(self, name: TableName, keys: Keys, values: Values, rate: float = 1.0) -> None:
        """Apply the table's rule to rows (dense: to the whole tensor), at this share of its learning rate."""
        table = self._table(name)
        if isinstance(table, SparseTable):
            table.push(keys, values, rate)
        else:
            table.push(values, rate)

    def export(self, changed: bool = False) -> dict[TableName, tuple[TableSpec, Keys, Values]]:
        """Return every table's spec, keys and rows with state, for saving.

        Args:
            changed: of sparse tables only the rows pushed since `mark_saved`.
        """
        saved = {}
        for name, table in self._tables.items():
            keys, block = table.export(changed) if isinstance(table, SparseTable) else (NO_KEYS, table.block.copy())
            saved[name] = (table.spec, keys, block)
        return saved

    def steps(self) -> dict[TableName, int]:
        """Return how many pushes each table has had."""
        return {name: table.steps for name, table in self._tables.items()}

    def rates(self) -> dict[TableName, float]:
        """Return the learning rate that each table took last: what is still owed to its rows is paid at it."""
        return {name: table.rate for name, table in self._tables.items()}

    def mark_saved(self) -> None:
        """Count all rows as saved."""
        for table in self._tables.values():
            if isinstance(table, SparseTable):
                table.mark_saved()

    def load(self, name: TableName, keys: Keys, block: Values, steps: int) -> None:
        """Take over a table's rows with their state (dense: the tensor), as `export` gave them, after `steps` pushes.

        Raises:
            TableError: no such table, no room for the rows, or they are of another width.
        """
        table = self._table(name)
        if isinstance(table, SparseTable):
            table.load(keys, block, steps)
        else:
            table.load(block, steps)

    def _table(self, name: TableName) -> SparseTable | DenseTable:
        try:
            return self._tables[name]
        except KeyError:
            raise TableError(f"no table {name!r} here; there are {', '.join(self._tables) or 'none'}") from None


def unfit(spec: TableSpec) -> str | None:
    """Say why no table can be made of a spec, or None; specs come from outside."""
    rule, floats = spec.rule, math.prod(spec.shape[spec.kind == "sparse" :])
    if (spec.kind == "sparse" and len(spec.shape) != 2) or any(n < 1 for n in spec.shape):
        return f"shape {spec.shape} does not fit: sizes are at least 1, and a sparse table has two"
    if floats > MAX_FLOATS:
        return f"shape {spec.shape} makes rows of {floats} floats, over the limit of {MAX_FLOATS}"
    shares = (rule.beta1, rule.beta2, rule.epsilon, rule.weight_decay)
    if not (all(0 <= share < 1 for share in shares) and 0 < rule.initial_g2 < math.inf):
        return f"{rule}: beta1, beta2, epsilon and weight_decay lie in [0, 1), initial_g2 is over 0"
    if not (0 < rule.learning_rate < math.inf and math.isfinite(spec.init.a) and math.isfinite(spec.init.b)):
        return f"{rule} from {spec.init}: learning_rate is over 0, and all are finite"
    return None


def refusal(
    spec: TableSpec, keys: NDArray[np.int64], values: Values | None, shard: int, shards: int
) -> tuple[str, str] | None:
    """Say why a pull or push of these arrays must be refused: (kind, reason), or None if all is well.

    Args:
        spec: the table.
        keys: int64[U]; must be sorted, unique, within [0, rows) and of this shard (dense: see `TableSpec.span`).
        values: float32[U, dim] of a push (dense: [1, n]), None for a pull; must be finite.
        shard: this shard's number.
        shards: how many there are; a row lives on shard `key % shards`.
    """
    if keys.ndim != 1 or (values is not None and values.ndim != 2):
        return "malformed", "keys have one dimension, values two"
    due = (len(keys), spec.dim)
    if spec.kind == "dense":
        if len(keys) not in (0, 2) or not 0 <= spec.span(keys)[0] < spec.span(keys)[1] <= spec.dim:
            return "bad_keys", f"of a tensor of {spec.dim} floats, keys are the first one meant and the end, or none"
        due = (1, spec.span(keys)[1] - spec.span(keys)[0])
    elif len(keys):
        if keys[0] < 0 or keys[-1] >= spec.shape[0]:
            return (
                "bad_keys",
                f"keys run from {keys[0]} to {keys[-1]}, but ids must lie in [0, {spec.shape[0]})",
            )
        if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
            return "bad_keys", "keys must be sorted and unique"
        if shards > 1 and (keys % shards != shard).any():
            return "bad_keys", f"a key is not of this shard: key % {shards} must be {shard}"
    if values is not None and values.shape != due:
        return "mismatch", f"values have shape {values.shape}, but {due} is due"
    if (
        values is not None
        and not np.isfinite(np.einsum("ij->", values, dtype=np.float64))
        and not np.isfinite(values).all()
    ):
        return "not_finite", "a NaN or an infinity is among the values"
    return None
