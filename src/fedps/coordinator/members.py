"""The clients that take part, seen from the coordinator: what each reported last, and what it was assigned."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedps.access.roster import Membership, Participant
from fedps.coordinator.reports import Scores
from fedps.coordinator.resuming import MemberRecord
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment


@dataclass
class Member(Participant):
    """One client that takes part.

    Attributes:
        assignment: the last that was decided for it, None before the first.
        ticket: of its report that waits for an answer, None while it trains or is away.
        info, scores: its last report.
        reported: what was assigned to it is done: that report came, though its connection may be gone again.
        fresh: another process spoke for it before, and this one has not reported yet; or none has come again.
        anew: its process knows nothing of rounds that another had done, and was told of none yet.
        behind: it kept the others waiting for too long; its next report brings it back.
        slow: it did, and has not come to the end of a round in time since.
    """

    assignment: Assignment | None = None
    ticket: int | None = None
    info: ClientInfo = field(default_factory=ClientInfo)
    scores: Scores = field(default_factory=Scores)
    reported: bool = False
    fresh: bool = False
    anew: bool = False
    behind: bool = False
    slow: bool = False

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

    def find(self, client: ClientId) -> Member | None:
        """Return a member that has not left, whether it is here or given up as lost."""
        return self.here.get(client) or self.lost.get(client)

    def departed(self, client: ClientId, instance: str, round_: int) -> Member | None:
        """Return the member that left, if one that reports `round_` can only be that: no other process begins there."""
        member = self.left.get(client)
        return member if member is not None and (member.instance == instance or round_ > 0) else None

    def returns(self, client: ClientId) -> bool:
        """Whether a client that greets took part before, and has not left."""
        return client in self._absent or self.find(client) is not None

    def enter(self, client: ClientId, instance: str) -> Member:
        """Let a client take part; whichever process speaks for it, it is where it was.

        Raises:
            RefusedError: too many take part.
        """
        before = self._absent.get(client) or self.find(client)
        fresh = before is not None and before.instance != instance

        def new() -> Member:
            return replace(before, instance=instance, ticket=None, fresh=fresh) if before else Member(instance)

        member = self.admit(client, instance, new)
        self._absent.pop(client, None)
        return member

    def drop_report(self, client: ClientId) -> None:
        """Forget a report that waits: it can be answered on its own connection only, and comes again on the next."""
        if (member := self.get(client)) is not None:
            member.ticket = None

    def assign(self, client: ClientId, assignment: Assignment) -> int | None:
        """Note what was decided for a client; return the ticket of the report that this answers, None while it is away."""
        if (member := self.find(client)) is None:
            return None
        ticket, member.ticket, member.assignment = member.ticket, None, assignment
        member.reported = member.anew = member.behind = False
        if member.finished:
            self.leave(client)
        return ticket

    def begin_anew(self) -> None:
        """Forget what was assigned to those that are here."""
        for member in self.here.values():
            member.assignment, member.reported, member.behind = None, False, False

    def records(self, decided: Mapping[ClientId, Assignment]) -> dict[ClientId, MemberRecord]:
        """Return what another process needs in order to go on with these; `decided`: what they are to be told first."""
        # Numbers of processes are not among it. Which is the newest, servers know: an older one is refused there, and ends. Until
        # the newest has greeted here, what an older one said may be played again: reports that it made of rounds which it was
        # to do. They count as they did then, and those of rounds behind which the run was taken back are stale.
        clients = self._absent | self.lost | self.left | self.here
        return {
            client: MemberRecord(m.instance, decided.get(client, m.assignment), client in self.lost)
            for client, m in clients.items()
        }

    def restore(self, records: Mapping[ClientId, MemberRecord], now: float | None) -> None:
        """Take up who took part in an earlier process: each goes on where it was when it comes.

        Args:
            records: what it left.
            now: seconds; who was lost is not waited for. None: all are, for all are started anew.
        """
        for client, record in records.items():
            member = Member(record.instance, record.assignment, fresh=True)
            if record.lost or member.finished:  # who is to leave may not have been told
                member.lost_at = now
            there = self.lost if member.lost_at is not None else self._absent
            (self.left if member.finished else there)[client] = member
