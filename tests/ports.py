"""Ports for processes that tests start: free, and below those that the system gives to outgoing connections.

A port of the ephemeral range that is free now may be the near end of anybody's connection when its server binds it.
"""

import random
import socket

BELOW_EPHEMERAL = range(15_000, 32_000)  # Linux gives outgoing connections 32768 and above


def free_port() -> int:
    """Find a port of 127.0.0.1 on which nobody listens."""
    for port in random.SystemRandom().sample(BELOW_EPHEMERAL, 100):
        with socket.socket() as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                door.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port among a hundred")


def free_address() -> str:
    """Find a free address as the command line takes it."""
    return f"127.0.0.1:{free_port()}"
