"""Whole jobs on simulated devices: real training, simulated reports, and a clock that goes with them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job, load_job
from fedps.coordinator.selectors import ClientSelectorBase
from fedps.errors import JobError
from fedps.launch.inprocess import run_in_process
from fedps.launch.launcher import run
from fedps.simulation.traces import Trace, write_traces
from fedps.types import ClientId, ClientInfo
from tests.conftest import MakeJob
from tests.events.kept import into

CLIENTS = [ClientId(str(k)) for k in range(10)]


class Watching(ClientSelectorBase):
    """Lets the first three that are offered train, and keeps what they all said."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.seen: list[dict[ClientId, ClientInfo]] = []

    def select(self) -> Mapping[ClientId, Any]:
        self.seen.append(dict(self.clients_info))
        return dict.fromkeys(sorted(self.clients_info)[:3], "JOIN")


def simulated(
    make_job: MakeJob, folder: Path, traces: Mapping[ClientId, Trace], deadline: float = 0, **more: Any
) -> Job:
    job = make_job(with_coordinator=True, **more)
    write_traces(folder / "traces.json", traces, {})
    settings = ["simulation.traces=traces.json"] + ([f"selector.deadline={deadline}"] if deadline else [])
    return load_job(job.folder / "job.yaml", settings)


def watched(job: Job, folder: Path) -> tuple[list[dict[ClientId, ClientInfo]], list[dict[str, Any]]]:
    selector, events = Watching(job), list[dict[str, Any]]()
    run_in_process(job, folder / "run", into(events), selector=selector)
    return selector.seen, events


