"""R18: what an audit log says, that it is left as it was written, and that whoever changes it is found."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.access import audit as audit_module
from fedps.access.audit import Audit, verify
from fedps.errors import DataError
from fedps.events import events
from fedps.events.events import Event
from fedps.storage.whole import append, write_whole
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.launch.rooms import here

TOLD: list[Event] = [
    events.Ready("127.0.0.1:7164"),
    events.Joined("film club", "a1"),
    events.Refused("eve", "superseded", "a newer process speaks for client 'eve'"),
    events.Refused("eve", "bad_keys", "table 'item': key 4711 lies outside"),
    events.Selected(1, [ClientId("film club")], [ClientId("eve")], [], 0.01),
    events.Round(1, {"loss": 0.25}),
    events.Saved(1, "/somewhere/model/1", 0.5),
    events.Lost("film club", "its connection broke and did not come back"),
    events.Left("eve"),
    events.Note("not of an audit"),
    events.Tables(1, {}),
    events.Stopped(2),
]


@pytest.fixture
def write(make_job: MakeJob, tmp_path: Path) -> Callable[..., list[Event]]:
    """Return what keeps a log of events, of one process, and returns what was passed on."""
    job = make_job()

    def kept(told: list[Event] = TOLD, folder: Path = tmp_path, role: str = "server", number: int = 0) -> list[Event]:
        passed = list[Event]()
        with Audit(folder, role, number, job, passed.append) as audit:
            for event in told:
                audit.report(event)
                if isinstance(event, events.Round):
                    audit.write()
        return passed

    return kept


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def log_of(folder: Path, name: str = "server-0") -> Path:
    return folder / "audit" / f"{name}.jsonl"


def test_a_log_says_who_came_and_what_was_done_and_nothing_of_what_was_sent(
    write: Callable[..., list[Event]], tmp_path: Path
) -> None:
    passed = write()
    said = entries(log_of(tmp_path))
    kinds = ["begun", "ready", "joined", "refused", "refused", "selected", "round", "saved", "lost", "left", "stopped"]
    assert [entry["event"] for entry in said] == [*kinds, "ended"]
    assert [entry["number"] for entry in said] == list(range(1, len(said) + 1))
    assert (said[0]["role"], said[0]["id"], len(str(said[0]["digest"]))) == ("server", "0", 64)
    assert [entry.get("reason") for entry in said[3:5]] == ["a newer process speaks for client 'eve'", None]
    text = log_of(tmp_path).read_text()
    assert "4711" not in text and "loss" not in text and "somewhere" not in text
    assert passed[: len(TOLD)] == TOLD
    assert passed[len(TOLD) :] == [events.Audited(len(said), audit_module._digest(text.splitlines()[-1].encode()))]
    assert log_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert log_of(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_another_process_goes_on_with_the_chain(write: Callable[..., list[Event]], tmp_path: Path) -> None:
    write()
    write(TOLD[:3])
    said = entries(log_of(tmp_path))
    assert [entry["event"] for entry in said[-5:]] == ["begun", "ready", "joined", "refused", "ended"]
    assert verify(tmp_path) == ({log_of(tmp_path): 17}, [])


def tamper(rng: random.Random, way: str, log: bytes) -> bytes:
    """Change a log in a way, as one would who knows how it is made."""
    lines = log.splitlines()
    at, other = rng.sample(range(len(lines)), 2)
    follows = {"number": at + 2, "before": audit_module._digest(lines[at])}  # on the entry at `at`
    forged = json.dumps(json.loads(lines[other]) | follows).encode()
    match way:
        case "edit":
            place = rng.randrange(len(log))
            return log[:place] + bytes([log[place] ^ 1 << rng.randrange(8)]) + log[place + 1 :]
        case "cut":
            return log[: rng.randrange(len(log))]
        case "cut at a line":
            lines = lines[:at]
        case "swap":
            lines[at], lines[other] = lines[other], lines[at]
        case "insert":
            lines.insert(at + 1, forged)
        case "replace":
            lines[(at + 1) % len(lines)] = forged
        case "duplicate":
            lines.insert(other, lines[at])
        case "remove":
            del lines[at]
        case "replace the last":
            lines[-1] = json.dumps(json.loads(lines[-1]) | {"time": 1.5}).encode()
        case "add":
            before = {"number": len(lines) + 1, "before": audit_module._digest(lines[-1])}
            lines.append(json.dumps(json.loads(lines[-1]) | before).encode())
    return b"".join(line + b"\n" for line in lines)


WAYS = ("edit", "cut", "cut at a line", "swap", "insert", "replace", "duplicate", "remove", "replace the last", "add")


def test_1000_of_1000_changes_are_found_and_0_of_100_logs_are_accused(
    write: Callable[..., list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    rng = random.Random(18)
    folders = [tmp_path / str(number) for number in range(100)]
    for folder in folders:
        folder.mkdir()
        for _ in range(rng.randint(1, 3)):  # processes, one after the other
            write(rng.choices(TOLD, k=rng.randint(1, 30)), folder)
    assert [verify(folder)[1] for folder in folders] == [[]] * 100
    found = 0
    for number in range(1000):
        path, way = log_of(folders[number % 100]), WAYS[number % 7 + number % 4]
        log = path.read_bytes()
        changed = tamper(rng, way, log)
        assert changed != log
        path.write_bytes(changed)
        found += len(verify(path.parents[1])[1])
        path.write_bytes(log)
    assert found == 1000


def test_a_log_that_is_gone_or_another_roles_is_missed(write: Callable[..., list[Event]], tmp_path: Path) -> None:
    for number in (0, 1):
        write(number=number)
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {"status": "ok", "error": None, "metrics": {}, "rounds": []}
            | {"audit": {f"server-{k}": {"entries": 12, "digest": head_digest(tmp_path, k)} for k in (0, 1)}}
        )
    )
    assert verify(tmp_path)[1] == []
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "audit", kept)
    one, other = log_of(tmp_path), log_of(tmp_path, "server-1")
    other.unlink()
    assert [f.file for f in verify(tmp_path)[1]] == [other]
    other.with_suffix(".head").unlink()
    assert [f.file for f in verify(tmp_path)[1]] == [other], "the summary still tells of it"
    for suffix in (".jsonl", ".head"):
        shutil.copy(one.with_suffix(suffix), other.with_suffix(suffix))
    assert "it is the log of server-0" in verify(tmp_path)[1][0].what
    for suffix in (".jsonl", ".head"):
        shutil.copy(kept / f"server-1{suffix}", other.with_suffix(suffix))
    one.with_suffix(".head").unlink()
    assert "server-0.head is missing" in verify(tmp_path)[1][0].what
    shutil.rmtree(tmp_path / "audit")
    (tmp_path / "audit").mkdir()
    write()  # a new log in the old one's place
    assert [(f.entry, "summary.json" in f.what) for f in verify(tmp_path)[1]] == [(12, True)] * 2


def head_digest(folder: Path, number: int) -> str:
    return str(json.loads(log_of(folder, f"server-{number}").with_suffix(".head").read_bytes())["digest"])


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("torn", [0, 1, 40, 400, 10_000])
def test_a_process_that_dies_while_it_writes_leaves_a_log_in_order(
    step: int, torn: int, write: Callable[..., list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the head, before the entries, within them, and before the head is written again."""
    write(TOLD[:3])
    calls = [0]

    def dying_head(path: Path, payload: bytes) -> None:
        calls[0] += 1
        if (calls[0], step) in ((3, 0), (4, 3)):
            raise Killed
        write_whole(path, payload)

    def dying_append(path: Path, payload: bytes, at: int) -> None:
        if calls[0] == 3 and step in (1, 2):
            append(path, payload[: torn if step == 2 else 0], at)
            raise Killed
        append(path, payload, at)

    monkeypatch.setattr(audit_module, "write_whole", dying_head)
    monkeypatch.setattr(audit_module, "append", dying_append)
    monkeypatch.setattr(Audit, "__exit__", lambda audit, *_: os.close(audit._lock))
    with pytest.raises(Killed):
        write(TOLD[3:7])
    monkeypatch.undo()
    before = verify(tmp_path)
    assert before[1] == []
    write(TOLD[3:])
    after = verify(tmp_path)
    assert after[1] == []
    assert after[0][log_of(tmp_path)] == before[0][log_of(tmp_path)] + 9
    assert not list(log_of(tmp_path).parent.glob("*aside*"))


