"""Samples from a reader of the user's own: class `Reader` (DataLoader) or `RecDataset` of a module beside the job file.

    class Reader:                                # DataLoader
        def init(self, config): ...              # may be left out
        def dataloader(self, file_list): ...     # returns a function that yields samples, or an iterator over them

    class RecDataset:                            # RecDataset
        def __init__(self, file_list, config): ...
        def init(self): ...                      # may be left out
        def __iter__(self): ...                  # yields samples

A sample is user, item and label, in this order: numbers, arrays or lists of one number; or a dict of them by name. All
samples are read once, before training, and kept as arrays; so the last short batch is trained on, too. A header 0,1,2,
that the class takes for a sample, is left out, one a file. Where the job states features, a sample has a part for each: in
the job's order, in a dict by name, or in pairs of name and values; ids and numbers of several are lists or arrays.
"""

import traceback
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.config.classes import load_class
from fedps.data.read.intake import Intake, Taken
from fedps.data.read.reader import COLUMNS, UNNAMED, Skipped, in_range, mistake_in, samples_of
from fedps.data.read.stand_ins import standing_in
from fedps.errors import DataError

CLASSES = {"DataLoader": "Reader", "RecDataset": "RecDataset"}
FORM = "yield user, item and label, a whole number each"
AT_ONCE = 4096  # samples
LINES = 12  # of a traceback that an error repeats


def read_own(
    job: Job, kind: str, module: str, files: Sequence[Path], key: str,
    skipped: Skipped | None = None,
) -> Taken:  # fmt: skip
    """Read the samples that a user's own class makes of files.

    Args:
        job: says where the class lies, and what ids there are; the class is given its keys, see `flat_config`.
        kind: `DataLoader` or `RecDataset`: which class, and how it is called.
        module: where it is, e.g. `movielens_reader`.
        files: given to it as a list of paths.
        key: the job's key that names the module.
        skipped: counts malformed samples; None makes them errors.

    Raises:
        JobError: there is no such module or class.
        DataError: the class raises, or yields what is no sample; names class, sample and cause.
    """
    reader = find_reader(job, kind, module, key)
    name = f"{key}: {module}.{CLASSES[kind]}"
    limits = job.hyper_parameters.num_users, job.hyper_parameters.num_items
    intake = _Features(job, name, skipped) if job.features else _Intake(name, limits, len(files), skipped)
    batch: list[Any] = []
    try:
        samples = _samples(reader, kind, [str(file) for file in files], flat_config(job), name)
        while True:
            batch = []
            batch.extend(islice(samples, AT_ONCE))  # if it raises, those before are in the batch
            if not batch:
                break
            intake.add(batch)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise DataError(_failure(name, intake.number + len(batch), error)) from error
    if not intake.number:
        raise DataError(f"{name}: yields no sample of {', '.join(f.name for f in files)}")
    return intake.finish()


def own_readers(job: Job) -> list[tuple[str, str, str]]:
    """Return the type, the module and the key of each class of the user's that reads a job's files."""
    runner = job.runner
    sides = (
        (runner.reader_type, runner.train_reader_path, "runner.train_reader_path"),
        (runner.infer_reader_type, runner.infer_reader_path, "runner.infer_reader_path"),
    )
    return [(kind, module, key) for kind, module, key in sides if kind in CLASSES and kind and module is not None]


def find_reader(job: Job, kind: str, module: str, key: str) -> Any:
    """Find a user's own class; arguments and errors as for `read_own`."""
    with standing_in():
        return load_class(f"{module}.{CLASSES[kind]}", job.folder, key)


class _Intake:
    """Takes in samples as a user's own class yields them, as numbers or as mistakes.

    Args:
        name: of the class, for messages.
        limits: numbers of users and of items; ids lie below.
        files: that many headers may be among the samples.
        skipped: as for `read_own`.
    """

    def __init__(self, name: str, limits: tuple[int, int], files: int, skipped: Skipped | None) -> None:
        self._name, self._limits, self._headers = name, limits, files
        self._skipped = skipped or Skipped(allowed=False)
        self.good, self.number = array("q"), 0

    def add(self, batch: list[Any]) -> None:
        """Take in a batch: at once if all of it is as it should be, else one by one."""
        rows = _in_bulk(batch)
        if rows is not None and in_range(rows[:, 0], rows[:, 1], rows[:, 2], *self._limits):
            self.good.frombytes(rows.tobytes())
        else:
            for number, sample in enumerate(batch, self.number + 1):
                self._add_one(number, sample)
            self._skipped.check()
        self.number += len(batch)

    def finish(self) -> Taken:
        """Return all samples.

        Raises:
            DataError: there are none.
        """
        if not self.good:
            raise DataError(f"{self._name}: yields no sample but such as were skipped")
        return Taken(samples_of(self.good), {})

    def _add_one(self, number: int, sample: Any) -> None:
        values, mistake = _values(sample)
        if self._headers and list(map(str, values)) == UNNAMED:
            self._headers -= 1
            return
        if mistake is None:
            mistake = mistake_in([str(v) for v in values], *self._limits)
        if mistake is None:
            self.good.extend(values)
            return
        self._skipped.add(f"{self._name}: sample {number}: {sample!r:.100}: {mistake}")


