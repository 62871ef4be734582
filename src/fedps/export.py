"""From a run's folder to one file: the trained model, with its own parameter names and full shapes.

The servers' shards of one epoch are joined; a row that nobody touched is where it would have
started. Tables private to clients are left out unless asked for, and their files are not even opened.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedps import __version__
from fedps.errors import DataError, JobError
from fedps.table import rules, snapshot
from fedps.table.init import initial_rows
from fedps.types import Keys, TableName, TableSpec, Values

CHUNK = 65_536  # rows started at once, which bounds what the start takes besides the table itself
Part = tuple[TableSpec, Keys, Values]


def export_run(run_dir: Path, out: Path, epoch: int | None = None, private: bool = False) -> Path:
    """Write `out/model.safetensors`, readable by its owner only; return its path.

    Args:
        run_dir: a run's folder.
        out: made if absent; an earlier export in it is replaced.
        epoch: which saved epoch, counted from 1; the last that is whole if None.
        private: put in the clients' private tables too.

    Raises:
        JobError: no such run or epoch, or private tables of which two clients hold the same row.
        DataError: nothing was saved, a save is torn or does not fit the others, or `out` cannot be written.
    """
    epoch, tables = _shared(run_dir, epoch)
    if private:
        tables |= _private(run_dir, epoch)
    metadata = {"format": "pt", "fedps": __version__, "epoch": str(epoch)}
    path = out / "model.safetensors"
    try:
        out.mkdir(parents=True, exist_ok=True)
        snapshot.write_whole(path, save(tables, metadata))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    return path


def _shared(run_dir: Path, wanted: int | None) -> tuple[int, dict[TableName, NDArray[np.float32]]]:
    if not run_dir.is_dir():
        raise JobError(f"{run_dir}: there is no such run folder; a run's last line names it")
    saved = _epochs(run_dir / "model")
    if wanted is not None and wanted not in saved:
        raise JobError(f"--epoch {wanted}: {run_dir} has saved {', '.join(map(str, saved)) or 'none'}")
    for epoch in reversed(saved) if wanted is None else [wanted]:
        folder = run_dir / "model" / str(epoch)
        shards = [snapshot.load(folder, file.stem) for file in sorted(folder.glob("server-*.json"))]
        if shards and len(shards) == shards[0][1].get("shards"):
            joined = _Joined(folder)
            for tables, _ in shards:
                for part in tables.values():
                    joined.add(part)
            return epoch, joined.tensors
    raise DataError(f"{run_dir / 'model'}: holds no whole save; the run, or one of its servers, ended before")


def _private(run_dir: Path, epoch: int) -> dict[TableName, NDArray[np.float32]]:
    """Join the clients' private rows, each client's latest up to `epoch`."""
    joined = _Joined(run_dir / "private")
    for client in _folders(run_dir / "private"):
        saved = [e for e in _epochs(client) if e <= epoch and (client / str(e) / "tables.json").is_file()]
        if saved:
            for part in snapshot.load(client / str(saved[-1]), "tables")[0].values():
                joined.add(part)
    return joined.tensors


class _Joined:
    """Whole tensors, put together from parts that hold different rows of them."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[TableName, NDArray[np.float32]] = {}
        self._folder = folder
        self._specs: dict[TableName, TableSpec] = {}
        self._given: dict[TableName, NDArray[np.bool_]] = {}

    def add(self, part: Part) -> None:
        spec, keys, block = part
        name, dense = spec.name, spec.kind == "dense"
        rows = 1 if dense else len(keys)
        if block.shape != (rows, rules.width(spec.rule, spec.dim)) or self._specs.setdefault(name, spec) != spec:
            raise DataError(f"{self._folder}: the saved parts of {name} do not fit together; use another run")
        values = block[:, : spec.dim]
        if dense:
            self.tensors[name] = np.ascontiguousarray(values.reshape(spec.shape))
            return
        if len(keys) and not (keys.min() >= 0 and keys.max() < spec.shape[0]):
            raise DataError(
                f"{self._folder}: {name} has rows outside [0, {spec.shape[0]}); the save is not of this job"
            )
        if name not in self.tensors:
            self.tensors[name], self._given[name] = _start(spec), np.zeros(spec.shape[0], bool)
        if self._given[name][keys].any():
            raise JobError(
                f"{self._folder}: two clients or servers hold the same rows of {name}, so no one model"
                " has them both; export without private tables, or use each client's own files"
            )
        self.tensors[name][keys] = values
        self._given[name][keys] = True


def _start(spec: TableSpec) -> NDArray[np.float32]:
    """Return a sparse table as nobody has touched it, float32[rows, dim]."""
    whole = np.empty(spec.shape, np.float32)
    for start in range(0, spec.shape[0], CHUNK):
        keys = np.arange(start, min(start + CHUNK, spec.shape[0]))
        whole[keys] = initial_rows(spec, keys)
    return whole


def _epochs(folder: Path) -> list[int]:
    return sorted(int(f.name) for f in _folders(folder) if f.name.isdecimal())


def _folders(folder: Path) -> Iterator[Path]:
    return (f for f in sorted(folder.glob("*")) if f.is_dir())
