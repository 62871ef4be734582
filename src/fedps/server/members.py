"""Who takes part at one shard: who is waited for, who pauses, who is lost.

A member is *active* at a clock when it has joined, has not left or been forgotten, stands at no barrier and is not
suspended for silence. Gates and barriers wait for active members only, so nobody can block the others for ever.
Times are seconds of a monotonic clock that the caller passes in.
"""

from dataclasses import dataclass

from fedps.types import ClientId

Stop = tuple[int, str]  # a barrier: (epoch, stage)


@dataclass
class Member:
    """One client at this shard.

    Attributes:
        instance: the process that speaks for the client.
        since: the first clock it takes part in.
        sequence: its last push that was accepted.
        stop: the barrier it waits at.
        suspended: it was silent past the deadline; its next push brings it back.
        lost_at: when its connection broke, None while connected.
    """

    instance: str
    since: int = 0
    sequence: int = 0
    stop: Stop | None = None
    suspended: bool = False
    lost_at: float | None = None


class Members:
    """The members of one shard, by client.

    Args:
        expected: nobody's step is complete before this many clients have joined (or came and went).
    """

    def __init__(self, expected: int) -> None:
        self._here: dict[ClientId, Member] = {}
        self._expected = expected
        self._gone: set[ClientId] = set()

    def join(self, client: ClientId, instance: str, clock: int) -> Member:
        """Let a client take part from `clock` on, or take up its place again after a reconnect."""
        member = self._here.get(client)
        if member is None or member.instance != instance:
            member = self._here[client] = Member(instance, since=clock)
        member.lost_at = None
        return member

    def get(self, client: ClientId) -> Member | None:
        """Return the member, or None if this client has not joined or is gone."""
        return self._here.get(client)

    def leave(self, client: ClientId) -> None:
        """Forget a client: it is done, or lost for good."""
        if self._here.pop(client, None) is not None:
            self._gone.add(client)

    def active(self, clock: int) -> set[ClientId]:
        """Return the clients whose push of `clock` is waited for."""
        return {client for client, m in self._here.items() if m.since <= clock and m.stop is None and not m.suspended}

    @property
    def complete(self) -> bool:
        """Whether all expected clients have come (those that left again are counted)."""
        return len(self._gone | set(self._here)) >= self._expected

    @property
    def gathered(self) -> Stop | None:
        """The barrier, once every member stands at one; None before."""
        stops = {m.stop for m in self._here.values() if not m.suspended}
        if not self.complete or not stops or None in stops:
            return None
        return max(s for s in stops if s is not None)

    def go_on(self, clock: int) -> None:
        """Open the barrier: everyone takes part again from `clock` on."""
        for member in self._here.values():
            member.stop, member.since = None, max(member.since, clock)

    def lost(self, now: float, patience: float) -> list[ClientId]:
        """Return the clients whose connection has been broken for longer than `patience` seconds."""
        return [c for c, m in self._here.items() if m.lost_at is not None and now - m.lost_at > patience]

    def expect(self, count: int) -> None:
        """Wait for no more than `count` clients to join (the start deadline has passed)."""
        self._expected = min(self._expected, count)

    def __len__(self) -> int:
        return len(self._here)
