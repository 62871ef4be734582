"""When pushes are applied: each at once, all of a step or window together, or so many as they come.

A gate knows tables and clients by name only; what a merged push does to a row is the table's rule.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedps.config import Runner
from fedps.server import merge
from fedps.server.merge import Contribution, Merged
from fedps.server.records import Sequences
from fedps.types import ClientId, Keys, Rows, TableName

MAX_AHEAD = 2  # windows a client may be ahead of the open one: it trains one while the last is merged

Merge = Callable[[Sequence[Contribution]], Rows]
Offer = Mapping[TableName, Contribution]  # one client's push, whole
Changes = dict[TableName, Merged]


class Offered(NamedTuple):
    """A push that a gate keeps: its number among its client's, the clock it is of, and what it brings."""

    client: ClientId
    sequence: int
    clock: int
    push: Offer


class Closing(NamedTuple):
    """What a window came to.

    Attributes:
        changes: of each table.
        pushes: whose which pushes are in it.
        offers: these, where they were several.
        made: bytes of new rows of each push, where they are known.
    """

    changes: Changes
    pushes: Sequences = ()
    offers: Sequence[Offered] = ()
    made: tuple[int, ...] = ()

    def firsts(self, table: TableName, rows: Keys) -> NDArray[np.int64]:
        """Return how many of some new rows of a table each push brings; of those that several bring, the first has them."""
        if len(self.pushes) == 1:
            return np.array([len(rows)])
        counts = np.zeros(len(self.pushes), np.int64)
        for place, offered in enumerate(self.offers):
            change = offered.push.get(table)
            if change is not None and len(change.keys):
                mine = change.keys.take(change.keys.searchsorted(rows), mode="clip") == rows
                counts[place], rows = np.count_nonzero(mine), rows[~mine]
        return counts


class Gate(Protocol):
    """Keeps pushes until they are merged.

    Attributes:
        clock: the step, window or version now open.
        ahead: how far beyond it a push may be.
        lockstep: whether all pushes of a clock are merged together: one of a closed clock comes too late to count, and
            nothing is merged before all expected clients have come.
        opened_at: time (s, monotonic) of the open window's first push; None while it is empty.
        bytes: of the pushes that are not merged.
    """

    clock: int
    ahead: int
    lockstep: bool
    opened_at: float | None
    bytes: int

    def offer(self, offered: Offered, now: float) -> None:
        """Take one client's whole push."""

    @property
    def waiting(self) -> list[Offered]:
        """The pushes of the open clock that are not merged, in the order in which they came."""

    def missing(self, active: set[ClientId]) -> set[ClientId]:
        """Return the active clients that are waited for."""

    def close(self, active: set[ClientId], now: float, awaited: bool = False) -> Closing | None:
        """Merge what is due and open the next clock; None if nothing is due. `awaited`: whether a pull waits for the open one."""

    def rest(self) -> Closing | None:
        """Merge what is left when all clients stand at a barrier; None if nothing is."""


def make_gate(runner: Runner) -> Gate | None:
    """Return the gate of a job's mode; None where each push is applied at once."""
    if runner.sync_mode == "geo" and runner.geo_merge == "buffered":
        return BufferGate(runner.buffered)
    combine = _windowed_merge(runner)
    return WindowGate(combine) if combine else None


def _windowed_merge(runner: Runner) -> Merge | None:
    """Return how the pushes of a step or window combine; None where each push is applied at once."""
    if runner.sync_mode == "sync":
        return merge.weighted_mean
    if runner.sync_mode == "round":
        return partial(merge.weighted_mean, over=runner.row_average)
    if runner.sync_mode == "geo":
        return {"heat": merge.heat, "adaptive": merge.adaptive}.get(runner.geo_merge)
    return None


