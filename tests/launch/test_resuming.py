"""A run that was broken off: from where it goes on, and which folders it is refused in, by name."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fedps.client.checkpoint import Moment
from fedps.config import Job, load_job
from fedps.coordinator.resuming import Memory
from fedps.errors import JobError
from fedps.events import events as told
from fedps.events.events import Entry, Event
from fedps.events.journal import JOURNAL, Journal
from fedps.launch import resuming
from fedps.launch.folder import make_run_folder
from fedps.launch.launcher import run
from fedps.launch.resuming import Place, find_cut, reopen
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.launch.runs import descendants, events, fedps, start_and_wait_for_training, summary_of, write_job

CLIENTS = [ClientId(str(k)) for k in range(10)]
Moments = dict[ClientId, dict[Moment, int]]
FIGURES = ("round", "selected", "loss", "auc", "train_auc", "hr@10", "ndcg@10")


@pytest.fixture
def cut_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., resuming.Cut]:
    def find(
        job: Job, there: Moments, took_part: set[str] | None = None, torn: Moments | None = None, begun: int = 0
    ) -> resuming.Cut:
        monkeypatch.setattr(resuming, "checkpoints_of", lambda _, client: there.get(client, {}))
        monkeypatch.setattr(resuming, "_is_whole", lambda _, client, moment: moment not in (torn or {}).get(client, {}))
        return find_cut(job, tmp_path, set(CLIENTS) if took_part is None else took_part, begun)

    return find


def all_at(*moments: tuple[int, int]) -> Moments:
    return {client: {Moment(*moment): 10 * moment[0] + moment[1] for moment in moments} for client in CLIENTS}


def test_clients_in_lockstep_go_on_from_the_newest_moment_that_all_have(
    make_job: MakeJob, cut_of: Callable[..., resuming.Cut]
) -> None:
    there = all_at((2, 0), (3, 0))
    there[CLIENTS[4]] = {Moment(1): 10, Moment(2): 21}
    cut = cut_of(make_job(), there)
    assert (cut.exact, cut.round) == (True, 2)
    assert cut.clients == dict.fromkeys(CLIENTS, Place(Moment(2), 20)) | {CLIENTS[4]: Place(Moment(2), 21)}
    assert {cut.checkpoint(client) for client in CLIENTS} == {"2-0"}
    assert cut_of(make_job(), all_at((2, 0), (2, 50))).round == 3, "they are amid it"


def test_where_each_goes_its_own_way_each_goes_on_from_its_own_newest(
    make_job: MakeJob, cut_of: Callable[..., resuming.Cut]
) -> None:
    there = all_at((2, 0), (3, 0))
    there[CLIENTS[4]] = {Moment(1): 10, Moment(2): 21}
    cut = cut_of(make_job(sync_mode="async"), there)
    assert (cut.exact, cut.round) == (False, None)
    assert [cut.clients[client].moment for client in CLIENTS[3:6]] == [Moment(3), Moment(2), Moment(3)]


def test_in_the_first_epoch_clients_know_of_what_servers_have_kept(
    make_job: MakeJob, cut_of: Callable[..., resuming.Cut]
) -> None:
    assert {cut_of(make_job(), {}).checkpoint(client) for client in CLIENTS} == {""}, "servers go back as well"
    assert {cut_of(make_job(sync_mode="async"), {}).checkpoint(client) for client in CLIENTS} == {"newest"}


def test_a_torn_checkpoint_gives_way_to_the_one_before(make_job: MakeJob, cut_of: Callable[..., resuming.Cut]) -> None:
    cut = cut_of(make_job(), all_at((2, 0), (3, 0)), torn={CLIENTS[7]: {Moment(3): 30}})
    assert (cut.exact, cut.clients[CLIENTS[0]].moment) == (True, Moment(2))


def test_who_has_no_checkpoint_begins_anew_with_all_in_the_first_epoch_and_is_missed_later(
    make_job: MakeJob, cut_of: Callable[..., resuming.Cut]
) -> None:
    there = all_at((1, 0))
    del there[CLIENTS[2]]
    cut = cut_of(make_job(), there)
    assert (cut.exact, cut.round, {cut.checkpoint(client) for client in CLIENTS}) == (True, 0, {""})
    there = all_at((2, 0), (3, 0))
    del there[CLIENTS[2]]
    with pytest.raises(JobError, match=r"private/2/checkpoint is missing, or holds none that is whole"):
        cut_of(make_job(), there)
    for job in (make_job(), make_job(sync_mode="async")):
        with pytest.raises(JobError, match=r"private/0/checkpoint is missing, or holds none that is whole"):
            cut_of(job, {}, begun=2)
        assert cut_of(job, {}, begun=1).clients == dict.fromkeys(CLIENTS, Place(Moment(0))), (
            "the first may be under way"
        )
    cut = cut_of(make_job(), there, took_part={client for client in CLIENTS if client != CLIENTS[2]})
    assert (cut.exact, cut.checkpoint(CLIENTS[2]), cut.checkpoint(CLIENTS[1])) == (True, "newest", "3-0"), "a new one"


@pytest.fixture
def left(make_job: MakeJob, tmp_path: Path) -> Iterator[Path]:
    """The folder of a run that was killed in its first epoch."""
    yield leave(make_job(epochs=3), tmp_path / "run")


def leave(job: Job, folder: Path) -> Path:
    run_dir = make_run_folder(job, folder)
    write(run_dir, Entry(1.0, "worker", "0", told.EpochBegin(0)))
    (run_dir / "state" / "server-0").mkdir(parents=True)
    (run_dir / "state" / "server-0" / "log-0").touch()
    return run_dir


def write(run_dir: Path, *entries: Entry) -> None:
    journal = Journal(run_dir / JOURNAL)
    for entry in entries:
        journal.write(entry)
    journal.close()


def test_a_run_goes_on_with_its_own_job_though_what_each_machine_may_have_its_own_way_differs(left: Path) -> None:
    run = reopen(left, overrides=["runner.print_interval=7", "runner.restarts=1"])
    run.journal.close()
    assert (run.job.runner.print_interval, run.job.runner.epochs, run.job.name) == (7, 3, "job")
    assert run.cut is not None
    run.cut.write(left)
    kept = json.loads((left / "resume.json").read_text())
    assert kept["clients"]["9"] == {"checkpoint": "", "epoch": 0, "batch": 0, "sequence": 0}
    assert kept["exact"] is True


def test_what_was_encrypted_stays_so_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    job, certs = write_job(tmp_path), tmp_path / "certs"
    left = leave(load_job(job, [f"security.certs={certs}"]), tmp_path / "run")
    for said, expected in (([], certs), (["security.insecure=true"], None), ([f"security.certs={tmp_path}"], tmp_path)):
        run = reopen(left, job, said)
        run.journal.close()
        assert run.job.security.certs == expected


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("runner.seed=5", r"runner\.seed: 5 here, 0 there: a run goes on with its own job"),
        ("runner.with_coordinator=true", r"runner\.with_coordinator: True here, False there"),
        ("runner.epochs=9", r"runner\.epochs: 9 here, 3 there"),
    ],
)
def test_another_job_is_refused_by_its_first_difference(override: str, said: str, left: Path) -> None:
    with pytest.raises(JobError, match=said):
        reopen(left, overrides=[override])


def without(name: str) -> Callable[[Path], None]:
    return lambda run_dir: (run_dir / name).rmdir() if (run_dir / name).is_dir() else (run_dir / name).unlink()


def said_in_job(old: str, new: str) -> Callable[[Path], None]:
    def change(run_dir: Path) -> None:
        path = run_dir / "job.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def half_a_job(run_dir: Path) -> None:
    path = run_dir / "job.yaml"
    path.write_text(path.read_text().partition("hyper_parameters:")[0])


def by_hand(run_dir: Path) -> None:
    (run_dir / JOURNAL).rename(run_dir / "events-server-0.jsonl")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("job.yaml"), r"job\.yaml is missing: put it back"),
        (without(JOURNAL), r"events\.jsonl is missing: put it back"),
        (without("state/server-0/log-0"), r"state/server-0 is missing: put it back"),
        (by_hand, r"its roles were started one by one: start each again as before, with the same --run_dir"),
        (said_in_job("  durability: group\n", ""), r"is of an older version of fedps, which kept nothing to go on from"),
        (said_in_job("durability: group", "durability: none"), r"durability: none: nothing was kept to go on from: go on"),
        (said_in_job("epochs: 3", "epochs: three"), r"is no job of this version"),
        (lambda run_dir: write(run_dir, Entry(2.0, "worker", "0", told.EpochBegin(2))), r"private/0/checkpoint is missing"),
        (half_a_job, r"job\.yaml is cut off: put it back"),
    ],
    ids=["no job", "no journal", "no state", "by hand", "older", "nothing kept", "no such job", "no checkpoints", "half a job"],
)  # fmt: skip
def test_a_folder_that_lacks_something_is_refused_by_its_name(
    spoil: Callable[[Path], None], said: str, left: Path
) -> None:
    spoil(left)
    before = sorted(left.rglob("*"))
    with pytest.raises(JobError, match=said):
        reopen(left)
    assert sorted(left.rglob("*")) == before, "it is left as it was"


def test_no_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "is no run's folder"), (tmp_path / "none", "there is no such folder")):
        with pytest.raises(JobError, match=said):
            reopen(folder)


def test_a_run_at_work_is_refused_and_what_is_left_of_one_waited_for(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = Journal(left / JOURNAL)
    with pytest.raises(JobError, match="a run is at work in it: wait for its end, or end it"):
        reopen(left)
    at_work.close()
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (left / "log" / "workerlog.3").open("w") as log:
        worker = subprocess.Popen(sleeping, stdout=log)
    other = subprocess.Popen(sleeping)  # has the number of one that has ended
    try:
        write(left, Entry(time.time(), "worker", "4", told.Started(other.pid)))
        started: Event = told.Started(worker.pid)
        write(left, Entry(time.time(), "worker", "3", started))
        monkeypatch.setattr(resuming, "PATIENCE", 0.1)
        with pytest.raises(JobError, match=f"worker 3 of the run that was broken off .* `kill -9 {worker.pid}`"):
            reopen(left)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        reopen(left).journal.close()
    finally:
        for process in (worker, other):
            process.kill()
            process.wait()


def test_rounds_that_a_coordinator_no_longer_knows_are_missed_before_anything_begins(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run_folder(make_job(epochs=3, with_coordinator=True), tmp_path / "run")
    write(run_dir, Entry(1.0, "worker", "0", told.EpochBegin(0)))
    (run_dir / "state" / "server-0").mkdir(parents=True)
    (run_dir / "state" / "server-0" / "log-0").touch()
    Memory(run_dir).close()  # of which nothing is in the file, as where what lay beside it is gone
    monkeypatch.setattr(
        resuming, "find_cut", lambda *_: resuming.Cut(True, dict.fromkeys(CLIENTS, Place(Moment(2), 7)))
    )
    with pytest.raises(
        JobError, match=r"coordinator\.db: the state of round 2 is not kept; .* coordinator\.db-wal as well"
    ):
        reopen(run_dir)


def scripted(script: Path) -> told.Scripted:
    return told.Scripted(str(script), ["--lr", "3"], str(script.parent))


def test_a_script_plays_the_rest_of_a_run_too_and_is_missed(left: Path, tmp_path: Path) -> None:
    script, moved = tmp_path / "script.py", tmp_path / "moved.py"
    with pytest.raises(JobError, match=rf"this run was played by no script: leave {script} out"):
        reopen(left, script=scripted(script))
    write(left, Entry(1.0, "launcher", "", scripted(script)))
    with pytest.raises(
        JobError, match=rf"{script}, .* is not there: .*: fedps run SCRIPT.py --resume {left} -- --lr 3$"
    ):
        reopen(left)
    for named, due in ((scripted(moved), moved), (None, script)):
        script.touch()
        again = reopen(left, script=named)
        again.journal.close()
        assert again.script == scripted(due)


def test_nothing_is_touched_where_a_run_is_at_work_or_none_ever_was(left: Path, tmp_path: Path) -> None:
    for folder in (left, tmp_path / "other"):
        (folder / "state.new").mkdir(parents=True)  # a state that is being dealt out, or anybody's
    at_work = Journal(left / JOURNAL)
    for folder in (left, tmp_path / "other"):
        with pytest.raises(JobError):
            reopen(folder)
        assert (folder / "state.new").exists()
    at_work.close()
    reopen(left).journal.close()
    assert not (left / "state.new").exists(), "of a launcher that died"


def broken_off(run_dir: Path, job: Path, end: Callable[[subprocess.Popen[str]], None]) -> str:
    """Begin a run, end it once two epochs are over, and return what it said."""
    process = start_and_wait_for_training(run_dir, job)
    deadline = time.monotonic() + 60
    while sum((e["event"], e["id"]) == ("evaluated", "0") for e in events(run_dir)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    end(process)
    return "".join(process.communicate(timeout=60))


def forget_the_last(run_dir: Path) -> None:
    """Take from the journal what a launcher that dies may not have written: how an epoch ended, and one client's part of it."""
    lines = events(run_dir)
    last = max(e["round"] for e in lines if e["event"] == "completed")  # type: ignore[type-var]
    told = [
        e for e in lines
        if (e["event"], e.get("round")) != ("completed", last) and (e["event"], e["id"], e.get("epoch")) != ("evaluated", "1", last)
    ]  # fmt: skip
    (run_dir / JOURNAL).write_text("".join(f"{json.dumps(e)}\n" for e in told))


