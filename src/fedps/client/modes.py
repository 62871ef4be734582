"""When to pull and when to push: every mode is one of two loops over batches.

*Each batch* (sync, async): pull the batch's rows, send its gradient; the server optimizes.
*Each window* (geo, round): train a window of batches on local copies, send what changed. While that is merged, the next
window's first batches (its lead) train on; what they change is added to the merged values when these have come.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from fedps.config import Job
from fedps.config.merging import LOCKSTEP
from fedps.data.samples import Order
from fedps.net.shards import PullTicket, PushTicket, Shards
from fedps.training.learner import Learner
from fedps.types import NO_KEYS, Rows, Slots, TableName, Values


class Window(NamedTuple):
    """Samples to train between two exchanges: `lead` while the last window is merged, then `rest`.

    Both are in pieces, each trained in batches of `batch` samples of its own.
    """

    lead: list[Order]
    rest: list[Order]
    batch: int

    @property
    def pieces(self) -> list[Order]:
        """All of them, in order."""
        return [*self.lead, *self.rest]


Train = Callable[[Order, int], None]  # takes the steps of one piece, in batches of so many samples


class Mode(Protocol):
    """A loop over the windows of one round.

    Attributes:
        window: batches of a window; None: all there are.
        lead: how many of them are trained while the last window is merged.
    """

    window: int | None
    lead: int

    def train(self, windows: Iterable[Window], train: Train) -> None:
        """Train on all windows; when it returns, every push has been received by the servers."""

    def start_at(self, clock: int) -> None:
        """Go on from `clock`, the servers' open step or window."""


class EachBatch:
    """sync and async: pull rows, push gradients.

    Args:
        learner: the client's model.
        shards: the servers.
        lockstep: sync: a pull waits until the last step is applied; async: it takes what there is.
        timeout: seconds to wait for an answer.
    """

    window: int | None = 1
    lead = 0

    def __init__(self, learner: Learner, shards: Shards, lockstep: bool, timeout: float) -> None:
        self._learner, self._shards, self._lockstep, self._timeout = learner, shards, lockstep, timeout
        self._clock = 0

    def start_at(self, clock: int) -> None:
        """Go on from `clock`."""
        self._clock = clock

    def train(self, windows: Iterable[Window], train: Train) -> None:
        """Pull, compute, push, batch by batch; the last push is awaited while the next batch trains."""
        sent: PushTicket | None = None
        for window in windows:
            [batch] = window.pieces
            after = self._clock - 1 if self._lockstep else -1
            pulled = _pull(self._learner, self._shards, _slots(self._learner, [batch]), after)
            if sent is not None:
                self._finish(sent)
            _write(self._learner, pulled, self._timeout)
            train(batch, window.batch)
            weight = float(len(batch)) if self._lockstep else 1.0  # its part of a step's mean
            sent = self._shards.push(self._change(), self._clock, weight, self._learner.rate)
            self._clock += 1
        if sent is not None:
            self._finish(sent)

    def _finish(self, sent: PushTicket) -> None:
        done = sent.result(self._timeout)
        if done.late:
            self._clock = done.clock

    def _change(self) -> dict[TableName, Rows]:
        found, tables = self._learner.gradients(), self._learner.tables
        change = {name: Rows(tables[name].keys[slots], rows) for name, (slots, rows) in found.rows.items()}
        dense = self._learner.split_dense(found.dense)
        return change | {name: Rows(NO_KEYS, values) for name, values in dense.items()}


class Pulled(NamedTuple):
    """A pull under way: its ticket, and the slots it asked for by table."""

    ticket: PullTicket
    slots: dict[TableName, Slots]


class State(NamedTuple):
    """Values of shared parameters: rows of each table at `slots`, and the dense vector."""

    slots: dict[TableName, Slots]
    rows: dict[TableName, Values]
    dense: Values


