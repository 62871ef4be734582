"""When to pull and when to push: every mode is one of two ways through a window.

*Each batch* (sync, async): pull the batch's rows, push its gradient; the server optimizes.
*Each window* (geo, round): train a window of batches on local copies, push what changed (round: FedAvg, McMahan et al.,
AISTATS 2017, algorithm 1). While that is merged, the next window's first batches (its lead) train on; what they change is
added to the merged values when these have come (much as delayed averaging does: Zhu et al., NeurIPS 2021).

Either way at most one pull is under way, and the pushes of the last window and the one before: window k + 1 is pulled
while window k is pushed. A push is answered once it is on the server's disk, which nobody waits for on the way.
"""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from typing import NamedTuple, Protocol

import numpy as np

from fedps.client.windows import Window
from fedps.config import Job
from fedps.config.sections.runner import LOCKSTEP
from fedps.net.shards import PullTicket, PushTicket, Shards
from fedps.training.learner import Learner
from fedps.types import NO_KEYS, Rows, Slots, State, TableName, Values


class Mode(Protocol):
    """What a trainer asks for at each window of a round, in the order given here; `finish` comes after the last.

    All but `begin` and `end` may wait for servers, and raise LostError if one does not answer in time, RefusedError if
    one refuses, WireError if one answers with other rows than were asked for.

    Attributes:
        window: batches of a window; None: all that a round has.
        lead: how many of them may be trained while the last window is merged.
    """

    window: int | None
    lead: int

    def begin(self, window: Window) -> None:
        """Ask for the window's rows; until `settle`, its lead may be trained on the values there are."""

    def settle(self) -> None:
        """Wait until the servers have merged the last push and sent the rows, and go on from these."""

    def end(self, window: Window) -> None:
        """Push what training the window came to, without waiting for an answer."""

    def finish(self) -> int:
        """Wait until the servers have applied every push of the round; return how many came too late to count."""

    def start_at(self, clock: int) -> None:
        """Go on from `clock`, the servers' open step or window."""

    def state(self) -> State:
        """Return what it keeps from one round to the next; the clock is the servers', who say it."""

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""


class Pull(NamedTuple):
    """A pull under way: its ticket, and by table the slots that were asked for."""

    ticket: PullTicket
    slots: Mapping[TableName, Slots]


class Exchange:
    """A client's traffic with the servers: at most one pull and two pushes are under way. What is raised, see `Mode`.

    Args:
        learner: whose shared values come and go.
        shards: the servers.
        timeout: seconds to wait for an answer.
        lockstep: whether the servers merge all clients' pushes of a step or window together.
    """

    def __init__(self, learner: Learner, shards: Shards, timeout: float, lockstep: bool = False) -> None:
        self._learner, self._shards, self._timeout = learner, shards, timeout
        self._lockstep = lockstep
        self._clock = 0  # the step or window that the next push is of
        self._pushes = deque[PushTicket]()  # under way
        self._late = 0  # pushes of this round that did not count

    def start_at(self, clock: int) -> None:
        """Go on from `clock`, the servers' open step or window."""
        self._clock = clock

    def state(self) -> State:
        """Return nothing: each batch starts from the servers' values."""
        return {}

    def restore(self, state: State) -> None:
        """Do nothing."""

    def finish(self) -> int:
        """Wait until the servers have applied every push of the round.

        Returns:
            How many came after their step or window was closed: what they changed is lost.
        """
        self._confirm(0)
        late, self._late = self._late, 0
        return late

    def _push(
        self, changes: Mapping[TableName, Rows], clock: int | Mapping[int, int], weight: float, rate: float = 1.0
    ) -> None:
        """Push; what the servers have from a process before this one is of a step or window that is closed."""
        ticket = self._shards.push(changes, clock, weight, rate)
        if ticket.futures:
            self._pushes.append(ticket)
            self._clock += 1

    def _confirm(self, most: int) -> None:
        """Wait until no more than so many pushes are under way."""
        while len(self._pushes) > most:
            done = self._pushes.popleft().result(self._timeout)
            self._late += done.late
            self._go_on_at(done.clock)

    def _go_on_at(self, clock: int) -> None:
        """Note which clock is open at the servers: they may have gone on without this client, and lose what comes late."""
        if self._lockstep:
            self._clock = max(self._clock, clock)

    def pull(self, slots: Mapping[tuple[str, ...], Slots], after: int) -> Pull:
        """Ask for shared rows, by the features that look them up, and for the dense weights.

        Args:
            slots: places of the rows, int32[U] sorted.
            after: the step or window that is to be applied first; -1: none.
        """
        learner = self._learner
        wanted = {name: slots[table.features] for name, table in learner.shared.items()}
        keys = {name: learner.tables[name].keys[s] for name, s in wanted.items()}
        dense = dict.fromkeys(learner.dense.places, NO_KEYS)
        return Pull(self._shards.pull(keys | dense, after), wanted)

    def write(self, pull: Pull) -> None:
        """Wait for what was asked for, and put it in the place of the learner's own values."""
        # A push that is refused is told at once: the window that is waited for lacks it, and may never be merged.
        pulls = pull.ticket.futures
        pushes = {future for push in self._pushes for future in push.futures}
        while pulls:
            done, _ = wait(pulls | pushes, self._timeout + pull.ticket.seconds, FIRST_COMPLETED)
            for future in done & pushes:
                future.result()
            pulls, pushes = (pulls - done, pushes - done) if done else (set(), set())
        values = pull.ticket.result(self._timeout)
        self._go_on_at(max(pull.ticket.clocks.values(), default=0))
        for name, slots in pull.slots.items():
            self._learner.tables[name].write(slots, values[name])
        self._learner.dense.write({name: values[name] for name in self._learner.dense.places})

    def _slots_of(self, window: Window) -> dict[tuple[str, ...], Slots]:
        """Return for the features that look up shared rows the window's distinct slots, sorted."""
        pieces, data = window.pieces, self._learner.data
        samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        every = {table.features for table in self._learner.shared.values()}
        return {features: data.distinct(features, samples) for features in every}


