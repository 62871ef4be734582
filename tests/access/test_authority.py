"""An authority's folder: who gets a certificate, who none, by two at once, and after a crash at any step."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fedps import crypto
from fedps.access.authority import SECRET, Authority, Granted, check_name, read_token
from fedps.crypto import DAY
from fedps.errors import IdentityError
from fedps.storage.credentials import find_credentials, read_credentials
from tests.storage.crashes import disk

NOW = 1_900_000_000.0  # seconds since 1970: 2030-03-17


class Clock:
    """Says what time it is."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.init(tmp_path / "certs", now=clock)


def request() -> bytes:
    return crypto.make_request(crypto.make_key(), "client", "whoever")


def redeem(authority: Authority, token: str) -> Granted:
    return authority.redeem(request(), read_token(token)[0])


def test_files_are_their_owners_alone(authority: Authority) -> None:
    authority.issue("client", "north")
    authority.token("south", 60)
    for path in [authority.folder, *authority.folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_key_is_not_printed_with_what_holds_it(authority: Authority) -> None:
    authority.issue("client", "north")
    found = read_credentials(authority.folder / "issued" / "client-north")
    assert "PRIVATE" not in f"{found!r} {found} {[found]}"


def test_a_folder_is_made_once_and_only_where_nothing_else_is(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="holds an authority already"):
        Authority.init(authority.folder)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to.txt").write_text("x")
    with pytest.raises(IdentityError, match=r"letters: holds other files \(to.txt\): name an empty folder"):
        Authority.init(tmp_path / "letters")
    with pytest.raises(IdentityError, match=r"is no authority's folder .*: make one by `fedps certs init"):
        Authority(tmp_path / "letters")


def test_a_key_that_others_may_read_is_not_used(authority: Authority) -> None:
    (authority.folder / "ca.key").chmod(0o640)
    with pytest.raises(IdentityError, match="others may read this key: chmod 600 it"):
        Authority(authority.folder)


def test_what_is_issued_is_a_whole_folder_found_by_role_and_name(authority: Authority) -> None:
    issued = authority.issue("server", "0", days=2)
    folder = find_credentials(authority.folder, "server", "0")
    assert find_credentials(folder, "server", "0") == folder
    assert read_credentials(folder).check() == issued
    assert issued.expires == NOW + 2 * DAY
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
    with pytest.raises(IdentityError, match=r"was revoked on 2030-03-17.*issue another by `fedps certs issue client n"):
        authority.renew("client", "north")
    assert authority.issue("client", "north").serial not in {first.serial, second.serial}
    for do in (authority.renew, authority.revoke):
        with pytest.raises(IdentityError, match=r"client souht: has no certificate .* which knows client north; see"):
            do("client", "souht")


def test_nothing_outlives_its_authority(authority: Authority, clock: Clock) -> None:
    clock.now = authority.expires - DAY
    assert authority.issue("client", "north").expires == authority.expires
    clock.now = authority.expires
    with pytest.raises(IdentityError, match=r"this authority expired on .*: make a new one by `fedps certs init`"):
        authority.issue("client", "south")


def test_a_name_is_free_again_once_its_certificate_has_expired(authority: Authority, clock: Clock) -> None:
    authority.issue("client", "north", days=1)
    clock.now += DAY
    authority.issue("client", "north")


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("clerk", "0", "role 'clerk': is none of server, client, coordinator, observer"),
        ("server", "01", "servers are called by their numbers"),
        ("server", "one", "servers are called by their numbers"),
        ("server", "-1", "servers are called by their numbers"),
        ("server", "٣", "servers are called by their numbers"),
        ("coordinator", "1", "there is one, called 0"),
        ("client", "", "printable characters"),
        ("client", " north", "no space at its ends"),
        ("client", "a\nb", "printable characters"),
        ("client", "a\x00b", "printable characters"),
        ("client", "\u202enorth", "printable characters"),
        ("client", "../north", "has no / and no"),
        ("client", "a/b", "has no / and no"),
        ("client", "a\\b", "has no / and no"),
        ("client", "..", "begins with neither . nor -"),
        ("client", ".hidden", "begins with neither . nor -"),
        ("client", "--help", "begins with neither . nor -"),
        ("client", "x" * 201, "at most 200 bytes, this one 201"),
        ("client", "e\u0301cole", "composed characters"),
        ("observer", "../board", "has no / and no"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_whatever_is_asked(
    authority: Authority, role: str, name: str, said: str
) -> None:
    for do in (
        lambda: authority.issue(role, name),
        lambda: authority.token(name, 60, role),
        lambda: check_name(role, name),
    ):
        with pytest.raises(IdentityError, match=said):
            do()
    assert authority.records() == []


@pytest.mark.parametrize("name", ["0", "hospital-north", "Hôpital Nord", "名前", "a.b", "x" * 200, "50%", "a&b;c"])
def test_a_client_is_called_as_its_data_file(authority: Authority, name: str) -> None:
    assert authority.issue("client", name).name == name
    assert read_credentials(find_credentials(authority.folder, "client", name)).check().name == name


def test_a_token_is_good_once(authority: Authority) -> None:
    token = authority.token("north", 60)
    secret, of = read_token(token)
    assert of == crypto.fingerprint(authority.ca)
    assert len(secret) == SECRET
    assert secret.hex() not in (authority.folder / "tokens.json").read_text()
    granted = redeem(authority, token)
    assert crypto.identity_of(granted.certificate).name == "north"
    crypto.check_signed(granted.certificate, authority.ca)
    with pytest.raises(
        IdentityError, match=r"this token, for client north, was used on 2030-03-17 .*: ask for another"
    ):
        redeem(authority, token)
    assert [r.name for r in authority.records()] == ["north"]


def test_tokens_that_are_late_of_others_or_overtaken_are_refused(
    authority: Authority, clock: Clock, tmp_path: Path
) -> None:
    late, overtaken = authority.token("north", 60), authority.token("south", 1e9)
    clock.now += 60
    with pytest.raises(IdentityError, match="for client north, expired on 2030-03-17 17:47:40 UTC: ask for another"):
        redeem(authority, late)
    other = Authority.init(tmp_path / "other", now=clock).token("east", 60)
    with pytest.raises(IdentityError, match="is not one of this authority's: ask its owner for another"):
        redeem(authority, other)
    authority.issue("client", "south")
    with pytest.raises(IdentityError, match="client south: has a certificate already"):
        redeem(authority, overtaken)
    with pytest.raises(IdentityError, match=r"client south: has a certificate already.*revoke it first"):
        authority.token("south", 60)


@pytest.mark.parametrize("text", ["", "fedps-", "fedps-????", "hello", "fedps-" + "A" * 85, "fedps-" + "A" * 87])
def test_what_is_no_token_is_told_before_anything_is_asked(text: str) -> None:
    with pytest.raises(
        IdentityError, match="is no token, or not all of one: copy what `fedps certs token` has printed"
    ):
        read_token(text)


def test_a_bad_request_spends_no_token(authority: Authority) -> None:
    token = authority.token("north", 60)
    for bad in (b"", b"junk", authority.ca):
        with pytest.raises(IdentityError, match="no request for a certificate"):
            authority.redeem(bad, read_token(token)[0])
    redeem(authority, token)


def test_of_many_who_redeem_one_token_at_once_one_does(authority: Authority) -> None:
    """Each opens the folder anew, as processes do."""
    token, granted, refused = authority.token("north", 60), [], []
    ready = threading.Barrier(8)

    def go() -> None:
        mine = Authority(authority.folder, now=lambda: NOW)
        ready.wait()
        try:
            granted.append(redeem(mine, token))
        except IdentityError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 1
    assert len(refused) == 7
    assert all("was used on" in said for said in refused)
    assert len(authority.records()) == 1


def test_renewal_by_request_is_for_those_on_record_and_not_revoked(authority: Authority, tmp_path: Path) -> None:
    identity = authority.issue("client", "north")
    granted = authority.renew_by(request(), identity)
    assert crypto.identity_of(granted.certificate)[:2] == ("client", "north")
    authority.revoke("client", "north")
    with pytest.raises(IdentityError, match=r"was revoked on 2030-03-17.*ask the authority's owner"):
        authority.renew_by(request(), identity)
    stranger = Authority.init(tmp_path / "other", now=lambda: NOW).issue("client", "north")
    with pytest.raises(IdentityError, match="is not one of this authority's"):
        authority.renew_by(request(), stranger)


def test_nobody_fills_the_index_by_renewing(
    authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.access.authority.MOST_VALID", 3)
    identity = authority.issue("client", "north")
    for _ in range(2):
        identity = crypto.identity_of(authority.renew_by(request(), identity, days=40).certificate)
    with pytest.raises(IdentityError, match="client north: has 3 certificates that are valid: renew less often"):
        authority.renew_by(request(), identity)
    authority.issue("client", "south")
    clock.now += 35 * DAY
    authority.renew_by(request(), identity)


@pytest.mark.parametrize("name", ["index.json", "tokens.json", "ca.pem"])
def test_a_damaged_file_is_named(authority: Authority, name: str) -> None:
    (authority.folder / name).write_bytes(b"[{")
    with pytest.raises(IdentityError, match=f"{name}: is damaged|no certificate"):
        Authority(authority.folder).token("north", 60)


def revoked_by(authority: Authority) -> set[str]:
    listed = crypto.read_revoked(authority.revoked(), authority.ca)
    return {r.name for r in authority.records() if int(r.serial, 16) in listed}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"[{")])
