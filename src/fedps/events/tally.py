"""What the clients' events of one round add up to: figures, and the union of the times that they took."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from fedps.events import events
from fedps.figures import DEFAULT, Sum
from fedps.metrics import Evaluations, Histogram

ALWAYS = {"hr@10": None, "ndcg@10": None}  # stand in a summary, measured or not


class Spans:
    """The union of intervals of time."""

    def __init__(self) -> None:
        self._begins: list[float] = []  # of intervals that do not touch, in order
        self._ends: list[float] = []

    def add(self, begin: float, end: float) -> None:
        """Add an interval, seconds; those that it touches become one with it. If the clock jumped back, it is empty."""
        end = max(begin, end)
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last], self._ends[first:last] = [begin], [end]

    @property
    def length(self) -> float:
        """Seconds that lie in any of them."""
        return math.fsum(end - begin for begin, end in zip(self._begins, self._ends, strict=True))


class Tally:
    """What the clients' events of one round add up to.

    Attributes:
        evaluations: clients that have been evaluated.
        wait: the shortest time, seconds, that a client waited for its assignment.
        clock: of simulated devices: what the round took them, and their clock at its end, seconds.
        dropped: clients whose simulated devices did not come to its end.
    """

    def __init__(self) -> None:
        self.evaluations = 0
        self.wait = math.inf
        self.clock: tuple[float, float] | None = None
        self.dropped: list[str] = []
        self._trained, self._span, self._samples = list[str](), Spans(), 0
        self._loss, self._held_out, self._waited = Sum(), Evaluations(), Sum()
        self._evaluation = Spans()
        self._training = Histogram()

    def train(self, client: str, event: events.EpochEnd, begin: float, end: float) -> None:
        """Add a client's training, from `begin` to `end`."""
        self._trained.append(client)
        self._span.add(begin, end)
        self._samples += event.samples
        self._loss.add(event.loss * event.samples)
        self._waited.add(event.waited)
        self._training.merge(event.histogram)

    def evaluate(self, event: events.Evaluated, begin: float, end: float) -> None:
        """Add a client's evaluation, from `begin` to `end`."""
        self.evaluations += 1
        self._evaluation.add(begin, end)
        self._held_out.add(event.sums, event.histograms)

    def figures(self, round_: int, metrics: Sequence[str] = DEFAULT) -> dict[str, Any]:
        """Return the figures as the summary holds them; None where nobody trained, or had users held out."""
        return {
            "round": round_,
            "selected": sorted(self._trained),
            "seconds": self._span.length,
            "wait_seconds": self._waited.mean(len(self._trained)),
            "eval_seconds": self._evaluation.length,
            # the last to report waits for the coordinator alone, all others for each other too
            "coordinator_seconds": self.wait if math.isfinite(self.wait) else 0.0,
            "loss": self._loss.mean(self._samples),
            "auc": None,
            "train_auc": self._training.auc(),
            **ALWAYS,
            **self._held_out.figures(metrics),
        }

    def simulated(self) -> dict[str, Any]:
        """Return what the round took simulated devices; None where the run broke off before its end."""
        seconds, clock = self.clock or (None, None)
        return {"simulated_seconds": seconds, "simulated_clock": clock, "dropped": sorted(self.dropped)}