class EachBatch(Exchange):
    """sync and async: pull a batch's rows, push their gradients; the last push is awaited while the next batch's rows come.

    Args:
        learner, shards, timeout: as for `Exchange`.
        lockstep: sync: a pull waits until the last step is applied; async: it takes what there is.
    """

    window: int | None = 1
    lead = 0

    def __init__(self, learner: Learner, shards: Shards, timeout: float, lockstep: bool) -> None:
        super().__init__(learner, shards, timeout, lockstep)
        self._coming: Pull  # of the batch now trained

    def begin(self, window: Window) -> None:
        """Ask for the batch's rows."""
        self._coming = self.pull(self._slots_of(window), self._clock - 1 if self._lockstep else -1)

    def settle(self) -> None:
        """Take the rows; a push before the last must have been answered."""
        self._confirm(1)
        self.write(self._coming)

    def end(self, window: Window) -> None:
        """Push the batch's gradients, for a step's mean with the weight of its samples."""
        weight = float(window.samples) if self._lockstep else 1.0
        self._push(self._gradients(), self._clock, weight, self._learner.rate)

    def _gradients(self) -> dict[TableName, Rows]:
        learner, gradients = self._learner, self._learner.gradients()
        rows = {name: Rows(learner.tables[name].keys[at], values) for name, (at, values) in gradients.rows.items()}
        return rows | {name: Rows(NO_KEYS, values) for name, values in learner.dense.split(gradients.dense).items()}


class Shared(NamedTuple):
    """Values of shared parameters, or changes of them: float32[U, dim] rows of each table, and the dense float32[n]."""

    rows: Mapping[TableName, Values]
    dense: Values


