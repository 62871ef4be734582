"""Who may say what when, on both ends of a connection; no sockets.

`Peer` is the server's end: Hello comes first, then Join, then the rest. `Caller` is the client's: it numbers requests,
matches replies to them, and remembers what is unanswered, to say it again after a reconnect.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fedps.errors import RefusedError, WireError
from fedps.types import ClientId
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Hello, Join, Message, Refused, Reply, Request

Arrays = Sequence[NDArray[Any]]


class Peer:
    """The server's end of one connection.

    Attributes:
        client: who speaks, once Hello was said.
        instance: the process that speaks for the client.
    """

    def __init__(self, limits: Limits) -> None:
        self.client: ClientId | None = None
        self.instance: str | None = None
        self.ticket = 0  # of the request now handled, so that a refusal can name it
        self._limits, self._joined = limits, False

    def receive(self, data: bytes) -> Frame:
        """Read one request.

        Raises:
            WireError: it is no message.
            RefusedError: it may not be said now.
        """
        self.ticket = 0
        frame = decode(data, self._limits)
        self.ticket = frame.ticket
        message = frame.message
        if isinstance(message, Hello):
            if self.client is not None:
                raise RefusedError("order", f"this connection already speaks for client {self.client!r}")
            self.client, self.instance = ClientId(message.client), message.instance
        elif self.client is None:
            raise RefusedError("order", f"{type(message).__name__} before Hello")
        elif isinstance(message, Join):
            self._joined = True
        elif not self._joined:
            raise RefusedError("order", f"{type(message).__name__} before Join")
        return frame

    def reply(self, ticket: int, message: Message, arrays: Arrays = ()) -> bytes:
        """Return the bytes that answer a request."""
        return encode(ticket, message, arrays)


class Caller:
    """The client's end of a connection to one shard."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._next = limits, 1
        self._open: dict[int, bytes] = {}

    def request(self, message: Request, arrays: Arrays = ()) -> tuple[int, bytes]:
        """Number a request; return its ticket and its bytes."""
        ticket = self._next
        self._next += 1
        data = self._open[ticket] = encode(ticket, message, arrays)
        return ticket, data

    def receive(self, data: bytes) -> Frame:
        """Read one reply and tick its request off.

        Raises:
            WireError: it is no message, no reply, or answers nothing that was asked.
            RefusedError: the peer could not even read which request it refuses.
        """
        frame = decode(data, self._limits)
        if not isinstance(frame.message, Reply):
            raise WireError(f"{type(frame.message).__name__} is no reply")
        if frame.ticket == 0 and isinstance(frame.message, Refused):
            raise RefusedError(frame.message.kind, frame.message.reason)
        if self._open.pop(frame.ticket, None) is None:
            raise WireError(f"a reply to ticket {frame.ticket}, which is not open: {frame.message}")
        return frame

    def forget(self, ticket: int) -> None:
        """Give a request up; a reply that still comes is an error."""
        self._open.pop(ticket, None)

    def unanswered(self) -> list[bytes]:
        """Return the bytes of all open requests, in order, to be sent again."""
        return [self._open[ticket] for ticket in sorted(self._open)]
