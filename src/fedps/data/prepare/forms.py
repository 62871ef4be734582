"""A table of anybody's, whatever its form: found out from how it begins, said, and read as a stream of columns.

| form | how it is known |
| --- | --- |
| Parquet | by its first bytes |
| text, by commas, semicolons, tabs, bars or double colons | by what cuts its first lines into equally many fields |
| RecBole's atomic files | by a header of `name:type` |
| any of these in gzip or zip | by the first bytes; of several files in an archive one is named: `ARCHIVE.zip/FILE` |

Text is UTF-8, or UTF-16 with its mark, or Latin-1 where it cannot be anything else; lines end as they like. All cells of a
text are texts; those of Parquet have its types.
"""

import codecs
import csv
import gzip
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import pyarrow as pa
from pyarrow import parquet

from fedps.data.prepare.source import BOM, OTHERS, TORN
from fedps.data.read import lines
from fedps.data.read.lines import Lines, Where, blocks
from fedps.data.read.tabular import ROWS
from fedps.errors import DataError

FIRST = 100  # lines that are looked at, to tell a file's form
HEAD = 1 << 20  # bytes that hold them
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", "::": "::"}
ESCAPED = {"\\t": "\t", "tab": "\t", "blank": " "}  # as they are written in a shell
STAND_IN = "\x1f"  # for a delimiter of several signs: ASCII's own unit separator
KINDS = ("token", "token_seq", "float", "float_seq")  # of RecBole's columns
LATIN = 3  # bytes that are no UTF-8, in text without any letter beyond ASCII in UTF-8, that make it Latin-1
EMPTY = "is empty"
MOST = 10  # mistakes that are named
GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
MARKS = {
    BOM: ("utf-8", "UTF-8 with a mark"),
    b"\xff\xfe": ("utf-16-le", "UTF-16"),
    b"\xfe\xff": ("utf-16-be", "UTF-16"),
}
ENCODINGS = {"utf-8": "UTF-8", "cp1252": "Latin-1 (Windows-1252)"}


class Hints(NamedTuple):
    """What one knows of a text's form; None is found out."""

    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None


