"""A bare socket that answers with as many bytes as a pull would: what the machine's loopback gives without any product."""

import socket
import threading
from multiprocessing.connection import Connection

from fedps.types import Keys

REQUEST = 8  # bytes that say how many rows are wanted, before their ids


def serve_echo(row_bytes: int, ready: Connection) -> None:
    """Answer each request of ids with so many bytes an id; a thread a connection, until this process is ended."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        ready.send_bytes(f"127.0.0.1:{door.getsockname()[1]}".encode())
        while True:
            peer, _ = door.accept()
            threading.Thread(target=_answer, args=(peer, row_bytes), daemon=True).start()


class EchoClient:
    """Asks for rows' bytes over a bare socket."""

    def __init__(self, address: str, row_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._row = row_bytes

    def pull(self, keys: Keys) -> bytearray:
        """Send the ids and wait for all bytes of the answer."""
        self._socket.sendall(len(keys).to_bytes(REQUEST, "little") + keys.tobytes())
        return _receive(self._socket, len(keys) * self._row)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _answer(peer: socket.socket, row_bytes: int) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with peer:
        while head := _receive(peer, REQUEST):
            rows = int.from_bytes(head, "little")
            _receive(peer, 8 * rows)
            peer.sendall(bytes(rows * row_bytes))


def _receive(peer: socket.socket, size: int) -> bytearray:
    """Return so many bytes, nothing if the peer has hung up."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = peer.recv_into(view)
        if not got:
            return bytearray()
        view = view[got:]
    return data
