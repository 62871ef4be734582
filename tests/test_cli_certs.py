"""`fedps certs` as people type it: what it says, what it leaves, and what it says of mistakes."""

import re
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedps.cli import INTERRUPTED, WRONG
from fedps.storage.credentials import read_credentials
from tests.launch.rooms import here, write_tiny_job
from tests.ports import free_address
from tests.test_without_torch import NO_TORCH


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Typed":
    monkeypatch.chdir(tmp_path)
    return Typed(monkeypatch, capsys)


class Typed:
    """Runs commands in this process, and returns what they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, words: str, code: int = 0) -> str:
        ended = here(self._monkeypatch, *words.split())
        said = self._capsys.readouterr()
        assert ended == code, said
        return said.err if code else said.out


def test_an_authority_from_its_beginning_to_a_revoked_client(typed: Typed) -> None:
    said = typed("certs init")
    assert re.search(r"an authority in certs, until 20\d\d-.* UTC", said)
    assert re.search(r"fingerprint, by which others can tell it: [0-9a-f]{64}\n", said)
    assert "next: fedps certs issue client NAME --dir certs" in said
    said = typed("certs issue client alice bob --days 2")
    assert re.findall(r"^(client \w+): valid until .*, in (\S+)$", said, re.MULTILINE) == [
        ("client alice", "certs/issued/client-alice"),
        ("client bob", "certs/issued/client-bob"),
    ]
    typed("certs renew client alice")
    assert "client bob: revoked, 1 certificate\n" in typed("certs revoke client bob")
    said = typed("certs list")
    assert re.search(r"^client +alice .* 30\.0 +[0-9a-f]{30,40}$", said, re.MULTILINE)
    assert re.search(r"^client +bob .* 2\.0 +20\d\d-\d\d-\d\d +[0-9a-f]{30,40}$", said, re.MULTILINE)
    assert said.endswith("UTC\n")
    assert "2 certificates in certs" in said
    assert "3 certificates in certs" in typed("certs list --all")


def test_a_disk_that_takes_nothing_is_told_with_a_remedy_that_certificates_have(typed: Typed, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        said = typed("certs init", code=WRONG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        said == "error: File too large: raise the limit with `ulimit -f unlimited`, or name a folder on another disk\n"
    )
    assert not list((tmp_path / "certs").iterdir())


def test_all_that_a_job_needs_is_issued_at_once_and_the_rest_of_it_later(typed: Typed, tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path)
    typed("certs init")
    typed("certs issue server 0")
    said = typed(f"certs issue --job {job}")
    assert re.findall(r"^(\w+ \w+): valid", said, re.MULTILINE) == ["client 0", "client 1"]
    typed(f"certs issue --job {job}")


def test_each_party_of_a_vertical_job_has_a_certificate(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "vertical: {active: shop, passive: [bank, mail]}\n"
        "parties: {shop: {data: shop.csv, features: {age: {kind: number}, label: {kind: label}}}}\n"
    )
    (tmp_path / "shop.csv").write_text("id,age,label\n1,30,1\n")
    typed("certs init")
    typed("certs issue party mail")
    said = typed(f"certs issue --job {tmp_path / 'job.yaml'}")
    assert re.findall(r"^(\w+ \w+): valid", said, re.MULTILINE) == ["party shop", "party bank"]


def test_processes_that_issue_at_once_lose_nothing(typed: Typed) -> None:
    typed("certs init")
    words = [sys.executable, "-m", "fedps", "certs", "issue", "client"]
    for each in [subprocess.Popen([*words, *(f"{k}-{n}" for n in range(5))], stdout=subprocess.PIPE) for k in range(3)]:
        each.communicate()
        assert each.returncode == 0
    assert "15 certificates in certs" in typed("certs list")


def test_of_names_of_which_one_is_wrong_none_is_issued(typed: Typed) -> None:
    typed("certs init")
    typed("certs issue client alice")
    said = typed("certs issue client alice bob ../x", WRONG)
    assert "error: client alice: has a certificate already" in said
    assert "error: client '../x': a name has no / and no \\" in said
    assert "1 certificates" in typed("certs list")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("certs issue", "who? write a role and a name, e.g. fedps certs issue client alice"),
        ("certs issue client", "who? write a role and a name"),
        ("certs issue clerk alice", "clerk"),
        ("certs issue client a a", "client a: is named twice; name it once"),
        ("certs issue client a --days 0", "--days"),
        ("certs issue client a --job job.yaml", "--job job.yaml and client contradict each other"),
        ("certs issue --job nowhere.yaml", "nowhere.yaml"),
        ("certs issue client a --dir nowhere", "nowhere: is no authority's folder"),
        ("certs init", "certs: holds an authority already: use it (`fedps certs list --dir certs`)"),
        ("certs renew", "who? write a role and a name, e.g. fedps certs renew client alice"),
        ("certs renew client bob", "client bob: has no certificate of this authority, which knows nobody yet"),
        ("certs renew --at 127.0.0.1:1", "--at 127.0.0.1:1: name the folder whose certificate is renewed"),
        ("certs renew --at 127.0.0.1:1 nowhere", "nowhere/ca.pem: No such file or directory"),
        ("certs renew --at nowhere certs", "--at: 'nowhere': is no host:port"),
        ("certs revoke client bob", "client bob: has no certificate of this authority"),
        ("certs token a/b", "client 'a/b': a name has no /"),
        ("certs token bob --valid 0s", "--valid 0s: write a time up to 90d, e.g. 30m, 1h or 2d"),
        ("certs token bob --valid soon", "--valid soon: write a time up to 90d"),
        ("certs token bob --valid 91d", "--valid 91d: write a time up to 90d"),
        ("certs join 127.0.0.1 --token fedps-x --out x", "'127.0.0.1': is no host:port"),
        ("certs join 127.0.0.1:1 --token fedps-x --out x", "--token 'fedps-x'…: is no token, or not all of one"),
        ("certs open nowhere.kit", "nowhere.kit: No such file or directory"),
        ("certs kit bob --servers 127.0.0.1:1 --out k", "no job file"),
        ("certs frobnicate", "Available commands: init, issue, join, kit, list, open, renew, revoke, serve, token."),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_the_remedy(typed: Typed, words: str, said: str) -> None:
    typed("certs init")
    assert said in typed(words, WRONG)


def test_a_folder_that_cannot_be_written_is_told(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/certs: Not a directory: name a folder that can be written" in typed("certs init file/certs", WRONG)


def test_a_client_joins_by_a_token_over_a_socket(typed: Typed, tmp_path: Path) -> None:
    typed("certs init")
    token = typed("certs token dora --valid 1h").strip()
    assert "token for client dora: valid until" in typed("certs list")
    at = free_address()
    serving = subprocess.Popen(
        [sys.executable, "-m", "fedps", "certs", "serve", "certs", "--at", at], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        assert f"listens on {at}" in serving.stdout.readline()
        said = typed(f"certs join {at} --token {token} --out mine")
        assert re.search(r"client dora: valid until .*, in mine; its key was made here", said)
        assert "was used on" in typed(f"certs join {at} --token {token} --out again", WRONG)
        before = read_credentials(tmp_path / "mine").key
        typed(f"certs renew --at {at} mine")
        assert read_credentials(tmp_path / "mine").key != before
    finally:
        serving.send_signal(signal.SIGTERM)
        rest = serving.communicate()[0]
    assert serving.returncode == INTERRUPTED
    assert "client dora: joins from 127.0.0.1, until" in rest
    assert "refused 127.0.0.1: this token, for client dora, was used on" in rest
    assert "client dora: renews from 127.0.0.1, until" in rest


def test_a_kit_is_made_and_opened(typed: Typed, tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path)
    typed("certs init")
    typed("certs issue client 0")
    said = typed(f"certs kit 0 --job {job} --servers 127.0.0.1:1 --out 0.kit")
    assert "client 0: kit in 0.kit, for job job; it holds a private key" in said
    assert "there: fedps worker --kit 0.kit --data FOLDER" in said
    assert stat.S_IMODE(Path("0.kit").stat().st_mode) == 0o600
    assert "client 0: kit for job job, whole; in 0\n" in typed("certs open 0.kit")
    assert Path("0/job.yaml").read_bytes() == job.read_bytes()
    said = typed(f"certs kit 1 --job {job} --servers 127.0.0.1:1 --out 1.kit", WRONG)
    assert "certs: holds no certificate of client 1: make it by `fedps certs issue client 1 --dir certs`" in said
    said = typed(f"certs kit 0 --job {job} --servers 127.0.0.1:1 -o runner.with_coordinator=true --out 1.kit", WRONG)
    assert "where is the coordinator? give --coordinators host:port" in said


def test_a_command_says_how_the_extra_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH.replace("torch", "cryptography"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = subprocess.run(
        [sys.executable, "-m", "fedps", "certs", "init", str(tmp_path / "certs")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == WRONG
    assert done.stderr == "error: cryptography is not installed here, and this needs it: pip install 'fedps[tls]'\n"
    assert not (tmp_path / "certs").exists()
