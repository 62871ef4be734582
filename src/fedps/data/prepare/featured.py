"""Real data as samples of many features, for click models and for models of sequences.

MovieLens as ratings: who, what, and what is known of both; label 1 from four stars on; a random tenth of each client's
rows is held out for testing, another for validation (Song et al., AutoInt, CIKM 2019, section 5.1, split so). MovieLens as
sequences: of each user the last items before the one that came next; the last item of all is held out (Kang and McAuley,
SASRec, ICDM 2018, section 4.1). Any file of fields as libfm has them, of which Frappe is one.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedps.data.catalogue import Catalogue
from fedps.data.negatives import Ids
from fedps.data.prepare.movielens import ML_1M, ML_100K, Form, Ratings, catalogue_of, read_numbered, texts
from fedps.data.prepare.source import NUMBER, Archive, lines, read_file, whole
from fedps.data.prepare.write import Interactions, Split, clients_of, ids_of_users, stream, write_featured
from fedps.errors import DataError
from fedps.types import Bags

LIKED = 4  # stars
LONGEST = 200  # items of a history that are written, the last
HELD_OUT = {"train": 0.8, "valid": 0.1, "test": 0.1}
GENRES_100K = 19


def prepare_ratings(out: Path, source: str | None, split: Split, seed: int) -> Mapping[str, Any]:
    """Prepare MovieLens (ml-1m, ml-100k) as ratings with features of users and items; return the manifest.

    Args:
        out: the folder to make.
        source: archive, folder or URL; None as for `movielens.prepare`.
        split: how users become clients.
        seed: of all draws.

    Raises:
        DataError: a file is missing or not what it should be, or `out` holds something else.
    """
    archive, form, ratings, users, movies, user, item = read_numbered(source)
    facts, zip_codes = known_users(archive, form, users)
    genres, names = known_genres(archive, form, movies)
    columns = {"user": user, "item": item, **{name: ranks[user] for name, (ranks, _) in facts.items()}}
    table = pa.table(columns | {"genres": cells_of(genres).take(pa.array(item)), "label": (ratings.stars >= LIKED) * 1})
    rng = stream(seed)
    shares = _shares(len(users), zip_codes, split, rng)
    side = rng.choice(len(HELD_OUT), len(user), p=list(HELD_OUT.values()))
    features: dict[str, dict[str, Any]] = {
        "user": {"kind": "id", "rows": len(users), "side": "user"},
        "item": {"kind": "id", "rows": len(movies), "side": "item"},
        **{name: {"kind": "id", "rows": count, "side": "user"} for name, (_, count) in facts.items()},
        "genres": {"kind": "ids", "rows": len(names), "pooling": "mean", "side": "item"},
        "label": {"kind": "label"},
    }  # fmt: skip
    sides = {name: dict(parts(table.filter(side == k), user[side == k], shares)) for k, name in enumerate(HELD_OUT)}
    return write_featured(out, sides, features, {
        "num_users": len(users), "num_items": len(movies), "source": archive.path.resolve().name, "synthetic": False,
        "seed": seed, "partition": split.kind, "split": "ratio", "genres": list(names),
    }, items=catalogue_of(archive, form, movies), users=ids_of_users(texts(users), shares))  # fmt: skip


def prepare_sequences(out: Path, source: str | None, split: Split, seed: int) -> Mapping[str, Any]:
    """Prepare MovieLens as sequences, leave one out; return the manifest. Arguments and errors as for `prepare_ratings`."""
    archive, form, ratings, users, movies, user, item = read_numbered(source)
    order = np.lexsort((_times(archive, ratings), user))
    zip_codes = known_users(archive, form, users)[1]
    shares = _shares(len(users), zip_codes, split, stream(seed))
    sides = {side: dict(parts(table, at, shares)) for side, (table, at) in sequences(user[order], item[order]).items()}
    return write_featured(out, sides, features_of_sequences(len(users), len(movies)), {
        "num_users": len(users), "num_items": len(movies), "source": archive.path.resolve().name, "synthetic": False,
        "seed": seed, "partition": split.kind, "split": "leave-one-out",
    }, items=catalogue_of(archive, form, movies), users=ids_of_users(texts(users), shares))  # fmt: skip


def sequences(user: Ids, item: Ids) -> dict[str, tuple[pa.Table, Ids]]:
    """Tell each user's last item from those before it, for testing, and the last but one, for training.

    Args:
        user: int64[n], users from 0 without a gap, sorted.
        item: int64[n], what each took, in their order.

    Returns:
        By side a sample for each user who has an item before it, and whose each is: int64[m].
    """
    starts = np.append(np.flatnonzero(np.diff(user, prepend=-1)), len(user))
    found = {}
    for side, at in (("train", starts[1:] - 2), ("test", starts[1:] - 1)):
        there = at > starts[:-1]  # who has an item before it
        table = pa.table({
            "user": np.flatnonzero(there), "item": item[at[there]],
            "history": cells_of(Bags(*_windows(item, np.maximum(starts[:-1], at - LONGEST)[there], at[there]))),
            "label": np.ones(there.sum(), np.int64),
        })  # fmt: skip
        found[side] = (table, np.flatnonzero(there))
    return found


def features_of_sequences(users: int | str, items: int) -> dict[str, dict[str, Any]]:
    """Return what columns of sequences are."""
    return {
        "user": {"kind": "id", "rows": users, "side": "user"},
        "item": {"kind": "id", "rows": items},
        "history": {"kind": "ids", "table": "item", "max": LONGEST},
        "label": {"kind": "label"},
    }


def prepare_fields(out: Path, sources: Sequence[Path], clients: int, seed: int) -> Mapping[str, Any]:
    """Prepare files of fields, `label index:1 index:1 …` with as many fields in each line, as samples of one id each.

    A field's ids are numbered anew, by their size. The first field is the user: users are dealt out to clients.

    Args:
        out: the folder to make.
        sources: the files, plain or gzip.
        clients: how many.
        seed: of all draws.

    Raises:
        DataError: a line is malformed, or `out` holds something else; names file and line.
    """
    found = [row for source in sources for row in _fields(source)]
    if len({len(row) for row in found}) != 1 or len(found[0]) < 3:  # a label, a user, an item
        counts = sorted({len(row) - 1 for row in found})
        raise DataError(
            f"{', '.join(map(str, sources))}: lines have {', '.join(map(str, counts)) or 'no'} fields; as many are due in"
            " each, at least two: the user and the item"
        )
    rows = np.array(found, np.int64)
    label, ids = (rows[:, 0] > 0).astype(np.int64), rows[:, 1:]
    coded = [np.unique(column, return_inverse=True) for column in ids.T]
    names = ["user", "item", *(f"field_{k}" for k in range(2, len(coded)))]
    table = pa.table({name: places for name, (_, places) in zip(names, coded, strict=True)} | {"label": label})
    rng = stream(seed)
    user, shares = coded[0][1], _shares(len(coded[0][0]), [], Split("iid", clients), rng)
    side = rng.choice(len(HELD_OUT), len(label), p=list(HELD_OUT.values()))
    sizes = {name: len(distinct) for name, (distinct, _) in zip(names, coded, strict=True)}
    features: dict[str, dict[str, Any]] = {name: {"kind": "id", "rows": size} for name, size in sizes.items()}
    features["user"]["side"] = "user"
    sides = {name: dict(parts(table.filter(side == k), user[side == k], shares)) for k, name in enumerate(HELD_OUT)}
    user_keys, item_keys = (texts(distinct) for distinct, _ in coded[:2])
    return write_featured(out, sides, features | {"label": {"kind": "label"}}, {
        "num_users": sizes["user"], "num_items": sizes["item"], "source": ", ".join(s.name for s in sources),
        "synthetic": False, "seed": seed, "partition": "iid", "split": "ratio",
    }, items=Catalogue(np.arange(sizes["item"]), item_keys), users=ids_of_users(user_keys, shares))  # fmt: skip


def known_users(archive: Archive, form: Form, users: Ids) -> tuple[dict[str, tuple[Ids, int]], list[str]]:
    """Return what is known of users, by name their ranks among the values there are and how many these are; zip codes."""
    payload, origin = archive.read(form.users), f"{archive.path}: {form.users}"
    at = {ML_1M: ("gender", "age", "occupation"), ML_100K: ("age", "gender", "occupation")}.get(form)
    if payload is None or at is None:
        raise DataError(
            f"{archive.path}: holds no {form.users} of ml-1m or ml-100k, which tells users' age and occupation"
        )
    known = {whole(fields[0], where, "user"): fields[1:] for where, fields in lines(payload, origin, form.within, 5)}
    if missing := [user for user in users.tolist() if user not in known]:
        raise DataError(f"{origin}: has no line for user {missing[0]}, who is among the ratings")
    values = np.array([known[user] for user in users.tolist()])
    facts = {}
    for k, name in enumerate(at):
        column = values[:, k].astype(np.int64) if name == "age" else values[:, k]
        distinct, ranks = np.unique(column, return_inverse=True)
        facts[name] = (ranks.astype(np.int64), len(distinct))
    return facts, [str(code).strip() for code in values[:, 3]]


def known_genres(archive: Archive, form: Form, movies: Ids) -> tuple[Bags, Sequence[str]]:
    """Return each movie's genres, as ranks among their names, and the names."""
    payload, origin = archive.read(form.movies), f"{archive.path}: {form.movies}"
    if payload is None:
        raise DataError(f"{archive.path}: holds no {form.movies}, which tells movies' genres")
    of: dict[int, list[str]] = {}
    for where, fields in lines(payload, origin, form.within, form.movie_fields):
        flags = [f"genre {k}" for k, flag in enumerate(fields[-GENRES_100K:]) if flag == "1"]
        of[whole(fields[0], where, "movie")] = flags if form is ML_100K else fields[2].strip().split("|")
    each = [of.get(movie, []) for movie in movies.tolist()]
    names = sorted({name for mine in each for name in mine})
    rank = {name: k for k, name in enumerate(names)}
    starts = np.cumsum([0, *map(len, each)])
    return Bags(np.array([rank[name] for mine in each for name in mine], np.int64), starts), names


