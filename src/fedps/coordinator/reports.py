"""What a client reports of its round: read, and checked once and for all.

A report is a claim. It decides who trains and how good the model is said to be, but no claim may end a job: all numbers
are finite, and so small that sums over `access.roster.MAX_MEMBERS` clients, and products of two, are finite and exact
enough; all texts can stand in a line of the log. Whoever reads a report behind this door relies on that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from fedps.access.conversation import MAX_NAME
from fedps.access.same_table import Seen, compare, read_seen
from fedps.config.sections.security import Security
from fedps.coordinator.teacher import Teacher, check_logits
from fedps.errors import RefusedError
from fedps.events import events
from fedps.events.events import Report
from fedps.figures import DEFAULT, MAX_COUNT, MAX_LOSS, ONE_LABEL, aucs_of, fault_of
from fedps.metrics import BUCKETS, Histogram
from fedps.types import ClientId, ClientInfo, Values
from fedps.wire.messages import RoundReport

LEAST_RATE = 1e-9  # of a speed or a bandwidth that is not 0, which states none
RANGES = {
    "compute_capacity": (0, 1e10),  # samples a second: no machine comes near
    "bandwidth": (0, 1e15),  # bytes a second: no line does
    "samples": (0, MAX_COUNT),
    "trained": (0, MAX_COUNT),
    "seconds": (0, 1e15),  # simulated devices may take their time
    "loss": (-MAX_LOSS, MAX_LOSS),
    "auc": (0, 1),
}
OFF = 1000.0  # times that a stated speed may differ from samples over seconds


@dataclass
class Scores:
    """What came with a report: score histograms, logits of the round's public pairs, float32[S], and what servers gave."""

    training: Histogram = field(default_factory=Histogram)
    held_out: dict[str, Histogram] = field(default_factory=dict)  # by the AUC that each tells
    logits: Values | None = None
    seen: Seen | None = None


def read_scores(
    report: RoundReport, arrays: Sequence[NDArray[Any]], teacher: Teacher | None, metrics: Sequence[str] = DEFAULT
) -> Scores:
    """Read what came with a report.

    Args:
        report: what it says.
        arrays: as `RoundReport` names them.
        teacher: the job's, whose public pairs logits are of.
        metrics: what the job measures of held-out samples.

    Raises:
        RefusedError: counts that are none, logits that nobody can use, or tags that make no sense.
    """
    logits = arrays[4] if report.logits else None
    if logits is not None:
        check_logits(logits, teacher)
    aucs = aucs_of(metrics)
    held_out = [_split(counts, len(aucs)) for counts in arrays[2:4]]
    spread = {name: _histogram(*counts) for name, *counts in zip(aucs, *held_out, strict=True)}
    seen = read_seen(report.places, *arrays[-3:]) if report.places else None
    return Scores(_histogram(*arrays[:2]), spread, logits, seen)


def check_same(round_: int, reported: Mapping[ClientId, Scores], security: Security, report: Report) -> None:
    """Make sure that servers gave all clients the same in a round, as far as these can say, and tell of it.

    Args:
        round_: its number.
        reported: what came with the reports of it.
        security: says whether each client has to have something in common with another; else it is told if one has not.
        report: takes the event.

    Raises:
        RefusedError: servers did not.
    """
    seen = {client: scores.seen for client, scores in reported.items() if scores.seen is not None}
    if not seen:
        return
    found = compare(seen)
    report(events.Compared(round_, *found))
    lone = ", ".join(map(repr, found.alone)) if len(seen) > 1 else ""
    alone = f"what servers gave client {lone} can be compared with nobody's: they named another time or process to it, or it"
    alone += " has no row and no layer in common with others"
    if found.differs or (lone and security.same_table):
        why = f"{found.differs}; else a client reports what it was not given" if found.differs else alone
        raise RefusedError("differs", f"round {round_}: {why}; the run ends here")
    if lone:
        report(events.Note(f"round {round_}: {alone}"))


def check(
    info: ClientInfo, measured: bool = True, metrics: Sequence[str] = DEFAULT, tasks: Mapping[str, bool] = ONE_LABEL
) -> None:
    """Check that a report makes sense.

    Args:
        info: the report.
        measured: its seconds are those of training alone; those of simulated devices hold transfers too.
        metrics: what the job measures of held-out samples.
        tasks: its labels.

    Raises:
        RefusedError: a number that is negative, not finite or absurd, or contradicts another; names field and value.
    """
    for name, (least, most) in RANGES.items():
        value = getattr(info, name)
        if name in ("loss", "auc") and value is not None and not math.isfinite(value):
            raise RefusedError("not_finite", f"{name}: {value}: has training diverged?")
        if value is not None and not least <= value <= most:  # a NaN is neither
            raise RefusedError("malformed", f"{name}: {value}: must be a number from {least:g} to {most:g}")
    for name in ("compute_capacity", "bandwidth"):
        if 0 < getattr(info, name) < LEAST_RATE:
            raise RefusedError("malformed", f"{name}: must be 0 for unknown, or at least {LEAST_RATE:g} a second")
    if measured and _contradicts(info):
        raise RefusedError(
            "malformed",
            f"compute_capacity: {info.compute_capacity:g} samples/s: cannot be, of a client that trained {info.trained}"
            f" samples in {info.seconds:g} s",
        )
    if fault := fault_of(info.sums, metrics, tasks):
        raise RefusedError("malformed", f"sums: {fault}")
    if len(info.device_type) > MAX_NAME or not info.device_type.isprintable():
        raise RefusedError(
            "malformed",
            f"device_type: {info.device_type[:MAX_NAME]!r}: must have at most {MAX_NAME} characters, all printable",
        )


def in_words(info: ClientInfo) -> str:
    """Return a report as the original's log has it."""
    return (
        f"'DEVICE_TYPE': '{info.device_type}', 'COMPUTE_CAPACITY': {info.compute_capacity:.0f}, 'BANDWIDTH':"
        f" {info.bandwidth:.0f}, 'SAMPLES': {info.samples}, 'LOSS': {short(info.loss)}, 'AUC': {short(info.auc)},"
        f" 'SECONDS': {info.seconds:.3f}"
    )


def short(value: float | None) -> str:
    """Return a figure as a line of the log has it."""
    return "None" if value is None else f"{value:g}"


def _contradicts(info: ClientInfo) -> bool:
    """Whether a stated speed is orders away from what the client says it did; 0 states none."""
    if not info.trained or not info.compute_capacity:
        return False
    if not info.seconds:
        return True
    ratio = info.compute_capacity / (info.trained / info.seconds)
    return not 1 / OFF <= ratio <= OFF


def _split(counts: NDArray[Any], histograms: int) -> list[NDArray[Any]]:
    """Return the counts of so many histograms that lie end to end; empty ones if none came."""
    if len(counts) not in (0, BUCKETS * histograms):
        raise RefusedError("malformed", f"histograms: {len(counts)} counts; {BUCKETS} of each AUC are due, or none")
    return [counts[k * BUCKETS : (k + 1) * BUCKETS] for k in range(histograms)]


def _histogram(positives: NDArray[Any], negatives: NDArray[Any]) -> Histogram:
    for counts in (positives, negatives):
        fits = len(counts) == BUCKETS and 0 <= counts.min() <= counts.max() <= MAX_COUNT  # so the sum is exact
        if len(counts) and not (fits and counts.sum() <= MAX_COUNT):
            raise RefusedError("malformed", f"a histogram has {BUCKETS} counts, none negative, or is left out")
    return Histogram(positives if len(positives) else None, negatives if len(negatives) else None)
