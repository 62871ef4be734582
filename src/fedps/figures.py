"""What can be measured of held-out samples: metrics by name, and what the sums behind them come to over all clients.

A client tells sums, never a score: counts, and numbers added up over its samples or its users. Sums of clients add up, so
the figure for all is exact. What a client tells is a claim (`fault_of`). No numpy here: a job is checked without it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

Sums = Mapping[str, int | float]  # by name; counts are whole
Figures = dict[str, int | float | None]  # by name; None where nothing was measured

CANDIDATES = 100  # of a held-out user: the positive first, then its 99 negatives
DEFAULT = ("hr@10", "ndcg@10", "auc")
RANKS = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR", "recall": "recall"}  # of the first k; with the words for people
QUOTIENTS = {  # each the quotient of two sums
    "gauc": ("gauc", "gauc_samples"),
    "logloss": ("logloss", "test_samples"),
    "calibration": ("predictions", "labels"),
    "rmse": ("squared_error", "test_samples"),
    "mae": ("absolute_error", "test_samples"),
}
TITLES = {
    "auc": "AUC", "gauc": "GAUC", "logloss": "log loss", "calibration": "calibration", "rmse": "RMSE", "mae": "MAE",
    "loss": "training loss", "train_auc": "training AUC",
}  # fmt: skip
OF_TRAINING = ("train_auc", "loss")  # figures that need no held-out samples
LOWER_IS_BETTER = ("loss", "logloss", "rmse", "mae")
ONE_LABEL = {"": False}  # labels by name, and whether they are real: any numbers, not 0 and 1; one alone has no name
OF_BINARY, OF_REAL = ("auc", "logloss"), ("rmse", "mae")  # what is measured where a job states features, and not this
LEFT_OUT = "gauc_left_out"  # users with samples of one class alone, who have no AUC
COUNTS = ("users", "full_users", "test_samples", "gauc_samples", LEFT_OUT)
MAX_COUNT = 1 << 40  # samples or users of one client: those of 4,096 add up exactly in int64 and in float64
MAX_LOSS = 1e9  # of a sample
ROUNDING = 1e-6  # by which two sums that are reckoned in two ways may be off


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: as the job and the summary have it, e.g. `full_ndcg@10`, or `click/auc` of one label among several.
        kind: without all that, e.g. `ndcg`.
        k: how many items at the head of a ranking count; 0: it is of no ranking.
        full: all items are ranked, not sampled candidates.
        task: the label that it is of; empty where there is but one.
    """

    name: str
    kind: str
    k: int = 0
    full: bool = False
    task: str = ""

    @property
    def sums(self) -> tuple[str, ...]:
        """The sums it is made of: the two whose quotient it is, and what else is told; none where counts tell it."""
        above = f"{self.task}/" if self.task else ""
        if self.k:
            return self.name, f"{above}{'full_' * self.full}users"
        parts = *QUOTIENTS.get(self.kind, ()), *([LEFT_OUT] if self.kind == "gauc" else [])
        return tuple(above + part for part in parts)

    @property
    def title(self) -> str:
        """Its name for people."""
        title = f"{RANKS[self.kind]}@{self.k}{' of all items' * self.full}" if self.k else TITLES[self.kind]
        return f"{self.task}: {title}" if self.task else title


