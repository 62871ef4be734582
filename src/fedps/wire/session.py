"""Who may say what when, on both ends of a connection; no sockets.

`Peer` is the server's end: Hello comes first, then Join, then the rest. `Caller` is the client's: it numbers requests,
matches replies to them, and remembers what is unanswered, to say it again after a reconnect.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, get_args

from numpy.typing import NDArray

from fedps.errors import LimitError, RefusedError, WireError
from fedps.types import ClientId
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import (
    Done,
    Hello,
    Join,
    Message,
    PartyReply,
    PartyRequest,
    Push,
    Refused,
    Reply,
    Request,
    Welcome,
)

Arrays = Sequence[NDArray[Any]]
GREETING_BYTES = 1 << 20  # more than any job's values take
REPLIES = frozenset(get_args(Reply | PartyReply))


class State(Enum):
    """How far a connection has come; a refused Hello or Join leads one step back."""

    NEW = "nothing was said"
    GREETING = "Hello was said and not yet answered"
    GREETED = "Welcome was answered"
    JOINING = "Join was said and not yet answered"
    JOINED = "all may be said"


# what an answer makes of a connection; an answer without an entry leaves it as it is
ANSWERED: dict[tuple[State, type[Message]], State] = {
    (State.GREETING, Welcome): State.GREETED,
    (State.GREETING, Refused): State.NEW,
    (State.JOINING, Done): State.JOINED,
    (State.JOINING, Refused): State.GREETED,
}


class Peer:
    """The server's end of one connection. Hello is answered before the next message is read; a Join may have to wait.

    Args:
        limits: what the peer may send.
        with_join: whether Join comes before the rest; a coordinator knows no Join.

    Attributes:
        client: who speaks, once Hello was said and unless it was refused.
        number, instance: of the process that speaks for the client, see `Hello`.
    """

    def __init__(self, limits: Limits, with_join: bool = True) -> None:
        self._before_all = State.JOINED if with_join else State.GREETED
        self.client: ClientId | None = None
        self.instance: str | None = None
        self.number = 0
        self.ticket = 0  # of the request now handled, so that a refusal can name it
        self._limits, self._state = limits, State.NEW
        self._handshake = 0  # the ticket of the last Hello or Join: only its answer leads on

    @property
    def greeted(self) -> bool:
        """Whether Hello was answered by Welcome: before, a name is no more than a claim."""
        return self._state is not State.NEW and self._state is not State.GREETING

    def receive(self, data: bytes) -> Frame:
        """Read one request.

        Raises:
            WireError: it is no message.
            RefusedError: it may not be said now.
        """
        self.ticket = 0
        if self._state is State.NEW and len(data) > GREETING_BYTES:
            raise LimitError(f"{len(data)} bytes before a greeting; a Hello has at most {GREETING_BYTES}")
        frame = decode(data, self._limits)
        self.ticket = frame.ticket
        message = frame.message
        if isinstance(message, Hello):
            if self.client is not None:
                raise RefusedError("order", f"this connection already speaks for client {self.client!r}")
            self.client, self.number, self.instance = ClientId(message.client), message.number, message.instance
            self._state, self._handshake = State.GREETING, frame.ticket
        elif self.client is None:
            raise RefusedError("order", f"{type(message).__name__} before Hello")
        elif isinstance(message, Join) and self._before_all is State.JOINED:
            self._state, self._handshake = State.JOINING, frame.ticket
        elif self._state is not self._before_all:
            raise RefusedError("order", f"{type(message).__name__} before Join")
        return frame

    def admit(self) -> None:
        """Count the peer as joined, before its Join is answered."""
        if self._state is State.JOINING:
            self._state = State.JOINED

    def reply(self, ticket: int, message: Message, arrays: Arrays = ()) -> bytes:
        """Return the bytes that answer a request."""
        if ticket == self._handshake:
            self._state = ANSWERED.get((self._state, type(message)), self._state)
        if self._state is State.NEW:
            self.client = self.instance = None  # a refused name gives no right to speak in it
        return encode(ticket, message, arrays)


class Caller:
    """The client's end of a connection to one shard.

    A server forgets the Join and the parts of an unfinished push with the connection that brought them. So those are
    kept, and said again after a reconnect although they were answered once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._next = limits, 1
        self._open: dict[int, bytes] = {}  # by ticket, like all that follow
        self._join: dict[int, bytes] = {}
        self._parts: dict[int, bytes] = {}
        self._push: dict[int, Push] = {}  # which part of which push a ticket is
        self._repeats: set[int] = set()
        self._put_off: list[int] = []  # tickets of what found no space at the server

    def request(self, message: Request | PartyRequest, arrays: Arrays = ()) -> tuple[int, bytes]:
        """Number a request; return its ticket and its bytes.

        Raises:
            LimitError: it is larger than a message may be.
        """
        ticket = self._next
        data = encode(ticket, message, arrays, self._limits)
        self._next += 1
        self._open[ticket] = data
        if isinstance(message, Join):
            self._join = {ticket: data}
        elif isinstance(message, Push) and message.parts > 1:
            self._parts[ticket], self._push[ticket] = data, message
        return ticket, data

    def receive(self, data: bytes) -> Frame | None:
        """Read one reply and tick its request off; None if it answers what was answered before, or the server's disk is full.

        What finds no space there stays open, and is to be said again after a moment: see `again`.

        Raises:
            WireError: it is no message, no reply, or answers nothing that was asked.
            RefusedError: the peer could not even read which request it refuses, or no longer lets us join.
        """
        frame = decode(data, self._limits)
        message = frame.message
        if type(message) not in REPLIES:
            raise WireError(f"{type(message).__name__} is no reply")
        if isinstance(message, Refused) and (frame.ticket == 0 or self._is_repeated_join(frame.ticket)):
            raise RefusedError(message.kind, message.reason)
        if frame.ticket in self._repeats:
            self._repeats.remove(frame.ticket)
            return None
        if isinstance(message, Refused) and message.kind == "no_space" and frame.ticket in self._open:
            self._put_off.append(frame.ticket)
            return None
        if self._open.pop(frame.ticket, None) is None:
            raise WireError(f"a reply to ticket {frame.ticket}, which is not open: {message}")
        self._let_go(frame.ticket)
        return frame

    @property
    def put_off(self) -> bool:
        """Whether something found no space, and is to be said again."""
        return bool(self._put_off)

    def again(self) -> list[bytes]:
        """Return the bytes of what found no space, in order; of a push all its parts."""
        tickets, self._put_off = set(self._put_off), []
        sequences = {self._push[ticket].sequence for ticket in tickets & self._push.keys()}
        parts = {ticket for ticket, push in self._push.items() if push.sequence in sequences}
        self._repeats |= parts - set(self._open)
        said = self._parts | self._open
        return [said[ticket] for ticket in sorted(tickets | parts) if ticket in said]

    def unanswered(self) -> list[bytes]:
        """Return the bytes of all that a new connection must hear, in order."""
        self._put_off = []
        again = self._join | self._parts | self._open
        self._repeats = set(again) - set(self._open)
        return [again[ticket] for ticket in sorted(again)]

    def _is_repeated_join(self, ticket: int) -> bool:
        return ticket in self._join and ticket in self._repeats

    def _let_go(self, ticket: int) -> None:
        """Drop a push's parts when its last part is answered: the server answers them in order."""
        answered = self._push.get(ticket)
        if answered is not None and answered.part + 1 == answered.parts:
            for part in [t for t, push in self._push.items() if push.sequence == answered.sequence]:
                del self._parts[part], self._push[part]
