"""One client's data, coded for its local tables: columns of ids become columns of slots, once.

Shuffling is a stream of (job seed, client, epoch): any machine draws the same order.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedps.client.tables import Slots
from fedps.data.reader import Samples
from fedps.models.network import COLUMNS
from fedps.types import ClientId, Keys

Order = NDArray[np.int32]  # positions of samples


class ClientData:
    """The training and held-out samples of one client.

    Args:
        train: training samples.
        test: held-out samples, or None.
        client: whose they are.
        seed: the job's seed.
        shuffle: a new order each epoch; False keeps the file's order.

    Attributes:
        keys: for each column its distinct ids, int64[n] sorted.
        slots: for each column the place in `keys` of every training sample's id, int32.
        test_slots: the same for held-out samples.
    """

    def __init__(self, train: Samples, test: Samples | None, client: ClientId, seed: int, shuffle: bool) -> None:
        self.train, self.test = train, test
        self._stream, self._shuffle = (seed, zlib.crc32(client.encode())), shuffle
        self.keys: dict[str, Keys] = {}
        self.slots: dict[str, Slots] = {}
        self.test_slots: dict[str, Slots] = {}
        for column in COLUMNS:
            ids = getattr(train, column)
            held_out = getattr(test, column) if test is not None else ids[:0]
            self.keys[column], self.slots[column], self.test_slots[column] = coded(ids, held_out)

    def __len__(self) -> int:
        return len(self.train.label)

    def order(self, epoch: int) -> Order:
        """Return an epoch's order of samples, int32[n]."""
        if not self._shuffle:
            return np.arange(len(self), dtype=np.int32)
        return np.random.default_rng((*self._stream, epoch)).permutation(len(self)).astype(np.int32)

    def batches(self, epoch: int, size: int) -> Iterator[Order]:
        """Yield an epoch's batches of `size` samples; the last may be shorter."""
        order = self.order(epoch)
        for start in range(0, len(self), size):
            yield order[start : start + size]

    def distinct(self, column: str, samples: Order) -> Slots:
        """Return the distinct slots of some training samples, int32 sorted."""
        slots, rows = self.slots[column].take(samples), len(self.keys[column])
        if len(slots) * 64 < rows:
            return np.unique(slots)
        there = np.zeros(rows, np.bool_)
        there[slots] = True
        return np.flatnonzero(there).astype(np.int32)


def coded(ids: NDArray[np.int64], more: NDArray[np.int64]) -> tuple[Keys, Slots, Slots]:
    """Return the distinct ids of both, int64[n] sorted, and the place there of each of `ids` and of `more`, int32.

    Ids are counted off in an array over their range, unless that would be far larger than the data: then they are sorted.
    """
    reach = 1 + int(max(ids.max(initial=-1), more.max(initial=-1)))
    if reach > 4 * (len(ids) + len(more)) + (1 << 20):
        keys = np.unique(np.concatenate([ids, more])).astype(np.int64)
        return keys, np.searchsorted(keys, ids).astype(np.int32), np.searchsorted(keys, more).astype(np.int32)
    there = np.zeros(reach, np.bool_)
    there[ids] = there[more] = True
    keys = np.flatnonzero(there)
    place = np.empty(reach, np.int32)
    place[keys] = np.arange(len(keys), dtype=np.int32)
    return keys, place[ids], place[more]
