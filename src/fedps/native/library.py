"""A compiled step, called from Python: the structures of `basics.hpp`, filled with pointers to a client's arrays."""

import ctypes
import threading
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedps.metrics import BUCKETS, Counts
from fedps.native.compiler import load
from fedps.table import rules
from fedps.types import RULES, Bags, Column, Rule, Values

LOSSES = (
    "cross_entropy",
    "pairwise",
    "sampled_softmax",
    "weighted",
    "in_batch_softmax",
    "given",
)  # as the enum of `basics.hpp` has them
MOST_GROUP = 64  # samples whose scores a loss may compare: `BLOCK` there

Places = NDArray[np.int32]


class Loss(NamedTuple):
    """What a step makes small, and what is known of the labels (`models/loss.py`).

    Attributes:
        name: of `LOSSES`; `weighted` is the sum over labels; `given`: gradients come in place of labels.
        group: samples that it compares, which follow each other: a positive, then its negatives.
        labels: of each in order, whether it is real, and the weight of its loss.
        scored: which of these stands for all where one number is due.
        log_q: of `in_batch_softmax`, float32[rows]: the logarithm of each item's share of the samples.
    """

    name: str = "cross_entropy"
    group: int = 1
    labels: tuple[tuple[bool, float], ...] = ((False, 1.0),)
    scored: int = 0
    log_q: Values | None = None


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
        *((name, c_void_p) for name in ("block", "seen", "place", "touched", "gradient", "anchor")),
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


class _Feature(ctypes.Structure):
    _fields_ = tuple((name, c_void_p) for name in ("slots", "starts", "numbers"))


class _Label(ctypes.Structure):
    _fields_ = (("real", c_int64), ("weight", c_float), ("share", c_float))


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("tables", "dense", "of", "offset", "features", "order")),
        *((name, c_int64) for name in ("samples", "batch", "first")),
        *((name, c_void_p) for name in ("label", "rates", "each")),
        *((name, c_int64) for name in ("labels", "scored", "loss", "group")),
        *((name, c_void_p) for name in ("log_q", "scores", "losses", "counts")),
    )


class Trainable(Protocol):
    """What a step changes: a client's rows of one table, or its dense parameters of one kind, end to end as one row.

    Attributes:
        raw: float32[rows, width], C-contiguous: values, then the rule's state; the same array for good.
        dim: floats of a row's values.
        own: how rows change, at the rule's full rate.
        rule: the same at its present rate.
        steps: pushes so far, as a rule counts them.
        optimizes: rows are optimized by the step; False: it leaves their gradients.
        anchor: float32[rows, dim], C-contiguous: values last received, which rows are pulled back to; None: they are not.
        proximal: FedProx µ, how hard they are pulled.
    """

    raw: Values
    dim: int
    own: Rule
    rule: Rule
    steps: int
    optimizes: bool
    anchor: Values | None
    proximal: float


