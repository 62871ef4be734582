"""One client's training of a round: its next batches, what is printed of them, and what they came to."""

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, TextIO

import numpy as np

from fedps.client.dump import Dump
from fedps.client.learner import Found
from fedps.client.modes import Mode
from fedps.client.shard import Batch, ClientData
from fedps.config import Job
from fedps.data.timing import StepTimer
from fedps.errors import FedpsError
from fedps.models.metrics import Histogram
from fedps.tracking import Report
from fedps.types import ClientId, Values


class Trained(NamedTuple):
    """What one round of training came to: samples, seconds, mean loss, score histogram."""

    samples: int
    seconds: float
    loss: float
    histogram: Histogram


class Meter:
    """Loss and AUC of one round's training, and of the batches since the last print.

    AUC is cumulative over the process, as the original prints it.
    """

    def __init__(self) -> None:
        self.total, self.round = Histogram(), Histogram()
        self.batches = self.samples = 0
        self.loss = self._recent = 0.0
        self._recent_batches = 0
        self._scores: list[Values] = []
        self._labels: list[Values] = []

    def begin_round(self) -> None:
        """Forget the last round's sums."""
        self.round, self.batches, self.samples, self.loss = Histogram(), 0, 0, 0.0

    def add(self, label: Values, found: Found) -> None:
        """Take in one batch."""
        self.batches += 1
        self.samples += len(label)
        self.loss += found.gradients.loss * len(label)
        self._recent += found.gradients.loss
        self._recent_batches += 1
        self._scores.append(found.gradients.scores)
        self._labels.append(label)

    def settle(self) -> float:
        """Bring the histograms up to date; return the mean loss of the batches since the last call."""
        if not self._scores:
            return math.nan
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        for histogram in (self.total, self.round):
            histogram.add(scores, labels)
        recent = self._recent / self._recent_batches
        self._scores, self._labels, self._recent, self._recent_batches = [], [], 0.0, 0
        return recent


class Trainer:
    """Trains one client's rounds; the data runs on from round to round, pass after pass.

    Args:
        job, client, data, mode: what trains, on what, in which mode.
        report: where events go.
        log: where lines for people go.
        dump: takes each batch, if the job dumps.
    """

    def __init__(
        self, job: Job, client: ClientId, data: ClientData, mode: Mode, report: Report, log: TextIO,
        dump: Dump | None = None,
    ) -> None:  # fmt: skip
        self._runner, self._client, self._data, self._mode = job.runner, client, data, mode
        self._report, self._log, self._dump = report, log, dump
        self._meter, self._epoch, self._first = Meter(), 0, True
        self._pass = math.ceil(len(data) / job.runner.train_batch_size)
        self._steps, self._stream = self._pass, self._passes()
        self._timer = StepTimer() if job.runner.dataset_debug else None

    def train(self, round_: int, iterations: int = 0) -> Trained:
        """Train the next `iterations` batches, 0 for as many as a pass over the data has.

        Raises:
            FedpsError: the loss is not finite; names client, epoch and batch.
        """
        self._epoch, self._steps, meter = round_ - 1, iterations or self._pass, self._meter
        meter.begin_round()
        began = time.perf_counter()
        self._report({"event": "epoch_begin", "epoch": self._epoch})
        if self._dump:
            self._dump.begin(self._epoch)
        batches = islice(self._stream, self._steps)
        self._mode.train(self._timer.reading(batches, _size) if self._timer else batches, self._seen)
        if self._dump:
            self._dump.end()
        if self._timer:
            self._say(*self._timer.lines())
        meter.settle()
        done = Trained(meter.samples, time.perf_counter() - began, meter.loss / meter.samples, meter.round)
        self._report(
            {"event": "epoch_end", "epoch": self._epoch, "samples": done.samples, "loss": done.loss}
            | {"auc": meter.total.auc(), **lists(done.histogram)}
        )
        return done

    def _passes(self) -> Iterator[Batch]:
        number = 0
        while True:
            yield from self._data.batches(number, self._runner.train_batch_size)
            number += 1

    def _seen(self, batch: Batch, found: Found) -> None:
        meter, loss = self._meter, found.gradients.loss
        if not math.isfinite(loss):
            raise FedpsError(
                f"client {self._client!r}: the loss is {loss} at epoch {self._epoch}, batch {meter.batches + 1}; lower"
                " hyper_parameters.optimizer.learning_rate, or look for extreme values in the model's inputs"
            )
        if self._first:
            self._first = False
            self._report({"event": "first_batch"})
        meter.add(batch.label, found)
        if self._dump:
            self._dump.batch(meter.batches, batch, found)
        if self._timer and self._timer.due():
            self._say(*self._timer.lines())
        if meter.batches % self._runner.print_interval == 0 or meter.batches == self._steps:
            self._print(meter.settle())

    def _print(self, loss: float) -> None:
        meter, auc = self._meter, self._meter.total.auc()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._say(
            f"time: [{now}], batch: [{meter.batches}], Epoch {self._epoch} Var Loss[1]:[{loss:g}],"
            f" Epoch {self._epoch} Var Auc[1]:[{auc:g}]"
        )
        self._report(
            {"event": "progress", "epoch": self._epoch, "batch": meter.batches, "batches": self._steps}
            | {"samples": meter.samples, "loss": loss, "auc": auc}
        )

    def _say(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._log, flush=True)


def _size(batch: Batch) -> int:
    return len(batch.label)


def lists(histogram: Histogram) -> dict[str, object]:
    """Return a histogram as an event carries it."""
    return {"positives": histogram.positives.tolist(), "negatives": histogram.negatives.tolist()}
