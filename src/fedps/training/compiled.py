"""Steps by the compiled library: batch after batch in one call, without the interpreter's lock and without torch."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedps.data.samples import ClientData, Order
from fedps.metrics import Histogram
from fedps.native.library import DenseView, Library, TableView
from fedps.training.engine import Gradients, Steps
from fedps.training.rules import Rates
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import Slots, TableName, Values

GO = 1 << 18  # samples scored in a call, a multiple of the step's blocks


class Compiled:
    """A learner's steps, compiled.

    Args:
        library: the step.
        data: what is trained on.
        tables: the learner's tables by name, as the program numbers them.
        dense: its dense parameters: shared, private, and those that stay as they are.
        names: of all dense parameters, as the program numbers them.
        pairwise: the loss is that of pairs (`models/loss.py`).
    """

    def __init__(
        self, library: Library, data: ClientData, tables: Mapping[TableName, LocalTable],
        dense: Sequence[LocalDense], names: Sequence[TableName], pairwise: bool = False,
    ) -> None:  # fmt: skip
        self._library, self._data, self._pairwise = library, data, pairwise
        self._names, self._tables, self._dense = list(tables), list(tables.values()), dense
        self._views = [
            TableView(t.raw, t.spec.dim, t.spec.rule, t.optimizes, t.anchor, t.proximal) for t in self._tables
        ]
        self._dense_views = [DenseView(d.raw, len(d.values), d.rule, d.optimizes, d.anchor, d.proximal) for d in dense]
        places = [(k, d.places[name].start) for name in names for k, d in enumerate(dense) if name in d.places]
        self._places = np.array(places or [(0, 0)], np.int64).T.copy()  # which of the three, and where it begins there
        self._batches = 0

    def train(self, samples: Order, size: int, rates: Rates) -> Steps:
        """Take a step on each batch of `size` samples; the last may be shorter."""
        self._take_over_steps()
        slots = [self._data.slots[table.column] for table in self._tables]
        losses, scores, counts = self._library.train(
            self._views, slots, self._dense_views, self._places, samples, self._data.train.label, size,
            self._batches + 1, rates, self._pairwise,
        )  # fmt: skip
        self._batches += len(losses)
        share = float(rates[len(losses) - 1])
        for table, view in zip(self._tables, self._views, strict=True):
            table.steps = view.steps
            table.set_rate(share)
        for flat, dense_view in zip(self._dense, self._dense_views, strict=True):
            flat.steps = dense_view.steps
            flat.set_rate(share)
        return Steps(losses, scores, Histogram(*counts))

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""
        rows = {}
        for name, view in zip(self._names, self._views, strict=True):
            if not view.optimizes:
                touched = view.touched[: view.count]
                order = np.argsort(touched)
                rows[name] = (touched[order], view.gradient[order])
        return Gradients(rows, self._dense_views[0].gradient.copy())

    def score(self, rest: Callable[[], None] = lambda: None) -> Values:
        """Return the logits of all held-out samples, float32[n], on the rows as they stand; `rest` as for an `Engine`."""
        slots = [self._data.test_slots[table.column] for table in self._tables]
        order = np.arange(len(slots[0]) if slots else 0, dtype=np.int32)
        logits = np.empty(len(order), np.float32)
        for at in range(0, len(order), GO):
            go = order[at : at + GO]
            logits[at : at + GO] = self._library.score(self._views, slots, self._dense_views, self._places, go)
            rest()
        return logits

    def read(self, table: LocalTable, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        number = next(k for k, each in enumerate(self._tables) if each is table)
        view, out = self._views[number], np.empty((len(slots), table.spec.dim), np.float32)
        view.steps, view.rule = table.steps, table.rule
        self._library.read(view, number, slots, out)
        return out

    def _take_over_steps(self) -> None:
        """Go on counting from the steps that tables have had, which start anew with each federated round."""
        for table, view in zip(self._tables, self._views, strict=True):
            view.steps, view.rule = table.steps, table.spec.rule
        for flat, dense_view in zip(self._dense, self._dense_views, strict=True):
            dense_view.steps = flat.steps
