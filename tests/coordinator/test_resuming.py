"""A coordinator that is started again goes on where it was; a warm start knows what the run before had learned."""

import os
import sqlite3
import stat
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.config.sections.rounds import Simulation
from fedps.coordinator.resuming import STATE
from fedps.coordinator.selectors import AllClients, ClientSelectorBase
from fedps.errors import FedpsError, JobError
from fedps.simulation.traces import Trace, write_traces
from fedps.types import ClientId, ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, later, started, with_keys

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    made = make_job(epochs=9, with_coordinator=True, client_selector="round_robin", clients_per_round=1)
    return with_keys(made, worker_num=3)


class Remembers(AllClients):
    """Keeps what it is given, and gives back what it is told to."""

    kept: Any = None
    given: Any = None
    seen: Mapping[ClientId, Any] = {}

    def select(self) -> Any:
        self.seen = dict(self.history)
        return super().select()

    def state(self) -> Any:
        return self.kept

    def load_state(self, state: Any) -> None:
        if state == "bad":
            raise KeyError("rounds")
        self.given = state


def run(job: Job, folder: Path, rounds: int, selector: ClientSelectorBase | None = None) -> list[Caller]:
    """Let three clients go through some rounds, and leave the coordinator where it is."""
    coordinator = started(job, [], selector, folder)
    callers = [Caller(coordinator, name, f"process of {name}") for name in "abc"]
    for round_ in range(rounds):
        for caller in callers:
            trained = round_ > 0 and caller.told[-1].state == "JOIN"
            caller.report(round_, DONE if trained else ClientInfo(samples=5))
    return callers


def joined(callers: list[Caller]) -> list[list[int]]:
    return [[t.round for t in c.told if t.state == "JOIN"] for c in callers]


def test_a_restarted_coordinator_goes_on_with_the_round_and_the_selectors_state(job: Job, tmp_path: Path) -> None:
    assert joined(run(job, tmp_path, 2)) == [[1], [2], []]
    again = started(job, [], run_dir=tmp_path)
    a, b, c = (Caller(again, name, f"process of {name}") for name in "abc")
    assert again.round.number == 2
    a.report(2)
    c.report(1)  # the answer to it never came
    assert not a.told and [(t.round, t.state) for t in c.told] == [(2, "WAIT")]
    c.report(2)
    assert not a.told  # b trains still
    b.report(2, DONE)
    assert [[(t.round, t.state) for t in x.told][-1] for x in (a, b, c)] == [(3, "WAIT"), (3, "WAIT"), (3, "JOIN")]


def test_who_was_told_to_finish_before_hears_it_again(job: Job, tmp_path: Path) -> None:
    one = with_keys(job, epochs=1)
    run(one, tmp_path, 2)
    again = started(one, [], run_dir=tmp_path)
    for name in "abc":
        again.tick(later(0))
        assert not again.over, "the process before may have died before it told"
        caller = Caller(again, name, f"process of {name}")
        caller.report(1)
        assert [t.state for t in caller.told] == ["FINISH"]
        caller.connection.closed()
    assert again.over


def test_who_was_told_to_finish_and_heard_it_is_not_waited_for_longer_than_a_start_takes(
    job: Job, tmp_path: Path
) -> None:
    one = with_keys(job, epochs=1)
    run(one, tmp_path, 2)
    again = started(one, [], run_dir=tmp_path)
    patience = one.runner.reconnect_timeout + one.runner.start_timeout
    again.tick(later(patience - 1))
    assert not again.over
    again.tick(later(patience + 1))
    assert again.over and not again.members.abandoned


def test_new_processes_begin_with_round_1_and_the_history_stays_known(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 3)
    selector = Remembers(job)
    again = started(job, [], selector, tmp_path)
    callers = [Caller(again, name, "a new process") for name in "abc"]
    for caller in callers:
        caller.report(0)
    assert [t.round for c in callers for t in c.told] == [1, 1, 1]
    assert {c: [t.round for t in turns] for c, turns in selector.seen.items()} == {"a": [-2], "b": [-1]}
    assert selector.given == {"last": "c"}  # it has the name of the job's own


