"""Takes in what files hold, piece by piece, and makes columns of it: whole pieces at once, or row by row.

A piece is some rows of which Arrow makes columns (`cells`). If it cannot, because one cell is not as it should be, the rows
are gone through one by one: what is wrong is named, or the row is skipped and counted.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedps.cache import CacheError, cache_folder
from fedps.config import Job
from fedps.config.sections.features import labels
from fedps.data.read.cells import Cells, plain
from fedps.data.read.lines import Where
from fedps.data.read.reader import Skipped
from fedps.errors import DataError
from fedps.types import Bags, Column, Samples, ids_of

SPILL = 1 << 26  # bytes of one array that are held in memory while a file is read
Piece = tuple[Mapping[str, pa.Array], Where]  # cells by feature


class Wanted(Protocol):
    """A column that is asked for."""

    @property
    def column(self) -> str:
        """Its name in data files."""

    @property
    def key(self) -> str:
        """The job's key that names it."""


class Taker(Protocol):
    """Who takes in the pieces of a file."""

    @property
    def cells(self) -> Mapping[str, Wanted]:
        """What it asks for, by the names that pieces have."""

    def add(self, piece: Mapping[str, pa.Array], where: Where) -> None:
        """Take in a piece."""

    def add_rows(self, rows: Sequence[Sequence[Any]], where: Where) -> None:
        """Take in rows of cells, in the order of `cells`."""

    def reject(self, mistake: str) -> None:
        """Count a row that is none."""


class Taken(NamedTuple):
    """Samples that were read, and of how many the ids of a feature were cut to the last ones."""

    samples: Samples
    cut: Mapping[str, int]


class Intake:
    """Takes in pieces of one file.

    Args:
        job: its features, and its seed.
        where: the file, or what is read, for messages.
        skipped: counts rows with a mistake; None makes them errors.
    """

    def __init__(self, job: Job, where: str, skipped: Skipped | None) -> None:
        features = job.inputs
        self.where, self._skipped = where, skipped or Skipped(allowed=False)
        self._labels = list(labels(features))
        self._implied = any(features[name].implied for name in self._labels)
        unknown = self._labels if len(self._labels) > 1 else []
        self.cells = {
            name: Cells(name, f, features[f.table or name].rows, job.runner.seed, name in unknown)
            for name, f in features.items()
            if not f.implied
        }
        self._parts = {name: _Growing() for name in self.cells}
        self._counts = {name: _Growing() for name, cells in self.cells.items() if cells.feature.kind == "ids"}
        self._cut: dict[str, int] = {}
        self._rows = 0

    def add(self, piece: Mapping[str, pa.Array], where: Where) -> None:
        """Take in a piece: at once if all of it is as it should be, else row by row.

        Raises:
            MalformedError: rows are not as they should be, and none may be skipped.
        """
        if not self._bulk(piece):
            self._one_by_one(zip(*(piece[name].to_pylist() for name in self.cells), strict=True), where)
        self._skipped.check()

    def add_rows(self, rows: Sequence[Sequence[Any]], where: Where) -> None:
        """Take in rows of cells, in the order of the features; errors as for `add`."""
        arrays = {
            n: _array(cells, self.cells[n].has_several)
            for n, cells in zip(self.cells, zip(*rows, strict=True), strict=False)
        }
        piece = {name: array for name, array in arrays.items() if array is not None}
        if rows and not (len(piece) == len(arrays) and self._bulk(piece)):
            self._one_by_one(rows, where)
        self._skipped.check()

    def _bulk(self, piece: Mapping[str, pa.Array]) -> bool:
        columns = {name: self.cells[name].bulk(cells) for name, cells in piece.items()}
        whole = {name: column for name, column in columns.items() if column is not None}
        if fit := len(whole) == len(columns):
            self._take(whole)
        return fit

    def _one_by_one(self, rows: Iterable[Sequence[Any]], where: Where) -> None:
        good: list[list[list[int] | list[float]]] = []
        for number, row in enumerate(rows):
            try:
                good.append(self._row(row))
            except ValueError as error:
                self.reject(f"{where(number)}, {error}")
        self._take({name: cells.join([row[k] for row in good]) for k, (name, cells) in enumerate(self.cells.items())})

    def reject(self, mistake: str) -> None:
        """Count a row that is not as it should be; with the others of its piece it is an error, unless it may be skipped."""
        self._skipped.add(mistake)

    def finish(self) -> Taken:
        """Return all that was taken in.

        Raises:
            DataError: there is nothing.
        """
        if not self._rows:
            why = f"; all rows were skipped, the first: {self._skipped.first}" if self._skipped.lines else ""
            raise DataError(f"{self.where}: holds no sample; a client needs at least one{why}")
        columns: dict[str, Column] = {name: part.joined() for name, part in self._parts.items()}
        for name, counts in self._counts.items():
            columns[name] = Bags(ids_of(columns[name]), np.concatenate([[0], np.cumsum(counts.joined())]))
        if self._implied:
            return Taken(Samples(columns, np.ones(self._rows, np.float32)), self._cut)
        tasks = [ids_of(columns.pop(name)) for name in self._labels]
        return Taken(Samples(columns, tasks[0] if len(tasks) == 1 else np.stack(tasks, axis=1)), self._cut)

    def fits(self, samples: Samples) -> bool:
        """Tell whether samples could have come of such files."""
        labels, features = (
            samples.label.reshape(len(samples.label), -1),
            [n for n in self.cells if n not in self._labels],
        )
        if list(samples.columns) != features or labels.shape[1] != len(self._labels):
            return False
        for name, column in samples.columns.items():
            cells, starts = self.cells[name], column.starts if isinstance(column, Bags) else None
            if (starts is not None) != (cells.feature.kind == "ids"):
                return False
            if starts is not None and (
                starts[0] != 0 or starts[-1] != len(ids_of(column)) or (np.diff(starts) < 0).any()
            ):
                return False
            count = len(ids_of(column)) if starts is None else len(starts) - 1
            if count != len(labels) or not cells.fits(ids_of(column)):
                return False
        if self._implied:
            return bool((labels == 1).all())
        return all(self.cells[name].fits(labels[:, k]) for k, name in enumerate(self._labels))

    def _row(self, row: Sequence[Any]) -> list[list[int] | list[float]]:
        """Return the values of each cell. Raises ValueError: says all that is wrong with them."""
        values, mistakes = [], []
        for cell, cells in zip(row, self.cells.values(), strict=True):
            try:
                values.append(cells.one(cell))
            except ValueError as error:
                mistakes.append(f"column {cells.column!r}: {cell!r:.60} {error}")
        if mistakes:
            raise ValueError("; and ".join(mistakes))
        return values

    def _take(self, columns: dict[str, Column]) -> None:
        self._rows += max(len(c.starts) - 1 if isinstance(c, Bags) else len(c) for c in columns.values())
        for name, column in columns.items():
            most = self.cells[name].feature.max
            if isinstance(column, Bags) and most is not None:
                counts = np.diff(column.starts)
                if over := int((counts > most).sum()):
                    columns[name] = column.last(most)
                    self._cut[name] = self._cut.get(name, 0) + over
        for name, column in columns.items():
            column = columns[name]
            self._parts[name].add(ids_of(column) if not isinstance(column, Bags) else column.ids)
            if isinstance(column, Bags):
                self._counts[name].add(np.diff(column.starts).astype(np.int32))