def test_a_lost_list_of_revoked_ones_is_made_again(authority: Authority, damage: Callable[[Path], object]) -> None:
    for name in ("north", "west"):
        authority.issue("client", name)
    authority.revoke("client", "west")
    damage(authority.folder / "revoked.pem")
    authority.revoke("client", "north")
    assert revoked_by(authority) == {"north", "west"}


@pytest.mark.parametrize("name", ["index.json", "revoked.pem"])
def test_who_was_revoked_stays_so_whatever_old_copy_is_put_back(authority: Authority, name: str) -> None:
    identity = authority.issue("client", "north")
    before = (authority.folder / name).read_bytes()
    authority.revoke("client", "north")
    (authority.folder / name).write_bytes(before)
    with pytest.raises(IdentityError, match="was revoked on"):
        authority.renew_by(request(), identity)
    authority.issue("client", "south")
    assert revoked_by(authority) == {"north"}


STEPS: dict[str, Callable[[Authority], object]] = {
    "issue": lambda a: a.issue("client", "south"),
    "renew": lambda a: a.renew("client", "north"),
    "revoke": lambda a: a.revoke("client", "west"),
    "token": lambda a: a.token("south", 60),
    "redeem": lambda a: redeem(a, TOKENS[a.folder]),
}
TOKENS: dict[Path, str] = {}


