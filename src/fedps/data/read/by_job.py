"""Read files of samples in the way the job says: by the built-in reader, through a command, or by a class of the user's.

| reader_type | how |
| --- | --- |
| left out | lines `user,item,label`, by the built-in reader; where the job states features, columns by name (`tabular`) |
| QueueDataset, InmemoryDataset | through `pipe_command` where there is one and it is allowed, else as above |
| DataLoader, RecDataset | by class `Reader` or `RecDataset` of the module `train_reader_path`; without it as above |

Held-out samples have keys of their own, `infer_reader_type` and `infer_reader_path`.

Every way ends in the same compact arrays, kept for the whole run: 20 bytes a sample, 12 where the built-in reader finds
the file in its cache (`cache`), whose ids are int32. So here QueueDataset saves no memory over InmemoryDataset; in a
script of one's own it does (`scripts.datasets`).
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Literal, NamedTuple, TypeVar

from fedps.config import Allow, Job
from fedps.data.read.cache import keep, keep_table, recall, recall_table, state_of
from fedps.data.read.command import Command, StoppedError
from fedps.data.read.intake import Taken
from fedps.data.read.own import CLASSES, read_own
from fedps.data.read.pipe import read_pipe, read_slots
from fedps.data.read.reader import Skipped, read_samples
from fedps.data.read.stand_ins import copy_to
from fedps.data.read.tabular import read_table
from fedps.errors import DataError, MalformedError
from fedps.types import Samples

PIPED = ("QueueDataset", "InmemoryDataset")
DENIED = [
    f"pipe_command is not run without --allow-commands; files are read {how}"
    for how in ("as user,item,label", "by the names of their columns")
]
T = TypeVar("T")
Side = Literal["train", "test"]


class Reading(NamedTuple):
    """Samples that were read, and how.

    Attributes:
        samples: all files' samples, in the files' order.
        files: the files.
        reader: what read them, in a few words.
        seconds: how long that took.
        counts: samples of each file; one entry for all where the user's own class reads them.
        skipped: malformed lines passed over, over all files.
        note: what the user must know of it; empty if nothing.
    """

    samples: Samples
    files: Sequence[Path]
    reader: str
    seconds: float
    counts: Sequence[int]
    skipped: Skipped
    note: str = ""


def read_by_job(job: Job, side: Side, files: Sequence[Path], allow: Allow) -> Reading:
    """Read a client's files.

    Args:
        job: names the reader.
        side: `train` for training samples, `test` for held-out ones.
        files: which, in this order.
        allow: what whoever started this allows.

    Raises:
        JobError: the job names a reader that is not there.
        DataError: a file cannot be read, its reader fails, or a line is malformed.
    """
    began = time.perf_counter()
    kind, module, key = _keys(job, side)
    command = job.runner.pipe_command if kind in PIPED else None
    reader, notes = "columns by name" if job.features else "lines user,item,label", list[str]()
    if kind in CLASSES and module is not None:
        reader, skipped = f"{module}.{CLASSES[kind]}", Skipped(job.runner.bad_lines == "skip")
        parts = [read_own(job, kind, module, files, key, skipped)]
    elif command is not None and allow.commands:
        reader = f"pipe_command {command!r}"
        parts, skipped = _read_command(job, files, command)
    else:
        notes = [f"runner.{DENIED[bool(job.features)]}"] if command is not None else []
        parts, skipped = _read_lines(job, files, denied=command is not None)
    counts = [len(part.samples.label) for part in parts]
    samples = Samples.joined([part.samples for part in parts])
    note = "; ".join(notes + _said_of_cut(job, parts))
    return Reading(samples, files, reader, time.perf_counter() - began, counts, skipped, note)


def runs_users_code(job: Job, side: Side, allow: Allow) -> bool:
    """Tell whether a side's files are read by a class or a command of the user's, not by the built-in reader."""
    kind, module, _ = _keys(job, side)
    by_class = kind in CLASSES and module is not None
    return by_class or (kind in PIPED and job.runner.pipe_command is not None and allow.commands)


def _keys(job: Job, side: Side) -> tuple[str | None, str | None, str]:
    """Return the type of a side's reader, its module, and the key that names the latter."""
    runner = job.runner
    if side == "train":
        return runner.reader_type, runner.train_reader_path, "runner.train_reader_path"
    return runner.infer_reader_type, runner.infer_reader_path, "runner.infer_reader_path"


