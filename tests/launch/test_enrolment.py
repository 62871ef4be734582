"""How certificates come to others: real files, real sockets, and whoever else comes to them."""

import http.client
import json
import random
import socket
import ssl
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedps import crypto
from fedps.access.authority import Authority, read_token
from fedps.errors import IdentityError, JobError, LostError, RefusedError
from fedps.launch import enrolment
from fedps.launch.addresses import Address
from fedps.launch.enrolment import MOST_AT_ONCE, MOST_BYTES, MOST_OF_ONE, Service, join, renew
from fedps.storage.credentials import read_credentials
from tests.ports import free_port


class Served:
    """An authority that answers, and what it has said."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.said = Authority.init(folder), list[str]()
        self.service = Service(self.authority, Address("127.0.0.1", free_port()), 30, self.said.append)
        self.at = self.service.at
        self._thread = threading.Thread(target=self.service.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self.service.shutdown()
        self.service.server_close()
        self._thread.join()

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
        """Say anything, as one who takes any certificate for good."""
        connection = http.client.HTTPSConnection(self.at.host, self.at.port, context=unproven(), timeout=30)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found


def unproven() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def join_at_last(served: Served, token: str, out: Path) -> None:
    """Join once those that came before are looked at: until then there may be no room."""
    while not (out / "cert.pem").exists():
        with suppress(LostError):
            join(served.at, token, out)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "certs")
    yield served
    served.close()


def test_a_client_joins_and_renews_with_keys_that_never_travel(served: Served, tmp_path: Path) -> None:
    joined = join(served.at, served.authority.token("north", 60), tmp_path / "north")
    first = read_credentials(tmp_path / "north")
    assert first.check() == joined
    assert joined[:2] == ("client", "north")
    renewed = renew(served.at, tmp_path / "north")
    second = read_credentials(tmp_path / "north")
    assert second.check() == renewed
    assert (renewed.name, renewed.serial) != (joined.name, joined.serial)
    assert first.key != second.key
    assert [r.name for r in served.authority.records()] == ["north", "north"]
    assert [line.split(" from ")[0] for line in served.said] == ["client north: joins", "client north: renews"]
    for path in [tmp_path / "north", *(tmp_path / "north").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0
    assert not (served.authority.folder / "issued").exists()  # the authority never had the key


def test_a_server_renews_too(served: Served) -> None:
    served.authority.issue("server", "0")
    renewed = renew(served.at, served.authority.folder / "issued" / "server-0")
    assert renewed[:2] == ("server", "0")


def test_the_list_of_revoked_ones_comes_with_a_renewal_and_the_revoked_get_none(served: Served, tmp_path: Path) -> None:
    for name in ("north", "south"):
        join(served.at, served.authority.token(name, 60), tmp_path / name)
    served.authority.revoke("client", "south")
    with pytest.raises(
        RefusedError, match=r"the certificate of client south was revoked on .*: ask the authority's owner"
    ):
        renew(served.at, tmp_path / "south")
    renew(served.at, tmp_path / "north")
    north = read_credentials(tmp_path / "north")
    assert len(crypto.read_revoked(north.revoked, north.ca)) == 1


def test_one_token_is_good_for_one_of_two_who_come_at_once(served: Served, tmp_path: Path) -> None:
    token, got, refused = served.authority.token("north", 60), [], []

    def go(k: int) -> None:
        try:
            got.append(join(served.at, token, tmp_path / f"north-{k}"))
        except RefusedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=go, args=[k]) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(refused) == 5
    assert all("this token, for client north, was used on" in said for said in refused)


def test_an_expired_token_is_told_so(served: Served, tmp_path: Path) -> None:
    token = served.authority.token("north", 0.0)
    with pytest.raises(RefusedError, match="this token, for client north, expired on"):
        join(served.at, token, tmp_path / "north")
    assert list((tmp_path / "north").iterdir()) == []


def test_nobody_says_a_token_to_another_authority(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    before = enrolment._ask

    def ask(at: Address, context: ssl.SSLContext, method: str, path: str, *said: enrolment.Ask) -> bytes:
        asked.append(path)
        return before(at, context, method, path, *said)

    monkeypatch.setattr(enrolment, "_ask", ask)
    token = Authority.init(tmp_path / "other").token("north", 60)
    with pytest.raises(IdentityError, match=r"is not the authority that made this token .* the token was not sent"):
        join(served.at, token, tmp_path / "north")
    assert asked == ["/ca"]
    assert served.said == []


def test_who_shows_the_right_certificate_of_an_authority_must_have_its_key(served: Served, tmp_path: Path) -> None:
    """One in between, with a certificate of its own, hands the true authority's on, and is found out before the token is said."""
    between = Served(tmp_path / "between")
    try:
        genuine = served.authority
        between.authority.ca = genuine.ca
        with pytest.raises(IdentityError, match=r"is not our authority .*: correct --at; nothing was sent"):
            join(between.at, genuine.token("north", 60), tmp_path / "north")
        assert between.said == []
    finally:
        between.close()


