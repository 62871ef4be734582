"""One client's data, coded for its local tables: columns of ids become columns of slots, once.

An *id space* is what the rows of tables are numbered by; features that share a table share one. A client's table has a
row for each id of its space in the client's data; a *slot* is an id's place among them. Shuffles and draws are streams
of (job seed, client, epoch): any machine draws the same.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.data.negatives import History, Pairs
from fedps.errors import DataError
from fedps.types import NO_KEYS, Bags, ClientId, Column, Keys, Samples, Slots, Values, ids_of, taken

Order = NDArray[np.int32]  # positions of samples
PAIRS = {"user": "user", "item": "item"}  # the classic features of ids, each in a space of its own
DRAW, PAIR = (zlib.crc32(purpose) for purpose in (b"fedps.client.negatives", b"fedps.client.pairs"))


class ClientData:
    """The training and held-out samples of one client, and the order in which an epoch goes through them.

    Where negatives are drawn, the samples of a pass are laid out as each positive, then its negatives; several passes
    stand end to end, so that one can be drawn while another is trained. What a user's histories hold was taken, too: it is
    no negative, as in SASRec (Kang and McAuley, ICDM 2018, section III.E) and in the samples made for DIN.

    Args:
        train: training samples.
        test: held-out samples, or None.
        client: whose they are.
        seed: the job's seed.
        shuffle: a new order each epoch; False keeps the file's order.
        negatives: draw so many items for each positive, anew each epoch, in place of the file's own negatives; None
            trains on the file as it is.
        num_items: item ids run from 0 to this, exclusive; needed to draw, and to rank all items.
        public: samples that are not trained on here, whose ids become keys too; None: there are none.
        pairs: an epoch is pairs of samples of one user: a positive, then a negative.
        grouped: a positive and its drawn negatives stay together, in this order.
        spaces: each feature of ids, and its id space; other features are numbers.
        catalogue: held-out samples are scored with any item: all become keys.

    Attributes:
        client: whose they are.
        train: the samples that positions of an order stand for.
        test: the held-out samples; empty if there are none.
        keys: for each id space its distinct ids, int64[n] sorted; all items, if negatives are drawn or all are ranked.
        slots: for each feature of ids the place in `keys` of every training sample's id, or ids, int32.
        test_slots: the same for held-out samples.

    Raises:
        DataError: there is nothing to draw from, or to pair; names the client.
    """

    def __init__(
        self, train: Samples, test: Samples | None, client: ClientId, seed: int, shuffle: bool,
        negatives: int | None = None, num_items: int = 0, pairs: bool = False, public: Samples | None = None,
        spaces: Mapping[str, str] = PAIRS, catalogue: bool = False, grouped: bool = False,
    ) -> None:  # fmt: skip
        self.train, self.test = train, train.at(slice(0)) if test is None else test
        self.client = client
        self._stream, self._shuffle = (seed, zlib.crc32(client.encode())), shuffle
        self.keys: dict[str, Keys] = {}
        self.slots: dict[str, Column] = {}
        self.test_slots: dict[str, Column] = {}
        for space in dict.fromkeys(spaces.values()):
            own = [feature for feature, of in spaces.items() if of == space]
            parts = [part.columns[f] for part in (train, self.test, *([public] if public else [])) for f in own]
            self.keys[space], slots = encode([ids_of(part) for part in parts])
            for k, feature in enumerate(own):
                self.slots[feature] = _like(parts[k], slots[k])
                self.test_slots[feature] = _like(parts[len(own) + k], slots[len(own) + k])
        self._spaces = spaces
        if catalogue:
            self._hold_items(num_items)
        self._passes, self._now, self._size = 1, 0, len(train.label)
        self._each = negatives or 0
        self._unit = 1 + self._each if grouped else 1
        try:
            self._history = self._lay_out(num_items) if negatives is not None else None
            self._pairs = Pairs(ids_of(self.slots["user"]), self.train.label) if pairs else None
        except DataError as error:
            raise DataError(f"client {client!r}: {error}") from error

    def __len__(self) -> int:
        """Return the samples of a pass."""
        return 2 * len(self._pairs) if self._pairs else self._size

    def hold(self, passes: int) -> None:
        """Keep the samples of so many passes at a time: an order is good until `passes` more have been drawn."""
        if self._history is None or passes <= self._passes:
            return
        self._passes = passes
        places = np.tile(np.arange(self._size), passes)
        self._take(places, self.slots, self.train.label[places])

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
            shuffle.shuffle(order if self._unit == 1 else order.reshape(-1, self._unit))
        return order

    def held_out(self, samples: Keys) -> tuple[Samples, dict[str, Column]]:
        """Return some of the held-out samples, int64[n], and their slots."""
        return self.test.at(samples), {feature: taken(column, samples) for feature, column in self.test_slots.items()}

    def coded(self, space: str, column: Column) -> Column:
        """Return the slots of ids of a space, all of which are keys."""
        return _like(column, np.searchsorted(self.keys[space], ids_of(column)).astype(np.int32))

    def distinct(self, features: Sequence[str], samples: Order) -> Slots:
        """Return the distinct slots that some features of one space have in some training samples, int32 sorted."""
        parts = [ids_of(taken(self.slots[feature], samples)) for feature in features]
        slots = parts[0] if len(parts) == 1 else np.concatenate(parts)
        rows = len(self.keys[self._spaces[features[0]]])
        if len(slots) * 64 < rows:  # few of many: to go over all rows would take longer
            return np.unique(slots)
        occurs = np.zeros(rows, np.bool_)
        occurs[slots] = True
        return np.flatnonzero(occurs).astype(np.int32)

    def frequencies(self, features: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
        """Count how often each id of a space stands in some features of it; there is none where the data has no such feature."""
        found = [feature for feature in features if feature in self.slots]
        if not found:
            return NO_KEYS, np.empty(0, np.int64)
        keys = self.keys[self._spaces[found[0]]]
        slots = np.concatenate([ids_of(self.slots[feature]) for feature in found])
        return keys, np.bincount(slots, minlength=len(keys))

    def _lay_out(self, num_items: int) -> History:
        """Lay the samples out anew, each positive and then its negatives, and return what may be drawn.

        All items become keys, for any may be drawn.
        """
        positive, each = np.flatnonzero(self.train.label > 0), self._each
        user = ids_of(self.slots["user"])[positive]
        if not len(user):
            raise DataError("runner.negatives: the training data has no positive (label 1); leave the key out")
        item = np.asarray(self.train.item)[positive]
        history = History(user, item, len(self.keys["user"]), num_items, self._histories())
        if not history.left.all():
            raise DataError(
                f"runner.negatives: user {self.keys['user'][history.left == 0][0]} has taken all {num_items} items, so none"
                " is left to draw; leave this user out, or set runner.negatives: 0"
            )
        self._hold_items(num_items)
        label = np.zeros((len(positive), 1 + each), np.float32)
        label[:, 0] = 1
        self._size = label.size
        self._take(np.repeat(positive, 1 + each), self.slots, label.reshape(-1))
        return history

    def _histories(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield users and what they took before, by the features that share the items' space."""
        user = ids_of(self.slots["user"])
        for feature in (f for f, of in self._spaces.items() if of == self._spaces["item"] and f != "item"):
            column = self.train.columns[feature]
            yield np.repeat(user, np.diff(column.starts)) if isinstance(column, Bags) else user, ids_of(column)

    def _hold_items(self, num_items: int) -> None:
        """Make all items keys: an item is its own slot then."""
        space = self._spaces["item"]
        self.keys[space] = np.arange(num_items)
        for feature in (f for f, of in self._spaces.items() if of == space):
            self.slots[feature], self.test_slots[feature] = (
                _like(part.columns[feature], ids_of(part.columns[feature]).astype(np.int32))
                for part in (self.train, self.test)
            )

    def _take(self, places: NDArray[np.int64], slots: Mapping[str, Column], label: Values) -> None:
        """Train on the samples at some places; their items, which are their own slots, may change."""
        self.slots = {feature: taken(column, places) for feature, column in slots.items()}
        columns = {
            feature: taken(column, places) for feature, column in self.train.columns.items() if feature != "item"
        }
        self.train = Samples(columns | {"item": self.slots["item"]}, label)

    def _draw(self, epoch: int) -> int:
        """Draw an epoch's negatives in place of those of the oldest pass that is kept; return the pass's first sample."""
        assert self._history is not None  # noqa: S101
        self._now = (self._now + 1) % self._passes
        first = self._now * self._size
        user, item = (
            ids_of(self.slots[feature])[first : first + self._size].reshape(-1, 1 + self._each)[:, 1:]
            for feature in PAIRS
        )
        drawn = self._history.draw(
            user.astype(np.int64).reshape(-1), np.random.default_rng((*self._stream, epoch, DRAW))
        )
        item[:] = drawn.reshape(item.shape)
        return first