def test_a_warm_start_takes_up_history_and_state_of_the_run_before(job: Job, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "model" / "2").mkdir(parents=True)
    now.mkdir()
    run(job, before, 3)
    warm = with_keys(job, warmup_model_path=before / "model" / "2")
    coordinator = started(warm, [], run_dir=now)
    callers = [Caller(coordinator, name, "new") for name in "abc"]
    for caller in callers:
        caller.report(0)
    assert joined(callers) == [[1], [], []] and coordinator.round.number == 1  # c was last
    assert (now / STATE).is_file()
    other = started(with_keys(warm, client_selector="all"), [])
    first = Caller(other, "a")
    first.report(0)
    assert other.round.number == 0  # another selector begins without a state, and waits for the others


def simulated(job: Job, folder: Path) -> Job:
    """Return the job on devices that are on and off in turn, so that the time of day matters."""
    traces = {ClientId(name): Trace(1.0, 1.0, period=10.0, online=((k, k + 4.0),)) for k, name in enumerate("abc")}
    write_traces(folder / "traces.json", traces, {})
    return job.model_copy(update={"simulation": Simulation(traces=folder / "traces.json")})


def clocked(job: Job, folder: Path, restarts: bool, instances: str = "p") -> list[tuple[int, float, float]]:
    """Let three simulated clients go through six rounds, and return what the clock said of each."""
    events: Events = []
    folder.mkdir(exist_ok=True)
    coordinator = started(job, events, run_dir=folder)
    callers = [Caller(coordinator, name, f"{instances}{name}") for name in "abc"]
    for round_ in range(7):
        if restarts and round_ in (2, 5):
            coordinator = started(job, events, run_dir=folder)
            told = [caller.told for caller in callers]
            callers = [Caller(coordinator, name, f"{instances}{name}") for name in "abc"]
            for caller, before in zip(callers, told, strict=True):
                caller.replies.extend(before)
        for caller, took in zip(callers, (3.5, 1.25, 2.5), strict=True):
            joins = round_ > 0 and caller.told[-1].state == "JOIN"
            info = ClientInfo(samples=5, trained=5, seconds=took, loss=0.5)
            caller.report(round_, info if joins else ClientInfo(samples=5))
    return [(e["round"], e["seconds"], e["clock"]) for e in events if e["event"] == "clock"]


def test_a_simulated_clock_goes_on_after_restarts(job: Job, tmp_path: Path) -> None:
    through = clocked(simulated(job, tmp_path), tmp_path / "one", restarts=False)
    assert [round_ for round_, _, _ in through] == [1, 2, 3, 4, 5, 6] and through[-1][2] > 6 * 1.25
    assert clocked(simulated(job, tmp_path), tmp_path / "two", restarts=True) == through


def test_a_simulated_clock_begins_anew_with_new_processes(job: Job, tmp_path: Path) -> None:
    first = clocked(simulated(with_keys(job, client_selector="all"), tmp_path), tmp_path / "run", restarts=False)
    again = clocked(
        simulated(with_keys(job, client_selector="all"), tmp_path), tmp_path / "run", restarts=False, instances="q"
    )
    assert first == again and first[0][0] == 1


def test_a_selector_without_a_state_is_not_given_one(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 2, Remembers(job))
    selector = Remembers(job)
    started(job, [], selector, tmp_path)
    assert selector.given is None


@pytest.mark.parametrize("kept", [{"a": object()}, float("nan"), {1, 2}])
def test_a_state_that_json_has_not_stops_the_run(job: Job, tmp_path: Path, kept: Any) -> None:
    selector = Remembers(job)
    selector.kept = kept
    coordinator = run(job, tmp_path, 1, selector)[0].coordinator
    assert isinstance(coordinator.failure, FedpsError) and "Remembers.state()" in str(coordinator.failure)
    assert rows(tmp_path, "SELECT number FROM rounds") == [(0,)]


def test_a_state_that_is_not_taken_up_is_an_error(job: Job, tmp_path: Path) -> None:
    selector = Remembers(job)
    selector.kept = "bad"
    run(job, tmp_path, 2, selector)
    with pytest.raises(JobError, match=r"Remembers.load_state\(\): KeyError: 'rounds'; remove coordinator.db"):
        started(job, [], Remembers(job), tmp_path)


def rows(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / STATE)) as db:
        return db.execute(query).fetchall()


