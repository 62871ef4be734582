"""Read files of samples in the way the job says: by the built-in reader, through a command, or by a class of the user's.

| reader_type | how |
| --- | --- |
| left out | lines `user,item,label`, by the built-in reader |
| QueueDataset, InmemoryDataset | through `pipe_command` where there is one and it is allowed, else as above |
| DataLoader, RecDataset | by class `Reader` or `RecDataset` of the module `train_reader_path`; without it as above |

Every way ends in the same compact arrays, held for the whole run: 20 bytes a sample, 12 where the built-in reader finds
the file in its cache (`cache`), whose ids are int32. So here QueueDataset saves no
memory over InmemoryDataset; in a script of one's own it does (`datasets`).
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow, Job
from fedps.config.files import test_files_of
from fedps.data.read.cache import cached, keep
from fedps.data.read.command import Command, StoppedError
from fedps.data.read.own import CLASSES, read_own
from fedps.data.read.pipe import read_pipe
from fedps.data.read.reader import Skipped, read_samples
from fedps.errors import DataError, JobError
from fedps.metrics import CANDIDATES
from fedps.types import ClientId, Samples, Values

PIPED = ("QueueDataset", "InmemoryDataset")
HELPERS = Path(__file__).parents[1] / "original"  # modules that the original's readers import
DENIED = "pipe_command is not run without --allow-commands; files are read as user,item,label"
ReadFile = Callable[[Path, Skipped | None, Event], Samples]


class Reading(NamedTuple):
    """What was read, and how.

    Attributes:
        samples: all files' samples, in the files' order.
        files: what was read.
        reader: by what, in a few words.
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


def read_train(job: Job, files: Sequence[Path], allow: Allow) -> Reading:
    """Read training files.

    Raises:
        JobError: the job names a reader that is not there.
        DataError: a file cannot be read, its reader fails, or a line is malformed.
    """
    runner = job.runner
    return _read(job, files, allow, runner.reader_type, runner.train_reader_path, "runner.train_reader_path")


def read_test(job: Job, files: Sequence[Path], allow: Allow) -> Reading:
    """Read held-out files, by the reader that the job names for them.

    Raises:
        JobError, DataError: as for `read_train`; also, the samples are not groups of candidates, see `check_groups`.
    """
    runner = job.runner
    found = _read(job, files, allow, runner.infer_reader_type, runner.infer_reader_path, "runner.infer_reader_path")
    places = list(map(str, files)) if len(files) == len(found.counts) else [found.reader]
    ends = np.cumsum(found.counts).tolist()
    for place, start, end in zip(places, [0, *ends], ends, strict=False):
        try:
            check_groups(found.samples.at(slice(start, end)), place)
        except DataError as error:
            if not found.skipped.lines:
                raise
            skipped = f"{found.skipped.lines} malformed lines were skipped, the first: {found.skipped.first}"
            raise DataError(f"{error}; {skipped}") from error
    return found


def check_groups(test: Samples, place: str) -> None:
    """Make sure that held-out samples are groups of one user's candidates: its positive first, then its 99 negatives.

    HR@10 and NDCG@10 are places of a positive among its own user's negatives; of other groups they would mean nothing.

    Args:
        test: samples, float32 labels of 0 and 1.
        place: where they come from, for messages.

    Raises:
        DataError: they are not; names the place, the first such group's samples and what is wrong with it.
    """
    groups, left = divmod(len(test.label), CANDIDATES)
    user, label = (column[: groups * CANDIDATES].reshape(groups, CANDIDATES) for column in (test.user, test.label))
    bad = (user != user[:, :1]).any(axis=1) | (label[:, 0] != 1) | label[:, 1:].any(axis=1)
    first = int(np.argmax(bad)) if bad.any() else groups
    if first == groups and not left:
        return
    start, end = first * CANDIDATES, min((first + 1) * CANDIDATES, len(test.label))
    raise DataError(
        f"runner.test_data_dir: {place}: samples {start + 1} to {end} {_misfit(test.user[start:end], test.label[start:end])}"
        f"; a held-out file has groups of {CANDIDATES} samples of one user, the positive first, then its {CANDIDATES - 1}"
        " negatives: prepare it with `fedps data prepare`, or leave the key out to train without held-out samples"
    )


def read_held_out(job: Job, allow: Allow = Allow()) -> dict[ClientId, Samples]:  # noqa: B008  (a constant)
    """Read each client's held-out samples; clients without any are left out.

    Raises:
        JobError: the job names no folder of held-out samples; also as for `read_test`.
        DataError: no file belongs to a client; also as for `read_test`.
    """
    if job.runner.test_data_dir is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples, e.g. DIR/test")
    return {client: read_test(job, files, allow).samples for client, files in test_files_of(job).items()}


