"""Sampled negatives: items that a user is not known to have taken."""

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError

Ids = NDArray[np.int64]
TRIES = 64  # draws that are thrown away for one entry, before its user's unseen items are listed


def sample(users: Ids, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw one item for each entry of `users`, uniformly among those the user has not seen.

    Args:
        users: int64[n].
        seen: bool[num_users, num_items].
        rng: the stream.

    Returns:
        int64[n]. A user may get an item twice, as in NCF (He et al., WWW 2017, section 4.1).

    Raises:
        DataError: a user has seen all items; names the user.
    """
    items = rng.integers(0, seen.shape[1], len(users))
    again = np.flatnonzero(seen[users, items])
    for _ in range(TRIES):
        if not len(again):
            return items
        items[again] = rng.integers(0, seen.shape[1], len(again))
        again = again[seen[users[again], items[again]]]
    _from_the_rest(items, again, users, seen, rng)
    return items


def _from_the_rest(items: Ids, again: Ids, users: Ids, seen: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Draw the entries `again` from their users' unseen items: those users have seen nearly everything."""
    again = again[np.argsort(users[again], kind="stable")]
    for mine in np.split(again, np.flatnonzero(np.diff(users[again])) + 1):
        if len(mine):
            user = int(users[mine[0]])
            items[mine] = rng.choice(_unseen(user, 1, seen, "use --negatives 0"), len(mine))


def distinct(user: int, count: int, seen: NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """Draw `count` different unseen items for one user, as held-out negatives.

    Returns:
        int64[count].

    Raises:
        DataError: fewer are left; names the user.
    """
    return rng.choice(_unseen(user, count, seen, "give --test-negatives FILE"), count, replace=False)


def _unseen(user: int, count: int, seen: NDArray[np.bool_], remedy: str) -> Ids:
    unseen = np.flatnonzero(~seen[user])
    if len(unseen) < count:
        raise DataError(
            f"user {user} (counted from 0) took {seen.shape[1] - len(unseen)} of {seen.shape[1]} items, so {len(unseen)}"
            f" are left to draw {count} negatives from; leave this user's ratings out, or {remedy}"
        )
    return unseen
