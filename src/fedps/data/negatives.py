"""Sampled negatives: items that a user is not known to have taken."""

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError

Ids = NDArray[np.int64]


def sample(users: Ids, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw one item for each entry of `users`, uniformly among those the user has not seen.

    Args:
        users: int64[n].
        seen: bool[num_users, num_items], training and test positives.
        rng: the stream.

    Returns:
        int64[n]. A user may get an item twice, as in NCF (He et al., WWW 2017, section 4.1).

    Raises:
        DataError: a user has seen every item, so that there is nothing to draw.
    """
    sated = users[seen.all(axis=1)[users]]
    if len(sated):
        raise DataError(f"user {sated[0]} took all {seen.shape[1]} items: no negative is left; prepare without this user")
    items = rng.integers(0, seen.shape[1], len(users))
    again = np.flatnonzero(seen[users, items])
    while len(again):
        items[again] = rng.integers(0, seen.shape[1], len(again))
        again = again[seen[users[again], items[again]]]
    return items


def distinct(user: int, count: int, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw `count` different unseen items for one user, as held-out negatives: int64[count].

    Raises:
        DataError: fewer than `count` items are left.
    """
    unseen = np.flatnonzero(~seen[user])
    if len(unseen) < count:
        raise DataError(f"user {user} left only {len(unseen)} items untaken: {count} test negatives need more items")
    return rng.choice(unseen, count, replace=False)
