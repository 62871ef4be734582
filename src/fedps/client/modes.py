"""When to pull and when to push: every mode is one of two loops over batches.

*Each batch* (sync, async): pull the batch's rows, send its gradient; the server optimizes.
*Each window* (geo, round): train a window of batches on local copies, send what changed. Window k+1 is pulled and
window k-1 is merged while window k trains, so a pulled value lacks the client's own last change until that is
merged; the client adds it to its copy meanwhile (`carry`).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from fedps.client.learner import Learner
from fedps.client.shard import Order
from fedps.client.tables import Slots
from fedps.config import Job
from fedps.net.shards import PullTicket, PushTicket, Shards
from fedps.types import NO_KEYS, Rows, TableName, Values

Window = list[Order]  # samples to train between two exchanges, in pieces that do not cross the end of a pass
Train = Callable[[Order], None]  # takes the steps of one piece


class Mode(Protocol):
    """A loop over the windows of one round.

    Attributes:
        window: batches of a window; None: all there are.
    """

    window: int | None

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

    def __init__(self, learner: Learner, shards: Shards, lockstep: bool, timeout: float) -> None:
        self._learner, self._shards, self._lockstep, self._timeout = learner, shards, lockstep, timeout
        self._clock = 0

    def start_at(self, clock: int) -> None:
        """Go on from `clock`."""
        self._clock = clock

    def train(self, windows: Iterable[Window], train: Train) -> None:
        """Pull, compute, push, batch by batch; the last push is awaited while the next batch trains."""
        sent: PushTicket | None = None
        for [batch] in windows:
            after = self._clock - 1 if self._lockstep else -1
            pulled = _pull(self._learner, self._shards, _slots(self._learner, [batch]), after)
            if sent is not None:
                self._finish(sent)
            _write(self._learner, pulled, self._timeout)
            train(batch)
            sent = self._shards.push(self._change(), self._clock)
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
        overlap: train window k+1 while window k is merged; False waits for the merge.
        gated: the servers merge a window's pushes together (False: each at once).
        keep: of each change this share is kept back and sent again later (geo `original`: 1 - 1/N), else 0.
        fresh: drop optimizer state at each window's start (round).
        weight: the client's weight in a weighted mean, its samples.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self, learner: Learner, shards: Shards, *, size: int | None, overlap: bool, gated: bool,
        keep: float = 0.0, fresh: bool = False, weight: float = 1.0, timeout: float,
    ) -> None:  # fmt: skip
        self._learner, self._shards, self.window = learner, shards, size
        self._overlap, self._gated, self._keep, self._fresh = overlap, gated, keep, fresh
        self._weight, self._timeout = weight, timeout
        self._clock = 0
        self._kept = {n: np.zeros_like(t.values) for n, t in learner.shared.items()} if keep else {}
        self._kept_dense = np.zeros_like(learner.dense.values)

    def start_at(self, clock: int) -> None:
        """Go on from `clock`."""
        self._clock = clock

    def train(self, windows: Iterable[Window], train: Train) -> None:
        """Train window after window; the pull of the next and the push of the last overlap it."""
        coming = iter(windows)
        window = next(coming, None)
        if window is None:
            return
        pulled = self._pull(window, self._clock - 1)
        carry: State | None = None
        sent: PushTicket | None = None
        while window is not None:
            upcoming = next(coming, None)
            _write(self._learner, pulled, self._timeout)
            self._add(carry, pulled.slots)
            if upcoming is not None and self._overlap:
                pulled_next = self._pull(upcoming, self._clock - 1)
            start = self._start(pulled.slots)
            if self._fresh:
                self._learner.forget_shared_state()
            for piece in window:
                train(piece)
            if sent is not None:
                self._finish(sent)
            change = _difference(self._state(pulled.slots), start)
            sent, pushed = self._push(change)
            carry = pushed if self._overlap else None
            if upcoming is not None and not self._overlap:
                pulled_next = self._pull(upcoming, self._clock - 1)
            window = upcoming
            if window is not None:
                pulled = pulled_next
        if sent is not None:
            self._finish(sent)

    def _pull(self, window: Window, after: int) -> Pulled:
        slots = _slots(self._learner, window)
        return _pull(self._learner, self._shards, slots, after if self._gated else -1)

    def _start(self, slots: dict[TableName, Slots]) -> State:
        """Copy values as a window begins. Momentum still owed to a row counts as this window's change: no settling."""
        rows = {name: table.values[slots[name]] for name, table in self._learner.shared.items()}
        return State(slots, rows, self._learner.dense.values.copy())

    def _state(self, slots: dict[TableName, Slots]) -> State:
        rows = {name: self._learner.read(name, slots[name]) for name in self._learner.shared}
        return State(slots, rows, self._learner.dense.values.copy())

    def _add(self, carry: State | None, slots: dict[TableName, Slots]) -> None:
        """Add to the pulled values what the servers did not have: the last change, and what was kept back."""
        tables = self._learner.shared
        for name, kept in self._kept.items():
            tables[name].values[slots[name]] += kept[slots[name]]
        if self._kept:
            self._learner.dense.values[:] += self._kept_dense
        if carry is not None:
            for name, rows in carry.rows.items():
                both, at, _ = np.intersect1d(carry.slots[name], slots[name], True, True)
                tables[name].values[both] += rows[at]
            self._learner.dense.values[:] += carry.dense

    def _push(self, change: State) -> tuple[PushTicket, State]:
        if self._keep:
            change = self._hold_back(change)
        tables = self._learner.shared
        rows = {n: Rows(t.keys[change.slots[n]], change.rows[n]) for n, t in tables.items()}
        dense = {n: Rows(NO_KEYS, v) for n, v in self._learner.split_dense(change.dense).items()}
        ticket = self._shards.push(rows | dense, self._clock, self._weight)
        self._clock += 1
        return ticket, change

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
        return EachWindow(
            learner, shards, size=None, overlap=False, gated=True, fresh=True, weight=samples, timeout=timeout
        )
    original = runner.geo_merge == "original"
    return EachWindow(
        learner, shards, size=runner.geo_step, overlap=runner.geo_overlap,
        gated=runner.geo_merge in ("heat", "adaptive"),
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
    learner.dense.values[:] = learner.join_dense(values)


def _slots(learner: Learner, window: Window) -> dict[str, Slots]:
    """Return for each column that looks up shared rows the window's distinct slots, sorted."""
    samples = window[0] if len(window) == 1 else np.concatenate(window)
    return {column: learner.data.distinct(column, samples) for column in {learner.column(n) for n in learner.shared}}


def _difference(after: State, before: State) -> State:
    rows = {name: values - before.rows[name] for name, values in after.rows.items()}
    return State(after.slots, rows, after.dense - before.dense)
