"""Score a client's own held-out samples with its own private rows, and report sums that add up over clients."""

from typing import NamedTuple

import numpy as np

from fedps.data.samples import ClientData
from fedps.metrics import CANDIDATES, Histogram, rank_metrics
from fedps.training.learner import Learner


class Evaluation(NamedTuple):
    """One client's sums: users, hits and NDCG at 10, and the score histogram of all held-out samples."""

    users: int
    hits: float
    ndcg: float
    histogram: Histogram


def evaluate(learner: Learner, data: ClientData) -> Evaluation:
    """Score the held-out samples, which are groups of one positive and its 99 negatives, on the rows as they are now."""
    test, histogram = data.test, Histogram()
    if test is None or not len(test.label):
        return Evaluation(0, 0.0, 0.0, histogram)
    scores = learner.score()
    histogram.add((1 / (1 + np.exp(-scores))).astype(np.float32), test.label)
    items = test.item.reshape(-1, CANDIDATES)
    sums = rank_metrics(scores.reshape(-1, CANDIDATES), items)
    return Evaluation(sums.users, sums.hits, sums.ndcg, histogram)
