"""Published files: found in a folder of the user's, in $FEDPS_DATA or at their publisher, and read with a bound.

A file is a zip archive, plain or gzipped text; nothing is unpacked to disk. A download is kept in a cache, where a file is
always whole. Whatever is wrong with one is a `DataError` that names the file and, where there is one, the line.
"""

import csv
import gzip
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from fedps.cache import cache_folder
from fedps.errors import DataError
from fedps.storage.whole import CLOSED, make_folder, open_whole

ORIGIN = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
SHA256 = {ORIGIN: "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"}  # as published; of others unknown
SHELF = ("ml-1m.zip", "ml-1m-notime.zip")  # what is looked for in $FEDPS_DATA, in this order
LIMIT = 1 << 28  # bytes of a download, and of one file unpacked; the largest of ML-1M has 25 MB
SILENCE = 20.0  # seconds without a byte until a download is given up
CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
OTHERS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")  # how other archives begin
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
TORN = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what hostile archives raise
NUMBER = re.compile(r"[0-9]{1,18}")  # all fit int64


def locate(source: str | None) -> Path:
    """Find the archive or folder, downloading it if it is a URL or nothing is at hand.

    Raises:
        DataError: nothing is there, or it cannot be downloaded.
    """
    if source is not None and not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.exists():
            raise DataError(f"--source {source}: there is no such file or folder")
        return path
    shelf = os.environ.get("FEDPS_DATA")
    if source is None and shelf:
        for name in SHELF:
            if (Path(shelf) / name).is_file():
                return Path(shelf) / name
    return download(source or ORIGIN)


def download(url: str) -> Path:
    """Return the cached file of an address, fetched first if there is none.

    Raises:
        DataError: it cannot be fetched, is cut off, over `LIMIT`, no zip archive, or not the one that is known.
    """
    name = PurePosixPath(re.split("[?#]", url)[0]).name
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:12]  # names may clash
    if (folder / name).is_file():
        day = time.strftime("%Y-%m-%d", time.localtime((folder / name).stat().st_mtime))
        print(f"{url}: as it was fetched on {day}; remove {folder / name} to fetch it anew", file=sys.stderr)
        return folder / name
    print(f"downloading {url}", file=sys.stderr)
    try:
        make_folder(folder, CLOSED)  # what is compiled lies beside it, and must not be others' to write
        with open_whole(folder / name) as (file,):
            _fetch(url, file)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"{url}: cannot be downloaded: {error}; fetch it yourself and give --source FILE, set FEDPS_DATA to a folder"
            " that holds ml-1m.zip, or make a twin with `fedps data synth movielens`"
        ) from error
    return folder / name


def _fetch(url: str, out: IO[bytes]) -> None:
    """Write what the address answers to `out`; fail unless it is whole, a zip archive and, where that is known, the one."""
    with urllib.request.urlopen(url, timeout=SILENCE) as answer:  # noqa: S310  (http or https, checked by locate)
        _copy(answer, out)
        promised = answer.headers.get("Content-Length")
    out.flush()
    if promised is not None and out.tell() != int(promised):  # http.client takes a short answer for an end
        raise OSError(f"cut off after {out.tell()} of {promised} bytes")
    if not zipfile.is_zipfile(out.name):
        head = Path(out.name).read_bytes()[:20]
        raise OSError(f"the answer is no zip archive: it begins with {head!r}")
    with Path(out.name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256.get(url, digest):
        raise OSError(f"the answer is not the published file: its SHA-256 is {digest}")


def _copy(answer: Any, out: IO[bytes]) -> None:
    while chunk := answer.read(CHUNK):
        out.write(chunk)
        if out.tell() > LIMIT:
            raise OSError(f"the answer has more than {LIMIT} bytes")


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
                members = [m for m in archive.infolist() if _name_of(m) == name]
                if len(members) > 1:
                    raise DataError(f"{self.path}: holds {name} {len(members)} times; leave one")
                return self._unpack(archive, members[0]) if members else None
        except TORN as error:
            raise DataError(f"{self.path}: {_is_no_zip(self.path)}: {error}; {_remedy(self.path)}") from error

    @property
    def names(self) -> list[str]:
        """The names of what it holds, in their order. Raises OSError, or what a torn archive raises."""
        if self.path.is_dir():
            return sorted(entry.name for entry in self.path.iterdir())
        with zipfile.ZipFile(self.path) as archive:
            return sorted(filter(None, map(_name_of, archive.infolist())))

    def _unpack(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        where = f"{self.path}: {member.filename}"
        if member.file_size > LIMIT:
            raise DataError(f"{where} would unpack to {member.file_size} bytes; at most {LIMIT} are read")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
            raise DataError(f"{where} is packed by method {member.compress_type}; pack it with zip's own (deflate)")
        with archive.open(member) as stream:  # asked for one byte more than said, a false size cannot fill memory
            return _plain(stream.read(member.file_size + 1))


def _name_of(member: zipfile.ZipInfo) -> str:
    """Return a file's bare name; of a folder, and of what a Mac adds, nothing. Some write backslashes into an archive."""
    path = PureWindowsPath(member.filename)
    return "" if member.is_dir() or path.parts[:1] == ("__MACOSX",) else path.name


def _remedy(path: Path) -> str:
    """Say what to do about a file that is no archive: one that is not packed at all may be just what is meant."""
    with suppress(OSError), path.open("rb") as file:
        if file.read(8).startswith(OTHERS):
            return "unpack it, and name the folder"
    packed = path.suffix in ("", ".zip", ".gz", ".part")
    return "fetch it again" if packed else f"name the archive, or the folder that this file lies in: {path.parent}"


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
    return _plain(payload)


def _plain(payload: bytes) -> bytes:
    """Return text without its byte order mark, as bytes a letter, and with line ends that are known today."""
    if payload.startswith(UTF_16):
        payload = payload.decode("utf-16", "replace").encode()
    return payload.removeprefix(BOM) if b"\n" in payload else payload.removeprefix(BOM).replace(b"\r", b"\n")


def lines(
    payload: bytes, origin: str, separator: str, count: int, quoted: bool = False
) -> Iterator[tuple[str, list[str]]]:
    r"""Yield each line's place, for messages, and its fields; blank lines are passed over.

    Args:
        payload: text, UTF-8 as the newer MovieLens has it, or else Latin-1 (so any byte is text).
        origin: the file's name.
        separator: between fields.
        count: how many fields a line has.
        quoted: a field in quotes may hold the separator.

    Raises:
        DataError: a line has another number of fields.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = payload.decode("latin-1")
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        if line.strip():
            fields = next(csv.reader([line], delimiter=separator)) if quoted else line.split(separator)
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
