"""Tables that the original has saved, as an epoch of ours: to start from, to infer with, to export.

`<folder>/<table id, 3 digits>/` holds a table: `part-<server>-<shard>[.gz]` of a sparse one, `part-<server>[.gz]` of the dense
one. A sparse line is a key and a feature's value: slot, unseen days, delta score, shows, clicks, the first float of the row,
its optimizer's state, and, once the row is whole, the other floats and their state (Paddle's SparseAccessor). A dense line is
one float, followed by its state; all dense parameters stand end to end, a linear layer's weight as [in, out].
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from fedps.config import Job
from fedps.errors import DataError, JobError
from fedps.storage import epochs
from fedps.storage.shards import Facts
from fedps.storage.whole import make_folder
from fedps.training.parameters import Parameters, read_parameters
from fedps.training.plan import make_plan
from fedps.types import NO_KEYS, Keys, Rule, TableName, TableSpec, Values

FIRST = 5  # of a sparse line's value: where the row's first float stands
PART = re.compile(r"part-\d{3}(?P<shard>-\d{5})?(\.gz)?")
EPOCH = 1  # what is written is one
Saved = dict[TableName, tuple[TableSpec, Keys, Values]]


class Table(NamedTuple):
    """A table's folder; `sparse`: it has rows by key."""

    folder: Path
    files: list[Path]
    sparse: bool


def import_original(
    job: Job, folder: Path, out: Path, named: Mapping[str, str] | None = None, dense: Sequence[str] = ()
) -> dict[str, str]:
    """Write `out/model/1` and `out/job.yaml`; optimizers begin with no state, and private tables, which it never saved, as they start.

    Args:
        job: whose network the tables are of.
        folder: one epoch that the original has saved, with folders 000, 001 and so on.
        out: made if absent; it may hold no epoch yet.
        named: by sparse folder the parameter it is of, e.g. {"001": "embedding_1.w_0"}; if None, in the network's order.
        dense: dense parameters in the order in which they stand in their file; by default the network's order.

    Returns:
        By parameter, what it was read from, in words.

    Raises:
        JobError: a name is no parameter's, a table is missing, or `out` cannot be used.
        DataError: a file is torn, or does not fit the network; names file and line.
    """
    network = make_plan(job).network
    parameters, shapes = read_parameters(network, job), dict(network.dense)
    tables = _find(folder)
    saved, told = Saved(), dict[str, str]()
    for name, table in _assigned(tables, parameters, named).items():
        spec = next(e.spec for e in parameters.embeddings if e.spec.name == name)
        keys, rows = _read_sparse(table, spec)
        saved[name] = replace(spec, rule=Rule("add"), seed=job.runner.seed), keys, rows
        told[name] = f"{table.folder}: {len(keys)} rows"
    flat = [table for table in tables if not table.sparse]
    if parameters.dense and len(flat) != 1:
        raise JobError(
            f"{folder}: holds {len(flat)} dense tables, and the network has one: {', '.join(parameters.dense)}"
        )
    order = [_real(parameters, name, parameters.dense) for name in dense] or list(parameters.dense)
    if missing := sorted(set(parameters.dense) - set(order)):
        raise JobError(f"--dense: {', '.join(missing)} is missing; name all: {', '.join(parameters.dense)}")
    linear = {own for alias, own in parameters.aliases.items() if re.fullmatch(r"linear_\d+\.w_0", alias)}
    for name, values in _cut(flat[0], {name: shapes[name] for name in order}, linear) if order else ():
        saved[name] = TableSpec(name, "dense", shapes[name], seed=job.runner.seed), NO_KEYS, values.reshape(1, -1)
        told[name] = f"{flat[0].folder}: {' × '.join(map(str, shapes[name]))}"
    _write(job, out, saved)
    return told


def _find(folder: Path) -> list[Table]:
    """Return the tables in a folder, by their numbers."""
    found = []
    for path in epochs.folders(folder):
        parts = {file: PART.fullmatch(file.name) for file in sorted(path.iterdir())}
        files = {file: part for file, part in parts.items() if part}
        if re.fullmatch(r"\d{3}", path.name) and files:
            found.append(Table(path, list(files), any(part["shard"] for part in files.values())))
    if not found:
        raise JobError(
            f"{folder}: holds no tables of the original's, which lie in folders 000, 001 and so on; name one saved epoch"
        )
    return found


