"""Where held-out items stand among others, by score: HR, NDCG, MRR and recall at k, as sums over users.

Items whose score equals may stand in any order: the mean over all orders is taken. So a constant scorer gets what chance
gets, HR@10 0.10 of 100 candidates, not 1.0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.errors import FedpsError
from fedps.figures import Metric
from fedps.types import Keys, Samples, Values

BLOCK = 1 << 20  # pairs of a user and an item that are ranked at once, or one user's: it bounds memory
Counts = NDArray[np.int64]
Sums = NDArray[np.float64]
Mask = NDArray[np.bool_]


def rank_candidates(scores: Values, items: Keys, metrics: Sequence[Metric]) -> dict[str, float]:
    """Sum over users how well their positive stands among its candidates.

    A candidate with the positive's own item is not its rival: the published NCF evaluator keys scores by
    item, so such a duplicate (156 users of the published ML-1M negatives have one) merges with the positive.
    To count it as a tied negative would give slightly lower figures.

    Args:
        scores: float32[n, C], per user the positive first, on any scale; logits keep apart what probabilities
            near 0 or 1 round together.
        items: int64[n, C], the candidates' item ids.
        metrics: of rankings.

    Returns:
        By the metrics' names.

    Raises:
        FedpsError: a score is NaN or infinite; it would rank by accident.
    """
    _check(scores)
    positive, rival = scores[:, :1], items != items[:, :1]
    ahead = (rival & (scores > positive)).sum(axis=1)
    tied = (rival & (scores == positive)).sum(axis=1)
    sums = {}
    for metric in metrics:
        total = _total_gain(metric, scores.shape[1])
        sums[metric.name] = float(((total[ahead + tied + 1] - total[ahead]) / (tied + 1)).sum())
    return sums


class Catalogue(NamedTuple):
    """All items, to rank a user's held-out ones among them.

    Attributes:
        items: how many; ids run from 0.
        train: samples whose positives their users have taken: these are no rivals.
        score: the logits, float32[b, items], of some held-out samples, int64[b], with each item in the place of theirs; of
            several labels float32[b, items, labels].
    """

    items: int
    train: Samples
    score: Callable[[Keys], Values]

    def of_task(self, number: int) -> "Catalogue":
        """Return the same for one label of several, by its number."""
        train = Samples(self.train.columns, self.train.label[:, number])
        return self._replace(train=train, score=lambda samples: self.score(samples)[..., number])


class Wanted(NamedTuple):
    """What is to be found for one user.

    Attributes:
        sample: its first held-out positive, whose other features stand for the user.
        items: int64[p], its held-out positives, each once.
        taken: int64[t], items that are no rivals.
    """

    sample: int
    items: Keys
    taken: Keys


def rank_catalogue(
    catalogue: Catalogue, test: Samples, positive: Mask, taken: Mask, metrics: Sequence[Metric]
) -> dict[str, float]:
    """Sum over users how well their held-out positives stand among all items that they have not taken.

    Of several, the first found counts for HR and MRR; NDCG is the gain of all over that of the best order, recall the
    share of them that is found. With one, all are those of `rank_candidates`.

    Args:
        catalogue: the items.
        test: the held-out samples.
        positive: which of them are to be found.
        taken: which of the catalogue's training samples their users have taken.
        metrics: of full rankings, of one label.

    Returns:
        By the metrics' names, and the number of users.

    Raises:
        FedpsError: a score is NaN or infinite.
    """
    gains = {metric: _total_gain(metric, min(metric.k, catalogue.items)) for metric in metrics}
    found: dict[Metric, list[float]] = {metric: [] for metric in metrics}
    users = list(_wanted(catalogue, test, positive, taken))
    at_once = max(1, BLOCK // catalogue.items)
    for begin in range(0, len(users), at_once):
        block = users[begin : begin + at_once]
        scores = catalogue.score(np.array([user.sample for user in block]))
        _check(scores)
        for first, every in _places(scores, block):
            for metric, total in gains.items():
                found[metric].append(_gain(metric, total, first, every))
    return {metrics[0].sums[1]: len(users)} | {metric.name: math.fsum(each) for metric, each in found.items()}


class Places(NamedTuple):
    """Where some items of a user stand, from 0: behind `ahead` others, in any order with `tied`, themselves among them.

    Attributes:
        ahead, tied: int64[p].
        together: how many of the user's items are among the tied of the first.
    """

    ahead: Counts
    tied: Counts
    together: int


def _wanted(catalogue: Catalogue, test: Samples, positive: Mask, taken: Mask) -> Iterator[Wanted]:
    """Yield what is to be found for each user that has a held-out positive, in the order of users' ids."""
    samples = np.flatnonzero(positive)
    users, first, owner = np.unique(test.user[samples], return_index=True, return_inverse=True)
    wanted = np.unique(owner * catalogue.items + test.item[samples])
    user, item = catalogue.train.user[taken], catalogue.train.item[taken]
    place = np.minimum(np.searchsorted(users, user), len(users) - 1)
    mine = users[place] == user if len(users) else np.zeros(len(user), np.bool_)
    others = np.sort(place[mine] * catalogue.items + item[mine])  # with repeats, which do no harm: np.unique would hash
    if len(wanted):
        others = others[wanted[np.minimum(np.searchsorted(wanted, others), len(wanted) - 1)] != others]
    edges = np.arange(len(users) + 1) * catalogue.items
    cuts = [np.searchsorted(pairs, edges) for pairs in (wanted, others)]
    for k in range(len(users)):
        items, rest = (pairs[cut[k] : cut[k + 1]] - edges[k] for pairs, cut in zip((wanted, others), cuts, strict=True))
        yield Wanted(int(samples[first[k]]), items, rest)


