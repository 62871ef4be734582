"""Certificates: what one says, who has signed it, which are revoked; and what is no certificate."""

import pytest

from fedps import crypto
from fedps.crypto import DAY, Signer
from fedps.errors import IdentityError
from fedps.types import Identity

NOW = 1_900_000_000.0  # seconds since 1970


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return crypto.make_authority(NOW, 365)


def make(authority: tuple[bytes, bytes], role: str = "client", name: str = "north", key: bytes = b"") -> bytes:
    request = crypto.make_request(key or crypto.make_key(), role, name)
    return Signer(*authority).certify(request, role, name, NOW, NOW + DAY)


@pytest.mark.parametrize("name", ["north", "Hôpital Nord", "a/b?c#d%e", "0", "名前", "x" * 200])
@pytest.mark.parametrize("role", ["client", "observer", "party"])
def test_a_certificate_says_role_and_name_as_they_were_given(
    authority: tuple[bytes, bytes], role: str, name: str
) -> None:
    found = crypto.identity_of(make(authority, role, name))
    assert found == Identity(role, name, found.serial, NOW, NOW + DAY)
    assert str(found) == f"{role} {name}"


def test_only_who_listens_has_a_host_name(authority: tuple[bytes, bytes]) -> None:
    from cryptography import x509

    def host(pem: bytes) -> list[str]:
        names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return names.value.get_values_for_type(x509.DNSName)

    assert host(make(authority, "server", "3")) == ["3.server.fedps"] == [crypto.host_of("server", "3")]
    assert host(make(authority, "client", "3")) == []


def test_a_party_listens_under_a_host_name_that_any_name_has_and_no_other() -> None:
    names = ["shop", "Shop", "Hôpital Nord", "a.b", "x" * 200]
    hosts = [crypto.host_of("party", name) for name in names]
    assert len(set(map(str.lower, hosts))) == len(names)
    assert all(host.isascii() and host.endswith(".party.fedps") and " " not in host for host in hosts)
    assert all(len(host.split(".")) == 3 and len(host.split(".")[0]) <= 63 for host in hosts)


def test_no_two_serial_numbers_are_alike(authority: tuple[bytes, bytes]) -> None:
    assert len({crypto.identity_of(make(authority)).serial for _ in range(20)}) == 20


def test_what_names_no_role_is_refused(authority: tuple[bytes, bytes]) -> None:
    with pytest.raises(IdentityError, match=r"names no role of fedps; make one by `fedps certs issue`"):
        crypto.identity_of(authority[0])
    for bad in (b"", b"junk", authority[1], make(authority)[:-200]):
        with pytest.raises(IdentityError, match="this is no certificate"):
            crypto.identity_of(bad)


def test_another_authority_has_not_signed_it(authority: tuple[bytes, bytes]) -> None:
    crypto.check_signed(make(authority), authority[0])
    with pytest.raises(IdentityError, match="is not signed by this authority"):
        crypto.check_signed(make(crypto.make_authority(NOW, 1)), authority[0])


def test_dates_are_told_with_the_remedy(authority: tuple[bytes, bytes]) -> None:
    found = crypto.identity_of(make(authority))
    assert crypto.fault_of(found, NOW) is None
    assert "set this machine's clock" in str(crypto.fault_of(found, NOW - 1))
    assert "expired on 2030-03-18 17:46:40 UTC: renew it by" in str(crypto.fault_of(found, NOW + DAY))


def test_who_is_revoked_is_read_from_the_authoritys_own_list_alone(authority: tuple[bytes, bytes]) -> None:
    listed = Signer(*authority).list_revoked({5: NOW, 1 << 150: NOW}, NOW)
    assert crypto.read_revoked(listed, authority[0]) == {5, 1 << 150}
    assert crypto.read_revoked(Signer(*authority).list_revoked({}, NOW), authority[0]) == set()
    with pytest.raises(IdentityError, match="not signed by this authority"):
        crypto.read_revoked(listed, crypto.make_authority(NOW, 1)[0])
    with pytest.raises(IdentityError, match="no list of revoked certificates"):
        crypto.read_revoked(b"junk", authority[0])


def test_of_two_keys_the_one_that_fits_is_taken(authority: tuple[bytes, bytes]) -> None:
    old, new = crypto.make_key(), crypto.make_key()
    certificate = make(authority, key=new)
    assert crypto.key_for(certificate, old + new) == new == crypto.key_for(certificate, new + old)
    with pytest.raises(IdentityError, match="not that of the certificate beside it"):
        crypto.key_for(certificate, old)


def test_keys_of_another_kind_and_bad_requests_are_refused(authority: tuple[bytes, bytes]) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    kinds = (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))
    pems = [kind.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for kind in kinds]
    with pytest.raises(IdentityError, match="another kind than ECDSA on P-256"):
        crypto.make_request(pems[0], "client", "north")
    with pytest.raises(IdentityError, match="another kind than ECDSA on P-256"):
        make(authority, key=pems[1])
    with pytest.raises(IdentityError, match="no request for a certificate"):
        Signer(*authority).certify(b"junk", "client", "north", NOW, NOW + DAY)
