"""A saved table: its rows as they stood, put together from parts, and fitted to where they are used."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fedps.errors import DataError, JobError
from fedps.table import rules
from fedps.types import GONE, NO_KEYS, Keys, TableName, TableSpec, Values

CHUNK = 65_536  # rows started at once, which bounds what the start takes besides the table itself


class SavedTable(NamedTuple):
    """A table, or a part of one, as it stood when it was saved.

    Attributes:
        keys: int64[n], sorted and unique; empty for a dense tensor.
        block: float32[n, width], rows with their state, brought up to `steps` (dense: [1, width]); of a bounded table with
            its column of marks (see `table.bounded`).
        steps: pushes the table has had.
        waiting: int64[n, 2], ids that wait for a row, with their pushes so far; None: none is known of.
    """

    spec: TableSpec
    keys: Keys
    block: Values
    steps: int
    waiting: Keys | None = None

    @property
    def rows(self) -> Values:
        """float32[n, width], with state and without marks: a view."""
        return self.block[:, : rules.width(self.spec.rule, self.spec.dim)]

    @property
    def values(self) -> Values:
        """float32[n, dim], without state."""
        return self.block[:, : self.spec.dim]


def checked(folder: Path, spec: TableSpec, keys: Any, block: Any) -> SavedTable:
    """Return a table as it was read, before `settled`; what the files say comes from outside.

    Raises:
        DataError: keys and rows make no table of this spec; names the folder.
    """
    rows = 1 if spec.kind == "dense" else len(keys)
    shape = (rows, rules.width(spec.rule, spec.dim) + spec.bounded)
    if block.shape != shape or block.dtype != np.float32 or keys.dtype != np.int64 or keys.ndim != 1:
        raise DataError(f"{folder}: the saved parts of {spec.name} do not fit together; use another run")
    if spec.kind == "dense":
        return SavedTable(spec, NO_KEYS, block, 0)
    if len(keys) and not (spec.open or (keys.min() >= 0 and keys.max() < spec.shape[0])):
        raise DataError(f"{folder}: {spec.name} has rows outside [0, {spec.shape[0]}); the save is not of this job")
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        raise DataError(f"{folder}: the rows of {spec.name} are not in order, or one comes twice; use another run")
    return SavedTable(spec, keys, block, 0)


def there(table: SavedTable) -> SavedTable:
    """Leave out the rows that a save of changes says have left."""
    if not table.spec.bounded:
        return table
    stay = table.block.view(np.uint32)[:, -1] & GONE != GONE
    return table if stay.all() else table._replace(keys=table.keys[stay], block=table.block[stay])


def settled(table: SavedTable, steps: int, rate: float | None) -> SavedTable:
    """Bring rows up to the table's steps: rows that were saved earlier still have momentum to come.

    Args:
        table: as `checked` gave it.
        steps: pushes it has had, 0 if that was not written down.
        rate: its last learning rate; None takes the rule's own.
    """
    if table.spec.rule.name != "adam":
        return table._replace(steps=steps)
    last = rules.counters(table.spec.rule, table.rows)
    steps, block = max(steps, int(last.max(initial=0))), table.block
    if ((last > 0) & (last < steps)).any():
        table = table._replace(block=np.array(block))
        rule = table.spec.rule
        rules.settle(rule if rate is None else replace(rule, learning_rate=rate), table.rows, steps)
    return table._replace(steps=steps)


def join(parts: Iterable[SavedTable], folder: Path) -> SavedTable:
    """Put parts of one table that hold different rows together.

    Args:
        parts: at least one.
        folder: where they come from, for messages.

    Raises:
        DataError: they are not of one table.
        JobError: two hold the same rows.
    """
    pieces = list(parts)
    first, steps = pieces[0], max(p.steps for p in pieces)
    name = first.spec.name
    if any(p.spec != first.spec for p in pieces):
        raise DataError(f"{folder}: the saved parts of {name} do not fit together; use another run")
    if len(pieces) == 1:
        return first
    keys = np.concatenate([p.keys for p in pieces])
    order = np.argsort(keys, kind="stable")
    if first.spec.kind == "dense" or (np.diff(keys[order]) == 0).any():
        raise JobError(
            f"{folder}: two clients or servers hold the same rows of {name}, so no one model"
            " has them both; export without private tables, or use each client's own files"
        )
    block = np.concatenate([_moved(p, steps - p.steps) for p in pieces])
    waiting = [p.waiting for p in pieces if p.waiting is not None]
    return SavedTable(first.spec, keys[order], block[order], steps, np.concatenate(waiting) if waiting else None)


def tensor(table: SavedTable) -> NDArray[np.float32]:
    """Return a whole parameter in its own shape; rows that nobody touched stand where they would have started.

    Of an open table these are the rows that there are, in the order of their ids.
    """
    spec = table.spec
    if spec.kind == "dense":
        return np.ascontiguousarray(table.values.reshape(spec.shape))
    if spec.open:
        return np.ascontiguousarray(table.values)
    whole = np.empty(spec.shape, np.float32)
    for start in range(0, spec.shape[0], CHUNK):
        keys = np.arange(start, min(start + CHUNK, spec.shape[0]))
        whole[keys] = rules.rowless(spec, keys)
    whole[table.keys] = table.values
    return whole


def fit_state(table: SavedTable, spec: TableSpec) -> tuple[Values, int]:
    """Return rows as a table with `spec` can take them over, float32[n, width], and its steps.

    Optimizer state goes along where both rules are of one name; else the values begin with none.
    """
    same = table.spec.rule.name == spec.rule.name
    if same and table.spec.bounded == spec.bounded:
        return table.block, table.steps
    width = rules.width(spec.rule, spec.dim)
    block = np.zeros((len(table.block), width + spec.bounded), np.float32)
    block[:, : width if same else spec.dim] = table.rows if same else table.values
    if table.spec.bounded and spec.bounded:
        block[:, -1] = table.block[:, -1]
    return block, table.steps if same else 0


def shape_misfit(spec: TableSpec, there: Mapping[TableName, SavedTable], folder: Path) -> str | None:
    """Say why a saved model cannot be this table's start, or None."""
    table = there.get(spec.name)
    if table is None:
        return f"{folder}: holds no table {spec.name}, of shape {_shape(spec)} in this job; it holds {_list(there)}"
    # Rows go by id, so that a table may have more of them than were saved; the others have nowhere to go.
    more = spec.kind == "sparse" and (spec.open or new_ids(spec, table) > 0)
    fits = table.spec.shape == spec.shape or (more and spec.shape[1:] == table.spec.shape[1:])
    if table.spec.kind != spec.kind or not fits:
        return (
            f"{folder}: {spec.name} has shape {_shape(table.spec)} there and {_shape(spec)} in this job:"
            " is it the folder of another model?"
        )
    return None


