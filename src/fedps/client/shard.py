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
            keys = self.keys[column] = np.unique(np.concatenate([ids, held_out])).astype(np.int64)
            self.slots[column] = np.searchsorted(keys, ids).astype(np.int32)
            self.test_slots[column] = np.searchsorted(keys, held_out).astype(np.int32)

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
        slots, rows = self.slots[column][samples], len(self.keys[column])
        if len(slots) * 64 < rows:
            return np.unique(slots)
        there = np.zeros(rows, np.bool_)
        there[slots] = True
        return np.flatnonzero(there).astype(np.int32)
