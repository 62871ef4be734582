"""Datasets for training scripts of one's own, by the original's names: set the files, then go over batches.

    dataset = QueueDataset()
    dataset.init(num_users=6040, num_items=3706, batch_size=512)
    dataset.set_filelist(["train/0.csv", "train/1.csv"])
    for batch in dataset.batches():
        batch.user, batch.item, batch.label

With `features` in place of the two numbers, files are whatever such a job's are, and a batch has a column for each of them:

    dataset.init(batch_size=512, features={
        "user": {"kind": "id", "rows": "open"},
        "seen": {"kind": "ids", "rows": 3706, "max": 20},
        "click": {"kind": "label"},
    })
    for batch in dataset.batches():
        batch.columns["user"], batch.columns["seen"].padded(), batch.label

The original never shuffles a QueueDataset, nor an InmemoryDataset unless `local_shuffle` is called; so here. (A job run
by `fedps run` shuffles every epoch unless `runner.shuffle: false`.)
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from fedps.config import Job, Runner
from fedps.config.checks import features as checks
from fedps.config.sections.features import Feature
from fedps.data.read.by_job import read_files
from fedps.data.read.command import Command
from fedps.data.read.pipe import read_pipe, read_slots
from fedps.data.read.reader import Column, Skipped, read_samples
from fedps.data.read.tabular import read_table
from fedps.errors import DataError
from fedps.types import Samples


class QueueDataset:
    """Reads files anew in each pass, in order; holds `thread_num` files at a time."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._ids, self._size, self._threads = (0, 0), 1, 1
        self._job: Job | None = None  # which has the features, where there are some
        self._command: Command | None = None
        self._skip = False
        self.skipped = Skipped()

    def init(
        self, *, num_users: int | None = None, num_items: int | None = None, batch_size: int = 1, thread_num: int = 1,
        pipe_command: str | None = None, allow_commands: bool = False, silence: float = 120.0,
        skip_bad_lines: bool = False, features: Mapping[str, Mapping[str, Any]] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        """Say how files are read.

        Args:
            num_users: user ids must lie in [0, num_users); needed where there are no features.
            num_items: item ids must lie in [0, num_items); needed where there are no features.
            batch_size: samples of a batch; the last one may be shorter.
            thread_num: files read at the same time.
            pipe_command: a shell command, run in the current folder, that makes MultiSlot text of a file; left out,
                files are lines user,item,label, or have columns by the names of the features.
            allow_commands: run `pipe_command`; pass on what --allow-commands says where the command is a job's.
            silence: seconds without output after which the command is killed.
            skip_bad_lines: pass over malformed lines; `skipped` counts them.
            features: what a sample is made of, in the order of the command's slots, as in a job's section `features`.
            seed: of the hashes of texts that are ids, as a job's.

        Raises:
            ValueError: a number is below 1 or missing, there is a command and commands are not allowed, or features are not
                as they should be (all at once).
        """
        numbers = {"num_users": num_users, "num_items": num_items} if features is None else {}
        for name, number in (numbers | {"batch_size": batch_size, "thread_num": thread_num}).items():
            if number is None:
                raise ValueError(f"{name}: is missing; give it, or features")
            if number < 1:
                raise ValueError(f"{name}: {number}: must be at least 1")
        if pipe_command is not None and not allow_commands:
            raise ValueError(f"pipe_command: {pipe_command!r}: is not run without allow_commands=True")
        self._ids, self._size, self._threads = (num_users or 0, num_items or 0), batch_size, thread_num
        self._job = None if features is None else _job_of(features, seed)
        self._command = Command(pipe_command, Path.cwd(), silence) if pipe_command is not None else None
        self._skip = skip_bad_lines

    def set_filelist(self, files: Sequence[str | Path]) -> None:
        """Say which files, in this order."""
        self._files = [Path(file) for file in files]

    def batches(self) -> Iterator[Samples]:
        """Yield batches of user int64[B], item int64[B] and label float32[B]; of features, a column for each.

        Raises:
            DataError: no files were set, a file cannot be read, the command fails, or a line is malformed.
        """
        rest: Samples | None = None
        for samples in self._by_file():
            samples = samples if rest is None else Samples.joined([rest, samples])
            whole = len(samples.label) // self._size * self._size  # batches go on over the ends of files
            yield from cut(samples, np.arange(whole), self._size)
            rest = samples.at(slice(whole, None))
        if rest is not None and len(rest.label):
            yield rest

    def _by_file(self) -> Iterator[Samples]:
        """Yield the samples of one file after the other."""
        if not self._files:
            raise DataError("the dataset has no files; call set_filelist first")
        groups = [self._files[k : k + self._threads] for k in range(0, len(self._files), self._threads)]
        self.skipped = Skipped()
        yield from chain.from_iterable(self._read(group) for group in groups)

    def _read(self, files: Sequence[Path]) -> list[Samples]:
        parts, skipped = read_files(self._read_file, files, self._threads, self._skip)
        self.skipped.add(*skipped.told, lines=skipped.lines)
        return parts

    def _read_file(self, path: Path, skipped: Skipped, stop: Event) -> Samples:
        if self._job is not None and self._command is not None:
            return read_slots(path, self._command, self._job, skipped, stop).samples
        if self._job is not None:
            return read_table(path, self._job, skipped).samples
        if self._command is not None:
            return read_pipe(path, self._command, *self._ids, skipped, stop)
        return read_samples(path, *self._ids, skipped)


class InmemoryDataset(QueueDataset):
    """Reads files once, holds all samples, and can shuffle them."""

    def __init__(self) -> None:
        super().__init__()
        self._samples: Samples | None = None
        self._order = np.arange(0)

    def __len__(self) -> int:
        return len(self._order)

    def load_into_memory(self) -> None:
        """Read all files.

        Raises:
            DataError: as for `batches` of a QueueDataset.
        """
        self._samples = Samples.joined(list(self._by_file()))
        self._order = np.arange(len(self._samples.label))

    def release_memory(self) -> None:
        """Let go of all samples."""
        self._samples, self._order = None, np.arange(0)

    def local_shuffle(self, seed: int | Sequence[int] = 0) -> None:
        """Put the samples in an order that follows from the seed; `[seed, epoch]` gives each epoch its own."""
        self._order = np.random.default_rng(seed).permutation(len(self._order))

    def batches(self) -> Iterator[Samples]:
        """Yield batches as a QueueDataset does, in the order of the files or the last shuffle.

        Raises:
            DataError: nothing is loaded.
        """
        if self._samples is None:
            raise DataError("the dataset is not in memory; call load_into_memory first")
        yield from cut(self._samples, self._order, self._size)


def _job_of(features: Mapping[str, Mapping[str, Any]], seed: int) -> Job:
    """Return a job that has these features, and nothing else to say."""
    runner = Runner(train_data_dir=Path.cwd(), seed=seed)
    stated = {name: Feature(**feature) for name, feature in features.items()}
    job = Job(name="dataset", folder=Path.cwd(), runner=runner, features=stated)
    if mistakes := [*checks.kinds(job), *checks.tables(job)]:
        raise ValueError("\n".join(mistakes))
    return job


def cut(samples: Samples, order: Column, size: int) -> Iterator[Samples]:
    """Yield batches of `size` samples in this order, int64[n]; the last may be shorter."""
    for start in range(0, len(order), size):
        yield samples.at(order[start : start + size])
