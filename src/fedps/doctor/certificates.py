"""What is in a folder of certificates: whose each is, until when, whether its files fit; and who answers at an address."""

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from fedps import crypto
from fedps.doctor.finding import Finding, Look, look
from fedps.errors import IdentityError, JobError
from fedps.launch.addresses import Address
from fedps.storage.credentials import CA, CERTIFICATE, ISSUED, KEY, REVOKED, read_credentials, read_file

SOON = 7 * crypto.DAY  # seconds: who expires within them is warned
PATIENCE = 5.0  # seconds for an answer


def examine(certs: Path, at: Address | None = None) -> Iterator[Finding]:
    """Yield what is found in a role's folder, or in all of an authority's; and at an address, dialled with one of them.

    Raises:
        JobError: it is no such folder.
    """
    issued = sorted(path.parent for path in (certs / ISSUED).glob(f"*/{CERTIFICATE}"))
    folders = [certs] if (certs / CERTIFICATE).is_file() else issued
    if not folders:
        raise JobError(f"--certs {certs}: holds no certificate: name a folder that `fedps certs` has made")
    looks: list[tuple[str, Look]] = [(folder.name, lambda folder=folder: _folder(folder)) for folder in folders]  # type: ignore[misc]
    if at is not None:
        looks.append((str(at), lambda: _address(at, _dialling(folders))))
    return look(looks)


def _folder(folder: Path) -> Iterator[Finding]:
    try:
        found = read_credentials(folder)
        identity = found.check()
    except IdentityError as error:
        yield Finding(folder.name, "fault", str(error), "copy the folder anew from where it was made, or renew it")
        return
    now, who = time.time(), str(identity)
    if identity.serial in crypto.read_revoked(found.revoked, found.ca):
        yield Finding(who, "fault", "is revoked", "ask the authority's owner for another")
    elif fault := crypto.fault_of(identity, now):
        yield Finding(who, "fault", fault)
    elif identity.expires - now < SOON:
        said = f"expires soon, on {crypto.date(identity.expires)}"
        yield Finding(who, "warning", said, f"fedps certs renew {identity.role} {identity.name}")
    else:
        yield Finding(who, "ok", f"valid until {crypto.date(identity.expires)}")
    if (folder / KEY).stat().st_mode & 0o077:
        yield Finding(who, "fault", f"{folder / KEY}: others may read this key", f"chmod 600 {folder / KEY}")


def _dialling(folders: list[Path]) -> Path:
    """Return the folder to dial with: a client's, if there is one."""
    return next((folder for folder in folders if folder.name.startswith("client-")), folders[0])


def _address(at: Address, folder: Path) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.check_hostname = ssl.TLSVersion.TLSv1_2, False  # whose name it is, is told
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(folder / CA)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    what = str(at)
    try:
        with socket.create_connection(at, PATIENCE) as plain, context.wrap_socket(plain) as line:
            shown = crypto.identity_of(ssl.DER_cert_to_PEM_cert(line.getpeercert(binary_form=True) or b"").encode())
            version, answer = line.version(), line.recv(1)  # only now TLS 1.3 tells that it has refused us
    except ssl.SSLCertVerificationError as error:
        remedy = "check the address; it may be of another authority, or its certificate has expired"
        yield Finding(what, "fault", f"shows a certificate that is not to be trusted: {error.verify_message}", remedy)
    except ssl.SSLError as error:
        remedy = "it may be in the clear (start it with --certs), or not take the certificate"
        yield Finding(what, "fault", f"no handshake with {folder}: {error.reason or error}", remedy)
    except OSError as error:
        yield Finding(what, "fault", f"cannot be reached: {error}", "start it, and check address and firewall")
    else:
        if shown.serial in crypto.read_revoked(read_file(folder / REVOKED), read_file(folder / CA)):
            yield Finding(
                what, "fault", f"is {shown}, whose certificate was revoked", "give it another, or correct --at"
            )
        elif answer:
            yield Finding(
                what, "ok", f"is {shown}, until {crypto.date(shown.expires)}, by {version}; it takes {folder.name}"
            )
        else:
            yield Finding(what, "fault", f"is {shown}, and hangs up on {folder.name}", "see its events: it says why")
