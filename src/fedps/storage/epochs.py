"""A saved epoch on disk, read back as one model, whatever number of servers wrote it.

`<model folder>/<epoch>/server-<k>` holds server k's part of every table; a manifest's facts say how many servers there
were. A save of mode `delta` holds only the rows changed since the save it names, and is read together with it; one of
mode `base` holds values without optimizer state, under the rule `add`, which has none. Clients' private tables lie in
`private/<client>/<epoch>/tables`, each client's on its own machine. `server.saving` and `client.fl_client` write these.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fedps.errors import DataError, JobError
from fedps.storage import snapshot
from fedps.table import rules
from fedps.table.init import initial_rows
from fedps.types import NO_KEYS, Keys, TableName, TableSpec, Values

CHUNK = 65_536  # rows started at once, which bounds what the start takes besides the table itself
PRIVATE = "tables"  # the name of a client's private save


class Saved(NamedTuple):
    """A table, or a part of one, as it stood when it was saved.

    Attributes:
        keys: int64[n], sorted and unique; empty for a dense tensor.
        block: float32[n, width], rows with their state, brought up to `steps` (dense: [1, width]).
        steps: pushes the table has had.
    """

    spec: TableSpec
    keys: Keys
    block: Values
    steps: int

    @property
    def values(self) -> Values:
        """float32[n, dim], without state."""
        return self.block[:, : self.spec.dim]


def epochs(folder: Path) -> list[int]:
    """Return the numbers of the epochs that have a folder here, whole or not."""
    return sorted(int(f.name) for f in folders(folder) if f.name.isdecimal())


def folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder, none if it is not there."""
    return (f for f in sorted(folder.glob("*")) if f.is_dir())


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of a saved epoch: epoch, shards, job, mode, run.

    Raises:
        DataError: `folder` holds no save, or its manifest is torn.
    """
    if not (folder / "server-0.json").is_file():
        there = epochs(folder)
        hint = (
            f"it holds epochs {', '.join(map(str, there))}: name one, e.g. {folder / str(there[-1])}" if there else ""
        )
        raise DataError(f"{folder}: is no saved epoch; {hint or 'name one that a run has saved, e.g. RUN_DIR/model/2'}")
    facts: dict[str, Any] = snapshot.load_facts(folder, "server-0")[0]
    if not isinstance(facts.get("shards"), int) or not 1 <= facts["shards"] <= 1 << 16:
        raise DataError(f"{folder / 'server-0.json'}: does not say of how many servers it is; use another epoch's save")
    return facts


def is_whole(folder: Path) -> bool:
    """Whether every server's part of an epoch is there.

    Raises:
        DataError: a manifest is torn.
    """
    if not (folder / "server-0.json").is_file():
        return False
    shards = read_facts(folder)["shards"]
    return all((folder / f"server-{k}.json").is_file() for k in range(shards))


def read_model(folder: Path, shard: int = 0, shards: int = 1) -> dict[TableName, Saved]:
    """Read a saved epoch: all dense tensors, and of the sparse tables the rows that one server keeps.

    Args:
        folder: `<model folder>/<epoch>`.
        shard: the rows with `key % shards == shard` are wanted.
        shards: into how many servers the rows are cut now; they may have been saved by any number.

    Raises:
        DataError: a file is missing, torn, or does not fit the others; it is named.
    """
    pieces: dict[TableName, list[Saved]] = {}
    saved_by = read_facts(folder)["shards"]
    for k in range(saved_by):
        for name, part in _chain(folder, k, saved_by).items():
            mine = part.keys % shards == shard
            cut = part if part.spec.kind == "dense" or mine.all() else _rows(part, mine)
            pieces.setdefault(name, []).append(cut)
    return {name: join(parts, folder) for name, parts in pieces.items()}


def read_private(folder: Path) -> dict[TableName, Saved]:
    """Read what a client saved for itself in one epoch. Raises DataError: missing, torn, or it does not fit."""
    tables, _ = snapshot.load(folder, PRIVATE)
    return {
        name: _settled(_fitting(folder, spec, keys, block), 0, None) for name, (spec, keys, block) in tables.items()
    }


def private_save(folder: Path, epoch: int) -> Path | None:
    """Return the folder of a client's newest private save up to an epoch: a client that was lost has no later one.

    Args:
        folder: `private/<client>`.
        epoch: counted from 1.
    """
    there = [e for e in epochs(folder) if e <= epoch and (folder / str(e) / f"{PRIVATE}.json").is_file()]
    return folder / str(there[-1]) if there else None


def join(parts: Iterable[Saved], folder: Path) -> Saved:
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
    return Saved(first.spec, keys[order], block[order], steps)


def tensor(saved: Saved) -> NDArray[np.float32]:
    """Return a whole parameter in its own shape; rows that nobody touched stand where they would have started."""
    spec = saved.spec
    if spec.kind == "dense":
        return np.ascontiguousarray(saved.values.reshape(spec.shape))
    whole = np.empty(spec.shape, np.float32)
    for start in range(0, spec.shape[0], CHUNK):
        keys = np.arange(start, min(start + CHUNK, spec.shape[0]))
        whole[keys] = initial_rows(spec, keys)
    whole[saved.keys] = saved.values
    return whole


def shape_misfit(spec: TableSpec, there: Mapping[TableName, Saved], folder: Path) -> str | None:
    """Say why a saved model cannot be this table's start, or None."""
    saved = there.get(spec.name)
    if saved is None:
        return f"{folder}: holds no table {spec.name}, of shape {_shape(spec)} in this job; it holds {_list(there)}"
    if (saved.spec.kind, saved.spec.shape) != (spec.kind, spec.shape):
        return (
            f"{folder}: {spec.name} has shape {_shape(saved.spec)} there and {_shape(spec)} in this job:"
            " is it the folder of another model?"
        )
    return None


