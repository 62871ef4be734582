"""A coordinator that is started again goes on where it was; a warm start knows what the run before had learned."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.config.job import Simulation
from fedps.coordinator.resuming import FILE
from fedps.coordinator.selectors import AllClients, ClientSelectorBase
from fedps.coordinator.simulated import make_coordinator
from fedps.errors import FedpsError, JobError
from fedps.simulation.traces import Trace, write_traces
from fedps.types import ClientId, ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, started, with_keys
from tests.events.kept import into

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
    assert again.round == 2
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
    callers = [Caller(again, name, f"process of {name}") for name in "abc"]
    for caller in callers:
        caller.report(1)
        assert [t.state for t in caller.told] == ["FINISH"]
        caller.connection.closed()
    assert again.over


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
    assert joined(callers) == [[1], [], []] and coordinator.round == 1  # c was last
    assert (now / FILE).is_file()
    other = started(with_keys(warm, client_selector="all"), [])
    first = Caller(other, "a")
    first.report(0)
    assert other.round == 0  # another selector begins without a state, and waits for the others


def simulated(job: Job, folder: Path) -> Job:
    """Return the job on devices that are on and off in turn, so that the time of day matters."""
    traces = {ClientId(name): Trace(1.0, 1.0, period=10.0, online=((k, k + 4.0),)) for k, name in enumerate("abc")}
    write_traces(folder / "traces.json", traces, {})
    return job.model_copy(update={"simulation": Simulation(traces=folder / "traces.json")})


def clocked(job: Job, folder: Path, restarts: bool, instances: str = "p") -> list[tuple[int, float, float]]:
    """Let three simulated clients go through six rounds, and return what the clock said of each."""
    events: Events = []
    folder.mkdir(exist_ok=True)
    coordinator = make_coordinator(job, into(events), io.StringIO(), run_dir=folder)
    callers = [Caller(coordinator, name, f"{instances}{name}") for name in "abc"]
    for round_ in range(7):
        if restarts and round_ in (2, 5):
            coordinator = make_coordinator(job, into(events), io.StringIO(), run_dir=folder)
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
    assert not (tmp_path / FILE).exists()


def test_a_state_that_is_not_taken_up_is_an_error(job: Job, tmp_path: Path) -> None:
    selector = Remembers(job)
    selector.kept = "bad"
    run(job, tmp_path, 2, selector)
    with pytest.raises(JobError, match=r"Remembers.load_state\(\): KeyError: 'rounds'; remove coordinator.json"):
        started(job, [], Remembers(job), tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"round": "three"}', '{"round": 1}'])
def test_a_file_that_is_none_of_ours(job: Job, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(JobError, match=r"is no coordinator's state: .*; remove it to begin without"):
        started(job, [], run_dir=tmp_path)


def test_a_folder_that_cannot_be_written_stops_the_run(job: Job, tmp_path: Path) -> None:
    coordinator = run(job, tmp_path / "nowhere", 1)[0].coordinator
    assert isinstance(coordinator.failure, FedpsError) and "cannot be written: No such file" in str(coordinator.failure)


def test_the_old_state_stays_whole_while_a_new_one_is_written_and_nothing_else_is_left(
    job: Job, tmp_path: Path
) -> None:
    run(job, tmp_path, 1)
    first = (tmp_path / FILE).read_bytes()
    run(job, tmp_path, 3)
    assert (tmp_path / FILE).read_bytes() != first
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("coord")] == [FILE]