def kill_all(process: subprocess.Popen[str]) -> None:
    for one in [psutil.Process(process.pid), *descendants(process)]:
        one.kill()


def saved(run_dir: Path) -> dict[str, bytes]:
    """Return what a run has trained, of servers and clients, by file."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.glob("*/*/*/*.safetensors"))
        if path.parent.name != "checkpoint"
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(kill_all, id="kill"),
        pytest.param(lambda process: process.send_signal(signal.SIGINT), id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_run_broken_off_goes_on_to_the_numbers_of_an_unbroken_one(
    end: Callable[[subprocess.Popen[str]], None], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = write_job(tmp_path, epochs=10, save_every=0, server_num=2, with_coordinator=end is not kill_all)
    unbroken = run(load_job(job), tmp_path / "unbroken", in_process=True, as_json=True)
    said = broken_off(run_dir, job, end)
    if end is not kill_all:
        assert said.splitlines()[-1] == f"stopped; go on by: fedps run --resume {run_dir}"
        assert summary_of(run_dir)["status"] == "failed"
    forget_the_last(run_dir)
    fewer = ["-o", "runner.server_num=1"] if end is kill_all else []  # rows are dealt out anew
    done = fedps("run", "--resume", run_dir, *fewer)
    assert done.returncode == 0, done.stderr
    assert "as if it had not been broken off" in done.stderr
    found = summary_of(run_dir)
    assert found["metrics"] == unbroken["metrics"]
    rounds, due = ([{key: r[key] for key in FIGURES} for r in of["rounds"]] for of in (found, unbroken))
    assert rounds == due
    assert found["samples"] == unbroken["samples"]
    ours, theirs = saved(run_dir), saved(tmp_path / "unbroken")
    private = {name for name in theirs if name.startswith("private")}
    same = private if fewer else theirs.keys()
    assert same and {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert found["servers"] == (1 if fewer else 2)
    again = fedps("run", "--resume", run_dir, "-o", "runner.epochs=99")
    assert "what is to change, as its epochs, takes another run" in again.stderr
    assert (again.returncode, "this run is complete: nothing is left to do" in again.stderr) == (0, True)
    assert "HR@10: " in again.stdout
    (run_dir / "summary.json").unlink()  # as if the launcher had been killed at the very end
    assert fedps("run", "--resume", run_dir).returncode == 0
    at_last = summary_of(run_dir)
    assert all(at_last[key] == found[key] for key in ("status", "rounds", "metrics", "samples", "faults"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("coordinated", [False, True])
def test_a_run_goes_on_without_a_client_that_is_gone(coordinated: bool, tmp_path: Path) -> None:
    run_dir, job = tmp_path / "run", write_job(tmp_path, epochs=8, with_coordinator=coordinated, start_timeout=20.0)
    broken_off(run_dir, job, kill_all)
    for file in (tmp_path / "data").glob("t*/2.*"):
        file.unlink()
    done = fedps("run", "--resume", run_dir, "--worker_num=2")
    assert done.returncode == 0, done.stderr
    found = summary_of(run_dir)
    assert (found["workers"], len(found["rounds"]), found["rounds"][-1]["selected"]) == (2, 8, ["0", "1"])


def test_a_run_in_one_process_says_that_it_keeps_nothing(tmp_path: Path) -> None:
    found = run(load_job(write_job(tmp_path)), tmp_path / "run", in_process=True, as_json=True)
    assert (found["durability"], (tmp_path / "run" / "state").exists()) == ("none", False)
    with pytest.raises(JobError, match="durability: none: nothing was kept to go on from"):
        reopen(tmp_path / "run")
