"""How a certificate comes to who has none yet, and a new one to who has one: a small HTTPS service of the authority's owner.

    GET  /ca     → the authority's certificate        to anybody
    POST /join   {"token", "request"} → Answer        to who has a token: spends it
    POST /renew  {"request"} → Answer                 to who shows its certificate (mutual TLS)

A private key never leaves the machine that it is for: only a request, signed by it, does. Nobody who joins trusts the
address that it was told: it first fetches the authority's certificate, over a connection that proves nothing, and compares its
fingerprint with that in its token; only then, over a second connection which that certificate vouches for, it says its token.

The service answers one request a connection, within `DEADLINE`, of few bytes, and so many connections at once, fewer from one address.
"""

import http.client
import http.server
import socket
import socketserver
import ssl
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from fedps import crypto
from fedps.access.authority import Authority, read_token
from fedps.access.conversation import in_a_line
from fedps.crypto import AUTHORITY, DAY
from fedps.errors import FedpsError, IdentityError, JobError, LostError, RefusedError
from fedps.launch.addresses import Address
from fedps.storage.credentials import (
    CERTIFICATE,
    LARGEST,
    Credentials,
    as_files,
    read_credentials,
    write_credentials,
)
from fedps.storage.whole import CLOSED, make_folder
from fedps.types import Identity

