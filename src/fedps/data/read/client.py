"""Clients' samples, read as the job says; held-out ones are checked here, whoever is to score them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from fedps.config import Allow, Job
from fedps.config.files import client_files_of, test_files_of
from fedps.config.sections.features import labels, spaces, undrawable
from fedps.data.read.by_job import Reading, Side, read_by_job, runs_users_code
from fedps.data.read.reader import Skipped, read_first
from fedps.data.read.tabular import opened, read_table
from fedps.data.samples import ClientData
from fedps.errors import DataError, JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.figures import CANDIDATES, read_metric
from fedps.metrics import misfit
from fedps.types import NO_SAMPLES, ClientId, Samples

NEGATIVES = 4  # a positive, where the data has none: He et al., WWW 2017, section 4.3
SMALL = 4 << 20  # bytes of a training file that is read throughout before anybody trains


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
    runner, hyper = job.runner, job.hyper_parameters
    files = client_files_of(job)
    if client not in files:
        raise DataError(
            f"runner.train_data_dir: no file of client {client!r} in {runner.train_data_dir}; there are {', '.join(files)}"
        )
    train, test = read_by_job(job, "train", files[client], allow), None
    negatives, note = _negatives(job, train.samples)
    train = train._replace(note="; ".join(filter(None, (train.note, note))))
    _tell(job, client, "train", train, report, log)
    if held_out := test_files_of(job).get(client):
        test = _read_test(job, held_out, allow)
        _tell(job, client, "test", test, report, log)
    return ClientData(
        train.samples, test.samples if test else None, client, runner.seed, runner.shuffle, negatives,
        hyper.num_items, pairs=hyper.loss == "bpr", public=public, catalogue=job.ranks_all, spaces=spaces(job.inputs),
        grouped=hyper.loss == "sampled_softmax",
    )  # fmt: skip


def read_held_out(job: Job, allow: Allow = Allow()) -> dict[ClientId, Reading]:  # noqa: B008  (a constant)
    """Read each client's held-out samples, and note whose cannot be ranked; clients without any are left out.

    Raises:
        JobError: the job names no folder of held-out samples, or a reader that is not there.
        DataError: no file belongs to a client, or one cannot be read.
    """
    if job.runner.test_data_dir is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples, e.g. DIR/test")
    return {client: _read_test(job, files, allow) for client, files in test_files_of(job).items()}


def read_trained(job: Job, allow: Allow = Allow()) -> dict[ClientId, Samples]:  # noqa: B008  (a constant)
    """Read each client's training samples."""
    return {client: read_by_job(job, "train", files, allow).samples for client, files in client_files_of(job).items()}


def check_files(job: Job, allow: Allow, only: ClientId | None = None) -> list[str]:
    """Make sure, before anybody trains, that data files are right: small ones throughout, large ones as they begin.

    Files that the user's own class or command reads are left to each client, which reads them once.

    Args:
        job: the resolved job.
        allow: what whoever started this allows the job's reader.
        only: whose files to look at; by default all clients'.

    Returns:
        What there is to say of them, each kind once.

    Raises:
        MalformedError: files hold malformed lines, or lack columns; names those of all clients.
        DataError: a training file holds no sample; else as for `read_held_out`.
    """
    wrong, held_out = Skipped(allowed=False), list[str]()
    notes: dict[str, list[ClientId]] = {}
    sides: tuple[Side, Side] = ("train", "test")
    train, test = (
        {
            client: mine
            for client, mine in files.items()
            if only in (None, client) and not runs_users_code(job, side, allow)
        }
        for side, files in zip(sides, (client_files_of(job), test_files_of(job)), strict=True)
    )
    for client, mine in train.items():
        with wrong.gathering():
            notes.setdefault(_negatives(job, _begins(job, mine, allow))[1], []).append(client)
    for mine in test.values():
        with wrong.gathering():
            held_out.append(_read_test(job, mine, allow).note)
    wrong.check()
    found = [f"{text} (clients {', '.join(c[:3])}{', …' if c[3:] else ''})" for text, c in notes.items() if text]
    return found + first_of(held_out)