class WindowGate:
    """Collects the pushes of each clock and merges a clock once all its active clients are in.

    `clock` is the step or window now open; a client may be ahead of it, never behind. Pushes are merged in the order
    of the clients' names, so that the result does not depend on who was faster.
    """

    ahead = MAX_AHEAD
    lockstep = True

    def __init__(self, combine: Merge) -> None:
        self.clock = self.bytes = 0
        self.opened_at: float | None = None  # also where a clock ahead of the open one got its first push
        self._combine = combine
        self._offers: dict[int, dict[ClientId, Offered]] = {}

    def offer(self, offered: Offered, now: float) -> None:
        """Take one client's whole push."""
        # Of two pushes for one clock the later counts: a client's clock moves on with each, so no honest one sends two.
        offers = self._offers.setdefault(offered.clock, {})
        if (earlier := offers.get(offered.client)) is not None:
            self.bytes -= size_of(earlier.push)
        self.bytes += size_of(offered.push)
        offers[offered.client] = offered
        if self.opened_at is None:
            self.opened_at = now

    @property
    def waiting(self) -> list[Offered]:
        """The pushes of the open clock."""
        return list(self._offers.get(self.clock, {}).values())

    def missing(self, active: set[ClientId]) -> set[ClientId]:
        """Return the active clients whose push of the open clock is not in."""
        return active - set(self._offers.get(self.clock, ()))

    def close(self, active: set[ClientId], now: float, awaited: bool = False) -> Closing | None:
        """Merge the open clock and open the next, if every active client is in; None otherwise.

        A clock that all have skipped (a server that fell behind the others, whose clients went on) changes nothing.
        """
        # Clocks move on by pushes; without any, one is passed over only if somebody waits for it, and nobody will push to it.
        if self.missing(active) or not (self._offers or (awaited and not active)):
            return None
        offers = self._offers.pop(self.clock, {})
        self.clock += 1
        self.bytes -= sum(size_of(offered.push) for offered in offers.values())
        self.opened_at = now if self._offers else None
        return _closing([offers[c] for c in sorted(offers)], self._combine)  # float32 sums depend on the order

    def rest(self) -> Closing | None:
        """None: who stands at a barrier is not waited for, so its window is closed."""
        return None


class BufferGate:
    """Merges pushes as they come, so many at a time, whatever values they started from (FedBuff).

    `clock` is the version: how often was merged. A push carries the version that its client pulled, and counts the less
    the older that is. Nobody waits for anybody; who is fast may be in a buffer more than once.

    Args:
        size: pushes of a merge, K in the paper.
    """

    ahead = 0
    opened_at: float | None = None
    lockstep = False

    def __init__(self, size: int) -> None:
        self.clock = self.bytes = 0
        self._size = size
        self.waiting: list[Offered] = []

    def offer(self, offered: Offered, now: float) -> None:
        """Take a push that started from version `clock`."""
        share = merge.staleness(max(self.clock - offered.clock, 0))  # 1 of a version that this server does not know
        scaled = {table: change._replace(weight=share) for table, change in offered.push.items()}
        self.waiting.append(offered._replace(push=scaled))
        self.bytes += size_of(scaled)

    def missing(self, active: set[ClientId]) -> set[ClientId]:
        """Nobody."""
        return set()

    def close(self, active: set[ClientId], now: float, awaited: bool = False) -> Closing | None:
        """Merge the buffer if it is full; None otherwise."""
        return self.rest() if len(self.waiting) >= self._size else None

    def rest(self) -> Closing | None:
        """Merge what is in the buffer; an empty one makes no version."""
        if not self.waiting:
            return None
        offers, self.waiting, self.bytes = self.waiting, [], 0
        self.clock += 1
        return _closing(offers, merge.buffered)


def _closing(offers: Sequence[Offered], combine: Merge) -> Closing:
    """Combine pushes table by table; clients on different parts of a schedule take the median of their rates."""
    tables = dict.fromkeys(table for offered in offers for table in offered.push)
    pushed = {table: [offered.push[table] for offered in offers if table in offered.push] for table in tables}
    changes = {table: Merged(combine(pushed[table]), median(c.rate for c in pushed[table])) for table in tables}
    return Closing(changes, tuple((offered.client, offered.sequence) for offered in offers), offers)


def size_of(push: Offer) -> int:
    """Return the bytes of a push."""
    return sum(change.nbytes for change in push.values())
