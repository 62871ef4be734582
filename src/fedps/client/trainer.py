"""One client's training of a round: window after window, what is said of it, and what it came to."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import NamedTuple, TextIO

import numpy as np

from fedps.client.dump import Dump
from fedps.client.meters import Meter, StepTimer
from fedps.client.modes import Mode
from fedps.client.windows import Passes, batches_of
from fedps.config import Job
from fedps.config.checks.rounds import unfit
from fedps.data.samples import Order
from fedps.errors import FedpsError, JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.metrics import Histogram
from fedps.training.engine import Steps
from fedps.training.learner import Learner
from fedps.training.rules import Rates, rates_at
from fedps.types import ClientId, State, Values, under, within

PARTS = 20  # of an epoch, at whose ends a checkpoint may be due if the job does not say: the same for all that train in step
SIGNS = 4  # of life, that are given in `step_timeout`


class Trained(NamedTuple):
    """What one round of training came to.

    Attributes:
        samples: how many were trained.
        seconds: from its first window to the servers' answer to its last push.
        loss: mean over samples.
        histogram: of the samples' scores.
        logits: float32[S], of the round's public pairs; None if nothing is distilled.
    """

    samples: int
    seconds: float
    loss: float
    histogram: Histogram
    logits: Values | None = None


class Signs:
    """Signs of life of a client that is at work on what may take long: being busy is no silence.

    Args:
        timeout: seconds after which who is silent is waited for no longer; several signs are given in it.
        give: gives one.
    """

    def __init__(self, timeout: float, give: Callable[[], None] = lambda: None) -> None:
        self._every, self._give = timeout / SIGNS, give  # seconds between two
        self._last = 0.0  # when the last was given, seconds
        self._at_once = 1  # batches that take less time than lies between two

    def give(self) -> None:
        """Give a sign, if it is time for one."""
        if time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            self._give()

    def train(self, train: Callable[[Order, int, Rates], Steps], samples: Order, size: int, rates: Rates) -> Steps:
        """Take the steps of some samples, in goes that are short enough for a sign between two.

        How many goes that takes depends on the machine, so nothing else does: what they came to is joined before it is
        added to any sum.

        Args:
            train: takes the steps of a go; the rest is for it.
            samples: int32[n], positions in the data.
            size: samples of a batch.
            rates: float64[K], of each batch.
        """
        goes, done = list[Steps](), 0
        while done < len(rates) and (not goes or math.isfinite(goes[-1].losses[-1])):
            end, began = done + self._at_once, time.monotonic()
            goes.append(train(samples[done * size : end * size], size, rates[done:end]))
            took = max(time.monotonic() - began, 1e-9)
            self._at_once = max(1, int(len(goes[-1].losses) * self._every / took))
            self.give()
            done = end
        return Steps.joined(goes)


@dataclass
class SoFar:
    """What is done of a round.

    Attributes:
        windows: trained and pushed.
        late: pushes that came after their window was closed.
        seconds: that it took, at the last checkpoint.
        dumped: bytes of the round's dump, the same.
    """

    windows: int = 0
    late: int = 0
    seconds: float = 0.0
    dumped: int = 0


class Trainer:
    """Trains one client's rounds.

        trainer = Trainer(job, client, learner, mode, report, log)
        trained = trainer.train(1)  # one pass over the client's data

    Args:
        job: the resolved job.
        client: whose data is trained on; errors name it.
        learner: takes the steps.
        mode: exchanges shared values with the servers.
        report: takes events: `epoch_begin`, `first_batch`, `progress`, `epoch_end`.
        log: takes lines for people.
        dump: takes each batch, if the job dumps.
        mean: returns how many samples the clients have on average, where all go through a pass together (`pace`).
        signs: of life, to be given as training goes on.
        checkpoint: is called within a round every `checkpoint_every` batches, in whole windows, with how many those were. The
            servers have all pushes then. Clients that train in step are there at once, as a window counts as many batches for
            all, however many it has.
        due: whether it is time for a checkpoint, where the job does not say after how many batches.
    """

    def __init__(
        self, job: Job, client: ClientId, learner: Learner, mode: Mode, report: Report, log: TextIO,
        dump: Dump | None = None, mean: Callable[[], float] | None = None, signs: Signs | None = None,
        checkpoint: Callable[[int], None] = lambda batch: None, due: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._job, self._runner, self._client, self._learner, self._mode = job, job.runner, client, learner, mode
        self._report, self._log, self._dump = report, log, dump
        self._passes = Passes(job, learner.data, mode.window, mode.lead, mean)
        self._meter, self._first = Meter(), True
        self._timer = StepTimer() if job.runner.dataset_debug else None
        self._epoch = self._batches = 0  # of this round: its number from 0, how many batches it has
        self._done, self._began = SoFar(), 0.0  # what is done of this round, and when it began
        self._signs, self._checkpoint, self._due = signs or Signs(job.runner.step_timeout), checkpoint, due
        self._rate: float | None = None  # of this round: in place of the job's with its schedule

    def train(
        self, round_: int, iterations: int = 0, learning_rate: float | None = None, batch_size: int | None = None,
        window: int | None = None, most: int | None = None,
    ) -> Trained:  # fmt: skip
        """Train a round.

        Args:
            round_: its number, from 1.
            iterations: batches to train, 0 for as many as a pass over the data has.
            learning_rate: of this round, in place of the job's with its schedule; rates of single tables change with it.
            batch_size: samples of a batch in this round, in place of the job's.
            window: batches between two exchanges in this round, in place of the mode's (geo).
            most: windows to train at most.

        Raises:
            FedpsError: the loss is not finite; names client, epoch and batch.
            JobError: one of these does not fit the job.
            LostError: a server is gone for longer than it may be.
            RefusedError: a server refuses a pull or a push.
        """
        if why := unfit(self._job, learning_rate, batch_size, window, iterations):
            raise JobError(f"an assignment's {why}")
        self._rate = learning_rate
        self._batches, total, windows = self._passes.cut(iterations, batch_size, window, self._done.windows)
        self._begin(round_ - 1)
        windows = islice(windows, most)
        size, meter, merged = window or self._mode.window or 0, self._meter, True
        every = self._between(total, size) if size else 0  # windows between two checkpoints
        if self._timer:
            windows = self._timer.reading(windows)
        for coming in windows:
            coming = coming.without_lead if merged else coming
            self._mode.begin(coming)  # asks for its rows
            self._train(coming.lead, coming.size)  # meanwhile the last window's push is merged
            meter.wait(self._mode.settle)  # takes up the rows, as merged
            self._train(coming.rest, coming.size)
            self._mode.end(coming)  # pushes, and waits for nothing
            self._done.windows += 1
            merged = every > 0 and self._done.windows % every == 0 and meter.batches < self._batches
            merged = merged and (self._runner.checkpoint_every is not None or self._due())
            if merged:
                self._done.late += meter.wait(self._mode.finish)
                self._checkpoint(self._done.windows * size)
        self._done.late += meter.wait(self._mode.finish)
        return self._end()

    def state(self) -> State:
        """Return what a client goes on from: the next round, or the rest of this one."""
        done = self._done
        if done.windows:
            done.seconds, done.dumped = time.perf_counter() - self._began, self._dump.size() if self._dump else 0
        return under({"passes": self._passes.state(), "meter": self._meter.state(), "begun": asdict(done)})

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of the same client's trainer.

        If that was within a round, the next call of `train` is for the rest of it, and says what all of it came to.
        """
        self._passes.restore(within(state, "passes"))
        self._meter.restore(within(state, "meter"))
        self._done, self._first = SoFar(**within(state, "begun")), False
        self._report(events.FirstBatch())  # another process had it

    def _between(self, windows: int, size: int) -> int:
        """Return how many of a round's windows, of `size` batches each, lie between two checkpoints; 0: there are none within."""
        batches = self._runner.checkpoint_every if self._runner.durability != "none" else 0
        if batches is not None:
            return math.ceil(batches / size)
        # After a checkpoint no lead is trained, so the time it takes would change what is learned.
        return 0 if self._mode.lead else math.ceil(windows / PARTS)

    def _begin(self, epoch: int) -> None:
        """Begin a round, or go on with it."""
        self._epoch, self._began = epoch, time.perf_counter() - self._done.seconds
        if not self._done.windows:
            self._meter.begin_round()
        self._report(events.EpochBegin(epoch))
        if self._dump:
            self._dump.begin(epoch, self._done.dumped)

    def _end(self) -> Trained:
        """End a round; return what it came to."""
        meter, late, self._done = self._meter, self._done.late, SoFar()
        if self._dump:
            self._dump.end()
        if self._timer:
            self._say(*self._timer.lines())
        if late:
            self._say(f"fl-ps > pushes that came after their window was closed: {late}; what they changed is lost")
        done = Trained(meter.samples, time.perf_counter() - self._began, meter.loss / meter.samples, meter.round)
        auc = meter.total.auc()
        self._report(events.EpochEnd(self._epoch, done.samples, done.loss, auc, done.histogram, meter.waited, late))
        return done

    def _train(self, pieces: list[Order], size: int) -> None:
        """Take the steps of some pieces, in parts that end where something is to be said of them."""
        for piece in pieces:
            while len(piece):
                at = self._until_report() * size
                part, piece = piece[:at], piece[at:]
                with self._timer.step() if self._timer else nullcontext():
                    rates = self._rates(batches_of(len(part), size))
                    steps = self._signs.train(self._learner.train, part, size, rates)
                self._take_in(part, steps, size)

    def _until_report(self) -> int:
        """Return how many batches may be trained in one go."""
        if self._first or self._dump or self._timer:
            return 1
        every = self._runner.print_interval
        return every - self._meter.batches % every

    def _rates(self, batches: int) -> Rates:
        """Return the share of their rates that tables take for the next batches: each that of its middle."""
        at = self._epoch + (self._meter.batches + 0.5 + np.arange(batches)) / self._batches
        return rates_at(self._job.hyper_parameters.optimizer, self._runner.epochs, at, self._rate)

    def _take_in(self, part: Order, steps: Steps, size: int) -> None:
        """Take in what some steps came to, and say what is due of it."""
        meter, loss = self._meter, steps.losses[-1]
        if not math.isfinite(loss):
            raise FedpsError(
                f"client {self._client!r}: the loss is {loss} in epoch {self._epoch + 1}, batch"
                f" {meter.batches + len(steps.losses)}; lower hyper_parameters.optimizer.learning_rate, or look for"
                " extreme values in the model's inputs"
            )
        if self._first:
            self._first = False
            self._report(events.FirstBatch())
        meter.add(len(part), steps, size)
        if self._dump:
            self._dump.batch(meter.batches, part, steps.scores)
        if self._timer and self._timer.due():
            self._say(*self._timer.lines())
        if meter.batches % self._runner.print_interval == 0 or meter.batches == self._batches:
            self._print(meter.recent())

    def _print(self, loss: float) -> None:
        meter, auc = self._meter, self._meter.total.auc()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._say(
            f"time: [{now}], batch: [{meter.batches}], Epoch {self._epoch} Var Loss[1]:[{loss:g}]"
            + ("" if auc is None else f", Epoch {self._epoch} Var Auc[1]:[{auc:g}]")
        )
        self._report(events.Progress(self._epoch, meter.batches, self._batches, meter.samples, loss, auc))

    def _say(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._log, flush=True)