def clocks(events: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    return [(e["round"], e["seconds"], e["clock"]) for e in events if e["event"] == "clock"]


def traced(**differing: Trace) -> dict[ClientId, Trace]:
    plain = {c: Trace(100.0 * (k + 1), 1e12) for k, c in enumerate(CLIENTS)}
    return plain | {ClientId(name.removeprefix("c")): trace for name, trace in differing.items()}


@pytest.mark.parametrize("mode", ["geo", "round"])
def test_reports_come_from_the_traces(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    job = simulated(make_job, tmp_path, traced(), sync_mode=mode, epochs=2)
    seen, events = watched(job, tmp_path)
    assert all(info.compute_capacity == 100.0 * (k + 1) for k, info in enumerate(seen[0][c] for c in CLIENTS))
    assert all(info.bandwidth == 1e12 for info in seen[0].values())
    samples = {c: seen[1][c].trained for c in CLIENTS}
    assert [c for c in CLIENTS if samples[c]] == CLIENTS[:3]
    due = {c: samples[c] / (100.0 * (k + 1)) for k, c in enumerate(CLIENTS)}
    assert {c: i.seconds for c, i in seen[1].items()} == pytest.approx(due, abs=1e-3)
    assert not any(info.dropped for info in seen[1].values())
    longest = max(due.values())
    found = clocks(events)
    assert [round_ for round_, _, _ in found] == [1, 2]
    assert [x for _, *times in found for x in times] == pytest.approx(
        [longest, longest, longest, 2 * longest], abs=1e-3
    )


def test_bytes_take_their_time(make_job: MakeJob, tmp_path: Path) -> None:
    job = simulated(make_job, tmp_path, traced(c0=Trace(1e9, 1000.0)), sync_mode="round", epochs=1)
    _, events = watched(job, tmp_path)
    [slow] = [e for e in events if e["event"] == "simulated" and e["id"] == "0"]
    rows = 220 * (2 * 8 + 2 * 4 * 8)  # at most all items: 8 floats a row, down and up, with keys
    assert 0.3 * rows / 1000 < slow["seconds"] < 1.5 * rows / 1000


def test_who_is_away_is_not_offered(make_job: MakeJob, tmp_path: Path) -> None:
    late = Trace(100.0, 1e12, period=1e9, online=((1.0, 1e9),))
    job = simulated(make_job, tmp_path, traced(c0=late, c4=late), epochs=2)
    seen, events = watched(job, tmp_path)
    assert sorted(seen[0]) == [c for c in CLIENTS if c not in ("0", "4")]
    assert sorted(seen[1]) == CLIENTS  # the first round took longer than a second
    assert [e["selected"] for e in events if e["event"] == "selected"] == [["1", "2", "3"], ["0", "1", "2"]]


def test_who_drops_out_trains_nothing_and_the_others_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    job = simulated(make_job, tmp_path, traced(c1=Trace(100.0, 1e12, dropout=0.999999)), deadline=500.0, epochs=2)
    seen, events = watched(job, tmp_path)
    assert (seen[1][CLIENTS[1]].dropped, seen[1][CLIENTS[1]].trained, seen[1][CLIENTS[1]].seconds) == (True, 0, 500.0)
    assert {e["id"] for e in events if e["event"] == "epoch_end"} == {"0", "2"}
    assert clocks(events) == [(1, 500.0, 500.0), (2, 500.0, 1000.0)]


def test_who_is_too_slow_for_the_deadline_trains_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    job = simulated(make_job, tmp_path, traced(c2=Trace(0.001, 1e12)), deadline=50.0, epochs=1)
    _, events = watched(job, tmp_path)
    fates = {e["id"]: e["fate"] for e in events if e["event"] == "simulated"}
    assert fates == {"0": "", "1": "", "2": "too late"}
    assert clocks(events) == [(1, 50.0, 50.0)]


@pytest.mark.parametrize("in_process", [True, False])
def test_the_summary_tells_the_clock_and_repeats(make_job: MakeJob, tmp_path: Path, in_process: bool) -> None:
    traces = {c: Trace(t.speed, 2e5, 0.3) for c, t in traced().items()}
    job = simulated(make_job, tmp_path, traces, client_selector="random", clients_per_round=4, epochs=3)
    found = [run(job, tmp_path / name, in_process=True, as_json=True) for name in ("one", "two")[: 1 + in_process]]
    if not in_process:
        found.append(run(job, tmp_path / "two", as_json=True))
    told = [
        [{k: r[k] for k in ("simulated_seconds", "simulated_clock", "dropped", "hr@10")} for r in s["rounds"]]
        for s in found
    ]
    assert told[0] == told[1]
    assert [r["simulated_clock"] for r in told[0]] == pytest.approx(
        [sum(r["simulated_seconds"] for r in told[0][: k + 1]) for k in range(3)]
    )
    assert all(r["simulated_seconds"] > 0 for r in told[0])
    assert told[0][0]["dropped"]
    assert found[0]["start_seconds"] is not None  # though one of the first round never trained a batch
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["rounds"] == found[1]["rounds"]
    assert "simulated clock" in (tmp_path / "two" / "report.html").read_text()


def test_without_traces_nothing_is_simulated(make_job: MakeJob, tmp_path: Path) -> None:
    summary = run(make_job(with_coordinator=True), tmp_path / "run", in_process=True, as_json=True)
    assert not any("simulated" in key or key == "dropped" for key in summary["rounds"][0])
    assert "simulated" not in (tmp_path / "run" / "report.html").read_text()


def test_mistakes_in_the_job(make_job: MakeJob, tmp_path: Path) -> None:
    path = make_job(with_coordinator=True).folder / "job.yaml"
    traces = traced()
    del traces[CLIENTS[3]], traces[CLIENTS[7]]
    write_traces(tmp_path / "traces.json", traces, {})
    (tmp_path / "bad.json").write_text('{"format": "fedps.traces/1", "clients": {"7": {"speed": -1, "bandwidth": 1}}}')
    for settings, told in (
        (["simulation.traces=traces.json"], r"simulation\.traces: .*has no trace for client '3' and 1 more"),
        (["simulation.traces=bad.json"], r"simulation\.traces: .*client '7': speed: -1"),
        (["simulation.traces=none.json"], r"simulation\.traces: .*cannot be read"),
        (["simulation.traces=traces.json", "runner.with_coordinator=false"], r"set runner\.with_coordinator: true"),
        (
            ["simulation.traces=traces.json", "selector.over_selection=1.5"],
            r"selector\.over_selection: 1\.5: who reports",
        ),
        (["simulation.traces=7"], r"simulation\.traces: 7: must be a path"),
    ):
        with pytest.raises(JobError, match=told):
            load_job(path, settings)
