"""Published files: zip archives, folders, plain or gzipped text; read with a bound, nothing unpacked to disk.

Whatever is wrong with one is a `DataError` that names the file and, where there is one, the line.
"""

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fedps.errors import DataError

LIMIT = 1 << 28  # bytes of one file, unpacked; the largest of ML-1M has 25 MB
BOM = b"\xef\xbb\xbf"
TORN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what hostile archives raise
NUMBER = re.compile(r"[0-9]{1,18}")  # all fit int64


class Archive:
    """The files of a zip archive or a folder, by their bare names.

    Args:
        path: the archive or folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None if there is none of this name.

        Raises:
            DataError: no zip archive, a torn, encrypted or ambiguous one, or a file over `LIMIT`.
        """
        if self.path.is_dir():
            return read_file(self.path / name) if (self.path / name).exists() else None
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = [m for m in archive.infolist() if PurePosixPath(m.filename).name == name]
                if len(members) > 1:
                    raise DataError(f"{self.path}: holds {name} {len(members)} times; leave one")
                return self._unpack(archive, members[0]) if members else None
        except TORN as error:
            raise DataError(f"{self.path}: {_is_no_zip(self.path)}: {error}; fetch it again") from error

    def _unpack(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        where = f"{self.path}: {member.filename}"
        if member.file_size > LIMIT:
            raise DataError(f"{where} would unpack to {member.file_size} bytes; at most {LIMIT} are read")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
            raise DataError(f"{where} is packed by method {member.compress_type}; pack it with zip's own (deflate)")
        with archive.open(member) as stream:  # asked for one byte more than said, a false size cannot fill memory
            return stream.read(member.file_size + 1).removeprefix(BOM)


def _is_no_zip(path: Path) -> str:
    if zipfile.is_zipfile(path):
        return "is a torn or encrypted zip archive"
    try:
        with path.open("rb") as file:
            return f"is no zip archive, or a torn one (it begins with {file.read(20)!r})"
    except OSError:
        return "cannot be read"


def read_file(path: Path) -> bytes:
    """Return a file's bytes, unpacked if they are gzipped, without a byte order mark.

    Raises:
        DataError: missing, torn, or over `LIMIT` bytes.
    """
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            payload = gzip.GzipFile(fileobj=file).read(LIMIT + 1) if zipped else file.read(LIMIT + 1)
    except TORN as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(payload) > LIMIT:
        raise DataError(f"{path}: holds more than {LIMIT} bytes, which is no file of MovieLens")
    return payload.removeprefix(BOM)


def lines(payload: bytes, origin: str, separator: str, count: int) -> Iterator[tuple[str, list[str]]]:
    r"""Yield each line's place, for messages, and its fields; blank lines are passed over.

    Args:
        payload: text, Latin-1 as MovieLens has it (so any byte is text); lines end with \n or \r\n.
        origin: the file's name.
        separator: between fields.
        count: how many fields a line has.

    Raises:
        DataError: a line has another number of fields.
    """
    for number, line in enumerate(payload.decode("latin-1").split("\n"), 1):
        if line.strip():
            fields = line.rstrip("\r").split(separator)
            if len(fields) != count:
                raise DataError(
                    f"{origin}, line {number}: {line[:60]!r}: has {len(fields)} fields separated by {separator!r};"
                    f" {count} are expected"
                )
            yield f"{origin}, line {number}", fields


def whole(text: str, where: str, name: str) -> int:
    """Return a field's number.

    Raises:
        DataError: it is no whole number from 0 on, or has more than 18 digits.
    """
    if not NUMBER.fullmatch(text.strip()):
        raise DataError(f"{where}: {name} {text[:30]!r} is no whole number from 0 on")
    return int(text)