def _assigned(
    tables: Sequence[Table], parameters: Parameters, named: Mapping[str, str] | None
) -> dict[TableName, Table]:
    """Return which sparse table is of which shared embedding."""
    sparse = {table.folder.name: table for table in tables if table.sparse}
    own = [e.spec.name for e in parameters.embeddings if not e.private]
    if named is None:
        if len(sparse) != len(own):
            raise JobError(
                f"the tables {', '.join(sparse) or 'none'} are sparse, and the network shares {', '.join(own) or 'none'}:"
                " say which is which by --table 001=NAME"
            )
        return dict(zip(own, sparse.values(), strict=True))
    if strange := sorted(set(named) - set(sparse)):
        raise JobError(f"--table {strange[0]}: there is no such sparse table; there are {', '.join(sparse)}")
    found = {_real(parameters, name, own): sparse[number] for number, name in named.items()}
    if missing := sorted(set(own) - set(found)):
        raise JobError(f"--table: which is {', '.join(missing)}? there are {', '.join(sparse)}")
    return found


def _real(parameters: Parameters, name: str, among: Sequence[str]) -> TableName:
    real = parameters.real_name(name)
    if real not in among:
        raise JobError(f"{name}: is none of the shared parameters {', '.join(among)}")
    return TableName(real)


def _read_sparse(table: Table, spec: TableSpec) -> tuple[Keys, Values]:
    """Return a table's rows, sorted by key; what a row had not grown to yet is 0, as the original gives it."""
    dim, keys, values = spec.dim, list[int](), list[Values]()
    states = {
        FIRST + dim: 0,
        FIRST + dim + 2: 1,
        FIRST + 2 * dim: 1,
        3 * dim + 9: 4,
    }  # of a first float: sgd, adagrads, adam
    begun = {FIRST + 1 + state for state in states.values()}
    for where, texts in _lines(table):
        key, value = _number(where, texts[0], np.uint64).astype(np.int64).item(), _number(where, texts[1:], np.float32)
        if value.size not in states and value.size not in begun:
            raise DataError(
                f"{where}: {value.size} numbers behind a key are no row of {dim} ({spec.name}): of another network?"
            )
        if not spec.open and not 0 <= key < spec.shape[0]:
            raise DataError(f"{where}: key {key} is outside [0, {spec.shape[0]}) of {spec.name}: of another network?")
        keys.append(key)
        values.append(value)
    rows = np.zeros((len(values), dim), np.float32)
    width = max(
        (value.size for value in values), default=0
    )  # of a whole row: all are of one rule, which tells a short one
    for row, value in zip(rows, values, strict=True):
        row[0] = value[FIRST]
        if value.size == width and width in states:
            rest = FIRST + 1 + states[width]
            row[1:] = value[rest : rest + dim - 1]
    ids = np.array(keys, np.int64)
    order = np.argsort(ids, kind="stable")
    if (twice := np.flatnonzero(np.diff(ids[order]) == 0)).size:
        raise DataError(f"{table.folder}: key {ids[order][twice[0]]} stands there twice; save the table anew")
    return ids[order], rows[order]


def _cut(
    table: Table, shapes: Mapping[TableName, tuple[int, ...]], linear: set[str]
) -> Iterator[tuple[TableName, Values]]:
    """Yield dense parameters, cut from the values that stand end to end."""
    flat = np.array([_number(where, texts[0], np.float32) for where, texts in _lines(table)], np.float32)
    due = sum(int(np.prod(shape)) for shape in shapes.values())
    if len(flat) != due:
        raise DataError(
            f"{table.folder}: holds {len(flat)} values, and the network's dense parameters have {due}: of another network?"
        )
    at = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        values = flat[at : at + size]
        yield name, values.reshape(shape[::-1]).T if name in linear else values.reshape(shape)
        at += size


def _lines(table: Table) -> Iterator[tuple[str, list[str]]]:
    """Yield each line's numbers, with the place it stands at."""
    for file in table.files:
        try:
            with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
                for number, line in enumerate(lines, 1):
                    if texts := line.split():
                        yield f"{file}, line {number}", texts
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise DataError(f"{file}: is torn, or no table of the original's: {error}; save the table anew") from error


def _number(where: str, text: str | list[str], kind: type[np.generic]) -> Any:
    """Return text as numbers: keys have 64 bits, more than a float tells apart."""
    try:
        values = np.array(text).astype(kind)
    except (ValueError, OverflowError):
        raise DataError(f"{where}: {str(text)[:60]!r} holds what is no number; save the table anew") from None
    if not np.isfinite(values).all():
        raise DataError(
            f"{where}: holds NaN, or an infinite number; use an epoch that was saved before training diverged"
        )
    return values


def _write(job: Job, out: Path, saved: Saved) -> None:
    place = out / "model" / str(EPOCH)
    if epochs.is_epoch(place):
        raise JobError(f"--out {out}: holds an epoch already; choose another folder")
    try:
        make_folder(out)
        job.save(out / "job.yaml")
    except OSError as error:
        raise JobError(f"--out {out}: cannot be written: {error.strerror}; choose another folder") from error
    epochs.save_shard(place, 0, saved, Facts(1, EPOCH, 0, job.name, run=str(out.resolve())))
