"""One server's part of a saved epoch: its record, and its tables, read together with the saves that it builds on.

A save of mode `delta` holds only the rows changed since the save that it names, by that one's check; one of mode `base`
holds values without optimizer state, under the rule `add`, which has none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from fedps.errors import DataError
from fedps.storage import snapshot
from fedps.storage.tables import SavedTable, checked, settled, there
from fedps.types import TableName

MOST_SHARDS = 1 << 16


class Base(msgspec.Struct, frozen=True):
    """The save that a delta builds on, of the same server in an earlier epoch."""

    epoch: int
    check: str


class Facts(msgspec.Struct, frozen=True):
    """What a server's record says of its save; fields with a default are not in every version's."""

    shards: Annotated[int, msgspec.Meta(ge=1, le=MOST_SHARDS)]  # how many servers keep the model
    epoch: int | None = None  # counted from 1
    shard: int | None = None  # the server's number
    job: str = ""
    mode: str = ""  # the job's `save_mode`
    run: str | None = None  # its folder, where to look for private tables if they are on this machine
    base: Base | None = None  # what this save builds on; None if it is whole
    steps: dict[TableName, int] = {}  # pushes that each table has had
    rates: dict[TableName, float] = {}  # the last learning rate of each: what is still owed to its rows is paid at it
    witnesses: tuple[str, ...] | None = None  # of the run: see `epochs`


class SavedShard(NamedTuple):
    """A server's save, known by its record: its tables are not read yet.

    Attributes:
        stem: the name of its two files, without ending.
        check: which no other save has.
    """

    folder: Path
    stem: str
    facts: Facts
    check: str

    @property
    def record(self) -> Path:
        """The file that says what it is."""
        return self.folder / f"{self.stem}.json"


def name_of(shard: int) -> str:
    """Return how the files of a server begin."""
    return f"server-{shard}"


def find_shards(folder: Path, shard: int) -> Iterator[SavedShard]:
    """Yield a server's saves in the folder of an epoch, the newest first.

    Raises:
        DataError: the next one's record is torn, or not of this server; it is named.
    """
    for stem in snapshot.stems(folder, name_of(shard)):
        told, check = snapshot.load_facts(folder, stem)
        try:
            facts = msgspec.convert(told, Facts)
        except msgspec.ValidationError as error:
            raise DataError(
                f"{folder / stem}.json: does not say rightly what it is a save of: {error}; use another epoch's save"
            ) from error
        if facts.shard not in (None, shard):
            raise DataError(
                f"{folder / stem}.json: is the save of server {facts.shard} of {facts.shards}, where that of server"
                f" {shard} of {facts.shards} is due: were files of two runs mixed? use another epoch's save"
            )
        yield SavedShard(folder, stem, facts, check)


def read_shard(shard: SavedShard) -> dict[TableName, SavedTable]:
    """Read one server's save, and those it builds on.

    Raises:
        DataError: a file is missing, torn, or does not fit the others; it is named.
    """
    newest, layers = _tables(shard), []
    for earlier in _bases(shard):
        layers.append(_tables(earlier))
    steps, rates, found = shard.facts.steps, shard.facts.rates, {}
    for name, table in newest.items():
        whole = _laid([table, *(layer[name] for layer in layers if name in layer)], shard.folder)
        found[name] = settled(whole, steps.get(name, 0), rates.get(name))
    for name, waiting in snapshot.load_waiting(shard.folder, shard.stem).items():
        if name not in found or waiting.ndim != 2 or waiting.shape[1] != 2 or waiting.dtype != np.int64:
            raise DataError(f"{shard.record}: the ids that wait in {name} do not fit it; use another epoch's save")
        found[name] = found[name]._replace(waiting=waiting)
    return found


def _bases(shard: SavedShard) -> Iterator[SavedShard]:
    """Yield the saves that a delta builds on, the newest first."""
    while (base := shard.facts.base) is not None:
        told = f"{shard.record}: holds only what changed since epoch {base.epoch}"
        if shard.facts.epoch is None or base.epoch >= shard.facts.epoch:
            raise DataError(f"{told}, which is not before it; use another epoch's save")
        at = shard.folder.parent / str(base.epoch)
        number = shard.facts.shard or 0
        there = list(find_shards(at, number))
        if not there:
            raise DataError(
                f"{told}, whose save {at / name_of(number)}.json is gone: put it back, or use an epoch before it"
            )
        found = next((s for s in there if s.check == base.check and s.facts.shards == shard.facts.shards), None)
        if found is None:
            raise DataError(
                f"{told}, but {there[0].record} was written again since, by another run; use another epoch's save"
            )
        yield (shard := found)


def _tables(shard: SavedShard) -> dict[TableName, SavedTable]:
    """Read what one save holds."""
    tables, _ = snapshot.load(shard.folder, shard.stem)
    return {name: checked(shard.folder, *table) for name, table in tables.items()}


def _laid(layers: list[SavedTable], folder: Path) -> SavedTable:
    """Lay saves of one table over each other, the newest first: of each row the newest counts."""
    newest = layers[0]
    if len(layers) == 1 or newest.spec.kind == "dense":
        return there(newest)
    if any(layer.spec != newest.spec for layer in layers):
        raise DataError(f"{folder}: {newest.spec.name} was another table in the save it builds on; use another run")
    keys, at = np.unique(np.concatenate([layer.keys for layer in layers]), return_index=True)
    return there(SavedTable(newest.spec, keys, np.concatenate([layer.block for layer in layers])[at], 0))
