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
    """What held-out samples come to after an epoch.

    Attributes:
        epoch: from 0 on.
        loss: mean of the training batches'.
        auc, logloss: of a binary label; None where there is nothing to measure.
        rmse: of a real one.
    """

    epoch: int
    loss: float
    auc: float | None = None
    logloss: float | None = None
    rmse: float | None = None


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
    epochs, best, seconds, states, scores = list[Measured](), 0, 0.0, dict[str, State](), np.empty(0, np.float32)
    for epoch in range(job.vertical.epochs):
        began, loss = time.perf_counter(), 0.0
        for samples, cuts in _cuts(job, halves, epoch, len(train.label), ahead):
            stepped = top.step(cuts, train.label[samples])
            if not np.isfinite(stepped.loss):
                raise FedpsError(f"epoch {epoch + 1}: a batch's loss is {stepped.loss}: lower the learning rate")
            loss += stepped.loss * len(samples)
            for half, gradient in zip(halves.values(), stepped.gradients, strict=True):
                half.backward(gradient)
        seconds += time.perf_counter() - began
        logits = _score(halves, top, len(test.label))
        found = measure(logits, test.label, job.vertical.loss)
        epochs.append(Measured(epoch, loss / len(train.label), **found))
        if (best := best_of(epochs, job.vertical.loss)) == epoch:
            now = {party: half.state() for party, half in halves.items()} | {TOP: top.state()}
            states = copy.deepcopy(now)
            scores = logits if job.vertical.loss == "mse" else probabilities(logits)
        if 0 < job.vertical.patience <= epoch - best:
            break
    return Trained(epochs, best, len(epochs) * len(train.label) / seconds, states, scores)


def measure(logits: Values, label: Values, loss: str) -> dict[str, float | None]:
    """Return what held-out samples come to: their AUC and log loss, with mse the RMSE; nothing if there are none.

    Args:
        logits: float32[n], with mse numbers.
        label: float32[n].
        loss: `vertical.loss`.

    Raises:
        FedpsError: a score is NaN or infinite.
    """
    if not len(label):
        return {}
    real, metrics = loss == "mse", OF_REAL[:1] if loss == "mse" else OF_BINARY
    found, every = evaluate(logits, Samples(NO_SAMPLES.columns, label), metrics, tasks={"": real}), Evaluations()
    every.add(found.sums, found.histograms)
    return dict(every.figures(metrics))


def best_of(epochs: Sequence[Measured], loss: str) -> int:
    """Return the place of the epoch whose held-out samples came out best, the first of such; of the last where there are none."""

    def worth(measured: Measured) -> float:
        found = measured.auc if loss == "bce" else measured.rmse
        return -np.inf if found is None else found if loss == "bce" else -found

    worths = [worth(measured) for measured in epochs]
    return int(np.argmax(worths)) if max(worths) > -np.inf else len(epochs) - 1


def has_features(job: VerticalJob, party: str) -> bool:
    """Say whether a party has features, not the label alone."""
    features = job.parties[party].features
    return len(labels(features)) < len(features)


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
