"""An authority's folder: who gets a certificate, who none; what it looks like after a crash at any write."""

from pathlib import Path

import pytest

from fedps import crypto
from fedps.access.authority import Authority
from fedps.errors import IdentityError
from fedps.storage.credentials import find_credentials, read_credentials

NOW = 1_900_000_000.0  # seconds since 1970


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "certs", now=lambda: NOW)


def test_files_are_their_owners_alone(authority: Authority) -> None:
    authority.issue("client", "north")
    for path in [authority.folder, *authority.folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_is_issued_is_a_whole_folder_found_by_role_and_name(authority: Authority) -> None:
    issued = authority.issue("server", "0", days=2)
    folder = find_credentials(authority.folder, "server", "0")
    assert find_credentials(folder, "server", "0") == folder
    assert read_credentials(folder).check() == issued
    assert issued.expires == NOW + 2 * crypto.DAY
    with pytest.raises(
        IdentityError, match="holds no certificate of client north: make it by `fedps certs issue client north"
    ):
        find_credentials(authority.folder, "client", "north")


def test_a_renewed_one_has_another_key_and_a_revoked_one_none(authority: Authority) -> None:
    first = authority.issue("client", "north")
    before = read_credentials(authority.folder / "issued" / "client-north")
    with pytest.raises(IdentityError, match=r"has a certificate already.*fedps certs renew client north"):
        authority.issue("client", "north")
    second = authority.renew("client", "north")
    after = read_credentials(authority.folder / "issued" / "client-north")
    assert first.serial != second.serial
    assert before.key != after.key
    authority.revoke("client", "north")
    assert crypto.read_revoked(authority.revoked(), authority.ca) == {first.serial, second.serial}
    assert read_credentials(authority.folder / "issued" / "client-north").revoked == authority.revoked()
    with pytest.raises(IdentityError, match="was revoked on 2030-03-17"):
        authority.renew("client", "north")
    assert authority.issue("client", "north").serial not in {first.serial, second.serial}
