"""One client's data, coded for its local tables: columns of ids become columns of slots, once.

A client's table has a row for each id in its data; a *slot* is an id's place among them. Shuffles and draws are streams
of (job seed, client, epoch): any machine draws the same.
"""

import zlib
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedps.data.negatives import History, Pairs
from fedps.errors import DataError
from fedps.types import COLUMNS, NO_SAMPLES, ClientId, Keys, Samples, Slots

Order = NDArray[np.int32]  # positions of samples
DRAW, PAIR = (zlib.crc32(purpose) for purpose in (b"fedps.client.negatives", b"fedps.client.pairs"))


class ClientData:
    """The training and held-out samples of one client, and the order in which an epoch goes through them.

    Where negatives are drawn, the samples of a pass are laid out as each positive, then its negatives; several passes
    stand end to end, so that one can be drawn while another is trained.

    Args:
        train: training samples.
        test: held-out samples, or None.
        client: whose they are.
        seed: the job's seed.
        shuffle: a new order each epoch; False keeps the file's order.
        negatives: draw so many items for each positive, anew each epoch, in place of the file's own negatives; None
            trains on the file as it is.
        num_items: item ids run from 0 to this, exclusive; needed to draw.
        public: samples that are not trained on here, whose ids become keys too; None: there are none.
        pairs: an epoch is pairs of samples of one user: a positive, then a negative.

    Attributes:
        train: the samples that positions of an order stand for.
        test: the held-out samples; empty if there are none.
        keys: for each column its distinct ids, int64[n] sorted; all items, if negatives are drawn.
        slots: for each column the place in `keys` of every training sample's id, int32.
        test_slots: the same for held-out samples.

    Raises:
        DataError: there is nothing to draw from, or to pair; names the client.
    """

    def __init__(
        self, train: Samples, test: Samples | None, client: ClientId, seed: int, shuffle: bool,
        negatives: int | None = None, num_items: int = 0, pairs: bool = False, public: Samples | None = None,
    ) -> None:  # fmt: skip
        self.train, self.test = train, NO_SAMPLES if test is None else test
        self._stream, self._shuffle = (seed, zlib.crc32(client.encode())), shuffle
        self.keys: dict[str, Keys] = {}
        self.slots: dict[str, Slots] = {}
        self.test_slots: dict[str, Slots] = {}
        for column in COLUMNS:
            ids = getattr(train, column)
            held_out = getattr(self.test, column)
            others = held_out if public is None else np.concatenate([held_out, getattr(public, column)])
            self.keys[column], self.slots[column], slots = encode(ids, others)
            self.test_slots[column] = slots[: len(held_out)]
        self._passes, self._now, self._size = 1, 0, len(train.label)
        self._each = negatives or 0
        try:
            self._history = self._lay_out(num_items) if negatives is not None else None
            self._pairs = Pairs(self.slots["user"], self.train.label) if pairs else None
        except DataError as error:
            raise DataError(f"client {client!r}: {error}") from error

    def __len__(self) -> int:
        """Return the samples of a pass."""
        return 2 * len(self._pairs) if self._pairs else self._size

    def hold(self, passes: int) -> None:
        """Keep the samples of so many passes at a time: an order is good until `passes` more have been drawn."""
        if self._history is None or passes <= self._passes:
            return
        more = passes - self._passes
        for column in COLUMNS:
            slots = self.slots[column]
            self.slots[column] = np.concatenate([slots, *[slots[: self._size]] * more])
        label = np.concatenate([self.train.label, *[self.train.label[: self._size]] * more])
        self._passes = passes
        self.train = Samples(self.keys["user"][self.slots["user"]], cast(Keys, self.slots["item"]), label)

    def order(self, epoch: int) -> Order:
        """Draw an epoch's negatives, if the job wants that, and return its order of samples, int32[n].

        Two by two they are pairs, if the job wants pairs.
        """
        first = self._draw(epoch) if self._history is not None else 0
        shuffle = np.random.default_rng((*self._stream, epoch))
        if self._pairs is not None:
            pairs = self._pairs.draw(np.random.default_rng((*self._stream, epoch, PAIR)))
            pairs = pairs[shuffle.permutation(len(pairs))] if self._shuffle else pairs
            return pairs.reshape(-1) + np.int32(first)
        order = np.arange(first, first + self._size, dtype=np.int32)
        if self._shuffle:
            shuffle.shuffle(order)
        return order

    def distinct(self, column: str, samples: Order) -> Slots:
        """Return the distinct slots of some training samples, int32 sorted."""
        slots, rows = self.slots[column].take(samples), len(self.keys[column])
        if len(slots) * 64 < rows:  # few of many: to go over all rows would take longer
            return np.unique(slots)
        occurs = np.zeros(rows, np.bool_)
        occurs[slots] = True
        return np.flatnonzero(occurs).astype(np.int32)

    def _lay_out(self, num_items: int) -> History:
        """Lay the samples out anew, each positive and then its negatives, and return what may be drawn.

        All items become keys, for any may be drawn.
        """
        positive, each = np.flatnonzero(self.train.label > 0), self._each
        user, item = self.slots["user"][positive], np.asarray(self.train.item)[positive].astype(np.int32)
        if not len(user):
            raise DataError("runner.negatives: the training data has no positive (label 1); leave the key out")
        history = History(user, item, len(self.keys["user"]), num_items)
        if not history.left.all():
            raise DataError(
                f"runner.negatives: user {self.keys['user'][history.left == 0][0]} has taken all {num_items} items, so none"
                " is left to draw; leave this user out, or set runner.negatives: 0"
            )
        self.keys["item"] = np.arange(num_items)
        self.test_slots["item"] = np.asarray(self.test.item).astype(np.int32)
        label = np.zeros((len(positive), 1 + each), np.float32)
        label[:, 0] = 1
        self.slots = {"user": np.repeat(user, 1 + each), "item": np.repeat(item, 1 + each)}
        self._size = label.size
        users = np.repeat(np.asarray(self.train.user)[positive], 1 + each)
        self.train = Samples(users, cast(Keys, self.slots["item"]), label.reshape(-1))  # an item is its own slot
        return history

    def _draw(self, epoch: int) -> int:
        """Draw an epoch's negatives in place of those of the oldest pass that is kept; return the pass's first sample."""
        assert self._history is not None  # noqa: S101
        self._now = (self._now + 1) % self._passes
        first = self._now * self._size
        user, item = (self.slots[c][first : first + self._size].reshape(-1, 1 + self._each)[:, 1:] for c in COLUMNS)
        drawn = self._history.draw(
            user.astype(np.int64).reshape(-1), np.random.default_rng((*self._stream, epoch, DRAW))
        )
        item[:] = drawn.reshape(item.shape)
        return first


def encode(ids: NDArray[np.int64], more: NDArray[np.int64]) -> tuple[Keys, Slots, Slots]:
    """Code ids as places among all distinct ones.

    Ids are counted off in an array over their range, unless that would be far larger than the data: then they are sorted.

    Args:
        ids: int64[n], 0 or more.
        more: int64[m], 0 or more.

    Returns:
        The distinct ids of both, int64 sorted; the places there of `ids`, int32[n], and of `more`, int32[m].
    """
    reach = 1 + int(max(ids.max(initial=-1), more.max(initial=-1)))
    if reach > 4 * (len(ids) + len(more)) + (1 << 20):
        keys = np.unique(np.concatenate([ids, more])).astype(np.int64)
        return keys, np.searchsorted(keys, ids).astype(np.int32), np.searchsorted(keys, more).astype(np.int32)
    occurs = np.zeros(reach, np.bool_)
    occurs[ids] = occurs[more] = True
    keys = np.flatnonzero(occurs)
    place = np.empty(reach, np.int32)
    place[keys] = np.arange(len(keys), dtype=np.int32)
    return keys, place[ids], place[more]
