"""A TCP proxy for tests: it stands before a server, and pumps the bytes of each connection both ways."""

import socket
import struct
import threading
from contextlib import suppress

GULP = 1 << 18
ABORT = struct.pack("ii", 1, 0)  # of SO_LINGER: what is under way is lost, and the peer is told by a reset


class Pump:
    """Stands before one server, whichever process that is just now.

    Args:
        target: the server, `host:port`.

    Attributes:
        address: where clients are sent instead.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._ends = list[socket.socket]()
        self._threads = [threading.Thread(target=self._accept, name=f"pump before {target}")]
        self._threads[0].start()

    def opened(self, talk: int, inner: socket.socket, outer: socket.socket) -> bool:
        """Take note of a connection and its number, from 0; return whether it may be."""
        return True

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        """Take note of what goes `up` to the server, or down."""

    def ended(self, talk: int) -> None:
        """Take note that one direction of a connection has ended."""

    def close(self) -> None:
        """Take no more connections, and wait for those that there are to end."""
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in self._threads:
            thread.join(30)
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        talk = 0
        while True:
            try:
                inner, _ = self._door.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(self._target)
            except OSError:  # nobody is there just now
                abort(inner)
                continue
            if not self.opened(talk, inner, outer):
                abort(inner, outer)
                continue
            self._ends += [inner, outer]
            for ends in ((inner, outer, True), (outer, inner, False)):
                self._threads.append(threading.Thread(target=self._carry, args=[talk, *ends]))
                self._threads[-1].start()
            talk += 1

    def _carry(self, talk: int, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(GULP):
                self.carried(talk, up, data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other side is gone, and so this direction has ended
            abort(source, sink)
        self.ended(talk)


def abort(*ends: socket.socket) -> None:
    """End a connection at once: both sides are told by a reset."""
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes who reads it
        end.close()