@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_the_folder_works(step: str, tmp_path: Path) -> None:
    """Before each thing that is done to the disk it stops for good, and what was not synced is lost."""
    authority = Authority.init(tmp_path / "certs", now=lambda: NOW)
    north, west = authority.issue("client", "north"), authority.issue("client", "west")
    token = authority.token("east", 60)
    for k in range(200):
        folder, done = tmp_path / str(k), False
        shutil.copytree(authority.folder, folder)
        TOKENS[folder] = token
        with disk(folder, k) as stopping:
            STEPS[step](Authority(folder, now=lambda: NOW))
            done = True
        again = Authority(folder, now=lambda: NOW)
        assert read_credentials(folder / "issued" / "client-north").check().name == "north"  # at every moment, a pair
        assert {north.serial, west.serial} <= {int(r.serial, 16) for r in again.records()}
        again.issue("client", "new")  # whatever it was, others go on
        recorded = {int(r.serial, 16): r for r in again.records()}
        for made in (folder / "issued").glob("*/cert.pem"):  # nobody has what nobody knows of
            assert crypto.identity_of(made.read_bytes()).serial in recorded
        gone = {serial for serial, r in recorded.items() if r.revoked is not None}
        assert (
            crypto.read_revoked(again.revoked(), again.ca) == gone
        )  # what was revoked is published by whoever comes next
        if done:
            break
    assert done
    assert stopping.steps == k > 5


def test_making_one_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    for k in range(100):
        folder, done = tmp_path / str(k), False
        with disk(tmp_path, k):
            Authority.init(folder)
            done = True
        if not (folder / "ca.pem").exists():
            Authority.init(folder)
        assert Authority(folder).records() == []
        if done:
            break
    assert done
    assert k > 10