DEADLINE = 15.0  # seconds for a whole conversation, from its first byte
PATIENCE = 30.0  # seconds that one who asks waits at each step
MOST_BYTES = 16 << 10  # of a request; it has less than 1 KB
MOST_AT_ONCE, MOST_OF_ONE = 64, 16  # connections, of all and from one address
OWN_DAYS = 2.0  # for which the service's own certificate is valid; it takes a new one after half of them
HOST = crypto.host_of(*AUTHORITY)
JSON = "application/json"


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """What who wants a certificate says: a request, as PEM, and the secret of a token, in base64, if it joins."""

    request: str
    token: str = ""


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What it gets, as PEM."""

    certificate: str
    ca: str
    revoked: str


class Service(socketserver.ThreadingTCPServer):
    """Answers who joins or renews, each in a thread, until `shutdown`.

    Args:
        authority: whose certificates these are.
        at: where it listens.
        days: for which a certificate is valid.
        say: is told what was done, a line each.

    Raises:
        JobError: it cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, authority: Authority, at: Address, days: float, say: Callable[[str], None]) -> None:
        self.authority, self.days, self.say = authority, days, say
        self.address_family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
        self._here, self._lock = Counter[str](), threading.Lock()  # connections, by address
        self._context, self._stale = _own_context(authority), time.monotonic() + OWN_DAYS / 2 * DAY
        try:
            super().__init__((at.host, at.port), _Conversation)
        except OSError as error:
            raise JobError(
                f"--at {at}: cannot listen there: {error.strerror or error}; choose another address"
            ) from error
        self.at = at._replace(port=self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, if there is room; else hang up."""
        if time.monotonic() > self._stale:
            self._context, self._stale = _own_context(self.authority), time.monotonic() + OWN_DAYS / 2 * DAY
        with self._lock:
            host, full = client_address[0], self._here.total() >= MOST_AT_ONCE
            if taken := not full and self._here[host] < MOST_OF_ONE:
                self._here[host] += 1
        if taken:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Hold a conversation, whatever comes of it."""
        try:
            self._converse(request, client_address)
        except (OSError, ValueError):  # whoever it was speaks no TLS of ours, or went away
            pass
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._here -= Counter([client_address[0]])  # which forgets who has none left

    def _converse(self, request: Any, client_address: Any) -> None:
        """Speak TLS, and cut it off at its deadline, however slowly the peer goes on."""
        request.getpeername()  # who is gone already: `wrap_socket` would raise, too, and leave its socket open
        with self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            cut = threading.Timer(DEADLINE, _cut, [secured])
            cut.daemon = True
            cut.start()
            try:
                secured.do_handshake()
                self.finish_request(secured, client_address)
            finally:
                cut.cancel()


class _Conversation(http.server.BaseHTTPRequestHandler):
    """One request and its answer."""

    server: Service
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        if self.path == "/ca":
            self._answer(200, self.server.authority.ca, "application/x-pem-file")
        else:
            self._refuse(404, f"{self.path[:99]!r}: there is /ca, /join and /renew")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 9 and int(length) <= MOST_BYTES):
            return self._refuse(413, f"a request has at most {MOST_BYTES:,} bytes, and says how many")
        try:
            ask = msgspec.json.decode(self.rfile.read(int(length)), type=Ask)
            self._grant(ask)
        except (msgspec.DecodeError, ValueError) as error:
            self._refuse(400, f"malformed: {error}")
        except OSError as error:
            self.server.say(f"ANSWERS NOBODY: {error.filename or self.server.authority.folder}: {error.strerror}")
            self._refuse(503, "the authority's disk fails: try again later")
        except FedpsError as error:
            self._refuse(403, str(error))
        return None

    def version_string(self) -> str:
        """Return nothing that tells what runs here."""
        return "fedps"

    def log_message(self, *_: object) -> None:
        """Leave saying to `say`."""

    def _grant(self, ask: Ask) -> None:
        authority, request = self.server.authority, ask.request.encode()
        if self.path == "/join":
            granted = authority.redeem(request, b64decode(ask.token, validate=True), self.server.days)
        elif self.path == "/renew":
            shown = self.connection.getpeercert(binary_form=True)
            if not shown:
                return self._refuse(401, "show the present certificate to renew it; who has none joins by a token")
            granted = authority.renew_by(
                request, crypto.identity_of(ssl.DER_cert_to_PEM_cert(shown).encode()), self.server.days
            )
        else:
            return self._refuse(404, f"{self.path[:99]!r}: there is /ca, /join and /renew")
        is_ = crypto.identity_of(granted.certificate)
        self.server.say(f"{is_}: {self.path[1:]}s from {self.client_address[0]}, until {crypto.date(is_.expires)}")
        answer = Answer(*(part.decode() for part in granted))
        return self._answer(200, msgspec.json.encode(answer), JSON)

    def _refuse(self, code: int, reason: str) -> None:
        reason = in_a_line(reason)  # some of it may be what the peer has said
        self.server.say(f"refused {self.client_address[0]}: {reason}")
        self._answer(code, msgspec.json.encode({"reason": reason}), JSON)

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def join(at: Address, token: str, out: Path) -> Identity:
    """Get a first certificate for a token; its key is made here, and lies in `out` with it.

    Raises:
        IdentityError: this is no token, another authority answers, or `out` holds a certificate already.
        RefusedError: the authority does not take it, and why.
        LostError: nobody answers.
        OSError: `out` cannot be written.
    """
    secret, expected = read_token(token)
    if (out / CERTIFICATE).exists():
        raise IdentityError(
            f"--out {out}: holds a certificate already: renew it by `fedps certs renew --at {at} {out}`"
        )
    make_folder(out, CLOSED)  # which may fail, before the token is spent
    unproven = _context()
    unproven.check_hostname, unproven.verify_mode = False, ssl.CERT_NONE
    ca = _ask(at, unproven, "GET", "/ca")
    if (found := crypto.fingerprint(ca)) != expected:
        raise IdentityError(
            f"{at}: is not the authority that made this token (its fingerprint is {found.hex()[:16]}…, the token's"
            f" {expected.hex()[:16]}…): somebody is in between, or the address is another's; the token was not sent"
        )
    proven = _context()
    proven.load_verify_locations(cadata=ca.decode())
    key = crypto.make_key()
    request = crypto.make_request(key, "client", "new")
    answer = _granted(_ask(at, proven, "POST", "/join", Ask(request.decode(), b64encode(secret).decode())))
    return _keep(out, Credentials(ca, answer.certificate.encode(), key, answer.revoked.encode()), at)


