"""When pushes are applied: each at once, or all of a step or window together.

A gate knows tables and clients by name only; what a merged push does to a row is the table's rule.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fedps.config import Runner
from fedps.server import merge
from fedps.server.merge import Contribution
from fedps.types import ClientId, Rows, TableName

MAX_AHEAD = 2  # windows a client may be ahead of the open one: it trains one while the last is merged

Merge = Callable[[Sequence[Contribution]], Rows]
Offer = Mapping[TableName, Contribution]


def windowed_merge(runner: Runner) -> Merge | None:
    """Return how the pushes of a step or window combine; None where each push is applied at once."""
    if runner.sync_mode == "sync":
        return merge.mean
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

    def __init__(self, combine: Merge) -> None:
        self.clock = 0
        self.opened_at: float | None = None  # when the open clock, or one ahead of it, got its first push
        self._combine = combine
        self._offers: dict[int, dict[ClientId, Offer]] = {}

    def offer(self, client: ClientId, clock: int, push: Offer, now: float) -> None:
        """Take one client's whole push of a clock."""
        self._offers.setdefault(clock, {})[client] = push
        if self.opened_at is None:
            self.opened_at = now

    def clear(self) -> None:
        """Forget all pushes that are not merged: their tables are gone."""
        self._offers, self.opened_at = {}, None

    def missing(self, active: set[ClientId]) -> set[ClientId]:
        """Return the active clients whose push of the open clock is not in."""
        return active - set(self._offers.get(self.clock, ()))

    def close(self, active: set[ClientId], now: float) -> dict[TableName, Rows] | None:
        """Merge the open clock and open the next, if every active client is in; None otherwise.

        A clock that all have skipped (a server that fell behind the others, whose clients went on) changes nothing.
        """
        if not self._offers or self.missing(active):
            return None
        offers = self._offers.pop(self.clock, {})
        self.clock += 1
        self.opened_at = now if self._offers else None
        ordered = [offers[c] for c in sorted(offers)]
        tables = dict.fromkeys(table for push in ordered for table in push)
        return {table: self._combine([push[table] for push in ordered if table in push]) for table in tables}
