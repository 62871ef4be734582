"""`fedps serve` as its callers see it: answers, mistakes, the token, a newer epoch, and nobody else's users."""

import http.client
import json
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedps
from fedps.access.authority import Authority
from tests.authorities import authority
from tests.launch.rooms import here
from tests.launch.runs import HEEDING, write_job
from tests.ports import free_port

TestClient = pytest.importorskip("starlette.testclient").TestClient
from fedps.net.tls import Certificates  # noqa: E402
from fedps.serving.http import LONGEST, Service, serve  # noqa: E402
from fedps.serving.recommend import Recommender  # noqa: E402

TOKEN = "a token that nobody guesses"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedps.Run:
    """Two epochs of three clients; users 0 to 9 are client 0's."""
    folder = tmp_path_factory.mktemp("served")
    job = write_job(folder, remote_sparse=["embedding_1.w_0"])
    return fedps.run(job, run_dir=folder / "run", in_process=True, quiet=True, epochs=2)


@pytest.fixture(scope="module")
def recommender(run: fedps.Run) -> Recommender:
    return Recommender.open(run.folder, "0")


@pytest.fixture
def client(recommender: Recommender) -> Iterator[Any]:
    with TestClient(Service(recommender, None, lambda _: None).app(), base_url="http://127.0.0.1") as client:
        yield client


def own(recommender: Recommender, k: int = 0) -> str:
    return recommender.site.users.keys[k]


def test_a_user_gets_what_the_recommender_says(client: Any, recommender: Recommender) -> None:
    user = own(recommender)
    answer = client.get("/recommend", params={"user": user, "k": 5})
    due = recommender.recommend(user, 5)
    assert answer.status_code == 200
    assert answer.json()["epoch"] == 2
    assert [one["item"] for one in answer.json()["items"]] == [one.item for one in due]
    assert answer.json()["items"][0]["score"] == pytest.approx(due[0].score, abs=1e-6)
    assert len(client.get("/recommend", params={"user": user}).json()["items"]) == 10


def test_items_are_scored_likened_and_enough_for_a_newcomer(client: Any, recommender: Recommender) -> None:
    items = recommender.site.items.keys[:3]
    scored = client.post("/score", json={"user": own(recommender), "items": items}).json()["items"]
    assert [one["item"] for one in scored] == items
    assert [one["score"] for one in scored] == pytest.approx(recommender.score(own(recommender), items), abs=1e-6)
    like = client.get("/similar", params={"item": items[0], "k": 3}).json()["items"]
    assert items[0] not in [one["item"] for one in like] and len(like) == 3
    new = client.post("/recommend", json={"items": items, "k": 4}).json()["items"]
    assert not set(items) & {one["item"] for one in new} and len(new) == 4


