"""Delimited text as cells, block by block: at once by Arrow, and row by row where that cannot be.

A block is some whole rows of a file, a few megabytes: a file is never held as a whole. Who reads knows the columns.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Literal

import pyarrow as pa
from pyarrow import csv as arrow

from fedps.errors import DataError

BLOCK = 1 << 22  # bytes of text that are read at once
LONGEST = 1 << 26  # of a row
Where = Callable[[int], str]  # row of a block → file and line


def blocks(origin: str, file: IO[bytes], quoted: bool = True) -> Iterator[bytes]:
    """Yield a text's lines in blocks, none of which ends within quotes.

    Raises:
        DataError: it has no line ends, or a quote is not closed; `origin` is the file's name.
    """
    rest = b""
    while block := file.read(BLOCK):
        block, rest = rest + block, b""
        end = block.rfind(b"\n") + 1
        if end == 0 or (quoted and block.count(b'"', 0, end) % 2):
            if len(block) > LONGEST:
                why = (
                    f'a quote (") is not closed within {LONGEST >> 20} MiB'
                    if end
                    else "it has no line ends: is it text?"
                )
                raise DataError(f"{origin}: {why}")
            rest = block
            continue
        yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


class Lines:
    """The rows of blocks of one file.

    Args:
        origin: the file, for messages.
        names: of its columns; here only their number counts.
        delimiter: one sign.
        line: the number of lines above the first block.
        quoted: whether a cell in quotes may hold a delimiter, or a line end.
    """

    def __init__(self, origin: str, names: Sequence[str], delimiter: str, line: int, quoted: bool = True) -> None:
        self._origin, self._delimiter, self._line, self._quoted = origin, delimiter, line, quoted
        self._names = [str(k) for k in range(len(names))]  # those of the file may come twice

    def cells(self, block: bytes, places: Sequence[int]) -> list[pa.Array] | None:
        """Return the columns at some places, as texts; None if a row has too many or too few cells, or is no UTF-8."""
        wanted = list(dict.fromkeys(self._names[k] for k in places))
        several = self._quoted and b'"' in block
        try:
            table = arrow.read_csv(
                pa.BufferReader(block),
                read_options=arrow.ReadOptions(column_names=self._names, use_threads=False, block_size=len(block) + 1),
                parse_options=arrow.ParseOptions(
                    delimiter=self._delimiter, newlines_in_values=several, quote_char='"' if self._quoted else False
                ),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return None
        return [table[self._names[k]].combine_chunks() for k in places]

    def rows(self, block: bytes) -> Iterator[tuple[str, list[str]]]:
        """Yield the place, for messages, and the cells of each row that is not blank; bytes that are no UTF-8 as surrogates.

        Raises:
            DataError: a cell is far too long.
        """
        for line, row in self._numbered(block, self._line):
            yield self._at(line), row

    def where(self, block: bytes) -> Where:
        """Return what tells the place of a block's row, for messages."""
        lines: list[int] = []
        above = self._line

        def where(row: int) -> str:
            if not lines:
                lines.extend(line for line, _ in self._numbered(block, above))
            return self._at(lines[row])

        return where

    def fault(self, row: Sequence[str]) -> str | None:
        """Say that a row has too many or too few cells; None if it has not."""
        if len(row) == len(self._names):
            return None
        quoted = '; a quote (") is not closed' if ",".join(row).count('"') % 2 else ""
        return (
            f"has {len(row)} fields, and the header {len(self._names)}{quoted}; correct it, or put what holds"
            f' {self._delimiter!r} between quotes (")'
        )

    def leave(self, block: bytes) -> None:
        """Go on to the next block."""
        self._line += block.count(b"\n")

    def _numbered(self, block: bytes, above: int) -> Iterator[tuple[int, list[str]]]:
        text = io.StringIO(block.decode("utf-8", "surrogateescape").replace("\0", "\ufffd"), newline="")
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        reader, line = csv.reader(text, delimiter=self._delimiter, quoting=quoting), above
        try:
            for row in reader:
                if row:
                    yield line + 1, row
                line = above + reader.line_num
        except csv.Error as error:
            raise DataError(f"{self._at(line + 1)}: {error}") from error

    def _at(self, line: int) -> str:
        return f"{self._origin}, line {line}"
