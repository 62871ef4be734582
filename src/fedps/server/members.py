"""Who takes part at one shard: who is waited for, who pauses, who is lost.

A member is *active* at a clock when it has joined, has not left or been forgotten, stands at no barrier and is not
suspended for silence. Gates and barriers wait for active members only, so nobody can block the others for ever.
Times are seconds of a monotonic clock that the caller passes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from fedps.errors import RefusedError
from fedps.types import ClientId

STAGES = ("trained", "evaluated")  # of an epoch, in their order
MOST_SAMPLES = 16  # medians that one claim counts as in the mean
MAX_MEMBERS = 4096  # at once, and names remembered of those that went


class Stop(NamedTuple):
    """A barrier: after which epoch, counted from 1, and before which of `STAGES`."""

    epoch: int
    stage: str

    @property
    def order(self) -> tuple[int, int]:
        """Grows from one barrier of a client to its next."""
        return self.epoch, STAGES.index(self.stage)


@dataclass
class Member:
    """One client at this shard.

    Attributes:
        instance: the process that speaks for the client.
        samples: of a pass over its data; 0 if it does not say.
        since: the first clock at which it is waited for.
        sequence: its last push that was accepted.
        progress: when it last pushed or came to a barrier, 0.0 if it never did.
        stop: the barrier it waits at.
        passed: the last barrier that opened for it.
        suspended: it was silent past the deadline; its next push or barrier brings it back.
        asking: answers its Census.
        lost_at: when its connection broke, None while connected.
    """

    instance: str
    samples: int = 0
    since: int = 0
    sequence: int = 0
    progress: float = 0.0
    stop: Stop | None = None
    passed: Stop | None = None
    suspended: bool = False
    asking: Callable[[float], None] | None = None
    lost_at: float | None = None


class Members:
    """The members of one shard, by client.

    Args:
        expected: nobody's step is complete before this many clients have joined (or came and went).
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._here: dict[ClientId, Member] = {}
        self._gone: dict[ClientId, Member] = {}

    def join(self, client: ClientId, instance: str, clock: int, samples: int = 0) -> Member:
        """Let a client take part from `clock` on, or take up its place again after a reconnect.

        A process that was given up as lost goes on with its own sequence of pushes, another starts anew.

        Raises:
            RefusedError: there are too many members.
        """
        member = self._here.get(client)
        if member is None and len(self._here) >= max(MAX_MEMBERS, self.expected):
            raise RefusedError("too_large", f"{len(self._here)} clients take part, which is this server's limit")
        if member is None or member.instance != instance:
            before = self._gone.pop(client, None)
            member = self._here[client] = Member(instance, samples, since=clock)
            if before is not None and before.instance == instance:
                member.sequence, member.passed = before.sequence, before.passed
        member.lost_at = None
        return member

    def get(self, client: ClientId) -> Member | None:
        """Return the member, or None if this client has not joined or is gone."""
        return self._here.get(client)

    def leave(self, client: ClientId) -> None:
        """Forget a client: it is done, or lost for good."""
        member = self._here.pop(client, None)
        if member is not None:
            self._gone[client] = member
            if len(self._gone) > max(MAX_MEMBERS, self.expected):
                del self._gone[next(iter(self._gone))]

    def expel(self, client: ClientId) -> None:
        """Forget a client as if it had never come."""
        self._here.pop(client, None)

    def active(self, clock: int) -> set[ClientId]:
        """Return the clients whose push of `clock` is waited for."""
        return {client for client, m in self._here.items() if m.since <= clock and m.stop is None and not m.suspended}

    @property
    def complete(self) -> bool:
        """Whether all expected clients have come (those that left again are counted)."""
        return self.came >= self.expected

    @property
    def came(self) -> int:
        """How many clients have joined, whether they are here or gone."""
        return len(self._gone.keys() | self._here.keys())

    @property
    def mean_samples(self) -> float:
        """Mean samples of those that have come and said how many they have, 0 if nobody has.

        One that claims many counts with `MOST_SAMPLES` medians at most.
        """
        said = [m.samples for m in (*self._here.values(), *self._gone.values()) if m.samples]
        most = MOST_SAMPLES * median(said) if said else 0
        return fmean(min(n, most) for n in said) if said else 0.0

    def take_asking(self) -> list[Callable[[float], None]]:
        """Return what answers those that have asked for the mean, each once."""
        found = [m.asking for m in self._here.values() if m.asking]
        for member in self._here.values():
            member.asking = None
        return found

    @property
    def gathered(self) -> Stop | None:
        """The barrier that opens, once every member stands at one; None before.

        Those that have only `trained` go first, so that the others see the same still model when they evaluate.
        """
        stops = [m.stop for m in self._here.values() if not m.suspended]
        standing = [s for s in stops if s is not None]
        if not self.complete or not standing or len(standing) < len(stops):
            return None
        return max([s for s in standing if s.stage == STAGES[0]] or standing)

    def go_on(self, stage: str, clock: int) -> list[ClientId]:
        """Open the barriers of one stage: who stood there takes part again from `clock` on, and is returned."""
        free = [(client, m) for client, m in self._here.items() if m.stop is not None and m.stop.stage == stage]
        for _, member in free:
            member.passed, member.stop, member.since = member.stop, None, max(member.since, clock)
        return [client for client, _ in free]

    @property
    def standing(self) -> bool:
        """Whether anybody stands at a barrier."""
        return any(m.stop is not None for m in self._here.values())

    @property
    def training(self) -> list[ClientId]:
        """Who has not come to a round's first barrier, and is waited for there; nobody while some evaluate."""
        away = {client: m for client, m in self._here.items() if m.stop is None and not m.suspended}
        evaluating = any(m.passed is not None and m.passed.stage == STAGES[0] for m in away.values())
        return [] if evaluating else list(away)

    def absent(self, since: float, now: float, patience: float) -> list[ClientId]:
        """Return who is neither at a barrier nor has done anything for `patience` seconds, counted from `since` on."""
        return [
            client
            for client, m in self._here.items()
            if m.stop is None and not m.suspended and now - max(m.progress, since) > patience
        ]

    def suspend(self, client: ClientId) -> None:
        """Wait for a member no longer, until it pushes or comes to a barrier."""
        self._here[client].suspended = True

    def lost(self, now: float, patience: float) -> list[ClientId]:
        """Return the clients whose connection has been broken for longer than `patience` seconds."""
        return [c for c, m in self._here.items() if m.lost_at is not None and now - m.lost_at > patience]

    def expect(self, count: int) -> None:
        """Wait for no more than `count` clients to join (the start deadline has passed)."""
        self.expected = min(self.expected, count)

    def __len__(self) -> int:
        return len(self._here)