def test_certificates_of_others_are_not_renewed(served: Served, tmp_path: Path) -> None:
    other = Authority.init(tmp_path / "other")
    other.issue("client", "north")
    with pytest.raises(IdentityError, match="is not our authority"):  # it is not theirs, and they are told first
        renew(served.at, other.folder / "issued" / "client-north")
    folder = other.folder / "issued" / "client-north"
    (folder / "ca.pem").write_bytes(served.authority.ca)
    with pytest.raises(IdentityError, match="is not signed by this authority"):
        renew(served.at, folder)
    status, said = served.post("/renew", b'{"request": ""}')
    assert (status, said["reason"]) == (401, "show the present certificate to renew it; who has none joins by a token")


def test_an_expired_certificate_is_told_where_it_lies(served: Served) -> None:
    served.authority.issue("client", "north", days=0.0)
    folder = served.authority.folder / "issued" / "client-north"
    with pytest.raises(
        IdentityError, match=r"client-north: the certificate of client north expired on .* ask its owner"
    ):
        renew(served.at, folder)


def test_a_folder_that_has_a_certificate_is_not_written_over(served: Served, tmp_path: Path) -> None:
    join(served.at, served.authority.token("north", 60), tmp_path / "north")
    token = served.authority.token("south", 60)
    with pytest.raises(IdentityError, match="holds a certificate already: renew it by `fedps certs renew --at"):
        join(served.at, token, tmp_path / "north")
    join(served.at, token, tmp_path / "south")  # the token is not spent


def test_what_is_no_request_is_answered_in_words(served: Served) -> None:
    secret = b64encode(read_token(served.authority.token("north", 60))[0]).decode()
    for path, body, status, said in [
        ("/nowhere", b'{"request": ""}', 404, "there is /ca, /join and /renew"),
        ("/join", b"", 400, "malformed"),
        ("/join", b"[]", 400, "malformed"),
        ("/join", b'{"request": "", "role": "server"}', 400, "malformed"),
        ("/join", b'{"request": "", "token": "?"}', 400, "malformed"),
        ("/join", b"\xff\xfe", 400, "malformed"),
        ("/join", b'{"\\u001b[31m\\nclient north: joins": 1}', 400, "malformed"),
        ("/join", json.dumps({"request": "junk", "token": secret}).encode(), 403, "no request for a certificate"),
        ("/join", json.dumps({"request": "junk", "token": "AAAA"}).encode(), 403, "is not one of this authority's"),
    ]:
        found, answer = served.post(path, body)
        assert (found, said in answer["reason"]) == (status, True), answer
    for length in (str(MOST_BYTES + 1), "9" * 30, "-1", "many"):
        assert served.post("/join", b"", **{"Content-Length": length})[0] == 413
    assert served.authority.records() == []
    assert all(line.startswith("refused 127.0.0.1: ") and line.isprintable() for line in served.said)
    assert any(r"\x1b[31m\nclient north: joins" in line for line in served.said), "as all that peers say is written"