class _Features:
    """Takes in samples of a job's features; arguments as for `_Intake`."""

    def __init__(self, job: Job, name: str, skipped: Skipped | None) -> None:
        self._name, self._intake, self.number = name, Intake(job, name, skipped), 0
        self.finish = self._intake.finish

    def add(self, batch: list[Any]) -> None:
        """Take in a batch."""
        rows, places = [], []
        for number, sample in enumerate(batch, self.number + 1):
            try:
                rows.append(self._parts(sample))
                places.append(number)
            except ValueError as error:
                self._intake.reject(f"{self._name}: sample {number}: {sample!r:.100}: {error}")
        self._intake.add_rows(rows, lambda k: f"{self._name}: sample {places[k]}")
        self.number += len(batch)

    def _parts(self, sample: Any) -> list[Any]:
        """Return a sample's parts in the order of the features."""
        names = {name: cells.column for name, cells in self._intake.cells.items()}
        if isinstance(sample, Sequence) and all(
            isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in sample
        ):
            sample = dict(sample)
        if isinstance(sample, Mapping):
            if missing := [n for n, column in names.items() if n not in sample and column not in sample]:
                raise ValueError(f"has no part {missing[0]!r}; yield a dict of {', '.join(names)}")
            return [sample[name if name in sample else column] for name, column in names.items()]
        if isinstance(sample, str) or not hasattr(sample, "__len__"):
            raise ValueError(
                f"is a {type(sample).__name__}; yield {', '.join(names)}, in this order, or a dict of them"
            )
        if len(sample) != len(names):
            raise ValueError(f"has {len(sample)} parts; yield {', '.join(names)}, in this order, or a dict of them")
        return list(sample)


def flat_config(job: Job) -> dict[str, Any]:
    """Return the job as a reader sees it: values by dotted key, e.g. `runner.train_batch_size`, and `config_abs_dir`."""
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", job.model_dump(mode="json", by_alias=True))]
    while stack:
        above, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{above}.{key}" if above else key, below) for key, below in reversed(value.items())]
        else:
            flat[above] = value
    return flat | {"config_abs_dir": str(job.folder)}


def _samples(reader: Any, kind: str, files: list[str], config: dict[str, Any], name: str) -> Iterator[Any]:
    if kind == "RecDataset":
        dataset = reader(files, config)
        if hasattr(dataset, "init"):
            dataset.init()
        return _iterate(dataset)
    loader = reader()
    if hasattr(loader, "init"):
        loader.init(config)
    if not hasattr(loader, "dataloader"):
        raise DataError(f"{name}: has no method dataloader(file_list); add it, or use reader_type RecDataset")
    made = loader.dataloader(files)
    return _iterate(made() if callable(made) else made)


def _iterate(made: Any) -> Iterator[Any]:
    yield from made


def _values(sample: Any) -> tuple[list[int], str | None]:
    """Return a sample's user, item and label, and what is wrong with its form."""
    if isinstance(sample, Mapping):
        sample = _by_name(sample)
    if not isinstance(sample, Sequence) and not hasattr(sample, "__len__"):
        return [], f"is a {type(sample).__name__}; {FORM}"
    if len(sample) != len(COLUMNS):
        return [], f"has {len(sample)} parts; {FORM}"
    values = []
    for part, column in zip(sample, COLUMNS, strict=True):
        value = _whole(part)
        if value is None:
            return [], f"{column} {part!r:.40} is no whole number; {FORM}"
        values.append(value)
    return values, None


def _by_name(sample: Mapping[Any, Any]) -> list[Any]:
    """Return the parts whose names begin with user, item and label."""
    return [value for column in COLUMNS for name, value in sample.items() if str(name).startswith(column)]


def _whole(part: Any) -> int | None:
    """Return the one number of a part; None if it is none, or not whole."""
    try:
        if type(part) is not int and hasattr(part, "item"):  # an array
            part = part.item()
        elif isinstance(part, (list, tuple)):
            (part,) = part
        number = int(part)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == part else None


def _in_bulk(batch: list[Any]) -> NDArray[np.int64] | None:
    """Return a batch as int64[B, 3]; None if that takes a look at each sample."""
    try:
        rows = np.array(batch)
    except (ValueError, TypeError):  # of different forms
        return None
    if rows.dtype.kind not in "iu" or rows.size != len(COLUMNS) * len(batch) or rows.shape[1] != len(COLUMNS):
        return None
    return rows.reshape(len(batch), len(COLUMNS)).astype(np.int64)


def _failure(name: str, number: int, error: BaseException) -> str:
    """Return what the user's own code raised, with the end of its traceback from their own file on."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    ours = [k for k, line in enumerate(lines) if f'"{__file__}"' in line]
    shown = lines[ours[-1] + 2 :] if ours and lines[ours[-1] + 2 :] else lines
    text = "\n".join(shown[-LINES:])
    return f"{name}: after {number} samples: {type(error).__name__}: {error}\n{text}"
