"""MovieLens in the NCF split: leave one out, ids by first appearance.

From the published archives (ml-1m, ml-100k), from one without most timestamps, or from a folder of the same files.
Archives are read member by member in memory, with a bound; nothing is unpacked to disk.
"""

import gzip
import io
import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.data import prepared
from fedps.data.prepared import TEST_NEGATIVES, Interactions, Split
from fedps.errors import DataError

ORIGIN = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
MEMBER_LIMIT = 1 << 30  # bytes of one file within an archive
DOWNLOAD_LIMIT = 1 << 28
Ids = NDArray[np.int64]


class Ratings(NamedTuple):
    """The file's rows: user, movie and time int64[n], as published."""

    user: Ids
    movie: Ids
    time: Ids


def prepare(
    out: Path, source: str | None = None, split: Split | None = None, per_positive: int = 4,
    test_rating: Path | None = None, test_negatives: Path | None = None, seed: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """Prepare MovieLens for federated training; return the manifest.

    Args:
        out: the folder to make.
        source: archive, folder or URL; None looks in $FEDPS_DATA, then downloads ML-1M from its publisher.
        split: how users become clients; by zip code if None.
        per_positive: negatives drawn for each training positive.
        test_rating: the published test positives (`ml-1m.test.rating`, plain or .gz), else each user's latest.
        test_negatives: the published test negatives (`ml-1m.test.negative`), else drawn.
        seed: of all draws.

    Raises:
        DataError: a file is missing or not what it should be, or `out` holds something else.
    """
    path, found_rating, found_negatives = locate(source)
    files = _Files(path)
    ratings, zip_codes, titles = _read(files)
    movies, first = np.unique(ratings.movie, return_index=True)
    ids = np.empty(len(movies), np.int64)
    ids[np.argsort(first)] = np.arange(len(movies))  # an item's id is its rank of first appearance
    item = ids[np.searchsorted(movies, ratings.movie)]
    user = ratings.user - 1
    held_out = _held_out(user, item, ratings.time, test_rating or found_rating)
    order = np.flatnonzero(~held_out)
    order = order[np.argsort(user[order], kind="stable")]
    test_item = np.full(int(user.max()) + 1, -1)
    test_item[user[held_out]] = item[held_out]
    data = Interactions(
        user[order], item[order], test_item, _negatives(test_negatives or found_negatives, test_item), zip_codes,
        len(movies), path.name, [titles.get(int(m), "") for m in movies[np.argsort(first)]],
    )  # fmt: skip
    return prepared.write(out, data, split or Split(), per_positive, seed)


def locate(source: str | None) -> tuple[Path, Path | None, Path | None]:
    """Find the archive or folder, and the published test files where they lie beside it.

    Raises:
        DataError: nothing is there and nothing can be downloaded.
    """
    if source is not None and not source.startswith(("http://", "https://")):
        path = Path(source)
        if not path.exists():
            raise DataError(f"--source {source}: there is no such file or folder")
        return (path, *_published(path.parent)) if "1m" in path.name else (path, None, None)
    shelf = os.environ.get("FEDPS_DATA")
    if source is None and shelf:
        for name in ("ml-1m.zip", "ml-1m-notime.zip"):
            if (Path(shelf) / name).is_file():
                return (Path(shelf) / name, *_published(Path(shelf)))
    return _download(source or ORIGIN), None, None


def _published(folder: Path) -> tuple[Path | None, Path | None]:
    found = []
    for kind in ("rating", "negative"):
        names = [folder / "ncf" / f"ml-1m.test.{kind}{end}" for end in ("", ".gz")]
        found.append(next((n for n in names if n.is_file()), None))
    return found[0], found[1]


def _download(url: str) -> Path:
    path = Path.home() / ".cache" / "fedps" / Path(url).name
    if path.is_file():
        return path
    print(f"downloading {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (http or https, checked by locate)
            payload = answer.read(DOWNLOAD_LIMIT)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".part")
        scratch.write_bytes(payload)
        scratch.rename(path)
    except (OSError, urllib.error.URLError) as error:
        raise DataError(
            f"{url}: cannot be downloaded: {error}; fetch it yourself and give --source FILE, set FEDPS_DATA to a folder"
            " that holds ml-1m.zip, or make a twin with `fedps data synth movielens`"
        ) from error
    return path


class _Files:
    """The files of an archive or a folder, by their bare names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = None if path.is_dir() else zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: is no zip archive: {error}") from error

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None if there is none of this name."""
        if self._zip is None:
            file = self.path / name
            return file.read_bytes() if file.is_file() else None
        for member in self._zip.infolist():
            if Path(member.filename).name == name:
                if member.file_size > MEMBER_LIMIT:
                    raise DataError(
                        f"{self.path}: {name} would unpack to {member.file_size} bytes, over {MEMBER_LIMIT}"
                    )
                return self._zip.read(member)
        return None


def _read(files: _Files) -> tuple[Ratings, list[str], dict[int, str]]:
    ratings = files.read("ratings.dat")
    if ratings is not None:
        users, movies = files.read("users.dat") or b"", files.read("movies.dat") or b""
        rows = [line.split("::") for line in movies.decode("latin-1").splitlines() if line]
        codes = [line.split("::")[4] for line in users.decode("latin-1").splitlines() if line]
        return _table(ratings.replace(b"::", b","), ",", files.path), codes, {int(r[0]): r[1] for r in rows}
    ratings = files.read("u.data")
    if ratings is None:
        raise DataError(f"{files.path}: holds neither ratings.dat (ML-1M) nor u.data (ML-100k)")
    users, movies = files.read("u.user") or b"", files.read("u.item") or b""
    rows = [line.split("|") for line in movies.decode("latin-1").splitlines() if line]
    codes = [line.split("|")[4] for line in users.decode("latin-1").splitlines() if line]
    return _table(ratings, "\t", files.path), codes, {int(r[0]): r[1] for r in rows}


def _table(payload: bytes, delimiter: str, path: Path) -> Ratings:
    names = ["user", "movie", "rating", "time"]
    try:
        table = arrow.read_csv(
            io.BytesIO(payload), arrow.ReadOptions(column_names=names), arrow.ParseOptions(delimiter=delimiter),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.int64())),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: the ratings cannot be read: {error}") from error
    return Ratings(*(table[n].to_numpy() for n in ("user", "movie", "time")))