def test_who_speaks_no_tls_or_little_holds_nobody_else(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "DEADLINE", 1.0)
    hosts = [
        f"127.0.0.{2 + k % 6}" for k in range(6 * MOST_OF_ONE)
    ]  # six addresses of this machine: more than there is room for
    idle = [socket.create_connection(served.at, source_address=(host, 0)) for host in hosts]
    idle[0].sendall(b"GET /ca HTTP/1.1\r\n\r\n")
    for door in idle:  # those beyond the limit are hung up on at once, the others at their deadline
        door.settimeout(60)
        with suppress(ConnectionResetError):
            while door.recv(100):
                pass
        door.close()
    monkeypatch.setattr(enrolment, "DEADLINE", 60.0)
    join(served.at, served.authority.token("north", 60), tmp_path / "north")


def test_mutated_requests_harm_nobody(served: Served, tmp_path: Path) -> None:
    """What a thread raises would be a warning, and fail this; a token that was not said is not spent."""
    token, rng = served.authority.token("north", 600), random.Random(0)
    body = json.dumps({"request": "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n", "token": "A" * 44}).encode()
    whole = b"POST /join HTTP/1.1\r\nContent-Length: %d\r\nHost: x\r\n\r\n%b" % (len(body), body)
    for k in range(200):
        bad = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(bad))
            bad[at : at + rng.randrange(1, 20)] = rng.randbytes(rng.randrange(20))
        with socket.create_connection(served.at) as door:
            if k % 10 == 0:
                door.sendall(bad)  # not even TLS
                continue
            with suppress(OSError), unproven().wrap_socket(door) as secured:
                secured.sendall(bad)
                secured.settimeout(0.05)
                secured.recv(1000)
    join_at_last(served, token, tmp_path / "north")
    assert [r.name for r in served.authority.records()] == ["north"]


def test_one_address_leaves_room_for_others(served: Served, tmp_path: Path) -> None:
    assert MOST_OF_ONE < MOST_AT_ONCE
    idle = [socket.create_connection(served.at, source_address=("127.0.0.2", 0)) for _ in range(MOST_AT_ONCE)]
    join(served.at, served.authority.token("north", 60), tmp_path / "north")
    for door in idle:
        door.close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # one may go in the middle of `wrap_socket`
def test_who_goes_as_soon_as_it_comes_takes_no_place(served: Served, tmp_path: Path) -> None:
    for k in range(3 * MOST_AT_ONCE):
        door = socket.create_connection(served.at)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, in place of an end
        door.sendall(b"x" * (k % 2))
        door.close()
    join_at_last(served, served.authority.token("north", 600), tmp_path / "north")


def test_a_drip_of_bytes_is_cut_off_at_the_deadline(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "DEADLINE", 1.0)
    secured = unproven().wrap_socket(socket.create_connection(served.at))
    with pytest.raises(OSError):
        for _ in range(600):
            secured.sendall(b"X-Y: z\r\n"[:1])
            time.sleep(0.05)
    secured.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(served: Served, version: ssl.TLSVersion) -> None:
    context = unproven()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(OSError), socket.create_connection(served.at) as plain:
        context.wrap_socket(plain)


def test_nobody_there_or_somebody_else_is_told_with_the_remedy(tmp_path: Path, served: Served) -> None:
    token = served.authority.token("north", 60)
    nowhere = Address("127.0.0.1", free_port())
    with pytest.raises(LostError, match=r"no authority answers there .*: correct --at, or start `fedps certs serve`"):
        join(nowhere, token, tmp_path / "north")
    with socket.create_server(("127.0.0.1", free_port())) as plain:

        def answer() -> None:
            with plain.accept()[0] as door:
                door.recv(1000)
                door.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LostError, match="no authority answers there"):
            join(Address(*plain.getsockname()), token, tmp_path / "north")
        thread.join()
    with pytest.raises(JobError, match="cannot listen there: Address already in use; choose another address"):
        Service(served.authority, served.at, 30, print)
