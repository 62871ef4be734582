"""A client's kit: what arrives is checked whole before any of it is written."""

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedps.access import kits
from fedps.access.authority import Authority
from fedps.access.kits import FILES, JOB, MANIFEST, Manifest, check_job, lay_open, read_kit
from fedps.config.shared import shared_part
from fedps.crypto import DAY
from fedps.errors import IdentityError, JobError
from fedps.storage.credentials import read_credentials, write_credentials
from tests.conftest import MakeJob

NOW = 1_900_000_000.0  # seconds since 1970
Contents = dict[str, bytes]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority.init(tmp_path / "certs", now=lambda: NOW)
    authority.issue("client", "alice")
    return authority


@pytest.fixture
def kit(authority: Authority, tmp_path: Path) -> Path:
    manifest = Manifest(
        "client", "alice", "films", "10.0.0.1:10000", None, ['name="films"'], {"runner.epochs": "2"}, NOW
    )
    credentials = read_credentials(authority.folder / "issued" / "client-alice")
    kits.pack(tmp_path / "alice.kit", manifest, b"runner: {}\n", credentials)
    return tmp_path / "alice.kit"


def contents(kit: Path) -> Contents:
    with zipfile.ZipFile(kit) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def repack(kit: Path, files: Contents, attributes: int = 0o600, packing: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(kit, "w", packing) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = packing
            entry.external_attr = attributes << 16
            packed.writestr(entry, content)


def test_what_is_packed_is_laid_open(kit: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(kit.stat().st_mode) == 0o600
    assert set(contents(kit)) == {MANIFEST, *FILES}
    folder, manifest = lay_open(kit, None, NOW)
    assert folder == tmp_path / "alice"
    assert (manifest.name, manifest.servers, manifest.job) == ("alice", "10.0.0.1:10000", "films")
    assert (folder / JOB).read_bytes() == b"runner: {}\n"
    assert read_credentials(folder / "certs").check().name == "alice"
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_one_that_is_laid_open_keeps_its_renewed_certificate(kit: Path, authority: Authority, tmp_path: Path) -> None:
    folder, _ = lay_open(kit, None, NOW)
    authority.renew("client", "alice", days=90)
    renewed = read_credentials(authority.folder / "issued" / "client-alice")
    write_credentials(folder / "certs", renewed)
    assert (
        lay_open(kit, None, NOW + 60 * DAY)[0] == folder == lay_open(folder, None, NOW)[0]
    )  # the first has expired by then
    assert read_credentials(folder / "certs") == renewed
    (tmp_path / "mine").mkdir()
    with pytest.raises(IdentityError, match="mine: is there already, and not this kit laid open: name another --out"):
        lay_open(kit, tmp_path / "mine", NOW)


def test_one_that_has_expired_is_told_with_its_date(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(
        IdentityError, match=r"alice.kit: the certificate of client alice expired on 2030-04-16 .*ask for it a"
    ):
        lay_open(kit, None, NOW + 30 * DAY)
    assert not (tmp_path / "alice").exists()


def test_another_job_is_refused_with_the_first_difference(make_job: MakeJob) -> None:
    job = make_job()
    manifest = Manifest("client", "alice", job.name, "a:1", None, [], shared_part(job), NOW)
    check_job(manifest, job)
    with pytest.raises(
        JobError, match=r"another job than the kit's: runner.geo_step: 7 here, 5 there, in the kit; correct it"
    ):
        check_job(manifest, make_job(geo_step=7))


def swap(name: str, content: bytes) -> Callable[[Contents], None]:
    return lambda files: files.update({name: content})


def add_to_manifest(packed: Contents, **facts: object) -> None:
    packed[MANIFEST] = json.dumps(json.loads(packed[MANIFEST]) | facts).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap("../evil", b"x"), "holds '../evil', which no kit holds: nothing of it was written"),
        (swap("/etc/evil", b"x"), "holds '/etc/evil', which no kit holds"),
        (swap("certs/../../evil", b"x"), "which no kit holds"),
        (swap("net.py", b"import os"), "holds 'net.py', which no kit holds"),
        (swap(JOB, b"runner: {epochs: 9}"), "job.yaml in it is not what kit.json says: it is damaged, or was changed"),
        (swap("certs/key.pem", b""), "certs/key.pem in it is not what kit.json says"),
        (swap(MANIFEST, b"{"), "kit.json: is damaged"),
        (swap(MANIFEST, b'{"form": 1}'), "kit.json: is damaged"),
        (swap(MANIFEST, b'{"form": 2}'), "is a kit of form 2, and this fedps reads form 1"),
        (swap(MANIFEST, b'{"form": ' + b"[" * 100_000), "kit.json: is damaged"),
        (lambda files: add_to_manifest(files, name="../../alice"), "kit.json: is damaged (client '../../alice': a name has"),
        (lambda files: add_to_manifest(files, name="a\x1b[2J"), "kit.json: is damaged"),
        (lambda files: files.pop(JOB), "lacks job.yaml"),
        (lambda files: files.pop(MANIFEST), "lacks kit.json"),
        (lambda files: add_to_manifest(files, name="bob"), "is for client bob, and its certificate for client alice"),
        (lambda files: add_to_manifest(files, role="server"), "is for server alice, and its certificate for client"),
    ],
)  # fmt: skip
def test_what_no_kit_holds_is_refused_whole(
    kit: Path, tmp_path: Path, change: Callable[[Contents], None], said: str
) -> None:
    files = contents(kit)
    change(files)
    repack(kit, files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(IdentityError, match=r"alice.kit: ") as told:
        lay_open(kit, None, NOW)
    assert said in str(told.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_packed_in_another_way_is_not_unpacked(kit: Path, packing: int) -> None:
    repack(kit, contents(kit), packing=packing)
    packed = kit.read_bytes()
    kit.write_bytes(packed[:60] + b"\xff" * 60 + packed[120:])
    with pytest.raises(IdentityError, match=r"alice.kit: kit.json in it is packed as no kit is"):
        read_kit(kit)


def test_links_and_files_named_twice_are_refused(kit: Path) -> None:
    files = contents(kit)
    repack(kit, files, stat.S_IFLNK | 0o777)
    with pytest.raises(IdentityError, match="is a link, not a file: nothing of it was written"):
        read_kit(kit)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(kit, "w") as packed:
        for name in (*files, JOB):
            packed.writestr(name, files[name])
    with pytest.raises(IdentityError, match=r"holds job.yaml twice"):
        read_kit(kit)


def test_a_certificate_that_is_not_whole_or_revoked_is_refused(kit: Path, authority: Authority, tmp_path: Path) -> None:
    def with_file(name: str, content: bytes) -> None:
        files = contents(kit) | {name: content}
        digests = json.loads(files[MANIFEST])["files"] | {name: hashlib.sha256(content).hexdigest()}
        add_to_manifest(files, files=digests)
        repack(tmp_path / "made.kit", files)

    other = Authority.init(tmp_path / "other", now=lambda: NOW)
    for name, content, said in [
        ("certs/ca.pem", other.ca, "is not signed by this authority"),
        ("certs/key.pem", b"", "is not that of the certificate beside it"),
        ("certs/cert.pem", b"junk", "this is no certificate"),
        ("certs/revoked.pem", b"", "no list of revoked certificates"),
    ]:
        with_file(name, content)
        with pytest.raises(IdentityError, match=said):
            read_kit(tmp_path / "made.kit")
    authority.revoke("client", "alice")
    with_file("certs/revoked.pem", authority.revoked())
    with pytest.raises(IdentityError, match="the certificate of client alice in it is revoked"):
        read_kit(tmp_path / "made.kit")


def test_much_in_little_is_not_unpacked(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kits, "LARGEST", 100_000)
    files = contents(kit) | {JOB: b" " * 100_001}
    with zipfile.ZipFile(kit, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    with pytest.raises(IdentityError, match=r"job.yaml in it has 100,001 bytes, of 100,000"):
        read_kit(kit)
    lying = kit.read_bytes().replace((100_001).to_bytes(4, "little"), (99).to_bytes(4, "little"))
    kit.write_bytes(lying)
    with pytest.raises(IdentityError, match=r"alice.kit: "):
        read_kit(kit)
    monkeypatch.setattr(kits, "MOST_BYTES", 1000)
    with pytest.raises(IdentityError, match="has more than 1,000 bytes, which no kit has"):
        read_kit(kit)


def test_no_damage_passes(kit: Path) -> None:
    """Each of 1,000 flipped bits and 300 cuts is told in words, or changed nothing that counts."""
    whole, good = kit.read_bytes(), read_kit(kit)
    rng, refused = np.random.default_rng(0), 0
    for k in range(1300):
        bad = bytearray(whole)
        if k < 1000:
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        else:
            del bad[rng.integers(len(bad)) :]
        kit.write_bytes(bad)
        try:
            assert read_kit(kit) == good
        except IdentityError as error:
            refused += 1
            assert "alice.kit" in str(error)
    assert refused > 1000


def test_what_is_no_kit_at_all_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"nowhere.kit: No such file or directory: name the kit's file"):
        lay_open(tmp_path / "nowhere.kit", None, NOW)
    (tmp_path / "empty.kit").write_bytes(b"")
    (tmp_path / "other.kit").write_bytes(b"not a zip file" * 100)
    for name in ("empty.kit", "other.kit"):
        with pytest.raises(IdentityError, match=f"{name}: is no kit, or a damaged one"):
            lay_open(tmp_path / name, None, NOW)
    with pytest.raises(
        IdentityError, match=r"kit.json: No such file or directory: name a kit's file, or the folder of an open"
    ):
        lay_open(tmp_path, None, NOW)
    packed = io.BytesIO()
    zipfile.ZipFile(packed, "w").close()
    (tmp_path / "bare.kit").write_bytes(packed.getvalue())
    with pytest.raises(IdentityError, match=r"lacks certs/ca.pem: it is no kit of a client"):
        lay_open(tmp_path / "bare.kit", None, NOW)