class EachWindow(Exchange):
    """geo and round: train a window on local copies, push the change.

    Args:
        learner, shards, timeout: as for `Exchange`.
        size: batches of a window; None takes the whole round (round).
        lead: batches of a window that are trained while the last one is merged; 0 waits for the merge.
        gated: the servers merge a window's pushes together (False: each at once).
        versioned: each push says which version its values were pulled at (geo `buffered`), not its window.
        residual: share of each change that waits and is added to the next push (geo `original`: 1 - 1/N, of N clients).
        fresh: drop optimizer state at each window's start (round, unless the job keeps it).
        weight: the client's weight in a weighted mean, its samples.
    """

    def __init__(
        self, learner: Learner, shards: Shards, timeout: float, *, size: int | None, lead: int, gated: bool,
        versioned: bool = False, residual: float = 0.0, fresh: bool = False, weight: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(learner, shards, timeout, gated)
        self.window, self.lead = size, lead
        self._gated, self._versioned, self._fresh, self._weight = gated, versioned, fresh, weight
        self._share = residual
        rows = {n: np.zeros_like(t.values) for n, t in learner.shared.items()} if residual else {}
        self._residual = Shared(rows, np.zeros_like(learner.dense.values))  # of all rows
        self._coming: Pull  # of the window now trained
        self._before: Shared | None = None  # values as the window's lead began, if it has one
        self._start: Shared  # values as the rest of it began

    def begin(self, window: Window) -> None:
        """Ask for the window's rows, and mark where its lead begins."""
        self._coming = self.pull(self._slots_of(window), self._clock - 1 if self._gated else -1)
        self._before = self._copy() if window.lead else None

    def settle(self) -> None:
        """Take the rows, and add what the lead changed; a push before the last must have been answered."""
        lead = None if self._before is None else self._change(self._before)
        self._confirm(1)
        self.write(self._coming)
        if self._share:
            slots, residual = self._coming.slots, self._residual
            self._add(Shared({name: rows[slots[name]] for name, rows in residual.rows.items()}, residual.dense))
        self._start = self._copy()
        if self._fresh:
            self._learner.forget_shared_state()
        if lead is not None:
            self._add(lead)

    def end(self, window: Window) -> None:
        """Push what the window changed."""
        change, slots = self._change(self._start), self._coming.slots
        if self._share:
            change = self._hold_back(change)
        rows = {n: Rows(t.keys[slots[n]], change.rows[n]) for n, t in self._learner.shared.items()}
        dense = {n: Rows(NO_KEYS, v) for n, v in self._learner.dense.split(change.dense).items()}
        clock = self._coming.ticket.clocks if self._versioned else self._clock
        self._push(rows | dense, clock, self._weight)

    def state(self) -> State:
        """Return what waits for the next pushes."""
        if not self._share:
            return {}
        return {"dense": self._residual.dense, **{f"rows/{name}": rows for name, rows in self._residual.rows.items()}}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        if self._share:
            self._residual.dense[:] = state["dense"]
        for name, rows in self._residual.rows.items():
            rows[:] = state[f"rows/{name}"]

    def _copy(self) -> Shared:
        """Copy the window's values as they begin. Momentum still owed to a row counts as a later change: no settling."""
        slots = self._coming.slots
        rows = {name: table.values[slots[name]] for name, table in self._learner.shared.items()}
        return Shared(rows, self._learner.dense.values.copy())

    def _change(self, start: Shared) -> Shared:
        """Return what has changed since."""
        slots, learner = self._coming.slots, self._learner
        rows = {name: learner.read(name, slots[name]) - start.rows[name] for name in learner.shared}
        return Shared(rows, learner.dense.values - start.dense)

    def _add(self, change: Shared) -> None:
        for name, rows in change.rows.items():
            self._learner.tables[name].values[self._coming.slots[name]] += rows
        self._learner.dense.values[:] += change.dense

    def _hold_back(self, change: Shared) -> Shared:
        """Take up the residual; let its share of the whole wait again, and return the rest."""
        wait, give, residual = np.float32(self._share), np.float32(1 - self._share), self._residual
        rows = {}
        for name, slots in self._coming.slots.items():
            whole = change.rows[name] + residual.rows[name][slots]
            residual.rows[name][slots] = wait * whole
            rows[name] = give * whole
        dense = change.dense + residual.dense
        residual.dense[:] = wait * dense
        return Shared(rows, give * dense)


def build_mode(job: Job, learner: Learner, shards: Shards, samples: int) -> Mode:
    """Return the job's mode for one client with so many samples."""
    runner = job.runner
    timeout = runner.start_timeout + runner.step_timeout + runner.reconnect_timeout
    if runner.sync_mode in ("sync", "async"):
        return EachBatch(learner, shards, timeout, lockstep=runner.sync_mode == "sync")
    if runner.sync_mode == "round":
        fresh = runner.optimizer_state == "reset"
        return EachWindow(learner, shards, timeout, size=None, lead=0, gated=True, fresh=fresh, weight=samples)
    original = runner.geo_merge == "original"
    return EachWindow(
        learner, shards, timeout, size=runner.geo_step, lead=runner.geo_overlap,
        gated=runner.geo_merge in LOCKSTEP, versioned=runner.geo_merge == "buffered",
        residual=1 - 1 / (runner.worker_num or 1) if original else 0.0,
    )  # fmt: skip


def pull_frozen(learner: Learner, shards: Shards, timeout: float) -> None:
    """Bring what nobody trains to the servers' values, which a saved epoch may have set.

    Raises:
        LostError, RefusedError, WireError: as for `pull_all`.
    """
    layers = [name for name in learner.frozen_dense.places if name in learner.parameters.dense]
    if not learner.frozen and not layers:
        return
    keys = {name: table.keys for name, table in learner.frozen.items()}
    values = shards.pull(keys | dict.fromkeys(layers, NO_KEYS)).result(timeout)
    for name, table in learner.frozen.items():
        table.values[:] = values[name]
    learner.frozen_dense.write({name: values[name] for name in layers})


def pull_all(learner: Learner, shards: Shards, timeout: float) -> None:
    """Bring every shared row this client holds, and the dense weights, to the servers' values; what is raised, see `Mode`."""
    exchange = Exchange(learner, shards, timeout)
    slots = {t.features: np.arange(len(t.keys), dtype=np.int32) for t in learner.shared.values()}
    exchange.write(exchange.pull(slots, -1))
