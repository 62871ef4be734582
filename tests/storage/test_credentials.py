"""A role's folder: found, read as one that fits, renewed under its readers."""

import threading
from pathlib import Path

import pytest

from fedps import crypto
from fedps.crypto import DAY, Signer
from fedps.errors import IdentityError
from fedps.storage import credentials
from fedps.storage.credentials import KEY, Credentials, find_credentials, read_credentials, write_credentials

NOW = 1_900_000_000.0  # seconds since 1970


@pytest.fixture(scope="module")
def made() -> list[Credentials]:
    """Twenty certificates of one client, each with its key."""
    ca, ca_key = crypto.make_authority(NOW, 365)
    signer, found = Signer(ca, ca_key), []
    for _ in range(20):
        key = crypto.make_key()
        request = crypto.make_request(key, "client", "north")
        certificate = signer.certify(request, "client", "north", NOW, NOW + DAY)
        found.append(Credentials(ca, certificate, key, signer.list_revoked({}, NOW)))
    return found


def test_what_is_written_is_read(made: list[Credentials], tmp_path: Path) -> None:
    for each in made[:3]:
        write_credentials(tmp_path / "north", each)
        assert read_credentials(tmp_path / "north") == each
        assert (tmp_path / "north" / KEY).read_bytes() == each.key


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem", "revoked.pem"])
def test_a_file_that_is_missing_large_or_another_is_named(
    made: list[Credentials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "north"
    write_credentials(folder, made[0])
    (folder / name).write_bytes(b"junk")
    with pytest.raises(IdentityError, match=r"north: this .*(no certificate|not that of|no list)"):
        read_credentials(folder)
    monkeypatch.setattr(credentials, "LARGEST", 2000)
    (folder / name).write_bytes(b"x" * 2001)
    with pytest.raises(IdentityError, match=rf"north/{name}: has more than 2,000 bytes"):
        read_credentials(folder)
    (folder / name).unlink()
    with pytest.raises(
        IdentityError, match=rf"north/{name}: No such file or directory: name a folder that `fedps certs` has"
    ):
        read_credentials(folder)


def test_a_folder_that_is_none_is_told_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"is neither a role's folder \(ca.pem, cert.pem, .*\) nor an authority's"):
        find_credentials(tmp_path, "client", "north")


def test_readers_find_a_pair_at_every_moment_of_many_renewals(made: list[Credentials], tmp_path: Path) -> None:
    write_credentials(tmp_path, made[0])
    stop = threading.Event()

    def renew() -> None:
        for each in made[1:]:
            write_credentials(tmp_path, each)
        stop.set()

    thread = threading.Thread(target=renew)
    thread.start()
    seen = set()
    while not stop.is_set():
        found = read_credentials(tmp_path)
        assert found[1:3] in [each[1:3] for each in made]  # certificate and key
        seen.add(found.certificate)
    thread.join()
    assert len(seen) > 1
    assert read_credentials(tmp_path) == made[-1]
