"""A push on its way: checked part by part, laid together, applied or kept for its window, and answered when it counts.

A push counts once it is applied and, where the server keeps a log, on disk. Where a window's pushes are merged together, that
is once the window is merged: before, a server that dies forgets it, and its client says it again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from fedps.access.conversation import Conversation
from fedps.access.roster import Roster
from fedps.errors import RefusedError, TableError, WireError
from fedps.server import requests
from fedps.server.members import Member, Members
from fedps.server.memory import Budget
from fedps.server.records import Sequences
from fedps.server.requests import HalfPush
from fedps.server.shard import Shard
from fedps.wire.compress import Array
from fedps.wire.frame import Limits
from fedps.wire.messages import Done, Push


class Unmerged(NamedTuple):
    """A push that is to be answered once its window is merged: the request's ticket, and the push's number."""

    ticket: int
    sequence: int


class Answer(Protocol):
    """Answers a request that was done, once all that follows from it is on disk."""

    def __call__(self, conversation: Conversation, ticket: int, *, late: bool = False) -> None:
        """Answer it; `late`: the push came after its window was closed."""


class Pushes:
    """The pushes that come to one shard.

    Args:
        shard, members, roster: what they go to, and whose they are.
        budget: bounds the parts that are kept.
        limits: what a push may be.
        done: answers one.

    Attributes:
        repeats: how many came that had come before, and were not applied again.
    """

    def __init__(
        self, shard: Shard, members: Members, roster: Roster, budget: Budget, limits: Limits, done: Answer
    ) -> None:  # fmt: skip
        self._shard, self._members, self._roster = shard, members, roster
        self._budget, self._limits, self._done = budget, limits, done
        self.repeats = 0
        self._halves: dict[Conversation, HalfPush] = {}
        self._unmerged: dict[Conversation, list[Unmerged]] = {}

    def begin(self, conversation: Conversation) -> None:
        """Take pushes from a connection whose client takes part."""
        self._halves.setdefault(conversation, HalfPush(self._budget))

    def forget(self, conversation: Conversation) -> None:
        """Drop what a connection brought that is not whole; what waits for its window is answered on the next."""
        if (half := self._halves.pop(conversation, None)) is not None:
            half.drop()
        self._unmerged.pop(conversation, None)

    def take(
        self, conversation: Conversation, ticket: int, member: Member, push: Push, arrays: Sequence[Array], now: float
    ) -> Callable[[], None] | None:
        """Check a push, or one part of it, whole; then apply it, or keep it until its window closes.

        Returns:
            What answers it, to be called once all that it makes due is done; None where nothing was applied or kept.

        Raises:
            RefusedError: it is not acceptable, and nor are the parts before it; so with TableError and WireError.
        """
        shard = self._shard
        requests.check_push(push, member, shard, self._limits)
        self.repeats += push.sequence <= member.sequence and push.part + 1 == push.parts
        if push.sequence <= member.merged:
            # A repeat after a reconnect. It was applied when it first came, and is answered as it was then: who is not
            # told that its push came late would go on with a clock that is closed, and lose the next window too.
            self._done(conversation, ticket, late=push.sequence == member.late)
            return None
        if push.sequence <= member.sequence:  # a repeat, too, of one that waits for its window
            if len(self._unmerged.get(conversation, ())) >= self._limits.waiting:
                raise RefusedError("too_large", f"push {push.sequence} came again too often: wait for its answer")
            self._await_merge(conversation, ticket, push.sequence)
            return None
        if member.barrier is not None:
            raise RefusedError("order", f"client {conversation.client!r} stands at a barrier: wait for its answer")
        member.bring(self._limits.seconds(sum(a.nbytes for a in arrays)))
        late = self._apply(conversation, member, push, arrays, now)
        if late is None:
            conversation.reply(ticket, Done(shard.clock))  # a part alone does not count, whatever becomes of us
            return None
        # Nothing can be refused any more: the push counts, and is never taken again.
        member.accept(push.sequence, shard.clock if late else push.clock, late, now)
        if late or shard.gate is None or not shard.gate.lockstep:
            member.merged = push.sequence
        elif shard.durable.on:
            self._await_merge(conversation, ticket, push.sequence)
            return lambda: None
        return lambda: self._done(conversation, ticket, late=late)

    def merged(self, pushes: Sequences) -> None:
        """Answer the pushes that were merged, and those before them, in whose place they came."""
        for client, sequence in pushes:
            if (member := self._members.known_as(client)) is not None:
                member.merged = max(member.merged, sequence)
            conversation = self._roster.connection(client)
            if conversation is None or conversation not in self._unmerged:
                continue
            waiting = self._unmerged.pop(conversation)
            if later := [each for each in waiting if each.sequence > sequence]:
                self._unmerged[conversation] = later
            for ticket, of in waiting:
                if of <= sequence:
                    self._done(conversation, ticket)

    def _apply(
        self, conversation: Conversation, member: Member, push: Push, arrays: Sequence[Array], now: float
    ) -> bool | None:
        """Take a part; with the last one, give the whole to the shard, and return whether it came too late to count.

        Raises:
            RefusedError, TableError, WireError: as for `take`.
        """
        half = self._halves[conversation]  # there since it joined
        try:
            whole = half.add(push, requests.read_push(push, arrays, self._shard, self._limits), self._shard)
            if whole is None:
                return None
            requests.check_whole(whole, self._shard)
            self._shard.check_growth(member, whole)
            if self._shard.durable.stuck:
                member.put_off = True
                raise RefusedError("no_space", "this server's disk takes nothing just now: ask again in a moment")
            return self._shard.push(conversation.known, push, whole, now)
        except (RefusedError, TableError, WireError):  # it spoils the whole push, with the parts that came before
            half.drop()
            raise

    def _await_merge(self, conversation: Conversation, ticket: int, sequence: int) -> None:
        """Answer a push once its window is merged."""
        self._unmerged.setdefault(conversation, []).append(Unmerged(ticket, sequence))
