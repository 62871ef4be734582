"""Sampled negatives: items that a user is not known to have taken."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def sample(users: Ids, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw one item for each entry of `users`, uniformly among those the user has not seen.

    Args:
        users: int64[n].
        seen: bool[num_users, num_items].
        rng: the stream.

    Returns:
        int64[n]. A user may get an item twice, as in NCF (He et al., WWW 2017, section 4.1).
    """
    items = rng.integers(0, seen.shape[1], len(users))
    again = np.flatnonzero(seen[users, items])
    while len(again):
        items[again] = rng.integers(0, seen.shape[1], len(again))
        again = again[seen[users[again], items[again]]]
    return items


def distinct(user: int, count: int, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw `count` different unseen items for one user, as held-out negatives."""
    return rng.choice(np.flatnonzero(~seen[user]), count, replace=False)
