"""Read files whose columns are features, piece by piece.

| ending | what it holds |
| --- | --- |
| .csv, .tsv, .txt | lines of text, the first of which names the columns, with any sign between them: `_Text` |
| .libsvm, .svm, .libfm | lines `label index:value …`: `_Indexed` |
| .parquet | columns by name; ids of several, and vectors, as texts or as lists |

Text may be packed by gzip, `.gz` behind the ending.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedps.config import Job
from fedps.data.read.cells import WHOLE
from fedps.data.read.intake import Intake, Piece, Taken, Taker
from fedps.data.read.lines import LONGEST, Lines, Where, blocks
from fedps.data.read.reader import COLUMNS, FIRST, PACKED, Skipped
from fedps.errors import DataError, MalformedError

ROWS = 1 << 16  # of Parquet
INDEXED = (".libsvm", ".svm", ".libfm")
NO_TEXT = PACKED | {
    b"\x1f\x8b": "is packed by gzip: let its name end in .gz",
    b"PAR1": "is Parquet: let its name end in .parquet",
}


def read_table(path: Path, job: Job, skipped: Skipped | None = None, first: bool = False) -> Taken:
    """Read one file of samples.

    Args:
        path: its ending says what it holds.
        job: its features say which columns are read, and what they are.
        skipped: counts malformed lines; None makes them errors.
        first: look at its beginning alone.

    Raises:
        DataError: it cannot be read, has no such column, or a cell is not as it should be; names file, line and column.
    """
    intake = Intake(job, str(path), skipped)
    read_columns(path, intake, first)
    return intake.finish()


def read_columns(path: Path, intake: Taker, first: bool = False) -> None:
    """Hand a file's columns, piece by piece, to who takes them in; arguments and errors as for `read_table`."""
    try:
        for piece, where in _parquet(path, intake, first) if path.suffix == ".parquet" else _text(path, intake, first):
            intake.add(piece, where)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is cut off, damaged, or not packed by gzip: {error}; pack it anew") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parquet(path: Path, intake: Taker, first: bool) -> Iterator[Piece]:
    from pyarrow import parquet  # noqa: PLC0415  (few need it)

    places = {name: cells.column for name, cells in intake.cells.items()}
    try:
        file = parquet.ParquetFile(path)
        _check_columns(str(path), file.schema_arrow.names, intake)
        row = 0
        for batch in file.iter_batches(FIRST if first else ROWS, columns=list(dict.fromkeys(places.values()))):
            yield {name: batch.column(c) for name, c in places.items()}, _rows_from(path, row)
            row += len(batch)
            if first:
                return
    except (pa.ArrowInvalid, OSError) as error:  # the latter of what cannot be unpacked, too
        if getattr(error, "errno", None):
            raise
        raise DataError(f"{path}: is no Parquet file, or damaged: {error}; write it anew") from error


def _rows_from(path: Path, start: int) -> Where:
    return lambda row: f"{path}, row {start + row + 1}"


def _text(path: Path, intake: Taker, first: bool) -> Iterator[Piece]:
    with opened(path) as file:
        begin = file.read(1000)
        what = next((what for head, what in NO_TEXT.items() if begin.startswith(head)), "")
        if what or b"\0" in begin:
            raise DataError(f"{path}: {what or 'holds zero bytes, as text in UTF-16 does: save it as UTF-8'}")
        file.seek(0)
        if not path.name.removesuffix(".gz").endswith(INDEXED):
            lines: _Text | _Indexed = _Text(path, intake, file)
        elif isinstance(intake, Intake):
            lines = _Indexed(path, intake)
        else:
            raise DataError(
                f"{path}: lines `label index:value …` have no columns by name: write it as .csv or .parquet"
            )
        yield from lines.pieces(islice(blocks(str(path), file), 1 if first else None))