def fit_state(saved: Saved, spec: TableSpec) -> tuple[Values, int]:
    """Return rows as a table with `spec` can take them over, float32[n, width], and its steps.

    Optimizer state goes along where both rules are of one name; else the values begin with none.
    """
    if saved.spec.rule.name == spec.rule.name:
        return saved.block, saved.steps
    block = np.zeros((len(saved.block), rules.width(spec.rule, spec.dim)), np.float32)
    block[:, : spec.dim] = saved.values
    return block, 0


def _chain(folder: Path, shard: int, shards: int) -> dict[TableName, Saved]:
    """Read one server's save, and those it builds on."""
    name = f"server-{shard}"
    tables, facts = snapshot.load(folder, name)
    _check_place(folder, name, facts, shard, shards)
    told = facts.get("steps")
    steps: dict[TableName, int] = told if isinstance(told, dict) else {}
    told = facts.get("rates")
    rates: dict[TableName, float] = told if isinstance(told, dict) else {}
    newest = {t: _fitting(folder, spec, keys, block) for t, (spec, keys, block) in tables.items()}
    layers, at, base = [newest], folder, facts.get("base")
    while base is not None:
        at, facts = _base(at, name, facts)
        tables, facts = snapshot.load(at, name)
        _check_place(at, name, facts, shard, shards)
        layers.append({t: _fitting(at, spec, keys, block) for t, (spec, keys, block) in tables.items()})
        base = facts.get("base")
    whole = {t: _laid([layer[t] for layer in layers if t in layer], folder) for t in newest}
    return {t: _settled(saved, steps.get(t, 0), rates.get(t)) for t, saved in whole.items()}


def _check_place(folder: Path, name: str, facts: Mapping[str, Any], shard: int, shards: int) -> None:
    if (facts.get("shard", shard), facts.get("shards")) != (shard, shards):
        raise DataError(
            f"{folder / name}.json: is the save of server {facts.get('shard')} of {facts.get('shards')}, where that of"
            f" server {shard} of {shards} is due: were files of two runs mixed? use another epoch's save"
        )


def _base(folder: Path, name: str, facts: Mapping[str, Any]) -> tuple[Path, dict[str, object]]:
    """Find the save that a delta builds on; return its folder and facts."""
    base, epoch = facts["base"], facts.get("epoch")
    before = base.get("epoch") if isinstance(base, dict) else None
    told = f"{folder / name}.json: holds only what changed since epoch {before}"
    if not isinstance(before, int) or not isinstance(epoch, int) or before >= epoch:
        raise DataError(f"{told}, which is not before it; use another epoch's save")
    at = folder.parent / str(before)
    if not (at / f"{name}.json").is_file():
        raise DataError(f"{told}, whose save {at / name}.json is gone: put it back, or use an epoch before it")
    found, check = snapshot.load_facts(at, name)
    if check != base.get("check"):
        raise DataError(
            f"{told}, but {at / name}.json was written again since, by another run; use another epoch's save"
        )
    return at, found


