"""Negatives drawn anew for each pass: items that a user is not known to have taken, as this client's own data says.

Held-out positives are unknown to training, so they may be drawn, as in NCF (He et al., WWW 2017). Nothing of this
leaves the client: what is drawn depends on the job's seed, the client and the pass alone.
"""

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError
from fedps.types import Keys

MOST_CELLS = 1 << 26  # users × items up to which what is taken is looked up in a table of bytes

Places = NDArray[np.int32]


class Negatives:
    """Draws items for each positive of a client, uniformly over all items that its user has not taken.

    Item number r of a user's untaken ones is r plus the taken ones below it, which one search finds; so a draw needs no
    second try, whatever share of the items is taken. Where there is room for it, a table tells which draws over all items
    are untaken as they are, and only the others are drawn again that way.

    Args:
        user: int32[P], each positive's user, as a place in `users`.
        item: int32[P], its item.
        users: int64[U], ids; an error names them.
        num_items: item ids run from 0 to this, exclusive.

    Raises:
        DataError: there is no positive, or a user has taken every item.
    """

    def __init__(self, user: Places, item: Places, users: Keys, num_items: int) -> None:
        if not len(user):
            raise DataError("runner.negatives: the training data has no positive (label 1); leave the key out")
        self._user, self._items = user, num_items
        owner, taken = np.divmod(np.unique(user.astype(np.int64) * num_items + item), num_items)
        count = np.bincount(owner, minlength=len(users))
        full = np.flatnonzero(count == num_items)
        if len(full):
            raise DataError(
                f"runner.negatives: user {users[full[0]]} has taken all {num_items} items, so none is left to draw; leave"
                " this user out, or leave the key out"
            )
        self._left, self._start = num_items - count, np.cumsum(count) - count
        # of each taken item, how many untaken ones lie below it; users end to end
        self._below = owner * (num_items + 1) + taken - (np.arange(len(taken)) - self._start[owner])
        self._taken: NDArray[np.bool_] | None = None
        if len(users) * num_items <= MOST_CELLS:
            self._taken = np.zeros(len(users) * num_items, np.bool_)
            self._taken[owner * num_items + taken] = True

    def draw(self, each: int, rng: np.random.Generator) -> Places:
        """Return `each` items for every positive, int32[P, each]; a user may get an item twice."""
        user = np.repeat(self._user.astype(np.int64), each)
        if self._taken is None:
            return self._untaken(user, rng).reshape(-1, each)
        items = rng.integers(0, self._items, len(user), np.int32)
        again = np.flatnonzero(self._taken[user * self._items + items])
        items[again] = self._untaken(user[again], rng)
        return items.reshape(-1, each)

    def _untaken(self, user: NDArray[np.int64], rng: np.random.Generator) -> Places:
        number = rng.integers(0, self._left[user])
        place = np.searchsorted(self._below, user * (self._items + 1) + number, side="right")
        return (number + place - self._start[user]).astype(np.int32)


def pair_up(user: Places, label: NDArray[np.float32]) -> "Pairs":
    """Return how negatives and positives of the same users may be paired.

    Args:
        user: int32[n], each sample's user, as a place.
        label: float32[n], over 0 for positives.

    Raises:
        DataError: no user has both.
    """
    positive = np.flatnonzero(label > 0).astype(np.int32)
    positive = positive[np.argsort(user[positive], kind="stable")]
    count = np.bincount(user[positive], minlength=int(user.max(initial=-1)) + 1)
    negative = np.flatnonzero(label <= 0).astype(np.int32)
    negative = np.compress(count[user[negative]] > 0, negative)
    if not len(negative):
        raise DataError(
            "hyper_parameters.loss: bpr: no user has both a positive and a negative sample; use bce, or draw negatives by"
            " runner.negatives"
        )
    return Pairs(positive, negative, count[user[negative]], (np.cumsum(count) - count)[user[negative]])


class Pairs:
    """Each negative with a positive of its user, drawn anew for each pass.

    Args:
        positive: int32[P], samples, user after user.
        negative: int32[M], samples.
        count, start: int64[M], how many positives each negative's user has, and where they begin in `positive`.
    """

    def __init__(
        self, positive: Places, negative: Places, count: NDArray[np.int64], start: NDArray[np.int64]
    ) -> None:  # fmt: skip
        self._positive, self._negative, self._count, self._start = positive, negative, count, start

    def __len__(self) -> int:
        return len(self._negative)

    def draw(self, rng: np.random.Generator) -> Places:
        """Return int32[M, 2]: for each negative a positive of its user, drawn uniformly, and itself."""
        return np.column_stack([self._positive[self._start + rng.integers(0, self._count)], self._negative])
