"""The ids that samples are matched by, as all parties write them, whatever their files hold.

A text is taken in Unicode's form NFC, without the blanks around it (`ids.blanks: strip`), and with `ids.case: fold` without
the difference of capital and small letters. A whole number of Parquet is the text of its digits, and so is a number with a
point that has nothing behind it: there 1 and 1.0 are the id "1" of other files, while the texts "01" and "1.0" are others.
An id of several columns is the text of each with its length before it, so that rows which differ in a column do in the id.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fedps.config.files import is_utf8
from fedps.config.sections.vertical import Ids
from fedps.data.read.lines import Where
from fedps.data.read.reader import Skipped
from fedps.data.read.tabular import read_columns
from fedps.errors import TOLD, DataError, MalformedError

EXACT = 2**53  # whole numbers below are floats of their own
WHOLE = re.compile("0|-?[1-9][0-9]*")
DIGITS = re.compile("0[0-9]+")
Take = Callable[[list[pa.Array], Where], None]  # cells of each column, and where they stand


def read_ids(files: Sequence[Path], columns: Sequence[str], ids: Ids, party: str = "NAME") -> list[bytes]:
    """Return the id of each row, in the order of the files and of their rows.

    Args:
        files: of one party.
        columns: by which samples are matched, in this order.
        ids: how they are written.
        party: whose they are, for messages.

    Raises:
        DataError: a file cannot be read or has no such column, or an id is empty, no id, or there twice; names file, row,
            column and the id itself: it is for the eyes of who owns the file.
    """
    found, mistakes = list[bytes](), Skipped(allowed=False)

    def take(cells: list[pa.Array], where: Where) -> None:
        texts = [_texts(column, array, ids, where, mistakes) for column, array in zip(columns, cells, strict=True)]
        found.extend(map(identity, zip(*texts, strict=True)))

    for file in files:
        read_columns(file, _Columns(columns, party, mistakes, take))
    if len(set(found)) < len(found):
        raise _repeated(found, files, columns, party)
    return found


def identity(parts: Sequence[str]) -> bytes:
    """Return the id of a row, of the text of each column."""
    return b"".join(b"%d:%b" % (len(data), data) for data in map(str.encode, parts))


def form_of(found: Sequence[bytes]) -> str:
    """Say how some ids look, e.g. "ids here look like 17, 18: whole numbers"; for the eyes of who owns them."""
    if not found:
        return "there is no id here"
    shown = [list(parts_of(one)) for one in found[:2]]
    kinds = [_kind([parts[k] for parts in shown]) for k in range(len(shown[0]))]
    return f"ids here look like {', '.join(_shown(parts) for parts in shown)}: {' and '.join(kinds)}"


class _Column(NamedTuple):
    """A column by which samples are matched."""

    column: str
    key: str


class _Columns:
    """Takes in the pieces of a file.

    Args:
        columns: which.
        party: whose.
        mistakes: what is wrong with rows.
        take: is given each piece's cells.
    """

    def __init__(self, columns: Sequence[str], party: str, mistakes: Skipped, take: Take) -> None:
        self.cells = {column: _Column(column, f"parties.{party}.id") for column in columns}
        self._mistakes, self._take = mistakes, take

    def add(self, piece: Mapping[str, pa.Array], where: Where) -> None:
        """Take in a piece. Raises MalformedError: rows are not as they should be."""
        self._take([piece[column] for column in self.cells], where)
        self._mistakes.check()

    def add_rows(self, rows: Sequence[Sequence[Any]], where: Where) -> None:
        """Take in rows of texts, some of which may be no UTF-8; errors as for `add`."""
        for number, row in enumerate(rows):
            if not all(map(is_utf8, row)):
                self.reject(f"{where(number)}: an id is no UTF-8; save the file in that encoding")
        self._mistakes.check()
        self.add({name: pa.array([row[k] for row in rows], pa.string()) for k, name in enumerate(self.cells)}, where)

    def reject(self, mistake: str) -> None:
        """Count a row that is none."""
        self._mistakes.add(mistake)


def _texts(column: str, cells: pa.Array, ids: Ids, where: Where, mistakes: Skipped) -> list[str]:
    """Return the texts of a column's cells by the rule, and count what is no id."""
    texts = []
    for number, cell in enumerate(_plain(column, cells, where)):
        if cell is None or not (text := _written(cell, ids)):
            mistakes.add(f"{where(number)}, column {column!r}: is empty; give each sample an id, or leave it out")
            text = ""
        texts.append(text)
    return texts


def _plain(column: str, cells: pa.Array, where: Where) -> list[str | None]:
    """Return cells as texts, as they are written. Raises DataError: they are of a type that ids are not of."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if pa.types.is_floating(kind):
        for number, cell in enumerate(cells.to_pylist()):
            if cell is not None and not (abs(cell) < EXACT and cell.is_integer()):
                raise DataError(f"{where(number)}, column {column!r}: {cell} is no whole number; write ids as texts")
        cells = cells.cast(pa.int64())
    elif not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    ):  # fmt: skip
        raise DataError(
            f"{where(0)}, column {column!r}: is of type {kind}, and ids are whole numbers or texts; write texts"
        )
    texts: list[str | None] = cells.cast(pa.string()).to_pylist()
    return texts


def _written(text: str, ids: Ids) -> str:
    text = text.strip() if ids.blanks == "strip" else text
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", text.casefold()) if ids.case == "fold" else text


def parts_of(identity: bytes) -> Iterator[str]:
    """Yield the text of each column again."""
    while identity:
        length, _, rest = identity.partition(b":")
        yield rest[: int(length)].decode()
        identity = rest[int(length) :]


def _shown(parts: Sequence[str]) -> str:
    texts = [text if len(text) <= 40 else f"{text[:39]}…" for text in parts]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _kind(texts: Sequence[str]) -> str:
    if all(map(WHOLE.fullmatch, texts)):
        return "whole numbers"
    return "digits behind zeros, which count" if any(map(DIGITS.fullmatch, texts)) else "texts"


def _repeated(found: Sequence[bytes], files: Sequence[Path], columns: Sequence[str], party: str) -> DataError:
    """Say which ids stand where, and where again: the files are read once more."""
    counts = Counter(found)
    first, again = dict[bytes, int](), list[tuple[bytes, int]]()
    for row, identity in enumerate(found):
        if counts[identity] > 1 and first.setdefault(identity, row) != row:
            again.append((identity, row))
    wanted = sorted({row for identity, row in again[:TOLD] for row in (row, first[identity])})
    places, passed = dict[int, str](), 0

    def take(cells: list[pa.Array], where: Where) -> None:
        nonlocal passed
        places.update({row: where(row - passed) for row in wanted if 0 <= row - passed < len(cells[0])})
        passed += len(cells[0])

    for file in files:
        read_columns(file, _Columns(columns, party, Skipped(allowed=False), take))
    named = f"column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}"
    return MalformedError(
        [
            f"{places[row]}, {named}: {_shown(list(parts_of(identity)))} is the id in {places[first[identity]]}, too; leave one"
            f" out, or let parties.{party}.id name columns that tell them apart"
            for identity, row in again[:TOLD]
        ],
        len(again),
    )