def read_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        ValueError: there is none; the message says what there is.
    """
    task, _, bare = name.rpartition("/")
    if bare == "auc" or bare in QUOTIENTS:
        return Metric(name, bare, task=task)
    found = re.fullmatch(rf"(full_)?({'|'.join(RANKS)})@([1-9][0-9]{{0,8}})", bare)
    if found is None:
        ranks = ", ".join(f"{kind}@10" for kind in RANKS)
        raise ValueError(
            f"there is no such metric; write auc, {', '.join(QUOTIENTS)}, or of rankings {ranks}, with any k, and full_hr@10"
            " and the like where all items are ranked"
        )
    metric = Metric(name, found[2], int(found[3]), found[1] is not None, task)
    if not metric.full and metric.k >= CANDIDATES:
        raise ValueError(f"all {CANDIDATES} candidates of a user are among so many; use a smaller k, or full_{bare}")
    return metric


def metrics_in(figures: Iterable[str]) -> list[Metric]:
    """Return the metrics among the names of some facts, those of training too, in their order."""
    found = []
    for name in figures:
        with suppress(ValueError):
            found.append(Metric(name, name) if name in OF_TRAINING else read_metric(name))
    return found


def aucs_of(metrics: Iterable[str]) -> list[str]:
    """Return those of some metrics that counts of scores tell, not sums."""
    return [name for name in metrics if read_metric(name).kind == "auc"]


def sums_of(metrics: Sequence[str]) -> list[str]:
    """Return the names of all sums that some metrics are made of, counts of users before what is counted of them."""
    names = {name: None for metric in metrics for name in read_metric(metric).sums[::-1]}
    return list(names)


class Sum:
    """A sum of floats without rounding: the same in whatever order they come, and as `math.fsum` gives it."""

    def __init__(self) -> None:
        self._exact = Fraction()
        self._beyond = 0.0  # infinities and what is no number, which are no fractions

    def add(self, value: float) -> None:
        """Add a value."""
        if math.isfinite(value):
            self._exact += Fraction(value)
        else:
            self._beyond += value

    def mean(self, count: float) -> float | None:
        """Return the sum over `count`; None where there is nothing, or no finite number."""
        try:
            mean = (float(self._exact) + self._beyond) / count
        except (OverflowError, ZeroDivisionError):
            return None
        return mean if math.isfinite(mean) else None


class Totals:
    """Sums by name over all clients."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, Sum] = defaultdict(Sum)

    def add(self, sums: Sums) -> None:
        """Add one client's."""
        for name, value in sums.items():
            self._sums[name].add(value)

    def figures(self, metrics: Iterable[str]) -> Figures:
        """Return what metrics come to, by name; None where there was nothing to measure.

        AUC is not among them: it is told by a histogram.
        """
        found: Figures = {}
        for metric in map(read_metric, metrics):
            if not metric.sums:
                continue
            above, below, *counts = metric.sums
            value = self._sums[above].mean(self._sums[below].mean(1) or 0.0)
            found[metric.name] = math.sqrt(max(value, 0.0)) if metric.kind == "rmse" and value is not None else value
            found |= {name: int(self._sums[name].mean(1) or 0) for name in counts}
        return found


def fault_of(sums: Sums, metrics: Sequence[str], tasks: Mapping[str, bool] = ONE_LABEL) -> str:
    """Say why sums cannot be those of one client's held-out samples; nothing if they can.

    Args:
        sums: none at all, where nothing was measured.
        metrics: what the job measures.
        tasks: its labels.
    """
    due = sums_of(metrics)
    if strange := [name for name in sums if name not in due]:
        return f"{strange[0][:50]!r}: is no sum of runner.metrics; these are {', '.join(due) or 'none'}"
    if sums and (missing := [name for name in due if name not in sums]):
        return f"{missing[0]}: is missing"
    for name, value in sums.items():
        least, most = _range(name, sums, tasks)
        if not least <= value <= most:  # a NaN is neither
            return f"{name}: {value}: must be a number from {least:g} to {most:g}"
        if name.endswith(COUNTS) and not isinstance(value, int):
            return f"{name}: {value}: must be a whole number"
    for metric in map(read_metric, metrics if sums else ()):
        hits = metric.name.removesuffix(f"{metric.kind}@{metric.k}") + f"hr@{metric.k}"
        # A user's NDCG, MRR and recall are at most its hit, so the sums are too.
        if metric.k and sums[metric.name] > sums.get(hits, math.inf) + ROUNDING:
            return f"{metric.name}: {sums[metric.name]}: is at most {hits}, which is {sums[hits]}"
    return ""


def _range(name: str, sums: Sums, tasks: Mapping[str, bool]) -> tuple[float, float]:
    """Return the least and the most that a sum can be, beside the others: a share of a user or a sample is at most 1."""
    task, slash, bare = name.rpartition("/")
    samples = sums.get(f"{task}{slash}test_samples", MAX_COUNT)
    if bare in COUNTS:
        return 0, MAX_COUNT
    if bare in ("predictions", "labels"):
        return (-MAX_LOSS * samples, MAX_LOSS * samples) if tasks[task] else (0, samples)
    if bare in ("logloss", "absolute_error", "squared_error"):
        return 0, samples * (MAX_LOSS**2 if bare == "squared_error" else MAX_LOSS)
    count = "gauc_samples" if bare == "gauc" else "full_users" if bare.startswith("full_") else "users"
    return 0, sums[f"{task}{slash}{count}"]
