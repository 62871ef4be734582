"""The launcher and its processes: what fails in one of them, and what the run makes of it. One fork server does for all."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedps.config import load_job
from fedps.errors import DataError, JobError
from fedps.events.events import Scripted
from fedps.events.journal import Journal
from fedps.launch.addresses import Address
from fedps.launch.folder import make_run_folder
from fedps.launch.launcher import Launch
from fedps.launch.local import processes as roles
from fedps.launch.local.role import RoleSpec
from fedps.launch.local.scripts import start_script
from fedps.launch.orders import Orders
from fedps.storage.whole import write_whole
from tests.launch.runs import WORKERS, events, fedps, summary_of, write_job

SELECTOR = """
import fedps
class Mine(fedps.ClientSelectorBase):
    def select(self):
        {body}
"""
NETWORK = """
from torch import nn
class MyNet(nn.Module):
    def __init__(self, num_users, num_items, width):
        super().__init__()
        self.taste = nn.Embedding(num_users, width)
        self.kind = nn.Embedding(num_items, width)
    def forward(self, user, item):
        if self.training and len(user) > 3: raise RuntimeError("planted")
        return (self.taste(user) * self.kind(item)).sum(1)
"""


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    with roles.fork_server(torch=False):
        yield


def launch(job: Path, run_dir: Path, orders: Orders | None = None, *, in_process: bool = False) -> dict[str, Any]:
    loaded = load_job(job)
    return Launch(loaded, make_run_folder(loaded, run_dir), time.time(), True, orders or Orders()).run(in_process)


def nobody_left(run_dir: Path) -> bool:
    pids = [e["pid"] for e in events(run_dir) if e["event"] == "started"]
    return bool(pids) and not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def test_a_selector_that_raises_and_again_when_started_again_stops_the_run_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SELECTOR.format(body="raise RuntimeError('planted')"))
    found = launch(write_job(tmp_path, with_coordinator=True, client_selector="mine.Mine"), tmp_path / "run")
    assert (found["status"], found["coordinator"]) == ("failed", True)
    assert found["error"].startswith("coordinator 0: RuntimeError: planted")
    _, failed = [e for e in events(tmp_path / "run") if e["event"] == "failed" and e["role"] == "coordinator"]
    assert 'mine.py", line ' in str(failed["traceback"])
    assert "RuntimeError: planted" in (tmp_path / "run" / "log" / "coordinatorlog.0").read_text()
    assert nobody_left(tmp_path / "run")


def test_a_temporary_folder_of_a_long_path_holds_no_socket_and_stays_the_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    program = (
        "import tempfile; from fedps.launch.local import processes\n"
        "with processes.fork_server(torch=False): print(tempfile.gettempdir())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("in_process", [True, False], ids=["in process", "processes"])
def test_classes_that_are_not_there_are_told_at_once_before_any_role_starts(
    in_process: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(SELECTOR.format(body="return {}"))
    (tmp_path / "lost.py").write_text("import nothing_of_this_name")
    job = write_job(
        tmp_path, with_coordinator=True, client_selector="mine.Yours", fl_client="mine.Mine", reader_type="DataLoader",
        train_reader_path="gone", infer_reader_type="RecDataset", infer_reader_path="lost",
    )  # fmt: skip
    for start in ("start_role", "start_script"):
        monkeypatch.setattr(f"fedps.launch.launcher.{start}", lambda *_: pytest.fail("a role was started"))
    with pytest.raises(JobError) as caught:
        launch(job, tmp_path / "run", in_process=in_process)
    told = [mistake.partition(": ")[0] for mistake in caught.value.mistakes]
    assert told == [f"runner.{k}" for k in ("train_reader_path", "infer_reader_path", "client_selector", "fl_client")]
    assert not (tmp_path / "run").exists()


READERS = {
    "raises": "raise RuntimeError('planted')",
    "yields what is no sample": "yield 0, 1, 7",
    "yields nothing": "yield from ()",
}


@pytest.mark.parametrize("body", READERS.values(), ids=READERS)
def test_a_fault_of_ones_own_reader_is_told_and_leaves_no_folder(body: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"class RecDataset:\n  def __init__(self, files, config): pass\n  def __iter__(self):\n    {body}\n"
    )
    job = write_job(tmp_path, reader_type="RecDataset", train_reader_path="mine")
    for in_process in (True, False):
        with pytest.raises(DataError, match=r"runner\.train_reader_path: mine\.RecDataset: "):
            launch(job, tmp_path / "run", in_process=in_process)
        assert not (tmp_path / "run").exists()


def test_who_waits_is_counted_out_of_the_round(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SELECTOR.format(body="return {'1': 'JOIN'}"))
    found = launch(write_job(tmp_path, with_coordinator=True, client_selector="mine.Mine"), tmp_path / "run")
    assert found["status"] == "ok", found["error"]
    assert [r["selected"] for r in found["rounds"]] == [["1"]]
    assert found["samples"] == len((tmp_path / "data" / "train" / "1.csv").read_text().splitlines())


def test_a_port_that_is_taken_in_the_meantime_is_named_with_its_role(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = Address(*taken.getsockname())
        with pytest.raises(JobError, match=f"^server 0: cannot listen on {at}: Address already in use"):
            launch(write_job(tmp_path), tmp_path / "run", Orders(server_at=(at,)))
    assert not (tmp_path / "run").exists()


def test_a_worker_that_fails_stops_the_start_and_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(NETWORK)  # which fails on a batch of the job, and not when it is checked
    keys = {"model": "mynet.MyNet", "local_sparse": ["taste.weight"], "compiled_step": False}
    job = write_job(tmp_path, {"width": 4}, **keys)
    found = launch(job, tmp_path / "run")
    assert found["error"].startswith("worker ")
    assert "RuntimeError: planted" in found["error"]
    told = "".join(str(e["traceback"]) for e in events(tmp_path / "run") if e["event"] == "failed")
    assert 'mynet.py", line ' in told
    assert any("Traceback" in log.read_text() for log in (tmp_path / "run" / "log").glob("workerlog.*"))
    assert nobody_left(tmp_path / "run")


def test_a_job_that_does_not_fit_its_network_starts_nobody(tmp_path: Path) -> None:
    job = write_job(tmp_path, local_sparse=["mlp_usr.weight"], local_dense=["x"])
    with pytest.raises(JobError) as error:
        launch(job, tmp_path / "run")
    assert [m.count("matches no") for m in error.value.mistakes] == [1, 1]
    assert not (tmp_path / "run").exists(), "nothing is left"


def test_bad_data_is_told_with_client_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = write_job(tmp_path), tmp_path / "data" / "train" / "1.csv"
    lines = len(file.read_text().splitlines()) + 1
    with file.open("a") as more:
        more.write("3,7,2\n")
    with pytest.raises(DataError, match=rf"1\.csv, line {lines}: '3,7,2': label 2 is neither 0 nor 1"):
        launch(job, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a small file is read before anything is made"
    monkeypatch.setattr("fedps.data.read.client.SMALL", 0)
    with pytest.raises(DataError, match=rf"^worker 1: {file}, line {lines}: '3,7,2': label 2 is neither 0 nor 1$"):
        launch(job, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing has come of it"


def test_logs_go_where_they_are_sent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / "workerlog.0").write_text("of an earlier run\n")
    found = launch(write_job(tmp_path), tmp_path / "run", Orders(log_dir=log))
    assert found["log_dir"] == str(log)
    assert {f"workerlog.{k}" for k in range(WORKERS)} < {p.name for p in log.iterdir()}
    assert "earlier" not in (log / "workerlog.0").read_text()
    assert not list((tmp_path / "run" / "log").iterdir())


def test_a_server_that_does_not_end_is_named_with_its_log_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "PATIENCE", 0.5)
    (tmp_path / "deaf.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(60)"
    )
    job = load_job(write_job(tmp_path, start_timeout=0.3, step_timeout=0.3))
    run = Launch(job, make_run_folder(job, tmp_path / "run"), time.time(), True)
    spec = RoleSpec("server", 0, tmp_path / "job.yaml", tmp_path)
    server = run._watch.add(
        start_script(spec, tmp_path / "serverlog.0", Scripted(str(tmp_path / "deaf.py"), [], str(tmp_path)))
    )
    while "deaf" not in server.log.read_text():
        time.sleep(0.05)
    monkeypatch.setattr(run, "_in_processes", run._end_listeners)
    found = run.run(in_process=False)
    assert found["status"] == "failed"
    assert found["error"].startswith("server 0: has not ended 0.6 s after the last worker, and was killed; its log is ")
    assert str(server.log) in found["error"]
    assert server.process.exitcode == -signal.SIGKILL


FULL = "No space left on device: free space, or choose another --run_dir or runner.model_save_path"


def test_a_full_disk_at_the_end_of_a_run_is_told_in_a_line_and_leaves_no_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.launch.folder.write_whole", lambda path, *_: _full(path))
    found = launch(write_job(tmp_path, step_timeout=0.5), tmp_path / "run", in_process=True)
    assert (found["status"], found["error"]) == ("failed", f"launcher: {tmp_path / 'run' / 'summary.json'}: {FULL}")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a line of no JSON")])
def test_a_run_is_ok_whose_page_cannot_be_drawn(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("fedps.pages.report.write_report", fails)
    job = load_job(write_job(tmp_path))
    found = Launch(job, make_run_folder(job, tmp_path / "run"), time.time(), False).run(in_process=True)
    assert (found["status"], summary_of(tmp_path / "run")["status"]) == ("ok", "ok")
    told = capsys.readouterr().err
    assert "report.html is not written, and the run is what summary.json says: " in told
    assert str(error.args[-1]) in told


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, FULL), (errno.EMFILE, "raise it with `ulimit -n`")], ids=["disk", "descriptors"]
)
def test_what_the_machine_lacks_amid_a_run_ends_it_with_a_line(
    number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fedps.launch.launcher.start_role", lacking)
    found = launch(write_job(tmp_path), tmp_path / "run")
    assert (found["status"], summary_of(tmp_path / "run")["status"]) == ("failed", "failed")
    assert found["error"].startswith("launcher: ") and found["error"].endswith(told)
    assert "\n" not in found["error"]


class Filled(Journal):
    """A journal whose disk is full for some writes."""

    writes = range(5, 12)  # that find no room
    done = 0

    def _write(self) -> None:
        Filled.done += 1
        if Filled.done in self.writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._write()


@pytest.mark.parametrize("writes", [range(5, 12), range(5, 10_000)], ids=["for a while", "to the end"])
def test_a_run_goes_on_though_its_journal_finds_no_room_and_says_so_once(
    writes: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedps.launch.launcher.Journal", Filled)
    monkeypatch.setattr(Filled, "writes", writes)
    monkeypatch.setattr(Filled, "done", 0)
    job, run_dir = load_job(write_job(tmp_path, step_timeout=0.5)), tmp_path / "run"
    found = Launch(job, make_run_folder(job, run_dir), time.time(), as_json=False).run(in_process=True)
    said = capsys.readouterr().err
    assert said.count(f"{run_dir / 'events.jsonl'} is not written, but later: {FULL}") == 1
    assert found["metrics"]["auc"] is not None, "it was trained and evaluated to the end"
    if writes.stop < 1000:
        assert found["status"] == summary_of(run_dir)["status"] == "ok"
        assert [e["event"] for e in events(run_dir)][-1] == "closed"
    else:
        assert (found["status"], found["error"]) == ("failed", f"launcher: {run_dir}: {FULL}")
        assert said.count("the run is over, but its summary is not written; tried for ") == 1
        assert not (run_dir / "summary.json").exists()


def test_a_summary_is_written_once_a_full_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    tries = iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 2)

    def write(path: Path, *args: Any) -> None:
        if path.name == "summary.json" and (error := next(tries, None)):
            raise error
        write_whole(path, *args)

    monkeypatch.setattr("fedps.launch.folder.write_whole", write)
    monkeypatch.setattr("fedps.launch.folder.RETRY", 0.01)
    found = launch(write_job(tmp_path), tmp_path / "run", in_process=True)
    assert found["status"] == summary_of(tmp_path / "run")["status"] == "ok"


def test_a_report_that_found_no_room_is_written_when_the_run_is_asked_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("fedps.pages.report.write_whole", lambda path, *_: _full(path))
        found = launch(write_job(tmp_path), run_dir, in_process=True)
    assert found["status"] == summary_of(run_dir)["status"] == "ok"
    assert not (run_dir / "report.html").exists()
    (run_dir / "state").mkdir()
    done = fedps("run", "--resume", run_dir)
    assert done.returncode == 0 and "this run is complete" in done.stderr
    assert (run_dir / "report.html").exists() and not (run_dir / "state").exists()


def _full(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
