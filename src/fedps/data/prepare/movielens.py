"""MovieLens in the NCF split: leave one out, ids by first appearance.

From the published archives (ml-1m, ml-10m, ml-100k, ml-latest, ml-latest-small), from one without most timestamps, or from
a folder of the same files. Stars are not looked at: whatever a user rated, it took.

An item's id is its rank of first appearance in the ratings. A user's is the rank of the UserID among those with
ratings: UserID - 1 in the published files, where UserIDs run from 1 without a gap, as NCF has it. Where they do not,
ids stay without a gap all the same, and `users/<client>.csv` tells which is whose.
"""

import io
import re
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.data.catalogue import Catalogue
from fedps.data.negatives import History, Ids
from fedps.data.prepare import published
from fedps.data.prepare import write as prepared
from fedps.data.prepare.published import MisfitError
from fedps.data.prepare.source import NUMBER, Archive, lines, locate, whole
from fedps.data.prepare.write import Interactions, Partition, Split
from fedps.errors import DataError

COLUMNS = ("user", "movie", "rating", "time")


class Form(NamedTuple):
    """How a data set names its files, and separates and counts their fields; the zip code is a user's fifth.

    Attributes:
        ratings, users, movies: names of files.
        between: separates the fields of a rating.
        within: separates those of a user and of a movie.
        movie_fields: how many a movie has.
        header: the first line of ratings; empty if there is none. Movies have one too then, and quoted fields.
    """

    ratings: str
    between: str
    users: str
    movies: str
    within: str
    movie_fields: int
    header: str = ""


ML_1M = Form("ratings.dat", "::", "users.dat", "movies.dat", "::", 3)
ML_100K = Form("u.data", "\t", "u.user", "u.item", "|", 24)
ML_LATEST = Form("ratings.csv", ",", "users.csv", "movies.csv", ",", 3, "userId,movieId,rating,timestamp")
STARS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,2})?")


class Ratings(NamedTuple):
    """The rows of a file of ratings, as published; int64[n] each, the time in seconds since 1970, and stars float64[n]."""

    user: Ids
    movie: Ids
    time: Ids
    stars: NDArray[np.float64]


class HoldOut(NamedTuple):
    """What is held out for testing.

    Attributes:
        test_item: int64[num_users], each user's.
        negatives: int64[num_users, 99], or None to draw them.
        origin: where the test items come from: a file's name, or `latest`.
    """

    test_item: Ids
    negatives: Ids | None
    origin: str


