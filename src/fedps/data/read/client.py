"""A client's data, read as its job says, and what is told of that."""

from typing import TextIO

from fedps.config import Allow, Job
from fedps.config.files import client_files_of, test_files_of
from fedps.data.read.by_job import Reading, count_words, read_test, read_train
from fedps.data.samples import ClientData
from fedps.errors import DataError
from fedps.events import events
from fedps.events.events import Report
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
        DataError: the client has no files, or one cannot be read; names file, line and reader.
    """
    runner = job.runner
    files = client_files_of(job)
    if client not in files:
        raise DataError(
            f"runner.train_data_dir: no file of client {client!r} in {runner.train_data_dir}; there are {', '.join(files)}"
        )
    train = read_train(job, files[client], allow)
    _tell(job, client, "train", train, report, log)
    held_out = test_files_of(job).get(client)
    if held_out is None:
        return _data(job, client, train.samples, None, public)
    test = read_test(job, held_out, allow)
    _tell(job, client, "test", test, report, log)
    return _data(job, client, train.samples, test.samples, public)


def _data(
    job: Job, client: ClientId, train: Samples, test: Samples | None, public: Samples | None
) -> ClientData:  # fmt: skip
    runner, hyper = job.runner, job.hyper_parameters
    return ClientData(
        train, test, client, runner.seed, runner.shuffle, runner.negatives, hyper.num_items,
        pairs=hyper.loss == "bpr", public=public,
    )  # fmt: skip


def _tell(job: Job, client: ClientId, side: str, read: Reading, report: Report | None, log: TextIO | None) -> None:
    samples, skipped = len(read.samples.label), read.skipped
    if report:
        report(events.Read(side, [f.name for f in read.files], read.reader, samples, read.seconds))
        if read.note:
            report(events.Note(read.note))
        if skipped.lines:
            report(events.Skipped(side, skipped.lines))  # what they say stays in the client's log
    if log:
        lines = [f"client {client}: {', '.join(file.name for file in read.files)}", *_counted(job, read)]
        lines.append(f"{side}: {samples} samples in {read.seconds:.2f} s, by {read.reader}")
        if read.note:
            lines.append(f"note: {read.note}")
        if skipped.lines:
            lines.append(f"skipped {skipped.lines} malformed lines, the first: {skipped.first}")
        print(*lines, sep="\n", file=log, flush=True)


def _counted(job: Job, read: Reading) -> list[str]:
    """Return the original's lines of how much was read, by example_count_method."""
    if job.runner.example_count_method == "word":
        words = [count_words([file]) for file in read.files]
        each = [f"file: {f} has {n} words" for f, n in zip(read.files, words, strict=True)]
        return [*each, f"Total words: {sum(words)}"]
    each = [f"File: {f} has {n} examples" for f, n in zip(read.files, read.counts, strict=False)]
    return [*(each if len(read.counts) == len(read.files) else []), f"Total example: {sum(read.counts)}"]
