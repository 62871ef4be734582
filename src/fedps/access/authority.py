"""An organisation's authority: a folder with its certificate, and who has one from it, who is revoked, who may join.

    ca.pem, ca.key         the authority itself; whoever has the key can be anybody, so it stays where it was made
    revoked.pem            the list that roles look at
    issued/<role>-<name>/  what was issued with its key: to be copied to that role's machine
    index.json             every certificate: role, name, serial number, dates, when revoked
    tokens.json            join tokens: hashes of their secrets, never these

All is written whole, under a lock: a process that dies leaves a folder that works, and two that come at once take turns. A
certificate is on record before anybody gets it, and a token is spent before its certificate is given away: what a crash costs is
a certificate or a token, never that somebody has one that nobody knows of.
"""

import hashlib
import secrets
import time
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from fedps import crypto
from fedps.crypto import AUTHORITY, DAY, ROLES, SKEW, Signer
from fedps.errors import IdentityError
from fedps.storage.credentials import CA, ISSUED, LOCK, REVOKED, Credentials, locked, read_file, write_credentials
from fedps.storage.whole import CLOSED, make_folder, open_whole, write_whole
from fedps.types import Identity

CA_KEY, INDEX, TOKENS = "ca.key", "index.json", "tokens.json"
YEARS, LEAF = 5 * 365.0, 30.0  # days for which an authority, and a certificate, is valid by default
SECRET = 32  # bytes of a token's secret, and of the authority's fingerprint behind it
TOKEN = "fedps-"  # noqa: S105  (how one begins)
KEPT = 30 * DAY  # seconds for which a spent token is remembered, to say why it is refused
MOST_VALID = 400  # certificates of a name that count at once: with one a day, more than a year's
MOST_BYTES = 200  # of a name in UTF-8: a folder's name has 255 at most


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """A certificate that was issued; times in seconds since 1970, the serial number as hexadecimal digits."""

    role: str
    name: str
    serial: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,40}$")]
    begins: float
    expires: float
    revoked: float | None = None


class Token(msgspec.Struct, forbid_unknown_fields=True):
    """A right to one certificate, once; of its secret there is the SHA-256."""

    role: str
    name: str
    digest: str
    expires: float
    used: float | None = None


Kept = TypeVar("Kept", Record, Token)


class Granted(NamedTuple):
    """What who made its own key gets: its certificate, the authority's, and who is revoked, as PEM."""

    certificate: bytes
    ca: bytes
    revoked: bytes


