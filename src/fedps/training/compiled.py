"""Steps by the compiled library: batch after batch in one call, without the interpreter's lock and without torch."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedps.config import Job
from fedps.config.sections.features import first_binary, labels
from fedps.data.samples import ClientData, Order
from fedps.metrics import Histogram
from fedps.models.network import log_shares
from fedps.native.library import Library, Loss
from fedps.training.engine import Gradients, Ranker, Steps
from fedps.training.rules import Rates
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import Bags, Column, Samples, Slots, State, TableName, Values

GO = 1 << 18  # samples scored in a call, a multiple of the step's blocks
AT_ONCE = 64  # samples ranked in a call, such a block


class Compiled:
    """A learner's steps, compiled.

    Args:
        library: of the step.
        data: what is trained on.
        tables: the learner's tables by name, as the program numbers them.
        dense: its dense parameters: shared, private, and those that stay as they are.
        names: of all dense parameters, as the program numbers them.
        inputs: of all features, as the program numbers them.
        loss: what they make small.
        items: features, of one id space, that the network takes items from.

    Raises:
        OSError: the library cannot be loaded, or is not what was compiled.
    """

    def __init__(
        self, library: Path, data: ClientData, tables: Mapping[TableName, LocalTable],
        dense: Sequence[LocalDense], names: Sequence[TableName], inputs: Sequence[str], loss: Loss,
        items: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._data, self._inputs, self._tasks = data, inputs, len(loss.labels)
        if loss.name == "in_batch_softmax":
            loss = loss._replace(log_q=log_shares(data.frequencies(items)[1]))
        self._names, self._tables, self._dense = list(tables), list(tables.values()), dense
        places = [(k, d.places[name].start) for name in names for k, d in enumerate(dense) if name in d.places]
        longest = [int(np.diff(c.starts).max(initial=0)) if isinstance(c, Bags) else 1 for c in data.slots.values()]
        # which of the three each parameter belongs to, and where it begins there
        self._library = Library(
            library,
            self._tables,
            dense,
            np.array(places or [(0, 0)], np.int64).T.copy(),
            len(inputs),
            sum(longest),
            loss,
        )
        self._batches, self._open = 0, deque[Order]()

    def train(self, samples: Order, size: int, rates: Rates) -> Steps:
        """Take a step on each batch of `size` samples; the last may be shorter."""
        features = _columns(self._inputs, self._data.slots, self._data.train)
        losses, scores, counts = self._library.train(
            features, samples, self._data.train.label, size, self._batches + 1, rates
        )
        self._batches += len(losses)
        share = float(rates[len(losses) - 1])
        for one in (*self._tables, *self._dense):
            one.set_rate(share)
        return Steps(losses, scores, Histogram(*counts))

    def forward(self, samples: Order, rate: float) -> Values:
        """Return what a part of a network makes of some training samples; arguments as for an `Engine`."""
        self._batches += 1
        self._open.append(samples)
        features = _columns(self._inputs, self._data.slots, self._data.train)
        return self._library.ahead(features, samples, self._batches, rate)

    def backward(self, gradient: Values, rate: float) -> None:
        """Take a step on the samples that have been open for longest; arguments as for an `Engine`."""
        self._batches += 1
        features, samples = _columns(self._inputs, self._data.slots, self._data.train), self._open.popleft()
        self._library.train(features, samples, gradient, len(samples), self._batches, np.array([rate]))
        for one in (*self._tables, *self._dense):
            one.set_rate(rate)

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""
        rows = {}
        for number, table in enumerate(self._tables):
            if not table.optimizes:
                touched, gradients = self._library.touched(number)
                order = np.argsort(touched)
                rows[self._names[number]] = (touched[order], gradients[order])
        return Gradients(rows, self._library.dense_gradients[0].copy())

    def score(self, test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
        """Return the logits of samples, float32[n], or [n, tasks], on the rows as they stand; arguments as for an `Engine`."""
        features = _columns(self._inputs, slots, test)
        order = np.arange(len(test.label), dtype=np.int32)
        logits = np.empty((len(order), self._tasks), np.float32)
        for at in range(0, len(order), GO):
            go = order[at : at + GO]
            logits[at : at + GO] = self._library.score(features, go)
            rest()
        return logits[:, 0] if self._tasks == 1 else logits

    def ranker(self, items: Samples, slots: Mapping[str, Column]) -> Ranker:
        """Return what scores samples with each of some items in the place of theirs; arguments as for an `Engine`."""
        known: Mapping[str, Column] = {**items.columns, **slots}
        rows = self._library.items([known.get(name) for name in self._inputs], len(items.label))

        def rank(test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
            features = _columns(self._inputs, slots, test)
            order = np.arange(len(test.label), dtype=np.int32)
            scores = np.empty((len(order), len(rows), self._tasks), np.float32)
            for at in range(0, len(order), AT_ONCE):
                self._library.rank(features, order[at : at + AT_ONCE], rows, scores[at : at + AT_ONCE])
                rest()
            return scores[..., 0] if self._tasks == 1 else scores

        return rank

    def read(self, table: LocalTable, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        number = next(k for k, each in enumerate(self._tables) if each is table)
        out = np.empty((len(slots), table.dim), np.float32)
        self._library.read(number, slots, out)
        return out

    def state(self) -> State:
        """Return nothing: what a step changes lies in the tables alone."""
        return {}

    def restore(self, state: State) -> None:
        """Do nothing."""


def loss_of(job: Job, outputs: int = 0) -> Loss:
    """Return what a job's training makes small; of a part of a network, which has so many outputs, the caller knows."""
    if outputs:
        return Loss("given", labels=((True, 1.0),) * outputs)
    name, every = job.hyper_parameters.loss, labels(job.inputs)
    if name == "mse" or (name == "bce" and len(every) > 1):
        several = len(every) > 1
        each = tuple((label.of == "real", label.weight if several else 1.0) for label in every.values())
        return Loss("weighted", labels=each, scored=first_binary(every)[0])
    return Loss({"bce": "cross_entropy", "bpr": "pairwise"}.get(name, name), job.group)


def _columns(inputs: Sequence[str], slots: Mapping[str, Column], samples: Samples) -> list[Column]:
    """Return each feature's rows, or its numbers."""
    return [slots[name] if name in slots else samples.columns[name] for name in inputs]
