"""Who somebody is, and whom two know in common: certificates, keys, lists of revoked ones, blinded points; no files, no sockets.

A certificate is the identity. It says a role and a name, as the URI `fedps://client/hospital-north`, and one authority has
signed it. Servers, coordinators and parties of vertical training listen, so theirs say a host name besides, `0.server.fedps`, by which a client knows
them whatever address it dials; a client's certificate says none, and is good for dialling alone.

Keys are of ECDSA on P-256 (which every TLS library takes), signed by SHA-256; ids are blinded on Curve25519
(`SecretScalar`). This module alone imports `cryptography`, of the extra `fedps[tls]`: import it where either is used, and
nowhere above that.
"""

import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime

from fedps.errors import IdentityError, WireError, needing
from fedps.types import Identity

with needing("tls", "cryptography"):
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROLES = ("server", "client", "coordinator", "observer", "party", "service")  # the last: `fedps serve`, of a client
AUTHORITY = ("authority", "0")  # who answers requests for certificates: known by a host name, and no role of a run
LISTENING = ("server", "coordinator", "party", "service", AUTHORITY[0])  # who is dialled
SCHEME = "fedps"
SKEW = 300.0  # seconds by which a certificate begins before now: the clocks of two organisations differ
DAY = 86_400.0  # seconds
UNFIT = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)  # what `cryptography` says of bad bytes
HOST = re.compile("[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?")
POINT = 32  # bytes of a point of Curve25519: its u-coordinate
KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----\r?\n?", re.DOTALL)


def host_of(role: str, name: str) -> str:
    """Return the host name by which the certificate of one who listens is known, e.g. `0.server.fedps`.

    A party's name, and a client's, may be of letters that no host has, or that hosts take for others: there it is a digest of
    it; a service, whose host people write, keeps a name that a host can have, and that is shorter than a digest.
    """
    kept = bool(HOST.fullmatch(name)) if role == "service" else role != "party"
    return f"{name if kept else hashlib.sha256(name.encode()).hexdigest()[:32]}.{role}.{SCHEME}"


