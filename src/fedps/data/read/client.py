"""Clients' samples, read as the job says; held-out ones are checked here, whoever is to score them."""

from pathlib import Path
from typing import TextIO

import numpy as np

from fedps.config import Allow, Job
from fedps.config.files import client_files_of, test_files_of
from fedps.data.read.by_job import Reading, Side, read_by_job, runs_users_code
from fedps.data.read.reader import check_first
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.metrics import CANDIDATES
from fedps.types import ClientId, Samples


def read_client(
    job: Job, client: ClientId, allow: Allow = Allow(), report: Report | None = None,  # noqa: B008  (a constant)
    log: TextIO | None = None, public: Samples | None = None,
) -> ClientData:  # fmt: skip
    """Read a client's training samples, and its held-out ones where the job names a folder of them.

    Events are `read` (what, by which reader, how many samples, seconds) for each of the two, then `note` and
    `skipped` where there is something to tell.

    Args:
        job: the resolved job.
        client: whose data.
        allow: what the person who started this allows.
        report: where events go.
        log: where lines for people go.
        public: samples that all clients know; the client's tables get rows for their ids too.

    Raises:
        JobError: the job names a reader that is not there.
        DataError: the client has no files, one cannot be read, or held-out samples are not groups of candidates; names
            file, line and reader.
    """
    runner, hyper = job.runner, job.hyper_parameters
    files = client_files_of(job)
    if client not in files:
        raise DataError(
            f"runner.train_data_dir: no file of client {client!r} in {runner.train_data_dir}; there are {', '.join(files)}"
        )
    train, test = read_by_job(job, "train", files[client], allow), None
    _tell(job, client, "train", train, report, log)
    if held_out := test_files_of(job).get(client):
        test = _read_test(job, held_out, allow)
        _tell(job, client, "test", test, report, log)
    return ClientData(
        train.samples, test.samples if test else None, client, runner.seed, runner.shuffle, runner.negatives,
        hyper.num_items, pairs=hyper.loss == "bpr", public=public,
    )  # fmt: skip


def read_held_out(job: Job, allow: Allow = Allow()) -> dict[ClientId, Samples]:  # noqa: B008  (a constant)
    """Read each client's held-out samples; clients without any are left out.

    Raises:
        JobError: the job names no folder of held-out samples, or a reader that is not there.
        DataError: no file belongs to a client, one cannot be read, or its samples are not groups of candidates.
    """
    if job.runner.test_data_dir is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples, e.g. DIR/test")
    return {client: _read_test(job, files, allow).samples for client, files in test_files_of(job).items()}


def check_files(job: Job, allow: Allow) -> None:
    """Make sure, before anybody trains, that training files begin rightly, and that held-out ones are right throughout.

    Files that the user's own class or command reads are left to each client, which reads them once.

    Raises:
        DataError: a training file holds no sample, or its first is malformed; else as for `read_held_out`.
    """
    runner, hyper, held_out = job.runner, job.hyper_parameters, test_files_of(job)
    if runner.bad_lines == "error" and not runs_users_code(job, "train", allow):
        for file in (file for mine in client_files_of(job).values() for file in mine):
            check_first(file, hyper.num_users, hyper.num_items)
    for mine in held_out.values() if not runs_users_code(job, "test", allow) else ():
        _read_test(job, mine, allow)


def check_groups(test: Samples, place: str) -> None:
    """Make sure that held-out samples are groups of one user's candidates: its positive first, then its 99 negatives.

    HR@10 and NDCG@10 are places of a positive among its own user's negatives; of other groups they would mean nothing.

    Args:
        test: the samples, with labels 0 and 1.
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
    start = first * CANDIDATES
    group = test.at(slice(start, start + CANDIDATES))
    raise DataError(
        f"runner.test_data_dir: {place}: samples {start + 1} to {start + len(group.label)} {_misfit(group)}; a held-out file"
        f" has groups of {CANDIDATES} samples of one user, the positive first, then its {CANDIDATES - 1} negatives: prepare"
        " it with `fedps data prepare`, or leave the key out to train without held-out samples"
    )


def _misfit(group: Samples) -> str:
    user, label = group.user, group.label
    if label[0] != 1:
        return "begin with a negative"
    if (user != user[0]).any():
        return f"are of several users, {user[0]} and {user[user != user[0]][0]} for two"
    return "hold more than one positive" if label[1:].any() else f"are only {len(label)}"


def _read_test(job: Job, files: tuple[Path, ...], allow: Allow) -> Reading:
    """Read a client's held-out files, and check the groups of each: none goes on in the next file."""
    found = read_by_job(job, "test", files, allow)
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


def _tell(job: Job, client: ClientId, side: Side, read: Reading, report: Report | None, log: TextIO | None) -> None:
    """Report what was read, and write it to the log; what malformed lines say stays in the client's log."""
    samples, skipped = len(read.samples.label), read.skipped
    if report:
        report(events.Read(side, [f.name for f in read.files], read.reader, samples, read.seconds))
        if read.note:
            report(events.Note(read.note))
        if skipped.lines:
            report(events.Skipped(side, skipped.lines))
    if log:
        lines = [f"client {client}: {', '.join(file.name for file in read.files)}", *_counts(job, read)]
        lines.append(f"{side}: {samples} samples in {read.seconds:.2f} s, by {read.reader}")
        if read.note:
            lines.append(f"note: {read.note}")
        if skipped.lines:
            lines.append(f"skipped {skipped.lines} malformed lines, the first: {skipped.first}")
        print(*lines, sep="\n", file=log, flush=True)


def _counts(job: Job, read: Reading) -> list[str]:
    """Return the original's lines of how much was read, by example_count_method."""
    if job.runner.example_count_method == "word":
        words = [_count_words(file) for file in read.files]
        each = [f"file: {f} has {n} words" for f, n in zip(read.files, words, strict=True)]
        return [*each, f"Total words: {sum(words)}"]
    each = [f"File: {f} has {n} examples" for f, n in zip(read.files, read.counts, strict=False)]
    return [*(each if len(read.counts) == len(read.files) else []), f"Total example: {sum(read.counts)}"]


def _count_words(path: Path) -> int:
    """Count what stands between blanks, as the original does with example_count_method word."""
    with path.open("rb") as file:
        return sum(len(line.split()) for line in file)