def _places(scores: Values, users: Sequence[Wanted]) -> Iterator[tuple[Places, Places]]:
    """Yield where each user's first item stands, and where all of them do.

    Args:
        scores: float32[users, items].
        users: whose.
    """
    left = np.array(scores)
    for row, user in zip(left, users, strict=True):
        row[user.taken] = -np.inf  # behind all
    owner = np.repeat(np.arange(len(users)), [len(user.items) for user in users])
    mine = left[owner, np.concatenate([user.items for user in users])]
    ahead, tied = np.empty(len(mine), np.int64), np.empty(len(mine), np.int64)
    for begin in range(0, len(mine), len(users)):
        cut = slice(begin, begin + len(users))
        rivals, own = left[owner[cut]], mine[cut, None]
        ahead[cut], tied[cut] = (np.count_nonzero(found, axis=1) for found in (rivals > own, rivals == own))
    ends = np.cumsum([len(user.items) for user in users]).tolist()
    for begin, end in pairwise([0, *ends]):
        best = begin + int(np.argmin(ahead[begin:end]))
        together = int((mine[begin:end] == mine[best]).sum())
        first = Places(ahead[best : best + 1], tied[best : best + 1], together)
        yield first, Places(ahead[begin:end], tied[begin:end], 1)


def _gain(metric: Metric, total: Sums, first: Places, every: Places) -> float:
    """Return what a user's places are worth, from 0 to 1; `total` as `_total_gain` has it, up to k."""
    last = len(total) - 1
    if metric.kind in ("hr", "mrr"):
        if first.together > 1:
            return _gain_of_first(total, first)
        every = first
    ahead, end = (np.minimum(place, last) for place in (every.ahead, every.ahead + every.tied))
    gain = float(((total[end] - total[ahead]) / every.tied).sum())
    best = {"recall": len(every.ahead), "ndcg": total[min(len(every.ahead), last)]}.get(metric.kind, 1.0)
    return min(gain / float(best), 1.0)


def _gain_of_first(total: Sums, first: Places) -> float:
    """Return the mean gain of the first of `together` items among `tied`, over all orders.

    It stands j places down in C(tied - 1 - j, together - 1) of C(tied, together) orders.
    """
    ahead, tied, n = int(first.ahead[0]), int(first.tied[0]), first.together
    down = np.arange(min(tied - n + 1, max(len(total) - 1 - ahead, 0)))
    later = np.cumprod(np.concatenate([[1.0], 1 - n / (tied - down[:-1])])) if len(down) else np.empty(0)
    return min(float((np.diff(total)[ahead + down] * later * n / (tied - down)).sum()), 1.0)


def _total_gain(metric: Metric, places: int) -> Sums:
    """Return what the first places are worth together: float64[places + 1], the first of none."""
    place = np.arange(places)
    hit = (place < metric.k).astype(np.float64)
    gain = {"ndcg": hit / np.log2(place + 2), "mrr": hit / (place + 1)}.get(metric.kind, hit)
    return np.concatenate([[0.0], np.cumsum(gain)])


def _check(scores: Values) -> None:
    if not np.isfinite(scores).all():
        raise FedpsError("a score is NaN or infinite and cannot be ranked: has the training diverged?")