def new_ids(spec: TableSpec, table: SavedTable) -> int:
    """Return how many ids a table has beyond a saved one with rows of the same length; 0 if it has none."""
    return max(spec.shape[0] - table.spec.shape[0], 0) if spec.shape[1:] == table.spec.shape[1:] else 0


def said_of_new(folder: Path, new: Mapping[TableName, int]) -> str:
    """Say how many new ids start fresh beside rows that were taken over; empty if none do."""
    counts = ", ".join(f"{count} new ids of {name}" for name, count in new.items())
    return f"{folder}: rows are taken over by id; {counts} start fresh" if counts else ""


def _moved(table: SavedTable, later: int) -> Values:
    """Return rows as if all pushes of their table had come `later` steps later: two servers may count differently."""
    if table.spec.rule.name != "adam" or not later:
        return table.block
    table = table._replace(block=np.array(table.block))
    counters = rules.counters(table.spec.rule, table.rows)
    counters[counters > 0] += later
    return table.block


def _shape(spec: TableSpec) -> str:
    return " × ".join(["open" if spec.open else str(spec.shape[0]), *map(str, spec.shape[1:])])


def _list(tables: Mapping[TableName, SavedTable]) -> str:
    return ", ".join(f"{name} ({_shape(t.spec)})" for name, t in sorted(tables.items())) or "none"
