"""Who takes part at one shard: who is waited for, who stands at a barrier, who is silent.

A member is *active* at a clock when it has joined, has not left or been given up, stands at no barrier and is not
suspended for silence. Gates and barriers wait for active members only, so nobody can block the others for ever.
Times are seconds of a monotonic clock that the caller passes in.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import fmean

from fedps.access.roster import Membership, Participant
from fedps.types import ClientId, bounded
from fedps.wire.messages import Barrier

MOST_ON_LINE = 3600.0  # seconds: by no more does a slow line move a deadline
TRAINED, EVALUATED = STAGES = ("trained", "evaluated")  # of an epoch, in their order


@dataclass
class Member(Participant):
    """One client at this shard.

    Attributes:
        samples: of a pass over its data; 0 if it does not say.
        waits_from: the first clock at which the others wait for it.
        sequence: its last push that was accepted; each is applied once, however often it comes.
        took_over: from another process, of whose last pushes this shard may lack some; its own first push ends that.
        merged: its last push that is applied, or came after its window was closed.
        late: its last push that came after its window was closed.
        progress: when it last pushed or came to a barrier, 0.0 if it never did.
        busy_since: when it first said since then that it is at work; None if it did not.
        alive: when it last said so, 0.0 if it never did.
        barrier: where it stands now.
        last_barrier: the last one that opened for it.
        suspended: it was silent past the deadline; its next push or barrier brings it back.
        slow: it was left behind, and has not trained an epoch in the time of the others since.
        met: it was there when the others came to the last end of an epoch.
        pulled, made: bytes of rows that its pulls have made, and that its pushes were the first to change.
        line: seconds for which its line may be at work, by what it was answered and by what it brings.
        bringing, brought: those of them for the push under way, and for its largest.
        put_off: there was no space for its last push, which comes again.
    """

    samples: int = 0
    waits_from: int = 0
    sequence: int = 0
    took_over: bool = False
    merged: int = 0
    late: int = 0
    progress: float = 0.0
    busy_since: float | None = None
    alive: float = 0.0
    barrier: Barrier | None = None
    last_barrier: Barrier | None = None
    suspended: bool = False
    slow: bool = False
    met: bool = False
    pulled: int = 0
    made: int = 0
    line: float = 0.0
    bringing: float = 0.0
    brought: float = 0.0
    put_off: bool = False

    def accept(self, sequence: int, clock: int, late: bool, now: float) -> None:
        """Note that a push was taken; before `clock`, its own or the open one if it came late, nobody waits for this member."""
        self.sequence, self.took_over, self.put_off = sequence, False, False
        self.brought, self.bringing = max(self.brought, self.bringing), 0.0
        self.act(now)
        if late:
            self.late, self.waits_from = sequence, clock
        else:
            self.waits_from = max(self.waits_from, clock)

    def act(self, now: float) -> None:
        """Note that it has pushed or come to a barrier."""
        self.progress, self.busy_since, self.suspended, self.line = now, None, False, self.brought

    def bring(self, seconds: float) -> None:
        """Note that a part of a push has come, which its line may have carried for so long."""
        self.bringing = min(self.bringing + seconds, MOST_ON_LINE)

    def fetch(self, seconds: float) -> None:
        """Note that it is answered what takes its line so long, and that it may bring as much."""
        self.line = min(self.line + 2 * seconds, MOST_ON_LINE)

    def work(self, now: float, most: float) -> None:
        """Note that it says it is at work; by word alone a member gains `most` seconds, until it acts."""
        if self.busy_since is None:
            self.busy_since = now
        if now - self.busy_since <= most:
            self.alive = now


class Members(Membership[Member]):
    """The members of one shard, by client.

    Args:
        expected: how many are to come.
        quorum: share of those that are here that is enough: the others have to be in within `step_timeout`, at work or not.
    """

    def __init__(self, expected: int, quorum: float = 1.0) -> None:
        super().__init__(expected)
        self._quorum = quorum

    def join(self, client: ClientId, instance: str, clock: int, samples: int = 0) -> Member:
        """Let a client take part from `clock` on, or take up its place again after a reconnect.

        Raises:
            RefusedError: there are too many members.
        """
        # A client says Join again on every connection. While it is here, that changes nothing: its clock and its pushes go on.
        here = self.get(client)
        before = self.known_as(client)
        # A client's pushes are counted over all its processes: so no number is given twice, and none is taken twice.
        # Nor does another process begin anew with what one client may take of this server's memory.
        old = before or Member(instance)
        member = self.admit(
            client, instance, lambda: Member(
                instance, sequence=old.sequence, merged=old.merged, took_over=before is not None, pulled=old.pulled, made=old.made
            ),
        )  # fmt: skip
        if member is not here:  # new, or back after it was given up: the others have gone on without it
            member.waits_from, member.samples = clock, samples
            member.barrier, member.suspended = None, False
        return member

    def charge(self, client: ClientId, size: int) -> None:
        """Note so many bytes of rows that a client's push was the first to change."""
        if (member := self.known_as(client)) is not None:
            member.made += size

    def active(self, clock: int) -> set[ClientId]:
        """Return the clients whose push of `clock` is waited for."""
        active = {c for c, m in self.here.items() if m.waits_from <= clock and m.barrier is None and not m.suspended}
        return active - waived if (waived := self.waived) else active

    @property
    def waived(self) -> set[ClientId]:
        """Who is not waited for, as it was left behind before: while the others are a quorum."""
        if self._quorum == 1:  # the usual: this is asked after every push
            return set()
        slow = {client for client, m in self.here.items() if m.slow}
        return slow if self._enough(len(self.here) - len(slow)) else set()

    def _enough(self, count: int) -> bool:
        return count >= math.ceil(round(self._quorum * len(self.here), 6))

    @property
    def mean_samples(self) -> float:
        """Mean samples of those that have come and said how many they have, none counted above its bound; 0 if nobody has."""
        came = (*self.here.values(), *self.left.values(), *self.lost.values())
        return fmean(bounded([m.samples for m in came if m.samples]) or [0.0])

    def release(self, clients: Iterable[ClientId], clock: int) -> None:
        """Let members go from the barrier they stand at; the others wait for them again from `clock` on."""
        for client in clients:
            member = self.here.get(client)
            if (
                member is not None and member.barrier is not None
            ):  # else it went, or began anew, while the epoch was saved
                member.last_barrier, member.barrier = member.barrier, None
                member.waits_from = max(member.waits_from, clock)

    def meet(self, clients: Collection[ClientId]) -> None:
        """Note who is there as an epoch ends; who is twice in a row was in time with all between."""
        for client, member in self.here.items():
            there = client in clients
            member.slow, member.met = member.slow and not (there and member.met), there

    @property
    def at_barrier(self) -> bool:
        """Whether anybody stands at a barrier."""
        return any(m.barrier is not None for m in self.here.values())

    @property
    def training(self) -> list[ClientId]:
        """Who has not come to a round's first barrier, and is waited for there; nobody while some evaluate."""
        waived = self.waived
        away = {c: m for c, m in self.here.items() if m.barrier is None and not m.suspended and c not in waived}
        evaluating = any(m.last_barrier is not None and m.last_barrier.stage == TRAINED for m in away.values())
        return [] if evaluating else list(away)

    def absent(self, since: float, now: float, patience: float) -> list[ClientId]:
        """Return who is neither at a barrier nor has done anything for `patience` seconds, counted from `since` on.

        Once a quorum is there, it does not matter whether the others do anything.
        """
        away = {client: m for client, m in self.here.items() if m.barrier is None}
        enough = self._enough(len(self.here) - len(away))
        heard = {client: since if enough else max(m.progress, m.alive, since) for client, m in away.items()}
        return [c for c, at in heard.items() if not away[c].suspended and now - at > patience + away[c].line]

    def silent(self, clients: Iterable[ClientId], since: float, now: float, patience: float) -> list[ClientId]:
        """Return which of those that a window waits for have not even said that they work, counted from `since` on.

        Once a quorum has pushed, that they work does not matter.
        """
        late = sorted(clients)
        enough = self._enough(len(self.here) - len(late))
        heard = {c: since if enough else max(self.here[c].alive, since) for c in late}
        return [c for c, at in heard.items() if now - at > patience + self.here[c].line]

    def suspend(self, client: ClientId) -> None:
        """Wait for a member no longer, until it pushes or comes to a barrier."""
        self.here[client].suspended = self.here[client].slow = True
