"""In the clear on this machine alone; elsewhere by certificates, or because somebody has said so, which is told loudly."""

from pathlib import Path

import pytest

from fedps.config.sections.security import Security
from fedps.errors import JobError
from fedps.launch.addresses import Address, check_protected
from fedps.net.protection import protect, stays_here
from tests.authorities import authority

FAR = "10.0.0.1:10000"


def test_what_stays_on_this_machine_is_what_its_loopback_carries() -> None:
    assert all(map(stays_here, ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1")))
    assert not any(map(stays_here, (FAR, "0.0.0.0:1", "[::]:1", "no-such-host.invalid:1", "8.8.8.8:53")))


def test_others_are_reached_by_certificates_or_where_people_insist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = ["127.0.0.1:1", "localhost:2"]
    assert protect(Security(), "server", "0", near) is None
    with pytest.raises(
        JobError, match=rf"server 0: {FAR} is not on this machine's loopback.* --certs DIR .* --insecure"
    ):
        protect(Security(), "server", "0", [*near, FAR])
    assert protect(Security(insecure=True), "server", "0", near) is None
    assert capsys.readouterr().err == "", "nothing to be loud about"
    for _ in range(2):
        assert protect(Security(insecure=True), "client", "a", [FAR]) is None
    assert capsys.readouterr().err.count(f"WARNING: client a: --insecure: connections at {FAR} are IN THE CLEAR") == 1
    authority(tmp_path / "certs")
    found = protect(Security(certs=tmp_path / "certs", insecure=True), "server", "0", [FAR])
    assert found is not None
    assert str(found.own) == "server 0"


def test_all_roles_of_a_run_that_lack_protection_are_told_at_once(tmp_path: Path) -> None:
    listeners = {("server", "0"): None, ("server", "1"): Address("10.0.0.1", 10_000)}
    with pytest.raises(JobError) as caught:
        check_protected(Security(), listeners, ["a"])
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == ["server 1"], "the others stay here"
    authority(tmp_path / "certs", "a")
    with pytest.raises(JobError) as caught:
        check_protected(Security(certs=tmp_path / "certs"), listeners, ["a", "b"])
    assert [mistake.partition(": make it by")[0][-30:] for mistake in caught.value.mistakes] == [
        " holds no certificate of server 1"[-30:], " holds no certificate of client b"[-30:],
    ]  # fmt: skip
