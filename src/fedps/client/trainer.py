"""One client's training of a round: its next batches, what is printed of them, and what they came to."""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

import numpy as np

from fedps.client.dump import Dump
from fedps.client.modes import Mode, Window
from fedps.client.windows import Part, parts_of
from fedps.config import Job
from fedps.config.checks.selection import unfit
from fedps.data.samples import Order
from fedps.data.scripts.timing import StepTimer
from fedps.errors import FedpsError, JobError
from fedps.events.journal import Report
from fedps.metrics import Histogram
from fedps.training.engine import Rates, Steps
from fedps.training.learner import Learner
from fedps.training.schedule import rates_at
from fedps.types import ClientId, Values


class Trained(NamedTuple):
    """What one round of training came to: samples, seconds, mean loss, score histogram; logits of public pairs."""

    samples: int
    seconds: float
    loss: float
    histogram: Histogram
    logits: Values | None = None


class Meter:
    """Loss and AUC of one round's training, and of the batches since the last print.

    AUC is cumulative over the process, as the original prints it.
    """

    def __init__(self) -> None:
        self.total, self.round = Histogram(), Histogram()
        self.batches = self.samples = 0
        self.loss = self._recent = 0.0
        self._recent_batches = 0

    def begin_round(self) -> None:
        """Forget the last round's sums."""
        self.round, self.batches, self.samples, self.loss = Histogram(), 0, 0, 0.0

    def add(self, samples: int, steps: Steps, size: int) -> None:
        """Take in the steps of some samples in batches of `size`."""
        batches, left = len(steps.losses), samples % size
        sizes = np.full(batches, size)
        if left:
            sizes[-1] = left
        self.batches += batches
        self.samples += samples
        self.loss += float(steps.losses @ sizes)
        self._recent += float(steps.losses.sum())
        self._recent_batches += batches
        self.total.merge(steps.histogram)
        self.round.merge(steps.histogram)

    def recent(self) -> float:
        """Return the mean loss of the batches since the last call."""
        loss = self._recent / self._recent_batches
        self._recent, self._recent_batches = 0.0, 0
        return loss


