"""The open round: which members it waits for, and how long.

A round goes on to the next as soon as it waits for nobody. It waits for every member that it has assigned something to,
whether to train or to sit out, until that reports, is lost, or is left behind for one of three reasons (see `overdue`). Who
was left behind before, and not in time since, is `waived`.
Times are seconds of a monotonic clock; those that a simulated device takes are none of these.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedps.coordinator.members import Member
from fedps.types import ClientId

GRACE = 0.5  # seconds that a round's last report is waited for after one: most come together, when the servers' barrier opens

Here = Mapping[ClientId, Member]


class Clock(Protocol):
    """What rounds are timed by: `RealClock`, or `simulation.traces.SimulatedClock`.

    Attributes:
        now: seconds since the first round began; what a restarted coordinator goes on from.
        simulated: whether deadlines, and the seconds that clients report, are those of simulated devices.
    """

    now: float
    simulated: bool

    def advance(self, seconds: Iterable[float]) -> float | None:
        """Let a round be over that took its clients so many seconds each; return its own, None if they passed anyway."""

    def present(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """Return those of some clients that can be picked now."""


class RealClock:
    """Time as it passes: nothing is to be done for it, and who reports is there."""

    now, simulated = 0.0, False

    def advance(self, seconds: Iterable[float]) -> float | None:
        """Do nothing."""

    def present(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """Return all."""
        return list(clients)


@dataclass
class Round:
    """One round, from its assignments to the last report.

    Attributes:
        number: counted from 1; 0 until all have come, which has no assignments.
        opened_at: when the assignments went out.
        quorum: share of those that are to train that is enough: so many are waited for, though they were late before.
        restored: they were an earlier process's, so whoever is here is waited for, of whichever round.
        before_at: when the last report of the round before it came.
        first_report_at, last_report_at: when the first and the last report of it came, None before.
        quorum_at: when as many as are needed had reported, None before.
    """

    number: int
    opened_at: float
    quorum: float = 1.0
    restored: bool = False
    before_at: float | None = None
    first_report_at: float | None = None
    last_report_at: float | None = None
    quorum_at: float | None = None

    def then(self, number: int, now: float, restored: bool = False) -> "Round":
        """Return another round of the same job, that opens now."""
        return Round(number, now, self.quorum, restored, self.last_report_at)

    def pending(self, here: Here) -> dict[ClientId, Member]:
        """Return who is waited for."""
        waived = self.waived(here)
        return {
            client: m
            for client, m in here.items()
            if m.ticket is None and not m.behind and client not in waived and (self.restored or m.round == self.number)
        }

    def waived(self, here: Here) -> list[ClientId]:
        """Return who is not waited for, as it kept others waiting before: while the others that train are a quorum."""
        joined = [client for client, m in here.items() if m.joins and m.round == self.number]
        slow = [client for client in joined if here[client].slow and not here[client].reported]
        return slow if len(joined) - len(slow) >= math.ceil(round(self.quorum * len(joined), 6)) else []

    def passed_over(self, here: Here) -> list[ClientId]:
        """Return who was not waited for, and so has not reported."""
        return [client for client in self.waived(here) if not here[client].behind]

    def in_time(self, of_round: int, now: float) -> bool:
        """Whether a report of a round comes before the others go on, or with the last of theirs."""
        with_them = of_round == self.number - 1 and not _passed(self.before_at, GRACE, now)
        return of_round == self.number or with_them

    def reported(self, here: Here) -> dict[ClientId, Member]:
        """Return who has reported this round, in the order of names."""
        return {
            client: m
            for client, m in sorted(here.items())
            if m.ticket is not None and m.reported and m.round == self.number
        }

    def unreported(self, here: Here) -> list[ClientId]:
        """Return who has not, of those that something was assigned to in this round."""
        return [client for client, m in here.items() if not m.reported and m.round == self.number]

    def note_report(self, of_round: int, now: float) -> None:
        """Note that a report came, of this round or of an earlier one."""
        ours = of_round == self.number
        if self.first_report_at is None and (ours or self.restored):
            self.first_report_at = now
        if ours:
            self.last_report_at = now

    def look_for_quorum(self, here: Here, needed: Callable[[int], int], now: float) -> None:
        """See whether enough of those that joined have reported; `needed` says how many of so many."""
        joined = [m for m in here.values() if m.joins and m.round == self.number]
        done = sum(m.reported and not m.info.dropped for m in joined)
        if self.quorum_at is None and done >= needed(len(joined)) < len(joined):
            self.quorum_at = now

    def overdue(self, here: Here, patience: float, clock: Clock, now: float) -> dict[ClientId, str]:
        """Return who is to be left behind now, and why.

        Nobody is before the first report: there is no one yet to go on with. After the last, and after that which made
        the quorum, others have a moment, as most reports come together.

        Args:
            here: all members that are here.
            patience: seconds from the first report on, in which all have to be in.
            clock: tells whether an assignment's deadline is in real seconds.
            now: seconds.
        """
        pending, late = self.pending(here), dict[ClientId, str]()
        if _passed(self.quorum_at, self._moment, now):
            late |= {c: "enough others have reported" for c, m in pending.items() if m.joins}
        if _passed(self.last_report_at, GRACE, now) and not clock.simulated:
            late |= {c: "past its deadline" for c, m in pending.items() if self._is_past_deadline(m, now)}
        if _passed(self.first_report_at, patience, now):
            late |= dict.fromkeys(pending, f"silent for {patience:g} s")
        return late

    @property
    def _moment(self) -> float:
        """How long others are waited for after a quorum: as long as that took to report, for they may have as much to write."""
        if self.quorum_at is None or self.first_report_at is None:
            return GRACE
        return max(GRACE, self.quorum_at - self.first_report_at)

    def _is_past_deadline(self, member: Member, now: float) -> bool:
        deadline = member.assignment.deadline if member.assignment and member.round == self.number else None
        return deadline is not None and now - self.opened_at > deadline


def _passed(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since > seconds