def test_a_folder_that_cannot_be_written_is_named_before_anybody_waits(job: Job, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nowhere/coordinator.lock: cannot be written: No such file"):
        started(job, [], run_dir=tmp_path / "nowhere")


def test_what_is_kept_of_rounds_is_the_last_few_and_the_first_and_all_turns(job: Job, tmp_path: Path) -> None:
    run(with_keys(job, client_selector="all", epochs=40), tmp_path, 33)
    assert [n for (n,) in rows(tmp_path, "SELECT number FROM rounds")] == [0, 30, 31, 32, 33]
    assert rows(tmp_path, "SELECT count(*) FROM turns") == [(3 * 32,)]
    assert max(size for (size,) in rows(tmp_path, "SELECT length(state) FROM rounds")) < 1000


def test_only_the_owner_may_read_what_is_kept_whatever_the_umask(job: Job, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        run(job, tmp_path, 3)
    finally:
        os.umask(umask)
    files = [path for path in tmp_path.iterdir() if path.name.startswith("coordinator")]
    assert len(files) == 4 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_the_turns_of_a_run_begun_anew_twice_are_counted_from_its_last_beginning(job: Job, tmp_path: Path) -> None:
    for instance in ("first", "second"):
        coordinator = started(job, [], run_dir=tmp_path)
        callers = [Caller(coordinator, name, instance) for name in "abc"]
        for round_ in range(4):
            for caller in callers:
                caller.report(round_, DONE if round_ and caller.told[-1].state == "JOIN" else ClientInfo(samples=5))
    selector = Remembers(job)
    again = started(job, [], selector, tmp_path)
    for caller in [Caller(again, name, "third") for name in "abc"]:
        caller.report(0)
    assert {c: [t.round for t in turns] for c, turns in selector.seen.items()} == {
        "a": [-7, -1],
        "b": [-6, -3],
        "c": [-5, -2],
    }


OLD = (
    '{"round":2,"members":{"a":{"instance":"process of a","assignment":{"type":"Assignment","round":2,"state":"WAIT"}}},'
    '"history":{"a":[[1,5,1.0,0.5,null,false,false]]},"selector":"round_robin","state":{"last":"a"}}'
)


def test_a_state_that_an_earlier_version_wrote_is_taken_up_by_a_warm_start(job: Job, tmp_path: Path) -> None:
    (tmp_path / "model" / "2").mkdir(parents=True)
    (tmp_path / "coordinator.json").write_text(OLD)
    selector = Remembers(job)
    warm = started(with_keys(job, warmup_model_path=tmp_path / "model" / "2"), [], selector)
    for caller in [Caller(warm, name) for name in "abc"]:
        caller.report(0)
    assert [t.round for t in selector.seen[ClientId("a")]] == [-1] and selector.given == {"last": "a"}


def test_a_state_that_an_earlier_version_wrote_is_taken_over_once(job: Job, tmp_path: Path) -> None:
    (tmp_path / "coordinator.json").write_text(OLD)
    (tmp_path / "turns.jsonl").write_text('["b",[2,5,1.0,0.5,null,false,false]]\n["c",[2,')  # cut off by a power cut
    for _ in range(2):
        selector = Remembers(job)
        again = started(job, [], selector, tmp_path)
        assert again.round.number == 2 and selector.given == {"last": "a"}
        assert {c: [t.round for t in ts] for c, ts in again._planner.history.turns.items()} == {"a": [1], "b": [2]}
        assert not [path for path in tmp_path.iterdir() if path.suffix in (".json", ".jsonl")]
    a = Caller(again, "a", "process of a")
    a.report(1)
    assert [(t.round, t.state) for t in a.told] == [(2, "WAIT")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"round": "three"}', '{"round": 1}'])
def test_an_earlier_versions_file_that_is_none_of_ours(job: Job, tmp_path: Path, text: str) -> None:
    (tmp_path / "coordinator.json").write_text(text)
    with pytest.raises(JobError, match=r"coordinator.json: is no coordinator's state: .*; put a copy of it back, or"):
        started(job, [], run_dir=tmp_path)


def test_a_state_that_does_not_come_in_time_stops_the_run(job: Job, tmp_path: Path) -> None:
    over = threading.Event()

    class Hangs(Remembers):
        def state(self) -> Any:
            over.wait(30)

    try:
        hasty = with_keys(job, selector={"timeout": 0.05})
        coordinator = run(hasty, tmp_path, 1, Hangs(hasty))[0].coordinator
        assert "Hangs.state() has not answered within 0.05 s in round 1" in str(coordinator.failure)
    finally:
        over.set()