class Mistakes:
    """What is wrong with a file, told together: the first few, and how many more there are."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, mistake: str, remedy: str = "") -> None:
        """Note one more; of the same kind the remedy is said once."""
        self.count += 1
        if len(self.first) < MOST:
            said = any(remedy in other for other in self.first)
            self.first.append(mistake if said or not remedy else f"{mistake}; {remedy}")

    def check(self) -> None:
        """Raise DataError if there is a mistake."""
        if self.count:
            more = [f"… and {self.count - len(self.first):,} more such lines"] if self.count > len(self.first) else []
            raise DataError("\n".join(self.first + more))


class Piece(NamedTuple):
    """Some rows: the columns that were asked for, in that order, and what tells the place of a row."""

    columns: list[pa.Array]
    where: Where


class Source:
    """One file.

    Args:
        path: the file, or `ARCHIVE.zip/FILE`.
        hints: what is known of its form.
        known: names of columns; a first line that holds one is a header.

    Attributes:
        path: as given.
        names: of its columns; "1", "2", … where it has no header.
        header: whether it names them.
        first: its first rows, as texts.
        told: its form in words.

    Raises:
        DataError: it is not there, empty, or nothing that can be read.
    """

    def __init__(self, path: Path, hints: Hints = Hints(), known: Sequence[str] = ()) -> None:  # noqa: B008
        self.path = path
        with self._opened() as (file, packed):
            head = file.read(HEAD)
        if not head.strip():
            raise DataError(f"{path}: {EMPTY}")
        self._parquet = head.startswith(PARQUET)
        if self._parquet:
            self._look_at_parquet(packed)
            return
        if head.startswith(OTHERS):
            raise DataError(f"{path}: is packed in a form that is not read; unpack it, or pack it by gzip or zip")
        if hints.delimiter is not None and (not hints.delimiter or set(hints.delimiter) & set('"\r\n')):
            raise DataError(f"--delimiter {hints.delimiter!r}: cuts nothing; name e.g. ';', tab or blank")
        self._encoding, said = _encoding(head, path, hints.encoding)
        bare = codecs.getincrementaldecoder(self._encoding)("replace").decode(head).removeprefix("\ufeff")
        self._old_mac = "\n" not in bare
        text = bare.replace("\r", "\n") if self._old_mac else bare
        whole = text if len(head) < HEAD else text[: text.rfind("\n") + 1]
        begin = [line for line in re.split("\r\n|\r|\n", whole)[: 4 * FIRST] if line.strip()]
        if not begin:
            raise DataError(
                f"{path}: {EMPTY if len(head) < HEAD else 'has no line ends, or nothing else: is it text?'}"
            )
        self._delimiter = ESCAPED.get(hints.delimiter or "", hints.delimiter) or _delimiter(begin, path)
        rows = _fields(begin, self._delimiter, self._delimiter in ",;", path)[:FIRST]
        typed = all(cell.rpartition(":")[2] in KINDS and ":" in cell for cell in rows[0])
        self.header = typed or (_is_header(rows, known) if hints.header is None else hints.header)
        self._quoted = not typed and self._delimiter != "::" and (self.header or self._delimiter in ",;")
        rows = _fields(begin, self._delimiter, self._quoted, path)[:FIRST]
        self.names = [cell.strip() * self.header or str(k + 1) for k, cell in enumerate(rows[0])]
        self.names = [name.rpartition(":")[0] for name in self.names] if typed else self.names
        self.first = rows[self.header :]
        ends = "CR line ends" if self._old_mac else "CRLF line ends" if "\r\n" in bare else ""
        form = "RecBole's atomic file" if typed else f"text by {DELIMITERS.get(self._delimiter, self._delimiter)}"
        header = ", ".join(self.names) if self.header else f"no header, {len(self.names)} columns"
        self.told = "; ".join(filter(None, [form, packed, header, said, ends]))

    def pieces(self, wanted: Sequence[str], mistakes: Mistakes) -> Iterator[Piece]:
        """Yield some columns piece by piece, in the file's order.

        Args:
            wanted: their names.
            mistakes: takes in rows that are torn; these are passed over.

        Raises:
            DataError: it cannot be read on.
        """
        places = [self.names.index(name) for name in wanted]
        yield from self._rows_of_parquet(wanted) if self._parquet else self._text(places, mistakes)

    def column(self, name: str) -> list[str]:
        """Return a column's first cells, as texts."""
        place = self.names.index(name)
        return [row[place] for row in self.first if place < len(row)]

    def _text(self, places: Sequence[int], mistakes: Mistakes) -> Iterator[Piece]:
        several = len(self._delimiter) > 1
        with self._opened() as (packed, _):
            file = _Recoded(packed, self.path, self._encoding, self._old_mac)
            above = self._pass_header(file) if self.header else 0
            sign = STAND_IN if several else self._delimiter
            text = Lines(str(self.path), self.names, sign, above, self._quoted)
            for block in blocks(str(self.path), file, self._quoted):  # type: ignore[arg-type]
                cut = block.replace(self._delimiter.encode(), STAND_IN.encode()) if several else block
                cells = text.cells(cut, places)
                yield Piece(cells, text.where(cut)) if cells is not None else _whole_rows(text, cut, places, mistakes)
                if mistakes.count >= MOST:
                    mistakes.check()
                text.leave(cut)

    def _pass_header(self, file: "_Recoded") -> int:
        """Read a file down to below its header; return how many lines that were."""
        above, line = 1, file.readline()
        while line and not line.strip(b"\xef\xbb\xbf\r\n \t"):
            above, line = above + 1, file.readline()
        while self._quoted and line.count(b'"') % 2 and (more := file.readline()):
            above, line = above + 1, line + more
        return above

    def _look_at_parquet(self, packed: str) -> None:
        if packed:
            raise DataError(f"{self.path}: is Parquet, {packed}; unpack it: Parquet is packed already")
        try:
            file = parquet.ParquetFile(self.path)
            self.names, self.header = list(file.schema_arrow.names), True
            begin = next(file.iter_batches(FIRST), None)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path}: is no Parquet file, or damaged: {error}") from error
        cells = [column.to_pylist() for column in begin.columns] if begin is not None else []
        self.first = [["" if cell is None else str(cell) for cell in row] for row in zip(*cells, strict=True)]
        self.told = f"Parquet; {', '.join(self.names)}; {file.metadata.num_rows:,} rows"

    def _rows_of_parquet(self, wanted: Sequence[str]) -> Iterator[Piece]:
        above = 0
        try:
            for batch in parquet.ParquetFile(self.path).iter_batches(ROWS, columns=list(dict.fromkeys(wanted))):
                yield Piece([batch.column(name) for name in wanted], self._row(above))
                above += len(batch)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.path}, below row {above}: is damaged: {error}") from error

    def _row(self, above: int) -> Where:
        return lambda row: f"{self.path}, row {above + row + 1}"

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], str]]:
        """Open the file's own bytes, out of what packs it; and say what that is."""
        archive = next((above for above in self.path.parents if above.is_file()), None)
        path = archive or self.path
        try:
            with path.open("rb") as file:
                begin = file.read(4)
                file.seek(0)
                if archive is not None or begin == ZIP:
                    with zipfile.ZipFile(file) as members:
                        name = _member(members, path, self.path.name if archive is not None else None)
                        with members.open(name) as one:
                            yield one, f"{name} in a zip archive" if archive is None else "in a zip archive"
                elif begin.startswith(GZIP):
                    yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)), "packed by gzip"
                else:
                    yield file, ""
        except FileNotFoundError:
            raise DataError(f"{self.path}: there is no such file") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except TORN as error:
            raise DataError(f"{self.path}: is cut off, or damaged: {error}; fetch or pack it anew") from error


