"""What clients are told instead of an address: a TCP proxy whose connections can be cut."""

import socket
import struct
import threading
import time
from contextlib import suppress

GULP = 1 << 18
ABORT = struct.pack("ii", 1, 0)  # of SO_LINGER: what is under way is lost, and the peer is told by a reset


class Wire:
    """Leads to one server, or to the coordinator, whichever process that is just now.

    Args:
        target: `host:port`.

    Attributes:
        address: where clients are sent instead.
        carried: bytes, both ways.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self.carried = 0
        self._lock, self._talks = threading.Lock(), list[tuple[socket.socket, socket.socket]]()
        self._down_until = 0.0  # s, monotonic
        self._threads = [threading.Thread(target=self._accept, name=f"wire to {target}")]
        self._threads[0].start()

    def cut(self, which: int, seconds: float = 0.0) -> int:
        """Cut one connection or, for some seconds, all; return how many were."""
        with self._lock:
            if seconds:
                self._down_until = time.monotonic() + seconds
                chosen = self._talks[:]
            else:
                chosen = [self._talks[which % len(self._talks)]] if self._talks else []
            self._talks = [talk for talk in self._talks if talk not in chosen]
        for talk in chosen:
            _abort(talk)
        return len(chosen)

    def close(self) -> None:
        """Take no more connections, end those that there are, and wait for all threads."""
        self._down_until = float("inf")
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        with self._lock:
            for talk in self._talks:
                _abort(talk)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._door.accept()
            except OSError:
                return
            if time.monotonic() < self._down_until:
                _abort((inner,))
                continue
            try:
                outer = socket.create_connection(self._target)
            except OSError:  # nobody is there just now
                _abort((inner,))
                continue
            with self._lock:
                self._talks.append((inner, outer))
            for ends in ((inner, outer), (outer, inner)):
                carrier = threading.Thread(target=self._carry, args=ends)
                carrier.start()
                self._threads.append(carrier)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(GULP):
                self.carried += len(data)  # roughly: threads may lose one another's
                sink.sendall(data)
        with self._lock:
            self._talks = [talk for talk in self._talks if source not in talk]
        _abort((source, sink))


def _abort(ends: tuple[socket.socket, ...]) -> None:
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes who reads it
        end.close()
