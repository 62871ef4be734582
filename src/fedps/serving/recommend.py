"""A trained model in use: for a client's users the best items, in the source's own ids, from the client's own private rows.

    recommender = Recommender.open("runs/quickstart-…", client="0")
    recommender.recommend("17", k=10)

It holds one epoch and never changes, so any thread may ask it; `reopened` makes one of a newer epoch, on the same data.
Ranking is that of full-catalogue metrics: what follows from an item alone is computed once, when it is opened.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow
from pyarrow import parquet

from fedps.config import Allow
from fedps.config.sections.features import first_binary, labels, of_item
from fedps.errors import DataError, JobError, UnknownIdError
from fedps.metrics import probabilities
from fedps.serving.fold_in import FoldIn
from fedps.serving.opened import Site, open_epoch, open_site, said_of_near, said_of_run
from fedps.storage.whole import make_folder, write_whole
from fedps.types import Bags, Column, Keys, Samples, Values, taken

AT_ONCE = 256  # users whose scores are held at a time
MOST_ITEMS = 10_000  # of a newcomer


class Recommendation(NamedTuple):
    """An item for a user.

    Attributes:
        item: its id, in the source's words.
        title: empty where there is none.
        score: the higher the better: a probability where the model tells one (loss bce), of a real label the number, else
            the network's output.
    """

    item: str
    title: str
    score: float


class Recommender:
    """Recommends to one client's users.

    Args:
        site: the client with its data.
        epoch: which saved epoch; the last that is whole if None.

    Attributes:
        site: as given.
        epoch: its number.
        note: what there is to know of the run: that it failed, or goes on; empty if it ended well.

    Raises:
        JobError: there is no such epoch, or what is private is not here.
        DataError: nothing whole was saved, or a file is torn.
    """

    def __init__(self, site: Site, epoch: int | None = None) -> None:
        self.site = site
        self.epoch, self._learner, self._trained = open_epoch(site, epoch)
        self.note = said_of_run(site.run_dir, self.epoch) if epoch is None else ""
        self._column, self._binary = first_binary(labels(site.job.inputs))
        self._rank = self._learner.engine.ranker(*site.described)
        self._alone = (
            nullcontext() if site.plan.library else threading.Lock()
        )  # torch's look-ups are set up anew for each call
        self._folding = threading.Lock()

    @classmethod
    def open(
        cls, run_dir: str | Path, client: str | None = None, epoch: int | None = None, *, user: str | None = None,
        items: Path | None = None, allow: Allow = Allow(),  # noqa: B008  (a constant)
    ) -> "Recommender":  # fmt: skip
        """Open a run's folder.

        Args:
            run_dir: the run's.
            client: whose users; None: those of the client that has `user`, or of the only one.
            epoch: which saved epoch; the last that is whole if None.
            user: in the source's words.
            items: a file like `items.csv`, of a catalogue that has grown since: new items have the rows they would start from.
            allow: what whoever started this allows the job's reader.

        Raises:
            JobError: no such run, client, user or epoch, or what is private is not here.
            DataError: nothing whole was saved, or a file is missing, malformed or torn.
        """
        return cls(open_site(Path(run_dir), client, user, items, allow), epoch)

    def reopened(self, epoch: int | None = None) -> "Recommender":
        """Return one of another epoch, the last that is whole by default, on the same data."""
        return Recommender(self.site, epoch)

    def recommend(self, user: str, k: int = 10, *, seen: bool = False) -> list[Recommendation]:
        """Return the k best items for a user, the best first; fewer if the user has seen nearly all.

        Args:
            user: in the source's words.
            k: how many.
            seen: with what the user has in the training data, too.

        Raises:
            JobError: no such user, or k over the catalogue.
        """
        self._check(k)
        [scores] = self._scores(np.array([self._find(user)]), seen)
        return self._told(scores, k)

    def recommend_all(self, k: int = 10, *, seen: bool = False) -> pa.Table:
        """Return the k best items for each user of the client: `user`, `rank` from 1, `item`, `title`, `score`.

        Raises:
            JobError: k over the catalogue.
        """
        self._check(k)
        columns: dict[str, list[object]] = {name: [] for name in ("user", "rank", *Recommendation._fields)}
        every = np.flatnonzero(self._trained)
        for begin in range(0, len(every), AT_ONCE):
            block = every[begin : begin + AT_ONCE]
            for place, scores in zip(block.tolist(), self._scores(block, seen), strict=True):
                found, user = self._told(scores, k), self.site.users.key(int(self._users[place]))
                for rank, one in enumerate(found, 1):
                    for name, value in zip(columns, (user, rank, *one), strict=True):
                        columns[name].append(value)
        texts, kinds = pa.string(), {"rank": pa.int32(), "score": pa.float32()}
        return pa.table({name: pa.array(values, kinds.get(name, texts)) for name, values in columns.items()})

    def score(self, user: str, items: Sequence[str]) -> list[float]:
        """Return how some items go with a user, by the same measure as `recommend`.

        Raises:
            JobError: no such user or item, or one of which this client knows too little.
        """
        [scores] = self._scores(np.array([self._find(user)]), seen=True)
        found: list[float] = self._measure(scores[self._known(items)]).tolist()
        return found

    def similar(self, item: str, k: int = 10) -> list[Recommendation]:
        """Return the k items that are most like one: by the cosine of their rows.

        Raises:
            JobError: no such item, k over the catalogue, or no table has rows of items that compare.
        """
        self._check(k)
        [place] = self._items([item])
        scores = self._directions @ self._directions[place]
        scores[place] = -np.inf
        return [self._recommendation(k, float(scores[k])) for k in _best(scores, k)]

    def fold_in(self, items: Sequence[str], k: int = 10, *, seen: bool = False) -> list[Recommendation]:
        """Return the k best items for somebody who was not there in training, from a few items of theirs.

        Only this user's own rows are trained, on these items and drawn negatives; all else stands still, and the same items
        give the same answer.

        Args:
            items: in the source's words; of a history the latest last.
            k: how many.
            seen: with these items, too.

        Raises:
            JobError: no such item, one of which this client knows too little, none at all or too many, or k over the catalogue.
        """
        self._check(k)
        if not items:
            raise JobError("--from-items: is empty; name an item, or several with commas between")
        if len(items) > MOST_ITEMS:
            raise JobError(f"{len(items):,} items are named; name the latest {MOST_ITEMS:,} at most")
        places = self._known(items)
        with self._folding:
            scores = self._with_column(self._newcomers.scores(places))
        if not seen:
            scores[places] = -np.inf
        return self._told(scores, k)

    def _scores(self, users: Keys, seen: bool) -> Values:
        """Return logits of all items for users by their places, float32[n, items]; of what they have seen -inf."""
        columns, slots = ({name: taken(column, users) for name, column in part.items()} for part in self._queries)
        with self._alone:
            scores = self._with_column(self._rank(Samples(columns, np.zeros(len(users), np.float32)), slots))
        if not seen:
            for row, user in zip(scores, users.tolist(), strict=True):
                row[self._seen.ids[self._seen.starts[user] : self._seen.starts[user + 1]]] = -np.inf
        return scores

    def _with_column(self, scores: Values) -> Values:
        """Return the logits of the label that stands for all; -inf of items of which too little is known."""
        scores = np.ascontiguousarray(scores[..., self._column]) if len(self.site.job.tasks) > 1 else scores
        if not np.isfinite(scores).all():
            raise DataError(
                f"epoch {self.epoch}: a score is NaN or infinite: has the training diverged? choose an earlier epoch"
            )
        scores[..., ~self.site.known] = -np.inf
        return scores

    def _told(self, scores: Values, k: int) -> list[Recommendation]:
        best = _best(scores, k)
        return [self._recommendation(i, s) for i, s in zip(best, self._measure(scores[best]).tolist(), strict=True)]

    def _recommendation(self, item: int, score: float) -> Recommendation:
        items = self.site.items
        return Recommendation(items.keys[item], items.titles[item] if items.titles else "", score)

    def _measure(self, scores: Values) -> Values:
        """Return scores for people, of logits."""
        return probabilities(scores) if self._binary and self.site.job.hyper_parameters.loss == "bce" else scores

    def _check(self, k: int) -> None:
        if not 0 < k <= len(self.site.items):
            raise JobError(f"-k {k}: must be from 1 to {len(self.site.items)}, the items of the catalogue")

    def _find(self, user: str) -> int:
        """Return a user's place."""
        found, where = self.site.users.find(user), f"client {self.site.client}"
        place = int(np.searchsorted(self._users, -1 if found is None else found))
        if found is None:
            raise UnknownIdError(
                f"--user {user}: {where} has no such user",
                lambda: f"{said_of_near(self.site.users.nearest(user))}; for somebody new: --from-items",
            )
        if place == len(self._users) or self._users[place] != found or not self._trained[place]:
            raise UnknownIdError(
                f"--user {user}: {where} knows this user, who had no part in training", lambda: "; use --from-items"
            )
        return place

    def _items(self, keys: Sequence[str]) -> Keys:
        """Return items' places: their ids."""
        found = self.site.items.find_all(keys)
        if (bad := np.flatnonzero(found < 0)).size:
            key = keys[int(bad[0])]
            raise UnknownIdError(
                f"item {key}: there is no such item", lambda: said_of_near(self.site.items.nearest(key))
            )
        return found

    def _known(self, keys: Sequence[str]) -> Keys:
        """Return the places of items that can be scored."""
        found = self._items(keys)
        if (bad := np.flatnonzero(~self.site.known[found])).size:
            raise UnknownIdError(
                f"item {keys[int(bad[0])]}: neither samples of client {self.site.client} nor the catalogue tell what it is like"
            )
        return found

    @property
    def _users(self) -> Keys:
        return self.site.data.keys["user"]

    @cached_property
    def _seen(self) -> Bags:
        """The items that each user has in the training data."""
        train, positive = self.site.data.train, _liked(self.site.data.train)
        user = np.searchsorted(self._users, train.user[positive])
        order = np.argsort(user, kind="stable")
        starts = np.searchsorted(user[order], np.arange(len(self._users) + 1))
        return Bags(np.asarray(train.item)[positive][order].astype(np.int64), starts)

    @cached_property
    def _queries(self) -> tuple[Mapping[str, Column], Mapping[str, Column]]:
        """What stands for each user, as columns and as slots: the last sample, histories with the item that it liked."""
        data, positive = self.site.data, _liked(self.site.data.train)
        slots, last = data.slots["user"], np.zeros(len(self._users), np.int64)
        assert not isinstance(slots, Bags)  # noqa: S101
        for which in (np.arange(len(positive)), np.flatnonzero(positive)):
            last[slots[which]] = which
        columns, places = ({f: taken(c, last) for f, c in part.items()} for part in (data.train.columns, data.slots))
        liked, item = positive[last], data.train.item[last]
        for name, feature in self.site.job.inputs.items():
            if feature.kind == "ids" and feature.table == "item" and not of_item(name, feature):
                bags = columns[name]
                assert isinstance(bags, Bags)  # noqa: S101
                grown = _with_last(bags, item, liked)
                grown = grown.last(feature.max) if feature.max else grown
                columns[name], places[name] = grown, Bags(grown.ids.astype(np.int32), grown.starts)
        return columns, places

    @cached_property
    def _directions(self) -> Values:
        """The rows of items in all tables that look them up, each of length 1, float32[items, d]."""
        tables = [t for t in self._learner.tables.values() if "item" in t.features and t.dim > 1]
        if not tables:
            raise JobError(
                f"{self.site.run_dir}: its model has no rows of items, of several numbers each, that compare"
            )
        rows = np.concatenate([t.values for t in tables], axis=1)
        found: Values = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return found

    @cached_property
    def _newcomers(self) -> FoldIn:
        return FoldIn(self.site, self._learner)


