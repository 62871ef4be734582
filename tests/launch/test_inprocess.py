"""A run in one process: a worker that fails at its start ends it, and events come one at a time."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedps.client.life import FLClient
from fedps.errors import DataError
from fedps.events.events import Entry
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from tests.conftest import MakeJob
from tests.events.kept import into

LONG = 10_000.0  # seconds; a run that waited for its timeouts would not end within the test's


@pytest.mark.parametrize("mode", ["geo", "sync", "round"])
@pytest.mark.parametrize("coordinator", [True, False])
def test_a_worker_that_fails_at_its_start_ends_the_run(
    make_job: MakeJob, tmp_path: Path, mode: str, coordinator: bool
) -> None:
    def read(client: FLClient) -> None:
        if client.client == "3":
            raise DataError("client '3': its file is torn")
        client.callback_initialize_model_params()

    timeouts = {"start_timeout": LONG, "step_timeout": LONG, "reconnect_timeout": LONG}
    job = make_job(sync_mode=mode, with_coordinator=coordinator, server_num=2, **timeouts)
    with pytest.raises(DataError, match="its file is torn"):
        run_in_process(job, tmp_path / "run", lambda _: None, handlers={"initialize_model_params": read})
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("worker", "fedps deadlines"))]


def test_workers_go_on_without_one_that_fails_later(make_job: MakeJob, tmp_path: Path) -> None:
    def train(client: FLClient) -> None:
        if client.client == "3" and client.assignment.round == 2:
            raise DataError("client '3': its disk is gone")
        client.callback_train()

    events: list[dict[str, Any]] = []
    job = make_job(epochs=3, with_coordinator=True, reconnect_timeout=0.2)
    with pytest.raises(DataError, match="its disk is gone"):
        run_in_process(job, tmp_path / "run", into(events), handlers={"train": train})
    assert sum(e["event"] == "done" for e in events) == 9
    assert {e["epoch"] for e in events if e["event"] == "evaluated" and e["id"] == "0"} == {1, 2, 3}


def test_events_are_never_told_by_two_threads_at_once(make_job: MakeJob, tmp_path: Path) -> None:
    inside, most = 0, 0

    def listen(_: Entry) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.0005)
        inside -= 1

    run_in_process(make_job(), tmp_path / "run", listen)
    assert most == 1


def test_a_client_that_makes_its_model_itself_and_tells_nothing_of_its_data_is_counted(
    make_job: MakeJob, tmp_path: Path
) -> None:
    def make(client: FLClient) -> None:
        report, client.report = client.report, lambda event: None
        client.callback_initialize_model_params()
        client.report = report

    job = make_job(print_interval=1)
    ledger = Ledger(job, began=0.0)
    run_in_process(job, tmp_path / "run", ledger.take, handlers={"initialize_model_params": make})
    found = ledger.summary(1.0, None)
    assert len(found["rounds"][0]["selected"]) == 10 and found["samples"] > 0
    assert found["clients"]["3"]["samples"] is None and found["clients"]["3"]["first_epoch_auc"]
