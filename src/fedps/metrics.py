"""How good scores are: AUC from score histograms, and by name the sums that all other metrics are made of (`figures`).

Both add up over clients, so the value for all is exact though nobody shares a score. Plain numpy: the launcher merges
histograms without loading torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.errors import FedpsError
from fedps.figures import CANDIDATES, DEFAULT, LEFT_OUT, Sums, read_metric
from fedps.ranking import Catalogue, rank_candidates, rank_catalogue
from fedps.types import NO_BAGS, Bags, Keys, Samples, Values

BUCKETS = 2**12  # the original's
LEAST = np.float32(-88)  # a logit below it has a probability of 0; its exponential would overflow
Counts = NDArray[np.int64]


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


class Evaluation(NamedTuple):
    """What held-out samples come to, as counts and sums that add up over clients.

    Attributes:
        sums: by name, those that `figures.sums_of` lists for the metrics.
        histogram: the spread of all samples' probabilities; nothing, where AUC is not asked for.
    """

    sums: Sums
    histogram: Histogram

    @property
    def users(self) -> int:
        """How many users were ranked among their candidates."""
        return int(self.sums.get("users", 0))

    @property
    def hits(self) -> float:
        """Users whose positive is among the first 10 of their candidates; a tie counts in part."""
        return self.sums.get("hr@10", 0.0)

    @property
    def ndcg(self) -> float:
        """The sum of their NDCG at 10."""
        return self.sums.get("ndcg@10", 0.0)


def evaluate(
    logits: Values, test: Samples, metrics: Sequence[str] = DEFAULT, catalogue: Catalogue | None = None,
    user: Keys | None = None,
) -> Evaluation:  # fmt: skip
    """Measure held-out samples by their logits.

    Candidates are ranked where the samples are groups of such (`misfit`). Logits keep apart what probabilities near 0 or
    1 round together.

    Args:
        logits: float32[n].
        test: n samples; there may be none.
        metrics: what to measure, as `runner.metrics` has it.
        catalogue: all items, for metrics of full rankings.
        user: int64[n], whose each sample is, where users of several clients may have the same id; None: as `test` says.

    Raises:
        FedpsError: a logit is not finite.
    """
    wanted = [read_metric(name) for name in metrics]
    candidates = [metric for metric in wanted if metric.k and not metric.full]
    full = [metric for metric in wanted if metric.full]
    histogram, sums = Histogram(), dict[str, int | float]()
    if "auc" in metrics:
        histogram.add(probabilities(logits), test.label)
    if candidates and misfit(test):
        sums |= {"users": 0} | {metric.name: 0.0 for metric in candidates}
    elif candidates:
        groups, items = logits.reshape(-1, CANDIDATES), test.item.reshape(-1, CANDIDATES)
        sums |= {"users": len(groups)} | rank_candidates(groups, items, candidates)
    if full and catalogue is not None:
        sums |= rank_catalogue(catalogue, test, test.label > 0, catalogue.train.label > 0, full)
    due = {name for metric in wanted if not metric.k for name in metric.sums}
    sums |= {name: value for name, value in _sample_sums(logits, test, user, due).items() if name in due}
    return Evaluation(sums, histogram)


def _sample_sums(logits: Values, test: Samples, user: Keys | None, due: set[str]) -> dict[str, int | float]:
    """Return sums over samples, and those of AUC by user where they are due."""
    if not due:
        return {}
    if not np.isfinite(logits).all():
        raise FedpsError("a score is NaN or infinite and cannot be measured: has the training diverged?")
    exact, label = logits.astype(np.float64), test.label.astype(np.float64)
    predictions = probabilities(logits).astype(np.float64)
    error = predictions - label
    sums: dict[str, int | float] = {
        "test_samples": len(label),
        "logloss": float((np.logaddexp(0, exact) - label * exact).sum()),
        "predictions": float(predictions.sum()),
        "labels": float(label.sum()),
        "squared_error": float((error**2).sum()),
        "absolute_error": float(np.abs(error).sum()),
    }
    return sums | (_auc_by_user(logits, label > 0, test.user if user is None else user) if "gauc" in due else {})


def _auc_by_user(logits: Values, positive: NDArray[np.bool_], user: Keys) -> dict[str, int | float]:
    """Sum over users their AUC times their samples, ties counted half; who has samples of one class alone is left out.

    GAUC is the quotient (Zhou et al., KDD 2018, section 6.2, where users count by their samples, too).
    """
    _, who = np.unique(user, return_inverse=True)
    order = np.lexsort((logits, who))
    who, score, positive = who[order], logits[order], positive[order]
    samples = np.bincount(who)
    starts = np.flatnonzero(np.append(True, (who[1:] != who[:-1]) | (score[1:] != score[:-1]))[: len(who)])
    size = np.diff(starts, append=len(who))
    place = np.repeat(starts + (size - 1) / 2, size) - (np.cumsum(samples) - samples)[who]  # of ties the mean one
    positives = np.bincount(who, positive)
    pairs = positives * (samples - positives)
    won = np.bincount(who, place * positive) - positives * (positives - 1) / 2
    both = pairs > 0
    return {
        "gauc": float((won[both] / pairs[both] * samples[both]).sum()),
        "gauc_samples": int(samples[both].sum()),
        LEFT_OUT: int((~both).sum()),
    }


def misfit(test: Samples) -> str:
    """Say why held-out samples are no groups of one user's candidates, its positive first; empty if they are.

    HR@10 and NDCG@10 are places of a positive among its own user's negatives; of other groups they would mean nothing.
    """
    if test.label.ndim > 1 or any(isinstance(test.columns.get(name, NO_BAGS), Bags) for name in ("user", "item")):
        return "its samples are no pairs of a user and an item with one label"
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


def _counts(given: Sequence[int] | Counts | None) -> Counts:
    counts = np.zeros(BUCKETS, np.int64) if given is None else np.array(given, np.int64)
    if counts.shape != (BUCKETS,):
        raise FedpsError(f"a histogram has {BUCKETS} buckets, not {counts.shape}")
    return counts