class Authority:
    """An authority's folder; several processes and threads may use one at once.

    Args:
        folder: that `init` has made.
        now: the time, in seconds since 1970.

    Raises:
        IdentityError: it is none, or others may read its key.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder, self._now = folder, now
        if not (folder / CA).is_file() or not (folder / CA_KEY).is_file():
            raise IdentityError(
                f"{folder}: is no authority's folder ({CA}, {CA_KEY}): make one by `fedps certs init {folder}`"
            )
        if (folder / CA_KEY).stat().st_mode & 0o077:
            raise IdentityError(
                f"{folder / CA_KEY}: others may read this key: chmod 600 it, and think of who has read it"
            )
        self.ca = read_file(folder / CA)
        self._signer = Signer(self.ca, read_file(folder / CA_KEY))
        self.expires = self._signer.expires

    @classmethod
    def init(cls, folder: Path, days: float = YEARS, now: Callable[[], float] = time.time) -> "Authority":
        """Make an authority in a folder that is not there, or is empty.

        Raises:
            IdentityError: the folder holds one, or something else.
            OSError: it cannot be written.
        """
        if (folder / CA).exists():
            raise IdentityError(
                f"{folder}: holds an authority already: use it (`fedps certs list --dir {folder}`), or another folder"
            )
        ours = (CA_KEY, REVOKED, INDEX, TOKENS, LOCK)  # of one whose making was broken off
        if folder.exists() and (
            other := [p.name for p in folder.iterdir() if p.name not in ours and p.suffix != ".part"]
        ):
            raise IdentityError(
                f"{folder}: holds other files ({', '.join(sorted(other)[:3])}): name an empty folder, or a new one"
            )
        make_folder(folder, CLOSED)
        folder.chmod(CLOSED)
        ca, key = crypto.make_authority(now(), days)
        with open_whole(*(folder / name for name in (CA_KEY, REVOKED, INDEX, TOKENS, CA))) as files:
            nobody = Signer(ca, key).list_revoked({}, now())
            for file, content in zip(files, (key, nobody, b"[]", b"[]", ca), strict=True):
                file.write(content)
        return cls(folder, now)

    def issue(self, role: str, name: str, days: float = LEAF) -> Identity:
        """Make a key and a certificate for a role that has none; they lie in `issued/<role>-<name>`.

        Raises:
            IdentityError: it cannot be called so, has one already, or the authority has expired.
            OSError: it cannot be written.
        """
        with self._locked():
            self.check_new(role, name)
            return self._make(role, name, days)

    def renew(self, role: str, name: str, days: float = LEAF) -> Identity:
        """Make a new key and certificate for a role that has one; the old one is valid until its date.

        Raises:
            IdentityError: it has none, or is revoked, or the authority has expired.
            OSError: it cannot be written.
        """
        with self._locked():
            self._check_known(role, name)
            return self._make(role, name, days)

    def renew_by(self, request: bytes, identity: Identity, days: float = LEAF) -> Granted:
        """Answer the request of a role that showed its certificate, by TLS: the same role and name, for a new key.

        Raises:
            IdentityError: its certificate is revoked, or not of this authority; it has very many; or this is no request.
            OSError: it cannot be written.
        """
        with self._locked():
            record = next((r for r in self.records() if int(r.serial, 16) == identity.serial), None)
            if record is None:
                raise IdentityError(
                    f"the certificate of {identity} is not one of this authority's: ask its owner for a token"
                )
            if record.revoked is not None:
                raise IdentityError(f"{_is_revoked(record)}: ask the authority's owner for another")
            mine = self._of(identity.role, identity.name)
            if (valid := sum(self._now() < r.expires for r in mine)) >= MOST_VALID:
                raise IdentityError(
                    f"{identity}: has {valid} certificates that are valid: renew less often, and wait until one expires"
                )
            return self._record(self._certify(request, identity.role, identity.name, days))

    def revoke(self, role: str, name: str) -> list[Record]:
        """Revoke all certificates of a role; return them.

        Raises:
            IdentityError: it has none.
            OSError: it cannot be written.
        """
        with self._locked():
            records = self.records()
            mine = [r for r in records if (r.role, r.name) == (role, name)]
            if not mine:
                raise IdentityError(self._unknown(role, name))
            for record in mine:
                record.revoked = record.revoked or self._now()
            self._write(INDEX, records)
            self._publish()
            return mine

    def token(self, name: str, valid: float, role: str = "client") -> str:
        """Return a token by which somebody gets a certificate, once; with it goes the fingerprint of this authority.

        Args:
            name: for whom.
            valid: seconds.
            role: of whom.

        Raises:
            IdentityError: it cannot be called so, or has a certificate already.
            OSError: it cannot be written.
        """
        secret = secrets.token_bytes(SECRET)
        with self._locked():
            self.check_new(role, name)
            tokens = [t for t in self.tokens() if self._now() < (t.used or t.expires) + KEPT]
            tokens.append(Token(role, name, hashlib.sha256(secret).hexdigest(), self._now() + valid))
            self._write(TOKENS, tokens)
        return TOKEN + urlsafe_b64encode(secret + crypto.fingerprint(self.ca)).decode().rstrip("=")

    def redeem(self, request: bytes, secret: bytes, days: float = LEAF) -> Granted:
        """Spend a token for a certificate of the name that it is for.

        Raises:
            IdentityError: there is no such token, it is used or expired, its name has a certificate by now, or this is no request.
            OSError: it cannot be written.
        """
        digest = hashlib.sha256(secret).hexdigest()
        with self._locked():
            tokens = self.tokens()
            found = [t for t in tokens if crypto.same_secret(t.digest, digest)]
            if not found:
                raise IdentityError(
                    "this token is not one of this authority's: ask its owner for another, by `fedps certs token`"
                )
            token = found[0]
            again = "each is good for one certificate: ask for another"
            if token.used is not None:
                raise IdentityError(
                    f"this token, for {token.role} {token.name}, was used on {crypto.date(token.used)}; {again}"
                )
            if self._now() >= token.expires:
                raise IdentityError(
                    f"this token, for {token.role} {token.name}, expired on {crypto.date(token.expires)}: ask for another"
                )
            self.check_new(token.role, token.name)
            certificate = self._certify(request, token.role, token.name, days)
            token.used = self._now()
            self._write(TOKENS, tokens)
            return self._record(certificate)

    def own(self, days: float) -> tuple[bytes, bytes]:
        """Return a certificate and its key by which the authority itself answers requests; it is of no role, and not on record."""
        key = crypto.make_key()
        begins, expires = self._now() - SKEW, min(self._now() + days * DAY, self.expires)
        return self._signer.certify(crypto.make_request(key, *AUTHORITY), *AUTHORITY, begins, expires), key

    def records(self) -> list[Record]:
        """Return all certificates that were issued, the oldest first. Raises IdentityError: the index is damaged."""
        return self._read(INDEX, Record)

    def tokens(self) -> list[Token]:
        """Return the tokens that are not forgotten yet. Raises IdentityError: their file is damaged."""
        return self._read(TOKENS, Token)

    def revoked(self) -> bytes:
        """Return the list of revoked certificates. Raises IdentityError: it cannot be read."""
        return read_file(self.folder / REVOKED)

    def check_new(self, role: str, name: str) -> None:
        """Make sure that a role can be called so, and that nobody is.

        Raises:
            IdentityError: it cannot, or it has a certificate that is valid.
        """
        check_name(role, name)
        there = [r for r in self._of(role, name) if r.revoked is None and self._now() < r.expires]
        if there:
            raise IdentityError(
                f"{role} {name}: has a certificate already, until {crypto.date(there[-1].expires)}: renew it by `fedps certs"
                f" renew {role} {name}`; or, if its key is lost, revoke it first"
            )

    def _make(self, role: str, name: str, days: float) -> Identity:
        key = crypto.make_key()
        certificate, ca, revoked = self._record(self._certify(crypto.make_request(key, role, name), role, name, days))
        make_folder(self.folder / ISSUED, CLOSED)
        write_credentials(self.folder / ISSUED / f"{role}-{name}", Credentials(ca, certificate, key, revoked))
        return crypto.identity_of(certificate)

    def _certify(self, request: bytes, role: str, name: str, days: float) -> bytes:
        now = self._now()
        if now >= self.expires:
            raise IdentityError(
                f"{self.folder}: this authority expired on {crypto.date(self.expires)}: make a new one by `fedps certs init`"
            )
        return self._signer.certify(request, role, name, now - SKEW, min(now + days * DAY, self.expires))

    def _record(self, certificate: bytes) -> Granted:
        """Put a certificate on record, which is then ready to be given away."""
        is_ = crypto.identity_of(certificate)
        self._write(INDEX, [*self.records(), Record(is_.role, is_.name, f"{is_.serial:x}", is_.begins, is_.expires)])
        return Granted(certificate, self.ca, self.revoked())

    def _of(self, role: str, name: str) -> list[Record]:
        return [r for r in self.records() if (r.role, r.name) == (role, name)]

    def _check_known(self, role: str, name: str) -> None:
        if not (there := self._of(role, name)):
            raise IdentityError(self._unknown(role, name))
        if there[-1].revoked is not None:
            raise IdentityError(f"{_is_revoked(there[-1])}: issue another by `fedps certs issue {role} {name}`")

    def _unknown(self, role: str, name: str) -> str:
        known = sorted({f"{r.role} {r.name}" for r in self.records()})
        listed = ", ".join(known[:10]) + (" …" if len(known) > 10 else "")
        return f"{role} {name}: has no certificate of this authority, which knows {listed or 'nobody yet'}; see `fedps certs list`"

    def _publish(self) -> None:
        """Sign the list of revoked certificates anew, here and in every folder that was issued; nobody comes off it."""
        revoked = dict.fromkeys(self._listed() or (), self._now())
        revoked |= {int(r.serial, 16): r.revoked for r in self.records() if r.revoked is not None}
        listed = self._signer.list_revoked(revoked, self._now())
        write_whole(self.folder / REVOKED, listed)
        for folder in (self.folder / ISSUED).glob("*/"):
            write_whole(folder / REVOKED, listed)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until nobody else changes this folder; first index and list come to agree on who is revoked.

        One that died had not published whom it revoked; one that put back an old copy of a file has forgotten some.
        """
        with locked(self.folder):
            listed, records = self._listed(), self.records()
            known = {int(r.serial, 16): r for r in records}
            if forgotten := [
                known[serial] for serial in listed or () if serial in known and known[serial].revoked is None
            ]:
                for record in forgotten:
                    record.revoked = self._now()
                self._write(INDEX, records)
            if listed is None or not listed.issuperset(serial for serial, r in known.items() if r.revoked is not None):
                self._publish()
            yield

    def _listed(self) -> frozenset[int] | None:
        """Return who stands on the list of revoked ones; None if there is none that can be read: the index says all again."""
        try:
            return crypto.read_revoked(self.revoked(), self.ca)
        except IdentityError:
            return None

    def _read(self, name: str, kind: type[Kept]) -> list[Kept]:
        try:
            return msgspec.json.decode(read_file(self.folder / name), type=list[kind])  # type: ignore[valid-type]
        except msgspec.DecodeError as error:
            raise IdentityError(
                f"{self.folder / name}: is damaged ({error}): put a copy of the folder in its place"
            ) from None

    def _write(self, name: str, records: list[Record] | list[Token]) -> None:
        write_whole(self.folder / name, msgspec.json.format(msgspec.json.encode(records), indent=1))