class _Growing:
    """An array that grows: parts in memory, and from `SPILL` bytes on in a file that is nobody else's."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._file: IO[bytes] | None = None
        self._like: NDArray[Any] = np.empty(0)
        self._length = self._bytes = 0

    def __len__(self) -> int:
        return self._length

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()  # what was mapped from it stays

    def add(self, part: NDArray[Any]) -> None:
        """Put a part at the end; all are of one type, and of one shape but for their lengths."""
        self._parts.append(part)
        self._like = part[:0]
        self._length += len(part)
        self._bytes += part.nbytes
        if self._bytes > SPILL:
            self._spill()

    def joined(self) -> NDArray[Any]:
        """Return the whole; what lies in the file is mapped from it."""
        if self._file is None:
            return np.concatenate(self._parts)
        self._spill()
        like = self._like
        self._file.flush()
        return np.asarray(np.memmap(self._file, like.dtype, "r", shape=(self._length, *like.shape[1:])))

    def _spill(self) -> None:
        self._file = self._file or _room()
        for part in self._parts:
            self._file.write(bytes_of(part))
        self._parts, self._bytes = [], 0


def bytes_of(array: NDArray[Any]) -> memoryview:
    """Return an array's bytes, without a copy where they lie end to end."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _room() -> IO[bytes]:
    """Open a file that goes when it is closed, where samples are kept; temporary files may lie in memory."""
    with suppress(OSError, CacheError):
        return tempfile.TemporaryFile(dir=cache_folder())
    return tempfile.TemporaryFile()


def _array(cells: Sequence[Any], several: bool) -> pa.Array | None:
    """Return cells as Arrow has them; None if they are of several kinds."""
    try:
        return pa.array(cells if several else [cell if isinstance(cell, str) else plain(cell) for cell in cells])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