def prepare(
    out: Path, source: str | None = None, split: Split | Partition | None = None, per_positive: int = 4,
    test_rating: Path | None = None, test_negatives: Path | None = None, seed: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """Prepare MovieLens for federated training; return the manifest.

    Published ML-1M test files that lie in `ncf` beside the source are used if they fit its ratings exactly and no test
    file is given; a line on stderr says so.

    Args:
        out: the folder to make.
        source: archive, folder or URL; None looks in $FEDPS_DATA, then downloads ML-1M from its publisher.
        split: how users become clients, or a function that says so; by zip code if None.
        per_positive: negatives drawn for each training positive; with 0 the training files hold positives only.
        test_rating: the published test positives (`ml-1m.test.rating`, plain or .gz), else each user's latest.
        test_negatives: the published test negatives (`ml-1m.test.negative`), else drawn.
        seed: of all draws.

    Raises:
        DataError: a file is missing or not what it should be, or `out` holds something else.
    """
    archive, form, ratings, users, movies, user, item = read_numbered(source)
    split = split or Split()
    history = History(user, item, len(users), len(movies))
    test = _hold_out(archive.path, form, history, (user, item, ratings.time), test_rating, test_negatives)
    order = np.flatnonzero(item != test.test_item[user])
    order = order[np.argsort(user[order], kind="stable")]
    zip_codes = _zip_codes(archive, form, users)
    if not zip_codes and isinstance(split, Split) and split.kind in ("zipcode", "dirichlet"):
        raise DataError(
            f"{archive.path}: holds no {form.users}, which tells users' zip codes; use --partition iid or quantity"
        )
    data = Interactions(
        user[order], item[order], len(users), len(movies), np.arange(len(users)), test.test_item, test.negatives,
        archive.path.resolve().name, zip_codes, catalogue_of(archive, form, movies), texts(users), test_origin=test.origin,
    )  # fmt: skip
    return prepared.write(out, data, split, per_positive, seed, {"split": "leave-one-out"})


class Numbered(NamedTuple):
    """An archive's ratings, whose users are numbered by their ids, and movies by their first appearance.

    Attributes:
        archive, form: from where, and how it is written.
        ratings: as it has them.
        users, movies: their ids, int64, by number.
        user, item: each rating's numbers, int64[n].
    """

    archive: Archive
    form: Form
    ratings: Ratings
    users: Ids
    movies: Ids
    user: Ids
    item: Ids


def read_numbered(source: str | None) -> Numbered:
    """Read the ratings of an archive, a folder or a URL; None as for `prepare`. Errors as for `read_ratings`."""
    archive = Archive(locate(source))
    form, ratings = read_ratings(archive)
    users, user = np.unique(ratings.user, return_inverse=True)
    movies, item = by_appearance(ratings.movie)
    return Numbered(archive, form, ratings, users, movies, user, item)


def read_ratings(archive: Archive) -> tuple[Form, Ratings]:
    """Return an archive's ratings, and the form it has.

    Raises:
        DataError: it holds none, or a line is malformed; names file and line.
    """
    for form in (ML_1M, ML_100K, ML_LATEST):
        payload = archive.read(form.ratings)
        if payload is not None:
            return form, _table(payload, form, f"{archive.path}: {form.ratings}")
    names = archive.names
    raise DataError(
        f"{archive.path}: holds neither ratings.dat (ML-1M, ML-10M) nor u.data (ML-100k) nor ratings.csv (ml-latest), but"
        f" {', '.join(names[:5]) or 'nothing'}{', …' if names[5:] else ''}"
    )


def _table(payload: bytes, form: Form, origin: str) -> Ratings:
    if not payload.strip():
        raise DataError(f"{origin}: is empty")
    first = payload.partition(b"\n")[0].decode("latin-1").strip()
    if form.header and first != form.header:
        raise DataError(f"{origin}, line 1: {first[:60]!r}: is not MovieLens' header {form.header}")
    if not form.header and b"," in payload:  # a comma is about to mean a separator
        _name_the_line(payload, form, origin, "holds a comma")
    try:
        table = arrow.read_csv(
            io.BytesIO(payload.replace(form.between.encode(), b",")),
            arrow.ReadOptions(column_names=COLUMNS, skip_rows=bool(form.header)), arrow.ParseOptions(quote_char=False),
            arrow.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.int64()) | {"rating": pa.float64()}, null_values=[]),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        _name_the_line(payload, form, origin, str(error))
    user, movie, rating, time = (table[name].to_numpy() for name in COLUMNS)
    if not len(user):
        raise DataError(f"{origin}: holds no rating")
    odd = min(user.min(), movie.min(), rating.min()) < 0 or not np.isfinite(rating).all()
    if odd or b"x" in payload or b"X" in payload:
        _name_the_line(payload, form, origin, "holds a number below 0, none, or one in hexadecimal")
    _check_once(user, movie, origin)
    return Ratings(user, movie, time, rating)


def _name_the_line(payload: bytes, form: Form, origin: str, why: str) -> NoReturn:
    """Find the first bad line the slow way, and say what is wrong with it."""
    for where, fields in islice(lines(payload, origin, form.between, len(COLUMNS)), bool(form.header), None):
        for text, name in zip(fields[:2], COLUMNS, strict=False):
            whole(text, where, name)
        if not STARS.fullmatch(fields[2].strip()):
            raise DataError(f"{where}: rating {fields[2][:30]!r} is no number from 0 on")
        if not re.fullmatch(f"-?{NUMBER.pattern}", fields[3].strip()):  # times before 1970 are below 0
            raise DataError(f"{where}: time {fields[3][:30]!r} is no whole number")
    raise DataError(f"{origin}: cannot be read: {why}")