def _times(archive: Archive, ratings: Ratings) -> NDArray[np.int64]:
    """Return what ratings are ordered by: their times, or, where those are withheld, each row's place in its user's order."""
    payload = archive.read("user_rank.npy")
    if payload is None:
        return ratings.time
    ranks: NDArray[np.int64] = np.load(io.BytesIO(payload)).astype(np.int64)
    if ranks.shape != ratings.time.shape:
        raise DataError(f"{archive.path}: user_rank.npy holds {ranks.shape} places, for {len(ratings.time)} ratings")
    return ranks


def _windows(item: Ids, begins: Ids, ends: Ids) -> tuple[Ids, Ids]:
    """Return stretches of items end to end, and where each begins: int64[m], int64[n + 1]."""
    counts = ends - begins
    starts = np.concatenate([[0], np.cumsum(counts)])
    return item[np.repeat(begins - starts[:-1], counts) + np.arange(starts[-1])], starts


def cells_of(bags: Bags) -> pa.Array:
    """Write bags as texts, ids separated by |."""
    ids = bags.ids.astype(str)
    return pa.array(["|".join(ids[a:b]) for a, b in zip(bags.starts[:-1], bags.starts[1:], strict=True)])


def _shares(users: int, zip_codes: Sequence[str], split: Split, rng: np.random.Generator) -> Mapping[str, Ids]:
    """Return each client's users."""
    nobody = np.zeros(0, np.int64)
    return clients_of(Interactions(nobody, nobody, users, 1, nobody, nobody, None, "", zip_codes), split, rng)


