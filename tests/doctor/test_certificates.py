"""What the doctor finds in folders of certificates, and at an address."""

from pathlib import Path

import pytest

from fedps.doctor.certificates import examine
from fedps.doctor.finding import Finding
from fedps.errors import JobError
from fedps.launch.addresses import read_address
from fedps.net.tls import Certificates
from fedps.storage.credentials import KEY
from tests.authorities import authority, credentials, write
from tests.net.echo import EchoServer, served
from tests.ports import free_address


def findings(certs: Path, at: str | None = None) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(certs, None if at is None else read_address("--at", at))}


def test_each_certificate_of_an_authority_is_looked_at(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "fine", "gone", "torn")
    issued = made.folder / "issued"
    made.revoke("client", "gone")
    write(issued / "client-old", credentials(made, "client", "old", -5, -1))
    write(issued / "client-soon", credentials(made, "client", "soon", -5, 1))
    (issued / "client-torn" / KEY).write_bytes(b"junk")
    (issued / "server-0" / KEY).chmod(0o644)
    found = findings(made.folder)
    assert {what: finding.state for what, finding in found.items()} == {
        "client fine": "ok", "client gone": "fault", "client old": "fault", "client soon": "warning", "client-torn": "fault",
        "server 0": "fault",
    }  # fmt: skip
    assert found["client soon"].remedy == "fedps certs renew client soon"
    assert "expired on 20" in found["client old"].said
    assert found["client gone"].said == "is revoked"
    assert "others may read this key" in found["server 0"].said
    with pytest.raises(JobError, match="holds no certificate"):
        findings(tmp_path)


def test_who_answers_at_an_address_is_told(tmp_path: Path) -> None:
    made, other = authority(tmp_path / "certs", "7"), authority(tmp_path / "other", "7")
    own = made.folder / "issued" / "client-7"
    with served(EchoServer(), certificates=Certificates(made.folder, "server", "0")) as at:
        right = findings(own, at)[at]
        assert (right.state, right.said[:11], right.said[-13:]) == ("ok", "is server 0", " it takes client-7"[-13:])
        assert "TLSv1.3" in right.said
        assert "not to be trusted" in findings(other.folder, at)[at].said
        expired = write(tmp_path / "client-7", credentials(made, "client", "7", -5, -1))
        assert findings(expired, at)[at].state == "fault"
        made.revoke("server", "0")
        gone = findings(own, at)[at]
        assert (gone.state, gone.said) == ("fault", "is server 0, whose certificate was revoked")
    with served(EchoServer()) as at:
        assert "no handshake with" in findings(own, at)[at].said
    nobody = free_address()
    assert "cannot be reached" in findings(own, nobody)[nobody].said
