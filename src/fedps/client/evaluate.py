"""Score a client's own held-out samples with its own private rows, and report sums that add up over clients."""

from typing import NamedTuple

import numpy as np

from fedps.client.learner import Learner
from fedps.client.shard import ClientData
from fedps.errors import DataError
from fedps.models.metrics import Histogram, rank_metrics
from fedps.types import Values

CANDIDATES = 100  # per user: the positive first, then its 99 negatives
LEAST = 4096  # samples scored at once: smaller pieces are slow, and give the same scores


class Evaluation(NamedTuple):
    """One client's sums: users, hits and NDCG at 10, and the score histogram of all held-out samples."""

    users: int
    hits: float
    ndcg: float
    histogram: Histogram


def evaluate(learner: Learner, data: ClientData, batch_size: int) -> Evaluation:
    """Score the held-out samples on the rows as they are now, `batch_size` at once if that is enough to be fast.

    Raises:
        DataError: the held-out samples are not in groups of one positive and 99 negatives.
    """
    test, histogram = data.test, Histogram()
    if test is None or not len(test.label):
        return Evaluation(0, 0.0, 0.0, histogram)
    if len(test.label) % CANDIDATES:
        raise DataError(
            f"test file: {len(test.label)} lines are not groups of {CANDIDATES}: per user the positive first, then its 99 negatives"
        )
    scores = _scores(learner, data, batch_size)
    histogram.add((1 / (1 + np.exp(-scores))).astype(np.float32), test.label)
    items = test.item.reshape(-1, CANDIDATES)
    sums = rank_metrics(scores.reshape(-1, CANDIDATES), items)
    return Evaluation(sums.users, sums.hits, sums.ndcg, histogram)


def _scores(learner: Learner, data: ClientData, batch_size: int) -> Values:
    """Return logits, float32[n]."""
    test = data.test
    if test is None:
        return np.empty(0, np.float32)
    rows = {name: table.read(np.arange(len(table.keys))) for name, table in learner.private.items()}
    # shared rows as they were pulled: momentum that a client still owes them is no part of the servers' model
    rows |= {name: np.ascontiguousarray(table.values) for name, table in learner.shared.items()}
    pieces, size = [], max(batch_size, LEAST)
    for start in range(0, len(test.label), size):
        cut = slice(start, start + size)
        index = {name: data.test_slots[learner.column(name)][cut] for name in learner.tables}
        pieces.append(learner.step.scores((test.user[cut], test.item[cut]), rows, index))
    return np.concatenate(pieces)
