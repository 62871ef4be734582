"""Negatives: items that a user has not taken, and negatives paired with positives of the same user.

They are drawn once when data is prepared, and anew for each pass where the job says so. In training, a client knows its
own training data alone: held-out positives may be drawn, as in NCF (He et al., WWW 2017, section 4.1).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError
from fedps.types import Values

MOST_CELLS = 1 << 26  # users × items up to which a table of bytes says what is taken

Places = NDArray[np.int32]
Ids = NDArray[np.int64]


class History:
    """Who took what, so what may be drawn as a negative.

    Item number r of those that a user left is r plus the taken ones below it, which one search finds; so a draw needs no
    second try, whatever share of the items is taken.

    Args:
        user: int[n], in [0, num_users).
        item: int[n], in [0, num_items), what these users took; a pair may come twice.
        num_users: how many users there are.
        num_items: how many items there are.
        also: more users and items, in the same form: what these users took before, as their histories tell.

    Attributes:
        num_users, num_items: as given.
        left: int64[num_users], how many items each user has not taken.
    """

    def __init__(
        self, user: NDArray[np.integer], item: NDArray[np.integer], num_users: int, num_items: int,
        also: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]] = (),
    ) -> None:  # fmt: skip
        self.num_users, self.num_items = num_users, num_items
        self._table: NDArray[np.bool_] | None = None
        if num_users * num_items <= MOST_CELLS:
            self._table = np.zeros(num_users * num_items, np.bool_)
            for users, items in ((user, item), *also):
                self._table[users.astype(np.int64) * num_items + items] = True
            self._pairs = np.flatnonzero(self._table)
        else:
            self._pairs = _distinct(
                [users.astype(np.int64) * num_items + items for users, items in ((user, item), *also)]
            )
        owner, taken = np.divmod(self._pairs, num_items)
        count = np.bincount(owner, minlength=num_users)
        self.left, self._start = num_items - count, np.cumsum(count) - count
        # of each taken item, how many left ones lie below it; users end to end, so each user's begin higher
        self._below = owner * (num_items + 1) + taken - (np.arange(len(taken)) - self._start[owner])

    def holds(self, user: Ids | int, item: Ids | Places | int) -> NDArray[np.bool_]:
        """Tell which pairs of a user and an item are taken.

        Args:
            user: int64[n], or one.
            item: int[n], or one.
        """
        pair = np.asarray(user * self.num_items + item)
        if self._table is not None:
            return np.asarray(self._table[pair])
        place = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        return np.asarray(self._pairs[place] == pair)

    def draw(self, user: Ids, rng: np.random.Generator, retries: int = 0) -> Places:
        """Draw an item for each entry of `user`, uniformly over those that this user left.

        Args:
            user: int64[n]; none of them has taken every item.
            rng: the stream.
            retries: so often, a taken item is drawn again over all items before it is drawn over those left. It changes
                which items are drawn, not how likely each is.

        Returns:
            int32[n]. A user may get an item twice.
        """
        if self._table is None and not retries:  # a search finds a left item as fast as it tells whether one is taken
            return self._draw_left(user, rng)
        items = rng.integers(0, self.num_items, len(user), np.int32)
        again = np.flatnonzero(self.holds(user, items))
        for _ in range(retries):
            items[again] = rng.integers(0, self.num_items, len(again), np.int32)
            again = again[self.holds(user[again], items[again])]
        items[again] = self._draw_left(user[again], rng)
        return items

    def draw_distinct(self, user: int, count: int, rng: np.random.Generator) -> Ids:
        """Draw `count` different items that a user left: int64[count]; there must be so many."""
        left = np.flatnonzero(~self.holds(user, np.arange(self.num_items)))
        return rng.choice(left, count, replace=False)

    def draw_sets(self, user: Ids, count: int, rng: np.random.Generator) -> Ids:
        """Draw `count` different items for each entry of `user`, uniformly over those that this user left: int64[n, count].

        Each of them has left so many.
        """
        drawn = np.empty((len(user), count), np.int64)
        if not count:
            return drawn
        few = self.left[user] < 4 * count
        for row in np.flatnonzero(few).tolist():
            drawn[row] = self.draw_distinct(int(user[row]), count, rng)
        many = np.flatnonzero(~few)
        sets = np.sort(self.draw(np.repeat(user[many], count), rng, 1).reshape(-1, count).astype(np.int64), axis=1)
        while (again := np.diff(sets, axis=1, prepend=-1) == 0).any():
            rows = np.flatnonzero(again.any(axis=1))
            sets[again] = self.draw(user[many[np.nonzero(again)[0]]], rng, 1)
            sets[rows] = np.sort(sets[rows], axis=1)
        drawn[many] = sets
        return drawn

    def _draw_left(self, user: Ids, rng: np.random.Generator) -> Places:
        number = rng.integers(0, self.left[user])
        place = np.searchsorted(self._below, user * (self.num_items + 1) + number, side="right")
        return (number + place - self._start[user]).astype(np.int32)


def _distinct(parts: Sequence[Ids]) -> Ids:
    """Return the numbers in some arrays, sorted, each once; np.unique would hash, which takes far longer than sorting."""
    numbers = np.sort(np.concatenate(parts))
    return numbers[np.diff(numbers, prepend=-1) > 0]


class Pairs:
    """Each negative with a positive of its user, drawn anew for each pass, as BPR wants them (Rendle et al., UAI 2009).

    Args:
        user: int32[n], each sample's user, as a place.
        label: float32[n], over 0 for positives.

    Raises:
        DataError: no user has both.
    """

    def __init__(self, user: Places, label: Values) -> None:
        positive = np.flatnonzero(label > 0).astype(np.int32)
        self._positive = positive[np.argsort(user[positive], kind="stable")]  # user after user
        count = np.bincount(user[positive], minlength=int(user.max(initial=-1)) + 1)
        negative = np.flatnonzero(label <= 0).astype(np.int32)
        self._negative = np.compress(count[user[negative]] > 0, negative)
        if not len(self._negative):
            raise DataError(
                "hyper_parameters.loss: bpr: no user has both a positive and a negative sample; use bce, or draw negatives"
                " by runner.negatives"
            )
        owner = user[self._negative]
        self._count, self._start = count[owner], (np.cumsum(count) - count)[owner]  # its user's share of `_positive`

    def __len__(self) -> int:
        return len(self._negative)

    def draw(self, rng: np.random.Generator) -> Places:
        """Return int32[M, 2]: for each negative a positive of its user, drawn uniformly, and itself."""
        return np.column_stack([self._positive[self._start + rng.integers(0, self._count)], self._negative])