def first_of(notes: Iterable[str]) -> list[str]:
    """Return the first of the notes on clients' files, and how many more clients have one; nothing if none has."""
    said = [note for note in notes if note]
    return [f"{said[0]}; and so of {len(said) - 1} more clients" if said[1:] else said[0]] if said else []


def _begins(job: Job, files: tuple[Path, ...], allow: Allow) -> Samples:
    """Read a client's training files, of large ones the first lines."""
    hyper, wrong, parts = job.hyper_parameters, Skipped(allowed=False), list[Samples]()
    small = tuple(file for file in files if _size(file) <= SMALL)
    for file in files if job.runner.bad_lines == "error" else ():
        with wrong.gathering():
            if file not in small and job.features:
                parts.append(read_table(file, job, first=True).samples)
            elif file not in small:
                parts.append(read_first(file, hyper.num_users, hyper.num_items))
    if small:
        with wrong.gathering():
            parts.append(read_by_job(job, "train", small, allow).samples)
    wrong.check()
    return Samples.joined(parts or [NO_SAMPLES])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # who reads it says what is wrong


def _read_test(job: Job, files: tuple[Path, ...], allow: Allow) -> Reading:
    """Read a client's held-out files, and note where they cannot be ranked."""
    found = read_by_job(job, "test", files, allow)
    ranked = [metric.title for metric in map(read_metric, job.metrics) if metric.k and not metric.full]
    why = misfit(found.samples) if ranked else ""
    if not why:
        return found
    skipped = found.skipped
    why += f", as {skipped.lines} malformed lines were skipped, the first: {skipped.first}" if skipped.lines else ""
    note = (
        f"runner.test_data_dir: {', '.join(map(str, files))}: {why}; so there is no {' and '.join(ranked)},"
        f" which need groups of {CANDIDATES} samples of one user, the positive first, then its {CANDIDATES - 1} negatives:"
        " `fedps data prepare` makes them"
    )
    return found._replace(note="; ".join(filter(None, (found.note, note))))


def _negatives(job: Job, samples: Samples) -> tuple[int | None, str]:
    """Return how many negatives a positive gets in training, None for the file's own, and what there is to say of that.

    A network that sees one label only learns to say it always. Negatives are drawn items, in place of a positive's own: so
    there are none where a sample tells more of its item than its id.
    """
    each, label = job.runner.negatives, samples.label
    of_item = undrawable(job.inputs)
    if label.ndim > 1 or next(iter(labels(job.inputs).values())).of == "real":
        return None, ""
    alone = job.hyper_parameters.loss == "in_batch_softmax"  # which needs none
    if each or alone or not len(label) or (label.any() and not label.all()):
        return each or None, ""
    if not label.any():
        return None, "runner.train_data_dir: holds negatives (label 0) alone: nothing can be learned of what users like"
    if each is None and not of_item:
        return (
            NEGATIVES,
            f"runner.negatives: {NEGATIVES}, as the training data holds positives (label 1) alone; 0: none",
        )
    said = f"none can be drawn, as {of_item}" if of_item else "0"
    return (
        None,
        f"runner.negatives: {said}: the training data holds positives (label 1) alone: the network learns to say 1 always",
    )


def _tell(job: Job, client: ClientId, side: Side, read: Reading, report: Report | None, log: TextIO | None) -> None:
    """Report what was read, and write it to the log; what malformed lines say stays in the client's log."""
    samples, skipped = len(read.samples.label), read.skipped
    if report:
        report(events.Read(side, [f.name for f in read.files], read.reader, samples, read.seconds))
        if read.note:
            report(events.Note(read.note, seen=True))
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
    if job.runner.example_count_method == "word" and not any(file.suffix == ".parquet" for file in read.files):
        words = [_count_words(file) for file in read.files]
        each = [f"file: {f} has {n} words" for f, n in zip(read.files, words, strict=True)]
        return [*each, f"Total words: {sum(words)}"]
    each = [f"File: {f} has {n} examples" for f, n in zip(read.files, read.counts, strict=False)]
    return [*(each if len(read.counts) == len(read.files) else []), f"Total example: {sum(read.counts)}"]


def _count_words(path: Path) -> int:
    """Count what stands between blanks, as the original does with example_count_method word."""
    with opened(path) as file:
        return sum(len(line.split()) for line in file)
