"""AUC, HR@10 and NDCG@10 as sums that add up over clients, so that the global figures are exact. numpy only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.types import Values

BUCKETS = 1 << 12
TOP = 10


class Histogram:
    """Scores in [0, 1] of positives and negatives, counted in 4,096 buckets (the original's resolution).

    Args:
        positives, negatives: int64[4096] counts to begin with; zeros if left out.
    """

    def __init__(self, positives: Sequence[int] | None = None, negatives: Sequence[int] | None = None) -> None:
        self.positives = np.array(positives if positives is not None else np.zeros(BUCKETS), np.int64)
        self.negatives = np.array(negatives if negatives is not None else np.zeros(BUCKETS), np.int64)

    def add(self, scores: Values, labels: Values) -> None:
        """Count scores float32[n] under their labels float32[n] (0 or 1)."""
        bucket = np.minimum((scores * BUCKETS).astype(np.int64), BUCKETS - 1)
        positive = labels > 0.5
        self.positives += np.bincount(bucket[positive], minlength=BUCKETS)
        self.negatives += np.bincount(bucket[~positive], minlength=BUCKETS)

    def merge(self, other: "Histogram") -> None:
        """Add another client's counts."""
        self.positives += other.positives
        self.negatives += other.negatives

    def auc(self) -> float:
        """Return the area under the ROC curve by trapezoids; 0.5 where one class is absent."""
        pairs = float(self.positives.sum()) * float(self.negatives.sum())
        if not pairs:
            return 0.5
        above = np.cumsum(self.positives[::-1])[::-1] - self.positives
        return float(np.dot(self.negatives, above + self.positives / 2) / pairs)


class RankSums(NamedTuple):
    """Sums over users: how many, how many hits in the first ten, and their discounted gains."""

    users: int
    hits: float
    ndcg: float


def rank_metrics(scores: NDArray[np.float32], items: NDArray[np.int64]) -> RankSums:
    """Rank each user's positive, the first column, among its negatives.

    HR@10 and NDCG@10 of He et al. (WWW 2017), leave one out. Ties count half, rounded up, so a constant scorer gets
    0.10 and not 1. Where the positive's own item stands among the negatives (156 users of the published test set), it
    is no rival: the published evaluator keys scores by item, so that the two are one.

    Args:
        scores: float32[users, candidates].
        items: int64[users, candidates].
    """
    rival = items[:, 1:] != items[:, :1]
    positive, others = scores[:, :1], scores[:, 1:]
    above = ((others > positive) & rival).sum(axis=1)
    tied = ((others == positive) & rival).sum(axis=1)
    rank = above + (tied + 1) // 2
    hit = rank < TOP
    return RankSums(len(scores), float(hit.sum()), float((hit / np.log2(rank + 2)).sum()))
