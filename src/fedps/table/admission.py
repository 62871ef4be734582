"""Ids that were pushed, but not yet often enough to have a row: each with its pushes so far, in memory that is bounded.

An id is kept in the bucket that its bits name, among the 8 of that bucket that were pushed last; a ninth drives out the
one that was pushed longest ago. So the count of an id that is kept is exact, none is ever admitted early, and one is
forgotten only if it is pushed so rarely that 8 others of its bucket come between. In all a million ids are kept.
"""

from collections.abc import Iterator

import numpy as np
from numba import types
from numpy.typing import NDArray

from fedps.table.index import reserve
from fedps.table.kernels import compiled, inlined, spread
from fedps.table.moment import Watched
from fedps.types import Keys

BUCKETS, WAYS = 1 << 17, 8
AT_ONCE = BUCKETS >> 4  # buckets that are read at a time
CANDIDATES_BYTES = BUCKETS * WAYS * 9  # an id and its count each
Counts = NDArray[np.uint8]
_i8r = types.Array(types.int64, 1, "C", readonly=True)
_i8w = types.Array(types.int64, 1, "C")
_i8p = types.Array(types.int64, 2, "C")
_u1p = types.Array(types.uint8, 2, "C")
_b1w = types.Array(types.boolean, 1, "C")


class Candidates:
    """Counts pushes of ids that have no row.

    Args:
        needed: pushes after which an id is admitted, from 2 to 255.

    Attributes:
        waiting: ids that are counted now.
    """

    def __init__(self, needed: int) -> None:
        self._needed, self.waiting = needed, 0
        self._ids = reserve(BUCKETS * WAYS, np.dtype(np.int64)).reshape(BUCKETS, WAYS)
        self._counts: Counts = reserve(BUCKETS * WAYS, np.dtype(np.uint8)).reshape(BUCKETS, WAYS)  # 0: nobody's
        self._watched = Watched(self._ids, self._counts)

    def push(self, keys: Keys) -> NDArray[np.bool_]:
        """Count a push of each key, int64[U]; return which are admitted by it, and are not counted any more."""
        return self._count(keys, np.ones(len(keys), np.int64))

    def export(self) -> Keys:
        """Return ids with their counts, int64[n, 2], in an order in which `load` makes the same of them."""
        return _listed(self._ids, self._counts)

    def frozen(self) -> Iterator[Keys]:
        """Freeze what is counted now; yield it as `export` does, piece by piece."""
        moment = self._watched.freeze(BUCKETS)
        return (listed for _, arrays in moment.pieces(AT_ONCE) if len(listed := _listed(*arrays)))

    def load(self, exported: Keys) -> None:
        """Take over ids as `export` gave them, or some of them; where fewer pushes are needed here, the next admits."""
        self._count(exported[:, 0].copy(), np.minimum(exported[:, 1], self._needed - 1))

    def _count(self, keys: Keys, pushes: Keys) -> NDArray[np.bool_]:
        self._watched.keep(buckets_of(keys))
        admitted = np.zeros(len(keys), np.bool_)
        self.waiting += count(keys, pushes, self._ids, self._counts, self._needed, admitted)
        return admitted


def _listed(ids: Keys, counts: Counts) -> Keys:
    last_first = counts[:, ::-1]
    there = last_first > 0
    return np.stack([ids[:, ::-1][there], last_first[there].astype(np.int64)], axis=1)


@inlined
def _bucket(key):  # type: ignore[no-untyped-def]
    return np.int64(spread(key) & np.uint64(BUCKETS - 1))


@compiled(_i8w(_i8r))
def buckets_of(keys):  # type: ignore[no-untyped-def]
    """Return each key's bucket."""
    out = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        out[i] = _bucket(keys[i])
    return out


@compiled(types.int64(_i8r, _i8r, _i8p, _u1p, types.int64, _b1w))
def count(keys, by, ids, counts, needed, admitted):  # type: ignore[no-untyped-def]
    """Count so many pushes of each key, and mark those that they admit; return how many more wait now than before."""
    more = 0
    for i in range(len(keys)):
        bucket = _bucket(keys[i])
        at = 0
        while at < WAYS - 1 and counts[bucket, at] != 0 and ids[bucket, at] != keys[i]:
            at += 1
        there = counts[bucket, at] != 0 and ids[bucket, at] == keys[i]
        pushes = np.int64(counts[bucket, at]) + by[i] if there else by[i]
        more -= counts[bucket, at] != 0  # itself, or the one that it drives out
        if pushes >= needed:  # it leaves, and those behind it move up
            admitted[i] = True
            for j in range(at, WAYS - 1):
                ids[bucket, j], counts[bucket, j] = ids[bucket, j + 1], counts[bucket, j + 1]
            counts[bucket, WAYS - 1] = 0
        else:  # it comes first, and those before it move back
            for j in range(at, 0, -1):
                ids[bucket, j], counts[bucket, j] = ids[bucket, j - 1], counts[bucket, j - 1]
            ids[bucket, 0], counts[bucket, 0] = keys[i], pushes
            more += 1
    return more
