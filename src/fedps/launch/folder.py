"""The run folder and the logs' folder: where they lie, that they are ours to fill, and how one of the past is found."""

import json
import os
import resource
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedps.config import Job
from fedps.config.files import is_utf8
from fedps.config.job import VerticalJob
from fedps.config.shared import first_difference, shared_part
from fedps.config.source import read
from fedps.errors import CROWDED, JobError, shortage
from fedps.events.journal import JOURNAL, Journal
from fedps.events.past import started
from fedps.pages.report import try_report
from fedps.storage.whole import CLOSED, PUBLIC, write_whole

RUNS, LATEST = Path("runs"), "latest"  # where runs are kept unless one says otherwise; a name for the newest of them
RETRY = 5.0  # seconds between two tries to write what a full disk did not take
FILES, OWN_FILES = 3, 20  # that the launcher keeps open for each process, and for itself
READERS = {"owner": 0, "group": 0o050, "all": 0o055}  # what they must be allowed, by `runner.model_readers`
OURS = (
    "job.yaml",
    JOURNAL,
    "summary.json",
    "coordinator.db",
    "coordinator.json",
    "turns.jsonl",
    "log",
    "audit",
    "private",
    "state",
    "model",
    "items.csv",
    "parties",
)  # what a run writes in its folder


def make_run_folder(job: Job | VerticalJob, run_dir: Path | None) -> Path:
    """Make the folder of a run, with the resolved job in it; return its path.

    Args:
        job: the job.
        run_dir: where; None takes `runs/<job>-<time>`, or `…-2` and so on where another run has taken that.

    Raises:
        JobError: it cannot be written, or holds another run, or something else of those names, or the job's readers could
            not read it.
    """
    if isinstance(job, Job):
        check_readers(job)
    base, taken = (run_dir or RUNS / f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}").resolve(), ""
    _check_name("--run_dir", base)
    for folder in [base] if run_dir else _names(base):
        ours = False
        try:
            taken = _claim(folder)
            if ours := not taken:
                (folder / "log").mkdir(exist_ok=True)
                job.save(folder / "job.yaml")
                if isinstance(job, VerticalJob):
                    folder.chmod(CLOSED)  # what parties say of their data is for their eyes
                else:
                    (folder / "private").mkdir(exist_ok=True)
                    _keep_items(job, folder)
                return folder
        except OSError as error:
            if ours:
                discard(folder)
            raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    raise JobError(f"--run_dir {base}: holds {taken} already: another run? choose another folder")


def find_run(run_dir: str | Path) -> Path:
    """Return a run's folder as people name it: its path, or `latest` for the newest under `runs/`.

    A folder of one's own that is called so is `./latest`.

    Raises:
        JobError: the latest is asked for, and there is none.
    """
    if str(run_dir) != LATEST:
        return Path(run_dir)
    if runs := runs_in(RUNS):
        return runs[0]
    raise JobError(
        f"{LATEST}: no run is in {RUNS.resolve()} yet; `fedps run JOB.yaml` from here makes one, or name its folder"
    )


def can_go_on(folder: Path) -> bool:
    """Whether servers have kept in a run's folder what it can go on from."""
    return any(folder.glob("state/server-*/*-*"))


