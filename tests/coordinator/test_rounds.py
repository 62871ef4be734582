"""Whole jobs with a coordinator, in one process: who trains, how much, what is told, and what fails."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedps.client.life import FLClient
from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy
from fedps.errors import DataError, FedpsError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from fedps.types import ClientId
from tests.conftest import MakeJob
from tests.events.kept import into

Events = list[dict[str, Any]]


class By(ClientSelectorBase):
    """Picks by a function of the round and the client's place in the order of names."""

    def __init__(self, job: Job, pick: Callable[[int, int], Any]) -> None:
        super().__init__(job)
        self._pick = pick
        self.seen: list[dict[ClientId, Any]] = []

    def select(self) -> Mapping[ClientId, Any]:
        self.seen.append(dict(self.clients_info))
        return {c: self._pick(self.round, k) for k, c in enumerate(sorted(self.clients_info))}


def ran(job: Job, folder: Path, selector: ClientSelectorBase | None = None, **more: Any) -> Events:
    events: Events = []
    run_in_process(job, folder / "run", into(events), selector=selector, **more)
    return events


def trained(events: Events) -> dict[int, dict[str, int]]:
    """Return the samples that each client trained in each round."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for e in events:
        if e["event"] == "epoch_end":
            found[e["epoch"] + 1][e["id"]] = e["samples"]
    return found


def weights(folder: Path) -> dict[str, Any]:
    return load_file(export_run(folder / "run", folder / "out", private=True))


@pytest.mark.parametrize("mode", ["geo", "sync", "round"])
def test_all_selected_is_the_job_without_a_coordinator(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    plain, coordinated = tmp_path / "plain", tmp_path / "coordinated"
    ran(make_job(sync_mode=mode, epochs=2), plain)
    events = ran(make_job(sync_mode=mode, epochs=2, with_coordinator=True), coordinated)
    ours, theirs = weights(coordinated), weights(plain)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert [e["round"] for e in events if e["event"] == "selected"] == [1, 2]


@pytest.mark.parametrize("mode", ["geo", "async", "round"])
def test_who_waits_does_not_train_and_iterations_are_obeyed(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    def pick(round_: int, k: int) -> Any:
        return FLStrategy("JOIN", 2 + k) if (round_ + k) % 2 else "WAIT"

    job = make_job(sync_mode=mode, epochs=3, with_coordinator=True)
    selector = By(job, pick)
    events = ran(job, tmp_path, selector)
    clients = sorted(selector.seen[0])
    for round_, who in trained(events).items():
        expected = {c: 32 * (2 + k) for k, c in enumerate(clients) if (round_ + k) % 2}
        assert who == expected
    assert sorted(trained(events)) == [1, 2, 3]


def test_reports_tell_what_was_measured(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=2, with_coordinator=True)
    selector = By(job, lambda round_, k: "WAIT" if k == 0 else "JOIN")
    events = ran(job, tmp_path, selector)
    first, second = selector.seen
    assert all(i.trained == 0 and i.loss is None and i.compute_capacity == 0 and i.samples for i in first.values())
    sat_out, *others = [second[c] for c in sorted(second)]
    assert sat_out.trained == 0 and sat_out.loss is None and sat_out.users > 0
    for info in others:
        assert info.trained == info.samples and info.seconds > 0 and info.bandwidth > 0
        assert info.compute_capacity == pytest.approx(info.trained / info.seconds)
        assert info.loss is not None and 0 < info.loss < 1 and info.auc is not None and " " in info.device_type
    rounds = [e for e in events if e["event"] == "round"]
    assert [r["round"] for r in rounds] == [1, 2]
    assert sum(i.users for i in second.values()) == 120
    assert rounds[0]["hr@10"] == pytest.approx(sum(i.hits for i in second.values()) / 120)


def test_evaluation_of_those_that_joined_and_of_all_at_the_end(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=2, with_coordinator=True, eval_clients="joined")
    events = ran(job, tmp_path, By(job, lambda round_, k: "JOIN" if k < 3 else "WAIT"))
    evaluated = [e["epoch"] for e in events if e["event"] == "evaluated"]
    assert (evaluated.count(1), evaluated.count(2)) == (3, 10)


def test_a_client_that_finishes_leaves_and_the_others_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=3, with_coordinator=True, sync_mode="sync")
    events = ran(job, tmp_path, By(job, lambda round_, k: "FINISH" if round_ == 2 and k >= 8 else "JOIN"))
    assert [len(trained(events)[r]) for r in (1, 2, 3)] == [10, 8, 8]
    assert sum(e["event"] == "done" for e in events) == 10


def test_all_may_be_told_to_finish_at_once(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=3, with_coordinator=True)
    events = ran(job, tmp_path, By(job, lambda round_, k: "FINISH"))
    assert not trained(events) and sum(e["event"] == "done" for e in events) == 10


@pytest.mark.parametrize("answer", ["WAIT", "NONSENSE", ZeroDivisionError("in the selector")])
def test_a_selector_that_fails_ends_the_run_with_its_reason(make_job: MakeJob, tmp_path: Path, answer: Any) -> None:
    def pick(round_: int, k: int) -> Any:
        if round_ == 2 and isinstance(answer, Exception):
            raise answer
        return "JOIN" if round_ == 1 else answer

    job = make_job(epochs=3, with_coordinator=True)
    with pytest.raises((FedpsError, ZeroDivisionError), match=r"selected nobody|NONSENSE|in the selector"):
        ran(job, tmp_path, By(job, pick))


def test_logs_have_the_original_lines(make_job: MakeJob, tmp_path: Path) -> None:
    ran(make_job(with_coordinator=True), tmp_path)
    coordinator = (tmp_path / "run" / "log" / "coordinatorlog.0").read_text()
    for line in (
        "fl-ps > StartCoordinatorServer finished!\n",
        "fl-ps > running make_fl_strategy(loop) in coordinator\n",
        "fl-ps > coordinator connect to fl_client: 0\n",
        ">>> all trainer endpoints: ['thread worker 0', 'thread worker 1', ",
        "fl-ps > StartCoordinatorClient finish!\n",
        "fl-ps > recv from client id: 9, msg_type: 200\n",
        "last_round_total_fl_clients_num: 10, has recved fl client num: 10\n",
        "fl-ps > client 3 info : {'DEVICE_TYPE': '",
        "SendFLStrategy to client: 3 finished\n",
        "RpcSendFLStrategy finished\n",
    ):
        assert line in coordinator
    dated = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - INFO - \S")
    assert all(dated.match(line) for line in coordinator.splitlines())
    worker = (tmp_path / "run" / "log" / "workerlog.3").read_text()
    for line in ("fl-ps > curr epoch idx: 0", "callback_train finished", "rpc service call cost time: "):
        assert line in worker
    assert "recved fl strategy: {'iteration_num': 0, 'next_state': 'JOIN', 'round': 1}" in worker


def test_steps_of_a_clients_life_can_be_replaced(make_job: MakeJob, tmp_path: Path) -> None:
    called: list[tuple[str, str]] = []

    def twice(client: FLClient) -> None:
        called.append(("train", client.client))
        client.callback_train()

    def note(key: str) -> Callable[[FLClient], None]:
        def handler(client: FLClient) -> None:
            called.append((key, client.client))
            getattr(client, f"callback_{key}")()

        return handler

    keys = ("initialize_model_params", "init_worker", "infer", "save_model", "finish")
    handlers: Any = {"train": twice} | {key: note(key) for key in keys}
    events = ran(make_job(epochs=2, with_coordinator=True), tmp_path, handlers=handlers)
    count = {key: sum(k == key for k, _ in called) for key in (*keys, "train")}
    assert count == {
        "initialize_model_params": 10, "init_worker": 10, "train": 20, "infer": 20, "save_model": 20, "finish": 10,
    }  # fmt: skip
    assert sum(e["event"] == "evaluated" for e in events) == 20


def test_an_unknown_step_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    client = FLClient(make_job(), ClientId("0"), [], tmp_path, lambda e: None)
    with pytest.raises(JobError, match="'training': there is no such step; there are initialize_model_params"):
        client.register_handlers("training", print)  # type: ignore[arg-type]


def test_dataset_debug_times_reading_and_steps(make_job: MakeJob, tmp_path: Path) -> None:
    ran(make_job(dataset_debug=True, with_coordinator=True), tmp_path)
    log = (tmp_path / "run" / "log" / "workerlog.3").read_text()
    assert "op_name:[0][step]" in log and "op_name:[1][exchange]" in log
    assert "mean read time" in log and "IO percent" in log and "instances/s" in log


def test_a_save_that_fails_ends_a_run_in_one_process(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(model_save_path=str(tmp_path / "file" / "model"))
    (tmp_path / "file").write_text("in the way")  # not yet when the job was read
    with pytest.raises(DataError, match="file"):
        ran(job, tmp_path)


@pytest.mark.parametrize("mode", ["geo", "round", "sync", "async"])
def test_a_strategys_settings_reach_the_training_and_the_handlers(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    def pick(round_: int, k: int) -> Any:
        return FLStrategy(iteration_num=3, batch_size=8 * (k + 1), learning_rate=0.1 if k else 1e-9, extra={"place": k})

    places: dict[str, int] = {}

    def train(client: FLClient) -> None:
        places[client.client] = client.assignment.extra["place"]
        client.callback_train()

    job = make_job(sync_mode=mode, epochs=3, with_coordinator=True)
    events = ran(job, tmp_path, By(job, pick), handlers={"train": train})
    clients = sorted(places)
    assert [places[c] for c in clients] == list(range(10))
    assert trained(events)[2] == {c: 24 * (k + 1) for k, c in enumerate(clients)}
    private = {c: load_file(tmp_path / "run" / "private" / c / "3" / "tables.safetensors") for c in clients[:2]}
    rows = [next(a for a in p.values() if a.ndim == 2)[:, :8] for p in private.values()]  # without Adam's state
    assert abs(rows[0]).max() < 0.3 < abs(rows[1]).max()  # nine steps of 1e-9, and of 0.1
