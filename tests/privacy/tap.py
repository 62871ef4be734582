"""A proxy that keeps all it carries: each connection and direction by itself, so that nothing is torn apart."""

import socket
from pathlib import Path
from typing import NamedTuple

from tests.pumps import Pump


class Talk(NamedTuple):
    """One connection's bytes: up from the client, down from the server."""

    up: bytes
    down: bytes


class Tap(Pump):
    """Stands before one server.

    Args:
        target: the server, `host:port`.
    """

    def __init__(self, target: str) -> None:
        self._recorded = list[tuple[bytearray, bytearray]]()
        super().__init__(target)

    def opened(self, talk: int, inner: socket.socket, outer: socket.socket) -> bool:
        self._recorded.append((bytearray(), bytearray()))
        return True

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        self._recorded[talk][0 if up else 1].extend(data)

    def talks(self) -> list[Talk]:
        """Take no more connections, wait for the open ones to end, and return what passed."""
        self.close()
        return [Talk(bytes(up), bytes(down)) for up, down in self._recorded]


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
