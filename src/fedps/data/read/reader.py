"""Read samples: lines `user,item,label`, in bulk by Arrow; what it cannot read is found line by line and named.

A mistake does not stop a read at once: all in the same `AT_ONCE` lines, or in the same piece of a file, are told together.
"""

import csv
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.errors import TOLD, DataError, MalformedError
from fedps.types import Samples

COLUMNS = ["user", "item", "label"]
UNNAMED = ["0", "1", "2"]
FORM = "a line is user,item,label"
EMPTY = "holds no sample; a client needs at least one line user,item,label"
NUMBER = re.compile(r"-?[0-9]{1,18}")  # all fit int64
Column = NDArray[np.int64]
Row = tuple[str, list[str]]  # its place, for messages, and its fields
AT_ONCE = 1 << 16  # lines
FIRST = 1000  # samples of a large file that are looked at before anybody trains
PACKED = {  # how files begin that are no text as it is read here, and what to do
    b"\x1f\x8b": "is packed by gzip: unpack it",
    b"BZh": "is packed by bzip2: unpack it",
    b"\xfd7zXZ\0": "is packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "is packed by zstd: unpack it",
    b"PK\x03\x04": "is a zip archive, or a spreadsheet: unpack it, or save it as CSV",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"PAR1": "is Parquet: write it as CSV",
    b"\xff\xfe": "is text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16: save it as UTF-8",
}
LONGEST = 1 << 12  # characters of a line that are looked at; a binary file may have no line ends


class Skipped:
    """Malformed lines that were met.

    Args:
        allowed: they are passed over; else `check` makes an error of them.

    Attributes:
        lines: how many.
        told: what is wrong with the first of them.
    """

    def __init__(self, allowed: bool = True) -> None:
        self.lines, self.told = 0, list[str]()
        self._allowed = allowed

    @property
    def first(self) -> str:
        """What is wrong with the first; empty if there is none."""
        return self.told[0] if self.told else ""

    def add(self, *mistakes: str, lines: int = 1) -> None:
        """Count `lines` more, the first of which have these mistakes."""
        self.told += mistakes[: TOLD - len(self.told)]
        self.lines += lines

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Count in what malformed lines a read ends with."""
        try:
            yield
        except MalformedError as error:
            self.add(*error.mistakes, lines=error.lines)

    def check(self) -> None:
        """Make sure that there are none, unless they may be.

        Raises:
            MalformedError: there are some.
        """
        if self.lines and not self._allowed:
            raise MalformedError(self.told, self.lines)


def read_samples(path: Path, num_users: int, num_items: int, skipped: Skipped | None = None) -> Samples:
    """Read one file of samples; a header line is recognised and left out.

    Args:
        path: the file; UTF-8 or ASCII, fields may be quoted, blank lines and spaces around fields are passed over.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).
        skipped: counts malformed lines; None makes them errors.

    Raises:
        DataError: missing, empty, malformed, an id out of range or a label other than 0 or 1; names file and line.
    """
    skipped = skipped or Skipped(allowed=False)
    try:
        skip = _lines_to_skip(path)
        table = arrow.read_csv(
            path,
            read_options=arrow.ReadOptions(column_names=COLUMNS, skip_rows=skip, use_threads=False),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.int64()), null_values=[]),
        )
        user, item, label = (table[c].to_numpy().copy() for c in COLUMNS)  # Arrow's own memory is read-only
        why = "a value is out of range"
        if len(label) and in_range(user, item, label, num_users, num_items) and not _may_be_hexadecimal(path, skip):
            return Samples.pairs(user, item, label.astype(np.float32))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        why = str(error)
    return _line_by_line(path, num_users, num_items, why, skipped)


def read_first(path: Path, num_users: int, num_items: int) -> Samples:
    """Read a file's first thousand samples; the rest is left to who reads it.

    Raises:
        DataError: it holds no sample, or one of the first is malformed; arguments and errors as for `read_samples`.
    """
    try:
        good = _good(islice(_rows(path), FIRST), num_users, num_items, Skipped(allowed=False))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not good:
        raise DataError(f"{path}: {EMPTY}")
    return samples_of(good)


def in_range(user: Column, item: Column, label: Column, num_users: int, num_items: int) -> bool:
    """Say whether all ids lie below these numbers and all labels are 0 or 1; columns are int64[n], n > 0."""
    return all(v.min() >= 0 and v.max() < n for v, n in ((user, num_users), (item, num_items), (label, 2)))


def mistake_in(values: Sequence[str], num_users: int, num_items: int) -> str | None:
    """Say all that is wrong with the texts of user, item and label; None if nothing is."""
    limits = dict(zip(COLUMNS, (num_users, num_items, 2), strict=True))
    found = [_mistake(name, text, limits[name]) for name, text in zip(COLUMNS, values, strict=True)]
    return "; and ".join(filter(None, found)) or None


def _mistake(name: str, text: str, limit: int) -> str:
    if not NUMBER.fullmatch(text.strip(" \t")):  # other blanks are none to Arrow
        longer = name != "label" and text.isascii() and text.strip().isdecimal()
        remedy = f"; hash {name}s to numbers below hyper_parameters.num_{name}s, e.g. id % 1000000" if longer else ""
        return f"{name} {text[:40]!r} is no whole number of at most 18 digits{remedy}"
    if 0 <= int(text) < limit:
        return ""
    if name == "label":
        return f"label {text} is neither 0 nor 1"
    return f"{name} {int(text)} is not in [0, {limit}); correct it or raise hyper_parameters.num_{name}s"


def samples_of(numbers: "array[int]") -> Samples:
    """Return the samples of an array of 8-byte numbers, in which user, item and label take turns."""
    user, item, label = np.frombuffer(numbers, np.int64).reshape(-1, len(COLUMNS)).T.copy()
    return Samples.pairs(user, item, label.astype(np.float32))


def _lines_to_skip(path: Path) -> int:
    """Count the lines down to the header; 0 if the first line that is not blank is a sample.

    Raises:
        DataError: the file is no text, or its header names other columns, or these in another order.
    """
    _check_form(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), ""), 1):
            if line.strip():
                if _names(words := _words(line)) and len(words) > len(COLUMNS):
                    raise DataError(
                        f"{path}, line {number}: {line.strip()[:80]!r}: names {len(words)} columns; {FORM}: say what each is in the"
                        " job's section features, or prepare the file by `fedps data prepare table`"
                    )
                if _is_header(line) and _in_another_order(_words(line)):
                    raise DataError(
                        f"{path}, line {number}: {line.strip()!r}: names its columns in another order; {FORM}"
                    )
                return number if _is_header(line) else 0
    return 0


def _check_form(path: Path) -> None:
    """Make sure that a file begins like text.

    Raises:
        DataError: it does not; says what it is.
    """
    with path.open("rb") as file:
        head = file.read(8)
    what = next((what for begin, what in PACKED.items() if head.startswith(begin)), "")
    if what or b"\0" in head[:2]:
        raise DataError(f"{path}: {what or 'holds zero bytes, as text in UTF-16 does: save it as UTF-8'}; {FORM}")


def _in_another_order(words: list[str]) -> bool:
    """Whether a header names a column at another's place, as item,user,label does."""
    names = [next((c for c in COLUMNS if word.casefold().startswith(c)), "") for word in words]
    return any(
        name and name != due and names[COLUMNS.index(name)] != name for name, due in zip(names, COLUMNS, strict=False)
    )