class Library:
    """A compiled step and what it changes. The step's structures are filled once: a call of one batch must cost little.

    Args:
        path: of the library, in our own cache.
        tables: as the program numbers them.
        dense: shared, private and frozen.
        places: int64[2, parameters], which of these each belongs to, and where it begins there.
        features: how many the program has.
        ids: that one sample has at most, of all features.
        loss: what it makes small.

    Attributes:
        dense_gradients: of the last batch, float32[dim] for each of `dense`.

    Raises:
        OSError: it cannot be loaded, or is not what was compiled.
    """

    def __init__(
        self, path: Path, tables: Sequence[Trainable], dense: Sequence[Trainable], places: NDArray[np.int64],
        features: int, ids: int, loss: Loss,
    ) -> None:  # fmt: skip
        self._library = load(path)
        self._library.fedps_train.restype = c_int64
        self._tables, self._places, self._ids = tables, places, ids
        self._marks = [np.zeros((2, len(table.raw)), np.int32) for table in tables]  # of each row: `seen` and `place`
        self._largest = 0  # ids of a batch so far; there is room for the distinct rows of so many:
        self._touched, self._gradients = list[Places](), list[Values]()
        self.dense_gradients = [np.zeros(one.dim, np.float32) for one in dense]
        rows = (_Table * max(len(tables), 1))(*map(_table, tables, self._marks))
        kinds = (_Dense * len(dense))(*map(_dense, dense, self.dense_gradients))
        self._rows, self._fields = rows, [*zip(tables, rows, strict=False), *zip(dense, kinds, strict=True)]
        self._features = (_Feature * features)()
        pointers = (ctypes.addressof(rows), ctypes.addressof(kinds), *(p.ctypes.data for p in places))
        self._labels = (_Label * len(loss.labels))(*(_Label(*label) for label in loss.labels))
        self._call = _Call(*pointers, ctypes.addressof(self._features), each=ctypes.addressof(self._labels))
        self._call.labels, self._call.scored = len(loss.labels), loss.scored
        self._call.loss, self._call.group = LOSSES.index(loss.name), loss.group
        self._log_q = loss.log_q
        self._call.log_q = None if loss.log_q is None else loss.log_q.ctypes.data

    def train(
        self, features: Sequence[Column], order: Places, label: Values, size: int, first: int,
        rates: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], Values, Counts]:  # fmt: skip
        """Train batch after batch.

        It ends early with a loss that is not finite.

        Args:
            features: every sample's rows, int32[n] or bags of int32, or numbers, float32[n] or [n, width].
            order: int32, the samples to train on.
            label: float32[n], or [n, labels].
            size: samples of a batch, whole groups.
            first: number of the first batch, counted from 1 over all calls.
            rates: float64[batches], the share of their rules' learning rate that each batch is trained with.

        Returns:
            each batch's mean loss; every sample's score, a probability, of a real label a number; and int64[2, BUCKETS], how
            the scores of positives and of negatives are spread (see `Histogram`).
        """
        self._make_room(min(size, len(order)) * self._ids)
        losses, scores = np.empty(-(-len(order) // size)), np.empty(len(order), np.float32)
        counts, call = np.zeros((2, BUCKETS), np.int64), self._call
        self._begin(features, order, scores)
        call.batch, call.first = min(size, len(order)), first
        call.label, call.rates = label.ctypes.data, rates.ctypes.data
        call.losses, call.counts = losses.ctypes.data, counts.ctypes.data
        done = self._library.fedps_train(ctypes.byref(call))
        for one, fields in self._fields:
            one.steps = fields.steps
        return losses[:done], scores, counts

    def ahead(self, features: Sequence[Column], order: Places, first: int, rate: float) -> Values:
        """Return what a part of a network makes of a batch, float32[len(order), labels]; arguments as for `train`."""
        self._make_room(len(order) * self._ids)
        out, rates = np.empty((len(order), len(self._labels)), np.float32), np.array([rate])
        self._begin(features, order, out)
        self._call.first, self._call.rates = first, rates.ctypes.data
        self._library.fedps_ahead(ctypes.byref(self._call))
        return out

    def touched(self, number: int) -> tuple[Places, Values]:
        """Return a table's distinct rows of the last batch, int32[U] in any order, and their gradients, float32[U, dim]."""
        count = self._rows[number].count
        return self._touched[number][:count], self._gradients[number][:count]

    def score(self, features: Sequence[Column], order: Places) -> Values:
        """Return samples' logits, float32[len(order), labels], on rows as they stand; arguments as for `train`."""
        scores = np.empty((len(order), len(self._labels)), np.float32)
        self._begin(features, order, scores)
        self._call.batch = 1
        self._library.fedps_score(ctypes.byref(self._call))
        return scores

    def items(self, features: Sequence[Column | None], count: int) -> Values:
        """Return what ranking needs of each of so many items, on rows as they stand, float32[count, …].

        Args:
            features: of the item its slots, int32[count]; of the others nothing.
            count: how many.
        """
        self._library.fedps_item_floats.restype = c_int64
        out = np.empty((count, self._library.fedps_item_floats()), np.float32)
        call, _kept = self._apart(features, np.arange(count, dtype=np.int32))
        self._library.fedps_items(ctypes.byref(call), c_void_p(out.ctypes.data))
        return out

    def rank(self, features: Sequence[Column | None], order: Places, items: Values, scores: Values) -> None:
        """Write the logits of samples with each item to `scores`, float32[len(order), items, labels]; any thread may.

        Args:
            features: as for `train`; of the item nothing.
            order: int32, the samples.
            items: what `items` has returned.
            scores: C-contiguous.
        """
        call, _kept = self._apart(features, order)
        call.scores = scores.ctypes.data
        self._library.fedps_rank(ctypes.byref(call), c_void_p(items.ctypes.data), c_int64(len(items)))

    def _apart(self, features: Sequence[Column | None], order: Places) -> tuple[_Call, object]:
        """Return a call of its own, which changes nothing, on some samples; and what must live as long."""
        own, call = (_Feature * len(features))(), _Call.from_buffer_copy(self._call)
        _point(own, features)
        call.features, call.order, call.samples = ctypes.addressof(own), order.ctypes.data, len(order)
        return call, (own, order)

    def read(self, number: int, slots: Places, out: Values) -> None:
        """Bring rows of a table up to its step, and copy their values to `out`, float32[U, dim]."""
        table, fields = self._tables[number], self._rows[number]
        fields.steps, fields.rule.lr = table.steps, table.rule.learning_rate
        read = getattr(self._library, f"fedps_read_{number}")
        read(ctypes.byref(fields), c_void_p(slots.ctypes.data), c_int64(len(slots)), c_void_p(out.ctypes.data))

    def _begin(self, features: Sequence[Column], order: Places, scores: Values) -> None:
        """Say what may have changed since the last call: data grows, steps start anew, and a call changes rates."""
        _point(self._features, features)
        for one, fields in self._fields:
            fields.steps, fields.rule.lr = one.steps, one.own.learning_rate
        self._call.order, self._call.samples, self._call.scores = order.ctypes.data, len(order), scores.ctypes.data

    def _make_room(self, ids: int) -> None:
        """Hold as many distinct rows as a batch of so many ids may have."""
        if ids <= self._largest:
            return
        self._largest = ids
        rows = [min(ids, len(table.raw)) for table in self._tables]
        self._touched = [np.empty(count, np.int32) for count in rows]
        self._gradients = [np.empty((count, t.dim), np.float32) for count, t in zip(rows, self._tables, strict=True)]
        for fields, touched, gradient in zip(self._rows, self._touched, self._gradients, strict=False):
            fields.touched, fields.gradient = touched.ctypes.data, gradient.ctypes.data


def _point(fields: ctypes.Array[_Feature], features: Sequence[Column | None]) -> None:
    """Let fields point at columns; where there is none they stay as they are."""
    for field, column in zip(fields, features, strict=True):
        if isinstance(column, Bags):
            field.slots, field.starts = column.ids.ctypes.data, column.starts.ctypes.data
        elif column is not None and column.dtype == np.int32:
            field.slots = column.ctypes.data
        elif column is not None:
            field.numbers = column.ctypes.data


def _table(table: Trainable, marks: NDArray[np.int32]) -> _Table:
    seen, place = marks
    pointers = {"block": table.raw.ctypes.data, "seen": seen.ctypes.data, "place": place.ctypes.data}
    rows, width = table.raw.shape
    return _Table(**pointers, **_shared(table), rows=rows, width=width)


def _dense(dense: Trainable, gradient: Values) -> _Dense:
    pointers = {"block": dense.raw.ctypes.data, "gradient": gradient.ctypes.data}
    return _Dense(**pointers, **_shared(dense), size=dense.dim)


def _shared(one: Trainable) -> dict[str, Any]:
    """Return the fields that both structures have."""
    anchor = None if one.anchor is None else one.anchor.ctypes.data
    return {"anchor": anchor, "proximal": one.proximal, "rule": _rule(one.own, one.optimizes)}


def _rule(rule: Rule, optimizes: bool) -> _Rule:
    constants = (rule.beta1, rule.beta2, rule.epsilon, rule.initial_g2, rule.weight_decay)
    fields = _Rule(RULES.index(rule.name), optimizes, rule.learning_rate, *constants)
    if rule.name == "adam":
        tail, *powers = _powers(rule.beta1, rule.beta2)
        fields.tail, fields.last = tail.ctypes.data, len(tail) - 1
        fields.powers[:] = [p.ctypes.data for p in powers]
    return fields


_LOCK = threading.Lock()  # steps hold pointers into what is cached: it must never be made twice


def _powers(beta1: float, beta2: float) -> tuple[NDArray[np.float64], ...]:
    with _LOCK:
        return _make_powers(beta1, beta2)


@cache
def _make_powers(beta1: float, beta2: float) -> tuple[NDArray[np.float64], ...]:
    """Return what `rules.settle` needs for every number of steps up to `rules.TAIL`."""
    tail = rules.momentum_tail(beta1, beta2)
    return tail, rules.powers(beta1), rules.powers(beta2), rules.powers(beta1 / beta2**0.5)