def opened(path: Path) -> IO[bytes]:
    """Open a file of text, packed by gzip if its name says so."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


class _Text:
    """Lines of text below a header, which says by what its fields are separated.

    Args:
        path: the file, for messages.
        intake: takes rows in; knows the columns.
        file: at its beginning; left behind the header.
    """

    def __init__(self, path: Path, intake: Taker, file: IO[bytes]) -> None:
        self._path, self._intake = path, intake
        self._line, header, self._sample = 0, "", b""  # lines that were read; the first, if it is no header
        while not header.strip() and (line := file.readline(LONGEST)):
            header, self._line = line.decode("utf-8-sig", "replace").strip("\r\n"), self._line + 1
        if "\r" in header:
            raise DataError(f"{path}, line {self._line}: lines end by CR alone: save it with line ends LF or CRLF")
        wanted = [cells.column for cells in intake.cells.values()]
        self._delimiter = _delimiter(header, wanted)
        self._names = [name.strip() for name in next(csv.reader([header], delimiter=self._delimiter), [])]
        if set(wanted) <= set(COLUMNS) and len(self._names) == len(COLUMNS) and all(map(WHOLE.fullmatch, self._names)):
            self._line, self._names, self._sample = self._line - 1, COLUMNS, f"{header}\n".encode()
        if header:  # an empty file holds no sample
            _check_columns(f"{path}, line {self._line}", self._names, intake)
        self._places = {name: self._names.index(c.column) for name, c in intake.cells.items() if header}

    def pieces(self, blocks: Iterator[bytes]) -> Iterator[Piece]:
        """Yield the cells of blocks; rows of too many or too few fields are rejected."""
        lines = Lines(str(self._path), self._names, self._delimiter, self._line)
        for block in chain([self._sample] if self._sample else [], blocks):
            cells = lines.cells(block, list(self._places.values()))
            if cells is None:
                self._row_by_row(lines, block)
            else:
                yield dict(zip(self._places, cells, strict=True)), lines.where(block)
            lines.leave(block)

    def _row_by_row(self, lines: Lines, block: bytes) -> None:
        rows: list[list[str]] = []
        places: list[str] = []
        for where, row in lines.rows(block):
            if fault := lines.fault(row):
                self._intake.reject(f"{where}: {fault}")
            else:
                rows.append([row[k] for k in self._places.values()])
                places.append(where)
        self._intake.add_rows(rows, places.__getitem__)


class _Indexed:
    """Lines `label index:value …`, as libsvm and libFM have them.

    A feature whose column is a number has the value at that index, 0 where there is none. Of all other indices those whose
    value is 1 are ids: a feature of kind `ids` has all of them, and features of kind `id` have them by position. Several
    labels have commas between them; of a binary one -1 is 0. What stands behind a # is passed over.

    Args:
        path: the file, for messages.
        intake: takes rows in; knows the features.

    Raises:
        DataError: the features are not such.
    """

    def __init__(self, path: Path, intake: Intake) -> None:
        self._path, self._intake, self._line = path, intake, 0
        cells = [c for c in intake.cells.values() if c.feature.kind != "label"]
        self._labels = {n: c.feature.of == "binary" for n, c in intake.cells.items() if c.feature.kind == "label"}
        if not self._labels:
            raise DataError(
                f"{path}: lines `label index:value …` have a label: add one to features, label: {{kind: label}}"
            )
        self._numbered = {c.name: int(c.column) for c in cells if c.column.isdecimal()}
        self._rest = [c for c in cells if c.name not in self._numbered]
        self._several = [c.name for c in self._rest if c.feature.kind == "ids"]
        if any(c.feature.kind == "number" for c in self._rest) or (self._several and len(self._rest) > 1):
            raise DataError(
                f"{path}: features {', '.join(c.name for c in self._rest)}: lines `label index:value …` hold values by index"
                " (give features.NAME.column the index), and of other indices either one feature of kind ids or such of kind id"
            )

    def pieces(self, blocks: Iterator[bytes]) -> Iterator[Piece]:
        """Yield the cells of blocks; lines of another form are rejected."""
        for block in blocks:
            lines = block.decode("utf-8", "replace").split("\n")
            texts = [line.partition("#")[0] for line in lines] if b"#" in block else lines
            numbers = np.array([k for k, text in enumerate(texts) if text.strip()], np.int64)
            if len(numbers):
                yield self._cells([texts[k] for k in numbers], numbers + self._line + 1)
            self._line += block.count(b"\n")

    def _cells(self, texts: Sequence[str], numbers: NDArray[np.int64]) -> Piece:
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pa.array(texts)))
        counts = pc.list_value_length(words).to_numpy() - 1
        ends = np.cumsum(counts + 1)
        flat = pc.list_flatten(words)
        labels = flat.take(pa.array(ends - counts - 1))
        behind = np.ones(len(flat), np.bool_)
        behind[ends - counts - 1] = False
        entries, row = flat.filter(pa.array(behind)), np.repeat(np.arange(len(texts)), counts)
        parts = pc.extract_regex(entries, r"^(?P<index>[0-9]{1,18}):(?P<value>[^:]+)$")
        index, value = (pc.struct_field(parts, k) for k in (0, 1))
        broken = index.is_null().to_numpy(zero_copy_only=False)
        number = index.fill_null("-1").cast(pa.int64()).to_numpy()
        one = pc.is_in(value, pa.array(["1", "1.0"])).to_numpy(zero_copy_only=False)
        others = ~np.isin(number, list(self._numbered.values())) if self._rest else np.zeros(len(row), np.bool_)
        ids = np.bincount(row[others], minlength=len(texts))
        uneven = (ids != len(self._rest)) if self._rest and not self._several else np.zeros(len(texts), np.bool_)
        bad = uneven | (np.bincount(row[broken | (others & ~one)], minlength=len(texts)) > 0)
        for k in np.flatnonzero(bad).tolist():
            self._intake.reject(f"{self._path}, line {numbers[k]}: {texts[k][:80]!r}: {self._fault(ids[k], uneven[k])}")
        kept = ~bad
        cells = self._label_cells(labels.filter(pa.array(kept)))
        for name, at in self._numbered.items():
            found = np.flatnonzero(number == at)
            column = np.full(len(texts), "0", object)
            column[row[found]] = value.take(pa.array(found)).to_pylist()
            cells[name] = pa.array(column[kept], pa.string())
        chosen = number[others & kept[row]]
        if self._several:
            starts = np.concatenate([[0], np.cumsum(ids[kept])])
            cells[self._several[0]] = pa.LargeListArray.from_arrays(pa.array(starts), pa.array(chosen))
        else:
            cells |= {c.name: pa.array(chosen[k :: len(self._rest)]) for k, c in enumerate(self._rest)}
        lines = numbers[kept]
        return cells, lambda k: f"{self._path}, line {lines[k]}"

    def _fault(self, ids: int, uneven: bool) -> str:
        if uneven:
            return f"has {ids} indices for the {len(self._rest)} features of kind id"
        return (
            "holds something else than index:value, or an index that is an id with another value than 1; correct it, or give"
            " a feature of kind number that column"
        )

    def _label_cells(self, labels: pa.Array) -> dict[str, pa.Array]:
        cells: dict[str, pa.Array] = {}
        for k, (name, binary) in enumerate(self._labels.items()):
            parts = [text.split(",") for text in labels.to_pylist()] if len(self._labels) > 1 else None
            texts = labels if parts is None else pa.array([p[k] if k < len(p) else "" for p in parts], pa.string())
            texts = pc.replace_substring_regex(texts, r"^\+", "")
            cells[name] = pc.if_else(pc.equal(texts, "-1"), "0", texts) if binary else texts
        return cells


def _check_columns(where: str, names: Sequence[str], intake: Taker) -> None:
    """Make sure that all columns are there that are asked for."""
    mistakes = [
        f"{where}: has no column {cells.column!r}, of {cells.key.removesuffix('.column')}; there are {', '.join(names)[:200]}:"
        f" add the column, or name it by {cells.key}"
        for cells in intake.cells.values()
        if cells.column not in names
    ]
    columns = [cells.column for cells in intake.cells.values()]
    twice = dict.fromkeys(column for column in columns if list(names).count(column) > 1)
    mistakes += [f"{where}: has two columns {column!r}; rename one" for column in twice]
    if mistakes:
        raise MalformedError(mistakes, len(mistakes))


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """Return by what a header's fields are separated: what lets it name the most columns; a comma, if nothing does."""
    signs = {c for c in header if not c.isalnum() and c not in "_\"'" and c < "\x7f"}

    def names(sign: str) -> tuple[int, bool]:
        fields = {field.strip() for field in next(csv.reader([header], delimiter=sign), [])}
        return len(fields & set(wanted)), sign == ","

    return max(sorted(signs | {","}), key=names)
