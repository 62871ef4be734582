"""What a role in the foreground waits for, prints and keeps."""

import io
import json
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fedps.config import Allow
from fedps.errors import DataError, JobError, RoleError
from fedps.events import events
from fedps.events.journal import Journal
from fedps.events.ledger import Ledger
from fedps.launch import one_role
from fedps.launch.addresses import Address
from fedps.launch.one_role import Tee, coordinate_here, wait_for, words, work_here
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.ports import free_port


def free() -> Address:
    return Address("127.0.0.1", free_port())


def test_who_is_waited_for_is_said_until_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    at = free()
    with socket.socket() as door:

        def open_late() -> None:
            time.sleep(0.4)
            door.bind(at)
            door.listen()

        opener = threading.Thread(target=open_late)
        opener.start()
        assert wait_for("server 1", at, time.monotonic() + 20)
        opener.join()
    assert capsys.readouterr().out == f"waiting for server 1 {at} …\n"


def test_a_worker_without_servers_says_what_it_waited_for(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, at = make_job(start_timeout=0.3), free()
    with pytest.raises(RoleError, match=f"worker 3: server 0 {at}: nobody listens there after 0.3 s") as error:
        work_here(job, ClientId("3"), 3, [at], None, tmp_path / "run", tmp_path / "log", Allow())
    assert error.value.traceback == "", "it is no mystery"
    assert "fedps server JOB.yaml --shard 0" in str(error.value)
    assert "waiting for server 0" in capsys.readouterr().out
    assert "waiting for server 0" in (tmp_path / "log" / "workerlog.3").read_text(), "a copy"
    lines = (tmp_path / "run" / "events-worker-3.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["started", "failed"]


def test_a_taken_port_is_told(make_job: MakeJob, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = Address(*taken.getsockname())
        with pytest.raises(JobError, match=f"cannot listen on {at}: Address already in use"):
            coordinate_here(make_job(with_coordinator=True), at, tmp_path / "run", None, stay=False)


def test_lines_go_to_all_places() -> None:
    one, two = io.StringIO(), io.StringIO()
    print("a line", file=Tee(one, two), flush=True)
    assert one.getvalue() == two.getvalue() == "a line\n"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (events.Ready("a:1"), "server 0 listens on a:1"),
        (events.Refused("7", "stale", "too late"), "server 0: client 7 refused: too late"),
        (events.Lost("7", "gone"), "server 0: client 7 lost: gone"),
        (events.Suspended("7", 3, "silent for 60 s"), "server 0: client 7 suspended: silent for 60 s"),
        (events.Saved(2, "m/2", 0.1), "epoch 2 saved in m/2"),
        (events.Stopped(), "has stopped"),
        (events.Done(bytes_sent=1000, bytes_received=5, retries=0), "is done: 1,000 bytes sent"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_events_in_words(event: events.Event, said: str) -> None:
    assert said in (words("server 0", event) or "")


def test_what_the_log_says_anyway_is_not_repeated() -> None:
    assert words("worker 0", events.EpochBegin(0)) is None
    assert words("server 0", events.Unsaved(3, "disk full")) == "server 0: epoch 3 is not saved: disk full"


def test_a_workers_bad_data_is_told_before_anybody_is_waited_for(
    make_job: MakeJob, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    (tmp_path / "data" / "train" / "3.csv").write_text("0,1,7\n")
    job = make_job(train_data_dir=str(tmp_path / "data" / "train"), test_data_dir=None)
    monkeypatch.setattr("fedps.launch.one_role.wait_for", lambda *_: pytest.fail("a server was waited for"))
    with pytest.raises(DataError, match=r"3\.csv, line 1: '0,1,7': label 7 is neither 0 nor 1"):
        work_here(job, ClientId("3"), 3, [Address("127.0.0.1", 1)], None, tmp_path / "run", None, Allow())
    assert not (tmp_path / "run").exists()


def test_a_role_goes_on_though_its_events_find_no_room(
    make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    journal, ledger = Journal(Path("/dev/full")), Ledger(make_job(), 0.0)
    report = one_role._reporter("worker", "3", journal, ledger)
    for _ in range(3):
        report(events.Note("told"))
    journal.close()
    said = capsys.readouterr().out
    assert said.count("worker 3: its events are not written, but later: No space left on device: free space") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_is_said_where_there_is_no_room_ends_nobody() -> None:
    said = io.StringIO()
    with Path("/dev/full").open("w", buffering=1) as full:
        tee = Tee(full, said)
        print("a line", file=tee, flush=True)
        assert said.getvalue() == "a line\n"
        with suppress(OSError):
            full.close()
