"""What protects a role's connections: certificates; or that they do not leave this machine; or nothing, if people say so."""

import ipaddress
import socket
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from fedps.config.sections.security import Security
from fedps.errors import JobError

if TYPE_CHECKING:  # it takes `cryptography`, which is not there where connections are in the clear
    from fedps.net.tls import Certificates


def protect(security: Security, role: str, name: str, addresses: Iterable[str]) -> "Certificates | None":
    """Return the certificates of a role; None if its connections are in the clear.

    Args:
        security: as the job has it.
        role: e.g. `server`.
        name: e.g. `0`, or a client's name.
        addresses: `host:port` of each at which it listens, or which it dials.

    Raises:
        JobError: the certificates cannot be used; or there are none, others than this machine's could take part, and nobody
            has said that they may.
    """
    if security.certs is not None:
        from fedps.net.tls import Certificates  # noqa: PLC0415

        return Certificates(security.certs, role, name)
    exposed = ", ".join(address for address in addresses if not stays_here(address))
    if exposed and not security.insecure:
        raise JobError(
            f"{role} {name}: {exposed} is not on this machine's loopback, and connections would be in the clear: give --certs DIR"
            " (`fedps certs init` begins one), or --insecure if you trust all who reach that network"
        )
    if exposed:
        _warn(
            f"WARNING: {role} {name}: --insecure: connections at {exposed} are IN THE CLEAR: whoever reaches that network can"
            " read what is sent, change it, and take part as any client"
        )
    return None


@cache
def _warn(text: str) -> None:
    """Say it loudly, once in a process."""
    print(text, file=sys.stderr, flush=True)


def stays_here(address: str) -> bool:
    """Whether what is sent to an address, `host:port`, never leaves this machine; a host that nobody knows may be anywhere."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(ip).is_loopback for ip in found)
