"""Read files whose columns are features, by the names of the columns, piece by piece.

A piece is some rows, of which Arrow makes columns (`cells`). If it cannot, because one cell is not as it should be, the
rows are gone through one by one: what is wrong is named, or the row is skipped and counted.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow

from fedps.config import Job
from fedps.config.sections.features import labels
from fedps.data.read.cells import WHOLE, Cells
from fedps.data.read.reader import COLUMNS, FIRST, Skipped
from fedps.errors import DataError
from fedps.types import Bags, Column, Samples, joined

BLOCK = 1 << 22  # bytes of text that are read at once
LONGEST = 1 << 26  # of a line
Where = Callable[[int], str]  # row of a piece → file and line
Piece = tuple[Mapping[str, pa.Array], Where]  # cells by feature


class Taken(NamedTuple):
    """Samples that were read, and of how many the ids of a feature were cut to the last ones."""

    samples: Samples
    cut: Mapping[str, int]


class Intake:
    """Takes in pieces of one file.

    Args:
        job: its features, and its seed.
        where: the file, or what is read, for messages.
        skipped: counts rows with a mistake, which are then passed over; None makes them errors.
    """

    def __init__(self, job: Job, where: str, skipped: Skipped | None) -> None:
        features = job.inputs
        self.where, self._skipped = where, skipped
        self.cells = {
            name: Cells(name, f, features[f.table or name].rows, job.runner.seed) for name, f in features.items()
        }
        self._labels = list(labels(features))
        self._parts: list[dict[str, Column]] = []
        self._cut: dict[str, int] = {}

    def add(self, piece: Mapping[str, pa.Array], where: Where) -> None:
        """Take in a piece: at once if all of it is as it should be, else row by row."""
        columns = {name: self.cells[name].bulk(cells) for name, cells in piece.items()}
        whole = {name: column for name, column in columns.items() if column is not None}
        if len(whole) == len(columns):
            self._take(whole)
        else:
            self.add_rows(zip(*(piece[name].to_pylist() for name in self.cells), strict=True), where)

    def add_rows(self, rows: Iterator[Sequence[Any]], where: Where) -> None:
        """Take in rows of cells, in the order of the features, one by one."""
        good: list[list[list[int] | list[float]]] = []
        for number, row in enumerate(rows):
            try:
                good.append(self._row(row))
            except ValueError as error:
                self.reject(f"{where(number)}, {error}")
        self._take({name: cells.join([row[k] for row in good]) for k, (name, cells) in enumerate(self.cells.items())})

    def reject(self, mistake: str) -> None:
        """Count a row that is not as it should be.

        Raises:
            DataError: none may be skipped.
        """
        if self._skipped is None:
            raise DataError(mistake)
        self._skipped.add(mistake)

    def finish(self) -> Taken:
        """Return all that was taken in.

        Raises:
            DataError: there is nothing.
        """
        if not any(len(part[self._labels[0]]) for part in self._parts):
            first = self._skipped.first if self._skipped else ""
            why = f"; all rows were skipped, the first: {first}" if first else ""
            raise DataError(f"{self.where}: holds no sample; a client needs at least one{why}")
        columns = {name: joined([part[name] for part in self._parts]) for name in self.cells}
        tasks = [np.asarray(columns.pop(name)) for name in self._labels]
        return Taken(Samples(columns, tasks[0] if len(tasks) == 1 else np.stack(tasks, axis=1)), self._cut)

    def _row(self, row: Sequence[Any]) -> list[list[int] | list[float]]:
        values = []
        for cell, cells in zip(row, self.cells.values(), strict=True):
            try:
                values.append(cells.one(cell))
            except ValueError as error:
                raise ValueError(f"column {cells.column!r}: {cell!r:.60} {error}") from error
        return values

    def _take(self, columns: dict[str, Column]) -> None:
        for name, column in columns.items():
            most = self.cells[name].feature.max
            if isinstance(column, Bags) and most is not None:
                counts = np.diff(column.starts)
                if over := int((counts > most).sum()):
                    columns[name] = column.last(most)
                    self._cut[name] = self._cut.get(name, 0) + over
        self._parts.append(columns)


def read_table(path: Path, job: Job, skipped: Skipped | None = None, first: bool = False) -> Taken:
    """Read one file of samples by the names of its columns.

    Args:
        path: lines of text with a header, packed by gzip if the name ends in `.gz`.
        job: its features say which columns, and what they are.
        skipped: counts malformed lines, which are then passed over; None makes them errors.
        first: look at the first lines alone.

    Raises:
        DataError: it cannot be read, has no such column, or a cell is not as it should be; names file, line and column.
    """
    intake = Intake(job, str(path), skipped)
    try:
        for piece, where in _pieces(path, intake, first):
            intake.add(piece, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: is cut off, or damaged: {error}; pack it anew") from error
    return intake.finish()


def _pieces(path: Path, intake: Intake, first: bool) -> Iterator[Piece]:
    with _opened(path) as file:
        text = _Text(path, intake, file)
        if first:
            yield from text.pieces(iter([b"".join(islice(file, FIRST))]))
        else:
            yield from text.pieces(_blocks(path, file))


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _blocks(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Yield a text's lines in blocks, none of which ends within quotes."""
    rest = b""
    while block := file.read(BLOCK):
        block, rest = rest + block, b""
        end = block.rfind(b"\n") + 1
        if end == 0 or block.count(b'"', 0, end) % 2:
            if len(block) > LONGEST:
                why = (
                    f'a quote (") is not closed within {LONGEST >> 20} MiB'
                    if end
                    else "it has no line ends: is it text?"
                )
                raise DataError(f"{path}: {why}")
            rest = block
            continue
        yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