def test_a_log_that_was_changed_is_put_aside_as_it_is_and_accused(
    write: Callable[..., list[Event]], tmp_path: Path
) -> None:
    write()
    path, aside = log_of(tmp_path), log_of(tmp_path, "server-0-aside-1")
    changed = path.read_bytes().replace(b"film club", b"book club")
    path.write_bytes(changed)
    write(TOLD[:1])
    assert aside.read_bytes() == changed
    assert (entries(path)[0]["put_aside"], entries(path)[0]["number"]) == (aside.name, 1)
    found, faults = verify(tmp_path)
    assert set(found) == {path, aside} and [f.file for f in faults] == [aside]
    assert faults[0].entry == 4, "that is the first that does not follow on one that was changed"


def test_a_full_disk_ends_nothing_and_is_made_up_for(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]

    def filling(path: Path, payload: bytes, at: int) -> None:
        if full[0]:
            append(path, payload[: len(payload) // 2], at)
            raise OSError(28, "No space left on device", str(path))
        append(path, payload, at)

    monkeypatch.setattr(audit_module, "append", filling)
    monkeypatch.setattr(audit_module, "PAUSE", 0.0)
    passed = list[Event]()
    with Audit(tmp_path, "server", 0, make_job(), passed.append) as audit:
        for event in TOLD[:4]:
            audit.report(event)
            audit.write()
        assert verify(tmp_path)[1] == []
        full[0] = False
    notes = [event.note for event in passed if isinstance(event, events.Note)]
    assert len(notes) == 1 and "the audit log is not written, but later" in notes[0]
    assert [entry["event"] for entry in entries(log_of(tmp_path))] == [
        "begun",
        "ready",
        *["joined", "refused", "refused"],
        "ended",
    ]
    assert verify(tmp_path)[1] == []


def test_one_process_at_a_time_writes_a_log(
    write: Callable[..., list[Event]], tmp_path: Path, make_job: MakeJob
) -> None:
    passed = list[Event]()
    with Audit(tmp_path, "server", 0, make_job(), passed.append):
        assert "another process writes" in str(write(TOLD[:1])[0])
    assert verify(tmp_path) == ({log_of(tmp_path): 2}, [])


def test_what_waits_for_the_disk_is_bounded_and_counted(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MOST_WAITING", 5)
    with Audit(tmp_path, "server", 0, make_job(), lambda event: None) as audit:
        for _ in range(20):
            audit.report(events.Left("a"))
        audit.write()
    said = entries(log_of(tmp_path))
    assert [entry["event"] for entry in said] == ["begun", *["left"] * 5, "left_out", "ended"]
    assert said[-2]["count"] == 15


def test_a_run_without_a_folder_keeps_none(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, passed = make_job(), list[Event]()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with Audit(None, "coordinator", 0, job, passed.append) as audit:
        audit.report(TOLD[0])
    assert passed == TOLD[:1] and list((tmp_path / "empty").iterdir()) == []


def test_the_command_says_file_entry_and_what_is_wrong(
    write: Callable[..., list[Event]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write()
    assert here(monkeypatch, "audit", "verify", str(tmp_path)) == 0
    assert "server-0.jsonl: 12 entries, as they were written" in capsys.readouterr().out
    path = log_of(tmp_path)
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-3]) + b"\n")
    assert here(monkeypatch, "audit", "verify", str(tmp_path)) == 1
    assert f"{path}: entry 11: 12 entries were written, and 10 are there" in capsys.readouterr().out
    assert here(monkeypatch, "audit", "verify", str(tmp_path), "--json") == 1
    assert json.loads(capsys.readouterr().out)["faults"][0]["entry"] == 11


def test_a_folder_without_a_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no audit log"):
        verify(tmp_path)
