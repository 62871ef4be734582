"""What a listener needs from whoever answers: it hands over connections and bytes, from one thread."""

from collections.abc import Callable
from typing import Protocol

from fedps.wire.frame import Limits


class Connection(Protocol):
    """One peer's connection, seen from the answering side."""

    def received(self, data: bytes) -> None:
        """Take one message; whatever is wrong with it is answered, never raised."""

    def closed(self) -> None:
        """The peer is gone; nothing can be sent any more."""


class Service(Protocol):
    """Answers messages. All calls come from one thread."""

    def opened(self, send: Callable[[bytes | None], None], peer: str) -> Connection:
        """Begin a connection. `send` may be called at any later time, from the same thread; None hangs up."""

    def tick(self, now: float) -> None:
        """Look at deadlines. `now`: seconds, monotonic."""


class Role(Service, Protocol):
    """A service that comes to an end: a server, a coordinator.

    Attributes:
        limits: what one peer may send.
    """

    limits: Limits

    @property
    def failure(self) -> Exception | None:
        """Why it cannot go on, None while it can."""

    @property
    def over(self) -> bool:
        """Whether there is nobody left to serve."""
