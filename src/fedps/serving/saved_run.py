"""What a run left in its folder: which epochs are whole, and the tables of one."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from fedps.config import Job
from fedps.config.mistakes import sentence
from fedps.config.source import read
from fedps.errors import DataError, JobError
from fedps.storage import epochs
from fedps.storage.tables import SavedTable, join, tensor
from fedps.types import TableName

Tables = dict[TableName, SavedTable]
Tensors = dict[TableName, NDArray[Any]]


def read_job(run_dir: Path) -> Job:
    """Return a run's job, as it ran.

    Raises:
        JobError: there is no such run, it is one of vertical training, or its job cannot be read.
    """
    check_of_clients(run_dir)
    path = run_dir / "job.yaml"
    if not path.is_file():
        raise JobError(f"{run_dir}: is no run's folder: it has no job.yaml; a run's last line names it")
    try:
        return Job.model_validate(read(path))
    except ValidationError as error:
        why = sentence(error.errors()[0])
        raise JobError(
            f"{path}: is no job of this version ({version('fedps')}): {why}; use the version that wrote it"
        ) from None


def model_folder(run_dir: Path) -> Path:
    """Return where a run saved its epochs, which its resolved job says.

    Raises:
        JobError: there is no such run, or it is one of vertical training.
    """
    if not run_dir.is_dir():
        raise JobError(f"{run_dir}: there is no such run folder; a run's last line names it")
    check_of_clients(run_dir)
    job = run_dir / "job.yaml"
    runner = read(job).get("runner") if job.is_file() else None
    elsewhere = runner.get("model_save_path") if isinstance(runner, dict) else None
    return Path(str(elsewhere)) if elsewhere else run_dir / "model"


def check_of_clients(run_dir: Path) -> None:
    """Make sure that a run's model is one of clients and servers. Raises JobError: each party of the run keeps its own part."""
    if (run_dir / "parties").is_dir():
        raise JobError(
            f"{run_dir}: is of vertical training, where each party keeps its own part of the model: `fedps vertical predict"
            f" JOB.yaml --run_dir {run_dir}` scores samples by all parts; a party that was broken off goes on by `fedps vertical"
            f" party NAME JOB.yaml --run_dir {run_dir}`"
        )


def whole_epoch(run_dir: Path, wanted: int | None = None) -> int:
    """Return a saved epoch's number, that of the last one that is whole if none is wanted.

    Raises:
        JobError: there is no such run, or epoch.
        DataError: nothing that was saved is whole.
    """
    folder = model_folder(run_dir)
    numbers = epochs.numbers(folder)
    if wanted is not None and wanted not in numbers:
        raise JobError(f"--epoch {wanted}: {run_dir} has saved {', '.join(map(str, numbers)) or 'none'}")
    for epoch in reversed(numbers) if wanted is None else [wanted]:
        if epochs.find_whole(folder / str(epoch)):
            return epoch
    raise DataError(f"{folder}: holds no whole save; the run, or one of its servers, ended before")


def shared_tables(run_dir: Path, epoch: int) -> Tables:
    """Return what the servers saved of a whole epoch.

    Raises:
        DataError: a file is torn.
    """
    return epochs.read_model(model_folder(run_dir) / str(epoch))


def private_tables(run_dir: Path, epoch: int) -> Tables:
    """Join the clients' private rows, each client's latest up to an epoch.

    Raises:
        JobError: two clients hold the same row.
        DataError: a file is torn.
    """
    parts: dict[TableName, list[SavedTable]] = {}
    for client in epochs.folders(run_dir / "private"):
        folder = epochs.private_save(client, epoch)
        for name, part in epochs.read_private(folder).items() if folder else ():
            parts.setdefault(name, []).append(part)
    return {name: join(pieces, run_dir / "private") for name, pieces in parts.items()}


def tensors(tables: Mapping[TableName, SavedTable]) -> Tensors:
    """Return each parameter; beside the rows of an open table, `<name>.ids` says whose they are, int64[n]."""
    found: Tensors = {name: tensor(table) for name, table in tables.items()}
    return found | {f"{name}.ids": table.keys for name, table in tables.items() if table.spec.open}