def _fitting(folder: Path, spec: TableSpec, keys: Any, block: Any) -> Saved:
    """Return a table as it was read, made sure that it is one: what the files say comes from outside."""
    rows = 1 if spec.kind == "dense" else len(keys)
    shape = (rows, rules.width(spec.rule, spec.dim))
    if block.shape != shape or block.dtype != np.float32 or keys.dtype != np.int64 or keys.ndim != 1:
        raise DataError(f"{folder}: the saved parts of {spec.name} do not fit together; use another run")
    if spec.kind == "dense":
        return Saved(spec, NO_KEYS, block, 0)
    if len(keys) and not (keys.min() >= 0 and keys.max() < spec.shape[0]):
        raise DataError(f"{folder}: {spec.name} has rows outside [0, {spec.shape[0]}); the save is not of this job")
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        raise DataError(f"{folder}: the rows of {spec.name} are not in order, or one comes twice; use another run")
    return Saved(spec, keys, block, 0)


def _laid(layers: list[Saved], folder: Path) -> Saved:
    """Lay saves of one table over each other, the newest first: of each row the newest counts."""
    newest = layers[0]
    if len(layers) == 1 or newest.spec.kind == "dense":
        return newest
    if any(layer.spec != newest.spec for layer in layers):
        raise DataError(f"{folder}: {newest.spec.name} was another table in the save it builds on; use another run")
    keys, at = np.unique(np.concatenate([layer.keys for layer in layers]), return_index=True)
    return Saved(newest.spec, keys, np.concatenate([layer.block for layer in layers])[at], 0)


def _settled(saved: Saved, steps: int, rate: float | None) -> Saved:
    """Bring rows up to the table's steps: what was saved earlier has its momentum still to come, at the table's last rate."""
    if saved.spec.rule.name != "adam":
        return saved._replace(steps=steps)
    last = rules.counters(saved.spec.rule, saved.block)
    steps, block = max(steps, int(last.max(initial=0))), saved.block  # a client does not write down its tables' steps
    if ((last > 0) & (last < steps)).any():
        block = np.array(block)
        rule = saved.spec.rule
        rules.settle(rule if rate is None else replace(rule, learning_rate=rate), block, steps)
    return saved._replace(block=block, steps=steps)


def _moved(saved: Saved, later: int) -> Values:
    """Return rows as if all pushes of their table had come `later` steps later: two servers may count differently."""
    if saved.spec.rule.name != "adam" or not later:
        return saved.block
    block = np.array(saved.block)
    counters = rules.counters(saved.spec.rule, block)
    counters[counters > 0] += later
    return block


def _rows(saved: Saved, which: NDArray[np.bool_]) -> Saved:
    return saved._replace(keys=saved.keys[which], block=saved.block[which])


def _shape(spec: TableSpec) -> str:
    return " × ".join(map(str, spec.shape))


def _list(tables: Mapping[TableName, Saved]) -> str:
    return ", ".join(f"{name} ({_shape(t.spec)})" for name, t in sorted(tables.items())) or "none"


def find_private(folder: Path) -> Path | None:
    """Return the folder of private tables that goes with a saved epoch: beside the model folder, or in its run's folder.

    Raises:
        DataError: `folder` is a saved epoch whose manifest is torn.
    """
    homes = [folder.parent.parent / "private"]
    if (folder / "server-0.json").is_file() and isinstance(run := read_facts(folder).get("run"), str):
        homes.append(Path(run) / "private")
    return next((home for home in homes if next(folders(home), None)), None)


def epoch_of(folder: Path) -> int:
    """Return the number of a saved epoch: the folder's name, or what its manifest says if it was renamed.

    Raises:
        DataError: `folder` holds no save.
    """
    if folder.name.isdecimal():
        return int(folder.name)
    epoch = read_facts(folder).get("epoch")
    if not isinstance(epoch, int):
        raise DataError(f"{folder / 'server-0.json'}: does not say of which epoch it is; use another epoch's save")
    return epoch