def write_table(table: pa.Table, path: Path) -> None:
    """Write what `recommend_all` gave, as CSV or Parquet by the file's ending, whole or not at all, for its owner only.

    Raises:
        DataError: it cannot be written.
    """
    buffer = pa.BufferOutputStream()
    if path.suffix == ".csv":
        arrow.write_csv(table, buffer)
    else:
        parquet.write_table(table, buffer)
    try:
        make_folder(path.parent)
        write_whole(path, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}; choose another --out") from error


def _best(scores: Values, k: int) -> list[int]:
    """Return the k places with the highest scores, the highest first, of equal ones the lower place first; -inf is out."""
    least = np.partition(scores, -k)[-k]
    found = np.flatnonzero((scores >= least) & (scores > -np.inf))
    best: list[int] = found[np.lexsort((found, -scores[found]))[:k]].tolist()
    return best


def _liked(samples: Samples) -> NDArray[np.bool_]:
    """Return which samples are positives, of whatever label."""
    labels_ = samples.label.reshape(len(samples.label), -1)
    return np.asarray((labels_ > 0).any(axis=1))


def _with_last(bags: Bags, item: Keys, which: NDArray[np.bool_]) -> Bags:
    """Return bags with one more id behind those of some."""
    ids = np.insert(bags.ids[bags.starts[0] :], bags.starts[1:][which] - bags.starts[0], item[which])
    return Bags(ids, np.concatenate([[0], np.cumsum(np.diff(bags.starts) + which)]))
