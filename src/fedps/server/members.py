"""Who takes part at one shard: who is waited for, who pauses, who is lost.

A member is *active* at a clock when it has joined, has not left or been forgotten, stands at no barrier and is not
suspended for silence. Gates and barriers wait for active members only, so nobody can block the others for ever.
Times are seconds of a monotonic clock that the caller passes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from fedps.access.roster import Membership
from fedps.types import ClientId

STAGES = ("trained", "evaluated")  # of an epoch, in their order
MOST_SAMPLES = 16  # medians that one claim counts as in the mean


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


class Members(Membership[Member]):
    """The members of one shard, by client."""

    def join(self, client: ClientId, instance: str, clock: int, samples: int = 0) -> Member:
        """Let a client take part from `clock` on, or take up its place again after a reconnect.

        Raises:
            RefusedError: there are too many members.
        """
        here = self.get(client)
        member = self.admit(client, instance, lambda: Member(instance, samples))
        if member is not here:
            member.since, member.samples, member.stop, member.suspended = clock, samples, None, False
        return member

    def active(self, clock: int) -> set[ClientId]:
        """Return the clients whose push of `clock` is waited for."""
        return {client for client, m in self.here.items() if m.since <= clock and m.stop is None and not m.suspended}

    @property
    def mean_samples(self) -> float:
        """Mean samples of those that have come and said how many they have, 0 if nobody has.

        One that claims many counts with `MOST_SAMPLES` medians at most.
        """
        said = [m.samples for m in (*self.here.values(), *self.left.values(), *self.lost.values()) if m.samples]
        most = MOST_SAMPLES * median(said) if said else 0
        return fmean(min(n, most) for n in said) if said else 0.0

    def take_asking(self) -> list[Callable[[float], None]]:
        """Return what answers those that have asked for the mean, each once."""
        found = [m.asking for m in self.here.values() if m.asking]
        for member in self.here.values():
            member.asking = None
        return found

    @property
    def gathered(self) -> Stop | None:
        """The barrier that opens, once every member stands at one; None before.

        Those that have only `trained` go first, so that the others see the same still model when they evaluate.
        """
        stops = [m.stop for m in self.here.values() if not m.suspended]
        standing = [s for s in stops if s is not None]
        if not self.complete or not standing or len(standing) < len(stops):
            return None
        return max([s for s in standing if s.stage == STAGES[0]] or standing)

    def go_on(self, stage: str, clock: int) -> list[ClientId]:
        """Open the barriers of one stage: who stood there takes part again from `clock` on, and is returned."""
        free = [(client, m) for client, m in self.here.items() if m.stop is not None and m.stop.stage == stage]
        for _, member in free:
            member.passed, member.stop, member.since = member.stop, None, max(member.since, clock)
        return [client for client, _ in free]

    @property
    def standing(self) -> bool:
        """Whether anybody stands at a barrier."""
        return any(m.stop is not None for m in self.here.values())

    @property
    def training(self) -> list[ClientId]:
        """Who has not come to a round's first barrier, and is waited for there; nobody while some evaluate."""
        away = {client: m for client, m in self.here.items() if m.stop is None and not m.suspended}
        evaluating = any(m.passed is not None and m.passed.stage == STAGES[0] for m in away.values())
        return [] if evaluating else list(away)

    def absent(self, since: float, now: float, patience: float) -> list[ClientId]:
        """Return who is neither at a barrier nor has done anything for `patience` seconds, counted from `since` on."""
        return [
            client
            for client, m in self.here.items()
            if m.stop is None and not m.suspended and now - max(m.progress, since) > patience
        ]

    def suspend(self, client: ClientId) -> None:
        """Wait for a member no longer, until it pushes or comes to a barrier."""
        self.here[client].suspended = True
