"""A synthetic twin of MovieLens with planted taste, for where the real data cannot be had.

Users and items have hidden factors; a user takes items in proportion to popularity and to how well factors agree, so a
model that learns tells taken from not taken items better than popularity does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.data.negatives import Ids
from fedps.data.prepare import write as prepared
from fedps.data.prepare.write import TEST_NEGATIVES, Interactions, Partition, Split
from fedps.errors import DataError

FACTORS = 4
TASTE = 2.0  # how much agreement counts beside popularity
SPREAD = 0.8  # of the logarithm of activity and popularity


class Factors(NamedTuple):
    """The hidden factors of a twin.

    Attributes:
        taste: float64[users, 4].
        kind: float64[items, 4].
        popular: float64[items], the logarithm of an item's popularity.
    """

    taste: NDArray[np.float64]
    kind: NDArray[np.float64]
    popular: NDArray[np.float64]

    def score(self, user: int) -> NDArray[np.float64]:
        """Return the logarithm of how much a user wants each item: float64[items]."""
        return np.asarray(self.popular + TASTE * (self.kind @ self.taste[user]) / FACTORS**0.5)


def draw_factors(users: int, items: int, rng: np.random.Generator) -> Factors:
    """Draw users' tastes, items' kinds and popularity; the first draws of a twin."""
    taste, kind = rng.normal(size=(users, FACTORS)), rng.normal(size=(items, FACTORS))
    return Factors(taste, kind, rng.normal(0, SPREAD, items))


def synthesize(
    out: Path, users: int = 6040, items: int = 3706, per_user: int = 165, split: Split | Partition | None = None,
    per_positive: int = 4, seed: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """Make a synthetic data set in the form that `movielens.prepare` writes; return the manifest.

    Args:
        out: the folder to make.
        users: how many.
        items: how many.
        per_user: interactions of a user on average.
        split: how users become clients, or a function that says so; by zip code if None.
        per_positive: negatives drawn for each training positive.
        seed: of all draws.

    Raises:
        DataError: too few items to draw test negatives from, or `out` holds something else.
    """
    if items < 2 * TEST_NEGATIVES + 2 or users < 1 or per_user < 1:
        raise DataError(
            f"--items {items}, --users {users}, --per-user {per_user}: at least {2 * TEST_NEGATIVES + 2} items, one user"
            " and one item a user are needed"
        )
    rng = prepared.stream(seed)
    factors = draw_factors(users, items, rng)
    most = items - TEST_NEGATIVES - 1
    counts = np.clip(per_user * rng.lognormal(-(SPREAD**2) / 2, SPREAD, users), 2, most).astype(int)
    chosen = [_choose(factors.score(u), counts[u], rng) for u in range(users)]
    held_out = np.array([rng.choice(c) for c in chosen])
    user = np.repeat(np.arange(users), counts)
    item = np.concatenate(chosen)
    keep = item != held_out[user]
    zip_codes = [f"{z:05d}" for z in rng.integers(0, 100_000, users)]
    data = Interactions(
        user[keep], item[keep], users, items, np.arange(users), held_out, None, f"synthetic twin, seed {seed}", zip_codes,
        synthetic=True,
    )  # fmt: skip
    return prepared.write(out, data, split or Split(), per_positive, seed)


def _choose(score: NDArray[np.float64], count: int, rng: np.random.Generator) -> Ids:
    """Draw `count` different items in proportion to exp(score): the largest of scores with Gumbel noise."""
    return np.argpartition(-(score + rng.gumbel(size=len(score))), count)[:count]
