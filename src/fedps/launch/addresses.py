"""Addresses and counts as the flags of a command line give them: read, checked against each other, and judged local or not.

A list and a count of the same role must agree; either alone is enough. Pure, but for `is_here` and `check_here`, which
ask the system what this machine is called.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import psutil

from fedps.config.sections.security import Security
from fedps.errors import JobError
from fedps.net.protection import protect

NUMERIC = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)$")  # a host whose last part is a number, as no name's is
EXAMPLE = "127.0.0.1:10000"
ANY = ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)


class Address(NamedTuple):
    """Where a role listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return host:port, a bare IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> "Address":
        """Where this machine's own processes call it: one that listens everywhere is called on the loopback."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return self._replace(host=loopback.get(self.host, self.host))


class RoleFlags(NamedTuple):
    """How many of each role the flags ask for, None where they leave it open, and where those listen, if they say so."""

    workers: int | None = None
    servers: int | None = None
    coordinators: int | None = None
    server_at: tuple[Address, ...] = ()
    coordinator_at: Address | None = None

    def overrides(self) -> list[str]:
        """Return them as `-o` would say them."""
        counts = {"worker_num": self.workers, "server_num": self.servers}
        overrides = [f"runner.{key}={count}" for key, count in counts.items() if count is not None]
        switch = {None: [], 0: ["runner.with_coordinator=false"]}
        return overrides + switch.get(self.coordinators, ["runner.with_coordinator=true"])


def read_counts(
    worker_num: int | None = None, workers: str | None = None, server_num: int | None = None,
    servers: str | None = None, coordinator_num: int | None = None, coordinators: str | None = None,
) -> RoleFlags:  # fmt: skip
    """Read the six flags that say who takes part.

    Raises:
        JobError: all that is malformed, and all that contradicts each other.
    """
    mistakes: list[str] = []
    lists = {
        role: _listed(f"--{role}s", text, mistakes)
        for role, text in (("worker", workers), ("server", servers), ("coordinator", coordinators))
    }
    for role, count in (("worker", worker_num), ("server", server_num), ("coordinator", coordinator_num)):
        given = lists[role]
        if count is not None and given is not None and count != len(given):
            mistakes.append(
                f"--{role}_num {count} and --{role}s ({_times(len(given), 'address', 'addresses')}) contradict each"
                f" other: make them agree, or leave one out"
            )
    if coordinator_num not in (None, 0, 1):
        mistakes.append(f"--coordinator_num {coordinator_num}: a job has one coordinator, or none: 0 or 1")
    elif coordinator_num is None and len(lists["coordinator"] or ()) > 1:
        mistakes.append(f"--coordinators {coordinators}: a job has one coordinator: name one address")
    mistakes += _twice([*(lists["server"] or ()), *(lists["coordinator"] or ())])
    if mistakes:
        raise JobError(mistakes)
    server_at, coordinator_at = tuple(lists["server"] or ()), next(iter(lists["coordinator"] or ()), None)
    return RoleFlags(
        workers=_count(worker_num, lists["worker"]),
        servers=_count(server_num, lists["server"]),
        coordinators=_count(coordinator_num, lists["coordinator"]),
        server_at=server_at,
        coordinator_at=coordinator_at,
    )


def read_address(flag: str, text: str) -> Address:
    """Read the one address that a flag names. Raises JobError: it is none."""
    mistakes: list[str] = []
    found = _listed(flag, text, mistakes)
    if not mistakes and found is not None and len(found) == 1:
        return found[0]
    raise JobError(mistakes or f"{flag} {text}: name one address")


def is_here(host: str) -> bool:
    """Whether a host is this machine.

    Raises:
        JobError: nobody knows the host.
    """
    if host in ANY:
        return True
    ours = {a.address.partition("%")[0] for group in psutil.net_if_addrs().values() for a in group}
    return any(ip in ours or ipaddress.ip_address(ip).is_loopback for ip in _ips(host))


def check_here(flags: RoleFlags) -> None:
    """Make sure that every role that shall listen can do so on this machine, now.

    Raises:
        JobError: one lies elsewhere, nobody knows its host, or its port is taken, by another of them too; says how to
            start it there.
    """
    mistakes = []
    roles = {f"server {shard}": at for shard, at in enumerate(flags.server_at)}
    roles |= {"coordinator": flags.coordinator_at} if flags.coordinator_at is not None else {}
    commands = {role: f"fedps server JOB.yaml --shard {role[7:]} --servers …" for role in roles}
    commands["coordinator"] = f"fedps coordinator JOB.yaml --coordinators {flags.coordinator_at}"
    fine: dict[str, Address] = {}
    for role, at in roles.items():
        if wrong := _misplaced(role, at, commands[role]) or _shared(role, at, fine):
            mistakes += wrong
        else:
            fine[role] = at
    if mistakes:
        raise JobError(mistakes)


def check_protected(
    security: Security, listeners: Mapping[tuple[str, str], Address | None], clients: Iterable[str]
) -> None:
    """Make sure that all roles of a run have what protects their connections.

    Args:
        security: as the job has it.
        listeners: where each listens, by role and name; None: on the loopback.
        clients: the clients' names.

    Raises:
        JobError: all that lack it.
    """
    mistakes = []
    roles = {**listeners, **{("client", name): None for name in clients}}
    for (role, name), at in roles.items():
        try:
            protect(security, role, name, [str(at)] if at else [])
        except JobError as error:
            mistakes += error.mistakes
    if mistakes:
        raise JobError(mistakes)


def hold(at: Address) -> tuple[socket.socket, Address]:
    """Keep a port for a role while none listens there; return what keeps it, until it is closed, and the address with the port.

    Outgoing connections are not given it, and a role listens there as if it were free.

    Raises:
        OSError: it is taken, or not ours to take.
    """
    door = socket.socket(socket.AF_INET6 if ":" in at.host else socket.AF_INET)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the role will: what has just closed is free
        door.bind(at)
    except OSError:
        door.close()
        raise
    return door, at._replace(port=door.getsockname()[1])


def _ips(host: str) -> set[str]:
    """Return the addresses that a host has.

    Raises:
        JobError: nobody knows the host.
    """
    try:
        return {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise JobError(f"host {host!r}: is not known here ({error}); correct it, or write its IP address") from None


def _count(given: int | None, listed: Sequence[Address] | None) -> int | None:
    return len(listed) if given is None and listed is not None else given


def _listed(flag: str, text: str | None, mistakes: list[str]) -> list[Address] | None:
    if text is None:
        return None
    found = []
    for word in (w.strip() for w in text.split(",")):
        try:
            found.append(_address(word))
        except ValueError as error:
            mistakes.append(f"{flag}: {word[:80]!r}: {error}; write host:port,host:port, e.g. {EXAMPLE}")
    return found


def _address(word: str) -> Address:
    host, colon, port = word.rpartition(":")
    if not word:
        raise ValueError("an entry is empty")
    if not colon or not host or not host.isascii() or any(c.isspace() or c in "/@;" for c in word):
        raise ValueError("is no host:port")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{port!r} is no port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
        return Address(host[1:-1], int(port))
    if set(host) & set(":[]"):
        raise ValueError("an IPv6 host stands in brackets, e.g. [::1]:10000")
    if NUMERIC.search(host):  # 127.1 is an address to some, and a name to others
        ipaddress.IPv4Address(host)
    return Address(host, int(port))


def _twice(addresses: Sequence[Address]) -> list[str]:
    named = [a for a in addresses if a.port]
    return [f"{a}: is given to two roles; each listens on a port of its own" for a in dict.fromkeys(named) if named.count(a) > 1]  # fmt: skip


def _misplaced(role: str, at: Address, command: str) -> list[str]:
    try:
        if is_here(at.host):
            return _taken(role, at)
    except JobError as error:
        return [f"{role} {at}: {error}"]
    return [
        f"{role} {at}: is not this machine: start it there with `{command}`, and the others one by one likewise (see"
        f" docs/guides/deploy-by-hand.md); where that address leads here all the same, listen on 0.0.0.0:{at.port}"
    ]


def _shared(role: str, at: Address, others: Mapping[str, Address]) -> list[str]:
    """Say with which other role one shares an address of this machine, which may be written in another way."""
    for other, its in others.items():
        everywhere = at.host in ANY or its.host in ANY
        if at.port and at.port == its.port and (everywhere or _ips(at.host) & _ips(its.host)):
            return [f"{role} {at}: is where {other} listens, {its}; each listens on a port of its own"]
    return []


def _taken(role: str, at: Address) -> list[str]:
    try:
        hold(at)[0].close()
    except OSError as error:
        return [f"{role}: cannot listen on {at}: {error.strerror or error}; choose another port, or end who has it"]
    return []


def _times(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
