"""A compiled step, called from Python: the structures of `basics.hpp`, filled with pointers to a client's arrays."""

import ctypes
import threading
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.metrics import BUCKETS, Counts
from fedps.native.compiler import load
from fedps.table import rules
from fedps.types import RULES, Rule, Values

Places = NDArray[np.int32]


class _Rule(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("name", "optimizes")),
        *((name, c_double) for name in ("lr", "beta1", "beta2", "epsilon", "initial_g2", "weight_decay")),
        ("tail", c_void_p),
        ("powers", c_void_p * 3),
        ("last", c_int64),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("block", "slots", "seen", "place", "touched", "gradient", "anchor")),
        *((name, c_int64) for name in ("rows", "width", "steps", "count")),
        ("proximal", c_double),
        ("rule", _Rule),
    )


class _Dense(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("block", "gradient", "anchor")),
        *((name, c_int64) for name in ("size", "steps")),
        ("proximal", c_double),
        ("rule", _Rule),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("tables", "dense", "of", "offset", "order")),
        *((name, c_int64) for name in ("samples", "batch", "first")),
        *((name, c_void_p) for name in ("label", "rates")),
        ("pairwise", c_int64),
        *((name, c_void_p) for name in ("scores", "losses", "counts")),
    )


class TableView:
    """One table's rows as a step sees them.

    Args:
        block: float32[rows, width], C-contiguous: values, then the rule's state; changed in place.
        dim: floats of a row.
        rule: how rows change.
        optimizes: rows are optimized by the step; False: it leaves their gradients in `gradient`.
        anchor: float32[rows, dim], C-contiguous: values last received, which rows are pulled back to; None: they are not.
        proximal: FedProx µ, how hard they are pulled.

    Attributes:
        steps: pushes so far.
        touched: int32, rows of the last batch, the first `count` count.
        gradient: float32[.., dim], their gradients.
    """

    def __init__(
        self, block: Values, dim: int, rule: Rule, optimizes: bool, anchor: Values | None = None, proximal: float = 0.0
    ) -> None:
        self.anchor, self.proximal = anchor, proximal
        self.block, self.dim, self.rule, self.optimizes, self.steps, self.count = block, dim, rule, optimizes, 0, 0
        self.seen, self.place = np.zeros(len(block), np.int32), np.zeros(len(block), np.int32)
        self.touched, self.gradient = np.empty(0, np.int32), np.empty((0, dim), np.float32)

    def make_room(self, batch: int) -> None:
        """Hold as many distinct rows as a batch may have."""
        if len(self.touched) < batch:
            self.touched, self.gradient = np.empty(batch, np.int32), np.empty((batch, self.dim), np.float32)


class DenseView:
    """All dense parameters of one kind as a step sees them.

    Args:
        block: float32[1, width], values end to end, then the rule's state; changed in place.
        size: floats of the values.
        rule, optimizes, anchor, proximal: as for a table; the anchor is float32[1, size].

    Attributes:
        gradient: float32[size], of the last batch.
    """

    def __init__(
        self, block: Values, size: int, rule: Rule, optimizes: bool, anchor: Values | None = None, proximal: float = 0.0
    ) -> None:
        self.anchor, self.proximal = anchor, proximal
        self.block, self.size, self.rule, self.optimizes, self.steps = block, size, rule, optimizes, 0
        self.gradient = np.zeros(size, np.float32)