def _is_header(line: str) -> bool:
    """Tell names of columns from a sample: three different words, none of which begins like a number, or 0,1,2.

    The latter is how pandas names columns without names, and could be no sample, for the label would be 2.
    """
    words = _words(line)
    return words == UNNAMED or (_names(words) and len(words) == len(COLUMNS))


def _names(words: list[str]) -> bool:
    """Whether words could be columns' names: they differ, and none begins like a number."""
    return len(set(words)) == len(words) and all(w[:1].isalpha() or w[:1] == "_" for w in words)


def _words(line: str) -> list[str]:
    return [field.strip().strip('"').strip() for field in line.split(",")]


def _may_be_hexadecimal(path: Path, skip: int) -> bool:
    """Look for an x below the header: Arrow reads 0x10 as 16, which here is a mistake."""
    with path.open("rb") as file:
        for _ in range(skip):
            file.readline()
        return any(b"x" in chunk or b"X" in chunk for chunk in iter(lambda: file.read(1 << 20), b""))


def _line_by_line(path: Path, num_users: int, num_items: int, why: str, skipped: Skipped) -> Samples:
    """Read the slow way; count bad lines, and keep the others."""
    good, rows = array("q"), _rows(path)
    while more := list(islice(rows, AT_ONCE)):
        good += _good(more, num_users, num_items, skipped)
    if not good:
        first = f"; all lines were skipped, the first: {skipped.first}" if skipped.lines else ""
        raise DataError(f"{path}: {EMPTY}{first}")
    if not skipped.lines:
        raise DataError(f"{path}: cannot be read: {why}")
    return samples_of(good)


def _good(rows: Iterable[Row], num_users: int, num_items: int, skipped: Skipped) -> "array[int]":
    """Return the numbers of the rows that are samples.

    Raises:
        MalformedError: some are none, and may not be skipped.
    """
    good = array("q")
    for where, row in rows:
        if mistake := _mistake_in_row(row, num_users, num_items):
            skipped.add(f"{where}: {mistake}")
        else:
            good.extend(map(int, row))
    skipped.check()
    return good


def _mistake_in_row(row: list[str], num_users: int, num_items: int) -> str | None:
    if len(row) != len(COLUMNS):
        return f"has {len(row)} field{'s' * (len(row) != 1)}; {FORM}"
    return mistake_in(row, num_users, num_items)


def _rows(path: Path) -> Iterator[Row]:
    """Yield each sample's place, for messages, and its fields."""
    skip = _lines_to_skip(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), ""), 1):
            row = next(csv.reader([line.rstrip("\n")]), [])
            if number > skip and row:
                yield f"{path}, line {number}: {','.join(row)[:80]!r}", row
