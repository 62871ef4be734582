"""Who takes part in the job, seen from the coordinator: who reported, who is waited for, who is left behind.

Times are seconds of a monotonic clock that the caller passes in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedps.errors import RefusedError
from fedps.metrics import Histogram
from fedps.types import ClientId, ClientInfo, Values
from fedps.wire.messages import Assignment

MAX_MEMBERS = 4096


@dataclass
class Scores:
    """What a client's last round made of samples: score histograms, and logits of the round's public pairs, float32[S]."""

    training: Histogram = field(default_factory=Histogram)
    held_out: Histogram = field(default_factory=Histogram)
    logits: Values | None = None


@dataclass
class Member:
    """One client.

    Attributes:
        instance: the process that speaks for it.
        round: the last round that was assigned to it, 0 before the first.
        told: the answer to its last report.
        ticket: of its report that waits for an answer, None while it trains or is away.
        info, scores: its last report.
        behind: it kept the others waiting past the deadline; its next report brings it back.
        lost_at: when its connection broke, None while connected.
        due: when it is left behind, None if it has no deadline of its own.
    """

    instance: str
    round: int = 0
    told: Assignment | None = None
    ticket: int | None = None
    info: ClientInfo = field(default_factory=ClientInfo)
    scores: Scores = field(default_factory=Scores)
    behind: bool = False
    lost_at: float | None = None
    due: float | None = None

    @property
    def joins(self) -> bool:
        """Whether it was told to train."""
        return self.told is not None and self.told.state == "JOIN"


class Members:
    """All clients of a job.

    Args:
        expected: the first round begins when this many have come.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._here: dict[ClientId, Member] = {}
        self._finished: dict[ClientId, str] = {}  # who was told to, and the process that spoke for it
        self._lost: dict[ClientId, Member] = {}
        self._before: dict[ClientId, Member] = {}  # who took part in the coordinator's process before this one

    def greet(self, client: ClientId, instance: str) -> Member:
        """Return the member of this name; one given up as lost goes on where it was, a new process starts anew.

        Raises:
            RefusedError: there are too many.
        """
        member = self._here.get(client)
        if member is None and client not in self.known and self.came >= max(MAX_MEMBERS, self.expected):
            raise RefusedError("too_large", f"{len(self._here)} clients take part, which is the coordinator's limit")
        before = self._lost.pop(client, None) or self._before.pop(client, None)
        if member is None and before is not None and before.instance == instance:
            member = self._here[client] = before
        if member is None or member.instance != instance:
            member = self._here[client] = Member(instance)
            self._finished.pop(client, None)
        member.lost_at = None
        return member

    def get(self, client: ClientId) -> Member | None:
        """Return a member, None if it never came or is gone."""
        return self._here.get(client)

    def restore(self, before: Mapping[ClientId, Member], finished: Mapping[ClientId, str]) -> None:
        """Take up who took part in an earlier process: each goes on where it was, when it comes."""
        self._before, self._finished = dict(before), dict(finished)

    @property
    def here(self) -> dict[ClientId, Member]:
        """A copy of who is here, by name."""
        return dict(self._here)

    @property
    def finished(self) -> dict[ClientId, str]:
        """A copy of who was told to finish, and the process that spoke for it."""
        return dict(self._finished)

    def finish(self, client: ClientId) -> None:
        """Let a client go that was told to."""
        self._finished[client] = self._here.pop(client).instance

    def lose(self, client: ClientId) -> None:
        """Wait no more for a client whose connection did not come back; it may still."""
        self._lost[client] = self._here.pop(client)

    def has_finished(self, client: ClientId, instance: str) -> bool:
        """Whether this very process was told to finish."""
        return self._finished.get(client) == instance

    @property
    def came(self) -> int:
        """How many clients have come, whether they are here or not."""
        return len(self.known)

    @property
    def known(self) -> set[ClientId]:
        """All that have come, whether they are here or not."""
        return self._here.keys() | self._finished.keys() | self._lost.keys()

    @property
    def complete(self) -> bool:
        """Whether all expected clients have come (those that left again are counted)."""
        return self.came >= self.expected

    @property
    def over(self) -> bool:
        """Whether all have come and gone."""
        return self.complete and not self._here

    @property
    def waiting(self) -> dict[ClientId, Member]:
        """Those whose report waits for an answer, by name, in the order of their names."""
        return {client: m for client, m in sorted(self._here.items()) if m.ticket is not None}

    def reported(self, round_: int) -> int:
        """Return how many of those that were told to train have reported a round, and did not drop out of it."""
        return sum(m.joins and not m.info.dropped for m in self.of_round(round_))

    def joined(self, round_: int) -> int:
        """Return how many of those that are here were told to train in a round."""
        return sum(m.joins and m.round == round_ for m in self._here.values())

    def is_joined(self, client: ClientId) -> bool:
        """Whether a client is here and was told to train."""
        return client in self._here and self._here[client].joins

    def overdue(self, round_: int, now: float) -> list[ClientId]:
        """Return those of a round that are waited for past their own deadlines."""
        return [c for c in self.pending(round_) if (due := self._here[c].due) is not None and now > due]

    def pending(self, round_: int | None) -> list[ClientId]:
        """Return those of a round, or of any, that have not reported it, and were not left behind."""
        quiet = [(c, m) for c, m in self._here.items() if m.ticket is None and not m.behind]
        return [client for client, m in quiet if round_ in (None, m.round)]

    def lost(self, now: float, patience: float) -> list[ClientId]:
        """Return those whose connection has been broken for longer than `patience` seconds."""
        return [c for c, m in self._here.items() if m.lost_at is not None and now - m.lost_at > patience]

    def expect(self, count: int) -> None:
        """Wait for no more than `count` clients to come."""
        self.expected = min(self.expected, count)

    def of_round(self, round_: int) -> list[Member]:
        """Return those that have reported a round, in the order of their names."""
        return [m for _, m in sorted(self._here.items()) if m.round == round_ and m.ticket is not None]

    def __len__(self) -> int:
        return len(self._here)