class Library:
    """A compiled step.

    Args:
        path: of the library, in our own cache.

    Raises:
        OSError: it cannot be loaded, or is not what was compiled.
    """

    def __init__(self, path: Path) -> None:
        self._library = load(path)
        self._library.fedps_train.restype = c_int64

    def train(
        self, tables: Sequence[TableView], slots: Sequence[Places], dense: Sequence[DenseView],
        places: NDArray[np.int64], order: Places, label: Values, size: int, first: int,
        rates: NDArray[np.float64], pairwise: bool = False,
    ) -> tuple[NDArray[np.float64], Values, Counts]:  # fmt: skip
        """Train batch after batch.

        It ends early with a loss that is not finite.

        Args:
            tables: as the program numbers them.
            slots: for each, every sample's row, int32[n].
            dense: shared, private and frozen.
            places: int64[2, parameters], which of these each belongs to, and where it begins there.
            order: int32, the samples to train on.
            label: float32[n].
            size: samples of a batch.
            first: number of the first batch, counted from 1 over all calls.
            rates: float64[batches], the share of their rules' learning rate that each batch is trained with.
            pairwise: samples two by two are pairs, a positive and a negative; `size` is even then.

        Returns:
            each batch's mean loss; every sample's score, a probability; and int64[2, BUCKETS], how the scores of positives
            and of negatives are spread (see `Histogram`).
        """
        for table in tables:
            table.make_room(min(size, len(order)))
        losses, scores = np.empty(-(-len(order) // size)), np.empty(len(order), np.float32)
        counts = np.zeros((2, BUCKETS), np.int64)
        call, kept = self._call(tables, slots, dense, places, order, scores)
        call.batch, call.first = min(size, len(order)), first
        call.label, call.losses, call.counts = label.ctypes.data, losses.ctypes.data, counts.ctypes.data
        call.rates, call.pairwise = rates.ctypes.data, pairwise
        done = self._library.fedps_train(ctypes.byref(call))
        for table, after in zip(tables, kept[0], strict=False):  # without tables, one stands there unused
            table.steps, table.count = after.steps, after.count
        for one, after in zip(dense, kept[1], strict=True):
            one.steps = after.steps
        return losses[:done], scores, counts

    def score(
        self, tables: Sequence[TableView], slots: Sequence[Places], dense: Sequence[DenseView],
        places: NDArray[np.int64], order: Places,
    ) -> Values:  # fmt: skip
        """Return samples' logits, float32[len(order)], on rows as they stand; arguments as for `train`."""
        scores = np.empty(len(order), np.float32)
        call, _ = self._call(tables, slots, dense, places, order, scores)
        call.batch = 1
        self._library.fedps_score(ctypes.byref(call))
        return scores

    def read(self, table: TableView, number: int, slots: Places, out: Values) -> None:
        """Bring rows up to the table's step, and copy their values to `out`, float32[U, dim]."""
        fields = _table(table, slots)
        read = getattr(self._library, f"fedps_read_{number}")
        read(ctypes.byref(fields), c_void_p(slots.ctypes.data), c_int64(len(slots)), c_void_p(out.ctypes.data))

    def _call(
        self, tables: Sequence[TableView], slots: Sequence[Places], dense: Sequence[DenseView],
        places: NDArray[np.int64], order: Places, scores: Values,
    ) -> tuple[Any, tuple[Any, Any]]:  # fmt: skip
        rows = (_Table * max(len(tables), 1))(*map(_table, tables, slots))
        kinds = (_Dense * len(dense))(*map(_dense, dense))
        call = _Call(
            ctypes.addressof(rows), ctypes.addressof(kinds), places[0].ctypes.data, places[1].ctypes.data,
            order.ctypes.data, len(order), 1, 1, None, None, 0, scores.ctypes.data, None, None,
        )  # fmt: skip
        return call, (rows, kinds)


def _table(view: TableView, slots: Places) -> _Table:
    arrays = (view.block, slots, view.seen, view.place, view.touched, view.gradient)
    pointers = (array.ctypes.data for array in arrays)
    sizes = (len(view.block), view.block.shape[1], view.steps, 0)
    return _Table(*pointers, _address(view.anchor), *sizes, view.proximal, _rule(view.rule, view.optimizes))


def _dense(view: DenseView) -> _Dense:
    pointers = (view.block.ctypes.data, view.gradient.ctypes.data, _address(view.anchor))
    return _Dense(*pointers, view.size, view.steps, view.proximal, _rule(view.rule, view.optimizes))


def _address(array: Values | None) -> int | None:
    return None if array is None else array.ctypes.data


def _rule(rule: Rule, optimizes: bool) -> _Rule:
    adam = rule.name == "adam"
    tail, *powers = _powers(rule.beta1, rule.beta2) if adam else (np.zeros(1),) * 4
    return _Rule(
        RULES.index(rule.name), optimizes, rule.learning_rate, rule.beta1, rule.beta2, rule.epsilon, rule.initial_g2,
        rule.weight_decay, tail.ctypes.data, (c_void_p * 3)(*(p.ctypes.data for p in powers)), len(tail) - 1,
    )  # fmt: skip


_LOCK = threading.Lock()  # steps hold pointers into what is cached: it must never be made twice


def _powers(beta1: float, beta2: float) -> tuple[NDArray[np.float64], ...]:
    with _LOCK:
        return _make_powers(beta1, beta2)


@cache
def _make_powers(beta1: float, beta2: float) -> tuple[NDArray[np.float64], ...]:
    """Return what `rules.settle` needs for every number of steps up to `rules.TAIL`."""
    tail = rules.momentum_tail(beta1, beta2)
    return tail, rules.powers(beta1), rules.powers(beta2), rules.powers(beta1 / beta2**0.5)