def check_held_out(job: Job, allow: Allow) -> None:
    """Make sure, before anybody trains, that the held-out files are what they should be, and that clients have some.

    Files that the user's own class or command reads are left to each client, which reads them once.

    Raises:
        DataError: no file belongs to a client, one cannot be read, or its samples are not groups of candidates.
    """
    files, runner = test_files_of(job), job.runner
    by_class = runner.infer_reader_type in CLASSES and runner.infer_reader_path is not None
    by_command = runner.infer_reader_type in PIPED and runner.pipe_command is not None and allow.commands
    for mine in files.values() if not (by_class or by_command) else ():
        read_test(job, mine, allow)


def read_files(read: ReadFile, files: Sequence[Path], threads: int, skip: bool) -> tuple[list[Samples], Skipped]:
    """Read files, `threads` at the same time; return each file's samples, in order.

    Args:
        read: reads one file; is to give up with a `StoppedError` when the event is set.
        files: which.
        threads: at most so many at once.
        skip: pass over malformed lines, and count them.

    Raises:
        DataError: what a file that failed raised; the others are given up.
    """
    skipped = [Skipped() if skip else None for _ in files]
    stop = Event()
    with ThreadPoolExecutor(min(threads, len(files)), "reader") as pool:
        pending = [pool.submit(read, file, mine, stop) for file, mine in zip(files, skipped, strict=True)]
        try:
            wait(pending, return_when=FIRST_EXCEPTION)
        finally:  # on Ctrl-C, too
            if not all(p.done() and not p.exception() for p in pending):
                stop.set()
                pool.shutdown(cancel_futures=True)
    failures = [error for p in pending if not p.cancelled() and (error := p.exception())]
    for error in sorted(failures, key=lambda e: isinstance(e, StoppedError)):
        raise error
    total = Skipped()
    for mine in skipped:
        if mine is not None and mine.lines:
            total.add(mine.first, mine.lines)
    return [p.result() for p in pending], total


def count_words(files: Sequence[Path]) -> int:
    """Count what stands between blanks, as the original does with example_count_method word."""
    total = 0
    for path in files:
        with path.open("rb") as file:
            total += sum(len(line.split()) for line in file)
    return total


def _misfit(user: NDArray[np.int64], label: Values) -> str:
    """Say why samples are no group of candidates."""
    if label[0] != 1:
        return "begin with a negative"
    if (user != user[0]).any():
        return f"are of several users, {user[0]} and {user[user != user[0]][0]} for two"
    if label[1:].any():
        return "hold more than one positive"
    return f"are only {len(label)}"


def _read(
    job: Job, files: Sequence[Path], allow: Allow, kind: str | None, module: str | None, key: str
) -> Reading:  # fmt: skip
    began = time.perf_counter()
    command = job.runner.pipe_command if kind in PIPED else None
    told, note = "lines user,item,label", f"runner.{DENIED}" if command is not None and not allow.commands else ""
    if kind in CLASSES and module is not None:
        skipped = Skipped()
        lenient = skipped if job.runner.bad_lines == "skip" else None
        parts = [read_own(job, kind, module, files, key, lenient)]
        told = f"{module}.{CLASSES[kind]}"
    elif command is not None and allow.commands:
        parts, skipped = _read_pipes(job, files, command)
        told = f"pipe_command {command!r}"
    else:
        parts, skipped = _read_lines(job, files, command is not None)
    counts = [len(part.label) for part in parts]
    return Reading(Samples.joined(parts), files, told, time.perf_counter() - began, counts, skipped, note)


def _read_lines(job: Job, files: Sequence[Path], denied: bool) -> tuple[list[Samples], Skipped]:
    hyper = job.hyper_parameters

    def read(path: Path, skipped: Skipped | None, stop: Event) -> Samples:
        kept = cached(path, hyper.num_users, hyper.num_items)
        if kept is not None:
            return kept
        samples = read_samples(path, hyper.num_users, hyper.num_items, skipped)
        if skipped is None or not skipped.lines:
            keep(path, samples)
        return samples

    try:
        return read_files(read, files, job.runner.thread_num, job.runner.bad_lines == "skip")
    except DataError as error:
        if not denied:
            raise
        raise DataError(f"{error}; runner.{DENIED}: pass --allow-commands if the command is yours") from error


def _read_pipes(job: Job, files: Sequence[Path], text: str) -> tuple[list[Samples], Skipped]:
    """Run the job's command on each file.

    A command that ends with a Python script, as the original's do, is given the original's two arguments: the path of
    the job (here resolved), and of the folder of modules that such scripts import. Others run as they stand.
    """
    hyper = job.hyper_parameters
    with tempfile.TemporaryDirectory(prefix="fedps-") as folder:
        arguments: tuple[str, ...] = ()
        if text.rstrip().endswith(".py"):
            resolved = Path(folder) / "job.yaml"
            job.save(resolved)
            arguments = (str(resolved), str(HELPERS))
        command = Command(text, job.folder, job.runner.start_timeout, arguments)

        def read(path: Path, skipped: Skipped | None, stop: Event) -> Samples:
            return read_pipe(path, command, hyper.num_users, hyper.num_items, skipped, stop)

        return read_files(read, files, job.runner.thread_num, job.runner.bad_lines == "skip")