class _Text:
    """Lines of text below a header, which says by what its fields are separated.

    Args:
        path: the file, for messages.
        intake: takes rows in; knows the features.
        file: at its beginning; left behind the header.
    """

    def __init__(self, path: Path, intake: Intake, file: IO[bytes]) -> None:
        self._path, self._intake = path, intake
        self._line, header, self._sample = 0, "", b""  # lines that were read; the first, if it is no header
        while not header.strip() and (line := file.readline(LONGEST)):
            header, self._line = line.decode("utf-8-sig", "replace").strip("\r\n"), self._line + 1
        wanted = [cells.column for cells in intake.cells.values()]
        self._delimiter = _delimiter(header, wanted)
        self._names = [name.strip() for name in next(csv.reader([header], delimiter=self._delimiter), [])]
        if set(wanted) == set(COLUMNS) and len(self._names) == len(COLUMNS) and all(map(WHOLE.fullmatch, self._names)):
            self._line, self._names, self._sample = self._line - 1, COLUMNS, f"{header}\n".encode()
        if header:
            self._check(wanted)  # an empty file holds no sample
        self._places = {name: self._names.index(c.column) for name, c in intake.cells.items() if header}

    def pieces(self, blocks: Iterator[bytes]) -> Iterator[Piece]:
        """Yield the cells of blocks; rows of too many or too few fields are rejected."""
        for block in chain([self._sample] if self._sample else [], blocks):
            piece = self._bulk(block)
            if piece is None:
                self._row_by_row(block)
            else:
                yield piece, self._where(block)
            self._line += block.count(b"\n")

    def _bulk(self, block: bytes) -> dict[str, pa.Array] | None:
        names = [str(k) for k in range(len(self._names))]  # those of the file may come twice
        wanted = list(dict.fromkeys(names[k] for k in self._places.values()))
        try:
            table = arrow.read_csv(
                pa.BufferReader(block),
                read_options=arrow.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
                parse_options=arrow.ParseOptions(delimiter=self._delimiter, newlines_in_values=b'"' in block),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return None
        return {name: table[names[k]].combine_chunks() for name, k in self._places.items()}

    def _row_by_row(self, block: bytes) -> None:
        rows: list[list[str]] = []
        places: list[str] = []
        for line, row in self._rows(block):
            if len(row) == len(self._names):
                rows.append([row[k] for k in self._places.values()])
                places.append(self._at(line))
            else:
                quoted = '; a quote (") is not closed' if ",".join(row).count('"') % 2 else ""
                self._intake.reject(
                    f"{self._at(line)}: has {len(row)} fields, and the header {len(self._names)}{quoted}; correct it, or put"
                    f' what holds {self._delimiter!r} between quotes (")'
                )
        self._intake.add_rows(iter(rows), places.__getitem__)

    def _where(self, block: bytes) -> Where:
        lines: list[int] = []

        def where(row: int) -> str:
            if not lines:
                lines.extend(line for line, _ in self._rows(block))
            return self._at(lines[row])

        return where

    def _rows(self, block: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line and the fields of each row that is not blank."""
        text = block.decode("utf-8", "surrogateescape").replace("\0", "\ufffd")
        reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter), self._line
        try:
            for row in reader:
                if row:
                    yield line + 1, row
                line = self._line + reader.line_num
        except csv.Error as error:
            raise DataError(f"{self._at(line + 1)}: {error}") from error

    def _at(self, line: int) -> str:
        return f"{self._path}, line {line}"

    def _check(self, wanted: Sequence[str]) -> None:
        """Make sure that each feature has its column."""
        missing = {n: c.column for n, c in self._intake.cells.items() if c.column not in self._names}
        twice = [column for column in wanted if self._names.count(column) > 1]
        mistakes = [
            f"{self._at(self._line)}: has no column {column!r}, of features.{name}; the header has"
            f" {', '.join(self._names)[:200]}: add the column, or name it by features.{name}.column"
            for name, column in missing.items()
        ]
        mistakes += [f"{self._at(self._line)}: has two columns {column!r}; rename one" for column in twice]
        if mistakes:
            raise DataError("\n".join(mistakes))


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """Return by what a header's fields are separated: what lets it name the most columns; a comma, if nothing does."""
    signs = {c for c in header if not c.isalnum() and c not in "_\"'" and c < "\x7f"}

    def names(sign: str) -> tuple[int, bool]:
        fields = {field.strip() for field in next(csv.reader([header], delimiter=sign), [])}
        return len(fields & set(wanted)), sign == ","

    return max(sorted(signs | {","}), key=names)