def identity_of(pem: bytes) -> Identity:
    """Read who a certificate is of; that its authority has signed it is for TLS, or `check_signed`, to see.

    Raises:
        IdentityError: it is no certificate of a role.
    """
    certificate = _certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = [urllib.parse.urlsplit(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *UNFIT):
        uris = []
    ours = [uri for uri in uris if uri.scheme == SCHEME]
    if len(ours) != 1 or ours[0].netloc not in ROLES or not ours[0].path.startswith("/"):
        raise IdentityError(
            f"this certificate ({certificate.subject.rfc4514_string()[:99] or 'without a subject'}) names no role of fedps;"
            " make one by `fedps certs issue`"
        )
    begins, expires = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    name = urllib.parse.unquote(ours[0].path[1:])
    return Identity(ours[0].netloc, name, certificate.serial_number, begins, expires)


def read_revoked(pem: bytes, ca: bytes) -> frozenset[int]:
    """Return the serial numbers on a list of revoked certificates.

    Args:
        pem: the list.
        ca: the authority's certificate.

    Raises:
        IdentityError: it is no such list, or another has signed it.
    """
    try:
        revoked = x509.load_pem_x509_crl(pem)
        signed = revoked.is_signature_valid(_public_key(_certificate(ca)))
    except UNFIT as error:
        raise IdentityError(f"this is no list of revoked certificates ({_short(error)})") from None
    if not signed:
        raise IdentityError("this list of revoked certificates is not signed by this authority; fetch its own")
    return frozenset(entry.serial_number for entry in revoked)


def fingerprint(pem: bytes) -> bytes:
    """Return a certificate's SHA-256, 32 bytes. Raises IdentityError: it is none."""
    return _certificate(pem).fingerprint(hashes.SHA256())


def fault_of(identity: Identity, now: float) -> str | None:
    """Say that a certificate is not valid at a time, in seconds since 1970, and the remedy; None if it is."""
    if now < identity.begins:
        return (
            f"the certificate of {identity} is valid from {date(identity.begins)} on, and it is {date(now)} here:"
            " set this machine's clock, or wait"
        )
    if now >= identity.expires:
        return f"the certificate of {identity} expired on {date(identity.expires)}: renew it by `fedps certs renew`"
    return None


def check_signed(certificate: bytes, ca: bytes) -> None:
    """Make sure that an authority has signed a certificate.

    Raises:
        IdentityError: it has not, or one of both is no certificate.
    """
    issued, issuer = _certificate(certificate), _certificate(ca)
    try:
        issued.verify_directly_issued_by(issuer)
    except UNFIT:
        raise IdentityError(
            f"this certificate ({issued.subject.rfc4514_string()[:99]}) is not signed by this authority"
            f" ({issuer.subject.rfc4514_string()[:99]}): use the ca.pem that came with it"
        ) from None


def key_for(certificate: bytes, keys: bytes) -> bytes:
    """Return that of some private keys that fits a certificate: while it is renewed, a file holds the old and the new one.

    Raises:
        IdentityError: none does.
    """
    public = _public_key(_certificate(certificate))
    for found in KEY.finditer(keys):
        if _public_of(_private_key(found[0])) == public:
            return found[0]
    raise IdentityError("this private key is not that of the certificate beside it: copy both again, or renew both")


def sign(key: bytes, said: bytes) -> bytes:
    """Sign what is said, by a private key."""
    return _private_key(key).sign(said, ec.ECDSA(hashes.SHA256()))


def check_said(certificate: bytes, said: bytes, signature: bytes) -> None:
    """Make sure that who holds a certificate's key has signed this. Raises IdentityError: it has not."""
    try:
        _public_key(_certificate(certificate)).verify(signature, said, ec.ECDSA(hashes.SHA256()))
    except UNFIT:
        raise IdentityError("the key of the certificate beside it has not signed this") from None


def make_key() -> bytes:
    """Make a private key; return it as unencrypted PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )  # fmt: skip


def make_request(key: bytes, role: str, name: str) -> bytes:
    """Ask for a certificate: the public half of a key, signed by the private one, with the wished role and name."""
    wish = x509.CertificateSigningRequestBuilder().subject_name(_subject(f"{role} {name}"))
    return wish.sign(_private_key(key), hashes.SHA256()).public_bytes(Encoding.PEM)


def make_authority(now: float, days: float) -> tuple[bytes, bytes]:
    """Make an authority: its own certificate, and its private key.

    Args:
        now: seconds since 1970.
        days: for which it is valid.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    subject = _subject(f"fedps authority {serial:x}"[:24])  # no two of one name
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(subject, subject, key.public_key(), key.public_key(), serial, now - SKEW, now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )  # fmt: skip


class Signer:
    """Signs what an authority says.

    Args:
        ca: its certificate.
        key: its private key.

    Raises:
        IdentityError: they do not fit.
    """

    def __init__(self, ca: bytes, key: bytes) -> None:
        self._ca, self._key = _certificate(ca), _private_key(key_for(ca, key))
        self.expires = self._ca.not_valid_after_utc.timestamp()

    def certify(self, request: bytes, role: str, name: str, begins: float, expires: float) -> bytes:
        """Answer a request by a certificate for a role and a name, whatever it wishes for; times in seconds since 1970.

        Raises:
            IdentityError: it is no request, or of a key of another kind.
        """
        purposes = [
            ExtendedKeyUsageOID.CLIENT_AUTH
        ]  # servers, too: so they renew theirs; what each may say is access's
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"{SCHEME}://{role}/{urllib.parse.quote(name, safe='')}")
        ]
        if role in LISTENING:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names.append(x509.DNSName(host_of(role, name)))
        certificate = (
            _builder(
                _subject(f"{role} {name}"), self._ca.subject, _requested_key(request), self._key.public_key(),
                x509.random_serial_number(), begins, expires,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        return certificate.public_bytes(Encoding.PEM)

    def list_revoked(self, revoked: Mapping[int, float], now: float) -> bytes:
        """Sign the list of what is revoked, from serial numbers to when, in seconds since 1970."""
        listed = x509.CertificateRevocationListBuilder().issuer_name(self._ca.subject)
        listed = listed.last_update(_moment(now)).next_update(_moment(max(self.expires, now + DAY)))
        for serial, when in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(when))
            listed = listed.add_revoked_certificate(entry.build())
        return listed.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


class SecretScalar:
    """A number by which points of Curve25519 are multiplied, as X25519 (RFC 7748) does: of two, the order does not matter.

    Only a point's u-coordinate counts, and any 32 bytes are one, of the curve or of its twist. X25519 makes each number a
    multiple of 8, and the orders of both are 8 and 4 times a large prime: so who sends strange points learns nothing of the
    number. Those of low order go to zero, and are refused.

    Args:
        secret: 32 bytes, by default new random ones.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._key = X25519PrivateKey.generate() if secret is None else X25519PrivateKey.from_private_bytes(secret)

    @property
    def secret(self) -> bytes:
        """What another process of the same owner makes the same number of."""
        return self._key.private_bytes_raw()

    def times(self, points: bytes) -> bytes:
        """Multiply points, of `POINT` bytes each, end to end.

        Raises:
            WireError: one is of low order: no id leads there.
        """
        exchange, point = self._key.exchange, X25519PublicKey.from_public_bytes
        try:
            return b"".join([exchange(point(points[at : at + POINT])) for at in range(0, len(points), POINT)])
        except ValueError:
            raise WireError("a point of low order is among the blinded ids: no id leads to one") from None


def same_secret(one: str, other: str) -> bool:
    """Whether two secrets, or their digests, are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def date(moment: float) -> str:
    """Return a time, in seconds since 1970, as people and logs read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, signing: ec.EllipticCurvePublicKey,
    serial: int, begins: float, expires: float,
) -> x509.CertificateBuilder:  # fmt: skip
    """Return what certificates of authorities and roles have alike."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(serial).not_valid_before(_moment(begins)).not_valid_after(_moment(expires))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing), critical=False
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _subject(words: str) -> x509.Name:
    """Return a subject for people to read; the URI is what counts. It takes 64 characters."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, urllib.parse.quote(words, safe=" ")[:64])])


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNFIT as error:
        raise IdentityError(f"this is no certificate ({_short(error)}): it begins with {pem[:30]!r}") from None


def _requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
        public = request.public_key()
    except UNFIT as error:
        raise IdentityError(f"this is no request for a certificate ({_short(error)})") from None
    if not signed:
        raise IdentityError("this request for a certificate is not signed by the key that it is for")
    return _of_our_kind(public)


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        return _of_our_kind(certificate.public_key())
    except UNFIT as error:
        raise IdentityError(f"this certificate's key cannot be read ({_short(error)})") from None


def _of_our_kind(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("this key is of another kind than ECDSA on P-256: make it by `fedps certs`")
    return key


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except UNFIT as error:
        raise IdentityError(f"this private key cannot be read ({_short(error)})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("this private key is of another kind than ECDSA on P-256: make it by `fedps certs`")
    return key


def _public_of(key: ec.EllipticCurvePrivateKey) -> ec.EllipticCurvePublicKey:
    return key.public_key()


def _short(error: Exception) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:99]