class EachWindow:
    """geo and round: train a window on local copies, push the change.

    Args:
        learner: the client's model.
        shards: the servers.
        size: batches of a window; None takes the whole epoch (round).
        lead: batches of a window that are trained while the last one is merged; 0 waits for the merge.
        gated: the servers merge a window's pushes together (False: each at once).
        versioned: each push says which version its values were pulled at (geo `buffered`), not its window.
        keep: of each change this share is kept back and sent again later (geo `original`: 1 - 1/N), else 0.
        fresh: drop optimizer state at each window's start (round).
        weight: the client's weight in a weighted mean, its samples.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self, learner: Learner, shards: Shards, *, size: int | None, lead: int, gated: bool,
        versioned: bool = False, keep: float = 0.0, fresh: bool = False, weight: float = 1.0, timeout: float,
    ) -> None:  # fmt: skip
        self._learner, self._shards, self.window, self.lead = learner, shards, size, lead
        self._gated, self._versioned, self._keep, self._fresh = gated, versioned, keep, fresh
        self._weight, self._timeout = weight, timeout
        self._clock = 0
        self._kept = {n: np.zeros_like(t.values) for n, t in learner.shared.items()} if keep else {}
        self._kept_dense = np.zeros_like(learner.dense.values)

    def start_at(self, clock: int) -> None:
        """Go on from `clock`."""
        self._clock = clock

    def train(self, windows: Iterable[Window], train: Train) -> None:
        """Train window after window; the first batches of each are trained while the last one is pushed and merged."""
        sent: PushTicket | None = None
        for window in windows:
            pulled, coming = self._pull(window), window.pieces
            ahead: State | None = None
            if sent is not None:
                ahead, coming = self._train_ahead(window, pulled.slots, train), window.rest
                self._finish(sent)
            _write(self._learner, pulled, self._timeout)
            self._add_kept(pulled.slots)
            start = self._begin(pulled.slots)
            if self._fresh:
                self._learner.forget_shared_state()
            if ahead is not None:
                self._add(ahead)
            for piece in coming:
                train(piece, window.batch)
            sent = self._push(_difference(self._state(pulled.slots), start), pulled.ticket)
        if sent is not None:
            self._finish(sent)

    def _train_ahead(self, window: Window, slots: dict[TableName, Slots], train: Train) -> State | None:
        """Train a window's lead on the values there are; return what that changed."""
        if not window.lead:
            return None
        before = self._begin(slots)
        for piece in window.lead:
            train(piece, window.batch)
        return _difference(self._state(slots), before)

    def _pull(self, window: Window) -> Pulled:
        slots = _slots(self._learner, window.pieces)
        return _pull(self._learner, self._shards, slots, self._clock - 1 if self._gated else -1)

    def _begin(self, slots: dict[TableName, Slots]) -> State:
        """Copy values as a window begins. Momentum still owed to a row counts as this window's change: no settling."""
        rows = {name: table.values[slots[name]] for name, table in self._learner.shared.items()}
        return State(slots, rows, self._learner.dense.values.copy())

    def _state(self, slots: dict[TableName, Slots]) -> State:
        rows = {name: self._learner.read(name, slots[name]) for name in self._learner.shared}
        return State(slots, rows, self._learner.dense.values.copy())

    def _add(self, own: State) -> None:
        """Add to the pulled values what was trained while they were on their way."""
        for name, rows in own.rows.items():
            self._learner.tables[name].values[own.slots[name]] += rows
        self._learner.dense.values[:] += own.dense

    def _add_kept(self, slots: dict[TableName, Slots]) -> None:
        for name, kept in self._kept.items():
            self._learner.tables[name].values[slots[name]] += kept[slots[name]]
        if self._kept:
            self._learner.dense.values[:] += self._kept_dense

    def _push(self, change: State, started_from: PullTicket) -> PushTicket:
        if self._keep:
            change = self._hold_back(change)
        tables = self._learner.shared
        rows = {n: Rows(t.keys[change.slots[n]], change.rows[n]) for n, t in tables.items()}
        dense = {n: Rows(NO_KEYS, v) for n, v in self._learner.split_dense(change.dense).items()}
        clock = started_from.clocks if self._versioned else self._clock
        ticket = self._shards.push(rows | dense, clock, self._weight)
        self._clock += 1
        return ticket

    def _hold_back(self, change: State) -> State:
        """Take up what was kept before; send 1/N of the whole and keep the rest."""
        keep, give = np.float32(self._keep), np.float32(1 - self._keep)
        rows = {}
        for name, delta in change.rows.items():
            whole = delta + self._kept[name][change.slots[name]]
            self._kept[name][change.slots[name]] = keep * whole
            rows[name] = give * whole
        dense = change.dense + self._kept_dense
        self._kept_dense = keep * dense
        return State(change.slots, rows, give * dense)

    def _finish(self, sent: PushTicket) -> None:
        done = sent.result(self._timeout)
        if done.late:
            self._clock = done.clock


def build_mode(job: Job, learner: Learner, shards: Shards, samples: int) -> Mode:
    """Return the job's mode for one client with so many samples."""
    runner = job.runner
    timeout = runner.start_timeout + runner.step_timeout + runner.reconnect_timeout
    if runner.sync_mode in ("sync", "async"):
        return EachBatch(learner, shards, runner.sync_mode == "sync", timeout)
    if runner.sync_mode == "round":
        return EachWindow(learner, shards, size=None, lead=0, gated=True, fresh=True, weight=samples, timeout=timeout)
    original = runner.geo_merge == "original"
    return EachWindow(
        learner, shards, size=runner.geo_step, lead=runner.geo_overlap,
        gated=runner.geo_merge in LOCKSTEP, versioned=runner.geo_merge == "buffered",
        keep=1 - 1 / (runner.worker_num or 1) if original else 0.0, timeout=timeout,
    )  # fmt: skip


def pull_all(learner: Learner, shards: Shards, timeout: float) -> None:
    """Bring every shared row this client holds, and the dense weights, to the servers' values."""
    slots = {learner.column(n): np.arange(len(t.keys), dtype=np.int32) for n, t in learner.shared.items()}
    _write(learner, _pull(learner, shards, slots, -1), timeout)


def _pull(learner: Learner, shards: Shards, slots: dict[str, Slots], after: int) -> Pulled:
    wanted = {name: slots[learner.column(name)] for name in learner.shared}
    keys = {name: learner.tables[name].keys[s] for name, s in wanted.items()}
    dense = dict.fromkeys(learner.parameters.dense, NO_KEYS)
    return Pulled(shards.pull(keys | dense, after), wanted)


def _write(learner: Learner, pulled: Pulled, timeout: float) -> None:
    values = pulled.ticket.result(timeout)
    for name, slots in pulled.slots.items():
        learner.tables[name].write(slots, values[name])
    learner.dense.write(learner.join_dense(values))


def _slots(learner: Learner, pieces: list[Order]) -> dict[str, Slots]:
    """Return for each column that looks up shared rows the window's distinct slots, sorted."""
    samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return {column: learner.data.distinct(column, samples) for column in {learner.column(n) for n in learner.shared}}


def _difference(after: State, before: State) -> State:
    rows = {name: values - before.rows[name] for name, values in after.rows.items()}
    return State(after.slots, rows, after.dense - before.dense)
