"""The certificates of one role, as gRPC and HTTPS take them, read anew when their files change.

In the handshake gRPC makes sure that the peer holds the key of a certificate that is valid now, and that our authority has
signed; of a server besides, that it is the one that was meant. What follows from the certificate later on is told here:
who the peer is, and why it is not welcome any more. What a peer of each role may say is the concern of `access`.

gRPC does not show a client the certificate of a server, so that a revoked one would go unseen. Therefore who dials asks a
question with the stream's metadata, and who is dialled answers by its certificate and a signature, on the question and on the
name that the handshake has shown it. Who stands in between with a stolen key cannot have another sign for it: that one would
have to take it for the client.
"""

import os
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc

from fedps import crypto
from fedps.errors import IdentityError, JobError, RefusedError
from fedps.storage.credentials import (
    CA,
    CERTIFICATE,
    KEY,
    REVOKED,
    Credentials,
    as_files,
    find_credentials,
    read_credentials,
)
from fedps.types import Identity

Metadata = Sequence[tuple[str, bytes]]  # of a stream
QUESTION, CERTIFICATE_SHOWN, ANSWER = "fedps-question-bin", "fedps-certificate-bin", "fedps-answer-bin"
NONCE = 32  # bytes of a question
LOOK = 0.1  # seconds between two looks at files by those who dial in: thousands may do so in a second


class Held(NamedTuple):
    """What the files of a role's folder say."""

    credentials: Credentials
    identity: Identity
    revoked: frozenset[int]

    def after(self, before: "Held") -> "Held":
        """Return this, with those besides whom the same authority had revoked before: an old list makes nobody welcome again."""
        same = self.credentials.ca == before.credentials.ca
        return self._replace(revoked=self.revoked | before.revoked) if same else self


