"""Who dies is started again: how often, when, and never for a mistake; and runs whose roles are killed come to their end."""

import json
import os
import signal
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedps.access.audit import verify
from fedps.config import load_job
from fedps.events.events import Failed
from fedps.launch.launcher import run
from fedps.launch.local.processes import Child
from fedps.launch.local.role import RoleSpec
from fedps.launch.restarts import Restarts
from tests.conftest import MakeJob
from tests.launch.runs import WORKERS, events, pid_of, start_and_wait_for_training, summary_of, write_job

DIED, RAISED = Failed("died with signal 9"), Failed("RuntimeError: planted", "Traceback")


def child(kind: str, code: int | None = -9) -> Child:
    spec = RoleSpec(kind, 0, Path("job.yaml"), Path("run"), client="north" if kind == "worker" else "", bind="a:1")
    process = SimpleNamespace(pid=7, exitcode=code)
    return Child(kind, spec.name, process, Pipe()[0], Path("log"), spec)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(at=100.0)
    monkeypatch.setattr("fedps.launch.restarts.time", SimpleNamespace(monotonic=lambda: clock.at))
    return clock


def test_who_is_killed_is_started_again_later_each_time_and_only_so_often(
    make_job: MakeJob, now: SimpleNamespace
) -> None:
    restarts = Restarts(make_job(restarts=8).runner)
    waits = []
    while restarts.plan(child("worker"), DIED):
        failed_at = now.at
        while not (due := list(restarts.due())):
            now.at += 0.05
        waits.append(round(now.at - failed_at, 1))
        assert (due[0].spec.client, due[0].spec.resume) == ("north", "newest")
        assert (due[0].event.reason, due[0].event.attempt) == (DIED.error, len(waits))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert not restarts.waiting


@pytest.mark.parametrize(
    ("kind", "cut", "then"), [("worker", "3-0", "newest"), ("server", "resume.json", ""), ("coordinator", "3", "")]
)
def test_who_dies_before_it_has_taken_up_what_a_run_goes_on_from_is_to_do_so_still(
    kind: str, cut: str, then: str, make_job: MakeJob, now: SimpleNamespace
) -> None:
    restarts, role = Restarts(make_job().runner), child(kind)
    assert role.spec is not None
    role.spec = replace(role.spec, resume=cut)
    for under_way, due in ((False, cut), (False, cut), (True, then)):
        assert restarts.plan(role, DIED, under_way)
        now.at += 5
        (again,) = restarts.due()
        assert again.spec.resume == due
        role.spec = again.spec


def test_a_server_that_dies_before_it_has_kept_anything_is_started_again_unless_it_keeps_nothing(
    make_job: MakeJob, now: SimpleNamespace
) -> None:
    assert Restarts(make_job().runner).plan(child("server"), DIED)
    assert not Restarts(make_job(durability="none").runner).plan(child("server"), DIED)


@pytest.mark.parametrize("role", ["worker", "coordinator"])
def test_what_raises_the_same_again_is_a_mistake_and_so_is_what_the_job_or_data_have_wrong(
    role: str, make_job: MakeJob, now: SimpleNamespace
) -> None:
    restarts = Restarts(make_job().runner)
    assert restarts.plan(child(role, 1), RAISED)
    assert restarts.plan(child(role, 1), RAISED), "one failure that is told twice is one"
    now.at += 1
    assert len(list(restarts.due())) == 1
    assert not restarts.plan(child(role, 1), RAISED)
    for mistake in (Failed("a key", in_job=True), Failed("a line", in_data=True)):
        assert not Restarts(make_job().runner).plan(child(role, 1), mistake)
    assert not Restarts(make_job(restarts=0).runner).plan(child(role), DIED)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_coordinator_goes_on_where_it_was_at_its_own_address(tmp_path: Path) -> None:
    run_dir, job = tmp_path / "run", write_job(tmp_path, epochs=40, with_coordinator=True, eval_every=0)
    process = start_and_wait_for_training(run_dir, job)
    os.kill(pid_of(run_dir, "coordinator", "0"), signal.SIGKILL)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 0, told
    assert "coordinator 0: started again, time 1 of 3 at most: died with signal 9" in told
    there = [e for e in events(run_dir) if e["role"] == "coordinator"]
    assert len({e["address"] for e in there if e["event"] == "ready"}) == 1
    assert [e["round"] for e in there if e["event"] == "selected"] == list(range(1, 41))
    (again,) = [e for e in there if e["event"] == "restarted"]
    assert (again["attempt"], again["reason"]) == (1, f"died with signal 9; its log is {run_dir}/log/coordinatorlog.0")
    summary = summary_of(run_dir)
    assert (summary["status"], summary["faults"]["restarts"]) == ("ok", 1)
    log = (run_dir / "log" / "coordinatorlog.0").read_text()
    assert log.count("StartCoordinatorServer finished!") == 2, "the log is written on"
    assert "--- started again: died with signal 9" in log
    assert "restarts: 1" in (run_dir / "report.html").read_text()
    assert set(summary["audit"]) == {"coordinator-0", "server-0"} and verify(run_dir)[1] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", [pytest.param("worker", marks=pytest.mark.slow), "server"])
def test_a_killed_one_goes_on_where_it_was_and_nothing_is_lost_or_counted_twice(role: str, tmp_path: Path) -> None:
    run_dir, job = tmp_path / "run", write_job(tmp_path, epochs=12, geo_step=1, eval_every=0, print_interval=1)
    calm = run(load_job(job), tmp_path / "calm", in_process=True, as_json=True)
    process = start_and_wait_for_training(run_dir, job)
    os.kill(pid_of(run_dir, role, "1" if role == "worker" else "0"), signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    summary = summary_of(run_dir)
    assert summary["faults"] == calm["faults"] | {"restarts": 1, "retries": summary["faults"]["retries"]}
    assert summary["samples"] == calm["samples"], "each epoch of each client counts once"
    if role == "server":
        assert summary["metrics"] == calm["metrics"], "to the last digit"
    found, faults = verify(run_dir)
    assert ([path.stem for path in found], faults) == (["server-0"], [])
    (path,) = found
    said = [
        entry
        for entry in map(json.loads, path.read_text().splitlines())
        if entry["event"] in ("begun", "left", "ended")
    ]
    assert [entry["event"] for entry in said] == ["begun"] * (1 + (role == "server")) + ["left"] * WORKERS + ["ended"]
    assert summary["audit"]["server-0"]["entries"] == found[path]