def go_on(folder: Path) -> str:
    """Return the words by which a run that was broken off goes on."""
    return f"go on by: fedps run --resume {shlex.quote(str(folder))}"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, in whatever state."""
    return any((folder / name).is_file() for name in ("job.yaml", JOURNAL, "summary.json"))


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder, the newest first, by when they started; none where there is no folder."""
    try:
        runs = [path for path in folder.iterdir() if is_run(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(runs, key=lambda run: (started(run), run.name), reverse=True)


def check_places(job: Job) -> None:
    """Make sure that this machine can start a job's processes and keep what they save: open files, room on disk.

    Raises:
        JobError: all that it lacks, each with its remedy.
    """
    runner, hyper = job.runner, job.hyper_parameters
    roles = (runner.worker_num or 1) + runner.server_num + runner.with_coordinator
    need, most = OWN_FILES + FILES * roles, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    mistakes = []
    if resource.RLIM_INFINITY != most < need:
        mistakes.append(
            f"runner.worker_num: {runner.worker_num}: {roles} processes need {need} open files, and this shell allows"
            f" {most}: raise that by `ulimit -n {need}`, use fewer clients (split_file_list), or run with --in-process"
        )
    place = runner.model_save_path or RUNS.resolve()
    size = 4 * (hyper.num_users + hyper.num_items) * max(hyper.fc_layers[0] // 2, hyper.mf_dim)
    with suppress(OSError):  # a folder that cannot be looked at is told where it is made
        free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
        if free < size:
            mistakes.append(
                f"runner.model_save_path: {place}: its disk has {free >> 20} MiB left, and a saved epoch takes some"
                f" {size >> 20}: free space, or name a folder on another disk"
            )
    if mistakes:
        raise JobError(mistakes)


def check_readers(job: Job) -> None:
    """Make sure that those for whom a job opens its model will be able to read it.

    Raises:
        JobError: the umask takes that right away again.
    """
    readers = job.runner.model_readers
    umask = os.umask(0o077)
    os.umask(umask)
    if umask & READERS[readers]:
        raise JobError(
            f"runner.model_readers: {readers}: the umask {umask:03o} takes this right from every file and folder: begin"
            f" with `umask {'027' if readers == 'group' else '022'}`, or leave the key out"
        )


def make_log_folder(log_dir: Path) -> Path:
    """Make the folder of the roles' logs, wherever it is; return its path.

    Raises:
        JobError: it cannot be written.
    """
    folder = log_dir.resolve()
    _check_name("--log_dir", folder)
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
        JobError: it cannot be written, or holds a run of another job, or the job's readers could not read it.
    """
    check_readers(job)
    folder = (run_dir or RUNS / job.name).resolve()
    _check_name("--run_dir", folder)
    if (folder / "parties").is_dir():
        raise _other_run(folder, "of vertical training")
    try:
        (folder / "private").mkdir(parents=True, exist_ok=True)
        if not (folder / "job.yaml").exists():
            job.save(folder / "job.yaml")
            _keep_items(job, folder)
        theirs = Job.model_validate(read(folder / "job.yaml"))  # it may be another role's, though none was there
    except OSError as error:
        raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    except ValidationError:
        raise _other_run(folder, "it cannot be read") from None
    if difference := first_difference(shared_part(job), shared_part(theirs)):
        raise _other_run(folder, difference)
    return folder


def discard(folder: Path) -> None:
    """Take back what `make_run_folder` made, of a run that never began; all else stays, and what it found was empty."""
    for path in (
        folder / "job.yaml",
        folder / JOURNAL,
        folder / "items.csv",
        *folder.glob("coordinator.db*"),
        folder / "coordinator.lock",
    ):
        path.unlink(missing_ok=True)
    for name in ("log", "audit", "private", "state", "parties"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def write_end(
    folder: Path, journal: Journal, summary: dict[str, Any], patience: float, say: Callable[[str], None]
) -> None:
    """Write what tells of a run once it is over, each file whole or not at all.

    Args:
        folder: the run's.
        journal: the run's.
        summary: of the run.
        patience: seconds for which it is tried again while this machine lacks something.
        say: takes what people must know meanwhile.

    Raises:
        OSError: one cannot be written.
    """
    text, deadline = json.dumps(summary, indent=1), time.monotonic() + patience
    while True:
        try:
            journal.flush()
            write_whole(folder / "summary.json", f"{text}\n".encode(), PUBLIC)
            break
        except OSError as error:
            why, left = lack(folder, error), deadline - time.monotonic()
            if left <= 0:
                raise
            say(f"the run is over, but its summary is not written; tried for {left:.0f} s more: {why}")
            time.sleep(min(RETRY, left))
    if untold := conclude(folder):
        say(untold)


def conclude(folder: Path) -> str | None:
    """Leave in a run's folder what it is to hold once its summary is written: a report, and no state if all went well.

    Returns:
        Why there is no report; None if there is.
    """
    if json.loads((folder / "summary.json").read_bytes())["status"] == "ok":
        shutil.rmtree(folder / "state", ignore_errors=True)  # nobody will go on
    return try_report(folder)


def lack(folder: Path, error: OSError) -> str:
    """Return in a line what this machine lacks; any other error of the system is a fault of ours, and raised.

    Raises:
        OSError: `error`.
    """
    if (why := shortage(error)) is None:
        raise error
    return why if error.filename or error.errno in CROWDED else f"{folder}: {why}"


def _keep_items(job: Job, folder: Path) -> None:
    """Keep which item of the source is which of ours with a run: what it recommends is said in the source's ids."""
    from fedps.data.catalogue import ITEMS  # noqa: PLC0415  (with pyarrow beside it)

    path = job.runner.train_data_dir.parent / ITEMS
    if path.is_file():
        write_whole(folder / ITEMS, path.read_bytes(), PUBLIC)


def _claim(folder: Path) -> str:
    """Make a folder this run's own; return what another run has there, nothing if it is ours now.

    Runs that begin at once may all find it empty; one alone makes the journal's file.
    """
    if there := [name for name in OURS if _holds_something(folder / name)]:
        return ", ".join(there)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / JOURNAL).touch(exist_ok=False)
    except FileExistsError:
        return JOURNAL
    return ""


def _names(base: Path) -> Iterator[Path]:
    """Yield a folder's name, and further ones for those that find it taken."""
    yield base
    for number in count(2):
        yield base.with_name(f"{base.name}-{number}")


def _check_name(flag: str, folder: Path) -> None:
    """Refuse a folder whose name no report or log could say.

    Raises:
        JobError: its name is no UTF-8.
    """
    if not is_utf8(str(folder)):
        raise JobError(
            f"{flag} {str(folder)!r}: is no UTF-8, in which reports and logs are written; choose another folder"
        )


def _other_run(folder: Path, why: str) -> JobError:
    return JobError(
        f"--run_dir {folder}: holds a run of another job ({why}); give all roles of a run the same job, and a new run"
        " another folder"
    )


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
