"""What models are trained on, written from a log of interactions: pairs, ratings, or sequences.

Pairs are positives, with negatives drawn for training and, held out, 99 candidates beside each positive. Where nothing but
ids is known, they are lines `user,item,label`; else samples have a column a feature. Ratings are samples that say
themselves whether they are positive. Sequences are what a user took before the item that came next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedps.config.sections.features import OPEN
from fedps.data.catalogue import Catalogue
from fedps.data.negatives import History, Ids
from fedps.data.prepare import write as prepared
from fedps.data.prepare.clean import Told
from fedps.data.prepare.describe import Described
from fedps.data.prepare.featured import features_of_sequences, parts, sequences
from fedps.data.prepare.interactions import Log, Mask
from fedps.data.prepare.write import TEST_NEGATIVES, Interactions, ids_of_users, write_featured
from fedps.errors import DataError

SIDES = ("train", "valid", "test")


@dataclass(frozen=True)
class Ready:
    """Somebody's data, counted and dealt out.

    Attributes:
        log: users from 0 without a gap.
        items: what items there are.
        shares: each client's users.
        of_users, of_items: what is known of them.
        one_site: others prepare theirs elsewhere: nobody counts all users.
        seed: of all draws.
        facts: for the manifest.
    """

    log: Log
    items: Catalogue
    shares: Mapping[str, Ids]
    of_users: Described
    of_items: Described
    one_site: bool
    seed: int
    facts: Mapping[str, Any]

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.log.keys["user"])

    @property
    def features(self) -> dict[str, Mapping[str, Any]]:
        """What the columns of samples are, as a job's section `features` has it."""
        return {
            "user": {"kind": "id", "rows": OPEN if self.one_site else self.num_users, "side": "user"},
            "item": {"kind": "id", "rows": len(self.items), "side": "item"},
            **self.of_users.features, **self.of_items.features, "label": {"kind": "label"},
        }  # fmt: skip

    def samples(self, user: NDArray[Any], item: NDArray[Any], label: NDArray[Any]) -> pa.Table:
        """Return samples with all that is known of their users and items."""
        columns = {"user": pa.array(user), "item": pa.array(item)}
        columns |= {name: cells.take(pa.array(user)) for name, cells in self.of_users.columns.items()}
        columns |= {name: cells.take(pa.array(item)) for name, cells in self.of_items.columns.items()}
        return pa.table(columns | {"label": pa.array(label)})

    def write(
        self,
        out: Path,
        sides: Mapping[str, Mapping[str, pa.Table]],
        features: Mapping[str, Mapping[str, Any]],
        facts: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Write samples with a column a feature; return the manifest."""
        values = self.of_items.values
        own = {} if self.one_site else {"num_users": self.num_users}
        facts = {**own, "num_items": len(self.items), "synthetic": False, "seed": self.seed, **self.facts, **facts}
        users = ids_of_users(self.log.keys["user"], self.shares)
        return write_featured(
            out, sides, features, facts | ({"values": values} if values else {}), items=self.items, users=users
        )


def write_pairs(out: Path, ready: Ready, test: Mask, negatives: int, candidates: bool, tell: Told) -> Mapping[str, Any]:
    """Write positives and drawn negatives; return the manifest.

    Args:
        out: the folder to make.
        ready: the data; all its lines are positive.
        test: bool[n], which are held out.
        negatives: drawn for each training positive.
        candidates: draw 99 for each held-out positive.
        tell: takes in what cannot be done, in words.

    Raises:
        DataError: somebody has taken all items, so that nothing can be drawn, or a client has nothing to train on.
    """
    log, rng = ready.log, np.random.default_rng((ready.seed, 1))
    user, item = log.user.astype(np.int64), log.item.astype(np.int64)
    history = History(user, item, ready.num_users, len(ready.items))
    order = np.argsort(user, kind="stable")
    rows, held_out = order[~test[order]], order[test[order]]
    if not len(held_out):
        tell("nothing is held out: no user has two interactions")
    elif candidates:
        short = history.left[user[held_out]] < TEST_NEGATIVES
        if short.all():
            candidates = False
            tell(f"held-out positives stand alone: no user has left {TEST_NEGATIVES} items to draw; measure full_hr@10")
        elif short.any():
            tell(
                f"{len(np.unique(user[held_out[short]])):,} users are not tested: fewer than {TEST_NEGATIVES} items are left to draw"
            )
            held_out = held_out[~short]
    drawn = history.draw_sets(user[held_out], TEST_NEGATIVES if candidates else 0, rng)
    facts = {"test_positives": "held out", "test_negatives": "drawn" if candidates else "none", "negatives": negatives}
    if not (ready.of_users.features or ready.of_items.features or ready.one_site):
        data = Interactions(
            user[rows], item[rows], ready.num_users, len(ready.items), user[held_out], item[held_out], drawn, "",
            items=ready.items, user_keys=log.keys["user"],
        )  # fmt: skip
        return prepared.write(out, data, lambda _: ready.shares, negatives, ready.seed, {**ready.facts, **facts})
    if negatives and (history.left[user[rows]] == 0).any():
        who = log.keys["user"][int(user[rows][history.left[user[rows]] == 0][0])]
        raise DataError(f"user {who!r} has taken all items, so none is left to draw; use --negatives 0")
    more = history.draw(np.repeat(user[rows], negatives), rng, 1).reshape(len(rows), negatives)
    sides: dict[str, dict[str, pa.Table]] = {"train": {}, "test": {}}
    for side, at, beside in (("train", rows, more), ("test", held_out, drawn)):
        for client, mine in _by_client(user[at], ready.shares):
            groups = np.column_stack([item[at[mine]], beside[mine]])
            label = np.zeros(groups.shape, np.int64)
            label[:, 0] = 1
            sides[side][client] = ready.samples(
                np.repeat(user[at[mine]], groups.shape[1]), groups.reshape(-1), label.reshape(-1)
            )
    _check_trained(sides["train"], ready.shares)
    return ready.write(out, sides, ready.features, facts)


def write_ratings(out: Path, ready: Ready, split: str, share: float) -> Mapping[str, Any]:
    """Write every line as a sample with its own label; a share is held out for validation and one for testing.

    Raises:
        DataError: there is no such split, or no time to split by.
    """
    log = ready.log
    user, item, label = (column.astype(np.int64) for column in (log.user, log.item, log.positive))
    if split == "ratio":
        side = np.random.default_rng((ready.seed, 1)).choice(3, len(log), p=[1 - 2 * share, share, share])
    elif split == "time" and len(log.time):
        side = np.searchsorted(np.quantile(log.time, [1 - 2 * share, 1 - share], method="lower"), log.time)
    else:
        raise DataError(
            f"--split {split}: ratings are split by ratio, or by time where a column tells it (--time COLUMN)"
        )
    sides: dict[str, dict[str, pa.Table]] = {name: {} for name in SIDES}
    for k, name in enumerate(SIDES):
        at = np.flatnonzero(side == k)
        for client, mine in _by_client(user[at], ready.shares):
            rows = at[mine]
            sides[name][client] = ready.samples(user[rows], item[rows], label[rows])
    _check_trained(sides["train"], ready.shares)
    return ready.write(out, sides, ready.features, {})


def write_sequences(out: Path, ready: Ready) -> Mapping[str, Any]:
    """Write what users took before the item that came next: the last one is held out.

    Raises:
        DataError: nobody took three items, of which the second but last is told from those before.
    """
    log = ready.log
    order = np.lexsort((log.time, log.user)) if len(log.time) else np.argsort(log.user, kind="stable")
    found = sequences(log.user[order].astype(np.int64), log.item[order].astype(np.int64))
    sides = {side: dict(parts(table, at, ready.shares)) for side, (table, at) in found.items()}
    _check_trained(sides["train"], ready.shares)
    features = features_of_sequences(OPEN if ready.one_site else ready.num_users, len(ready.items))
    return ready.write(out, sides, features, {})


def _by_client(user: Ids, shares: Mapping[str, Ids]) -> Iterator[tuple[str, Ids]]:
    """Yield each client with its places in an array of users."""
    owner = np.zeros(1 + max(int(users.max()) for users in shares.values()), np.int64)
    for k, users in enumerate(shares.values()):
        owner[users] = k
    order = np.argsort(owner[user], kind="stable")
    cuts = np.searchsorted(owner[user][order], np.arange(1, len(shares)))
    yield from ((client, mine) for client, mine in zip(shares, np.split(order, cuts), strict=True) if len(mine))


def _check_trained(train: Mapping[str, Any], shares: Mapping[str, Ids]) -> None:
    lost = [client for client in shares if client not in train]
    if lost:
        raise DataError(
            f"client {lost[0]}: its {len(shares[lost[0]])} users have nothing to train on once something is held out"
            f" ({len(lost)} such clients); choose fewer --clients, another --partition, or --core 3"
        )