class _Recoded:
    """A stream of text in UTF-8, whatever its encoding, without a mark at its beginning.

    Raises:
        DataError: it is not in that encoding; names the line. Of UTF-8 who reads the rows finds that.
    """

    def __init__(self, file: IO[bytes], path: Path, encoding: str, old_mac: bool) -> None:
        self._file, self._path, self._encoding, self._old_mac = file, path, encoding, old_mac
        self._rest, self._at_start, self._line, self._end = b"", True, 1, "\r" if old_mac else "\n"
        self._decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)()

    def read(self, size: int) -> bytes:
        if self._rest:
            block, self._rest = self._rest, b""
            return block
        while raw := self._file.read(size):
            if text := self._recoded(raw):
                return text
        return self._recoded(b"")

    def _recoded(self, raw: bytes) -> bytes:
        text = raw if self._decoder is None else self._decoded(self._decoder, raw).encode()
        if text and self._at_start:
            text, self._at_start = text.removeprefix(BOM), False
        return text.replace(b"\r", b"\n") if self._old_mac else text

    def _decoded(self, decoder: codecs.IncrementalDecoder, raw: bytes) -> str:
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line = self._line + error.object[: error.start].decode(self._encoding, "replace").count(self._end)
            raise DataError(
                f"{self._path}, line {line}: byte 0x{error.object[error.start]:02x} is no {self._encoding};"
                " correct it, or name the file's encoding: --encoding latin-1"
            ) from None
        self._line += text.count(self._end)
        return text

    def readline(self) -> bytes:
        line = b""
        while b"\n" not in line and (block := self.read(lines.BLOCK)):
            line += block
        line, end, self._rest = line.partition(b"\n")
        return line + end


def _whole_rows(text: Lines, block: bytes, places: Sequence[int], mistakes: Mistakes) -> Piece:
    """Return the rows of a block that are as they should be, read one by one; note what is wrong with the others."""
    rows, there = [], []
    for where, row in text.rows(block):
        torn = next((byte for cell in row for byte in cell if "\udc80" <= byte <= "\udcff"), None)
        if torn is not None:
            begin = next(cell for cell in row if torn in cell)
            mistakes.add(
                f"{where}: byte 0x{ord(torn) - 0xDC00:02x} of {begin.encode('utf-8', 'replace').decode()[:40]!r} is no UTF-8",
                "save the file as UTF-8, or name its encoding: --encoding latin-1",
            )
        elif fault := text.fault(row):
            mistakes.add(f"{where}: {','.join(row)[:60]!r} {fault}")
        else:
            rows.append([row[k] for k in places])
            there.append(where)
    columns = [pa.array([row[k] for row in rows], pa.string()) for k in range(len(places))]
    return Piece(columns, there.__getitem__)


