"""A synthetic twin of MovieLens with planted taste, for where the real data cannot be had.

Users and items have hidden factors; a user takes items in proportion to popularity and to how well factors agree, so a
model that learns tells taken from not taken items better than popularity does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedps.data import prepared
from fedps.data.prepared import TEST_NEGATIVES, Interactions, Split
from fedps.errors import DataError

FACTORS = 4
TASTE = 2.0  # how much agreement counts beside popularity
SPREAD = 0.8  # of the logarithm of activity and popularity


def synthesize(
    out: Path, users: int = 6040, items: int = 3706, per_user: int = 165, split: Split | None = None,
    per_positive: int = 4, seed: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """Make a synthetic data set in the form that `movielens.prepare` writes; return the manifest.

    Args:
        out: the folder to make.
        users: how many.
        items: how many.
        per_user: interactions of a user on average.
        split: how users become clients; by zip code if None.
        per_positive: negatives drawn for each training positive.
        seed: of all draws.

    Raises:
        DataError: too few items to draw test negatives from, or `out` holds something else.
    """
    if items < 2 * TEST_NEGATIVES + 2 or users < 1:
        raise DataError(
            f"--items {items}, --users {users}: at least {2 * TEST_NEGATIVES + 2} items and one user are needed"
        )
    rng = np.random.default_rng(seed)
    taste, kind = rng.normal(size=(users, FACTORS)), rng.normal(size=(items, FACTORS))
    popular = rng.normal(0, SPREAD, items)
    most = items - TEST_NEGATIVES - 1
    counts = np.clip(per_user * rng.lognormal(-(SPREAD**2) / 2, SPREAD, users), 2, most).astype(int)
    chosen = []
    for u in range(users):
        wish = popular + TASTE * (kind @ taste[u]) / FACTORS**0.5 + rng.gumbel(size=items)
        chosen.append(np.argpartition(-wish, counts[u])[: counts[u]])
    held_out = np.array([rng.choice(c) for c in chosen])
    user = np.repeat(np.arange(users), counts)
    item = np.concatenate(chosen)
    keep = item != held_out[user]
    zip_codes = [f"{z:05d}" for z in rng.integers(0, 100_000, users)]
    data = Interactions(
        user[keep],
        item[keep],
        held_out,
        None,
        zip_codes,
        items,
        f"synthetic twin, seed {seed}",
        synthetic=True,
    )
    return prepared.write(out, data, split or Split(), per_positive, seed)
