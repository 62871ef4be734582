"""What clients are told instead of an address: a proxy whose connections can be cut."""

import socket
import threading
import time

from tests.pumps import Pump, abort


class Wire(Pump):
    """Leads to one server, or to the coordinator.

    Args:
        target: `host:port`.

    Attributes:
        bytes: that it has carried, both ways.
    """

    def __init__(self, target: str) -> None:
        self.bytes = 0
        self._lock, self._talks = threading.Lock(), dict[int, tuple[socket.socket, socket.socket]]()
        self._down_until = 0.0  # s, monotonic
        super().__init__(target)

    def opened(self, talk: int, inner: socket.socket, outer: socket.socket) -> bool:
        with self._lock:
            if time.monotonic() < self._down_until:
                return False
            self._talks[talk] = (inner, outer)
            return True

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        self.bytes += len(data)  # roughly: threads may lose one another's

    def ended(self, talk: int) -> None:
        """Cut what is left of a connection: who sends no more hears no more."""
        with self._lock:
            ends = self._talks.pop(talk, ())
        abort(*ends)

    def cut(self, which: int, seconds: float = 0.0) -> int:
        """Cut one connection or, for some seconds, all; return how many were."""
        with self._lock:
            if seconds:
                self._down_until = time.monotonic() + seconds
                chosen = list(self._talks)
            else:
                chosen = [list(self._talks)[which % len(self._talks)]] if self._talks else []
            ends = [self._talks.pop(talk) for talk in chosen]
        for talk in ends:
            abort(*talk)
        return len(ends)

    def close(self) -> None:
        """Take no more connections, end those that there are, and wait for all threads."""
        self.cut(0, float("inf"))
        super().close()
