"""Where MovieLens comes from: a file or folder of the user's, $FEDPS_DATA, or its publisher, kept in a cache."""

import hashlib
import http.client
import os
import re
import sys
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fedps.errors import DataError
from fedps.storage.whole import CLOSED, make_folder, open_whole

ORIGIN = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
SHELF = ("ml-1m.zip", "ml-1m-notime.zip")  # what is looked for in $FEDPS_DATA, in this order
DOWNLOAD_LIMIT = 1 << 28  # bytes
SILENCE = 20.0  # seconds without a byte until a download is given up
CHUNK = 1 << 20


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
    """Return the cached file of an address, fetched first if there is none; a file in the cache is always whole.

    Raises:
        DataError: it cannot be fetched, is cut off, over `DOWNLOAD_LIMIT` or no zip archive.
    """
    name = PurePosixPath(re.split("[?#]", url)[0]).name
    folder = Path.home() / ".cache" / "fedps" / hashlib.sha256(url.encode()).hexdigest()[:12]  # names may clash
    if (folder / name).is_file():
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
    """Write what the address answers to `out`; fail unless it is whole and a zip archive."""
    with urllib.request.urlopen(url, timeout=SILENCE) as answer:  # noqa: S310  (http or https, checked by locate)
        _copy(answer, out)
        promised = answer.headers.get("Content-Length")
    out.flush()
    if promised is not None and out.tell() != int(promised):  # http.client takes a short answer for an end
        raise OSError(f"cut off after {out.tell()} of {promised} bytes")
    if not zipfile.is_zipfile(out.name):
        head = Path(out.name).read_bytes()[:20]
        raise OSError(f"the answer is no zip archive: it begins with {head!r}")


def _copy(answer: Any, out: IO[bytes]) -> None:
    while chunk := answer.read(CHUNK):
        out.write(chunk)
        if out.tell() > DOWNLOAD_LIMIT:
            raise OSError(f"the answer has more than {DOWNLOAD_LIMIT} bytes")
