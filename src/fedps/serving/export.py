"""From a run's folder to one file: the trained model, with its own parameter names and full shapes.

The servers' shards of one epoch are joined; a row that nobody touched is where it would have started. Tables private to
clients are left out unless the caller wants them, and their files are not even opened.
"""

from importlib.metadata import version
from pathlib import Path

from fedps.errors import DataError
from fedps.serving.saved_run import model_folder, private_tables, shared_tables, tensors, whole_epoch
from fedps.storage import epochs
from fedps.storage.snapshot import packed
from fedps.storage.whole import PRIVATE, PUBLIC, make_folder, write_whole


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
    epoch = whole_epoch(run_dir, epoch)
    found = tensors(shared_tables(run_dir, epoch))
    mode = epochs.find_first(model_folder(run_dir) / str(epoch)).record.stat().st_mode & PUBLIC
    if private:
        found |= tensors(private_tables(run_dir, epoch))
        mode = PRIVATE
    metadata = {"format": "pt", "fedps": version("fedps"), "epoch": str(epoch)}
    path = out / "model.safetensors"
    try:
        make_folder(out)
        write_whole(path, packed(dict(sorted(found.items())), metadata), mode)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error
    return path