def renew(at: Address, folder: Path) -> Identity:
    """Get a new certificate, for a new key, by showing the present one; the list of revoked ones comes with it.

    Raises:
        IdentityError: the folder holds none that is valid.
        RefusedError: the authority does not renew it, and why.
        LostError: nobody answers.
        OSError: the folder cannot be written.
    """
    now = read_credentials(folder)
    present = now.check()
    if fault := crypto.fault_of(present, time.time()):
        raise IdentityError(
            f"{folder}: {fault} at the authority, or ask its owner for a token: it cannot be shown any more"
        )
    key = crypto.make_key()
    request = crypto.make_request(key, present.role, present.name)
    answer = _granted(_ask(at, _showing(now), "POST", "/renew", Ask(request.decode())))
    return _keep(folder, Credentials(now.ca, answer.certificate.encode(), key, answer.revoked.encode()), at)


def _keep(folder: Path, credentials: Credentials, at: Address) -> Identity:
    """Write what came, once it fits together."""
    try:
        identity = credentials.check()
    except IdentityError as error:
        raise IdentityError(f"{at}: what came does not fit together: {error}") from None
    write_credentials(folder, credentials)
    return identity


def _granted(body: bytes) -> Answer:
    try:
        return msgspec.json.decode(body, type=Answer)
    except msgspec.DecodeError as error:
        raise LostError(f"what came is no answer of an authority ({error}): correct --at") from None


def _ask(at: Address, context: ssl.SSLContext, method: str, path: str, ask: Ask | None = None) -> bytes:
    """Ask one question; return the body of the answer.

    Raises:
        LostError: nobody answers, or not as an authority does.
        RefusedError: the answer is no.
    """
    connection = _Connection(at.host, at.port, timeout=PATIENCE, context=context)
    try:
        connection.request(method, path, None if ask is None else msgspec.json.encode(ask), {"Content-Type": JSON})
        answer = connection.getresponse()
        body = answer.read(LARGEST)
    except ssl.SSLError as error:
        _not_proven(at, error)
    except (OSError, http.client.HTTPException) as error:
        raise LostError(
            f"{at}: no authority answers there ({error or type(error).__name__}): correct --at, or start `fedps certs serve`"
        ) from None
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.OK:
        return body
    try:
        reason = msgspec.json.decode(body, type=dict[str, str])["reason"]
    except (msgspec.DecodeError, KeyError):
        reason = f"status {answer.status}"
    raise RefusedError("identity", f"{at}: {in_a_line(reason)}")


def _not_proven(at: Address, error: ssl.SSLError) -> NoReturn:
    if isinstance(error, ssl.SSLCertVerificationError):
        raise IdentityError(
            f"{at}: is not our authority ({error.verify_message}): correct --at; nothing was sent"
        ) from None
    said = f"{error.reason or error}"
    if "ALERT" in said:
        raise IdentityError(
            f"{at}: does not take this certificate ({said}): it is another authority's; correct --at"
        ) from None
    raise LostError(f"{at}: no authority answers there ({said}): correct --at") from None


class _Connection(http.client.HTTPSConnection):
    """Knows its peer by the authority's host name, whatever address it dials."""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=HOST)  # type: ignore[attr-defined]
        except BaseException:
            plain.close()
            raise


def _context() -> ssl.SSLContext:
    """Return what one who asks goes by: a certificate that is signed by what is loaded into it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _showing(credentials: Credentials) -> ssl.SSLContext:
    context = _context()
    context.load_verify_locations(cadata=credentials.ca.decode())
    with as_files(credentials.certificate, credentials.key) as files:
        context.load_cert_chain(*files)
    return context


def _own_context(authority: Authority) -> ssl.SSLContext:
    """Return what the service goes by: a certificate of its own; who shows one shows one of this authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority.ca.decode())
    with as_files(*authority.own(OWN_DAYS)) as files:
        context.load_cert_chain(*files)
    return context


def _cut(connection: socket.socket) -> None:
    """End a connection under whoever waits on it; TLS is not asked."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