class Certificates:
    """One role's certificate and key, its authority's certificate, and what that has revoked.

    A folder may change at any time. What is there counts from the next handshake on, once the files fit each other; until
    then what was there before goes on counting.

    Args:
        folder: the role's own, or its authority's, where it takes `issued/<role>-<name>`.
        role: e.g. `server`.
        name: e.g. `0`, or a client's name.

    Attributes:
        folder: the role's own.

    Raises:
        JobError: the files cannot be read, do not fit each other, are another role's, or are not valid now.
    """

    def __init__(self, folder: Path, role: str, name: str) -> None:
        self._role, self._name = role, name
        self._lock = threading.Lock()  # gRPC asks in threads of its own
        try:
            self.folder = find_credentials(folder, role, name)
            self._stamps = self._look()
            self._held, self._edition = self._read(), 0
            if why := self.fault(self._held.identity, time.time()):
                raise IdentityError(f"{self.folder}: {why}")
        except IdentityError as error:
            raise JobError(f"security.certs: {error}") from None

    @property
    def edition(self) -> int:
        """How often the files have changed since the beginning, as far as now."""
        self._refresh()
        return self._edition

    @property
    def own(self) -> Identity:
        """Who this role is, by the newest certificate."""
        return self._refresh().identity

    @property
    def host(self) -> str:
        """The host name by which those who dial know this role, whatever its address."""
        return crypto.host_of(self._role, self._name)

    @property
    def ca(self) -> bytes:
        """The authority's certificate, by the files last read."""
        return self._held.credentials.ca

    def server(self) -> grpc.ServerCredentials:
        """Return what a listener takes: each handshake is made with the files that were there `LOOK` seconds ago, or are now."""
        served, looked = self.edition, time.monotonic()

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served, looked
            if time.monotonic() - looked < LOOK:
                return None
            looked = time.monotonic()
            before, served = served, self.edition
            return None if served == before else _configuration(self._held)

        return grpc.dynamic_ssl_server_credentials(_configuration(self._held), newer, True)

    def https(self) -> ssl.SSLContext:
        """Return what a listener of HTTPS takes: mutual TLS with the files of now; `load` gives it newer ones."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.verify_mode = ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Let handshakes be made with the files of now; whom an earlier authority has signed, `peer` turns away."""
        ca, certificate, key, _ = self._refresh().credentials
        context.load_verify_locations(cadata=ca.decode())
        with as_files(certificate, key) as files:
            context.load_cert_chain(*files)

    def client(self, role: str, name: str) -> tuple[grpc.ChannelCredentials, list[tuple[str, str]]]:
        """Return what a connection to a server or coordinator takes, whatever its address: credentials and settings."""
        ca, certificate, key, _ = self._refresh().credentials
        return grpc.ssl_channel_credentials(ca, key, certificate), [
            ("grpc.ssl_target_name_override", crypto.host_of(role, name))
        ]

    def peer(self, auth_context: Mapping[str, Sequence[bytes]]) -> Identity:
        """Return who has dialled in, from what gRPC tells of a handshake.

        Raises:
            IdentityError: its certificate names no role of ours, or an authority has signed it that counts no more.
        """
        shown = next(iter(auth_context.get("x509_pem_cert", [])), b"")
        crypto.check_signed(shown, self.ca)  # a stream may come on a connection that is older than our files
        return crypto.identity_of(shown)

    def ask(self) -> Metadata:
        """Return the question to one that is dialled."""
        return ((QUESTION, os.urandom(NONCE)),)

    def prove(self, asked: Metadata, peer: Identity) -> Metadata:
        """Answer who has dialled in, if it asks: what is signed is good for this question of this peer alone."""
        question, held = dict(asked).get(QUESTION, b""), self._held.credentials
        if len(question) != NONCE:
            return ()
        return ((CERTIFICATE_SHOWN, held.certificate), (ANSWER, crypto.sign(held.key, _to_sign(question, peer))))

    def check_proof(self, role: str, name: str, asked: Metadata, answered: Metadata) -> None:
        """Make sure that one that was dialled is a role, by its answer.

        Raises:
            IdentityError: it does not prove it, or not by a certificate of these days, which may mend itself.
            RefusedError: it does, by a certificate that was revoked.
        """
        found = dict(answered)
        shown = found.get(CERTIFICATE_SHOWN, b"")
        try:
            crypto.check_signed(shown, self.ca)
            crypto.check_said(shown, _to_sign(asked[0][1], self.own), found.get(ANSWER, b""))
            identity = crypto.identity_of(shown)
        except IdentityError as error:
            raise IdentityError(f"{error}: it runs another version of fedps, or somebody is in between") from None
        if (identity.role, identity.name) != (role, name):
            raise IdentityError(f"it answers as {identity}")
        if why := self.fault(identity, time.time()):
            raise RefusedError("identity", why) if identity.serial in self._held.revoked else IdentityError(why)

    def fault(self, identity: Identity, now: float) -> str | None:
        """Say why a certificate does not count at a time, in seconds since 1970, by the files last read; None if it does."""
        if identity.serial in self._held.revoked:
            return f"the certificate of {identity} was revoked: ask who runs the federation for another"
        return crypto.fault_of(identity, now)

    def _refresh(self) -> Held:
        """Take what the files say now, if they have changed and fit each other."""
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                try:
                    self._held, self._edition = self._read().after(self._held), self._edition + 1
                except (IdentityError, OSError) as error:  # half of them may be written: their stamps will change again
                    print(f"certificates have changed, and are not taken up: {error}", flush=True)
            return self._held

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(self.folder / name) for name in (CA, CERTIFICATE, KEY, REVOKED)]

    def _read(self) -> Held:
        """Read the files.

        Raises:
            IdentityError: one cannot be read, they do not fit each other, or are another role's.
        """
        found = read_credentials(self.folder)
        identity = found.check()
        if (identity.role, identity.name) != (self._role, self._name):
            raise IdentityError(
                f"{self.folder}: is the folder of {identity}, and this is {self._role} {self._name}: give each role its own"
            )
        return Held(found, identity, crypto.read_revoked(found.revoked, found.ca))


def _to_sign(question: bytes, peer: Identity) -> bytes:
    return b"fedps: who you have dialled\0" + question + f"{peer.role}/{peer.name}".encode()


def _configuration(held: Held) -> grpc.ServerCertificateConfiguration:
    ca, certificate, key, _ = held.credentials
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