def check_name(role: str, name: str) -> None:
    """Make sure that a role can be called so; a client's name is that of its data file.

    Raises:
        IdentityError: it cannot.
    """
    if role not in ROLES:
        raise IdentityError(f"role {role[:99]!r}: is none of {', '.join(ROLES)}")
    if role == "coordinator" and name != "0":
        raise IdentityError(f"coordinator {name[:99]!r}: there is one, called 0")
    if role == "server":
        if not (name.isascii() and name.isdigit() and name == str(int(name[:9])) and len(name) < 6):
            raise IdentityError(f"server {name[:99]!r}: servers are called by their numbers: 0, 1, 2, …")
        return
    said = f"{role} {name[:99]!r}: a name"
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise IdentityError(f"{said} has printable characters, and no space at its ends; choose another")
    if "/" in name or "\\" in name or name.startswith((".", "-")):
        raise IdentityError(f"{said} has no / and no \\, and begins with neither . nor -; choose another")
    if len(name.encode()) > MOST_BYTES:
        raise IdentityError(f"{said} has at most {MOST_BYTES} bytes, this one {len(name.encode())}; choose another")
    if unicodedata.normalize("NFC", name) != name:
        raise IdentityError(f"{said} is written in composed characters (Unicode's NFC); write it so")


def read_token(text: str) -> tuple[bytes, bytes]:
    """Return a token's secret, and the fingerprint of the authority that it is for.

    Raises:
        IdentityError: it is none.
    """
    words = text.strip()
    try:
        both = urlsafe_b64decode(words.removeprefix(TOKEN) + "==") if words.startswith(TOKEN) else b""
    except ValueError:
        both = b""
    if len(both) != 2 * SECRET:
        raise IdentityError(
            f"--token {words[:12]!r}…: is no token, or not all of one: copy what `fedps certs token` has printed"
        )
    return both[:SECRET], both[SECRET:]


def _is_revoked(record: Record) -> str:
    return f"the certificate of {record.role} {record.name} was revoked on {crypto.date(record.revoked or 0)}"
