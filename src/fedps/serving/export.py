"""From a run's folder to one file: the trained model, with its own parameter names and full shapes.

The servers' shards of one epoch are joined; a row that nobody touched is where it would have started. Tables private to
clients are left out unless the caller wants them, and their files are not even opened.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedps.config.source import read
from fedps.errors import DataError, JobError
from fedps.storage import epochs
from fedps.storage.snapshot import packed
from fedps.storage.tables import SavedTable, join, tensor
from fedps.storage.whole import PRIVATE, PUBLIC, make_folder, write_whole
from fedps.types import TableName

Tensors = dict[TableName, NDArray[Any]]


def export_run(run_dir: Path, out: Path, epoch: int | None = None, private: bool = False) -> Path:
    """Write `out/model.safetensors`, readable by whoever may read the save; return its path.

    Args:
        run_dir: a run's folder.
        out: made if absent; an earlier export in it is replaced.
        epoch: which saved epoch, counted from 1; the last that is whole if None.
        private: put in the clients' private tables too; then the file is its owner's alone.

    Raises:
        JobError: no such run or epoch, or private tables of which two clients hold the same row.
        DataError: nothing was saved, a save is torn or does not fit the others, or `out` cannot be written.
    """
    epoch, tables = _shared(run_dir, epoch)
    mode = epochs.find_first(_model_folder(run_dir) / str(epoch)).record.stat().st_mode & PUBLIC
    if private:
        tables |= _private(run_dir, epoch)
        mode = PRIVATE
    metadata = {"format": "pt", "fedps": version("fedps"), "epoch": str(epoch)}
    path = out / "model.safetensors"
    try:
        make_folder(out)
        write_whole(path, packed(dict(sorted(tables.items())), metadata), mode)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    return path


def _shared(run_dir: Path, wanted: int | None) -> tuple[int, Tensors]:
    """Return an epoch, the last that is whole if none is wanted, and what the servers saved of it."""
    if not run_dir.is_dir():
        raise JobError(f"{run_dir}: there is no such run folder; a run's last line names it")
    folder = _model_folder(run_dir)
    numbers = epochs.numbers(folder)
    if wanted is not None and wanted not in numbers:
        raise JobError(f"--epoch {wanted}: {run_dir} has saved {', '.join(map(str, numbers)) or 'none'}")
    for epoch in reversed(numbers) if wanted is None else [wanted]:
        if epochs.find_whole(folder / str(epoch)):
            return epoch, _tensors(epochs.read_model(folder / str(epoch)))
    raise DataError(f"{folder}: holds no whole save; the run, or one of its servers, ended before")


def _model_folder(run_dir: Path) -> Path:
    """Return where a run saved its epochs, which its resolved job says."""
    job = run_dir / "job.yaml"
    runner = read(job).get("runner") if job.is_file() else None
    elsewhere = runner.get("model_save_path") if isinstance(runner, dict) else None
    return Path(str(elsewhere)) if elsewhere else run_dir / "model"


def _private(run_dir: Path, epoch: int) -> Tensors:
    """Join the clients' private rows, each client's latest up to `epoch`."""
    parts: dict[TableName, list[SavedTable]] = {}
    for client in epochs.folders(run_dir / "private"):
        folder = epochs.private_save(client, epoch)
        for name, part in epochs.read_private(folder).items() if folder else ():
            parts.setdefault(name, []).append(part)
    return _tensors({name: join(pieces, run_dir / "private") for name, pieces in parts.items()})


def _tensors(tables: Mapping[TableName, SavedTable]) -> Tensors:
    """Return each parameter; beside the rows of an open table, `<name>.ids` says whose they are, int64[n]."""
    found: Tensors = {name: tensor(table) for name, table in tables.items()}
    return found | {f"{name}.ids": table.keys for name, table in tables.items() if table.spec.open}