class Trainer:
    """Trains one client's rounds; the data runs on from round to round, pass after pass.

    Args:
        job, client, learner, mode: what trains, in which mode.
        report: where events go.
        log: where lines for people go.
        dump: takes each batch, if the job dumps.
        mean: returns how many samples all clients have on average, where they go through a pass in step (`pace`).
    """

    def __init__(
        self, job: Job, client: ClientId, learner: Learner, mode: Mode, report: Report, log: TextIO,
        dump: Dump | None = None, mean: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        self._job, self._runner, self._client, self._learner, self._mode = job, job.runner, client, learner, mode
        self._report, self._log, self._dump = report, log, dump
        self._meter, self._epoch, self._first = Meter(), 0, True
        self._size, self._rate, self._window = job.runner.train_batch_size, 0.0, mode.window
        self._steps, self._pieces = 0, self._passes()
        self._piece: Order = np.empty(0, np.int32)  # what is left of the pass
        self._timer = StepTimer() if job.runner.dataset_debug else None
        self._mean = mean

    def train(
        self, round_: int, iterations: int = 0, learning_rate: float | None = None, batch_size: int | None = None,
        window: int | None = None,
    ) -> Trained:  # fmt: skip
        """Train a round.

        Args:
            round_: its number, from 1.
            iterations: batches to train, 0 for as many as a pass over the data has.
            learning_rate: of this round, in place of the job's with its schedule; rates of single tables change with it.
            batch_size: samples of a batch in this round, in place of the job's.
            window: batches between two exchanges in this round, in place of the mode's (geo).

        Raises:
            FedpsError: the loss is not finite; names client, epoch and batch.
            JobError: one of these does not fit the job.
        """
        self._rate, self._size, self._window = self._settings(learning_rate, batch_size, window)
        parts = [] if iterations or batch_size or window else self._parts()
        self._epoch, meter = round_ - 1, self._meter
        self._steps = sum(_batches(*part) for part in parts) or iterations or self._batches(len(self._learner.data))
        meter.begin_round()
        self._learner.data.hold(self._passes_at_once())
        began = time.perf_counter()
        self._report({"event": "epoch_begin", "epoch": self._epoch})
        if self._dump:
            self._dump.begin(self._epoch)
        windows = self._shares(parts) if parts else self._windows()
        self._mode.train(
            self._timer.reading(windows, self._samples, self._count) if self._timer else windows, self._train
        )
        if self._dump:
            self._dump.end()
        if self._timer:
            self._say(*self._timer.lines())
        done = Trained(meter.samples, time.perf_counter() - began, meter.loss / meter.samples, meter.round)
        self._report(
            {"event": "epoch_end", "epoch": self._epoch, "samples": done.samples, "loss": done.loss}
            | {"auc": meter.total.auc(), **lists(done.histogram)}
        )
        return done

    def _settings(
        self, learning_rate: float | None, batch_size: int | None, window: int | None
    ) -> tuple[float, int, int | None]:
        """Return the share of the job's rates to take (0: as its schedule says), samples a batch, batches a window."""
        if why := unfit(self._job, learning_rate, batch_size, window):
            raise JobError(f"an assignment's {why}")
        share = (learning_rate or 0.0) / self._job.hyper_parameters.optimizer.learning_rate
        return share, batch_size or self._runner.train_batch_size, window or self._mode.window

    def _passes_at_once(self) -> int:
        """Return how many passes over the data a window can lie in."""
        steps = min(self._window or self._steps, self._steps)
        return 1 + math.ceil(steps / self._batches(len(self._learner.data)))

    def _passes(self) -> Iterator[Order]:
        number = 0
        while True:
            yield self._learner.data.order(number)
            number += 1

    def _windows(self) -> Iterator[Window]:
        """Cut the round's batches into windows; the data runs on from pass to pass."""
        left = self._steps
        while left:
            due = min(left, self._window or left)
            left -= due
            lead = min(due, self._mode.lead)
            yield Window(self._take(lead), self._take(due - lead), self._size)

    def _parts(self) -> list[Part]:
        """Return the parts of a pass that is trained in step with other clients; none where each has its own pace."""
        mean = self._mean() if self._mean else 0.0
        if not mean:
            return []
        unit = 2 if self._job.hyper_parameters.loss == "bpr" else 1  # a pair stays together
        samples, batch = len(self._learner.data) // unit, self._size // unit
        parts = parts_of(samples, mean / unit, batch, self._window or 1, single=self._runner.sync_mode == "sync")
        return [Part(part.samples * unit, part.batch * unit) for part in parts]

    def _shares(self, parts: list[Part]) -> Iterator[Window]:
        """Cut a round into these parts; the data runs on from pass to pass, and a batch may have samples of two."""
        for samples, batch in parts:
            part = self._next(samples)
            lead = min(samples, self._mode.lead * batch)
            yield Window([part[:lead]] if lead else [], [part[lead:]] if lead < samples else [], batch)

    def _next(self, samples: int) -> Order:
        """Return the next samples, of two passes if one ends among them: both are held."""
        pieces = []
        while samples:
            pieces.append(self._piece_of(samples))
            samples -= len(pieces[-1])
        return np.concatenate(pieces)

    def _take(self, due: int) -> list[Order]:
        """Return the next batches, in pieces that do not cross the end of a pass."""
        pieces = []
        while due:
            pieces.append(self._piece_of(due * self._size))
            due -= self._batches(len(pieces[-1]))
        return pieces

    def _piece_of(self, most: int) -> Order:
        """Return the next samples of the pass, so many at most; of the next pass if it is at its end."""
        if not len(self._piece):
            self._piece = next(self._pieces)
        piece, self._piece = self._piece[:most], self._piece[most:]
        return piece

    def _train(self, piece: Order, size: int) -> None:
        """Take a piece's steps, in parts that end where something is to be told of them."""
        while len(piece):
            part, piece = self._cut(piece, size)
            steps = self._learner.train(part, size, self._rates(_batches(len(part), size)))
            self._seen(part, steps, size)

    def _rates(self, batches: int) -> Rates:
        """Return the share of their rates that tables take for the next batches."""
        if self._rate:
            return np.full(batches, self._rate)
        at = self._epoch + (self._meter.batches + 0.5 + np.arange(batches)) / self._steps
        return rates_at(self._job.hyper_parameters.optimizer, self._runner.epochs, at)

    def _cut(self, piece: Order, size: int) -> tuple[Order, Order]:
        runner, done = self._runner, self._meter.batches
        batches = runner.print_interval - done % runner.print_interval
        if self._first or self._dump or self._timer:
            batches = 1
        at = batches * size
        return piece[:at], piece[at:]

    def _seen(self, part: Order, steps: Steps, size: int) -> None:
        meter, loss = self._meter, steps.losses[-1]
        if not math.isfinite(loss):
            raise FedpsError(
                f"client {self._client!r}: the loss is {loss} at epoch {self._epoch}, batch"
                f" {meter.batches + len(steps.losses)}; lower hyper_parameters.optimizer.learning_rate, or look for"
                " extreme values in the model's inputs"
            )
        if self._first:
            self._first = False
            self._report({"event": "first_batch"})
        meter.add(len(part), steps, size)
        if self._dump:
            self._dump.batch(meter.batches, part, steps.scores)
        if self._timer and self._timer.due():
            self._say(*self._timer.lines())
        if meter.batches % self._runner.print_interval == 0 or meter.batches == self._steps:
            self._print(meter.recent())

    def _batches(self, samples: int) -> int:
        return _batches(samples, self._size)

    def _samples(self, window: Window) -> int:
        return sum(map(len, window.pieces))

    def _count(self, window: Window) -> int:
        return sum(_batches(len(piece), window.batch) for piece in window.pieces)

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


def _batches(samples: int, size: int) -> int:
    return -(-samples // size)


def lists(histogram: Histogram) -> dict[str, object]:
    """Return a histogram as an event carries it."""
    return {"positives": histogram.positives.tolist(), "negatives": histogram.negatives.tolist()}