def encode(parts: Sequence[NDArray[np.integer[Any]]]) -> tuple[Keys, list[Slots]]:
    """Code ids as places among all distinct ones.

    Ids are counted off in an array over their range, unless that would be far larger than the data: then they are sorted.

    Args:
        parts: integers[n] each.

    Returns:
        The distinct ids of all, int64 sorted, and the places there of each part, int32[n].
    """
    least = min((int(ids.min()) for ids in parts if len(ids)), default=0)
    reach = 1 + max((int(ids.max()) for ids in parts if len(ids)), default=-1)
    if least < 0 or reach > 4 * sum(map(len, parts)) + (1 << 20):
        keys = np.unique(np.concatenate(parts)).astype(np.int64)
        return keys, [np.searchsorted(keys, ids).astype(np.int32) for ids in parts]
    occurs = np.zeros(reach, np.bool_)
    for ids in parts:
        occurs[ids] = True
    keys = np.flatnonzero(occurs)
    place = np.empty(reach, np.int32)
    place[keys] = np.arange(len(keys), dtype=np.int32)
    return keys, [place[ids] for ids in parts]


def _like(column: Column, ids: NDArray[Any]) -> Column:
    """Return ids, or slots, one for each id of a column, in that column's form."""
    return Bags(ids, column.starts) if isinstance(column, Bags) else ids
