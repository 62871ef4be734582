"""The training loop of one client: epochs of batches, what is printed and reported, and the stops to evaluate."""

import math
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from fedps.client.evaluate import evaluate
from fedps.client.learner import Found, Learner
from fedps.client.modes import Mode, pull_all
from fedps.client.shard import Batch, ClientData
from fedps.config import Job
from fedps.errors import FedpsError
from fedps.models.metrics import Histogram
from fedps.net.shards import Shards
from fedps.table import snapshot
from fedps.tracking import Report
from fedps.types import ClientId, Values


class Meter:
    """Loss and AUC of one epoch's training, and of the batches since the last print.

    AUC is cumulative over the process, as the original prints it.
    """

    def __init__(self) -> None:
        self.total, self.epoch = Histogram(), Histogram()
        self.batches = self.samples = 0
        self.loss = self._recent = 0.0
        self._recent_batches = 0
        self._scores: list[Values] = []
        self._labels: list[Values] = []

    def begin_epoch(self) -> None:
        """Forget the last epoch's sums."""
        self.epoch, self.batches, self.samples, self.loss = Histogram(), 0, 0, 0.0

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
        for histogram in (self.total, self.epoch):
            histogram.add(scores, labels)
        recent = self._recent / self._recent_batches
        self._scores, self._labels, self._recent, self._recent_batches = [], [], 0.0, 0
        return recent


class Trainer:
    """Trains one client through a job's epochs.

    Args:
        job, client, data, learner, shards, mode: what trains, on what, with whom.
        run_dir: the run's folder; private tables go to `private/<client>/<epoch>/`.
        report: where events go.
        log: where lines for people go.
    """

    def __init__(
        self, job: Job, client: ClientId, data: ClientData, learner: Learner, shards: Shards, mode: Mode,
        run_dir: Path, report: Report, log: TextIO,
    ) -> None:  # fmt: skip
        self._runner, self._client, self._data, self._learner = job.runner, client, data, learner
        self._shards, self._mode, self._run_dir, self._report, self._log = shards, mode, run_dir, report, log
        self._timeout = job.runner.start_timeout + job.runner.step_timeout
        self._meter, self._epoch, self._first = Meter(), 0, True
        self._steps = math.ceil(len(data) / job.runner.train_batch_size)

    def run(self, clock: int) -> None:
        """Train all epochs from `clock` on, stopping with the others to evaluate."""
        self._mode.start_at(clock)
        for epoch in range(self._runner.epochs):
            self._epoch = epoch
            self._train_epoch()
            if self._stops_after(self._epoch + 1):
                self._stop(self._epoch + 1)

    def _stops_after(self, epoch: int) -> bool:
        every = self._runner.eval_every
        return epoch == self._runner.epochs or (every > 0 and epoch % every == 0)

    def _train_epoch(self) -> None:
        meter = self._meter
        meter.begin_epoch()
        self._report({"event": "epoch_begin", "epoch": self._epoch})
        self._mode.train(self._data.batches(self._epoch, self._runner.train_batch_size), self._seen)
        meter.settle()
        self._report(
            {
                "event": "epoch_end",
                "epoch": self._epoch,
                "samples": meter.samples,
                "loss": meter.loss / meter.samples,
            }
            | {"auc": meter.total.auc(), **_lists(meter.epoch)}
        )

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
        if meter.batches % self._runner.print_interval == 0 or meter.batches == self._steps:
            self._print(meter.settle())

    def _print(self, loss: float) -> None:
        meter, auc = self._meter, self._meter.total.auc()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        print(
            f"time: [{now}], batch: [{meter.batches}], Epoch {self._epoch} Var Loss[1]:[{loss:g}],"
            f" Epoch {self._epoch} Var Auc[1]:[{auc:g}]",
            file=self._log,
            flush=True,
        )
        self._report(
            {"event": "progress", "epoch": self._epoch, "batch": meter.batches, "batches": self._steps}
            | {"samples": meter.samples, "loss": loss, "auc": auc}
        )

    def _stop(self, epoch: int) -> None:
        """Meet the others, evaluate one and the same model, save what is private, and go on together."""
        self._shards.barrier(epoch, "trained")
        self._report({"event": "evaluate_begin", "epoch": epoch})
        pull_all(self._learner, self._shards, self._timeout)
        result = evaluate(self._learner, self._data, self._runner.infer_batch_size)
        self._report(
            {
                "event": "evaluated",
                "epoch": epoch,
                "users": result.users,
                "hits": result.hits,
                "ndcg": result.ndcg,
            }
            | _lists(result.histogram)
        )
        self._save(epoch)
        self._mode.start_at(self._shards.barrier(epoch, "evaluated"))

    def _save(self, epoch: int) -> None:
        private = self._learner.private_block()
        if private:
            folder = self._run_dir / "private" / self._client / str(epoch)
            snapshot.save(folder, "tables", private, {"epoch": epoch, "client": self._client})


def _lists(histogram: Histogram) -> dict[str, object]:
    return {"positives": histogram.positives.tolist(), "negatives": histogram.negatives.tolist()}
