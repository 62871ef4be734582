"""Vertical training in one place: all parties in this process, nothing on a wire. What federated training is compared with."""

import copy
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedps.config.sections.features import labels
from fedps.config.vertical import VerticalJob
from fedps.data.samples import ClientData, Order
from fedps.errors import FedpsError
from fedps.figures import OF_BINARY, OF_REAL
from fedps.metrics import Evaluations, evaluate, probabilities
from fedps.types import NO_SAMPLES, Samples, State, Values
from fedps.vertical.data import batches_of
from fedps.vertical.half import AT_ONCE, Half, Top
from fedps.vertical.networks import TOP


class Measured(NamedTuple):
    """What held-out samples come to after an epoch; a figure is None where there is nothing to measure.

    Attributes:
        epoch: from 0 on.
        loss: mean of the training batches'.
        auc, logloss: of a binary label.
        rmse: of a real one.
    """

    epoch: int
    loss: float
    auc: float | None = None
    logloss: float | None = None
    rmse: float | None = None


class Course:
    """How training goes from epoch to epoch: which was the best, and whether it goes on.

    Args:
        job: its `epochs` and `patience`.

    Attributes:
        epochs: each epoch's metrics.
        best: the place there of the epoch with the best AUC, with mse the lowest RMSE; of the last where nothing is measured.
    """

    def __init__(self, job: VerticalJob) -> None:
        self.epochs: list[Measured] = []
        self.best = 0
        self._most, self._patience = job.vertical.epochs, job.vertical.patience

    def add(self, measured: Measured) -> bool:
        """Take the next epoch's metrics; return whether it is the best so far."""
        self.epochs.append(measured)
        best = len(self.epochs) == 1 or not _worth(measured) <= _worth(self.epochs[self.best])
        if best:
            self.best = len(self.epochs) - 1
        return best

    @property
    def goes_on(self) -> bool:
        """Whether there is to be another epoch."""
        waited = len(self.epochs) - 1 - self.best
        return len(self.epochs) < self._most and not 0 < self._patience <= waited


class Trained(NamedTuple):
    """What training came to.

    Attributes:
        epochs: each epoch's metrics.
        best: the place in `epochs` of the one that is kept.
        samples_per_second: of training, without evaluation.
        states: of each party's half, and of the top under `TOP`, as they stood after the best epoch.
        scores: float32[n], of the held-out samples after it: probabilities, with mse numbers.
    """

    epochs: list[Measured]
    best: int
    samples_per_second: float
    states: Mapping[str, State]
    scores: Values


def train_joined(
    job: VerticalJob, data: Mapping[str, ClientData], parties: Sequence[str] | None = None, ahead: int = 1
) -> Trained:  # fmt: skip
    """Train on parties' features in one place.

    Args:
        job: the job.
        data: of each party its samples, in one order; the active party's have the labels.
        parties: whose features count; None: all parties'. The active party's alone, or the passive ones' alone, are what
            `vertical.lift` compares with.
        ahead: batches that passive parties compute before they have the first one's gradient, as with
            `vertical.in_flight`; 1: the oracle.

    Raises:
        JobError: none of these parties has features, or the network cannot be made of them.
        FedpsError: the training diverges.
    """
    active, names = job.vertical.active, [party for party in job.order if parties is None or party in parties]
    train, test = data[active].train, data[active].test
    halves = {party: Half(job, party, data[party]) for party in names if has_features(job, party)}
    top = Top(job, {party: half.width for party, half in halves.items()}, len(train.label))
    course, seconds, states, scores = Course(job), 0.0, dict[str, State](), np.empty(0, np.float32)
    while not course.epochs or course.goes_on:
        began, losses = time.perf_counter(), list[float]()
        for samples, cuts in _cuts(job, halves, len(course.epochs), len(train.label), ahead):
            stepped = top.step(cuts, train.label[samples])
            if not np.isfinite(stepped.loss):
                raise FedpsError(diverged(job, len(course.epochs)))
            losses.append(stepped.loss)
            for half, gradient in zip(halves.values(), stepped.gradients, strict=True):
                half.backward(gradient)
        seconds += time.perf_counter() - began
        logits = _score(halves, top, len(test.label))
        if course.add(measure(logits, test.label, job.vertical.loss, len(course.epochs), losses)):
            now = {party: half.state() for party, half in halves.items()} | {TOP: top.state()}
            states = copy.deepcopy(now)
            scores = logits if job.vertical.loss == "mse" else probabilities(logits)
    speed = len(course.epochs) * len(train.label) / seconds
    return Trained(course.epochs, course.best, speed, states, scores)


def measure(logits: Values, label: Values, loss: str, epoch: int, losses: Sequence[float]) -> Measured:
    """Return what held-out samples are worth after an epoch.

    Args:
        logits: float32[n], with mse numbers; there may be none.
        label: float32[n].
        loss: `vertical.loss`.
        epoch: from 0 on.
        losses: of its training batches.

    Raises:
        FedpsError: a score is NaN or infinite.
    """
    mean = float(np.mean(losses))
    if not len(label):
        return Measured(epoch, mean)
    real, metrics = loss == "mse", OF_REAL[:1] if loss == "mse" else OF_BINARY
    found, every = evaluate(logits, Samples(NO_SAMPLES.columns, label), metrics, tasks={"": real}), Evaluations()
    every.add(found.sums, found.histograms)
    return Measured(epoch, mean, **every.figures(metrics))


def has_features(job: VerticalJob, party: str) -> bool:
    """Say whether a party has features, not the label alone."""
    features = job.parties[party].features
    return len(labels(features)) < len(features)


def diverged(job: VerticalJob, epoch: int) -> str:
    """Say that a batch had a loss that is not finite, and what to do."""
    rate = job.hyper_parameters.optimizer.learning_rate
    return (
        f"epoch {epoch}: a batch has a loss that is NaN or infinite: lower hyper_parameters.optimizer.learning_rate ({rate:g}),"
        " or see that the features have no NaN and no huge numbers"
    )


def _cuts(
    job: VerticalJob, halves: Mapping[str, Half], epoch: int, samples: int, ahead: int
) -> Iterator[tuple[Order, list[Values]]]:  # fmt: skip
    """Yield an epoch's batches, with what each party computes of them: passive ones so many steps ahead."""
    waiting = deque[tuple[Order, dict[str, Values]]]()

    def go(order: Order, cuts: Mapping[str, Values]) -> tuple[Order, list[Values]]:
        return order, [cuts[party] if party in cuts else half.forward(order) for party, half in halves.items()]

    for order in batches_of(job, epoch, samples):
        passive = {party: half.forward(order) for party, half in halves.items() if party != job.vertical.active}
        waiting.append((order, passive))
        if len(waiting) == ahead:
            yield go(*waiting.popleft())
    while waiting:
        yield go(*waiting.popleft())


def _score(halves: Mapping[str, Half], top: Top, samples: int) -> Values:
    """Return the logits of all held-out samples."""
    pieces = [slice(start, start + AT_ONCE) for start in range(0, samples, AT_ONCE)]
    logits = [top.score([half.score(piece) for half in halves.values()]) for piece in pieces]
    return np.concatenate([*logits, np.empty(0, np.float32)])


def _worth(measured: Measured) -> float:
    """Return what an epoch is worth, the more the better; of one that nothing was measured of no number."""
    if measured.rmse is not None:
        return -measured.rmse
    return np.nan if measured.auc is None else measured.auc
