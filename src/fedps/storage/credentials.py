"""A role's folder: its certificate and private key, its authority's certificate, and the list of revoked ones.

`--certs DIR` names one, or an authority's folder, which holds one of each role that it issued. A folder may be renewed
while roles read it: at every moment its `key.pem` holds a key that fits its `cert.pem`, so whoever reads both by
`read_credentials` gets a pair, whenever the writer died.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fedps.crypto import check_signed, identity_of, key_for, read_revoked
from fedps.errors import IdentityError
from fedps.storage.whole import CLOSED, PRIVATE, make_folder, write_whole
from fedps.types import Identity

CA, CERTIFICATE, KEY, REVOKED = "ca.pem", "cert.pem", "key.pem", "revoked.pem"
LOCK = ".lock"
ISSUED = "issued"  # in an authority's folder: one of `<role>-<name>` each
LARGEST = 16 << 20  # bytes of a file; a list of 100,000 revoked ones has 5 MB
TRIES = 3  # to read a pair; it was renewed meanwhile


class Credentials(NamedTuple):
    """What a role shows and checks, each as PEM."""

    ca: bytes
    certificate: bytes
    key: bytes
    revoked: bytes

    def __repr__(self) -> str:
        """Say nothing of the key: what is printed of an error's surroundings ends in logs."""
        return f"<{type(self).__name__} of {len(self.certificate)} bytes>"

    def check(self) -> Identity:
        """Make sure that all four belong together; return whose they are. Dates are not looked at.

        Raises:
            IdentityError: they do not.
        """
        check_signed(self.certificate, self.ca)
        key_for(self.certificate, self.key)
        read_revoked(self.revoked, self.ca)
        return identity_of(self.certificate)


def find_credentials(certs: Path, role: str, name: str) -> Path:
    """Return the folder of a role: the one named, or the role's in an authority's.

    Raises:
        IdentityError: there is none.
    """
    if (certs / CERTIFICATE).is_file():
        return certs
    if (certs / ISSUED).is_dir():
        if (certs / ISSUED / f"{role}-{name}" / CERTIFICATE).is_file():
            return certs / ISSUED / f"{role}-{name}"
        raise IdentityError(
            f"{certs}: holds no certificate of {role} {name}: make it by `fedps certs issue {role} {name} --dir {certs}`"
        )
    raise IdentityError(
        f"{certs}: is neither a role's folder ({CA}, {CERTIFICATE}, {KEY}, {REVOKED}) nor an authority's: name one that"
        " `fedps certs init`, `issue` or `join` has made"
    )


def read_credentials(folder: Path) -> Credentials:
    """Read a role's folder; its key is the one that fits its certificate.

    Raises:
        IdentityError: a file is missing, or is not what it should be, or another's; names it.
    """
    for left in reversed(range(TRIES)):
        try:
            ca, certificate, keys, revoked = (read_file(folder / name) for name in (CA, CERTIFICATE, KEY, REVOKED))
            found = Credentials(ca, certificate, key_for(certificate, keys), revoked)
            found.check()
        except IdentityError as error:
            if not left:
                raise error if str(error).startswith(str(folder)) else IdentityError(f"{folder}: {error}") from None
        else:
            return found
    raise AssertionError("unreachable")


def write_credentials(folder: Path, credentials: Credentials) -> None:
    """Write a role's folder, or renew it, in an order in which it is whole at every moment.

    Raises:
        OSError: it cannot be written.
    """
    make_folder(folder, CLOSED)
    ca, certificate, key, revoked = credentials
    with locked(folder):
        before = (folder / KEY).read_bytes() if (folder / KEY).is_file() else b""
        write_whole(folder / CA, ca)
        write_whole(folder / REVOKED, revoked)
        write_whole(folder / KEY, before[:LARGEST] + key)  # so that one of them fits, before and after the next line
        write_whole(folder / CERTIFICATE, certificate)
        write_whole(folder / KEY, key)


@contextmanager
def as_files(certificate: bytes, key: bytes) -> Iterator[tuple[Path, Path]]:
    """Lay a certificate and its key down for OpenSSL, which reads files alone, in a folder of the user's own."""
    with tempfile.TemporaryDirectory(prefix="fedps-") as folder:
        paths = Path(folder) / CERTIFICATE, Path(folder) / KEY
        for path, content in zip(paths, (certificate, key), strict=True):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        yield paths


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else, process or thread, changes a folder.

    Raises:
        OSError: it cannot be written.
    """
    with open(folder / LOCK, "ab", opener=lambda path, flags: os.open(path, flags, PRIVATE)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_file(path: Path) -> bytes:
    """Read a small file.

    Raises:
        IdentityError: it is missing, cannot be read, or is too large to be what it should be.
    """
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST + 1)
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}: name a folder that `fedps certs` has made") from None
    if len(found) > LARGEST:
        raise IdentityError(f"{path}: has more than {LARGEST:,} bytes: is another file than it should be")
    return found
