"""One peer's conversation with whoever answers it: a server, a coordinator.

    stranger ──Hello──► guest ──first request of one that takes part──► member ──► gone

A conversation knows no sockets: `net` hands it bytes, and it hands answers to a `send`. What a peer says is answered by
its host, at once or later; whatever is wrong with it is answered by `Refused`, never raised, so that one peer's fault is
never another's. Who a peer is, and whether it may be that, is the `roster`'s concern.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, get_args
from urllib.parse import unquote

from numpy.typing import NDArray

from fedps.errors import LimitError, RefusedError, TableError, WireError
from fedps.events import events
from fedps.events.events import Report, printable
from fedps.types import ClientId, Identity
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Hello, Message, PartyRequest, Refused, Request
from fedps.wire.session import Peer

Send = Callable[[bytes | None], None]
Fault = RefusedError | WireError | TableError  # what a peer can do wrong; anything else is a fault of ours

MAX_JUNK = 8  # frames of one connection that are no message, or are refused before Hello: no client of ours sends many
MAX_REFUSED = 1000  # requests of one connection that are refused in a row; what finds no space is asked again for hours
MAX_NAME = 256  # characters of what peers call themselves, and of what they name
MAX_REASON = 600  # characters: names that peers choose come back in reasons, and go into events
# What a peer may say, by the role that its certificate names; who has none of these roles says nothing.
MAY_SAY: dict[str, tuple[type[Message], ...]] = {
    "client": get_args(Request),
    "observer": (Hello,),
    "party": get_args(PartyRequest),
}
BURST, PERIOD = 20, 10.0  # refusals told one by one, in so many seconds
MAX_SUMS = 64  # peers and kinds of refusals told apart in a period's sums


class Host(Protocol):
    """Who answers. All calls come from one thread.

    Attributes:
        limits: what one peer may send.
        refusals: counts what is refused.
    """

    limits: Limits
    refusals: "Refusals"

    def answer(self, conversation: "Conversation", frame: Frame) -> None:
        """Answer a request by `conversation.reply`, now or at any later time.

        Raises:
            RefusedError: it cannot be served; nothing has changed. The same holds for WireError and TableError.
        """

    def forget(self, conversation: "Conversation") -> None:
        """Drop all that was kept for a conversation: it is over. Called once."""


class Conversation:
    """What one connection says and is answered.

    Args:
        host: who answers.
        send: takes each answer's bytes; None hangs up.
        address: the peer's, for events before it has a name.
        opened_at: when it began, seconds, monotonic.
        with_join: whether Join comes before all other requests; a coordinator knows no Join.
        identity: whom the peer's certificate names; None: the connection is in the clear.
    """

    def __init__(
        self, host: Host, send: Send, address: str, opened_at: float, with_join: bool = True,
        identity: Identity | None = None,
    ) -> None:  # fmt: skip
        self.opened_at, self.identity = opened_at, identity
        self._host, self._send, self._address = host, send, address
        self._peer = Peer(host.limits, with_join)
        self._junk = self._refused = 0
        self._open = True

    @property
    def endpoint(self) -> str:
        """From where the peer dialled in: `host:port`, or within one process its thread."""
        return unquote(self._address).removeprefix("ipv4:").removeprefix("ipv6:")

    @property
    def client(self) -> ClientId | None:
        """Who speaks; None before Hello was answered."""
        return self._peer.client if self._peer.greeted else None

    @property
    def instance(self) -> str:
        """The process that speaks for the client; empty before Hello was answered."""
        return (self._peer.instance or "") if self._peer.greeted else ""

    @property
    def number(self) -> int:
        """Which of the client's processes that is, 0 before Hello was answered."""
        return self._peer.number if self._peer.greeted else 0

    @property
    def known(self) -> ClientId:
        """Who speaks. Raises RefusedError before Hello was answered."""
        if (client := self.client) is None:
            raise RefusedError("order", "say Hello first")
        return client

    def received(self, data: bytes) -> None:
        """Take one message."""
        if not self._open:
            return  # hung up on; what was under way is nobody's any more
        try:
            frame = self._peer.receive(data)
            if self.identity is not None:
                _check_may_say(self.identity, frame.message)
            self._host.answer(self, frame)
            self._refused = 0
        except (RefusedError, WireError, TableError) as fault:
            self.refuse(self._peer.ticket, fault)
            self._junk += isinstance(fault, WireError) or self.client is None
            self._refused += not (isinstance(fault, RefusedError) and fault.kind == "no_space")
            if self._junk >= MAX_JUNK:
                self.hang_up()
            elif self._refused >= MAX_REFUSED:
                self.refuse(
                    0, RefusedError("busy", f"{MAX_REFUSED} requests in a row were refused: this process must end")
                )
                self.hang_up()

    def admit(self) -> None:
        """Let the peer say what comes after Join, though the answer to that is not out yet."""
        self._peer.admit()

    def reply(self, ticket: int, message: Message, arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Answer a request, unless the peer is gone."""
        if self._open:
            self._send(self._peer.reply(ticket, message, arrays))

    def refuse(self, ticket: int, fault: Fault) -> None:
        """Count, report and answer a refusal; ticket 0 ends the peer's process, whatever it waits for."""
        kind, reason = _in_words(fault)
        who = self.client or (str(self.identity)[:MAX_NAME] if self.identity else self._address[:MAX_NAME])
        self._host.refusals.add(who, kind, reason)
        self.reply(ticket, Refused(kind, reason, fault.newest if isinstance(fault, RefusedError) else 0))

    def dismiss(self, reason: str) -> None:
        """Tell the peer that its certificate does not count, and hang up."""
        if self._open:
            self.refuse(0, RefusedError("identity", reason))
            self.hang_up()

    def hang_up(self) -> None:
        """End the conversation from this side."""
        if self._open:
            self.closed()
            self._send(None)

    def closed(self) -> None:
        """Note that the peer is gone; it may come back on another connection."""
        if self._open:
            self._open = False
            self._host.forget(self)


class Refusals:
    """Counts what is refused, and tells the run of it.

    A peer is refused as fast as it can send. So that it fills neither the journal nor a console, the first `BURST`
    refusals of a period are told one by one, and the rest at its end: one event a peer and kind, with their `count`.

    Args:
        report: where events go.

    Attributes:
        total: how many there were.
    """

    def __init__(self, report: Report) -> None:
        self.total = 0
        self._report = report
        self._reported, self._began = 0, 0.0  # of this period
        self._sums: dict[tuple[str, str], tuple[int, str]] = {}  # by peer and kind: how many, and the last reason

    def add(self, who: str, kind: str, reason: str, times: int = 1) -> None:
        """Count refusals of one kind; `who`: the client, or the address of a stranger."""
        self.total += times
        if self._reported < BURST:
            self._reported += 1
            self._report(events.Refused(who, kind, reason, times))
            return
        full = len(self._sums) >= MAX_SUMS  # strangers have as many addresses as they like
        key = (who, kind) if (who, kind) in self._sums or not full else ("others", kind)
        self._sums[key] = self._sums.get(key, (0, ""))[0] + times, reason

    def tick(self, now: float) -> None:
        """Begin a new period if one is over. `now`: seconds, monotonic."""
        if now - self._began > PERIOD:
            self.flush()
            self._reported, self._began = 0, now

    def flush(self) -> None:
        """Tell the sums of what was not told one by one."""
        sums, self._sums = self._sums, {}
        for (who, kind), (count, reason) in sums.items():
            self._report(events.Refused(who, kind, reason, count))


def _check_may_say(identity: Identity, message: Message) -> None:
    if not isinstance(message, MAY_SAY.get(identity.role, ())):
        raise RefusedError(
            "identity", f"{identity} may not say {type(message).__name__}: dial in with a client's certificate"
        )


def _in_words(fault: Fault) -> tuple[str, str]:
    """Return a fault's kind and reason."""
    if isinstance(fault, RefusedError):
        kind, reason = fault.kind, fault.reason
    else:
        too_large = isinstance(fault, LimitError)
        kind = "too_large" if too_large else "malformed" if isinstance(fault, WireError) else "mismatch"
        reason = str(fault)
    return kind, in_a_line(reason)


def in_a_line(reason: str) -> str:
    """Return a reason, which may hold what a peer wrote, as a line that is not long."""
    said = str(printable(reason[: MAX_REASON + 1], ""))
    return said if len(said) <= MAX_REASON else said[:MAX_REASON] + "…"
