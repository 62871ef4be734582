"""Authorities for tests, with whatever certificates: past and future ones too, and such as no authority of ours makes."""

import time
from pathlib import Path

from fedps import crypto
from fedps.access.authority import Authority
from fedps.storage.credentials import Credentials, write_credentials

DAYS = 30.0


def authority(folder: Path, *clients: str, servers: int = 1, coordinator: bool = False) -> Authority:
    """Make an authority with a certificate for each server, and for each client."""
    made = Authority.init(folder)
    for number in range(servers):
        made.issue("server", str(number))
    if coordinator:
        made.issue("coordinator", "0")
    for client in clients:
        made.issue("client", client)
    return made


def credentials(authority: Authority, role: str, name: str, begins: float = 0.0, expires: float = 10.0) -> Credentials:
    """Return a certificate for any role and name, from and until so many days from now, and its key."""
    key, now = crypto.make_key(), time.time()
    signer = crypto.Signer(authority.ca, (authority.folder / "ca.key").read_bytes())
    certificate = signer.certify(
        crypto.make_request(key, role, name), role, name, now + begins * crypto.DAY, now + expires * crypto.DAY
    )
    return Credentials(authority.ca, certificate, key, authority.revoked())


def write(folder: Path, found: Credentials) -> Path:
    """Write a role's folder; return it."""
    write_credentials(folder, found)
    return folder
