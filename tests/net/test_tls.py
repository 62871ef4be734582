"""R2: a wrong identity is refused, counted and told, while others are served; whoever dials is told what is wrong and the remedy."""

import json
import queue
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from fedps.access.authority import Authority
from fedps.errors import IdentityError, JobError, LostError, RefusedError
from fedps.net.channel import WRONG, Channel, _said
from fedps.net.listener import METHOD
from fedps.net.shards import Shards
from fedps.net.tls import Certificates
from fedps.storage.credentials import Credentials, read_credentials, write_credentials
from fedps.types import Init, Rule, TableSpec
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Hello, Refused, Welcome
from tests.authorities import authority, credentials, write
from tests.greeting import hello
from tests.net.echo import HELLO, LIMITS, EchoServer, served
from tests.net.guarded import guarded_job
from tests.ports import free_address

ROOT = Path(__file__).parents[2]
SPEC = TableSpec("rows", "sparse", (50, 4), Rule("add"), Init("constant", 0.5))
KEYS = np.arange(50)
WAIT = 20.0  # seconds; far beyond what any of this takes


class Guarded(NamedTuple):
    """A server in a process of its own."""

    folder: Path
    address: str
    authority: Authority
    process: "subprocess.Popen[str]"

    def hello(self, client: str = "alice") -> Hello:
        return hello(guarded_job(self.folder, 2), client)

    def certificates(self, client: str = "alice") -> Certificates:
        return Certificates(self.folder / "certs", "client", client)

    def refusals(self) -> Counter[str]:
        """How many were refused, by why."""
        found = Counter[str]()
        for line in (self.folder / "events").read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "refused":
                found[f"{event['client']}: {event['reason']}"] += event["count"]
        return found

    def end(self) -> str:
        """End it; return what it has written to standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=WAIT)[1]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    made, address = authority(tmp_path / "certs", "alice", "bob", "mallory"), free_address()
    command = [sys.executable, "-m", "tests.net.guarded", str(tmp_path), address, "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Guarded(tmp_path, address, made, process)
        finally:
            process.kill()


@pytest.fixture
def healthy(guarded: Guarded) -> Iterator[Shards]:
    """A client as it should be."""
    job = guarded_job(guarded.folder, 2)
    channel = Channel(guarded.address, hello(job, "alice"), Limits(), WAIT, guarded.certificates())
    with closing(Shards([channel], [SPEC], WAIT)) as shards:
        shards.join()
        yield shards


def served_still(shards: Shards) -> bool:
    rows = shards.pull({"rows": KEYS}).result(WAIT)["rows"]
    return bool((rows == 0.5).all())


def talk(guarded: Guarded, name: str, found: Credentials | None, client: str = "alice") -> Any:
    """Dial and greet as gRPC lets anybody; return the answer, or how it ended."""
    ca = guarded.authority.ca
    chosen = grpc.ssl_channel_credentials(ca, *((found.key, found.certificate) if found else ()))
    settings = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    outgoing = queue.SimpleQueue[bytes | None]()
    outgoing.put(encode(1, guarded.hello(client)))
    with grpc.secure_channel(guarded.address, chosen, options=settings) as channel:
        try:
            return decode(next(channel.stream_stream(METHOD)(iter(outgoing.get, None), timeout=WAIT)), Limits()).message
        except grpc.RpcError as error:
            return error.code()
        finally:
            outgoing.put(None)


def knock(guarded: Guarded, context: ssl.SSLContext | None, said: bytes) -> bytes:
    """Open a socket, perhaps with TLS, say something, and return what comes back."""
    host, _, port = guarded.address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=WAIT) as plain:
        if context is None:
            plain.sendall(said)
            return plain.recv(1 << 16)
        with context.wrap_socket(plain, server_hostname="0.server.fedps") as wrapped:
            wrapped.sendall(said)
            return wrapped.recv(1 << 16)
    return b""


def old_tls(guarded: Guarded) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    folder = guarded.folder / "certs" / "issued" / "client-alice"
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


SERVER = "0.server.fedps"
Attempt = Callable[[Guarded], Callable[[], Any]]
KINDS: dict[str, tuple[Attempt, str]] = {
    "no certificate": (lambda g: partial(talk, g, SERVER, None), "showed no certificate"),
    "another authority": (
        lambda g: partial(talk, g, SERVER, credentials(Authority.init(g.folder / "other"), "client", "alice")),
        "a certificate of another authority",
    ),
    "expired": (
        lambda g: partial(talk, g, SERVER, credentials(g.authority, "client", "alice", -5, -1)),
        "a certificate that has expired",
    ),
    "not yet valid": (
        lambda g: partial(talk, g, SERVER, credentials(g.authority, "client", "alice", 1, 5)),
        "a certificate that is not valid yet",
    ),
    "another client's name in Hello": (
        lambda g: partial(talk, g, SERVER, credentials(g.authority, "client", "bob")),
        "this is the certificate of client bob, who speaks as 'bob' alone, and not for client 'alice'",
    ),
    "revoked": (lambda g: partial(talk, g, SERVER, revoked(g)), "the certificate of client mallory was revoked"),
    "a server's as a client's": (
        lambda g: partial(talk, g, SERVER, credentials(g.authority, "server", "1")),
        "server 1 may not say Hello",
    ),
    "an observer in a client's name": (
        lambda g: partial(talk, g, SERVER, credentials(g.authority, "observer", "alice")),
        "this is the certificate of observer alice, who speaks as 'observer/alice' alone",
    ),
    "TLS 1.1": (lambda g: partial(knock, g, old_tls(g), b"hello"), "spoke TLS older than 1.2"),
    "in the clear": (lambda g: partial(knock, g, None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "spoke no TLS"),
}


def revoked(guarded: Guarded) -> Credentials:
    found = read_credentials(guarded.folder / "certs" / "issued" / "client-mallory")
    guarded.authority.revoke("client", "mallory")
    time.sleep(1.5)  # the server looks each second
    return found


@pytest.mark.parametrize("tries", [10, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_ten_kinds_of_wrong_identity_are_refused_and_counted_while_others_are_served(
    guarded: Guarded, healthy: Shards, tries: int
) -> None:
    for kind, (prepare, _) in KINDS.items():
        attempt = prepare(guarded)
        for _ in range(tries):
            answer = attempt()
            assert isinstance(answer, Refused | grpc.StatusCode | bytes), f"{kind}: {answer}"
            assert answer not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)
            if isinstance(answer, bytes):
                assert b"Welcome" not in answer
        assert served_still(healthy)
    right = credentials(guarded.authority, "client", "bob")  # a control: all else being equal it is let in
    assert isinstance(talk(guarded, SERVER, right, "bob"), Welcome)
    healthy.close()
    said = guarded.end()
    assert "Handshake failed" not in said, "a flood of lines from gRPC"
    told = guarded.refusals()
    for kind, (_, reason) in KINDS.items():
        assert sum(n for said, n in told.items() if reason in said) >= tries, (kind, told)


def test_who_dials_is_told_whose_certificate_is_wrong_from_when_and_the_remedy(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "alice")
    write(tmp_path / "old", credentials(made, "client", "alice", -5, -1))
    write(tmp_path / "new", credentials(made, "client", "alice", 1, 5))
    day = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    for folder, role, name, said in (
        (
            "old",
            "client",
            "alice",
            rf"/old: the certificate of client alice expired on {day}: renew it by `fedps certs",
        ),
        (
            "new",
            "client",
            "alice",
            rf"/new: the certificate of client alice is valid from {day} on, and it is {day} here",
        ),
        ("old", "client", "bob", "/old: is the folder of client alice, and this is client bob: give each role its own"),
        ("certs", "client", "bob", "holds no certificate of client bob: make it by `fedps certs issue client bob"),
        ("certs", "server", "1", "holds no certificate of server 1: make it by `fedps certs issue server 1"),
        ("nowhere", "client", "alice", "/nowhere: is neither a role's folder"),
    ):
        with pytest.raises(JobError, match=said):
            Certificates(tmp_path / folder, role, name)
    made.revoke("client", "alice")
    with pytest.raises(JobError, match="the certificate of client alice was revoked: ask"):
        Certificates(tmp_path / "certs", "client", "alice")


def dial(address: str, certificates: Certificates | None, number: int = 0, patience: float = 2.0) -> str:
    """Return why a connection does not come about."""
    with closing(Channel(address, HELLO, LIMITS, patience, certificates, str(number))) as channel:
        with pytest.raises(LostError) as caught:
            channel.welcome.result(WAIT)
    return str(caught.value)


def test_who_dials_is_told_what_is_wrong_with_the_certificate_that_it_is_shown(tmp_path: Path) -> None:
    made, other = authority(tmp_path / "certs", "7"), authority(tmp_path / "other", "7")
    ours = Certificates(made.folder, "client", "7")
    server = Certificates(made.folder, "server", "0")
    with served(EchoServer(), certificates=server) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, ours)) as channel:
            assert channel.welcome.result(WAIT).message == Welcome(0, 1, 0), "a control"
        assert "it shows the certificate of another; it is to be server 1" in dial(address, ours, number=1)
        assert f"is of another authority than ours; it is to be server 0, of the authority in {other.folder}" in dial(
            address, Certificates(other.folder, "client", "7")
        )
        assert "it may want certificates, by --certs" in dial(address, None)
    with served(EchoServer()) as address:
        assert "it speaks in the clear: start it with --certs" in dial(address, ours)
        assert "no server answers" in dial(address, ours, patience=1000.0), "it is not waited for, as a date might be"
    with served(EchoServer(), certificates=client_as_server(made)) as address:
        assert "it shows a certificate that is none to listen with" in dial(address, ours)


def test_who_shows_a_certificate_that_has_expired_is_waited_for_as_it_may_be_renewed(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7")
    folder = write(tmp_path / "0", credentials(made, "server", "0", -1, 10))
    server = Certificates(folder, "server", "0")
    write_credentials(folder, credentials(made, "server", "0", -5, -1))
    with served(EchoServer(), certificates=server) as address:
        reason = dial(address, Certificates(made.folder, "client", "7"))
    assert "no server answers" in reason
    assert (
        "the certificate that it shows has expired: renew it there by `fedps certs renew`; it is to be server 0"
        in reason
    )
    assert _said(WRONG, "CERTIFICATE_VERIFY_FAILED: certificate has expired") is None


def test_a_server_whose_certificate_was_revoked_is_told_nothing_but_hello(tmp_path: Path) -> None:
    made, service = authority(tmp_path / "certs", "7"), EchoServer()
    stolen = write(tmp_path / "0", read_credentials(made.folder / "issued" / "server-0"))
    ours = Certificates(made.folder, "client", "7")
    made.revoke("server", "0")
    with served(service, certificates=Certificates(stolen, "server", "0")) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, ours)) as channel:
            with pytest.raises(RefusedError, match="the certificate of server 0 was revoked: ask"):
                channel.welcome.result(WAIT)
    assert service.heard and all(isinstance(message, Hello) for message in service.heard)


def test_who_is_dialled_proves_it_to_one_client_for_one_question(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7", "8")
    other = Certificates(authority(tmp_path / "other", "7").folder, "server", "0")
    server, ours = Certificates(made.folder, "server", "0"), Certificates(made.folder, "client", "7")
    asked, theirs = ours.ask(), Certificates(made.folder, "client", "8").own
    ours.check_proof("server", "0", asked, server.prove(asked, ours.own))
    with pytest.raises(IdentityError, match="it answers as server 0"):
        ours.check_proof("server", "1", asked, server.prove(asked, ours.own))
    assert server.prove((), ours.own) == server.prove([("fedps-question-bin", b"short")], ours.own) == ()
    for answered, why in (
        (server.prove(asked, theirs), "has not signed this"),
        (server.prove(ours.ask(), ours.own), "has not signed this"),
        ((*server.prove(asked, ours.own), *other.prove(asked, ours.own)[1:]), "has not signed this"),
        (other.prove(asked, ours.own), "is not signed by this authority"),
        ((), "this is no certificate"),
    ):
        with pytest.raises(
            IdentityError, match=f"{why}.*: it runs another version of fedps, or somebody is in between"
        ):
            ours.check_proof("server", "0", asked, answered)


def client_as_server(made: Authority) -> Certificates:
    return Certificates(made.folder, "client", "7")


def test_a_client_whose_certificate_is_renewed_and_revoked_goes_on_and_is_told(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7")
    service, server = EchoServer(), Certificates(made.folder, "server", "0")
    folder = write(tmp_path / "7", credentials(made, "client", "7", -1, 3 / 86_400))
    with served(service, certificates=server) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, Certificates(folder, "client", "7"))) as channel:
            channel.welcome.result(WAIT)
            write_credentials(folder, credentials(made, "client", "7", -1, 6 / 86_400))
            until(lambda: service.connections == 2)  # it was hung up on, and came again
            made.renew("client", "7")
            write_credentials(folder, read_credentials(made.folder / "issued" / "client-7"))
            until(lambda: service.connections == 3)
            assert channel.retries == 2
            made.revoke("client", "7")
            until(lambda: service.open == 0)
            with pytest.raises(RefusedError, match="the certificate of client 7 was revoked: ask") as caught:
                channel.request(HELLO).result(WAIT)
            assert caught.value.kind == "identity"


def test_clients_come_again_once_a_server_has_renewed_its_certificate(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7")
    folder = write(tmp_path / "0", credentials(made, "server", "0", -1, 3 / 86_400))
    service = EchoServer()
    with served(service, certificates=Certificates(folder, "server", "0")) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, Certificates(made.folder, "client", "7"))) as channel:
            channel.welcome.result(WAIT)
            until(lambda: service.open == 0)  # it has expired: nobody stays who took it for valid
            write_credentials(folder, credentials(made, "server", "0", -1, 10))
            until(lambda: service.open == 1)
            assert channel.retries >= 1


def test_a_server_that_is_revoked_says_so_and_serves_nobody(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7")
    with served(EchoServer(), certificates=Certificates(made.folder, "server", "0")) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, Certificates(made.folder, "client", "7"))) as channel:
            channel.welcome.result(WAIT)
            made.revoke("server", "0")
            until(lambda: "[identity]" in str(channel.request(HELLO).exception(WAIT)))
            with pytest.raises(RefusedError, match="the certificate of server 0 was revoked: ask"):
                channel.request(HELLO).result(WAIT)


def test_an_old_list_makes_nobody_welcome_again(tmp_path: Path) -> None:
    made = authority(tmp_path / "certs", "7")
    old = made.revoked()
    ours, client = Certificates(made.folder, "server", "0"), Certificates(made.folder, "client", "7").own
    made.revoke("client", "7")
    assert (ours.edition, ours.fault(client, time.time()) is None) == (1, False)
    (made.folder / "issued" / "server-0" / "revoked.pem").write_bytes(old)
    assert (ours.edition, ours.fault(client, time.time()) is None) == (2, False)


def test_whom_another_authority_has_let_in_stays_no_longer_than_it_counts(tmp_path: Path) -> None:
    made, other = authority(tmp_path / "certs", "7"), authority(tmp_path / "other")
    folder = write(tmp_path / "0", credentials(made, "server", "0", -1))
    service = EchoServer()
    with served(service, certificates=Certificates(folder, "server", "0")) as address:
        with closing(Channel(address, HELLO, LIMITS, WAIT, Certificates(made.folder, "client", "7"))) as channel:
            channel.welcome.result(WAIT)
            write_credentials(folder, credentials(other, "server", "0", -1))
            until(lambda: "is not signed by this authority" in str(channel.request(HELLO).exception(WAIT)))
            assert service.open == 0


def test_files_that_do_not_fit_each_other_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = authority(tmp_path / "certs", "7")
    ours, folder = Certificates(made.folder, "client", "7"), made.folder / "issued" / "client-7"
    before, key = ours.own, (folder / "key.pem").read_bytes()
    for broken in (b"", b"junk", credentials(made, "client", "7").key):
        (folder / "key.pem").write_bytes(broken)
        assert (ours.own, ours.edition) == (before, 0)
    assert capsys.readouterr().out.count("certificates have changed, and are not taken up") == 3
    (folder / "key.pem").write_bytes(key)
    assert ours.edition == 1


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_only_looks_whether_somebody_listens_is_no_stranger_to_tell_of(guarded: Guarded, healthy: Shards) -> None:
    host, _, port = guarded.address.partition(":")
    for _ in range(20):
        socket.create_connection((host, int(port)), timeout=WAIT).close()
    assert served_still(healthy)
    healthy.close()
    guarded.end()
    assert not guarded.refusals()


def test_a_flood_of_handshakes_does_not_look_at_files_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates, asked = (
        Certificates(authority(tmp_path / "certs").folder, "server", "0"),
        list[Callable[[], object]](),
    )
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", lambda first, newer, client: asked.append(newer))
    certificates.server()
    looks, look = list[int](), certificates._look

    def counted() -> Any:
        looks.append(1)
        return look()

    monkeypatch.setattr(certificates, "_look", counted)
    for _ in range(1000):
        assert asked[0]() is None
    assert len(looks) < 100
    certificates.folder.joinpath("revoked.pem").touch()
    until(lambda: asked[0]() is not None)
