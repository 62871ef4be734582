"""One party's samples, in the order on which all parties agree, and the batches that all make of them by the job's seed.

Nobody sends an order: what is held out, and each epoch's batches, follow from the seed and from how many samples are common.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow
from fedps.config.sections.features import labels, spaces
from fedps.config.sections.vertical import LINE
from fedps.config.vertical import VerticalJob, check_commands, side_job
from fedps.data.read.by_job import Reading, read_by_job
from fedps.data.read.cache import state_of
from fedps.data.samples import ClientData, Order
from fedps.errors import DataError
from fedps.types import Bags, ClientId, Samples
from fedps.vertical.ids import identity, read_ids

HELD_OUT = zlib.crc32(b"fedps.vertical.held_out")  # of the stream that splits
Rows = NDArray[np.int64]
NOTHING = Allow()


class Unchanged:
    """Files whose rows are known by their numbers, so that they may not change between the reading of ids and of features.

    Args:
        files: as they are before their ids are read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._states = {file: state_of(file) for file in files}

    def check(self) -> None:
        """Make sure of that, once features are read. Raises DataError: one has changed."""
        for file, state in self._states.items():
            if state_of(file) != state:
                raise DataError(
                    f"{file}: was changed since its ids were read, and rows may stand elsewhere: start again"
                )


def side_data(
    job: VerticalJob, party: str, rows: Rows, test_rows: Rows | None = None, allow: Allow = NOTHING
) -> ClientData:
    """Read a party's files, and take of them the samples that all parties have.

    Args:
        job: the job, with this party's part.
        party: its name.
        rows: int64[c], rows of its data that are common, in the agreed order (`Matching`).
        test_rows: the same of its test_data; None where it has none: a share of `rows` is held out.
        allow: what whoever started this allows.

    Raises:
        DataError: a file cannot be read or has other rows than ids, all common samples are held out, or those that are not
            have the same label.
    """
    own = job.parties[party]
    if test_rows is None or own.test_data is None:
        trained, held_out = split(job, len(rows))
        there = read_rows(job, party, own.data, rows, allow)
        train, test = there.at(trained), there.at(held_out)
    else:
        train = read_rows(job, party, own.data, rows, allow)
        test = read_rows(job, party, own.test_data, test_rows, allow)
    if not len(train.label):
        raise DataError(
            f"vertical.holdout: {job.vertical.holdout:g}: of {len(rows):,} common samples none is left to train on: hold out"
            " fewer, or see why so few are common"
        )
    _check_label(job, party, train, "common ")
    inputs = side_job(job, party).inputs
    return ClientData(
        train,
        test if len(test.label) else None,
        ClientId(party),
        job.vertical.seed,
        shuffle=False,
        spaces=spaces(inputs),
    )


def digest_of(data: ClientData) -> str:
    """Return a digest of a party's samples as they were read, in their order: each column and the labels."""
    digest = hashlib.blake2b(digest_size=16, person=b"fedps samples")
    for samples in (data.train, data.test):
        for name, column in sorted({**samples.columns, "": samples.label}.items()):
            for array in column if isinstance(column, Bags) else (column,):
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def ids_of(job: VerticalJob, party: str, files: tuple[Path, ...], allow: Allow = NOTHING) -> list[bytes]:
    """Return the id of each of a party's samples, in the order of its files.

    Its features are read with them: what is wrong there is told before others are kept waiting.

    Raises:
        DataError: as for `read_ids` and `read_rows`, or all samples have one label.
    """
    own = job.parties[party]
    by_line = own.id == (LINE,)
    if by_line:
        _check_names(party, files)
    found = [] if by_line else read_ids(files, own.id, job.ids, party)
    if not (by_line or own.features):
        return found
    reading = _read(job, party, files, allow)
    if files == own.data:
        _check_label(job, party, reading.samples, "")
    if by_line:
        counts = zip(files, reading.counts, strict=True)
        return [identity([file.name, str(k)]) for file, count in counts for k in range(count)]
    if (rows := sum(reading.counts)) != len(found):
        raise _changed(party, files, f"it has {rows} rows of features, and {len(found)} ids")
    return found


def read_rows(job: VerticalJob, party: str, files: tuple[Path, ...], rows: Rows, allow: Allow = NOTHING) -> Samples:
    """Read some rows of a party's files, in their order.

    Raises:
        DataError: a file cannot be read, or has not so many rows.
    """
    samples = _read(job, party, files, allow).samples
    if len(rows) and rows.max() >= len(samples.label):
        raise _changed(party, files, f"it has {len(samples.label)} rows of features, and more of ids")
    return samples.at(rows)


def _read(job: VerticalJob, party: str, files: tuple[Path, ...], allow: Allow) -> Reading:
    check_commands(job, [party], allow)
    return read_by_job(side_job(job, party), "train", files, allow)


def split(job: VerticalJob, samples: int) -> tuple[Rows, Rows]:
    """Return which of so many common samples are trained on, and which held out: the same at all parties."""
    drawn = np.random.default_rng((job.vertical.seed, HELD_OUT)).permutation(samples)
    kept = samples - round(samples * job.vertical.holdout)
    return drawn[:kept], drawn[kept:]


def steps_of(job: VerticalJob, samples: int) -> int:
    """Return how many batches an epoch has."""
    return -(-samples // job.vertical.train_batch_size)


def batches_of(job: VerticalJob, epoch: int, samples: int, begin: int = 0) -> Iterator[Order]:
    """Yield an epoch's batches from one on, int32[B] places of samples each: the same at all parties."""
    order = np.random.default_rng((job.vertical.seed, epoch)).permutation(samples).astype(np.int32)
    size = job.vertical.train_batch_size
    for start in range(begin * size, samples, size):
        yield order[start : start + size]


def _changed(party: str, files: tuple[Path, ...], how: str) -> DataError:
    return DataError(f"parties.{party}.data: {', '.join(map(str, files))}: changed while it was read: {how}")


def _check_names(party: str, files: tuple[Path, ...]) -> None:
    """Make sure that lines of two files are not taken for the same. Raises DataError: they would be."""
    first = dict[str, Path]()
    for file in files:
        if first.setdefault(file.name, file) is not file:
            raise DataError(
                f'parties.{party}.data: {first[file.name]} and {file} have one name, and by "{LINE}" a sample is known by its'
                " file's name and its number: rename one, at each party"
            )


def _check_label(job: VerticalJob, party: str, train: Samples, which: str) -> None:
    """Make sure that there is something to learn; `which`: samples these are.

    Raises:
        DataError: there is not.
    """
    own = labels(job.parties[party].features)
    if not own or not len(train.label) or (train.label != train.label[0]).any():
        return
    name, feature = next(iter(own.items()))
    raise DataError(
        f"parties.{party}.features.{name}: all {len(train.label):,} {which}samples have {train.label[0]:g} in column"
        f" {feature.column or name!r}, so there is nothing to learn: see that this is the label"
        + ", and that common ids are of both kinds"
        * bool(which)
    )
