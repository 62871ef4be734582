"""The clients that take part, seen from the coordinator: what each reported last, and what it was assigned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedps.access.roster import Membership, Participant
from fedps.coordinator.reports import Scores
from fedps.coordinator.resuming import MemberRecord
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment


@dataclass
class Member(Participant):
    """One client that takes part.

    Attributes:
        assignment: the answer to its last report, None before the first.
        ticket: of its report that waits for an answer, None while it trains or is away.
        info, scores: its last report.
        behind: it kept the others waiting for too long; its next report brings it back.
    """

    assignment: Assignment | None = None
    ticket: int | None = None
    info: ClientInfo = field(default_factory=ClientInfo)
    scores: Scores = field(default_factory=Scores)
    behind: bool = False

    @property
    def round(self) -> int:
        """The last round that something was assigned to it in, 0 before the first."""
        return self.assignment.round if self.assignment else 0

    @property
    def joins(self) -> bool:
        """Whether it is to train."""
        return self.assignment is not None and self.assignment.state == "JOIN"

    @property
    def finished(self) -> bool:
        """Whether it is to leave."""
        return self.assignment is not None and self.assignment.state == "FINISH"


class Members(Membership[Member]):
    """All clients of a job.

    A name that is new takes part from its first report on, not from its greeting: so nobody waits for one that only greets.
    A process that has left takes part no more, but may ask again for its last answer.
    """

    def __init__(self, expected: int) -> None:
        super().__init__(expected)
        self._absent: dict[ClientId, Member] = {}  # of the coordinator's process before this one, and not here yet

    @property
    def waiting(self) -> dict[ClientId, Member]:
        """Those whose report waits for an answer, in the order of their names."""
        return {client: m for client, m in sorted(self.here.items()) if m.ticket is not None}

    def departed(self, client: ClientId, instance: str) -> Member | None:
        """Return the member that left, if this very process spoke for it."""
        member = self.left.get(client)
        return member if member is not None and member.instance == instance else None

    def returns(self, client: ClientId, instance: str) -> bool:
        """Whether a process that greets speaks for a client that took part before, and has not left itself."""
        return client in self._absent or (client in self.known and not self.departed(client, instance))

    def enter(self, client: ClientId, instance: str) -> Member:
        """Let a client take part: a process that did before goes on where it was, another begins anew.

        Raises:
            RefusedError: too many take part.
        """
        before = self._absent.pop(client, None)
        known = before if before is not None and before.instance == instance else None
        return self.admit(client, instance, lambda: known or Member(instance))

    def drop_report(self, client: ClientId) -> None:
        """Forget a report that waits: it can be answered on its own connection only, and comes again on the next."""
        if (member := self.get(client)) is not None:
            member.ticket = None

    def records(self) -> dict[ClientId, MemberRecord]:
        """Return what another process needs in order to go on with these."""
        clients = self._absent | self.lost | self.left | self.here
        return {client: MemberRecord(m.instance, m.assignment) for client, m in clients.items()}

    def restore(self, records: Mapping[ClientId, MemberRecord]) -> None:
        """Take up who took part in an earlier process: each goes on where it was when it comes."""
        for client, record in records.items():
            member = Member(record.instance, record.assignment)
            (self.left if member.finished else self._absent)[client] = member
