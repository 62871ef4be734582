"""A TCP proxy that keeps all it carries: each connection and direction by itself, so that nothing is torn apart."""

import socket
import threading
from pathlib import Path
from typing import NamedTuple


class Talk(NamedTuple):
    """One connection's bytes: up from the client, down from the server."""

    up: bytes
    down: bytes


class Tap:
    """Stands before one server.

    Args:
        target: the server, `host:port`.

    Attributes:
        address: where clients are sent instead.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._recorded: list[tuple[bytearray, bytearray]] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._carriers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, name=f"tap of {target}")
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._door.accept()
            except OSError:
                return
            outer = socket.create_connection(self._target)
            up, down = bytearray(), bytearray()
            self._recorded.append((up, down))
            talk = threading.Thread(target=_hold, args=[inner, outer, up, down])
            talk.start()
            self._carriers.append(talk)

    def close(self) -> list[Talk]:
        """Take no more connections, wait for the open ones to end, and return what passed."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in (self._thread, *self._carriers):
            thread.join(30)
        return [Talk(bytes(up), bytes(down)) for up, down in self._recorded]


def _hold(inner: socket.socket, outer: socket.socket, up: bytearray, down: bytearray) -> None:
    """Carry one connection both ways until both sides have ended."""
    with inner, outer:
        back = threading.Thread(target=_carry, args=[outer, inner, down])
        back.start()
        _carry(inner, outer, up)
        back.join()


def _carry(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    try:
        while data := source.recv(1 << 18):
            record += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # the other side is gone, and so this direction has ended
        for end in (source, sink):
            end.close()


def write_talks(talks: list[Talk], folder: Path) -> None:
    """Leave recordings as files, two a connection."""
    folder.mkdir(parents=True, exist_ok=True)
    first = len(list(folder.glob("*.up")))
    for k, talk in enumerate(talks, first):
        (folder / f"{k}.up").write_bytes(talk.up)
        (folder / f"{k}.down").write_bytes(talk.down)


def read_talks(folder: Path) -> list[Talk]:
    """Read what `write_talks` left."""
    return [Talk(f.read_bytes(), f.with_suffix(".down").read_bytes()) for f in sorted(folder.glob("*.up"))]
