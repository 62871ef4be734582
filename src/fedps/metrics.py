"""How good scores are: AUC from score histograms, and by name the sums that all other metrics are made of (`figures`).

Both add up over clients, so the value for all is exact though nobody shares a score. Plain numpy: the launcher merges
histograms without loading torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedps.errors import FedpsError
from fedps.figures import CANDIDATES, DEFAULT, LEFT_OUT, ONE_LABEL, Figures, Metric, Sums, Totals, aucs_of, read_metric
from fedps.ranking import Catalogue, rank_candidates, rank_catalogue
from fedps.types import NO_BAGS, Bags, Keys, Ranked, Samples, Values

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

    @property
    def counts(self) -> Counts:
        """int64[2, 4096]: of positives, and of negatives."""
        return np.stack([self.positives, self.negatives])

    def auc(self) -> float | None:
        """Return the area under the ROC curve by trapezoids; None if a class is absent, so that there is nothing to tell apart."""
        pairs = float(self.positives.sum()) * float(self.negatives.sum())
        if not pairs:
            return None
        below = np.cumsum(self.negatives) - self.negatives
        won = self.positives.astype(np.float64) @ (below + self.negatives / 2)
        return float(won / pairs)


@dataclass(frozen=True)
class Evaluation(Ranked):
    """What held-out samples come to, as counts and sums that add up over clients.

    Attributes:
        sums: by name, those that `figures.sums_of` lists for the metrics.
        histograms: by the name of each AUC that is asked for the spread of all samples' probabilities.
    """

    sums: Sums
    histograms: Mapping[str, Histogram]


class Evaluations:
    """What held-out samples of several clients come to together."""

    def __init__(self) -> None:
        self._totals, self._histograms = Totals(), dict[str, Histogram]()

    def add(self, sums: Sums, histograms: Mapping[str, Histogram]) -> None:
        """Add those of one client, as an `Evaluation` has them."""
        self._totals.add(sums)
        for name, histogram in histograms.items():
            self._histograms.setdefault(name, Histogram()).merge(histogram)

    def figures(self, metrics: Sequence[str]) -> Figures:
        """Return what metrics come to, by name; None where there was nothing to measure."""
        spread = {name: self._histograms.get(name, Histogram()) for name in aucs_of(metrics)}
        found = {name: histogram.auc() for name, histogram in spread.items()}
        return found | self._totals.figures(metrics)


def evaluate(
    logits: Values, test: Samples, metrics: Sequence[str] = DEFAULT, catalogue: Catalogue | None = None,
    user: Keys | None = None, tasks: Mapping[str, bool] = ONE_LABEL,
) -> Evaluation:  # fmt: skip
    """Measure held-out samples by their logits.

    Candidates are ranked where the samples are groups of such (`misfit`). Logits keep apart what probabilities near 0 or
    1 round together.

    Args:
        logits: float32[n], or [n, tasks].
        test: n samples; there may be none.
        metrics: what to measure, as `Job.metrics` has it.
        catalogue: all items, for metrics of full rankings.
        user: int64[n], whose each sample is, where users of several clients may have the same id; None: as `test` says.
        tasks: the labels, as `Job.tasks` has them.

    Raises:
        FedpsError: a logit is not finite.
    """
    sums, histograms = dict[str, int | float](), dict[str, Histogram]()
    for number, (task, real) in enumerate(tasks.items()):
        asked = [metric for metric in map(read_metric, metrics) if metric.task == task]
        own = test if test.label.ndim == 1 else Samples(test.columns, test.label[:, number])
        scores = logits if logits.ndim == 1 else logits[:, number]
        histograms |= {metric.name: _spread(scores, own) for metric in asked if metric.kind == "auc"}
        sums |= _candidate_sums(scores, own, [metric for metric in asked if metric.k and not metric.full])
        if catalogue is not None and (full := [metric for metric in asked if metric.full]):
            one = catalogue if test.label.ndim == 1 else catalogue.of_task(number)
            sums |= rank_catalogue(one, own, own.label > 0, one.train.label > 0, full)
        sums |= _sample_sums(scores, own, user, [metric for metric in asked if not metric.k and metric.sums], real)
    return Evaluation(sums, {name: histograms[name] for name in aucs_of(metrics)})


def popularity(train: Samples, test: Samples, metrics: Sequence[str], items: int) -> Sums:
    """Return what a ranking by popularity comes to: an item's score is how often some training samples took it.

    It is what a recommender has to beat (Ferrari Dacrema et al., RecSys 2019).

    Args:
        train: of one client, so that no count leaves it.
        test: its held-out samples.
        metrics: what is measured; those that rank are.
        items: how many there are, for metrics of full rankings.

    Returns:
        Sums over users, as `evaluate` has them; none where nothing is ranked, nothing was taken, or there are several labels.
    """
    ranked = [name for name in metrics if read_metric(name).k]
    if not ranked or train.label.ndim > 1 or isinstance(train.columns.get("item", NO_BAGS), Bags):
        return {}
    taken, counts = np.unique(train.item[train.label > 0], return_counts=True)

    def score(ids: Keys) -> Values:
        place = np.minimum(np.searchsorted(taken, ids), len(taken) - 1)
        return np.where(taken[place] == ids, counts[place], 0).astype(np.float32)

    if not len(taken):
        return {}
    catalogue = Catalogue(items, train, lambda samples: np.tile(score(np.arange(items)), (len(samples), 1)))
    return evaluate(score(test.item), test, ranked, catalogue).sums


def _spread(logits: Values, test: Samples) -> Histogram:
    """Count the probabilities of samples whose label is known."""
    histogram, known = Histogram(), ~np.isnan(test.label)
    histogram.add(probabilities(logits)[known], test.label[known])
    return histogram


def _candidate_sums(logits: Values, test: Samples, metrics: Sequence[Metric]) -> dict[str, int | float]:
    """Return sums over users of how their candidates are ranked, zeros where the samples are no groups of such."""
    if not metrics:
        return {}
    _, users = metrics[0].sums
    if misfit(test):
        return {users: 0} | {metric.name: 0.0 for metric in metrics}
    groups, items = logits.reshape(-1, CANDIDATES), test.item.reshape(-1, CANDIDATES)
    return {users: len(groups)} | rank_candidates(groups, items, metrics)


def _sample_sums(
    logits: Values, test: Samples, user: Keys | None, metrics: Sequence[Metric], real: bool
) -> dict[str, int | float]:
    """Return sums over samples whose label is known, and those of AUC by user where they are due."""
    due = {name for metric in metrics for name in metric.sums}
    if not due:
        return {}
    if not np.isfinite(logits).all():
        raise FedpsError("a score is NaN or infinite and cannot be measured: has the training diverged?")
    known = ~np.isnan(test.label)
    exact, label = logits[known].astype(np.float64), test.label[known].astype(np.float64)
    predictions = exact if real else probabilities(logits[known]).astype(np.float64)
    error = predictions - label
    sums: dict[str, int | float] = {
        "test_samples": len(label),
        "logloss": float((np.logaddexp(0, exact) - label * exact).sum()),
        "predictions": float(predictions.sum()),
        "labels": float(label.sum()),
        "squared_error": float((error**2).sum()),
        "absolute_error": float(np.abs(error).sum()),
    }
    if any(metric.kind == "gauc" for metric in metrics):
        sums |= _auc_by_user(logits[known], label > 0, (test.user if user is None else user)[known])
    above = f"{metrics[0].task}/" if metrics[0].task else ""
    return {above + name: value for name, value in sums.items() if above + name in due}


def _auc_by_user(logits: Values, positive: NDArray[np.bool_], user: Keys) -> dict[str, int | float]:
    """Sum over users their AUC times their samples, ties counted half; who has samples of one class alone is left out.

    GAUC is the quotient (Zhou et al., KDD 2018, section 6.3, where users count by their samples, too).
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
    if any(isinstance(test.columns.get(name, NO_BAGS), Bags) for name in ("user", "item")):
        return "its samples are no pairs of a user and an item"
    if test.label.ndim > 1:
        test = Samples(test.columns, test.label[:, 0])
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