def _check_once(user: Ids, movie: Ids, origin: str) -> None:
    """Make sure that nobody rated a movie twice: one row would train what the other tests."""
    order = np.lexsort((movie, user))
    again = (np.diff(user[order]) == 0) & (np.diff(movie[order]) == 0)
    if again.any():
        row = order[1:][again].min()
        raise DataError(
            f"{origin}: user {user[row]} rated movie {movie[row]} more than once (again in rating {row + 1}); leave one"
        )


def by_appearance(movie: Ids) -> tuple[Ids, Ids]:
    """Return the movies in order of first appearance, int64[num_items], and each rating's rank there, int64[n]."""
    movies, first, place = np.unique(movie, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(movies), np.int64)
    rank[order] = np.arange(len(movies))
    return movies[order], rank[place]


def _hold_out(
    path: Path, form: Form, history: History, rows: tuple[Ids, Ids, Ids], rating: Path | None, negatives: Path | None
) -> HoldOut:
    """Choose what is held out: by the files that are given, else by those that lie beside, else each user's latest."""
    if rating is None and negatives is None and form is ML_1M and (test := _published(path, history)):
        return test
    test_item = _latest(*rows) if rating is None else published.read_positives(rating, history)
    drawn = None if negatives is None else published.read_negatives(negatives, test_item, history)
    return HoldOut(test_item, drawn, rating.name if rating else "latest")


def _published(path: Path, history: History) -> HoldOut | None:
    """Return what the files that lie beside the source hold out, None if there are none or they do not fit it."""
    files = published.beside(path.parent)
    if files is None:
        return None
    try:
        test_item = published.read_positives(files[0], history)
        test = HoldOut(test_item, published.read_negatives(files[1], test_item, history), files[0].name)
    except MisfitError as error:
        print(f"not used, for it does not fit {path}: {error}", file=sys.stderr)
        return None
    print(f"held out as published: {files[0]} and {files[1].name}", file=sys.stderr)
    return test


def _latest(user: Ids, item: Ids, time: Ids) -> Ids:
    """Return each user's latest item, of several the last in the file: int64[num_users]."""
    order = np.lexsort((time, user))  # stable: of equal times, the file's order
    return item[order[np.flatnonzero(np.append(np.diff(user[order]), 1))]]


def _zip_codes(archive: Archive, form: Form, users: Ids) -> list[str]:
    """Return the zip codes of the users with ratings, matched by UserID: the file may have any order; none without it."""
    payload, origin = archive.read(form.users), f"{archive.path}: {form.users}"
    if payload is None or form.header:
        return []
    codes: dict[int, str] = {}
    for where, fields in lines(payload, origin, form.within, 5):
        user = whole(fields[0], where, "user")
        if user in codes:
            raise DataError(f"{where}: user {user} has a line already; leave one")
        codes[user] = fields[4].strip()
    for user in users.tolist():
        if user not in codes:
            raise DataError(f"{origin}: has no line for user {user}, who is among the ratings")
    return [codes[user] for user in users.tolist()]


def catalogue_of(archive: Archive, form: Form, movies: Ids) -> Catalogue:
    """Return the movies as items, in their order, with their titles where the archive tells them."""
    payload = archive.read(form.movies)
    titles: dict[int, str] = {}
    if payload is not None:
        origin, quoted = f"{archive.path}: {form.movies}", bool(form.header)
        for where, fields in islice(lines(payload, origin, form.within, form.movie_fields, quoted), quoted, None):
            titles[whole(fields[0], where, "movie")] = fields[1]
    return Catalogue(
        np.arange(len(movies)), texts(movies), [titles.get(m, "") for m in movies.tolist()] if titles else None
    )


def texts(numbers: Ids) -> list[str]:
    """Return numbers as texts."""
    return list(map(str, numbers.tolist()))