@pytest.mark.parametrize(
    ("method", "path", "what", "status", "said"),
    [
        ("GET", "/recommend", {}, 400, "user: is missing; write /recommend?user=ID"),
        ("GET", "/recommend?user=nobody", {}, 404, "user nobody: client 0 has no such user"),
        ("GET", "/recommend?user=0&k=x", {}, 400, "k: 'x' is no whole number"),
        ("GET", "/recommend?user=0&k=0", {}, 400, "k: 0 is below 1"),
        ("GET", "/recommend?user=0&k=999", {}, 400, "k 999: must be from 1 to 220"),
        ("GET", "/similar?item=none", {}, 404, "item none: there is no such item"),
        ("POST", "/recommend", {"json": {"items": ["none"]}}, 404, "item none: there is no such item"),
        ("POST", "/recommend", {"json": {"items": []}}, 400, "items: write a list of ids as text"),
        ("POST", "/recommend", {"json": {"items": [3]}}, 400, "items: write a list of ids as text"),
        ("POST", "/recommend", {"json": {"items": ["1"], "k": True}}, 400, "k: 'True' is no whole number"),
        ("POST", "/score", {"json": {"items": ["1"]}}, 400, "user: is missing"),
        ("POST", "/score", {"json": ["1"]}, 400, "the body is no JSON object"),
        ("POST", "/score", {"content": b"{"}, 400, "the body is no JSON: "),
        ("POST", "/score", {"content": b"[" * 100_000}, 400, "the body is no JSON: "),
        ("POST", "/score", {"content": rb'{"user": "\ud800", "items": ["1"]}'}, 400, "user: is missing, or no text"),
        ("POST", "/recommend", {"content": rb'{"items": ["\ud800"]}'}, 400, "items: write a list of ids as text"),
        ("POST", "/recommend", {"json": {"items": ["1"] * 10_001}}, 400, "10,001 items are named"),
        ("POST", "/score", {"content": b" " * (LONGEST + 1)}, 400, "the body is over 1,048,576 bytes"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(
    method: str, path: str, what: dict[str, Any], status: int, said: str, client: Any
) -> None:
    answer = client.request(method, path, **what)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said), answer.json()


def test_users_of_other_clients_are_unknown(client: Any, recommender: Recommender, run: fedps.Run) -> None:
    others = Recommender.open(run.folder, "1").site.users.keys
    assert not set(others) & set(recommender.site.users.keys)
    for user in others:
        assert client.get("/recommend", params={"user": user}).status_code == 404


def test_an_answer_names_no_user_that_its_request_did_not(client: Any, recommender: Recommender) -> None:
    near = f"0{own(recommender)}"
    assert own(recommender) in recommender.site.users.nearest(near)
    for answer in (client.get(f"/recommend?user={near}"), client.post("/score", json={"user": near, "items": ["1"]})):
        assert answer.status_code == 404
        assert answer.json() == {"error": f"user {near}: client 0 has no such user"}


def test_without_the_token_nothing_but_health_is_told(recommender: Recommender) -> None:
    user = {"user": own(recommender)}
    with TestClient(Service(recommender, TOKEN, lambda _: None).app(), base_url="http://127.0.0.1") as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer é".encode()},
        ):
            refused = client.get("/recommend", params=user, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        bears = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/recommend", params=user, headers=bears).status_code == 200
        assert client.get("/health").json() == {"status": "ok", "epoch": 2, "client": "0"}
    with TestClient(
        Service(recommender, "schlüssel für alle", lambda _: None).app(), base_url="http://127.0.0.1"
    ) as client:
        written = {"Authorization": "Bearer schlüssel für alle".encode()}
        assert client.get("/recommend", params=user, headers=written).status_code == 200


def test_without_a_token_only_this_machines_own_names_are_answered(client: Any, recommender: Recommender) -> None:
    user = {"user": own(recommender)}
    for host, status in {"evil.example": 403, "localhost:80": 200, "[::1]:80": 200, "127.0.0.5": 200}.items():
        assert client.get("/recommend", params=user, headers={"Host": host}).status_code == status


def test_what_can_be_asked_is_described(client: Any) -> None:
    description = client.get("/openapi.json").json()
    assert {*description["paths"]} == {"/recommend", "/score", "/similar", "/health"}
    page = client.get("/").text
    assert all(f"{path}</code>" in page for path in description["paths"])


def test_a_newer_epoch_is_taken_up_without_a_dropped_request(
    run: fedps.Run, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.serving.http.LOOK_EVERY", 0.05)
    first, user = Recommender.open(run.folder, "0", 1), own(recommender)
    begun = threading.Event()

    def newer(now: Recommender) -> Recommender | None:
        return recommender if begun.is_set() and now.epoch == 1 else None

    epochs = []
    with TestClient(Service(first, None, newer).app(), base_url="http://127.0.0.1") as client:
        for k in range(400):
            answer = client.get("/recommend", params={"user": user, "k": 3})
            assert answer.status_code == 200
            found = [one["item"] for one in answer.json()["items"]]
            due = first if answer.json()["epoch"] == 1 else recommender
            assert found == [one.item for one in due.recommend(user, 3)]
            epochs.append(answer.json()["epoch"])
            if k == 5:
                begun.set()
            if epochs[-1] == 2:
                break
            time.sleep(0.01)
    assert (epochs[0], epochs[-1]) == (1, 2)


def test_whatever_keeps_an_epoch_from_being_served_is_said_once_and_the_next_is_taken_up(
    run: fedps.Run, recommender: Recommender, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedps.serving.http.LOOK_EVERY", 0.01)
    found: Iterator[ValueError | Recommender] = iter(
        [ValueError("half a file"), ValueError("half a file"), recommender]
    )
    looked = threading.Event()

    def newer(now: Recommender) -> Recommender | None:
        if now.epoch == 2:
            looked.set()
            return None
        if isinstance(one := next(found), ValueError):
            raise one
        return one

    with TestClient(
        Service(Recommender.open(run.folder, "0", 1), None, newer).app(), base_url="http://127.0.0.1"
    ) as client:
        assert looked.wait(30)
        assert client.get("/health").json()["epoch"] == 2
    said = "a newer epoch cannot be served yet: ValueError: half a file\nserving epoch 2\n"
    assert capsys.readouterr().out == said


def test_the_command_serves_until_it_is_stopped(run: fedps.Run) -> None:
    command = [sys.executable, "-m", "fedps", "serve", str(run.folder), "--client", "0", "--port", "0"]
    process = subprocess.Popen([*HEEDING, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0] == "client 0, epoch 2\n", process.communicate()
        address = lines[1].removeprefix("serving ").strip()
        with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
            assert json.load(answer)["epoch"] == 2
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/recommend?user=nobody", timeout=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM, 130)
    finally:
        process.kill()
        process.communicate()


def test_beyond_this_machine_a_token_and_certificates_are_needed(
    run: fedps.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority(tmp_path / "certs", "0")
    taken = free_port()
    outside = ["--client", "0", "--host", "0.0.0.0", "--token-file", tmp_path / "good"]
    open_, short, good = (tmp_path / name for name in ("open", "short", "good"))
    for path, text, mode in ((open_, TOKEN, 0o644), (short, "abc", 0o600), (good, TOKEN, 0o600)):
        path.write_text(text)
        path.chmod(mode)
    for words, said in (
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could ask for what your users like; give --token-file FILE"),
        (["--host", "somewhere"], "--host somewhere: is no address"),
        (["--token-file", open_], "others may read it: chmod 600"),
        (["--token-file", short], "3 characters are soon guessed"),
        (["--token-file", tmp_path / "none"], "cannot be read"),
        (["--client", "0", "--port", taken], f"--host 127.0.0.1 --port {taken}: cannot be listened on; choose another"),
        (["--client", "nobody"], "--client nobody: there is no such client"),
        ([], "--client: is missing"),
        (outside, "service 0: 0.0.0.0:8080 is not on this machine's loopback, and connections would be in the clear"),
        ([*outside, "--insecure", "--port", taken], f"--insecure: connections at 0.0.0.0:{taken} are IN THE CLEAR"),
        ([*outside, "--certs", tmp_path / "certs"], "holds no certificate of service 0: make it by `fedps certs issue"),
        (
            [*outside, "--certs", tmp_path / "certs" / "issued" / "client-0"],
            "is the folder of client 0, and this is serv",
        ),
    ):
        with socket.create_server(("0.0.0.0", taken)):
            assert here(monkeypatch, "serve", run.folder, *words) == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def secured(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[int]:
    """The port of a service of client 0 with certificates, of an authority in `certs`."""
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr("fedps.serving.http.LOOK_EVERY", 0.05)
    made = authority(tmp_path / "certs", "0", "1")
    made.issue("service", "0")
    made.issue("service", "1")
    authority(tmp_path / "other", "0")
    begun, go = queue.Queue[Any](), uvicorn.Server.run

    def begin(server: Any, sockets: list[socket.socket]) -> None:
        begun.put((server, sockets[0].getsockname()[1]))
        go(server, sockets)

    monkeypatch.setattr("uvicorn.Server.run", begin)
    service = Service(recommender, None, lambda _: None, Certificates(tmp_path / "certs", "service", "0"))
    thread = threading.Thread(target=serve, args=(service, "127.0.0.1", 0))
    thread.start()
    server, port = begun.get(timeout=30)
    assert capsys.readouterr().out == f"serving https://127.0.0.1:{port} as 0.service.fedps\n"
    yield port
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def ask(port: int, folder: Path | None, ca: Path) -> tuple[int, Any, bytes]:
    """Ask for a recommendation with a role's certificate, or none; return the status, the answer and what the service showed."""
    context = ssl.create_default_context(cafile=ca)
    if folder is not None:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname="0.service.fedps") as secured,
    ):
        connection = http.client.HTTPConnection("0.service.fedps")
        connection.sock = secured
        connection.request("GET", "/similar?item=1&k=1")
        answer = connection.getresponse()
        return answer.status, json.load(answer), secured.getpeercert(binary_form=True) or b""


def test_with_certificates_those_of_the_client_alone_may_ask(secured: int, tmp_path: Path) -> None:
    ca, issued = tmp_path / "certs" / "ca.pem", tmp_path / "certs" / "issued"
    assert [ask(secured, issued / who, ca)[0] for who in ("client-0", "service-0")] == [200, 200]
    for who in ("client-1", "service-1"):
        status, said, _ = ask(secured, issued / who, ca)
        assert status == 403 and said["error"].endswith("those of client or service 0 may ask here: show one of them")
    for stranger in (None, tmp_path / "other" / "issued" / "client-0"):
        with pytest.raises(OSError):
            ask(secured, stranger, ca)
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(f"http://127.0.0.1:{secured}/health", timeout=30)
    assert ask(secured, issued / "client-0", ca)[0] == 200


def test_certificates_are_renewed_and_revoked_while_it_serves(secured: int, tmp_path: Path) -> None:
    ca, made = tmp_path / "certs" / "ca.pem", Authority(tmp_path / "certs")
    folder = made.folder / "issued" / "client-0"
    before = ask(secured, folder, ca)[2]
    made.renew("service", "0")
    assert eventually(lambda: ask(secured, folder, ca)[2] != before)
    made.revoke("client", "0")
    assert eventually(lambda: ask(secured, folder, ca)[0] == 403)
    assert ask(secured, folder, ca)[1]["error"].startswith("the certificate of client 0 was revoked: ask who runs")


def eventually(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.02)
    return found
