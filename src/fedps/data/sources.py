"""Where a data set's files come from: an archive, a folder, or its publisher.

One rule: what an archive holds is read in memory, by bare name and with a bound; nothing is unpacked to disk.
"""

import gzip
import hashlib
import http.client
import io
import os
import sys
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fedps.errors import DataError

ORIGIN = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
FILE_LIMIT = 1 << 30  # bytes of one file, unpacked
DOWNLOAD_LIMIT = 1 << 28  # bytes
TIMEOUT = 20.0  # seconds without an answer
REMEDY = (
    "fetch it yourself and give --source FILE, set FEDPS_DATA to a folder that holds ml-1m.zip, or make a twin with"
    " `fedps data synth movielens`"
)


class Place(NamedTuple):
    """An archive or folder, and the published test files where they lie beside it in `ncf/`."""

    path: Path
    test_rating: Path | None = None
    test_negatives: Path | None = None


def locate(source: str | None) -> Place:
    """Find the data: `source` if given, else in $FEDPS_DATA, else from the publisher (kept in ~/.cache/fedps).

    Raises:
        DataError: nothing is there and nothing can be downloaded.
    """
    if source is not None and not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.exists():
            raise DataError(f"--source {source}: there is no such file or folder")
        return Place(path, *_published(path.parent)) if path.name.startswith("ml-1m") else Place(path)
    shelf = os.environ.get("FEDPS_DATA")
    if source is None and shelf:
        for name in ("ml-1m.zip", "ml-1m-notime.zip"):
            if (Path(shelf) / name).is_file():
                return Place(Path(shelf) / name, *_published(Path(shelf)))
    return Place(download(source or ORIGIN))


def _published(folder: Path) -> list[Path | None]:
    found = []
    for kind in ("rating", "negative"):
        names = [folder / "ncf" / f"ml-1m.test.{kind}{end}" for end in ("", ".gz")]
        found.append(next((name for name in names if name.is_file()), None))
    return found


def download(url: str) -> Path:
    """Fetch an archive, or find it fetched before; return the file in the cache.

    Raises:
        DataError: it cannot be had, is too large, or is no archive; nothing is kept then.
    """
    kept = Path.home() / ".cache" / "fedps"
    name = hashlib.sha256(url.encode()).hexdigest()[:8] + "-" + Path(urllib.parse.urlsplit(url).path).name
    path = kept / name
    if path.is_file():
        return path
    print(f"downloading {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  (http or https, checked by locate)
            payload = answer.read(DOWNLOAD_LIMIT + 1)
        if len(payload) > DOWNLOAD_LIMIT or not zipfile.is_zipfile(io.BytesIO(payload)):
            raise DataError(f"{url}: is over {DOWNLOAD_LIMIT} bytes or no zip archive; {REMEDY}")
        kept.mkdir(parents=True, exist_ok=True)
        scratch = kept / f"{name}.{os.getpid()}.part"
        scratch.write_bytes(payload)
        scratch.rename(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"{url}: cannot be downloaded: {error}; {REMEDY}") from error
    return path


class Files:
    """The files of an archive or a folder, by their bare names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = None if path.is_dir() else zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: is no zip archive: {error}") from error

    def holds(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return (self.path / name).is_file() if self._zip is None else self._member(name) is not None

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: there is none of this name, it is damaged, or larger than `FILE_LIMIT`.
        """
        if not self.holds(name):
            raise DataError(f"{self.path}: holds no {name}; give the archive or folder as its publisher made it")
        try:
            return self._read(name)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            # RuntimeError: encrypted; NotImplementedError, a kind of it: an unknown compression
            raise DataError(f"{self.path}: {name} cannot be read: {error}; fetch it again") from error

    def _read(self, name: str) -> bytes:
        member = self._member(name)
        size = member.file_size if member else (self.path / name).stat().st_size
        if size > FILE_LIMIT:
            raise DataError(f"{self.path}: {name} has {size} bytes, over the limit of {FILE_LIMIT}")
        if self._zip is None or member is None:
            return (self.path / name).read_bytes()
        return self._zip.read(member)  # no more than file_size, whatever the packed bytes would unpack to

    def _member(self, name: str) -> zipfile.ZipInfo | None:
        members = self._zip.infolist() if self._zip else []
        return next((m for m in members if m.filename.rpartition("/")[2] == name), None)


def lines(path: Path) -> list[str]:
    """Return the lines of a text file, plain or gzipped.

    Raises:
        DataError: it cannot be read, or is larger than `FILE_LIMIT`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            payload = file.read(FILE_LIMIT + 1)
        if len(payload) > FILE_LIMIT:
            raise DataError(f"{path}: is over the limit of {FILE_LIMIT} bytes")
        return payload.decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
