"""MovieLens as two organisations have it: one knows the users, the other the films, and what each rating was.

The split of SplitRec: `users.csv` has who rated, `items.csv` what, and label 1 where the rating is above 3. A rating's place
in the source is its `id`, in both files; each file has an order of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedps.data.negatives import Ids
from fedps.data.prepare.featured import cells_of, known_genres, known_users
from fedps.data.prepare.movielens import read_numbered
from fedps.data.prepare.synth import draw_factors
from fedps.data.prepare.write import stream, write_parties
from fedps.errors import DataError
from fedps.types import Bags

LIKED = 3  # stars, above which a rating is liked
GENRES, AGES, OCCUPATIONS = 18, 7, 21  # as many as ML-1M has
Columns = Mapping[str, Any]


def prepare_parties(out: Path, source: str | None, seed: int) -> Mapping[str, Any]:
    """Prepare MovieLens (ml-1m, ml-100k) for vertical training; return the manifest.

    Args:
        out: the folder to make.
        source: archive, folder or URL; None as for `movielens.prepare`.
        seed: of the files' orders.

    Raises:
        DataError: a file is missing or not what it should be, or `out` holds something else.
    """
    archive, form, ratings, users, movies, user, item = read_numbered(source)
    facts, zips = known_users(archive, form, users)
    genres, names = known_genres(archive, form, movies)
    who = {name: ranks for name, (ranks, _) in facts.items()} | {"zip": np.array(zips)}
    sizes = {name: count for name, (_, count) in facts.items()} | {"genres": len(names)}
    about = {"source": archive.path.resolve().name, "synthetic": False, "genres": list(names)}
    return _write(out, (user, item, ratings.stars > LIKED), who, genres, sizes, seed, about)


def synthesize_parties(
    out: Path, users: int = 6040, items: int = 3706, per_user: int = 165, seed: int = 0
) -> Mapping[str, Any]:
    """Make a synthetic twin of it with planted taste, to which what is known of users and films is a key.

    Raises:
        DataError: there are too few items, or `out` holds something else.
    """
    if items < per_user or min(users, per_user) < 1:
        raise DataError(f"--items {items}, --users {users}, --per-user {per_user}: a user rates each item once at most")
    rng = stream(seed)
    who = {
        "gender": rng.integers(0, 2, users), "age": rng.integers(0, AGES, users),
        "occupation": rng.integers(0, OCCUPATIONS, users), "zip": np.array([f"{z:05d}" for z in rng.integers(0, 1000, users)]),
    }  # fmt: skip
    genre = rng.integers(0, GENRES, (items, 2))
    own, typical = draw_factors(users, items, rng), draw_factors(2 * AGES, GENRES, rng)
    taste = own.taste + typical.taste[2 * who["age"] + who["gender"]]
    kind = own.kind + typical.kind[genre].mean(1)
    user = np.repeat(np.arange(users), per_user)
    item = np.concatenate([rng.choice(items, per_user, replace=False) for _ in range(users)])
    mood = rng.normal(size=users)
    want = mood[user] + own.popular[item] + (taste[user] * kind[item]).sum(1) / 2
    liked = rng.random(len(user)) < 1 / (1 + np.exp(-want))
    bags = Bags(genre.reshape(-1), np.arange(0, 2 * items + 1, 2))
    sizes = {"gender": 2, "age": AGES, "occupation": OCCUPATIONS, "genres": GENRES}
    about = {"source": f"synthetic twin, seed {seed}", "synthetic": True}
    return _write(out, (user, item, liked), who, bags, sizes, seed, about)


def _write(
    out: Path,
    rows: tuple[Ids, Ids, Any],
    who: Columns,
    genres: Bags,
    sizes: Mapping[str, int],
    seed: int,
    about: Columns,
) -> Mapping[str, Any]:
    """Write both parties' files: who rated what and whether it was liked, and what is known of users and items."""
    user, item, liked = rows
    numbers, rng = np.arange(len(user)), stream(seed)
    tables = {
        "users": {"id": numbers, "user": user, **{name: column[user] for name, column in who.items()}},
        "items": {"id": numbers, "item": item, "genres": cells_of(genres).take(pa.array(item)), "label": liked * 1},
    }
    features: dict[str, dict[str, Any]] = {
        "users": {
            "user": {"kind": "id", "rows": int(user.max()) + 1},
            **{name: {"kind": "id", "rows": sizes.get(name, "open")} for name in who},
        },
        "items": {
            "item": {"kind": "id", "rows": int(item.max()) + 1},
            "genres": {"kind": "ids", "rows": sizes["genres"], "pooling": "mean"},
            "label": {"kind": "label"},
        },
    }
    shuffled = {name: pa.table(table).take(pa.array(rng.permutation(len(user)))) for name, table in tables.items()}
    return write_parties(out, shuffled, features, {"seed": seed, **about})