def parts(table: pa.Table, user: Ids, shares: Mapping[str, Ids]) -> Iterator[tuple[str, pa.Table]]:
    """Yield each client with its samples, in the order of the names of those that have some.

    Args:
        table: the samples of all.
        user: int64[n], whose each is.
        shares: each client's users.
    """
    of = np.empty(1 + max(int(users.max()) for users in shares.values()), object)
    for client, users in shares.items():
        of[users] = client
    owner = of[user]
    for client in np.unique(owner.astype(str)).tolist():
        yield client, table.filter(owner == client)


def _fields(source: Path) -> Iterator[list[int]]:
    """Yield the label and the ids of each line of a file."""
    count = 0
    for number, line in enumerate(read_file(source).decode("ascii", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where, pairs = f"{source}, line {number}: {line[:60]!r}", [word.split(":") for word in words[1:]]
        count = count or len(words)
        if len(words) != count:
            raise DataError(f"{where}: has {len(words) - 1} fields; the lines above have {count - 1}")
        if not all(len(pair) == 2 and NUMBER.fullmatch(pair[0]) and pair[1] in ("1", "1.0") for pair in pairs):
            raise DataError(f"{where}: a field is index:1")
        try:
            yield [int(float(words[0])), *(int(index) for index, _ in pairs)]
        except (ValueError, OverflowError) as error:
            raise DataError(f"{where}: label {words[0]!r} is no number") from error