def _held_out(user: Ids, item: Ids, time: Ids, published: Path | None) -> NDArray[np.bool_]:
    """Mark each user's test row: the published one, else the latest (of several, the last in the file)."""
    mark = np.zeros(len(user), bool)
    if published is None:
        order = np.lexsort((np.arange(len(user)), time, user))
        mark[order[np.flatnonzero(np.append(np.diff(user[order]), 1))]] = True
        return mark
    rows = np.array([line.split("\t")[:2] for line in _lines(published)], np.int64)
    width = int(max(item.max(), rows[:, 1].max())) + 1
    mark = np.isin(user * width + item, rows[:, 0] * width + rows[:, 1])
    if mark.sum() != len(rows):
        raise DataError(
            f"{published}: {len(rows)} test rows, of which {mark.sum()} are among the ratings: of another data set?"
        )
    return mark


def _negatives(published: Path | None, test_item: Ids) -> Ids | None:
    if published is None:
        return None
    rows = np.array([line.split("\t")[1:] for line in _lines(published)], np.int64)
    if rows.shape != (len(test_item), TEST_NEGATIVES):
        raise DataError(f"{published}: {rows.shape} negatives for {len(test_item)} users; each needs {TEST_NEGATIVES}")
    return rows


def _lines(path: Path) -> list[str]:
    try:
        payload = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return payload.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
