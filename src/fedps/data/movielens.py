"""MovieLens in the NCF split: leave one out, ids by first appearance.

From the published archives (ml-1m, ml-100k), from one without most timestamps, or from a folder of the same files. A
user's id is the published one less 1; an item's is its rank of first appearance in the ratings.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.data import prepared
from fedps.data.prepared import TEST_NEGATIVES, Interactions, Split
from fedps.data.sources import Files, lines, locate
from fedps.errors import DataError

Ids = NDArray[np.int64]


class Source(NamedTuple):
    """What a release holds, as published: user, movie, time int64[n], one entry a rating; the rest by published id."""

    user: Ids
    movie: Ids
    time: Ids
    zip_codes: Mapping[int, str]
    titles: Mapping[int, str]


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
    place = locate(source)
    found = _read(Files(place.path))
    num_users = _count_users(found, place.path)
    movies, item = _rank(found.movie)
    user = found.user - 1
    held_out = _held_out(user, item, found.time, test_rating or place.test_rating)
    test_item = np.empty(num_users, np.int64)
    test_item[user[held_out]] = item[held_out]
    train = np.flatnonzero(~held_out)
    train = train[np.argsort(user[train], kind="stable")]
    data = Interactions(
        user=user[train],
        item=item[train],
        test_item=test_item,
        test_negatives=_negatives(test_negatives or place.test_negatives, test_item, len(movies)),
        zip_codes=[found.zip_codes[u] for u in range(1, num_users + 1)],
        num_items=len(movies),
        source=place.path.name,
        titles=[found.titles.get(int(movie), "") for movie in movies] if found.titles else [],
    )
    return prepared.write(out, data, split or Split(), per_positive, seed)


def _read(files: Files) -> Source:
    if files.holds("ratings.dat"):
        ratings = _ratings(files.read("ratings.dat").replace(b"::", b","), ",", files.path / "ratings.dat")
        return Source(*ratings, _column(files, "users.dat", "::", 4), _titles(files, "movies.dat", "::"))
    if files.holds("u.data"):
        ratings = _ratings(files.read("u.data"), "\t", files.path / "u.data")
        return Source(*ratings, _column(files, "u.user", "|", 4), _titles(files, "u.item", "|"))
    raise DataError(f"{files.path}: holds neither ratings.dat (ML-1M) nor u.data (ML-100k)")


def _ratings(payload: bytes, delimiter: str, where: Path) -> tuple[Ids, Ids, Ids]:
    names = ["user", "movie", "rating", "time"]
    try:
        table = arrow.read_csv(
            io.BytesIO(payload),
            arrow.ReadOptions(column_names=names),
            arrow.ParseOptions(delimiter=delimiter),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: the ratings cannot be read: {error}") from error
    return table["user"].to_numpy(), table["movie"].to_numpy(), table["time"].to_numpy()


def _titles(files: Files, name: str, separator: str) -> dict[int, str]:
    return _column(files, name, separator, 1) if files.holds(name) else {}


def _column(files: Files, name: str, separator: str, column: int) -> dict[int, str]:
    """Map each line's first field, a published id, to the field at `column`."""
    found = {}
    for number, line in enumerate(files.read(name).decode("latin-1").split("\n"), 1):
        fields = line.strip().split(separator)
        if fields == [""]:
            continue
        if not fields[0].isdecimal() or len(fields) <= column:
            raise DataError(f"{files.path / name}, line {number}: {line[:80]!r} is no id and {column} fields more")
        found[int(fields[0])] = fields[column]
    return found


def _count_users(found: Source, path: Path) -> int:
    """Return the number of users, once sure that they are 1 to n and each has a rating and a zip code."""
    users = np.unique(found.user)
    gaps = np.flatnonzero(users != np.arange(1, len(users) + 1))
    if len(gaps):
        raise DataError(f"{path}: user {users[gaps[0]]} has ratings, but not user {gaps[0] + 1}; ids must run from 1 on")
    homeless = next((u for u in range(1, len(users) + 1) if u not in found.zip_codes), None)
    if homeless is not None:
        raise DataError(f"{path}: user {homeless} has ratings, but no line in the file of users")
    return len(users)


def _rank(movie: Ids) -> tuple[Ids, Ids]:
    """Return the movies in order of first appearance, and each rating's movie as a position in that order."""
    movies, first = np.unique(movie, return_index=True)
    order = np.argsort(first)
    rank = np.empty(len(movies), np.int64)
    rank[order] = np.arange(len(movies))
    return movies[order], rank[np.searchsorted(movies, movie)]


def _held_out(user: Ids, item: Ids, time: Ids, published: Path | None) -> NDArray[np.bool_]:
    """Mark each user's test row: the published one, else the latest (of several, the last in the file)."""
    mark = np.zeros(len(user), bool)
    if published is None:
        order = np.lexsort((time, user))  # stable: of equal times the last in the file comes last
        mark[order[np.flatnonzero(np.append(np.diff(user[order]), 1))]] = True
        return mark
    rows = _numbers(published, 4)[:, :2]
    width = max(int(item.max()), int(rows[:, 1].max())) + 1
    mark = np.isin(user * width + item, rows[:, 0] * width + rows[:, 1])
    if not np.array_equal(np.sort(user[mark]), np.unique(user)):
        raise DataError(
            f"{published}: of its {len(rows)} test rows {mark.sum()} are among the ratings, and not one for each of the"
            f" {len(np.unique(user))} users: it is of another data set"
        )
    return mark


def _negatives(published: Path | None, test_item: Ids, num_items: int) -> Ids | None:
    """Return the published negatives in order of users, once sure that they are for these test items."""
    if published is None:
        return None
    rows = _numbers(published, 2 + TEST_NEGATIVES)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    if not np.array_equal(rows[:, :2], np.column_stack([np.arange(len(test_item)), test_item])):
        raise DataError(f"{published}: is for other test rows than these; give the --test-rating that belongs to it")
    if rows.min() < 0 or rows.max() >= num_items:
        raise DataError(f"{published}: names item {rows[:, 2:].max()}, but there are only {num_items}")
    return rows[:, 2:]


def _numbers(path: Path, columns: int) -> Ids:
    """Read lines of whole numbers between tabs, the first two perhaps as `(user,item)`: int64[n, columns]."""
    rows = []
    for number, line in enumerate(lines(path), 1):
        fields = line.translate({ord("("): None, ord(")"): None, ord(","): "\t"}).split("\t")
        if len(fields) != columns or not all(field.isdecimal() and len(field) <= 18 for field in fields):
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not {columns} whole numbers")
        rows.append([int(field) for field in fields])
    if not rows:
        raise DataError(f"{path}: is empty")
    return np.array(rows, np.int64)
