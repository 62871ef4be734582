"""The run folder: where it lies, and that it is ours to fill."""

import time
from itertools import count
from pathlib import Path

from fedps.config import Job
from fedps.errors import JobError

OWNER_ONLY = 0o700  # of private/: what no other client may see, no other user of the machine may


def make_run_folder(job: Job, run_dir: Path | None) -> Path:
    """Make the folder of a run, with the resolved job in it; return its absolute path.

    Args:
        job: the job.
        run_dir: where; None takes `runs/<job>-<time>`, numbered if another run began in the same second.

    Raises:
        JobError: it cannot be written, or holds another run.
    """
    try:
        folder = _new_folder(job.name) if run_dir is None else _given_folder(run_dir)
        (folder / "log").mkdir(exist_ok=True)
        (folder / "private").mkdir(mode=OWNER_ONLY, exist_ok=True)
        job.save(folder / "job.yaml")
    except OSError as error:
        raise JobError(
            f"--run_dir {run_dir or 'runs'}: cannot be written: {error.strerror}; choose another folder"
        ) from error
    return folder


def _given_folder(run_dir: Path) -> Path:
    folder = run_dir.resolve()
    if (folder / "job.yaml").exists():
        raise JobError(f"--run_dir {folder}: holds a run already; choose another folder or remove that one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _new_folder(name: str) -> Path:
    runs = Path("runs").resolve()
    runs.mkdir(exist_ok=True)
    began = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for n in count(1):
        folder = runs / (began if n == 1 else f"{began}-{n}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return folder
