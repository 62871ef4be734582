"""How good scores are: AUC from score histograms, HR@k and NDCG@k on one positive among sampled negatives.

Both come as counts and sums that add up over clients, so the value for all is exact though nobody shares a
score. Plain numpy: the launcher merges histograms without loading torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.errors import FedpsError
from fedps.types import Keys, Samples, Values

BUCKETS = 2**12  # the original's
CANDIDATES = 100  # of a held-out user: the positive first, then its 99 negatives
LEAST = np.float32(-88)  # a logit below it has a probability of 0; its exponential would overflow
Counts = NDArray[np.int64]
Sums = NDArray[np.float64]


class Histogram:
    """Scores of positives and of negatives, counted in 4,096 buckets; bucket b holds scores from b / 4095 on.

    Scores in one bucket count as tied: the AUC is exactly that of the scores rounded down to n / 4095.

        >>> both = Histogram()
        >>> both.add(np.float32([0.9, 0.2, 0.4]), np.float32([1, 0, 0]))
        >>> both.auc()
        1.0

    Args:
        positives: int64[4096], counts to begin with, e.g. from an event; zeros if None.
        negatives: int64[4096], the same.

    Raises:
        FedpsError: counts of another length.
    """

    def __init__(
        self, positives: Sequence[int] | Counts | None = None, negatives: Sequence[int] | Counts | None = None
    ) -> None:
        self.positives, self.negatives = _counts(positives), _counts(negatives)

    def add(self, scores: Values, labels: Values) -> None:
        """Count scores in.

        Args:
            scores: float32[n], probabilities.
            labels: float32[n], 1 for a positive, 0 for a negative.

        Raises:
            FedpsError: a score is not in [0, 1]; nothing is counted.
        """
        if not len(scores):
            return
        low, high = scores.min(), scores.max()
        if not (low >= 0 and high <= 1):  # a NaN is neither
            raise FedpsError(f"scores run from {low} to {high}, but must be in [0, 1]: has the training diverged?")
        bucket = (scores * (BUCKETS - 1)).astype(np.int64)
        positive = labels > 0
        self.positives += np.bincount(bucket[positive], minlength=BUCKETS)
        self.negatives += np.bincount(bucket[~positive], minlength=BUCKETS)

    def __len__(self) -> int:
        """Return how many scores were counted."""
        return int(self.positives.sum() + self.negatives.sum())

    def merge(self, other: "Histogram") -> None:
        """Count in what another histogram counted."""
        self.positives += other.positives
        self.negatives += other.negatives

    def auc(self) -> float:
        """Return the area under the ROC curve by trapezoids; 0.5, as for guessing, if a class is absent."""
        pairs = float(self.positives.sum()) * float(self.negatives.sum())
        if not pairs:
            return 0.5
        below = np.cumsum(self.negatives) - self.negatives
        won = self.positives.astype(np.float64) @ (below + self.negatives / 2)
        return float(won / pairs)


class RankSums(NamedTuple):
    """Sums over users, to be divided by `users` once all clients' are added."""

    users: int
    hits: float
    ndcg: float


def rank_metrics(scores: Values, items: Keys, k: int = 10) -> RankSums:
    """Sum hits and NDCG at k over users.

    Candidates whose score equals the positive's may stand before or after it: the mean over all orders is
    taken, which counts each tie half, so a constant scorer gets HR@10 0.10 of 100 candidates, not 1.0.

    A candidate with the positive's own item is not its rival: the published NCF evaluator keys scores by
    item, so such a duplicate (156 users of the published ML-1M negatives have one) merges with the positive.
    To count it as a tied negative would give slightly lower figures.

    Args:
        scores: float32[n, C], per user the positive first, on any scale; logits keep apart what probabilities
            near 0 or 1 round together.
        items: int64[n, C], the candidates' item ids.
        k: length of the list that must hold the positive.

    Raises:
        FedpsError: a score is NaN or infinite; it would rank by accident.
    """
    if not np.isfinite(scores).all():
        raise FedpsError("a score is NaN or infinite and cannot be ranked: has the training diverged?")
    positive, rival = scores[:, :1], items != items[:, :1]
    ahead = (rival & (scores > positive)).sum(axis=1)
    tied = (rival & (scores == positive)).sum(axis=1)
    place = np.arange(scores.shape[1])
    hit = (place < k).astype(np.float64)
    return RankSums(len(scores), _mean_over(hit, ahead, tied), _mean_over(hit / np.log2(place + 2), ahead, tied))


class Evaluation(NamedTuple):
    """What held-out samples come to, as sums that add up over clients.

    Attributes:
        users: how many were ranked.
        hits: users whose positive is among the first 10 of their candidates; a tie counts in part.
        ndcg: the sum of their NDCG at 10.
        histogram: the spread of all samples' probabilities.
    """

    users: int
    hits: float
    ndcg: float
    histogram: Histogram


def evaluate(logits: Values, test: Samples) -> Evaluation:
    """Rank held-out samples by their logits, if they are groups of candidates, and count their probabilities.

    Logits keep apart what probabilities near 0 or 1 round together.

    Args:
        logits: float32[n].
        test: n samples; there may be none.

    Raises:
        FedpsError: a logit is not finite.
    """
    histogram = Histogram()
    histogram.add(probabilities(logits), test.label)
    if misfit(test):
        return Evaluation(0, 0.0, 0.0, histogram)
    sums = rank_metrics(logits.reshape(-1, CANDIDATES), test.item.reshape(-1, CANDIDATES))
    return Evaluation(*sums, histogram)


def misfit(test: Samples) -> str:
    """Say why held-out samples are no groups of one user's candidates, its positive first; empty if they are.

    HR@10 and NDCG@10 are places of a positive among its own user's negatives; of other groups they would mean nothing.
    """
    groups, left = divmod(len(test.label), CANDIDATES)
    user, label = (column[: groups * CANDIDATES].reshape(groups, CANDIDATES) for column in (test.user, test.label))
    bad = (user != user[:, :1]).any(axis=1) | (label[:, 0] != 1) | label[:, 1:].any(axis=1)
    first = int(np.argmax(bad)) if bad.any() else groups
    if first == groups and not left:
        return ""
    start = first * CANDIDATES
    group = test.at(slice(start, start + CANDIDATES))
    return f"samples {start + 1} to {start + len(group.label)} {_fault(group.user, group.label)}"


def _fault(user: Keys, label: Values) -> str:
    if label[0] != 1:
        return "begin with a negative"
    if (user != user[0]).any():
        return f"are of several users, {user[0]} and {user[user != user[0]][0]} for two"
    return "hold more than one positive" if label[1:].any() else f"are only {len(label)}"


def probabilities(logits: Values) -> Values:
    """Return the logistic function of logits: float32[n] in [0, 1], NaN where the logit is."""
    return (1 / (1 + np.exp(-np.maximum(logits, LEAST)))).astype(np.float32)


def _mean_over(gain: Sums, ahead: Counts, tied: Counts) -> float:
    """Sum over users the mean of `gain` (float64[C], by place from 0) over places ahead … ahead + tied."""
    total = np.concatenate([[0.0], np.cumsum(gain)])
    return float(((total[ahead + tied + 1] - total[ahead]) / (tied + 1)).sum())


def _counts(given: Sequence[int] | Counts | None) -> Counts:
    counts = np.zeros(BUCKETS, np.int64) if given is None else np.array(given, np.int64)
    if counts.shape != (BUCKETS,):
        raise FedpsError(f"a histogram has {BUCKETS} buckets, not {counts.shape}")
    return counts