def _member(archive: zipfile.ZipFile, path: Path, wanted: str | None) -> str:
    """Return the name of the file that is meant in an archive."""
    names = [m.filename for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")]
    meant = names if wanted is None else [name for name in names if wanted in (name, Path(name).name)]
    if len(meant) == 1:
        return meant[0]
    told = ", ".join(Path(name).name for name in names[:10]) + (", …" if len(names) > 10 else "")
    if wanted is not None:
        raise DataError(f"{path}: holds no {wanted}, but {told or 'nothing'}")
    largest = max(archive.infolist(), key=lambda member: member.file_size, default=None)
    which = Path(largest.filename).name if largest else "FILE"
    raise DataError(f"{path}: holds {len(names)} files: {told}; name one, e.g. {path}/{which}")


def _encoding(head: bytes, path: Path, given: str | None) -> tuple[str, str]:
    """Return a text's encoding, and how to say it."""
    mark = next((mark for mark in MARKS if head.startswith(mark)), None)
    if given is None and mark is not None:
        return MARKS[mark]
    if given is not None:
        try:
            "a".encode(given)  # of some names, as hex, that is no text
            name = codecs.lookup(given).name
        except (LookupError, UnicodeError):
            raise DataError(f"--encoding {given}: is not known; there are utf-8, latin-1, cp1252, utf-16, …") from None
        return name, given
    if b"\0" in head[:1000]:
        raise DataError(f"{path}: holds zero bytes: is it text? If it is in UTF-16: --encoding utf-16")
    text = head.decode("utf-8", "surrogateescape")
    beyond = [sign for sign in text if sign > "\x7f"]
    torn = [sign for sign in beyond if "\udc80" <= sign <= "\udcff"]
    cut = len(head) == HEAD  # perhaps within a letter
    latin = len(torn) - 3 * cut >= LATIN and len(torn) == len(beyond)
    return ("cp1252", f"{ENCODINGS['cp1252']}, for it is no UTF-8") if latin else ("utf-8", "UTF-8" if beyond else "")


def _delimiter(begin: Sequence[str], path: Path) -> str:
    """Return what cuts most first lines into equally many fields, of several the one that makes the most fields."""
    best, most = "", (0.0, 0)
    for sign in DELIMITERS:
        counts = [len(row) for row in _fields(begin, sign, sign in ",;", path)]
        usual = max(set(counts), key=counts.count)
        score = (round(counts.count(usual) / len(counts), 1), usual)
        if usual > 1 and score > most and not (sign == "|" and most[1] > 1):  # | stands within cells, too
            best, most = sign, score
    if not best:
        raise DataError(
            f"{path}: its first line, {begin[0][:60]!r}, is not cut by commas, tabs, semicolons, | or ::; a table of"
            " interactions has at least a user and an item a line; name what cuts them: --delimiter"
        )
    return best


def _fields(begin: Sequence[str], sign: str, quoted: bool, path: Path) -> list[list[str]]:
    if len(sign) > 1:
        return [line.split(sign) for line in begin]
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        reader = csv.reader([f"{line}\n" for line in begin], delimiter=sign, quoting=quoting)
        return [row for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error


def _is_header(rows: Sequence[Sequence[str]], known: Sequence[str]) -> bool:
    """Tell names of columns from cells: none is a number, and a name is known, or below are numbers, or digits for letters."""
    cells = [cell.strip() for cell in rows[0]]
    if any(map(is_number, cells)):
        return False
    below = any(is_number(cell) for row in rows[1:] for cell in row) or any(
        all(map(_has_digit, column)) for head, *column in zip(*rows, strict=False) if column and not _has_digit(head)
    )
    plain = {plain_name(cell) for cell in cells}
    return (below and all(cells) and len(plain) == len(cells)) or not plain.isdisjoint(map(plain_name, known))


def _has_digit(text: str) -> bool:
    return any(sign.isdigit() for sign in text)


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain_name(name: str) -> str:
    """Return a column's name without what people write in several ways: case, blanks and signs."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())
