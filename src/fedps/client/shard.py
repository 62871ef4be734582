"""One client's data, coded for its local tables: columns of ids become columns of slots, once.

Shuffling is a stream of (job seed, client, epoch): any machine draws the same order.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fedps.client.parameters import COLUMNS
from fedps.client.tables import Slots
from fedps.data.reader import Samples
from fedps.types import ClientId, Keys, Values


class Batch(NamedTuple):
    """B samples: ids and slots int64[B] by column, label float32[B] (0 or 1)."""

    ids: tuple[Slots, Slots]
    slots: dict[str, Slots]
    label: Values


class ClientData:
    """The training and held-out samples of one client.

    Args:
        train: training samples.
        test: held-out samples, or None.
        client: whose they are.
        seed: the job's seed.
        shuffle: a new order each epoch; False keeps the file's order.
    """

    def __init__(self, train: Samples, test: Samples | None, client: ClientId, seed: int, shuffle: bool) -> None:
        self.train, self.test = train, test
        self._stream, self._shuffle = (seed, zlib.crc32(client.encode())), shuffle
        self.keys: dict[str, Keys] = {}
        self._slots: dict[str, Slots] = {}
        self.test_slots: dict[str, Slots] = {}
        for column in COLUMNS:
            ids = getattr(train, column)
            held_out = getattr(test, column) if test is not None else ids[:0]
            keys = self.keys[column] = np.unique(np.concatenate([ids, held_out]))
            self._slots[column] = np.searchsorted(keys, ids)
            self.test_slots[column] = np.searchsorted(keys, held_out)

    def __len__(self) -> int:
        return len(self.train.label)

    def batches(self, epoch: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's batches of `size` samples; the last may be shorter."""
        order = np.arange(len(self))
        if self._shuffle:
            order = np.random.default_rng((*self._stream, epoch)).permutation(len(self))
        for start in range(0, len(self), size):
            yield self._batch(order[start : start + size])

    def _batch(self, at: Slots) -> Batch:
        slots: Mapping[str, Slots] = self._slots
        return Batch(
            (self.train.user[at], self.train.item[at]),
            {column: slots[column][at] for column in COLUMNS},
            self.train.label[at],
        )