def read_files(
    read: Callable[[Path, Skipped, Event], T], files: Sequence[Path], threads: int, skip: bool
) -> tuple[list[T], Skipped]:
    """Read files, `threads` at the same time; return what comes of each, in order.

    Args:
        read: reads one file; is to give up with a `StoppedError` when the event is set.
        files: which.
        threads: at most so many at once.
        skip: pass over malformed lines, and count them.

    Raises:
        MalformedError: files hold malformed lines; names those of all files.
        DataError: what a file that failed otherwise raised; the others are given up.
    """
    skipped = [Skipped(skip) for _ in files]
    stop = Event()
    with ThreadPoolExecutor(min(threads, len(files)), "reader") as pool:
        pending = [pool.submit(read, file, mine, stop) for file, mine in zip(files, skipped, strict=True)]
        try:
            next((p for p in as_completed(pending) if not isinstance(p.exception(), MalformedError | None)), None)
        finally:  # on Ctrl-C, too
            if not all(p.done() and not p.exception() for p in pending):
                stop.set()
                pool.shutdown(cancel_futures=True)
    failures = [error for p in pending if not p.cancelled() and (error := p.exception())]
    wrong, total = Skipped(allowed=False), Skipped()
    for error in sorted(failures, key=lambda e: isinstance(e, StoppedError)):
        with wrong.gathering():
            raise error
    wrong.check()
    for mine in skipped:
        total.add(*mine.told, lines=mine.lines)
    return [p.result() for p in pending], total


def _read_lines(job: Job, files: Sequence[Path], denied: bool) -> tuple[list[Taken], Skipped]:
    hyper = job.hyper_parameters

    def read(path: Path, skipped: Skipped, stop: Event) -> Taken:
        if job.features:
            return _read_table(path, job, skipped)
        samples, state = recall(path, hyper.num_users, hyper.num_items), state_of(path)
        if samples is not None:
            return Taken(samples, {})
        samples = read_samples(path, hyper.num_users, hyper.num_items, skipped)
        if not skipped.lines:
            keep(path, samples, state)
        return Taken(samples, {})

    try:
        return read_files(read, files, job.runner.thread_num, job.runner.bad_lines == "skip")
    except DataError as error:
        if not denied:
            raise
        raise DataError(
            f"{error}; runner.{DENIED[bool(job.features)]}: pass --allow-commands if the command is yours"
        ) from error


def _read_table(path: Path, job: Job, skipped: Skipped) -> Taken:
    if (taken := recall_table(path, job)) is not None:
        return taken
    state = state_of(path)
    taken = read_table(path, job, skipped)
    if not skipped.lines:
        keep_table(path, job, taken, state)
    return taken


def _said_of_cut(job: Job, parts: Sequence[Taken]) -> list[str]:
    """Say of how many samples which ids were left out."""
    cut: Counter[str] = Counter()
    for part in parts:
        cut.update(part.cut)
    return [
        f"features.{name}.max: {job.features[name].max}: of {n} samples that have more ids, the last so many are taken"
        for name, n in cut.items()
    ]


def _read_command(job: Job, files: Sequence[Path], text: str) -> tuple[list[Taken], Skipped]:
    """Run the job's command on each file.

    A command that ends with a Python script, as the original's do, is given the original's two arguments: the path of
    the job (here resolved), and of a folder with the module that such scripts import; what else they import stands on
    its path, if it is not installed. Others run as they stand.
    """
    hyper = job.hyper_parameters
    with tempfile.TemporaryDirectory(prefix="fedps-") as folder:
        arguments, modules = tuple[str, ...](), None
        if text.rstrip().endswith(".py"):
            resolved = Path(folder) / "job.yaml"
            job.save(resolved)
            modules = Path(folder) / "modules"
            modules.mkdir()
            copy_to(Path(folder), modules)
            arguments = (str(resolved), folder)
        command = Command(text, job.folder, job.runner.start_timeout, arguments, modules)

        def read(path: Path, skipped: Skipped, stop: Event) -> Taken:
            if job.features:
                return read_slots(path, command, job, skipped, stop)
            return Taken(read_pipe(path, command, hyper.num_users, hyper.num_items, skipped, stop), {})

        return read_files(read, files, job.runner.thread_num, job.runner.bad_lines == "skip")
