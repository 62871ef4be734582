"""The run folder and the logs' folder: where they lie, and that they are ours to fill."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from fedps.config import Job
from fedps.config.shared import first_difference, shared_part
from fedps.config.source import read
from fedps.errors import JobError

OURS = (
    "job.yaml",
    "events.jsonl",
    "summary.json",
    "coordinator.json",
    "turns.jsonl",
    "log",
    "private",
    "model",
)  # what a run writes in its folder


def make_run_folder(job: Job, run_dir: Path | None) -> Path:
    """Make the folder of a run, with the resolved job in it; return its path.

    Args:
        job: the job.
        run_dir: where; None takes `runs/<job>-<time>`.

    Raises:
        JobError: it cannot be written, or holds another run, or something else of those names.
    """
    folder = (run_dir or Path("runs") / f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    try:
        if there := [name for name in OURS if _holds_something(folder / name)]:
            raise JobError(f"--run_dir {folder}: holds {', '.join(there)} already: another run? choose another folder")
        (folder / "log").mkdir(parents=True, exist_ok=True)
        (folder / "private").mkdir(exist_ok=True)
        job.save(folder / "job.yaml")
    except OSError as error:
        raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    return folder


def make_log_folder(log_dir: Path) -> Path:
    """Make the folder of the roles' logs, wherever it is; return its path.

    Raises:
        JobError: it cannot be written.
    """
    folder = log_dir.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "no right to write there")
    except OSError as error:
        raise JobError(f"--log_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    return folder


def share_run_folder(job: Job, run_dir: Path | None) -> Path:
    """Make, or join, the folder of a run whose roles are started one by one; return its path.

    Args:
        job: the job.
        run_dir: where; None takes `runs/<job>`.

    Raises:
        JobError: it cannot be written, or holds a run of another job.
    """
    folder = (run_dir or Path("runs") / job.name).resolve()
    try:
        (folder / "private").mkdir(parents=True, exist_ok=True)
        if not (folder / "job.yaml").exists():
            job.save(folder / "job.yaml")
        theirs = Job.model_validate(read(folder / "job.yaml"))  # it may be another role's, though none was there
    except OSError as error:
        raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    except ValidationError:
        raise _other_run(folder, "it cannot be read") from None
    if key := first_difference(shared_part(job), shared_part(theirs)):
        raise _other_run(folder, f"{key} differs")
    return folder


def discard(folder: Path) -> None:
    """Take back what `make_run_folder` made, of a run that never began; all else stays, and what it found was empty."""
    for name in ("job.yaml", "events.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("log", "private"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _other_run(folder: Path, why: str) -> JobError:
    return JobError(
        f"--run_dir {folder}: holds a run of another job ({why}); give all roles of a run the same job, and a new run"
        " another folder"
    )


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
